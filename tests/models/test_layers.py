"""Norms, activations and positions against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gpt2jax.models.feedforward import ACTIVATIONS
from gpt2jax.models.norms import NORMS
from gpt2jax.models.positions import Learned, NoPosition


def numpy_layernorm(x, scale, bias, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def numpy_rmsnorm(x, scale, bias, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale + bias


NUMPY_NORMS = {'layernorm': numpy_layernorm, 'rmsnorm': numpy_rmsnorm}
NUMPY_ACTIVATIONS = {
    'gelu': lambda x: x * 0.5 * (1 + special.erf(x / np.sqrt(2))),
    'gelu_tanh': lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    'relu': lambda x: np.maximum(x, 0),
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


def test_learned_positions_are_looked_up_by_position():
    x_BLD, position_BL = jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 0]])
    table = jnp.arange(8.0).reshape(2, 4)
    y_BLD = Learned(2, 0.02).apply({'params': {'embedding': table}}, x_BLD, position_BL)
    np.testing.assert_array_equal(y_BLD[0], table[position_BL[0]])


def test_no_position_adds_nothing():
    x_BLD = jnp.ones((1, 3, 4))
    np.testing.assert_array_equal(NoPosition(2, 0.02).apply({}, x_BLD, jnp.zeros((1, 3), int)), x_BLD)
