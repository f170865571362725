"""The prefix language model against a plain loop over documents."""

import functools

import jax
import numpy as np
import pytest
from helpers import random_batch, tiny_config

from gpt2jax.objectives import make_objective

LENGTH = 20


@functools.cache
def compiled(prefix):
    return jax.jit(make_objective(tiny_config(data__length=LENGTH, objective__kind='prefix', objective__prefix=prefix)))


def documents(segment_L):
    """The places of each document of a row."""
    return [np.flatnonzero(segment_L == segment) for segment in sorted(set(segment_L) - {0})]


def expected_row(segment_L, prefixes):
    """Order and weights of one row of L+1 tokens, document by document."""
    order, weights = np.zeros(LENGTH, int), np.zeros(LENGTH)
    for places, prefix in zip(documents(segment_L[:-1]), prefixes, strict=True):
        for position, place in enumerate(places):
            order[place] = 0 if position < prefix else position - prefix + 1
            last_of_prefix_or_later = position >= prefix - 1
            weights[place] = last_of_prefix_or_later and segment_L[place + 1] > 0
    return order, weights


def check(example, batch, prefixes_of):
    for b, segment_L in enumerate(batch['segment']):
        order, weights = expected_row(segment_L, prefixes_of(b, segment_L[:-1]))
        real = segment_L[:-1] > 0
        np.testing.assert_array_equal(np.asarray(example.order)[b][real], order[real])
        np.testing.assert_array_equal(example.weights[b], weights)
    np.testing.assert_array_equal(example.inputs, batch['tokens'][:, :-1])
    np.testing.assert_array_equal(example.targets, batch['tokens'][:, 1:])
    assert example.visibility == 'prefix'


@pytest.mark.parametrize('share', [0.01, 0.3, 0.5, 0.99])
def test_a_fixed_share_of_every_document_is_the_prefix(share):
    batch = random_batch(30, LENGTH, documents=4)
    example = compiled(share)(batch, jax.random.key(0), 1.0)

    def prefixes(_, segment_L):
        return [max(1, round(share * len(places))) for places in documents(segment_L)]

    check(example, batch, prefixes)


def drawn_prefixes(example, segment_L, b):
    """How many tokens of each document have order 0."""
    order_L = np.asarray(example.order)[b]
    return [int((order_L[places] == 0).sum()) for places in documents(segment_L)]


def test_a_drawn_prefix_has_any_length_of_its_document_with_the_same_chance():
    batch = {key: np.repeat(array[:1], 6000, 0) for key, array in random_batch(2, LENGTH).items()}
    batch['row'] = np.arange(6000, dtype=np.int32)
    batch['segment'] = np.tile(np.repeat(np.int32([1, 2, 3]), [8, 10, 3]), (6000, 1))
    example = compiled(0.0)(batch, jax.random.key(1), 1.0)
    few = jax.tree.map(lambda array: array[:50], batch)
    check(jax.tree.map(lambda array: array[:50], example), few, lambda b, seg: drawn_prefixes(example, seg, b))
    segment_L = batch['segment'][0, :-1]
    drawn = np.array([drawn_prefixes(example, segment_L, b) for b in range(6000)])
    for prefixes, places in zip(drawn.T, documents(segment_L), strict=True):
        counts = np.bincount(prefixes, minlength=len(places) + 1)[1:]
        assert len(counts) == len(places)
        expected = 6000 / len(places)
        freedom = len(places) - 1
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom) + 10
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 5 / np.sqrt(6000)  # each document draws its own


def test_a_prefix_of_one_token_is_the_causal_objective():
    batch = random_batch(8, LENGTH)
    example = compiled(0.001)(batch, jax.random.key(0), 1.0)
    np.testing.assert_array_equal(example.weights, batch['segment'][:, 1:] > 0)
    real = batch['segment'][:, :-1] > 0
    np.testing.assert_array_equal(np.asarray(example.order)[real], np.asarray(example.position)[real])
