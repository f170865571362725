"""XLNet's objective: who is predicted, in which order, and who sees whom."""

import jax
import numpy as np
import pytest
from helpers import XLNET, example_of, random_batch, tiny_config

from gpt2jax.models.masks import visible
from gpt2jax.objectives import make_objective
from gpt2jax.objectives.hiding import most_hidden
from gpt2jax.objectives.permutation import IdentityOrder, hidden_queries, next_queries

ROWS, LENGTH = 6, 36
SIXTH = XLNET | {'objective__rate': 1 / 6}


def permuted(seed=0, batch=None, **changes):
    """(batch, example) of rows with three documents each."""
    batch = random_batch(ROWS, LENGTH) if batch is None else batch
    return batch, jax.tree.map(np.asarray, example_of('permutation', batch, seed, **SIXTH | changes))


def predicted_of(example, row):
    """Places of the predicted tokens of a row, in their order."""
    return example.queries.place[row][example.weights[row] > 0]


@pytest.mark.parametrize('mean_span', [1.0, 3.0])
def test_the_predicted_tokens_are_the_last_of_the_order_one_after_the_other(mean_span):
    _, example = permuted(objective__mean_span=mean_span, objective__rate=0.3)
    for row in range(ROWS):
        places = predicted_of(example, row)
        assert len(places) == len(set(places.tolist())) > 3
        assert example.order[row][places].tolist() == list(range(1, 1 + len(places)))
        assert not np.delete(example.order[row], places).any()
        np.testing.assert_array_equal(example.queries.order[row][: len(places)], example.order[row][places])


def test_a_query_is_asked_for_the_token_at_its_place_in_its_document():
    batch, example = permuted()
    for row in range(ROWS):
        places = predicted_of(example, row)
        count = len(places)
        np.testing.assert_array_equal(example.targets[row, :count], batch['tokens'][row, places])
        np.testing.assert_array_equal(example.queries.segment[row, :count], batch['segment'][row, places])
    np.testing.assert_array_equal(example.inputs, batch['tokens'][:, :-1])


def test_a_share_of_the_row_is_predicted_and_no_more_queries_are_made():
    _, example = permuted()
    objective = tiny_config(**SIXTH, objective__kind='permutation').objective
    assert example.weights.shape == (ROWS, most_hidden(objective, LENGTH)) == (ROWS, 6)
    # The first token of each of three documents is never predicted: 33 / 6, rounded; in the last row 30 / 6.
    assert example.weights.sum(1).tolist() == [6] * (ROWS - 1) + [5]


def test_the_order_is_drawn_and_not_that_of_the_text():
    _, example = permuted(objective__rate=0.5)
    places = [predicted_of(example, row).tolist() for row in range(ROWS)]
    assert all(order != sorted(order) for order in places)
    _, again = permuted(seed=1, objective__rate=0.5)
    assert places != [predicted_of(again, row).tolist() for row in range(ROWS)]


def test_every_order_of_three_tokens_is_as_likely_as_the_others():
    batch = random_batch(600, 4, documents=1)
    batch['segment'][:] = 1
    _, example = permuted(batch=batch, data__length=4, objective__rate=1.0)
    orders, counts = np.unique(example.queries.place[:, :3], axis=0, return_counts=True)
    assert len(orders) == 6  # of the places 1, 2 and 3
    assert counts.min() > 60


def test_spans_are_predicted_together():
    _, single = permuted(objective__rate=0.3)
    _, spans = permuted(objective__rate=0.3, objective__mean_span=6.0)

    def neighbours(example):
        hidden = example.order > 0
        return int((hidden[:, 1:] & hidden[:, :-1]).sum())

    assert neighbours(spans) > 2 * neighbours(single)


def test_a_documents_first_token_is_never_predicted_so_that_every_query_reads_something():
    _, example = permuted(objective__rate=1.0)
    assert not example.order[example.position == 0].any()
    queries = example.queries
    seen = np.asarray(visible(queries.order - 1, example.order, queries.segment, example.segment))
    assert seen.any(-1).all()


def test_a_real_query_does_not_see_its_own_token_nor_what_comes_after_it_in_the_order():
    _, example = permuted(objective__rate=0.6)
    queries = example.queries
    seen = np.asarray(visible(queries.order - 1, example.order, queries.segment, example.segment))
    for row, number in np.argwhere(example.weights > 0):
        place, segment = queries.place[row, number], queries.segment[row, number]
        for key in range(LENGTH):
            expected = example.segment[row, key] == segment and example.order[row, key] < example.order[row, place]
            assert seen[row, number, key] == expected
        assert not seen[row, number, place]


def test_the_identity_order_is_causal():
    """The next query sees what the token before it sees, so that the chain rule holds."""
    batch = random_batch(ROWS, LENGTH)
    objective = make_objective(tiny_config(**SIXTH, objective__kind='permutation'))
    identity = dict(objective.evaluations())['likelihood']
    assert type(identity) is IdentityOrder
    example, causal = identity(batch, jax.random.key(0), 1.0), example_of('causal', batch)
    np.testing.assert_array_equal(example.targets, causal.targets)
    np.testing.assert_array_equal(example.weights, causal.weights)
    queries = example.queries
    np.testing.assert_array_equal(queries.place[0], 1 + np.arange(LENGTH))
    np.testing.assert_array_equal(
        visible(queries.order - 1, example.order, queries.segment, example.segment),
        visible(causal.order, causal.order, causal.segment, causal.segment),
    )


def test_a_text_with_hidden_tokens_is_asked_at_their_places_and_shows_the_rest():
    _, example = permuted()
    mask = 257
    inputs = example.inputs.copy()
    inputs[:, [5, 9]] = mask
    asked = hidden_queries(example.replace(inputs=inputs), mask)
    queries = asked.queries
    seen = np.asarray(visible(queries.order - 1, asked.order, queries.segment, asked.segment))
    assert not seen[:, :, [5, 9]].any()
    np.testing.assert_array_equal(np.delete(seen, [5, 9], axis=2), np.delete(same_segment(example), [5, 9], axis=2))


def same_segment(example):
    return example.segment[:, :, None] == example.segment[:, None, :]


def test_what_follows_a_text_is_asked_one_place_behind_each_token():
    example = next_queries(example_of('causal', random_batch(2, 8)))
    assert np.asarray(example.place).tolist() == [list(range(1, 9))] * 2
