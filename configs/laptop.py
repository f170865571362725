"""draft"""

from gpt2jax.config import recipe

LAPTOP = {
    'data.tokenizer': 'bpe:4096',
    'data.length': 256,
    'model.num_layers': 4,
    'model.width': 256,
    'model.attention.num_heads': 4,
    'training.batch_size': 16,
    'training.steps': 600,
    'training.log_every': 5,
    'optimizer.learning_rate': 2e-3,
    'optimizer.warmup_steps': 50,
    'evaluation.every': 200,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(LAPTOP, argument)
