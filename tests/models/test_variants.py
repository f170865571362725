"""Every variant of the block: against plain NumPy, and in every way a model is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, largest_difference, one_device_setup, random_batch, tiny_config
from numpy_transformer import hidden_states, logits

from gpt2jax.models import make_model
from gpt2jax.models.embedding import pool

BERT = {
    'model__norm__placement': 'post',
    'model__norm__epsilon': 1e-12,
    'model__feedforward__kind': 'gelu',
    'model__embedding__norm': True,
    'model__embedding__token_types': 2,
    'model__head__transform': True,
    'model__head__bias': True,
}
VARIANTS = {
    'gpt2': {},
    'bert': BERT,
    'albert': BERT | {'model__embedding__width': 8},
    'untied': {'model__head__tied': False, 'model__head__bias': True, 'model__embedding__width': 8},
    'no position, gelu': {'model__position__kind': 'none', 'model__feedforward__kind': 'gelu'},
    'sinusoidal, relu': {'model__position__kind': 'sinusoidal', 'model__feedforward__kind': 'relu'},
    'alibi, relu2': {'model__position__kind': 'alibi', 'model__feedforward__kind': 'relu2'},
    't5, geglu': {'model__position__kind': 't5', 'model__feedforward__kind': 'geglu'},
    'rotary, swiglu': {'model__position__kind': 'rotary', 'model__feedforward__kind': 'swiglu'},
    'longer rotary': {
        'model__position__kind': 'rotary',
        'model__position__scaling': 'ntk',
        'model__position__max_length': 64,
        'model__position__trained_length': 16,
    },
    'post': {'model__norm__placement': 'post'},
    'sandwich, rmsnorm': {'model__norm__placement': 'sandwich', 'model__norm__kind': 'rmsnorm'},
    'no biases': {'model__attention__bias': False, 'model__feedforward__bias': False, 'model__norm__bias': False},
    'parallel': {'model__parallel': True},
    'parallel post': {'model__parallel': True, 'model__norm__placement': 'post'},
    'parallel sandwich': {'model__parallel': True, 'model__norm__placement': 'sandwich'},
    'multi-query': {'model__attention__num_kv_heads': 1},
    'grouped t5': {'model__attention__num_kv_heads': 2, 'model__position__kind': 't5'},
    'qk norm': {'model__attention__qk_norm': True},
    'softcaps': {'model__attention__softcap': 0.5, 'model__head__softcap': 0.3, 'model__position__kind': 'alibi'},
    'window': {'model__attention__window': 3},
    'window, some global': {'model__attention__window': 3, 'model__attention__global_every': 2},
    'value residual': {'model__attention__value_residual': True, 'model__attention__num_kv_heads': 2},
    'mup': {'model__parametrization__kind': 'mup', 'model__parametrization__base_width': 8},
    'everything': {
        'model__position__kind': 'rotary',
        'model__norm__kind': 'rmsnorm',
        'model__norm__placement': 'sandwich',
        'model__feedforward__kind': 'swiglu',
        'model__attention__num_kv_heads': 2,
        'model__attention__qk_norm': True,
        'model__attention__softcap': 5.0,
        'model__attention__window': 4,
        'model__attention__global_every': 2,
        'model__attention__value_residual': True,
        'model__head__tied': False,
    },
}
every_variant = pytest.mark.parametrize('name', VARIANTS)


def small_config(**changes):
    """Two layers are one that comes first and one that follows another."""
    return tiny_config(model__num_layers=2, **changes)


@functools.cache
def variant(name, **more):
    """(config.model, parameters, jitted apply): no parameter at a value, such as 0, that would hide a mistake."""
    config = small_config(**(VARIANTS[name] | more)).model
    model, random = make_model(config), np.random.default_rng(1)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    params = jax.tree.map(lambda a: (a + 0.2 * random.standard_normal(a.shape)).astype(np.float32), params)
    return config, params, jax.jit(model.apply)


def example_of(config, order='causal'):
    """Packed rows, with padding at the end of the last one; token types that change within a document."""
    example = jax.device_get(causal_example(3, 16))
    if config.embedding.token_types:
        example = example.replace(token_type=np.random.default_rng(5).integers(0, 2, (3, 16), dtype=np.int32))
    if order == 'full':
        example = example.replace(order=np.zeros_like(example.order))
    return example.replace(visibility='permuted')  # which at this length compiles to the same as any other


@every_variant
def test_it_is_what_numpy_says(name):
    config, params, apply = variant(name)
    for order in ('causal', 'full'):
        example = example_of(config, order)
        real_BL = np.asarray(example.segment) > 0
        hidden_ND = apply(params, example)[0][real_BL]
        expected_ND = hidden_states(config, params, example)[real_BL]
        np.testing.assert_allclose(hidden_ND, expected_ND, atol=2e-5 * np.abs(expected_ND).max())
    head_params, logits_fn = make_model(config).head(params)
    expected_NV = logits(config, params, expected_ND)
    np.testing.assert_allclose(
        jax.jit(logits_fn)(head_params, hidden_ND), expected_NV, atol=5e-5 * max(1, np.abs(expected_NV).max())
    )


@every_variant
def test_scanned_and_rematerialised_it_has_the_same_gradients_and_uses_every_parameter(name):
    config, params, _ = variant(name)
    example = example_of(config)

    def gradient_of(config):
        model = make_model(config)

        def loss(params):
            hidden_BLD, _ = model.apply(params, example, dropout_key=jax.random.key(1))
            head_params, logits_fn = model.head(params)
            return jnp.mean(jnp.sin(logits_fn(head_params, hidden_BLD.reshape(-1, config.width))[:, :260]))

        return jax.jit(jax.value_and_grad(loss))(params)

    rate = 0.1 if name in ('gpt2', 'everything') else 0.0  # drawing costs time
    options = {'model__dropout': rate, 'model__attention__dropout': rate, **VARIANTS[name]}
    expected = gradient_of(small_config(**options).model)
    found = gradient_of(small_config(**options, model__scan_layers=True, model__remat='full').model)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest_difference(expected, found) < 2e-5 * max(1, scale)
    unused = [
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, leaf in jax.tree_util.tree_flatten_with_path(expected[1])[0]
        if not jnp.abs(leaf).max() > 0
    ]
    # The first layer keeps its own values: its mix is there so that all layers are alike.
    assert unused == (['blocks/0/attention/value_mix'] if config.attention.value_residual else [])


@every_variant
def test_piece_by_piece_it_reads_the_same(name):
    config, params, apply = variant(name)
    example = example_of(config)
    whole_BLD, _ = apply(params, example)
    carry, pieces = make_model(config).init_carry(3, 20), []
    for start in range(0, 16, 4):
        piece = jax.tree.map(lambda a, s=slice(start, start + 4): a[:, s] if a.ndim == 2 else a, example)
        hidden_BLD, carry = apply(params, piece, carry)
        pieces.append(hidden_BLD)
    scale = float(jnp.abs(whole_BLD).max())
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole_BLD, atol=2e-5 * max(1, scale))


@every_variant
def test_packed_documents_read_as_they_would_alone(name):
    """Moved to the beginning of a row of its own, a document gives the same."""
    config, params, apply = variant(name)
    for order in ('causal', 'full'):
        example = example_of(config, order)
        place = np.flatnonzero(example.segment[1] == 2)
        alone = jax.tree.map(np.zeros_like, example)
        for name in ('inputs', 'order', 'segment', 'position', 'token_type'):
            if getattr(example, name) is not None:
                getattr(alone, name)[1, : len(place)] = getattr(example, name)[1, place]
        hidden_LD, whole_LD = apply(params, alone)[0][1, : len(place)], apply(params, example)[0][1, place]
        np.testing.assert_allclose(hidden_LD, whole_LD, atol=1e-4)


@every_variant
def test_in_bfloat16_it_stays_near_float32(name):
    config, params, apply = variant(name)
    half = make_model(small_config(**VARIANTS[name], model__dtype='bfloat16').model)
    example = example_of(config)
    expected_BLD, found_BLD = apply(params, example)[0], jax.jit(half.apply)(params, example)[0]
    assert found_BLD.dtype == jnp.bfloat16
    difference = np.abs(np.asarray(found_BLD, np.float32) - expected_BLD)
    assert 0 < difference.mean() < 0.03 * float(jnp.abs(expected_BLD).mean())


@pytest.mark.slow
@every_variant
def test_it_learns_a_batch_by_heart(name):
    options = {'training__steps': 50, 'optimizer__learning_rate': 1e-2, 'model__scan_layers': True, **VARIANTS[name]}
    if name == 'softcaps':
        options['model__head__softcap'] = 10.0  # the other one leaves no room to learn
    setup = one_device_setup(small_config(**options))
    state, step, batch = setup.initial_state(), setup.train_step(), random_batch(8, 16)
    losses = []
    for _ in range(50):
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss']))
    assert np.isclose(losses[0], np.log(260), rtol=0.1)
    assert losses[-1] < 0.85 * losses[0]


def test_residual_branches_that_begin_at_zero_begin_as_the_identity():
    config = tiny_config(model__init__residual='zero').model
    model = make_model(config)
    params = model.init(jax.random.key(0))
    example = causal_example(2, 16)
    hidden_BLD, _ = model.apply(params, example)
    none, _ = make_model(config).apply({**params, 'blocks': ()}, example)
    np.testing.assert_array_equal(hidden_BLD, none)


@pytest.mark.parametrize('name', ['bert', 'rotary, swiglu', 'sandwich, rmsnorm', 'qk norm', 'value residual'])
def test_two_arms_begin_with_the_same_values_wherever_they_share_a_parameter(name):
    def values(**changes):
        params = jax.jit(make_model(tiny_config(**changes, model__attention__num_kv_heads=0).model).init)(
            jax.random.key(0)
        )
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        return {(jax.tree_util.keystr(path), leaf.shape): np.asarray(leaf) for path, leaf in flat}

    changes = {key: value for key, value in VARIANTS[name].items() if key != 'model__attention__num_kv_heads'}
    plain, other = values(), values(**changes)
    shared = plain.keys() & other.keys()
    assert len(shared) > 12
    assert all(np.array_equal(plain[key], other[key]) for key in shared)


def test_mup_at_its_base_is_the_standard_parametrization():
    example = causal_example(2, 16)
    at_base = tiny_config(
        model__parametrization__kind='mup',
        model__parametrization__base_width=32,
        model__parametrization__base_head_width=8,
    ).model
    found, expected = (make_model(config) for config in (at_base, tiny_config().model))
    params = found.init(jax.random.key(0))
    assert largest_difference(params, expected.init(jax.random.key(0))) == 0
    np.testing.assert_array_equal(found.apply(params, example)[0], expected.apply(params, example)[0])
    hidden_ND = jnp.ones((3, 32))
    (a, logits_a), (b, logits_b) = found.head(params), expected.head(params)
    np.testing.assert_array_equal(logits_a(a, hidden_ND), logits_b(b, hidden_ND))


def test_attention_maps_are_the_weights_that_the_model_uses():
    """Their rows sum to one, and only what is visible has any weight."""
    config, params, _ = variant('everything')
    example = example_of(config)
    maps = jax.jit(make_model(config).attention_maps)(params, example)
    assert [a.shape for a in maps] == [(3, 4, 16, 16)] * 2
    for index, map_BHLM in enumerate(maps):
        np.testing.assert_allclose(map_BHLM.sum(-1), 1, atol=1e-5)
        order, segment, position = (np.asarray(a) for a in (example.order, example.segment, example.position))
        seen_BLM = (order[:, None] <= order[:, :, None]) & (segment[:, None] == segment[:, :, None])
        if (index + 1) % 2:
            seen_BLM &= np.abs(position[:, None] - position[:, :, None]) < 4
        np.testing.assert_array_equal(np.asarray(map_BHLM) > 0, np.broadcast_to(seen_BLM[:, None], map_BHLM.shape))


def test_the_pooler_is_a_matrix_and_tanh_on_the_first_token():
    config, params, _ = variant('bert', model__head__pooler=True)
    hidden_BLD = jax.random.normal(jax.random.key(0), (2, 5, 32))
    pooler = params['head']['pooler']
    expected_BD = np.tanh(np.asarray(hidden_BLD[:, 0], np.float64) @ pooler['kernel'].T + pooler['bias'])
    np.testing.assert_allclose(pool(config, pooler, hidden_BLD), expected_BD, atol=1e-5)
    assert 'pooler' not in make_model(config).head(params)[0]
