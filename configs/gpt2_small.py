"""GPT-2 124M (Radford et al. 2019, table 2)."""

from gpt2jax.config import recipe


def get_config(argument: str = ''):
    """See the docstring of the file."""
    return recipe({}, argument)
