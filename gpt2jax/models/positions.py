"""Position encodings. A new one is a class here and its name in POSITIONS.

An encoding says what it adds to the token embedding; those that act inside attention will say that here as well.

Axes: B batch, L length, D width.
"""

import flax.linen as nn
from jax import Array


class Learned(nn.Module):
    """GPT-2's and BERT's: a vector a position, learned."""

    max_length: int
    std: float

    @nn.compact
    def __call__(self, x_BLD: Array, position_BL: Array) -> Array:
        shape = (self.max_length, x_BLD.shape[-1])
        table = self.param('embedding', nn.initializers.normal(self.std), shape)
        return x_BLD + table[position_BL].astype(x_BLD.dtype)


class NoPosition(nn.Module):
    """Nothing is added: a causal model can still count (Kazemnejad et al. 2023)."""

    max_length: int
    std: float

    @nn.compact
    def __call__(self, x_BLD: Array, position_BL: Array) -> Array:
        return x_BLD


POSITIONS = {'learned': Learned, 'none': NoPosition}


def make_position(config, std: float, name: str) -> nn.Module:
    """The encoding that `config.model.position` names."""
    return POSITIONS[config.kind](max_length=config.max_length, std=std, name=name)
