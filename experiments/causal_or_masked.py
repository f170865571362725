"""Causal or masked: which objective makes the better language model of the same block, text and budget?

GPT-2 predicts every next token. BERT predicts 15 % of the tokens, which are hidden, from both sides. The hybrid does
one or the other, row by row. The prefix model reads the beginning of a document from both sides and predicts the rest.
All have the same block, the same rows in the same order, and read as many tokens.

No likelihood is defined for all arms. Bits per byte is exact for what predicts from left to right: GPT-2, the prefix
model and the causal side of the hybrid. Nats per hidden token are for what fills blanks: BERT and the masked side of
the hybrid. The two do not compare with each other: a hidden token is predicted with more around it.

Three figures compare all arms. Cloze: which of several words stood in a gap of a held-out scene. Fine-tuning: how well
the model, trained on, tells praise from blame in sentences of film reviews (Pang & Lee 2005). BLiMP (Warstadt et al.
2020): which of two sentences is grammatical; it is measured where its files are in ~/.cache/gpt2jax/blimp (the folder
`data` of github.com/alexwarstadt/blimp), ten pairs of each paradigm. Where a figure is near chance for all arms, it
tells none of them apart: models of minutes on Shakespeare know little of film reviews or of grammar tests.

Equal tokens favour objectives that predict many of them: BERT learns from 15 % of what it reads. Read the column of
predicted tokens with that in mind; it is read off the curves.

    python launch.py study --experiment=experiments/causal_or_masked.py

12 runs of about two minutes each on two cores, and about a minute each of measuring.
"""

from pathlib import Path

from gpt2jax.studies import Study, arm, chain

BLIMP = Path('~/.cache/gpt2jax/blimp').expanduser()
POLARITY = 'finetune:polarity,steps=40,rates=1e-3+3e-3'


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
        suites=('cloze', 'last_word', POLARITY, *([f'blimp:{BLIMP},limit=10'] if BLIMP.is_dir() else [])),
        decide=(
            'bits_per_byte',
            'masked_nats',
            'cloze_accuracy',
            'finetune_polarity_accuracy',
            *(['blimp_accuracy'] if BLIMP.is_dir() else []),
        ),
        show=('masked_accuracy', 'last_word_accuracy'),
    )
