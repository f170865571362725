"""Models: from an Example to hidden states and logits. A new architecture is one file and its name here."""

from gpt2jax.models.transformer import Transformer

ARCHITECTURES = {'transformer': Transformer}


def make_model(config):
    """The model that `config.model` names, as pure functions (init, apply, head, init_carry)."""
    return ARCHITECTURES[config.architecture](config)
