"""XLNet: what its two streams see, by gradient and by computing the same thing in another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import XLNET, causal_example, example_of, largest_difference, random_batch, tiny_config

from gpt2jax.evaluation.light_cone import check_light_cone, expected_cone, light_cone, noisy_params
from gpt2jax.models import make_model
from gpt2jax.objectives import Queries, make_objective

SMALL = XLNET | {'model__num_layers': 2, 'model__width': 16, 'model__attention__num_heads': 2, 'model__init__std': 0.3}
LENGTH = 12


def model_of(**changes):
    return make_model(tiny_config(**SMALL | changes).model)


def permuted(rows=2, length=LENGTH, **changes):
    return example_of('permutation', random_batch(rows, length, documents=2), **SMALL, objective__rate=0.6, **changes)


def identity(rows=2, length=LENGTH):
    objective = make_objective(tiny_config(**SMALL, objective__kind='permutation'))
    return dict(objective.evaluations())['likelihood'](random_batch(rows, length), jax.random.key(0), 1.0)


@pytest.mark.parametrize('changes', [{}, {'model__norm__placement': 'pre'}, {'model__scan_layers': True}])
def test_a_query_sees_what_comes_before_it_in_the_order_and_neither_itself_nor_anything_else(changes):
    example = permuted()
    verdict = check_light_cone(model_of(**changes), example)
    assert verdict.agrees, (verdict.leaks, verdict.blind)
    own = np.take_along_axis(expected_cone(model_of().config, example), np.asarray(example.queries.place)[..., None], 2)
    assert not own[np.asarray(example.weights) > 0].any()


@pytest.mark.parametrize('example', [identity(), causal_example(2, LENGTH)], ids=['queries', 'content alone'])
def test_the_order_of_the_text_is_causal_by_gradient(example):
    assert check_light_cone(model_of(), example).agrees


def test_a_query_that_saw_its_own_order_would_be_found_out():
    example, model = permuted(), model_of()
    queries = example.queries
    loose = example.replace(queries=queries.replace(order=queries.order + 1))
    seen_BPL = light_cone(model, noisy_params(model, 0), loose)
    real_BP = np.asarray(example.weights) > 0
    own_BP = np.take_along_axis(seen_BPL, np.asarray(queries.place)[..., None], 2)[..., 0]
    assert own_BP[real_BP].all()
    assert (seen_BPL & ~expected_cone(model.config, example)).any()


def test_the_identity_permutation_is_causal():
    """Every token but the first predicted in the order of the text: the queries find what those of the chain rule do,
    and these find what they would if the row ended before them.
    """
    model, chain = model_of(), identity(rows=1)
    chain = chain.replace(segment=jnp.ones_like(chain.segment))
    chain = chain.replace(queries=chain.queries.replace(segment=jnp.ones_like(chain.segment)))
    params = noisy_params(model, 0)
    place_BP = jnp.arange(1, LENGTH)[None]
    drawn = chain.replace(visibility='permuted', queries=Queries(place_BP, place_BP, jnp.ones_like(place_BP)))
    by_chain, _ = model.apply(params, chain)
    by_order, _ = model.apply(params, drawn)
    np.testing.assert_allclose(by_chain[:, :-1], by_order, atol=1e-5)
    for end in (1, 5, LENGTH):
        cut = jax.tree.map(lambda a, end=end: a[:, :end] if a.ndim == 2 else a, chain)
        alone, _ = model.apply(params, cut)
        np.testing.assert_allclose(alone[:, -1], by_chain[:, end - 1], atol=1e-5)


def test_the_content_stream_does_not_notice_the_queries():
    """So that a model that was trained with them reads a text without."""
    model, example = model_of(), permuted()
    params = noisy_params(model, 0)
    hidden, _ = model.apply(params, example.replace(queries=None))
    some = jax.tree.map(lambda a: a[:, :1], example.queries)
    one, _ = model.apply(params, example.replace(queries=some))
    all_of_them, _ = model.apply(params, example)
    np.testing.assert_allclose(one, all_of_them[:, :1], atol=1e-5)
    assert hidden.shape == (*example.inputs.shape, 16)


def test_queries_know_where_their_token_stands():
    model, example = model_of(), permuted()
    hidden, _ = model.apply(noisy_params(model, 0), example)
    first, second = hidden[0, 0], hidden[0, 1]
    assert float(jnp.max(jnp.abs(first - second))) > 0.01
    moved = example.queries.replace(place=example.queries.place[:, ::-1])
    other, _ = model.apply(noisy_params(model, 0), example.replace(queries=moved))
    assert float(jnp.max(jnp.abs(hidden - other))) > 0.01


def test_token_types_are_compared_and_not_added():
    """Two texts with their types exchanged are the same to the model (section 2.5)."""
    model, example = model_of(), permuted()
    params = noisy_params(model, 0)
    type_BL = (jnp.arange(LENGTH) > 5).astype(jnp.int32)[None] * jnp.ones((2, 1), jnp.int32)
    type_BP = jnp.take_along_axis(type_BL, example.queries.place, axis=1)

    def hidden_of(flip):
        queries = example.queries.replace(token_type=flip(type_BP))
        return model.apply(params, example.replace(token_type=flip(type_BL), queries=queries))[0]

    untyped, _ = model.apply(params, example)
    assert largest_difference(hidden_of(lambda t: t), hidden_of(lambda t: 1 - t)) == 0
    assert largest_difference(hidden_of(lambda t: t), untyped) > 0.01
    np.testing.assert_allclose(hidden_of(jnp.zeros_like), untyped, atol=1e-5)


def test_the_layers_in_a_loop_or_computed_again_are_the_same_function():
    example, key = permuted(), jax.random.key(5)
    dropout = {'model__dropout': 0.2, 'model__attention__dropout': 0.2}
    params = noisy_params(model_of(), 0)

    def gradient(**changes):
        model = model_of(**dropout, **changes)
        return jax.grad(lambda p: jnp.sum(model.apply(p, example, dropout_key=key)[0] ** 3))(params)

    plain = gradient()
    for changes in ({'model__scan_layers': True}, {'model__remat': 'full'}, {'model__remat': 'dots'}):
        others = gradient(**changes)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, others)


def test_the_query_vector_is_the_only_parameter_more_than_a_transformer_has():
    shapes = {
        kind: jax.eval_shape(
            make_model(tiny_config(**SMALL | {'model__architecture': kind}).model).init, jax.random.key(0)
        )
        for kind in ('transformer', 'xlnet')
    }
    query = shapes['xlnet']['embedding'].pop('query')
    assert query.shape == (16,)
    assert shapes['xlnet'] == shapes['transformer']
