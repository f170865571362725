"""Models: from an Example to hidden states and logits. A new architecture is one file and its name here."""

from gpt2jax.models.encoder_decoder import EncoderDecoder
from gpt2jax.models.lstm import LSTM
from gpt2jax.models.transformer import Transformer
from gpt2jax.models.transformer_xl import TransformerXL
from gpt2jax.models.xlnet import XLNet
from gpt2jax.placement import ALONE, Placement

ARCHITECTURES = {
    'transformer': Transformer,
    'encoder_decoder': EncoderDecoder,
    'transformer_xl': TransformerXL,
    'xlnet': XLNet,
    'lstm': LSTM,
}


def make_model(config, placement: Placement = ALONE):
    """The model that `config.model` names, as pure functions (init, gather, apply, head, init_carry).

    Args:
      placement: where it runs; by default on one device.
    """
    return ARCHITECTURES[config.architecture](config, placement)
