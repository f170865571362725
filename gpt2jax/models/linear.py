"""The matrix product that everything else is made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

FEW_ROWS = 16  # up to here a product is bound by reading the matrix


def product(x_ND: Array, kernel_ED: Array, **options) -> Array:
    """x @ kernel^T, [N, E].

    XLA's CPU backend reads a matrix at full bandwidth when it stands on the left of a few columns, and up to five times
    slower when it stands on the right of a single row (docs/performance.md). Other backends do not mind.
    """
    if len(x_ND) <= FEW_ROWS:
        return jnp.einsum('ED,ND->EN', kernel_ED, x_ND, **options).T
    return jnp.einsum('ND,ED->NE', x_ND, kernel_ED, **options)


class Linear(nn.Module):
    """x @ kernel^T + bias over the last axis, as one product of two matrices.

    Leading axes are flattened around the product: XLA's CPU backend is about twice as fast on matrices as on
    three-dimensional operands (docs/performance.md).

    Attributes:
      width: of the output.
      std: of the normal that the kernel [out, in] is drawn from.
      dtype: of the product; the parameters are float32.
    """

    width: int
    std: float
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param('kernel', nn.initializers.normal(self.std), (self.width, x.shape[-1]))
        y = product(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel.astype(self.dtype))
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
