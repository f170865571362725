"""Attention: the only place where one position reads another.

Axes: B batch, L length (queries), M keys, D width, H query heads, N key-value heads, G query heads that share one
key-value head (H = N * G), K head width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.linear import Linear


@struct.dataclass
class Context:
    """What every layer of a stack is told beside its input.

    Attributes:
      mask: [B, L, M] bool, who sees whom (gpt2jax.models.masks.visible).
      row: [B] index of each row in the global batch, for per-row randomness.
      slot: index of the first cache slot that this call fills; None without a cache.
    """

    mask: Array
    row: Array
    slot: Array | None = None


@struct.dataclass
class LayerCache:
    """Keys and values that one layer has computed so far: [B, N, M, K] each."""

    key: Array
    value: Array


def einsum_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, drop) -> Array:
    """softmax(Q K^T / sqrt(K)) V (Vaswani et al. 2017, section 3.2.1), with the whole map in memory.

    `drop` is applied to the attention weights [B, H, L, M]. The softmax is computed in float32.
    """
    B, L, H, K = query_BLHK.shape
    N, M = key_BNMK.shape[1:3]
    query_BNQK = (query_BLHK * K**-0.5).reshape(B, L, N, H // N, K).transpose(0, 2, 3, 1, 4)
    query_BNQK = query_BNQK.reshape(B, N, H // N * L, K)
    scores = jnp.einsum('BNQK,BNMK->BNQM', query_BNQK, key_BNMK, preferred_element_type=jnp.float32)
    scores_BHLM = scores.reshape(B, H, L, M)
    scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, jnp.finfo(jnp.float32).min)
    weights_BHLM = drop(jax.nn.softmax(scores_BHLM, axis=-1)).astype(value_BNMK.dtype)
    weights_BNQM = weights_BHLM.reshape(B, N, H // N * L, M)
    y_BNQK = jnp.einsum('BNQM,BNMK->BNQK', weights_BNQM, value_BNMK)
    return y_BNQK.reshape(B, H, L, K).transpose(0, 2, 1, 3)


def fused_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, drop) -> Array:
    """jax.nn.dot_product_attention: one kernel on GPU (cuDNN), the einsum elsewhere. It cannot drop weights."""
    del drop
    key_BMNK, value_BMNK = key_BNMK.transpose(0, 2, 1, 3), value_BNMK.transpose(0, 2, 1, 3)
    return jax.nn.dot_product_attention(query_BLHK, key_BMNK, value_BMNK, mask=mask_BLM[:, None])


def auto_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, drop) -> Array:
    """The einsum, which is as fast as any on CPU (docs/performance.md); the fused kernel on GPU."""
    fused = jax.default_backend() == 'gpu' and drop is no_drop
    attend = fused_attention if fused else einsum_attention
    return attend(query_BLHK, key_BNMK, value_BNMK, mask_BLM, drop)


def no_drop(weights: Array) -> Array:
    """Dropout that drops nothing."""
    return weights


KERNELS = {'auto': auto_attention, 'einsum': einsum_attention, 'fused': fused_attention}


class Attention(nn.Module):
    """Multi-head attention with heads of keys and values that may be shared (Ainslie et al. 2023).

    Attributes:
      config: `config.model.attention`.
      std, residual_std: of the projections in and of the projection out.
    """

    config: object
    std: float
    residual_std: float
    dtype: str

    @nn.compact
    def __call__(self, x_BLD, context: Context, cache: LayerCache | None, drop) -> tuple[Array, LayerCache | None]:
        """`drop(weights_BHLM)` is the dropout on attention weights. With a cache, this call's keys and values are
        written into it from `context.slot` on, and the queries see the whole cache through the mask."""
        config, (B, L, D) = self.config, x_BLD.shape
        K = D // config.num_heads

        def project(name, heads):
            y_BLE = Linear(heads * K, self.std, config.bias, self.dtype, name=name)(x_BLD)
            return y_BLE.reshape(B, L, heads, K)

        query_BLHK = project('query', config.num_heads)
        key_BNMK = project('key', config.num_kv_heads).transpose(0, 2, 1, 3)
        value_BNMK = project('value', config.num_kv_heads).transpose(0, 2, 1, 3)
        if cache is not None:
            at = (0, 0, context.slot, 0)
            key_BNMK = jax.lax.dynamic_update_slice(cache.key, key_BNMK.astype(cache.key.dtype), at)
            value_BNMK = jax.lax.dynamic_update_slice(cache.value, value_BNMK.astype(cache.value.dtype), at)
            cache = LayerCache(key_BNMK, value_BNMK)
        y_BLHK = KERNELS[config.kernel](query_BLHK, key_BNMK, value_BNMK, context.mask, drop)
        y_BLD = Linear(D, self.residual_std, config.bias, self.dtype, name='out')(y_BLHK.reshape(B, L, D))
        return y_BLD, cache
