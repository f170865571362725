"""Attention with the map in memory: the reference for every other kernel (kernels.py).

Axes: B batch, L length (queries), M keys, H query heads, N key-value heads, G query heads that share one key-value head
(H = N * G), Q = G * L queries of one key-value head, K head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.masks import Sight
from gpt2jax.placement import ALONE, Placement


def no_drop(weights: Array, axis: int = 1) -> Array:
    """Dropout that drops nothing."""
    return weights


@struct.dataclass
class Scoring:
    """From the products of queries and keys to the weights of the values.

    Attributes:
      bias: [H, L, M], added to the scores, [B, H, L, M] where it depends on the row, or None.
      scale: what the products are multiplied with.
      softcap: scores become cap * tanh(scores / cap); 0: they stay.
      drop: dropout on the attention weights [B, N, G, L, M], told that their length is axis 3.
    """

    bias: Array | None = None
    scale: float = struct.field(pytree_node=False, default=1.0)
    softcap: float = struct.field(pytree_node=False, default=0.0)
    drop: Callable = struct.field(pytree_node=False, default=no_drop)


def einsum_attention(
    query_BLHK, key_BNMK, value_BNMK, sight: Sight, scoring: Scoring, placement: Placement = ALONE
) -> Array:
    """softmax(Q K^T / sqrt(K)) V (Vaswani et al. 2017, section 3.2.1), with the map in memory.

    Under causal visibility the first half of the queries is not multiplied with the second half of the keys, which it
    cannot see: a quarter of the map is never made.

    Args:
      sight: the mask, and whether its visibility is 'causal', which promises that no query sees a key of a later index.
      placement: is not asked: this works wherever it runs.
    """
    L, M = sight.mask.shape[1:]

    def attend(queries: slice, keys: slice) -> Array:
        bias_HLM = None if scoring.bias is None else scoring.bias[..., queries, keys]
        part = query_BLHK[:, queries], key_BNMK[:, :, keys], value_BNMK[:, :, keys], sight.mask[:, queries, keys]
        return _attend_dense(*part, scoring.replace(bias=bias_HLM))

    everything, half = slice(None), L // 2
    if sight.visibility == 'causal' and L == M and L >= SPLIT_LENGTH and scoring.drop is no_drop:
        early, late = attend(slice(half), slice(half)), attend(slice(half, None), everything)
        return jnp.concatenate([early, late], axis=1)
    return attend(everything, everything)


SPLIT_LENGTH = 128  # below, two small products cost more than the quarter they save


def _attend_dense(query_BLHK, key_BNMK, value_BNMK, mask_BLM, scoring: Scoring) -> Array:
    """Dropout and a cap on the scores take the plain backward pass, everything else our own."""
    B, L, H, K = query_BLHK.shape
    query_BNQK, mask_BNQM, bias_NQM = line_up(query_BLHK, key_BNMK.shape[1], mask_BLM, scoring)
    if scoring.drop is no_drop and not scoring.softcap:
        y_BNQK = _attend(query_BNQK, key_BNMK, value_BNMK, mask_BNQM, bias_NQM)
    else:
        weights_BNQM = _weights(query_BNQK, key_BNMK, mask_BNQM, bias_NQM, scoring.softcap)
        weights_BNGLM = scoring.drop(weights_BNQM.reshape(B, key_BNMK.shape[1], -1, L, weights_BNQM.shape[-1]), 3)
        weights_BNQM = weights_BNGLM.reshape(weights_BNQM.shape).astype(value_BNMK.dtype)
        y_BNQK = jnp.einsum('BNQM,BNMK->BNQK', weights_BNQM, value_BNMK)
    return y_BNQK.reshape(B, H, L, K).transpose(0, 2, 1, 3)


def attention_weights(query_BLHK, key_BNMK, mask_BLM, scoring: Scoring) -> Array:
    """The weights themselves, [B, H, L, M], without dropout: what `launch.py attention` draws."""
    B, L, H, _ = query_BLHK.shape
    query_BNQK, mask_BNQM, bias_NQM = line_up(query_BLHK, key_BNMK.shape[1], mask_BLM, scoring)
    return _weights(query_BNQK, key_BNMK, mask_BNQM, bias_NQM, scoring.softcap).reshape(B, H, L, -1)


def line_up(query_BLHK, N: int, mask_BLM, scoring: Scoring):
    """Queries that share a key-value head, group after group, as Q = G * L rows of one product; mask and bias too."""
    B, L, H, K = query_BLHK.shape
    query_BNQK = (query_BLHK * scoring.scale).reshape(B, L, N, H // N, K).transpose(0, 2, 3, 1, 4).reshape(B, N, -1, K)
    mask_BNQM = jnp.tile(mask_BLM, (1, H // N, 1))[:, None]
    bias, bias_NQM = scoring.bias, None
    if bias is not None:
        bias_NQM = bias.reshape(*bias.shape[:-3], N, H // N * L, -1)
    return query_BNQK, mask_BNQM, bias_NQM


def _weights(query_BNQK, key_BNMK, mask_BNQM, bias_NQM, softcap: float) -> Array:
    """The softmax over the visible keys, in float32; exactly 0 elsewhere."""
    return jax.nn.softmax(masked_scores(query_BNQK, key_BNMK, mask_BNQM, bias_NQM, softcap), axis=-1)


def masked_scores(query_BNQK, key_BNMK, mask_BNQM, bias_NQM, softcap: float) -> Array:
    """What the softmax is taken of, in float32; the lowest number where a key is not seen."""
    scores_BNQM = jnp.einsum('BNQK,BNMK->BNQM', query_BNQK, key_BNMK, preferred_element_type=jnp.float32)
    if bias_NQM is not None:
        scores_BNQM += bias_NQM
    if softcap:
        scores_BNQM = softcap * jnp.tanh(scores_BNQM / softcap)
    return jnp.where(mask_BNQM, scores_BNQM, jnp.finfo(jnp.float32).min)


@jax.custom_vjp
def _attend(query_BNQK, key_BNMK, value_BNMK, mask_BNQM, bias_NQM) -> Array:
    """Attention whose backward pass keeps the weights and nothing else of the map's size."""
    return _attend_forward(query_BNQK, key_BNMK, value_BNMK, mask_BNQM, bias_NQM)[0]


def _attend_forward(query_BNQK, key_BNMK, value_BNMK, mask_BNQM, bias_NQM):
    weights_BNQM = _weights(query_BNQK, key_BNMK, mask_BNQM, bias_NQM, 0.0).astype(value_BNMK.dtype)
    y_BNQK = jnp.einsum('BNQM,BNMK->BNQK', weights_BNQM, value_BNMK)
    return y_BNQK, (query_BNQK, key_BNMK, value_BNMK, weights_BNQM, y_BNQK, bias_NQM)


def _attend_backward(kept, dy_BNQK):
    """d scores = w * (dw - sum_M w dw), and that sum is the inner product of y and dy (Dao et al. 2022, appendix B)."""
    query_BNQK, key_BNMK, value_BNMK, weights_BNQM, y_BNQK, bias_NQM = kept
    dtype = value_BNMK.dtype
    dvalue_BNMK = jnp.einsum('BNQM,BNQK->BNMK', weights_BNQM, dy_BNQK)
    dweights_BNQM = jnp.einsum('BNQK,BNMK->BNQM', dy_BNQK, value_BNMK, preferred_element_type=jnp.float32)
    inner_BNQ1 = jnp.sum(y_BNQK.astype(jnp.float32) * dy_BNQK, axis=-1, keepdims=True)
    dscores_BNQM = weights_BNQM * (dweights_BNQM - inner_BNQ1)
    dbias_NQM = None
    if bias_NQM is not None:
        shared = bias_NQM.ndim < dscores_BNQM.ndim
        dbias_NQM = (jnp.sum(dscores_BNQM, axis=0) if shared else dscores_BNQM).astype(bias_NQM.dtype)
    dscores_BNQM = dscores_BNQM.astype(dtype)
    dquery_BNQK = jnp.einsum('BNQM,BNMK->BNQK', dscores_BNQM, key_BNMK)
    dkey_BNMK = jnp.einsum('BNQM,BNQK->BNMK', dscores_BNQM, query_BNQK)
    return dquery_BNQK, dkey_BNMK, dvalue_BNMK, None, dbias_NQM


_attend.defvjp(_attend_forward, _attend_backward)
