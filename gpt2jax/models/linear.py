"""The matrix product that everything else is made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class Linear(nn.Module):
    """x @ kernel + bias over the last axis, as one product of two matrices.

    Leading axes are flattened around the product: XLA's CPU backend is about twice as fast on matrices as on
    three-dimensional operands (docs/performance.md), and other backends do not mind.

    Attributes:
      width: of the output.
      std: of the normal that the kernel [in, out] is drawn from.
      dtype: of the product; the parameters are float32.
    """

    width: int
    std: float
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param('kernel', nn.initializers.normal(self.std), (x.shape[-1], self.width))
        y = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(self.dtype)
        if self.bias:
            y += self.param('bias', nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return y.reshape(*x.shape[:-1], self.width)


def dropout_rows(x_BLD: Array, rate: float, key: Array | None, row_B: Array) -> Array:
    """Zeroes a fraction of the values and scales up the rest, row by row.

    Each row draws from its own key, folded from its index in the global batch, so that microbatches and devices
    never change what is dropped. `key` None: no dropout.
    """
    if not rate or key is None:
        return x_BLD

    def keep(row):
        return jax.random.bernoulli(jax.random.fold_in(key, row), 1 - rate, x_BLD.shape[1:])

    kept_BLD = jax.vmap(keep)(row_B)
    return jnp.where(kept_BLD, x_BLD / (1 - rate), jnp.zeros((), x_BLD.dtype))
