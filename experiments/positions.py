"""How should a small GPT-2 know where a token stands?

The arms are learned positions (GPT-2), the sinusoids of 2017, rotary, ALiBi, T5's buckets, and none at all: causal
attention alone tells a token how many come before it. Rows are 128 tokens, and evaluation has the same length: nothing
is said about texts that are longer than those of training.

Read the differences to learned positions. Rotary turns queries and keys at every layer, which costs time and hardly any
arithmetic that is counted: the column of seconds says whether it pays.

    python launch.py study --experiment=experiments/positions.py

18 runs of about two minutes each on two cores.
"""

from gpt2jax.studies import Study, param


def get_study() -> Study:
    kinds = ('learned', 'sinusoidal', 'rotary', 'alibi', 't5', 'none')
    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 1200, 'optimizer.warmup_steps': 75, 'evaluation.every': 100},
        arms=param('model.position.kind', *kinds, names=kinds),
    )
