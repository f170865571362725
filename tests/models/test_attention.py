"""Attention kernels against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference

from gpt2jax.models.einsum import Scoring, attention_weights, einsum_attention
from gpt2jax.models.kernels import KERNELS, attend
from gpt2jax.models.masks import Sight, distances, visible
from gpt2jax.placement import Placement


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
    """Those that cannot give way to the einsum."""
    scoring = SCORINGS[name]
    keys = jax.random.split(jax.random.key(0), 4)
    B, L, H, K, M = 2, 7, 4, 8, 9
    query_BLHK = jax.random.normal(keys[0], (B, L, H, K))
    key_BNMK, value_BNMK = (jax.random.normal(key, (B, kv_heads, M, K)) for key in keys[1:3])
    mask_BLM = jax.random.bernoulli(keys[3], 0.5, (B, L, M)).at[..., 0].set(True)
    y_BLHK = attend(kernel, query_BLHK, key_BNMK, value_BNMK, Sight(mask_BLM), scoring, Placement())
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
    y = einsum_attention(query_BLHK, key_BNMK, value_BNMK, Sight(jnp.ones((1, 1, 2), bool)), Scoring())
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
        scoring = scoring.replace(drop=lambda weights, axis: weights)

    def ours(*arrays):
        *rest, bias_HLM = arrays
        sight = Sight(mask_BLM, visibility=visibility)
        return jnp.sum(weight_BLHK * einsum_attention(*rest, sight, scoring.replace(bias=bias_HLM)))

    def plain(*arrays):
        return jnp.sum(weight_BLHK * plain_attention(*arrays, mask_BLM))

    arrays = query_BLHK, key_BNMK, value_BNMK, bias_HLM
    found, expected = (jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*arrays) for loss in (ours, plain))
    assert largest_difference(found, expected) < 1e-4


def packed_sight(rows: int, length: int, visibility: str, window: int, wide=False) -> Sight:
    """Three documents a row, at random places, and padding at the end of the last."""
    random = np.random.default_rng(3)
    borders_BL = np.zeros((rows, length), np.int32)
    for row in borders_BL:
        row[random.choice(np.arange(1, length), 2, replace=False)] = 1
    segment_BL = 1 + np.cumsum(borders_BL, axis=1, dtype=np.int32)
    segment_BL[-1, length - 5 :] = 0
    order_BL = np.broadcast_to(np.arange(length) if visibility == 'causal' else 0, (rows, length))
    mask_BLM = visible(order_BL, order_BL, segment_BL, segment_BL)
    if window:
        mask_BLM &= (jnp.abs(distances(length, length, None)) < window) | wide
    parts = order_BL, jnp.asarray(segment_BL), jnp.asarray(segment_BL)
    return Sight(mask_BLM, *parts, wide=wide, visibility=visibility, window=window)


@pytest.mark.parametrize(
    ('visibility', 'window', 'wide', 'kv_heads', 'softcap'),
    [
        ('causal', 0, False, 4, 0.0),
        ('causal', 70, False, 2, 1.5),
        ('causal', 70, True, 1, 0.0),
        ('full', 0, False, 2, 0.0),
        ('full', 70, jnp.bool_(False), 4, 0.0),
        ('full', 70, jnp.bool_(True), 4, 1.5),
    ],
)
def test_splash_reads_what_the_einsum_reads_and_has_its_gradients(visibility, window, wide, kv_heads, softcap):
    """Interpreted on CPU, in blocks of 128, of which some are skipped."""
    B, L, H, K = 2, 384, 4, 16
    keys = jax.random.split(jax.random.key(0), 4)
    query_BLHK, weight_BLHK = (jax.random.normal(key, (B, L, H, K)) for key in keys[:2])
    arrays = query_BLHK, *(jax.random.normal(key, (B, kv_heads, L, K)) for key in keys[2:])
    sight, scoring = packed_sight(B, L, visibility, window, wide), Scoring(scale=0.5, softcap=softcap)

    def loss(kernel):
        def of(*arrays):
            y_BLHK = attend(kernel, *arrays, sight, scoring, Placement())
            return jnp.sum(weight_BLHK * y_BLHK), y_BLHK

        return jax.jit(jax.value_and_grad(of, (0, 1, 2), has_aux=True))

    found, expected = (loss(kernel)(*arrays) for kernel in ('splash', 'einsum'))
    assert largest_difference(found, expected) < 1e-4
    assert 'pallas_call' in str(jax.make_jaxpr(loss('splash'))(*arrays))  # and nothing gave way


@pytest.mark.parametrize(
    ('change', 'length'),
    [
        ({}, 100),
        ({'visibility': 'prefix'}, 128),
        ({'segment': None}, 128),
        ({'scoring': Scoring(bias=jnp.zeros((2, 128, 128)))}, 128),
        ({'scoring': Scoring(drop=lambda weights, axis: weights)}, 128),
    ],
    ids=['no block divides the length', 'visibility', 'cache', 'bias', 'dropout'],
)
def test_splash_gives_way_to_the_einsum_where_it_cannot(change, length):
    scoring = change.get('scoring', Scoring())
    sight = packed_sight(1, length, 'causal', 0)
    sight = sight.replace(**{name: value for name, value in change.items() if name != 'scoring'})
    x = jnp.ones((1, length, 2, 8)), jnp.ones((1, 2, length, 8)), jnp.ones((1, 2, length, 8))
    assert 'pallas_call' not in str(jax.make_jaxpr(lambda *x: attend('splash', *x, sight, scoring, Placement()))(*x))


def test_auto_takes_the_kernel_of_the_platform_that_the_mesh_is_of(monkeypatch):
    x = jnp.ones((1, 128, 2, 8)), jnp.ones((1, 2, 128, 8)), jnp.ones((1, 2, 128, 8))
    sight = packed_sight(1, 128, 'causal', 0)
    for name in ('einsum', 'fused', 'splash'):
        monkeypatch.setitem(KERNELS, name, lambda *_, name=name: name)
    for platform, expected in (('cpu', 'einsum'), ('gpu', 'fused'), ('tpu', 'splash')):
        monkeypatch.setattr(Placement, 'platform', platform)
        assert attend('auto', *x, sight, Scoring(), Placement()) == expected
