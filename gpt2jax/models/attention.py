"""Attention: the only place where one position reads another.

Axes: B batch, L length (queries), M keys, D width, H query heads, N key-value heads, G query heads that share one
key-value head (H = N * G), Q = G * L queries of one key-value head, K head width.
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
      visibility: what is known of the mask beforehand (gpt2jax.objectives), so that a kernel may skip work.
      slot: index of the first cache slot that this call fills; None without a cache.
    """

    mask: Array
    row: Array
    visibility: str = struct.field(pytree_node=False)
    slot: Array | None = None


@struct.dataclass
class LayerCache:
    """Keys and values that one layer has computed so far: [B, N, M, K] each."""

    key: Array
    value: Array


def einsum_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, visibility, drop) -> Array:
    """softmax(Q K^T / sqrt(K)) V (Vaswani et al. 2017, section 3.2.1), with the map in memory.

    Under causal visibility the first half of the queries is not multiplied with the second half of the keys, which it
    cannot see: a quarter of the map is never made.

    Args:
      mask_BLM: who sees whom.
      visibility: 'causal' promises that no query sees a key of a later index (gpt2jax.objectives).
      drop: dropout on the attention weights [B, N, Q, M].
    """
    L, M = mask_BLM.shape[1:]
    if visibility == 'causal' and L == M and L >= SPLIT_LENGTH and drop is no_drop:
        half = L // 2
        early = _attend_dense(
            query_BLHK[:, :half], key_BNMK[:, :, :half], value_BNMK[:, :, :half], mask_BLM[:, :half, :half], drop
        )
        late = _attend_dense(query_BLHK[:, half:], key_BNMK, value_BNMK, mask_BLM[:, half:], drop)
        return jnp.concatenate([early, late], axis=1)
    return _attend_dense(query_BLHK, key_BNMK, value_BNMK, mask_BLM, drop)


SPLIT_LENGTH = 128  # below, two small products cost more than the quarter they save


def _attend_dense(query_BLHK, key_BNMK, value_BNMK, mask_BLM, drop) -> Array:
    """Queries that share a key-value head are lined up, group after group, as Q = G * L rows of one product."""
    B, L, H, K = query_BLHK.shape
    N = key_BNMK.shape[1]
    query_BNQK = (query_BLHK * K**-0.5).reshape(B, L, N, H // N, K).transpose(0, 2, 3, 1, 4).reshape(B, N, -1, K)
    mask_BNQM = jnp.tile(mask_BLM, (1, H // N, 1))[:, None]
    if drop is no_drop:
        y_BNQK = _attend(query_BNQK, key_BNMK, value_BNMK, mask_BNQM)
    else:
        weights_BNQM = drop(_weights(query_BNQK, key_BNMK, mask_BNQM)).astype(value_BNMK.dtype)
        y_BNQK = jnp.einsum('BNQM,BNMK->BNQK', weights_BNQM, value_BNMK)
    return y_BNQK.reshape(B, H, L, K).transpose(0, 2, 1, 3)


def _weights(query_BNQK, key_BNMK, mask_BNQM) -> Array:
    """The softmax over the visible keys, in float32; exactly 0 elsewhere."""
    scores_BNQM = jnp.einsum('BNQK,BNMK->BNQM', query_BNQK, key_BNMK, preferred_element_type=jnp.float32)
    return jax.nn.softmax(jnp.where(mask_BNQM, scores_BNQM, jnp.finfo(jnp.float32).min), axis=-1)


@jax.custom_vjp
def _attend(query_BNQK, key_BNMK, value_BNMK, mask_BNQM) -> Array:
    """Attention whose backward pass keeps the weights and nothing else of the map's size."""
    return _attend_forward(query_BNQK, key_BNMK, value_BNMK, mask_BNQM)[0]


def _attend_forward(query_BNQK, key_BNMK, value_BNMK, mask_BNQM):
    weights_BNQM = _weights(query_BNQK, key_BNMK, mask_BNQM).astype(value_BNMK.dtype)
    y_BNQK = jnp.einsum('BNQM,BNMK->BNQK', weights_BNQM, value_BNMK)
    return y_BNQK, (query_BNQK, key_BNMK, value_BNMK, weights_BNQM, y_BNQK)


def _attend_backward(kept, dy_BNQK):
    """d scores = w * (dw - sum_M w dw), and that sum is the inner product of y and dy (Dao et al. 2022, appendix B)."""
    query_BNQK, key_BNMK, value_BNMK, weights_BNQM, y_BNQK = kept
    dtype = value_BNMK.dtype
    dvalue_BNMK = jnp.einsum('BNQM,BNQK->BNMK', weights_BNQM, dy_BNQK)
    dweights_BNQM = jnp.einsum('BNQK,BNMK->BNQM', dy_BNQK, value_BNMK, preferred_element_type=jnp.float32)
    inner_BNQ1 = jnp.sum(y_BNQK.astype(jnp.float32) * dy_BNQK, axis=-1, keepdims=True)
    dscores_BNQM = (weights_BNQM * (dweights_BNQM - inner_BNQ1)).astype(dtype)
    dquery_BNQK = jnp.einsum('BNQM,BNMK->BNQK', dscores_BNQM, key_BNMK)
    dkey_BNMK = jnp.einsum('BNQM,BNQK->BNMK', dscores_BNQM, query_BNQK)
    return dquery_BNQK, dkey_BNMK, dvalue_BNMK, None


_attend.defvjp(_attend_forward, _attend_backward)


def fused_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, visibility, drop) -> Array:
    """jax.nn.dot_product_attention: one kernel on GPU (cuDNN), an einsum elsewhere. It cannot drop weights."""
    key_BMNK, value_BMNK = key_BNMK.transpose(0, 2, 1, 3), value_BNMK.transpose(0, 2, 1, 3)
    return jax.nn.dot_product_attention(query_BLHK, key_BMNK, value_BMNK, mask=mask_BLM[:, None])


def auto_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, visibility, drop) -> Array:
    """The einsum, which is as fast as any on CPU (docs/performance.md); the fused kernel on GPU."""
    fused = jax.default_backend() == 'gpu' and drop is no_drop
    attend = fused_attention if fused else einsum_attention
    return attend(query_BLHK, key_BNMK, value_BNMK, mask_BLM, visibility, drop)


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
        y_BLHK = KERNELS[config.kernel](query_BLHK, key_BNMK, value_BNMK, context.mask, context.visibility, drop)
        y_BLD = Linear(D, self.residual_std, config.bias, self.dtype, name='out')(y_BLHK.reshape(B, L, D))
        return y_BLD, cache
