"""The causal objective: what is seen, what is predicted."""

import jax
import numpy as np
from helpers import causal_example, random_batch, tiny_config

from gpt2jax.objectives import OBJECTIVES, Causal, make_objective


def test_targets_are_the_next_tokens_and_padding_counts_nothing():
    batch = random_batch(4, 12)
    example = causal_example(4, 12)
    np.testing.assert_array_equal(example.inputs, batch['tokens'][:, :-1])
    np.testing.assert_array_equal(example.targets, batch['tokens'][:, 1:])
    np.testing.assert_array_equal(example.weights, batch['segment'][:, 1:] > 0)
    assert 0 < example.weights.sum() < example.weights.size


def test_positions_restart_in_every_document():
    batch, example = random_batch(4, 12), causal_example(4, 12)
    for segments, positions in zip(batch['segment'][:, :-1], np.asarray(example.position), strict=True):
        count = {}
        for segment, position in zip(segments, positions, strict=True):
            assert position == count.get(segment, 0)
            count[segment] = count.get(segment, 0) + 1


def test_the_order_is_the_index_so_that_later_tokens_are_hidden():
    example = causal_example(2, 9)
    np.testing.assert_array_equal(example.order, np.broadcast_to(np.arange(9), (2, 9)))


def test_every_field_is_of_one_row_each():
    example = causal_example(3, 10)
    for name in ('inputs', 'targets', 'weights', 'order', 'segment', 'position'):
        assert getattr(example, name).shape == (3, 10), name
    np.testing.assert_array_equal(example.row, np.arange(3))


def test_the_config_names_the_objective():
    assert isinstance(make_objective(tiny_config().objective), Causal)
    assert all(hasattr(kind, 'num_predictions') for kind in OBJECTIVES.values())


def test_no_key_changes_a_causal_example():
    batch = random_batch(2, 8)
    first, second = (Causal()(batch, jax.random.key(seed)) for seed in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
