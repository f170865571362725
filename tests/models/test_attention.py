"""Attention kernels against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference

from gpt2jax.models.kernels import KERNELS, Scoring, attention_weights, einsum_attention


def numpy_attention(query_BLHK, key_BNMK, value_BNMK, mask_BLM, scale, bias_HLM=None, softcap=0.0):
    """Loops over rows and heads, in double precision: (what is read, weights)."""
    query, key, value = (np.asarray(a, np.float64) for a in (query_BLHK, key_BNMK, value_BNMK))
    B, L, H, _ = query.shape
    group = H // key.shape[1]
    out, weights_BHLM = np.zeros_like(query), np.zeros((B, H, L, key.shape[2]))
    for b in range(B):
        for h in range(H):
            scores_LM = query[b, :, h] @ key[b, h // group].T * scale
            if bias_HLM is not None:
                scores_LM += bias_HLM[h]
            if softcap:
                scores_LM = softcap * np.tanh(scores_LM / softcap)
            scores_LM = np.where(mask_BLM[b], scores_LM, -np.inf)
            weights_LM = np.exp(scores_LM - scores_LM.max(-1, keepdims=True))
            weights_BHLM[b, h] = weights_LM / weights_LM.sum(-1, keepdims=True)
            out[b, :, h] = weights_BHLM[b, h] @ value[b, h // group]
    return out, weights_BHLM


SCORINGS = {
    'plain': Scoring(scale=8**-0.5),
    'scale': Scoring(scale=0.7),
    'bias': Scoring(scale=8**-0.5, bias=jax.random.normal(jax.random.key(9), (4, 7, 9))),
    'softcap': Scoring(scale=2.0, softcap=1.5),
    'bias and softcap': Scoring(scale=2.0, softcap=1.5, bias=jax.random.normal(jax.random.key(9), (4, 7, 9))),
}


@pytest.mark.parametrize('name', SCORINGS)
@pytest.mark.parametrize('kernel', sorted(KERNELS))
@pytest.mark.parametrize('kv_heads', [1, 2, 4])
def test_every_kernel_is_softmax_attention(kernel, kv_heads, name):
    scoring = SCORINGS[name]
    if kernel == 'fused' and scoring.softcap:
        pytest.skip('refused by validation')
    keys = jax.random.split(jax.random.key(0), 4)
    B, L, H, K, M = 2, 7, 4, 8, 9
    query_BLHK = jax.random.normal(keys[0], (B, L, H, K))
    key_BNMK, value_BNMK = (jax.random.normal(key, (B, kv_heads, M, K)) for key in keys[1:3])
    mask_BLM = jax.random.bernoulli(keys[3], 0.5, (B, L, M)).at[..., 0].set(True)
    attend = jax.jit(KERNELS[kernel], static_argnums=4)
    y_BLHK = attend(query_BLHK, key_BNMK, value_BNMK, mask_BLM, 'permuted', scoring)
    arrays = query_BLHK, key_BNMK, value_BNMK, mask_BLM
    expected_BLHK, weights_BHLM = numpy_attention(*arrays, scoring.scale, scoring.bias, scoring.softcap)
    np.testing.assert_allclose(y_BLHK, expected_BLHK, atol=1e-5)
    np.testing.assert_allclose(attention_weights(query_BLHK, key_BNMK, mask_BLM, scoring), weights_BHLM, atol=1e-5)


def test_the_softmax_of_bfloat16_scores_is_in_float32():
    """Two scores that bfloat16 cannot tell apart must still give different weights."""
    query_BLHK = jnp.full((1, 1, 1, 1), 1.0, jnp.bfloat16)
    key_BNMK = jnp.asarray([256.0, 257.0], jnp.bfloat16).reshape(1, 1, 2, 1)
    value_BNMK = jnp.asarray([0.0, 1.0], jnp.bfloat16).reshape(1, 1, 2, 1)
    scores = np.asarray([256.0, float(jnp.asarray(257.0, jnp.bfloat16))])
    expected = np.exp(scores[1] - scores.max()) / np.exp(scores - scores.max()).sum()
    y = KERNELS['einsum'](query_BLHK, key_BNMK, value_BNMK, jnp.ones((1, 1, 2), bool), 'full', Scoring())
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(y.ravel()[0]), expected, rtol=1e-2)


def plain_attention(query_BLHK, key_BNMK, value_BNMK, bias_HLM, mask_BLM):
    """For JAX to differentiate by itself."""
    group = query_BLHK.shape[2] // key_BNMK.shape[1]
    key_BHMK, value_BHMK = (jnp.repeat(a, group, axis=1) for a in (key_BNMK, value_BNMK))
    scores_BHLM = jnp.einsum('BLHK,BHMK->BHLM', query_BLHK, key_BHMK) * query_BLHK.shape[-1] ** -0.5 + bias_HLM
    weights_BHLM = jax.nn.softmax(jnp.where(mask_BLM[:, None], scores_BHLM, -1e30), axis=-1)
    return jnp.einsum('BHLM,BHMK->BLHK', weights_BHLM, value_BHMK)


@pytest.mark.parametrize('dropped', [False, True])
@pytest.mark.parametrize(('visibility', 'length'), [('permuted', 13), ('causal', 13), ('causal', 130)])
def test_its_own_backward_pass_and_its_shortcut_change_no_gradient(visibility, length, dropped):
    """At length 130 a causal map is made in two pieces."""
    keys = jax.random.split(jax.random.key(0), 6)
    query_BLHK, weight_BLHK = (jax.random.normal(key, (2, length, 4, 8)) for key in keys[:2])
    key_BNMK, value_BNMK = (jax.random.normal(key, (2, 2, length, 8)) for key in keys[2:4])
    bias_HLM = jax.random.normal(keys[5], (4, length, length))
    mask_BLM = jax.random.bernoulli(keys[4], 0.5, (2, length, length)) | jnp.eye(length, dtype=bool)
    if visibility == 'causal':
        mask_BLM &= jnp.tril(jnp.ones((length, length), bool))
    scoring = Scoring(scale=8**-0.5)
    if dropped:
        scoring = scoring.replace(drop=lambda weights: weights)

    def ours(*arrays):
        *rest, bias_HLM = arrays
        return jnp.sum(weight_BLHK * einsum_attention(*rest, mask_BLM, visibility, scoring.replace(bias=bias_HLM)))

    def plain(*arrays):
        return jnp.sum(weight_BLHK * plain_attention(*arrays, mask_BLM))

    arrays = query_BLHK, key_BNMK, value_BNMK, bias_HLM
    found, expected = (jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*arrays) for loss in (ours, plain))
    assert largest_difference(found, expected) < 1e-4
