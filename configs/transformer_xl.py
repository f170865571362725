"""A Transformer-XL at laptop size (Dai et al. 2019): configs/laptop.py with a memory of the row before.

    python launch.py train --config=configs/transformer_xl.py --workdir=runs/transformer_xl

The same data, tokens, sizes and optimizer as the GPT-2 of configs/laptop.py, so that the two can be compared. What
differs: rows go on where those of the step before ended, each layer reads 128 hidden states of them, and positions are
told by distance. A layer has one more matrix for these, and its attention twice as many keys: 1.23 times the FLOPs of
that GPT-2 (full attention map).

In runs of half as many steps, with a schedule of that length (docs/studies/history.md), three seeds had 2.176 bits per
byte of the held-out plays, from 2.174 to 2.178; that GPT-2 had 2.241.
"""

from gpt2jax.config import recipe

TRANSFORMER_XL = {
    'data.tokenizer': 'bpe:2048',
    'data.length': 128,
    'data.order': 'contiguous',
    'model.architecture': 'transformer_xl',
    'model.memory_length': 128,
    'model.num_layers': 2,
    'model.width': 256,
    'model.position.kind': 'relative',
    'model.attention.num_heads': 4,
    'model.init.std': 0.04,
    'training.batch_size': 8,
    'training.steps': 2400,
    'optimizer.learning_rate': 2e-3,
    'optimizer.warmup_steps': 150,
    'evaluation.every': 600,
    'evaluation.batch_size': 16,
    'checkpoint.every_minutes': 0.5,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(TRANSFORMER_XL, argument)
