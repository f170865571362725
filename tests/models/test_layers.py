"""Norms, activations and positions against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config
from scipy import special

from gpt2jax.models.feedforward import ACTIVATIONS, GATED, FeedForward
from gpt2jax.models.norms import NORMS
from gpt2jax.models.positions import POSITIONS, alibi_slopes, make_position, rotate, t5_bucket


def numpy_layernorm(x, scale, bias, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def numpy_rmsnorm(x, scale, bias, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale + bias


NUMPY_NORMS = {'layernorm': numpy_layernorm, 'rmsnorm': numpy_rmsnorm}
NUMPY_ACTIVATIONS = {
    'gelu': lambda x: x * 0.5 * (1 + special.erf(x / np.sqrt(2))),
    'gelu_tanh': lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    'relu': lambda x: np.maximum(x, 0),
    'relu2': lambda x: np.maximum(x, 0) ** 2,
    'swiglu': lambda x: x / (1 + np.exp(-x)),
    'geglu': lambda x: x * 0.5 * (1 + special.erf(x / np.sqrt(2))),
}


@pytest.mark.parametrize('kind', sorted(NORMS))
def test_norms(kind):
    keys = jax.random.split(jax.random.key(0), 3)
    x = 5 + 3 * jax.random.normal(keys[0], (2, 3, 16))
    params = {'scale': jax.random.normal(keys[1], (16,)), 'bias': jax.random.normal(keys[2], (16,))}
    expected = NUMPY_NORMS[kind](np.asarray(x, np.float64), params['scale'], params['bias'], 1e-5)
    y = NORMS[kind](epsilon=1e-5, bias=True).apply({'params': params}, x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert set(NORMS[kind](epsilon=1e-5, bias=False).init(keys[0], x)['params']) == {'scale'}


def test_the_statistics_of_a_bfloat16_norm_are_in_float32():
    x = (1000 + jnp.arange(64.0)).astype(jnp.bfloat16)[None]
    params = {'scale': jnp.ones(64), 'bias': jnp.zeros(64)}
    y = NORMS['layernorm'](epsilon=1e-5, bias=True).apply({'params': params}, x)
    expected = numpy_layernorm(np.asarray(x, np.float64), 1, 0, 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=0.02)


@pytest.mark.parametrize('kind', sorted(ACTIVATIONS))
def test_activations(kind):
    x = np.linspace(-8, 8, 401)
    np.testing.assert_allclose(ACTIVATIONS[kind](jnp.asarray(x, jnp.float32)), NUMPY_ACTIVATIONS[kind](x), atol=2e-6)


@pytest.mark.parametrize('kind', sorted(ACTIVATIONS))
def test_the_feed_forward_network(kind):
    config = tiny_config(model__feedforward__kind=kind, model__feedforward__width=12).model
    network = FeedForward(config.feedforward, 32, 0.3, 0.3, 'float32')
    x = jax.random.normal(jax.random.key(1), (2, 3, 32))
    params = network.init(jax.random.key(0), x)['params']
    params = jax.tree.map(lambda a: jax.random.normal(jax.random.key(a.size), a.shape), params)
    expand, contract = params['expand'], params['contract']
    hidden = np.asarray(x, np.float64) @ expand['kernel'].T + expand['bias']
    if kind in GATED:
        gate = np.asarray(x, np.float64) @ params['gate']['kernel'].T + params['gate']['bias']
        hidden = hidden * NUMPY_ACTIVATIONS[kind](gate)
    else:
        hidden = NUMPY_ACTIVATIONS[kind](hidden)
    expected = hidden @ contract['kernel'].T + contract['bias']
    np.testing.assert_allclose(network.apply({'params': params}, x), expected, rtol=1e-4, atol=1e-4)
    assert ('gate' in params) == (kind in GATED)


def test_a_gate_costs_no_more_parameters_than_it_replaces():
    plain, gated = (tiny_config(model__width=768, model__feedforward__kind=kind).model for kind in ('gelu', 'swiglu'))
    assert 2 * plain.feedforward.width == 3 * gated.feedforward.width


def position_of(kind, **changes):
    return make_position(tiny_config(model__position__kind=kind, **changes).model, 0.02)


def test_learned_positions_are_looked_up_by_position():
    x_BLD, position_BL = jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 0]])
    table = jnp.arange(8.0).reshape(2, 4)
    encoding = position_of('learned', data__length=2)
    y_BLD = encoding.apply({'params': {'embedding': table}}, x_BLD, position_BL, method='add')
    np.testing.assert_array_equal(y_BLD[0], table[position_BL[0]])


@pytest.mark.parametrize('width', [6, 5])
def test_sinusoidal_positions(width):
    x_BLD, position_BL = jnp.ones((1, 3, width)), jnp.array([[0, 7, 100]])
    y_BLD = position_of('sinusoidal').apply({}, x_BLD, position_BL, method='add')
    for place, position in enumerate([0, 7, 100]):
        for d in range(width):
            angle = position / 10_000 ** (2 * (d // 2) / width)
            expected = 1 + (np.cos(angle) if d % 2 else np.sin(angle))
            np.testing.assert_allclose(y_BLD[0, place, d], expected, atol=1e-5)


SCALINGS = [
    ('none', 16, 16, lambda position, rate: position * rate),
    ('linear', 64, 16, lambda position, rate: position * rate / 4),
    ('ntk', 64, 16, lambda position, rate: position * rate ** (1 + np.log(4 ** (8 / 6)) / np.log(10_000))),
]


@pytest.mark.parametrize(('scaling', 'longest', 'trained', 'angle_of'), SCALINGS)
def test_rotary_positions_turn_pairs_by_their_angle(scaling, longest, trained, angle_of):
    encoding = position_of(
        'rotary',
        model__position__scaling=scaling,
        model__position__max_length=longest,
        model__position__trained_length=trained,
    )
    x_BLHK = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    position_BL = jnp.array([[0, 1, 2], [5, 0, 13]])
    turned = np.asarray(rotate(x_BLHK, encoding.apply({}, position_BL, method='rotation')))
    for b, length, h, i in np.ndindex(2, 3, 4, 4):
        angle = angle_of(int(position_BL[b, length]), 10_000.0 ** (-2 * i / 8))
        first, second = float(x_BLHK[b, length, h, i]), float(x_BLHK[b, length, h, i + 4])
        both = first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)
        np.testing.assert_allclose(turned[b, length, h, [i, i + 4]], both, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(at, other):
        turn = [position_of('rotary').apply({}, jnp.array([[p]]), method='rotation') for p in (at, other)]
        return float(jnp.vdot(rotate(query, turn[0]), rotate(key, turn[1])))

    np.testing.assert_allclose(score(3, 1), score(12, 10), atol=1e-5)
    assert abs(score(3, 1) - score(1, 3)) > 1e-3


def test_the_slopes_of_alibi_are_the_published_ones():
    np.testing.assert_allclose(alibi_slopes(8), [2**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(12), alibi_slopes(8) + [2 ** -(i + 0.5) for i in range(4)])


def test_alibi_falls_off_with_the_distance():
    bias_HLM = position_of('alibi').apply({}, jnp.array([[0, 3], [-2, 0]]), method='bias')
    np.testing.assert_allclose(bias_HLM[1], [[0, -3 / 16], [-2 / 16, 0]])


def plain_t5_bucket(distance, buckets, longest):
    """As the paper says it: half of a direction's buckets are exact, the others grow logarithmically."""
    half = buckets // 2
    start, size, exact = (half if distance > 0 else 0), abs(distance), half // 2
    if size < exact:
        return start + size
    return start + min(half - 1, exact + int(np.log(size / exact) / np.log(longest / exact) * (half - exact)))


def test_t5_buckets():
    distances = np.arange(-300, 301)
    expected = [plain_t5_bucket(int(d), 32, 128) for d in distances]
    np.testing.assert_array_equal(t5_bucket(jnp.asarray(distances), 32, 128), expected)
    assert set(expected) == set(range(32)) - {16}


def test_t5_looks_its_bias_up_by_bucket_and_head():
    encoding, distance_LM = position_of('t5'), jnp.array([[0, 3], [-200, 0]])
    table = jax.random.normal(jax.random.key(0), (32, 4))
    bias_HLM = encoding.apply({'params': {'bias': table}}, distance_LM, method='bias')
    for h, i, j in np.ndindex(4, 2, 2):
        assert bias_HLM[h, i, j] == table[plain_t5_bucket(int(distance_LM[i, j]), 32, 128), h]


def test_an_encoding_does_nothing_that_it_does_not_say():
    x_BLD, position_BL, distance_LM = jnp.ones((1, 3, 8)), jnp.arange(3)[None], jnp.zeros((3, 3), int)
    does = {
        'learned': 'add',
        'sinusoidal': 'add',
        'rotary': 'rotation',
        'alibi': 'bias',
        't5': 'bias',
        'none': '',
        'relative': '',
    }
    assert does.keys() == POSITIONS.keys()
    for kind, method in does.items():
        encoding = position_of(kind)
        if method != 'add':
            np.testing.assert_array_equal(encoding.apply({}, x_BLD, position_BL, method='add'), x_BLD)
        if method != 'rotation':
            assert encoding.apply({}, position_BL, method='rotation') is None
        if method != 'bias':
            assert encoding.apply({}, distance_LM, method='bias') is None
