"""The chunked loss is the plain loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference

from gpt2jax.losses import all_token_nats, cross_entropy

B, L, D, V = 3, 17, 8, 33


@pytest.fixture(name='arrays')
def make_arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden_BLD, table_VD = jax.random.normal(keys[0], (B, L, D)), jax.random.normal(keys[1], (V, D))
    targets_BL = jax.random.randint(keys[2], (B, L), 0, V)
    weights_BL = jax.random.bernoulli(keys[3], 0.7, (B, L)) * 1.0
    return table_VD, hidden_BLD, targets_BL, weights_BL


def logits_fn(table_VD, hidden_ND):
    return hidden_ND @ table_VD.T


def plain(table_VD, hidden_BLD, targets_BL, weights_BL, z_loss, label_smoothing):
    logits_BLV = hidden_BLD @ table_VD.T
    log_z_BL = jnp.log(jnp.sum(jnp.exp(logits_BLV), -1))
    hot_BLV = jax.nn.one_hot(targets_BL, V)
    nats_BL = log_z_BL - jnp.sum(logits_BLV * hot_BLV, -1)
    smooth_BLV = (1 - label_smoothing) * hot_BLV + label_smoothing / V
    loss_BL = jnp.sum(smooth_BLV * (log_z_BL[..., None] - logits_BLV), -1) + z_loss * log_z_BL**2
    return jnp.sum(weights_BL * loss_BL), jnp.sum(weights_BL * nats_BL)


@pytest.mark.parametrize(('z_loss', 'label_smoothing'), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.1), (0.01, 0.3)])
@pytest.mark.parametrize('chunk_tokens', [0, 1, 5, 12, B * L, 1000])
def test_chunked_loss_and_gradient_equal_the_plain_ones(arrays, chunk_tokens, z_loss, label_smoothing):
    table_VD, hidden_BLD, targets_BL, weights_BL = arrays

    def chunked_loss(table_VD, hidden_BLD):
        terms = {'z_loss': z_loss, 'label_smoothing': label_smoothing}
        options = {'chunk_tokens': chunk_tokens, 'predictions': L} | terms
        loss, nats = cross_entropy(logits_fn, table_VD, hidden_BLD, targets_BL, weights_BL, **options)
        return 3 * loss / weights_BL.sum(), nats / weights_BL.sum()

    def plain_loss(table_VD, hidden_BLD):
        loss, nats = plain(table_VD, hidden_BLD, targets_BL, weights_BL, z_loss, label_smoothing)
        return 3 * loss / weights_BL.sum(), nats / weights_BL.sum()

    results = [jax.value_and_grad(f, (0, 1), has_aux=True)(table_VD, hidden_BLD) for f in (chunked_loss, plain_loss)]
    assert largest_difference(*results) < 1e-5


def test_gathering_the_predicted_positions_first_changes_nothing(arrays):
    table_VD, hidden_BLD, targets_BL, _ = arrays
    weights_BL = jnp.zeros((B, L)).at[:, jnp.asarray([2, 3, 11])].set(1.0).at[1, 3].set(0.0)

    def loss(hidden_BLD, predictions):
        options = {'chunk_tokens': 6, 'z_loss': 0.1, 'label_smoothing': 0.0, 'predictions': predictions}
        return cross_entropy(logits_fn, table_VD, hidden_BLD, targets_BL, weights_BL, **options)[0]

    gathered, whole = (jax.value_and_grad(loss)(hidden_BLD, predictions) for predictions in (3, L))
    assert largest_difference(gathered, whole) < 1e-5


def test_logits_of_all_tokens_never_exist_at_once(arrays):
    table_VD, hidden_BLD, targets_BL, weights_BL = arrays

    def loss(table_VD, hidden_BLD):
        options = {'chunk_tokens': 2 * B, 'z_loss': 0.0, 'label_smoothing': 0.0, 'predictions': L}
        return cross_entropy(logits_fn, table_VD, hidden_BLD, targets_BL, weights_BL, **options)[0]

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(table_VD, hidden_BLD).as_text()
    assert f'tensor<{2 * B}x{V}xf32>' in compiled  # the logits of a chunk
    assert f'tensor<{B * L}x{V}xf32>' not in compiled
    assert f'x{B * L}x{V}xf32>' not in compiled


@pytest.mark.parametrize('chunk_tokens', [0, 5, 12])
def test_token_nats_of_an_evaluation_are_those_of_each_token(arrays, chunk_tokens):
    table_VD, hidden_BLD, targets_BL, _ = arrays
    nats_BL = all_token_nats(logits_fn, table_VD, hidden_BLD, targets_BL, chunk_tokens=chunk_tokens)
    log_p_BLV = jax.nn.log_softmax(hidden_BLD @ table_VD.T)
    expected_BL = -np.take_along_axis(np.asarray(log_p_BLV), np.asarray(targets_BL)[..., None], -1)[..., 0]
    np.testing.assert_allclose(nats_BL, expected_BL, atol=1e-5)


def test_a_target_without_a_logit_counts_for_nothing_where_its_weight_is_zero():
    def logits(head_params, hidden_ND):
        return jnp.where(jnp.arange(8) < 6, hidden_ND @ head_params, -jnp.inf)

    hidden_BLD, head_params = jnp.ones((1, 4, 3)), jnp.full((3, 8), 0.1)
    targets_BL, weights_BL = jnp.array([[1, 2, 7, 6]]), jnp.array([[1.0, 1.0, 0.0, 0.0]])

    def loss(head_params, hidden_BLD):
        options = {'chunk_tokens': 2, 'z_loss': 1e-4, 'label_smoothing': 0.0, 'predictions': 4}
        return cross_entropy(logits, head_params, hidden_BLD, targets_BL, weights_BL, **options)[0]

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(head_params, hidden_BLD)
    assert np.isclose(value, 2 * np.log(6), rtol=1e-3)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_label_smoothing_spreads_over_the_ids_that_exist_and_leaves_the_reported_nats_alone():
    """Vaswani et al. 2017, section 5.4, with 6 of 8 ids: padded logits are -inf and must not enter."""

    def padded(table_VD, hidden_ND):
        return jnp.where(jnp.arange(8) < 6, hidden_ND @ table_VD.T, -jnp.inf)

    keys = jax.random.split(jax.random.key(1), 2)
    table_VD, hidden_BLD = jax.random.normal(keys[0], (8, D)), jax.random.normal(keys[1], (1, 5, D))
    targets_BL, weights_BL = jnp.array([[0, 5, 2, 3, 7]]), jnp.array([[1.0, 1.0, 1.0, 1.0, 0.0]])

    def smoothed(table_VD, hidden_BLD):
        options = {'chunk_tokens': 2, 'z_loss': 0.0, 'label_smoothing': 0.2, 'predictions': 5}
        return cross_entropy(padded, table_VD, hidden_BLD, targets_BL, weights_BL, **options)

    def formula(table_VD, hidden_BLD):
        log_p_LV = jax.nn.log_softmax(hidden_BLD[0, :4] @ table_VD[:6].T)
        nats_L = -log_p_LV[jnp.arange(4), targets_BL[0, :4]]
        return jnp.sum(0.8 * nats_L - 0.2 * jnp.mean(log_p_LV, axis=-1)), jnp.sum(nats_L)

    found, expected = (jax.value_and_grad(f, (0, 1), has_aux=True)(table_VD, hidden_BLD) for f in (smoothed, formula))
    assert largest_difference(found, expected) < 1e-5
