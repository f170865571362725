"""Normalisations over the width. A new one is a class here and its name in NORMS.

Statistics are computed in float32 whatever the dtype of the activations.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class LayerNorm(nn.Module):
    """Ba et al. 2016: zero mean and unit variance over the width, then scale and (optionally) bias."""

    epsilon: float
    bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y -= jnp.mean(y, -1, keepdims=True)
        y *= jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + self.epsilon)
        y *= self.param('scale', nn.initializers.ones, x.shape[-1:])
        if self.bias:
            y += self.param('bias', nn.initializers.zeros, x.shape[-1:])
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019: unit root mean square over the width, then scale and (optionally) bias."""

    epsilon: float
    bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + self.epsilon)
        y *= self.param('scale', nn.initializers.ones, x.shape[-1:])
        if self.bias:
            y += self.param('bias', nn.initializers.zeros, x.shape[-1:])
        return y.astype(x.dtype)


NORMS = {'layernorm': LayerNorm, 'rmsnorm': RMSNorm}


def make_norm(config, name: str | None = None) -> nn.Module:
    """The norm that `config.model.norm` names."""
    return NORMS[config.kind](epsilon=config.epsilon, bias=config.bias, name=name)
