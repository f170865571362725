"""Does it help a causal model to begin with another objective, and a masked one?

Of each pair of arms one is trained with its own objective throughout; the others spend the first quarter of their steps
with another one. The schedule of the learning rate goes on over the switch.

Two figures decide. For bits per byte read the arms that end causal: a difference below 0 says that the first quarter
was better spent otherwise. For nats per hidden token read the arms that end masked. An arm that ends with the other
objective has forgotten part of what it is asked there, which is no fault of its beginning.

    python launch.py study --experiment=experiments/objective_switch.py

15 runs of about 40 seconds each on two cores.
"""

from gpt2jax.studies import Study, arm, chain


def get_study() -> Study:
    def switch(first: str, last: str) -> dict:
        return {'objective.kind': first, 'objective.switch': f'{last}@100'}

    return Study(
        base='configs/laptop.py',
        changes={'training.steps': 400, 'optimizer.warmup_steps': 40, 'evaluation.every': 100},
        arms=chain(
            arm('causal', {'objective.kind': 'causal'}),
            arm('masked, then causal', switch('masked', 'causal')),
            arm('hybrid, then causal', switch('hybrid', 'causal')),
            arm('masked', {'objective.kind': 'masked'}),
            arm('causal, then masked', switch('causal', 'masked')),
        ),
        decide=('bits_per_byte', 'masked_nats'),
        show=('masked_accuracy',),
    )
