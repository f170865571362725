"""Models: from an Example to hidden states and logits. A new architecture is one file and its name here."""

from gpt2jax.models.transformer import Transformer

ARCHITECTURES = {'transformer': Transformer}


def make_model(config, constrain=None):
    """The model that `config.model` names, as pure functions (init, apply, head, init_carry).

    Args:
      constrain: where activations live between two blocks (gpt2jax.sharding.constrain_rows).
    """
    return ARCHITECTURES[config.architecture](config, constrain)
