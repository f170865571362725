"""How should a small GPT-2 know where a token stands?

The arms are learned positions (GPT-2), the sinusoids of 2017, rotary, ALiBi, T5's buckets, and none at all: causal
attention alone tells a token how many come before it. Rows are 128 tokens in training. Evaluation is made at the same
length, and at twice it: a table of learned positions ends there, so that arm has no such figure. Longer rows also give
the tokens more to be predicted from: compare arms at one length, not one arm at two.

The sinusoids are 1 high, and are added to embeddings that begin at 0.04 and are not scaled by the root of the width, as
those of 2017 were. So that arm is a warning about one config line, and says nothing about the model of 2017.

Read the differences to learned positions. Rotary turns queries and keys at every layer, which costs time and hardly any
arithmetic that is counted: the column of seconds says whether it pays.

    python launch.py study --experiment=experiments/positions.py

18 runs of about 40 seconds each on two cores.
"""

from gpt2jax.studies import Study, param


def get_study() -> Study:
    kinds = ('learned', 'sinusoidal', 'rotary', 'alibi', 't5', 'none')
    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 400, 'optimizer.warmup_steps': 40, 'evaluation.every': 100},
        arms=param('model.position.kind', *kinds, names=kinds),
        suites=('length:256',),
        decide=('bits_per_byte', 'bits_per_byte_at_256'),
    )
