"""Transformer-XL's relative scores: three ways to lay distances out, one meaning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, largest_difference, tiny_config

from gpt2jax.models import make_model
from gpt2jax.models.relative import RelativeScores, between, by_pair, by_query, shift, waves

B, H, K = 2, 4, 8


def relative_config(**changes):
    return tiny_config(model__position__kind='relative', **changes).model


def scores_of(config, query_BLHK, distances, keys: int, seed: int = 0):
    module = RelativeScores(config, std=0.5)
    params = module.init(jax.random.key(seed), query_BLHK, distances, keys, 1.0)
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(7), a.shape), params)
    return module.apply(params, query_BLHK, distances, keys, 0.5), params['params']


def queries(length: int, seed: int = 3):
    return jax.random.normal(jax.random.key(seed), (B, length, H, K))


def expected_bias(config, params, query_BLHK, distance_BLM, same_BLM=None) -> np.ndarray:
    """0.5 * ((q + v) . W wave(distance) + (q + s) . g[kind]), pair by pair, in NumPy."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    query_BLHK = np.asarray(query_BLHK, np.float64)
    rates = 10_000.0 ** (-np.arange(0, config.width, 2) / config.width)
    bias = np.zeros((B, H, *distance_BLM.shape[1:]))
    for b, q, k in np.ndindex(*distance_BLM.shape):
        distance = distance_BLM[b, q, k]
        if config.position.clamp_length:
            distance = np.clip(distance, -config.position.clamp_length, config.position.clamp_length)
        wave_D = np.concatenate([np.sin(distance * rates), np.cos(distance * rates)])
        wave_HK = (p['kernel'] @ wave_D).reshape(H, K)
        bias[b, :, q, k] = np.sum((query_BLHK[b, q] + p['position_bias']) * wave_HK, -1)
        if same_BLM is not None:
            kind_HK = p['segment_embedding'][0 if same_BLM[b, q, k] else 1]
            bias[b, :, q, k] += np.sum((query_BLHK[b, q] + p['segment_bias']) * kind_HK, -1)
    return 0.5 * bias


@pytest.mark.parametrize('clamp', [0, 3])
@pytest.mark.parametrize('memory', [0, 1, 5])
def test_scores_are_those_of_the_paper_pair_by_pair(memory, clamp):
    config, L = relative_config(model__position__clamp_length=clamp), 6
    distances = between(config, L, memory, causal=False)
    (query, bias), params = scores_of(config, queries(L), distances, memory + L)
    distance_LM = memory + np.arange(L)[:, None] - np.arange(memory + L)
    expected = expected_bias(config, params, queries(L), np.broadcast_to(distance_LM, (B, *distance_LM.shape)))
    np.testing.assert_allclose(bias, expected, atol=1e-5)
    np.testing.assert_allclose(query, queries(L) + params['content_bias'], atol=1e-6)


def test_token_types_add_whether_they_are_the_same():
    config, L = relative_config(model__position__segments=True), 5
    same_BLM = jax.random.bernoulli(jax.random.key(5), 0.5, (B, L, L))
    distances = between(config, L, 0, causal=False).replace(same=same_BLM)
    (_, bias), params = scores_of(config, queries(L), distances, L)
    distance_BLM = np.broadcast_to(np.arange(L)[:, None] - np.arange(L), (B, L, L))
    np.testing.assert_allclose(bias, expected_bias(config, params, queries(L), distance_BLM, same_BLM), atol=1e-5)


def test_a_causal_table_gives_the_same_scores_where_a_query_may_look():
    config, L, M = relative_config(), 6, 4
    (_, both), _ = scores_of(config, queries(L), between(config, L, M, causal=False), M + L)
    (_, causal), _ = scores_of(config, queries(L), between(config, L, M, causal=True), M + L)
    behind_LM = np.arange(M + L) <= M + np.arange(L)[:, None]
    np.testing.assert_allclose(np.where(behind_LM, causal, 0), np.where(behind_LM, both, 0), atol=1e-6)


def test_queries_at_any_places_score_as_those_of_a_whole_row():
    config, L, M = relative_config(), 6, 3
    place_BL = jnp.array([[4, 0, 5], [2, 2, 1]])
    query = queries(L)
    chosen = jnp.take_along_axis(query, place_BL[..., None, None], axis=1)
    (_, whole), _ = scores_of(config, query, between(config, L, M, causal=False), M + L)
    (_, some), _ = scores_of(config, chosen, by_query(config, place_BL, M, L), M + L)
    np.testing.assert_allclose(some, jnp.take_along_axis(whole, place_BL[:, None, :, None], axis=2), atol=1e-5)


def test_a_query_behind_the_end_of_the_row_has_the_distances_of_its_place():
    config, L, M = relative_config(), 4, 2
    place_BL = jnp.full((B, 1), L)
    (_, bias), params = scores_of(config, queries(1), by_query(config, place_BL, M, L), M + L)
    distance_BLM = np.broadcast_to(M + L - np.arange(M + L), (B, 1, M + L))
    np.testing.assert_allclose(bias, expected_bias(config, params, queries(1), distance_BLM), atol=1e-5)


def test_slots_in_any_order_score_by_their_places():
    config = relative_config()
    place_M, query_L = np.array([4, 5, 2, 3]), np.array([5])
    (_, bias), params = scores_of(
        config, queries(1), by_pair(config, jnp.asarray(place_M[None] - query_L[:, None])), len(place_M)
    )
    distance_BLM = np.broadcast_to(query_L[:, None] - place_M, (B, 1, len(place_M)))
    np.testing.assert_allclose(bias, expected_bias(config, params, queries(1), distance_BLM), atol=1e-5)


@pytest.mark.parametrize(('length', 'keys'), [(1, 1), (1, 5), (4, 4), (4, 9)])
def test_the_shift_takes_each_row_from_one_place_earlier(length, keys):
    R = length + keys - 1
    scores = jnp.arange(length * R, dtype=jnp.float32).reshape(1, 1, length, R)
    expected = np.stack([np.asarray(scores)[0, 0, i, length - 1 - i :][:keys] for i in range(length)])
    np.testing.assert_array_equal(shift(scores, keys)[0, 0], expected)


def test_the_shift_holds_no_array_larger_than_its_scores():
    L, keys = 64, 192
    scores = jax.ShapeDtypeStruct((2, 4, L, L + keys - 1), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda s: shift(s, keys))(scores)
    largest = max(out.aval.size for equation in jaxpr.eqns for out in equation.outvars)
    assert largest <= scores.size * 1.05


def test_waves_are_sines_then_cosines():
    config = relative_config()
    table = np.asarray(waves(config, jnp.array([0, 2])))
    rates = 10_000.0 ** (-np.arange(0, config.width, 2) / config.width)
    np.testing.assert_allclose(table[0], np.r_[np.zeros(16), np.ones(16)], atol=1e-6)
    np.testing.assert_allclose(table[1], np.r_[np.sin(2 * rates), np.cos(2 * rates)], atol=1e-5)


def test_a_decoder_with_a_cache_says_what_the_whole_row_says():
    config = tiny_config(model__position__kind='relative')
    model = make_model(config.model)
    params = model.init(jax.random.key(0))
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape), params)
    example = causal_example(2, 12, documents=1)
    whole, _ = model.apply(params, example)
    carry, pieces = model.init_carry(2, 16), []
    for begin, end in ((0, 5), (5, 6), (6, 9), (9, 12)):
        piece = jax.tree.map(lambda a, b=begin, e=end: a[:, b:e] if a.ndim == 2 else a, example)
        hidden, carry = model.apply(params, piece, carry)
        pieces.append(hidden)
    real = np.asarray(example.segment[..., None] > 0)
    assert largest_difference(np.concatenate(pieces, 1) * real, whole * real) < 2e-5


@pytest.mark.parametrize('remat', ['none', 'full'])
@pytest.mark.parametrize('scan', [False, True])
def test_relative_positions_train_in_every_way_of_running_layers(scan, remat):
    plain = make_model(relative_config())
    other = make_model(relative_config(model__scan_layers=scan, model__remat=remat))
    params, example = plain.init(jax.random.key(0)), causal_example(2, 12)

    def loss(model, params):
        return jnp.sum(jnp.sin(model.apply(params, example)[0]))

    expected = jax.grad(lambda p: loss(plain, p))(params)
    assert largest_difference(jax.grad(lambda p: loss(other, p))(params), expected) < 1e-4
    used = {name for name, g in expected['blocks'][0]['attention']['relative'].items() if np.any(np.asarray(g))}
    assert used == {'kernel', 'content_bias', 'position_bias'}
