"""The sums behind bits per byte."""

import math

import numpy as np
import pytest

from gpt2jax.evaluation.likelihood import evaluate

BYTES_V = np.array([1, 2, 3, 0])  # the last id stands for no text


def uneven_batches():
    """Three batches of two rows of five tokens, the last one padded."""
    random = np.random.default_rng(0)
    for number in range(3):
        weights_BL = np.ones((2, 5), np.float32)
        if number == 2:
            weights_BL[1, 2:] = 0
        yield {
            'nats': random.exponential(size=(2, 5)).astype(np.float32),
            'weights': weights_BL,
            'targets': random.integers(0, 4, (2, 5)),
        }


def test_every_weighted_token_counts_once_with_its_bytes():
    batches = list(uneven_batches())
    result = evaluate(lambda _, b: (b['nats'], b['weights'], b['targets']), None, batches, lambda b: b, BYTES_V)
    nats = predicted = count = 0
    for batch in batches:
        for nat, weight, target in zip(*(batch[key].ravel() for key in ('nats', 'weights', 'targets')), strict=True):
            if weight:
                nats, predicted, count = nats + float(nat), predicted + 1, count + BYTES_V[target]
    assert predicted == 27 == result['predicted']
    assert result['bytes'] == count
    assert result['bits_per_byte'] == pytest.approx(nats / math.log(2) / count)
    assert result['nats_per_token'] == pytest.approx(nats / 27)
    assert result['perplexity'] == pytest.approx(math.exp(nats / 27))


def test_an_evaluation_of_nothing_is_zero():
    assert evaluate(None, None, [], None, BYTES_V)['bits_per_byte'] == 0
