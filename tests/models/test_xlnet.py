"""XLNet: what its two streams see, by gradient and by computing the same thing in another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import XLNET, causal_example, compiled, example_of, largest_difference, random_batch, tiny_config

from gpt2jax.evaluation.light_cone import check_light_cone, expected_cone, light_cone, noisy_params
from gpt2jax.models import make_model
from gpt2jax.objectives import Queries, make_objective
from gpt2jax.objectives.texts import text_example

SMALL = XLNET | {'model__num_layers': 2, 'model__width': 16, 'model__attention__num_heads': 2, 'model__init__std': 0.3}
LENGTH = 12


def model_of(**changes):
    return make_model(tiny_config(**SMALL | changes).model)


def permuted(rows=2, length=LENGTH, **changes):
    return example_of('permutation', random_batch(rows, length, documents=2), **SMALL, objective__rate=0.6, **changes)


def identity(rows=2, length=LENGTH):
    objective = make_objective(tiny_config(**SMALL, objective__kind='permutation'))
    return dict(objective.evaluations())['likelihood'](random_batch(rows, length), jax.random.key(0), 1.0)


@pytest.mark.parametrize('changes', [{}, {'model__norm__placement': 'pre', 'model__scan_layers': True}])
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
    by_chain, _ = compiled(model)(params, chain)
    by_order, _ = compiled(model)(params, drawn)
    np.testing.assert_allclose(by_chain[:, :-1], by_order, atol=1e-5)
    for end in (1, 5, LENGTH):
        cut = jax.tree.map(lambda a, end=end: a[:, :end] if a.ndim == 2 else a, chain)
        alone, _ = compiled(model)(params, cut)
        np.testing.assert_allclose(alone[:, -1], by_chain[:, end - 1], atol=1e-5)


def test_the_content_stream_does_not_notice_the_queries():
    """So that a model that was trained with them reads a text without."""
    model, example = model_of(), permuted()
    params = noisy_params(model, 0)
    hidden, _ = compiled(model)(params, example.replace(queries=None))
    some = jax.tree.map(lambda a: a[:, :1], example.queries)
    one, _ = compiled(model)(params, example.replace(queries=some))
    all_of_them, _ = compiled(model)(params, example)
    np.testing.assert_allclose(one, all_of_them[:, :1], atol=1e-5)
    assert hidden.shape == (*example.inputs.shape, 16)


def test_queries_know_where_their_token_stands():
    model, example = model_of(), permuted()
    hidden, _ = compiled(model)(noisy_params(model, 0), example)
    first, second = hidden[0, 0], hidden[0, 1]
    assert float(jnp.max(jnp.abs(first - second))) > 0.01
    moved = example.queries.replace(place=example.queries.place[:, ::-1])
    other, _ = compiled(model)(noisy_params(model, 0), example.replace(queries=moved))
    assert float(jnp.max(jnp.abs(hidden - other))) > 0.01


def test_token_types_are_compared_and_not_added():
    """Two texts with their types exchanged are the same to the model (section 2.5)."""
    model, example = model_of(), permuted()
    params = noisy_params(model, 0)
    type_BL = (jnp.arange(LENGTH) > 5).astype(jnp.int32)[None] * jnp.ones((2, 1), jnp.int32)
    type_BP = jnp.take_along_axis(type_BL, example.queries.place, axis=1)

    def hidden_of(flip):
        queries = example.queries.replace(token_type=flip(type_BP))
        return compiled(model)(params, example.replace(token_type=flip(type_BL), queries=queries))[0]

    untyped, _ = compiled(model)(params, example)
    assert largest_difference(hidden_of(lambda t: t), hidden_of(lambda t: 1 - t)) == 0
    assert largest_difference(hidden_of(lambda t: t), untyped) > 0.01
    np.testing.assert_allclose(hidden_of(jnp.zeros_like), untyped, atol=1e-5)


def test_the_layers_in_a_loop_or_computed_again_are_the_same_function():
    example, key = permuted(), jax.random.key(5)
    dropout = {'model__dropout': 0.2, 'model__attention__dropout': 0.2}
    params = noisy_params(model_of(), 0)

    def gradient(**changes):
        model = model_of(**dropout, **changes)
        return jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, example, dropout_key=key)[0] ** 3)))(params)

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


# With a memory, and token by token

MEMORY = {'model__memory_length': 7, 'data__order': 'contiguous'}


def continuing(example, continues=True):
    return example.replace(continues=jnp.full(len(example.inputs), continues))


def test_queries_read_the_memory_of_their_document_and_no_gradient_goes_there():
    model = model_of(**MEMORY)
    params = noisy_params(model, 0)
    first = identity(rows=1)
    whole = jnp.ones_like(first.segment)
    first = first.replace(segment=whole, queries=first.queries.replace(segment=whole))
    fresh, carry = compiled(model)(params, first, model.init_memory(1))

    @jax.jit
    def summed(layers, example):
        return jnp.sum(model.apply(params, example, carry.replace(layers=layers))[0] ** 2)

    for continues in (True, False):
        gradient = jax.grad(summed)(carry.layers, continuing(first, continues))
        assert all(bool(jnp.any(g != 0)) == continues for g in gradient)
    alone, _ = compiled(model)(params, continuing(first, continues=False), carry)
    np.testing.assert_allclose(alone, fresh, atol=1e-5)
    other = first.queries.replace(segment=2 * whole)  # of a document that begins in this row
    masked = continuing(first.replace(segment=2 * whole, queries=other))
    hidden, _ = compiled(model)(params, masked, carry)
    np.testing.assert_allclose(hidden, fresh, atol=1e-5)
    through = jax.grad(lambda p: jnp.sum(jnp.stack(model.apply(p, first, model.init_memory(1))[1].layers)))(params)
    assert not any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(through))


def test_decoding_token_by_token_asks_what_the_chain_rule_does():
    """The query behind each token, from a cache, is that of a whole row; with a memory also beyond its slots."""
    model, example = model_of(), identity(rows=2)
    params = noisy_params(model, 0)
    whole = jnp.ones_like(example.segment)
    example = example.replace(segment=whole, queries=None)
    objective = make_objective(tiny_config(**SMALL, objective__kind='permutation'))
    asked = objective.asked(model)
    expected, _ = compiled(asked)(params, example)
    carry, found = asked.init_carry(2, LENGTH), []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, LENGTH)):
        part = jax.tree.map(lambda a, s=start, e=end: a[:, s:e] if a.ndim == 2 else a, example)
        hidden, carry = compiled(asked)(params, part.replace(visibility='permuted'), carry)
        found.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), expected, atol=1e-5)


def test_a_rolling_cache_reads_as_many_tokens_as_it_has_slots():
    """One layer, so that what is forgotten leaves no trace: a token sees the newest slots, itself among them."""
    model = model_of(**MEMORY, model__num_layers=1)
    assert model.rolling
    params, slots = noisy_params(model, 0), 5
    asked = make_objective(tiny_config(**SMALL, objective__kind='permutation')).asked(model)
    example = identity(rows=1).replace(queries=None)
    example = example.replace(segment=jnp.ones_like(example.segment))
    carry, found = asked.init_carry(1, slots), []
    for place in range(LENGTH):
        part = jax.tree.map(lambda a, p=place: a[:, p : p + 1] if a.ndim == 2 else a, example)
        hidden, carry = compiled(asked)(params, part.replace(visibility='permuted'), carry)
        found.append(hidden[:, 0])
    for end in (3, 5, 6, LENGTH):
        start = max(0, end - slots)
        part = jax.tree.map(lambda a, s=start, e=end: a[:, s:e] if a.ndim == 2 else a, example)
        alone, _ = compiled(asked)(params, part)
        np.testing.assert_allclose(alone[:, -1], found[end - 1], atol=1e-5)


def test_a_hidden_token_is_told_by_both_sides_and_not_by_itself():
    config = tiny_config(**SMALL, objective__kind='permutation')
    asked, mask = make_objective(config).asked(model_of()), 257
    params = noisy_params(asked.model, 0)
    ids_BL = jnp.asarray(random_batch(1, LENGTH)['tokens'][:, :-1])
    place = 4

    @jax.jit
    def hidden_at(ids_BL):
        return asked.apply(params, text_example(ids_BL, jnp.array([LENGTH]), 'full'))[0][:, place]

    blank_BL = ids_BL.at[:, place].set(mask)
    plain = hidden_at(blank_BL)
    for other in range(LENGTH):
        changed = hidden_at(blank_BL.at[:, other].set(17 if other != place else mask))
        assert bool(jnp.any(changed != plain)) == (other != place)
