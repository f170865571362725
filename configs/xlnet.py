"""An XLNet at laptop size (Yang et al. 2019): configs/transformer_xl.py with a second stream and a drawn order.

    python launch.py train --config=configs/xlnet.py --workdir=runs/xlnet

The same data, tokens, sizes, memory and batch as the Transformer-XL there and the GPT-2 of configs/laptop.py, so that
the three can be compared. What differs: a sixth of the tokens is predicted (K = 6, section 2.3), in spans of 1 to 5, by
queries in a drawn order, where the other two predict all; heads have no biases. So a step takes 0.79 times the FLOPs of
that GPT-2 (full attention map), and teaches less of the text: for equal tokens expect worse bits per byte, which are
those of the order of the text.

In runs of half as many steps, with a schedule of that length (docs/studies/history.md), three seeds had 4.621 nats per
token in the drawn order, from 4.583 to 4.683, and 2.783 bits per byte of the held-out plays, from 2.770 to 2.802; that
GPT-2 had 2.241 of these.

Tried, in runs of 300 steps with a decay of their own, nats per token in the drawn order: pre-norm at 1e-3 5.48 and at
2e-3 6.00; post-norm, as the paper has it, at 5e-4 5.83, at 1e-3 5.63 and at 2e-3 5.95. Only a run with
model.norm.placement=post can be exported to transformers.
"""

from gpt2jax.config import recipe

XLNET = {
    'data.tokenizer': 'bpe:2048',
    'data.length': 128,
    'data.order': 'contiguous',
    'objective.kind': 'permutation',
    'objective.rate': 1 / 6,
    'objective.mean_span': 3.0,
    'objective.max_span': 5,
    'model.architecture': 'xlnet',
    'model.memory_length': 128,
    'model.num_layers': 2,
    'model.width': 256,
    'model.position.kind': 'relative',
    'model.position.segments': True,
    'model.attention.num_heads': 4,
    'model.attention.bias': False,
    'model.feedforward.kind': 'gelu',
    'model.head.bias': True,
    'model.init.std': 0.04,
    'training.batch_size': 8,
    'training.steps': 2400,
    'optimizer.learning_rate': 1e-3,
    'optimizer.warmup_steps': 150,
    'evaluation.every': 600,
    'evaluation.batch_size': 32,
    'checkpoint.every_minutes': 0.5,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(XLNET, argument)
