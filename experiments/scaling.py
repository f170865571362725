"""How does the loss of a small GPT-2 fall with its parameters and with the tokens that it reads?

Models of two layers and width 8 to 128, each trained with several budgets of FLOPs: every size reads what its budget
pays for, and every run has a whole schedule of its own, as Hoffmann et al. (2022) advise. From their last losses the
law L(N, D) = E + A / N^alpha + B / D^beta is fitted, and at each budget a parabola over the sizes. muP lets one
learning rate serve all widths. 6e-3 lies between the best of three at width 64 (8e-3, in runs of 300 steps) and the
better of two at width 128 (4e-3, in runs of 225 steps).

Read the intervals before the numbers. The text has 1.7 million tokens of training, and the longest runs read it
twice: what the law says of longer runs supposes more text, not more epochs. It holds for this text, tokenizer, depth,
batch and schedule, with one seed a run, and says nothing about models that one would use.

    python launch.py study --experiment=experiments/scaling.py

22 runs, about a quarter of an hour together on one idle core.
"""

from gpt2jax.studies import Study, arm, budgets, chain, product


def get_study() -> Study:
    w8, w16, w32, w64, w96, w128 = (
        arm(f'width {width}', {'model.width': width, 'model.attention.num_heads': max(1, width // 32)})
        for width in (8, 16, 32, 64, 96, 128)
    )
    return Study(
        base='configs/laptop.py',
        changes={
            'model.parametrization.kind': 'mup',
            'model.parametrization.base_width': 64,
            'model.parametrization.base_head_width': 32,
            'model.init.std': 0.08,
            'optimizer.learning_rate': 6e-3,
            'evaluation.every': 0,
        },
        arms=chain(
            product(chain(w8, w16, w32, w64, w96), budgets('flops', 2.5e11)),
            product(chain(w16, w32, w64, w96, w128), budgets('flops', 5e11)),
            product(chain(w16, w32, w64, w96, w128), budgets('flops', 1e12)),
            product(chain(w32, w64, w96, w128), budgets('flops', 2e12)),
            product(chain(w64, w96, w128), budgets('flops', 4e12)),
        ),
        match=(),
        seeds=(0,),
        decide=('nats_per_token',),
        show=('bits_per_byte',),
    )
