"""Which optimizer trains a small GPT-2 best, each with its own learning rate?

AdamW, Adafactor, Lion, Muon and schedule-free AdamW. An optimizer with a badly chosen learning rate says nothing, so
each first tries three, with a seed that is not used again, and keeps the best. Lion's are lower, with more weight
decay, as its authors advise; schedule-free averages instead of decaying, and has a constant rate.

Read the differences to AdamW, and the table of what was tried: where the best rate is the first or the last one, a
better one may lie beyond, and the arm has not had its best. Muon spends more arithmetic on a step than is counted here,
which is that of the model alone: for optimizers the column of seconds is the honest one.

    python launch.py study --experiment=experiments/optimizers.py

15 runs that tune and 15 that count, about 40 seconds each on two cores.
"""

from gpt2jax.studies import Study, arm, chain, param


def get_study() -> Study:
    rates = param('optimizer.learning_rate', 1e-3, 2e-3, 4e-3)
    low_rates = param('optimizer.learning_rate', 1e-4, 2e-4, 4e-4)
    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 400, 'optimizer.warmup_steps': 40, 'evaluation.every': 100},
        arms=chain(
            arm('AdamW', {'optimizer.kind': 'adamw'}),
            arm('Adafactor', {'optimizer.kind': 'adafactor'}),
            arm('Lion', {'optimizer.kind': 'lion', 'optimizer.weight_decay': 0.5}),
            arm('Muon', {'optimizer.kind': 'muon'}),
            arm('schedule-free', {'optimizer.kind': 'schedule_free', 'optimizer.schedule': 'constant'}),
        ),
        tune={'AdamW': rates, 'Adafactor': rates, 'Lion': low_rates, 'Muon': rates, 'schedule-free': rates},
    )
