"""The position-wise feed-forward network. A new activation is one entry in ACTIVATIONS.

Axes: B batch, L length, D width, F feed-forward width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.linear import Linear


def gelu_tanh(x: Array) -> Array:
    """GPT-2's approximation of GELU (Hendrycks & Gimpel 2016, section 2).

    0.5 * (1 + tanh(u)) is written as the logistic function of 2u, the same function at less cost.
    """
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x * jax.nn.sigmoid(2 * u)


def gelu(x: Array) -> Array:
    """x * Phi(x), exactly: BERT's (Hendrycks & Gimpel 2016, section 2)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {
    'gelu_tanh': gelu_tanh,
    'gelu': gelu,
    'relu': lambda x: jnp.maximum(x, 0),
    'relu2': lambda x: jnp.square(jnp.maximum(x, 0)),  # So et al. 2021, section 4
    'swiglu': jax.nn.silu,
    'geglu': gelu,
}
GATED = ('swiglu', 'geglu')  # the activation is of a second matrix, and gates the first (Shazeer 2020, section 2)


class FeedForward(nn.Module):
    """Two linear maps with an activation between them (Vaswani et al. 2017, section 3.3), or three with a gate.

    Attributes:
      config: `config.model.feedforward`.
      width: D of input and output.
      std, residual_std: of the first and of the last matrix.
    """

    config: object
    width: int
    std: float
    residual_std: float
    dtype: str

    @nn.compact
    def __call__(self, x_BLD: Array) -> Array:
        config, activation = self.config, ACTIVATIONS[self.config.kind]
        hidden_BLF = Linear(config.width, self.std, config.bias, self.dtype, name='expand')(x_BLD)
        if config.kind in GATED:
            gate_BLF = Linear(config.width, self.std, config.bias, self.dtype, name='gate')(x_BLD)
            hidden_BLF *= activation(gate_BLF)
        else:
            hidden_BLF = activation(hidden_BLF)
        return Linear(self.width, self.residual_std, config.bias, self.dtype, name='contract')(hidden_BLF)
