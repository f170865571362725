"""GPT-2: sizes, light cone, and the equivalence of every way to compute it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, largest_difference, tiny_config

from gpt2jax.evaluation.light_cone import light_cone
from gpt2jax.models import make_model
from gpt2jax.models import transformer as transformer_file
from gpt2jax.models.masks import visible


def model_of(**changes):
    model = make_model(tiny_config(**changes).model)
    return model, jax.jit(model.init)(jax.random.key(0))


def test_an_output_depends_on_what_its_mask_shows_and_on_nothing_else():
    """No gradient reaches a later token or another document; every visible token has one."""
    model, params = model_of(model__num_layers=2)
    example = causal_example(3, 12)
    expected = visible(example.order, example.order, example.segment, example.segment)
    np.testing.assert_array_equal(light_cone(model, params, example), expected)


def test_the_light_cone_test_sees_a_broken_mask(monkeypatch):
    monkeypatch.setattr(transformer_file, 'visible', lambda oq, ok, sq, sk: ok[:, None, :] <= oq[:, :, None] + 1)
    model, params = model_of(model__num_layers=2)
    example = causal_example(2, 12)
    expected = visible(example.order, example.order, example.segment, example.segment)
    assert (light_cone(model, params, example) != expected).any()


@pytest.mark.parametrize('order', ['full', 'permuted'])
def test_the_model_obeys_any_order(order):
    """The model does not know the objective: other orders give other light cones, with the same parameters."""
    model, params = model_of(model__num_layers=1)
    example = causal_example(2, 8)
    order_BL = jnp.zeros_like(example.order)
    if order == 'permuted':
        order_BL = jnp.asarray(np.stack([np.random.default_rng(b).permutation(8) for b in range(2)]), jnp.int32)
    example = example.replace(order=order_BL, visibility='permuted')
    expected = visible(order_BL, order_BL, example.segment, example.segment)
    np.testing.assert_array_equal(light_cone(model, params, example), expected)


@pytest.mark.parametrize(
    'changes',
    [
        {'model__scan_layers': True},
        {'model__remat': 'full'},
        {'model__remat': 'dots'},
        {'model__remat': 'offload'},
        {'model__scan_layers': True, 'model__remat': 'full'},
        {'model__attention__kernel': 'fused'},
        {'model__attention__kernel': 'einsum'},
    ],
    ids=str,
)
def test_every_way_to_compute_it_gives_the_same_values_and_gradients(changes):
    example = causal_example(4, 16)
    (plain, params), (other, other_params) = model_of(), model_of(**changes)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (params, other_params)), strict=True))

    def loss(model):
        return lambda params: jnp.mean(jnp.sin(3 * model.apply(params, example)[0]))

    expected, found = (jax.jit(jax.value_and_grad(loss(model)))(params) for model in (plain, other))
    assert largest_difference(expected, found) < 1e-5


def test_remat_really_computes_again():
    example = causal_example(4, 16)

    def exponentials(**changes):
        model, params = model_of(**changes)
        gradient = jax.grad(lambda params: jnp.sum(model.apply(params, example)[0]))
        return str(jax.make_jaxpr(gradient)(params)).count(' exp ')

    assert exponentials(model__remat='full') > exponentials()


def test_offloaded_products_wait_on_the_host():
    """The compiler for CPUs, whose memory is the host's, drops the moves; the program that it is given has them."""
    example = causal_example(4, 16)

    def program(**changes):
        model, params = model_of(**changes)
        return str(jax.make_jaxpr(jax.grad(lambda params: jnp.sum(model.apply(params, example)[0])))(params))

    moves = program(model__remat='offload').count('Host')
    assert moves >= 4
    assert program(model__remat='dots').count('Host') == 0


def test_padded_ids_have_no_probability():
    model, params = model_of(model__vocab_multiple=128)
    head_params, logits_fn = model.head(params)
    logits_NV = logits_fn(head_params, jnp.ones((1, 32)))
    assert logits_NV.shape == (1, 384)
    assert np.isfinite(logits_NV[:, :260]).all()
    assert np.isneginf(logits_NV[:, 260:]).all()


def test_an_untied_head_is_its_own_matrix():
    model, params = model_of(model__head__tied=False)
    assert params['head']['kernel'].shape == params['embedding']['token'].shape
    assert largest_difference(params['head']['kernel'], params['embedding']['token']) > 0
    assert model.head(params)[0]['kernel'] is params['head']['kernel']


def test_initial_values_have_the_spread_of_gpt2():
    config = tiny_config(model__width=128, model__num_layers=8)
    params = make_model(config.model).init(jax.random.key(0))
    for name, kernel in (('attention', 'query'), ('feedforward', 'expand')):
        kernels = [layer[name][kernel]['kernel'] for layer in params['blocks']]
        np.testing.assert_allclose(np.std(kernels), 0.02, rtol=0.02)
        assert len({float(jnp.sum(kernel)) for kernel in kernels}) == 8  # layers start apart
    for name, kernel in (('attention', 'out'), ('feedforward', 'contract')):
        kernels = [layer[name][kernel]['kernel'] for layer in params['blocks']]
        np.testing.assert_allclose(np.std(kernels), 0.02 / (2 * 8) ** 0.5, rtol=0.02)


def test_parameters_are_float32_whatever_the_products_are():
    _, params = model_of(model__dtype='bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}


def test_dropout_drops_at_its_rate_and_only_when_asked():
    example = causal_example(4, 16)
    model, params = model_of(model__dropout=0.3, model__attention__dropout=0.3)
    silent, _ = jax.jit(model.apply)(params, example)
    np.testing.assert_array_equal(silent, jax.jit(model_of()[0].apply)(params, example)[0])
    apply = jax.jit(lambda seed: model.apply(params, example, dropout_key=jax.random.key(seed))[0])
    first, again, other = (apply(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert largest_difference(first, other) > 0
    assert largest_difference(first, silent) > 0
