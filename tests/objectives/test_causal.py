"""The causal objective: what is seen, what is predicted."""

import jax
import numpy as np
from helpers import causal_example, example_of, random_batch


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


def test_no_key_changes_a_causal_example():
    batch = random_batch(2, 8)
    first, second = (example_of('causal', batch, seed) for seed in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
