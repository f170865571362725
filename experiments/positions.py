"""How should a small GPT-2 know where a token stands?

The arms are learned positions (GPT-2), rotary, ALiBi, T5's buckets, none at all (causal attention alone tells a token
how many come before it), and the sinusoids of 2017, with embeddings scaled as there. Rows are 128 tokens in training.
Evaluation is made at the same length, and at twice it: a table of learned positions ends there, so that arm has no such
figure. Longer rows also give the tokens more to be predicted from: compare arms at one length, not one arm at two.

Read the differences to learned positions. Rotary turns queries and keys at every layer, which costs time and hardly any
arithmetic that is counted: the column of seconds says whether it pays.

    python launch.py study --experiment=experiments/positions.py

18 runs of about 40 seconds each on two cores.
"""

from gpt2jax.studies import Study, arm, chain, param


def get_study() -> Study:
    kinds = ('learned', 'rotary', 'alibi', 't5', 'none')
    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 400, 'optimizer.warmup_steps': 40, 'evaluation.every': 100},
        arms=chain(
            param('model.position.kind', *kinds, names=kinds),
            # Sines are 1 high: they would drown embeddings as small as they begin.
            arm('sinusoidal', {'model.position.kind': 'sinusoidal', 'model.embedding.scale': True}),
        ),
        suites=('length:256',),
        decide=('bits_per_byte', 'bits_per_byte_at_256'),
    )
