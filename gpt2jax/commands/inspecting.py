"""`launch.py prepare` and `launch.py describe`: what can be seen before anything is trained."""

from gpt2jax.commands.runs import console, prepare_data
from gpt2jax.config import default_config
from gpt2jax.describe import print_description
from gpt2jax.validation import resolve


def prepare(config) -> None:
    """Builds the corpus and the tokens of a config, and says where they are."""
    prepared = prepare_data(resolve(config))
    console.print(prepared.description)


def describe(config) -> None:
    """Prints what a config would run."""
    print_description(resolve(config), default_config(), console)
