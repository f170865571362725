"""Causal or masked: which objective makes the better language model of the same block, text and budget?

GPT-2 predicts every next token. BERT predicts 15 % of the tokens, which are hidden, from both sides. The hybrid does
one or the other, row by row. The prefix model reads the beginning of a document from both sides and predicts the rest.
All have the same block, the same rows in the same order, and read as many tokens.

Two figures decide, since no figure is defined for all arms. Bits per byte is a likelihood, exact for what predicts from
left to right: GPT-2, the prefix model and the causal side of the hybrid. Nats per hidden token are for what fills
blanks: BERT and the masked side of the hybrid. The two do not compare with each other: a hidden token is predicted
with more around it.

Equal tokens favour objectives that predict many of them: BERT learns from 15 % of what it reads. Read the column of
predicted tokens with that in mind; it is read off the curves.

    python launch.py study --experiment=experiments/causal_or_masked.py

12 runs of about three minutes each on two cores.
"""

from gpt2jax.studies import Study, arm, chain


def get_study() -> Study:
    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 1800, 'optimizer.warmup_steps': 110, 'evaluation.every': 150},
        arms=chain(
            arm('GPT-2', {'objective.kind': 'causal'}),
            arm('BERT', {'objective.kind': 'masked'}),
            arm('hybrid', {'objective.kind': 'hybrid'}),
            arm('prefix', {'objective.kind': 'prefix'}),
        ),
        decide=('bits_per_byte', 'masked_nats'),
        show=('masked_accuracy',),
    )
