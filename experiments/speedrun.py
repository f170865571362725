"""Which modern change brings a small GPT-2 to a fixed loss soonest, in seconds?

The baseline is GPT-2's block and AdamW. Each arm changes one thing: rotary positions, a norm on queries and keys,
squared ReLU, Muon, last matrices of the branches that start at zero, a soft cap on the logits. The last arm has all of
them. The goal is 2.7 bits per byte on 128 rows of the held-out plays, looked at every 50 steps; what was spent when it
is crossed is read between two evaluations. (With 2.6, tried first, most runs of the baseline did not get there.)

Read the seconds to the goal, less is better, and beside them tokens and FLOPs: a change may need fewer steps and yet
more time. Seconds are those of training alone, of runs made one after the other on the same cores; another machine has
other ones. All arms have the learning rate of the recipe: one that wants another rate is at a disadvantage. The goal is
reached early in training: what wins here need not win at the end.

    python launch.py study --experiment=experiments/speedrun.py

24 runs of about a minute each on two cores that do nothing else.
"""

from gpt2jax.studies import Study, arm, chain

CHANGES = {
    'rotary': {'model.position.kind': 'rotary'},
    'QK-norm': {'model.attention.qk_norm': True},
    'relu2': {'model.feedforward.kind': 'relu2'},
    'Muon': {'optimizer.kind': 'muon'},
    'zero init': {'model.init.residual': 'zero'},
    'soft cap': {'model.head.softcap': 15.0},
}


def get_study() -> Study:
    together = {key: value for changes in CHANGES.values() for key, value in changes.items()}
    return Study(
        base='configs/laptop.py',
        changes={
            'training.steps': 400,
            'optimizer.warmup_steps': 40,
            'evaluation.every': 50,
            'evaluation.num_rows': 128,
        },
        arms=chain(
            arm('GPT-2'),
            *(arm(name, changes) for name, changes in CHANGES.items()),
            arm('all of them', together),
        ),
        goal=('bits_per_byte', 2.7),
        decide=('seconds_to_goal',),
        show=('tokens_to_goal', 'flops_to_goal', 'bits_per_byte'),
    )
