"""How many tokens should a masked model hide in training?

BERT hides 15 %. More hidden tokens are more to learn from in every row, and less to learn it with. One arm begins at
40 % and falls to 15 %. All are evaluated with 15 % hidden, however they were trained, so that the figures compare.

Read the differences to 15 %. The arms read as many tokens but predict different numbers: the column of predicted tokens
asks what each learns from as many predictions, read off the curves. Evaluation at 15 % favours arms that train near it;
an arm that wins nevertheless does so for good reason. These runs are short: what holds for minutes need not hold for
days.

    python launch.py study --experiment=experiments/masking_rate.py

15 runs of about a minute each on two cores.
"""

from gpt2jax.studies import Study, arm, chain, param


def get_study() -> Study:
    return Study(
        base='configs/laptop.py:objective=masked',
        changes={
            'training.steps': 600,
            'optimizer.warmup_steps': 60,
            'evaluation.every': 150,
            'evaluation.rate': 0.15,
        },
        arms=chain(
            param('objective.rate', 0.15, 0.08, 0.3, 0.5, names=('15 %', '8 %', '30 %', '50 %')),
            arm('40 % to 15 %', {'objective.start_rate': 0.4, 'objective.rate': 0.15}),
        ),
        decide=('masked_nats',),
        show=('masked_accuracy',),
    )
