"""Products and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax.models.linear import Linear, dropout_rows
from gpt2jax.placement import Placement


@pytest.mark.parametrize('length', [3, 30], ids=['few rows', 'many rows'])
def test_linear_is_the_product_over_the_last_axis(length):
    x_BLD = jax.random.normal(jax.random.key(0), (2, length, 8))
    params = Linear(5, 0.1, True, 'float32').init(jax.random.key(1), x_BLD)['params']
    params['bias'] = jnp.arange(5.0)
    y_BLE = Linear(5, 0.1, True, 'float32').apply({'params': params}, x_BLD)
    expected = np.einsum('bld,ed->ble', x_BLD, params['kernel']) + np.arange(5)
    np.testing.assert_allclose(y_BLE, expected, atol=1e-5)


def test_dropout_keeps_the_mean_and_the_rate():
    x_BLD = jnp.ones((4, 50, 100))
    y_BLD = dropout_rows(x_BLD, 0.25, jax.random.key(0), jnp.arange(4))
    np.testing.assert_allclose(jnp.mean(y_BLD == 0), 0.25, atol=0.01)
    np.testing.assert_allclose(jnp.mean(y_BLD), 1, atol=0.02)
    np.testing.assert_allclose(jnp.max(y_BLD), 1 / 0.75)


def test_what_a_row_drops_depends_on_the_row_and_not_on_its_neighbours():
    x_BLD, key = jnp.ones((4, 5, 6)), jax.random.key(0)
    whole_BLD = dropout_rows(x_BLD, 0.5, key, jnp.arange(4))
    part_BLD = dropout_rows(x_BLD[:2], 0.5, key, jnp.array([3, 1]))
    np.testing.assert_array_equal(part_BLD, whole_BLD[jnp.array([3, 1])])
    assert (whole_BLD[0] != whole_BLD[1]).any()


@pytest.mark.parametrize(('heads_in', 'heads_out'), [(0, 0), (3, 0), (0, 4), (3, 4)])
def test_heads_are_parts_of_one_axis_however_the_product_is_written(heads_in, heads_out):
    x_BLD = jax.random.normal(jax.random.key(0), (2, 5, 6))
    shape = (2, 5, heads_in, 6 // heads_in) if heads_in else (2, 5, 6)
    options = {'heads_in': heads_in, 'heads_out': heads_out}
    flat, apart = (Linear(8, 0.1, True, 'float32', flat=flat, **options) for flat in (True, False))
    params = flat.init(jax.random.key(1), x_BLD.reshape(shape))
    params['params']['bias'] = jnp.arange(8.0)
    plain_BLE = x_BLD @ params['params']['kernel'].T + jnp.arange(8.0)
    for linear in (flat, apart):
        y = linear.apply(params, x_BLD.reshape(shape))
        assert y.shape == ((2, 5, heads_out, 8 // heads_out) if heads_out else (2, 5, 8))
        np.testing.assert_allclose(y.reshape(2, 5, 8), plain_BLE, atol=1e-6)


def test_the_parts_of_a_row_drop_what_the_whole_row_drops(monkeypatch):
    """As on a mesh, where a device has a part of the length; here its index is given."""
    x_BLD, key, row_B = jnp.ones((2, 8, 4)), jax.random.key(0), jnp.arange(2)
    monkeypatch.setattr(Placement, 'parts', lambda self, axis: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax.lax, 'axis_index', lambda axis, index=index: index)
        parts.append(dropout_rows(x_BLD[:, 4 * index : 4 * index + 4], 0.5, key, row_B, Placement()))
    monkeypatch.undo()
    np.testing.assert_array_equal(np.concatenate(parts, 1), dropout_rows(x_BLD, 0.5, key, row_B))
