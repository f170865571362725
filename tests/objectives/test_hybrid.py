"""GPT-BERT's mixture: which rows are causal, and the shift of the masked ones."""

import functools

import jax
import numpy as np
import pytest
from helpers import example_of, largest_difference, random_batch, tiny_config

from gpt2jax.objectives import make_objective

LENGTH, MASK = 24, 257


@functools.cache
def compiled(options):
    changes = {f'objective__{key}': value for key, value in options}
    return jax.jit(make_objective(tiny_config(data__length=LENGTH, objective__kind='hybrid', **changes)))


def make(batch, seed=0, **options):
    return compiled(tuple(options.items()))(batch, jax.random.key(seed), 1.0)


def test_rows_that_are_all_causal_are_the_causal_objective():
    batch = random_batch(8, LENGTH)
    example, expected = make(batch, causal_share=1.0), example_of('causal', batch)
    assert largest_difference(example.replace(visibility='causal'), expected) == 0


@pytest.mark.parametrize('share', [0.25, 0.5, 0.9])
def test_the_share_of_causal_rows_is_that_of_the_config(share):
    batch = {key: np.repeat(array[:1], 4000, 0) for key, array in random_batch(2, LENGTH).items()}
    batch['row'] = np.arange(4000, dtype=np.int32)
    example = make(batch, causal_share=share)
    causal_B = np.asarray(example.order).any(1)
    assert abs(causal_B.mean() - share) < 5 * np.sqrt(share * (1 - share) / 4000)
    np.testing.assert_array_equal(np.asarray(example.order)[causal_B], np.tile(np.arange(LENGTH), (causal_B.sum(), 1)))
    np.testing.assert_array_equal(np.asarray(example.inputs)[causal_B], batch['tokens'][causal_B, :-1])
    np.testing.assert_array_equal(np.asarray(example.weights)[causal_B], batch['segment'][causal_B, 1:] > 0)


@pytest.mark.parametrize('rate', [0.15, 0.5, 1.0])
def test_a_masked_row_predicts_each_hidden_token_one_place_before_it(rate):
    batch = random_batch(40, LENGTH, documents=4)
    tokens_BL, segment_BL = batch['tokens'], batch['segment']
    example = make(batch, causal_share=0.0, rate=rate, mask_share=1.0, random_share=0.0)
    np.testing.assert_array_equal(example.targets, tokens_BL[:, 1:])
    np.testing.assert_array_equal(example.order, np.zeros_like(example.order))
    inputs_BL, weights_BL = np.asarray(example.inputs), np.asarray(example.weights)
    for inputs, weights, tokens, segment in zip(inputs_BL, weights_BL, tokens_BL, segment_BL, strict=True):
        may_hide = [i for i in range(1, LENGTH + 1) if segment[i] > 0 and segment[i] == segment[i - 1]]
        hidden = [i + 1 for i in range(LENGTH) if weights[i]]
        assert set(hidden) <= set(may_hide)
        assert len(hidden) == round(rate * len(may_hide))
        for i in range(LENGTH):
            assert inputs[i] == (MASK if i in hidden else tokens[i])


def test_the_last_token_of_a_row_can_be_hidden_though_it_is_no_input():
    example = make(random_batch(40, LENGTH), causal_share=0.0, rate=0.5)
    assert 0 < np.asarray(example.weights)[:, -1].sum() < 40
