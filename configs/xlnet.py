"""An XLNet at laptop size (Yang et al. 2019): configs/transformer_xl.py with a second stream and a random order.

    python launch.py train --config=configs/xlnet.py --workdir=runs/xlnet
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
    'model.norm.placement': 'post',
    'model.norm.epsilon': 1e-12,
    'model.feedforward.kind': 'gelu',
    'model.head.bias': True,
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
    return recipe(XLNET, argument)
