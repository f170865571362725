"""Attention kernels against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference

from gpt2jax.models.attention import KERNELS, einsum_attention, no_drop


def numpy_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM):
    """Loops over rows and heads, in double precision."""
    query, key, value = (np.asarray(a, np.float64) for a in (query_BLHK, key_BNMK, value_BNMK))
    B, _, H, K = query.shape
    group = H // key.shape[1]
    out = np.zeros_like(query)
    for b in range(B):
        for h in range(H):
            scores_LM = query[b, :, h] @ key[b, h // group].T / np.sqrt(K)
            scores_LM = np.where(mask_BLM[b], scores_LM, -np.inf)
            weights_LM = np.exp(scores_LM - scores_LM.max(-1, keepdims=True))
            out[b, :, h] = weights_LM / weights_LM.sum(-1, keepdims=True) @ value[b, h // group]
    return out


@pytest.mark.parametrize('kernel', sorted(KERNELS))
@pytest.mark.parametrize('kv_heads', [1, 2, 4])
def test_every_kernel_is_softmax_attention(kernel, kv_heads):
    keys = jax.random.split(jax.random.key(0), 4)
    B, L, H, K, M = 2, 7, 4, 8, 9
    query_BLHK = jax.random.normal(keys[0], (B, L, H, K))
    key_BNMK, value_BNMK = (jax.random.normal(key, (B, kv_heads, M, K)) for key in keys[1:3])
    mask_BLM = jax.random.bernoulli(keys[3], 0.5, (B, L, M)).at[..., 0].set(True)
    y_BLHK = KERNELS[kernel](query_BLHK, key_BNMK, value_BNMK, mask_BLM, 'permuted', no_drop)
    np.testing.assert_allclose(y_BLHK, numpy_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM), atol=1e-5)


def test_the_softmax_of_bfloat16_scores_is_in_float32():
    """Two scores that bfloat16 cannot tell apart must still give different weights."""
    query_BLHK = jnp.full((1, 1, 1, 1), 1.0, jnp.bfloat16)
    key_BNMK = jnp.asarray([256.0, 257.0], jnp.bfloat16).reshape(1, 1, 2, 1)
    value_BNMK = jnp.asarray([0.0, 1.0], jnp.bfloat16).reshape(1, 1, 2, 1)
    scores = np.asarray([256.0, float(jnp.asarray(257.0, jnp.bfloat16))])
    expected = np.exp(scores[1] - scores.max()) / np.exp(scores - scores.max()).sum()
    y = KERNELS['einsum'](query_BLHK, key_BNMK, value_BNMK, jnp.ones((1, 1, 2), bool), 'full', no_drop)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(y.ravel()[0]), expected, rtol=1e-2)


def plain_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM):
    """For JAX to differentiate by itself."""
    group = query_BLHK.shape[2] // key_BNMK.shape[1]
    key_BHMK, value_BHMK = (jnp.repeat(a, group, axis=1) for a in (key_BNMK, value_BNMK))
    scores_BHLM = jnp.einsum('BLHK,BHMK->BHLM', query_BLHK, key_BHMK) * query_BLHK.shape[-1] ** -0.5
    weights_BHLM = jax.nn.softmax(jnp.where(mask_BLM[:, None], scores_BHLM, -1e30), axis=-1)
    return jnp.einsum('BHLM,BHMK->BLHK', weights_BHLM, value_BHMK)


@pytest.mark.parametrize('dropped', [False, True])
@pytest.mark.parametrize(('visibility', 'length'), [('permuted', 13), ('causal', 13), ('causal', 130)])
def test_its_own_backward_pass_and_its_shortcut_change_no_gradient(visibility, length, dropped):
    """At length 130 a causal map is made in two pieces."""
    keys = jax.random.split(jax.random.key(0), 5)
    query_BLHK, weight_BLHK = (jax.random.normal(key, (2, length, 4, 8)) for key in keys[:2])
    key_BNMK, value_BNMK = (jax.random.normal(key, (2, 2, length, 8)) for key in keys[2:4])
    mask_BLM = jax.random.bernoulli(keys[4], 0.5, (2, length, length)) | jnp.eye(length, dtype=bool)
    if visibility == 'causal':
        mask_BLM &= jnp.tril(jnp.ones((length, length), bool))
    drop = (lambda weights: weights) if dropped else no_drop

    def loss(attend):
        return lambda *arrays: jnp.sum(weight_BLHK * attend(*arrays))

    arrays = query_BLHK, key_BNMK, value_BNMK
    found = jax.value_and_grad(loss(lambda *a: einsum_attention(*a, mask_BLM, visibility, drop)), (0, 1, 2))(*arrays)
    expected = jax.value_and_grad(loss(lambda *a: plain_attention(*a, mask_BLM)), (0, 1, 2))(*arrays)
    assert largest_difference(found, expected) < 1e-4
