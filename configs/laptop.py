"""A GPT-2 that learns Shakespeare on two CPU cores in about four minutes: the main job.

    python launch.py

Two layers, width 256, four heads, length 128, a byte-level BPE of 2048 tokens: the best of the sizes, batches and
learning rates tried in runs of 110 seconds (docs/laptop.md), here trained for about 200. Expect about 2.15 bits per
byte on Twelfth Night and Macbeth: 2.146 was measured with this recipe and its seed.
"""

from gpt2jax.config import recipe

LAPTOP = {
    'data.tokenizer': 'bpe:2048',
    'data.length': 128,
    'model.num_layers': 2,
    'model.width': 256,
    'model.attention.num_heads': 4,
    'model.init.std': 0.04,
    'training.batch_size': 8,
    'training.steps': 2400,
    'optimizer.learning_rate': 2e-3,
    'optimizer.warmup_steps': 150,
    'evaluation.every': 600,
    'evaluation.batch_size': 32,
    'checkpoint.every_minutes': 0.5,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(LAPTOP, argument)
