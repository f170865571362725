"""Which norm and which activation should the block of a small GPT-2 have?

The arms are LayerNorm or RMSNorm, each with GELU (GPT-2) or the gated SwiGLU, whose width is two thirds so that the
parameters are as many. Everything else is the laptop recipe at a quarter of its length.

Read the differences to GPT-2's own block (LayerNorm, GELU). An arm whose 95 % interval does not reach 0 differs at this
size and budget, on this text; nothing is said about larger models. SwiGLU does about the same arithmetic but may take
longer: the column of seconds says whether it still pays.

    python launch.py study --experiment=experiments/norm_and_activation.py

12 runs of about one minute each on two cores.
"""

from gpt2jax.studies import Study, param, product


def get_study() -> Study:
    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 600, 'optimizer.warmup_steps': 60, 'evaluation.every': 150},
        arms=product(
            param('model.norm.kind', 'layernorm', 'rmsnorm', names=('LayerNorm', 'RMSNorm')),
            param('model.feedforward.kind', 'gelu_tanh', 'swiglu', names=('GELU', 'SwiGLU')),
        ),
    )
