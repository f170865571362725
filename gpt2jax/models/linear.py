"""The matrix product that everything else is made of."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.placement import ALONE, Placement

FEW_ROWS = 16  # up to here a product is bound by reading the matrix


def product(x_ND: Array, kernel_ED: Array, **options) -> Array:
    """x @ kernel^T, [N, E].

    XLA's CPU backend reads a matrix at full bandwidth when it stands on the left of a few columns, and up to five times
    slower when it stands on the right of a single row (docs/performance.md). Other backends do not mind.
    """
    if len(x_ND) <= FEW_ROWS:
        return jnp.einsum('ED,ND->EN', kernel_ED, x_ND, **options).T
    return jnp.einsum('ND,ED->NE', x_ND, kernel_ED, **options)


@jax.custom_vjp
def output_product(hidden_NE: Array, kernel_VE: Array) -> Array:
    """hidden @ kernel^T in float32, [N, V], of operands in the dtype of `hidden`, and so are those of its gradients.

    Left to JAX, both of these would be products with float32 gradients of the logits, which a backend may take by its
    word. The kernel's gradient stays in float32, as it is summed over chunks of tokens.
    """
    return product(hidden_NE, kernel_VE.astype(hidden_NE.dtype), preferred_element_type=jnp.float32)


def _output_forward(hidden_NE: Array, kernel_VE: Array):
    return output_product(hidden_NE, kernel_VE), (hidden_NE, kernel_VE)


def _output_backward(kept, dlogits_NV: Array):
    hidden_NE, kernel_VE = kept
    dlogits_NV, kernel = dlogits_NV.astype(hidden_NE.dtype), kernel_VE.astype(hidden_NE.dtype)
    dhidden_NE = jnp.einsum('NV,VE->NE', dlogits_NV, kernel)
    return dhidden_NE, jnp.einsum('NV,NE->VE', dlogits_NV, hidden_NE, preferred_element_type=jnp.float32)


output_product.defvjp(_output_forward, _output_backward)


class Linear(nn.Module):
    """x @ kernel^T + bias over the last axis, as one product of two matrices.

    Leading axes are flattened around the product: XLA's CPU backend is about twice as fast on matrices as on
    three-dimensional operands. On TPU it is the other way round where heads come out or go in, as the product can write
    and read the order of axes that the kernel wants (docs/performance.md).

    Attributes:
      width: of the output.
      std: of the normal that the kernel [out, in] is drawn from.
      dtype: of the product; the parameters are float32.
      heads_in, heads_out: the last axis of x, or of the output, is [heads, width of one]; 0: it is one axis.
      flat: whether axes are flattened around the product.
    """

    width: int
    std: float
    bias: bool
    dtype: str
    heads_in: int = 0
    heads_out: int = 0
    flat: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        read = (self.heads_in, x.shape[-1]) if self.heads_in else x.shape[-1:]
        made = (self.heads_out, self.width // self.heads_out) if self.heads_out else (self.width,)
        lead, size = x.shape[: x.ndim - len(read)], math.prod(read)
        kernel = self.param('kernel', nn.initializers.normal(self.std), (self.width, size)).astype(self.dtype)
        if self.flat:
            y = product(x.reshape(-1, size).astype(self.dtype), kernel)
        else:
            axes = tuple(range(-len(read), 0))
            y = jnp.tensordot(x.astype(self.dtype), kernel.reshape(*made, *read), (axes, axes))
        if self.bias:
            bias = self.param('bias', nn.initializers.zeros, (self.width,)).astype(self.dtype)
            y += bias if self.flat else bias.reshape(made)
        return y.reshape(*lead, *made)


def dropout_rows(
    x_BLD: Array, rate: float, key: Array | None, row_B: Array, placement: Placement = ALONE, axis: int = 1
) -> Array:
    """Zeroes a fraction of the values and scales up the rest, row by row.

    Each row draws from its own key, folded from its index in the global batch, so that microbatches and devices
    never change what is dropped. `key` None: no dropout.

    Args:
      placement: where only a part of a row's length is here, the draw is of the whole row.
      axis: where the length stands in x.
    """
    if not rate or key is None:
        return x_BLD
    shape = list(x_BLD.shape[1:])
    shape[axis - 1] *= placement.parts('context')

    def keep(row):
        return jax.random.bernoulli(jax.random.fold_in(key, row), 1 - rate, shape)

    kept_BLD = placement.own_length(jax.vmap(keep)(row_B), axis)
    return jnp.where(kept_BLD, x_BLD / (1 - rate), jnp.zeros((), x_BLD.dtype))
