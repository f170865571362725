"""One training step: pure, and the same however the batch is cut."""

import numpy as np
import pytest
from helpers import largest_difference, one_device_setup, random_batch, tiny_config


def take_steps(steps: int = 3, **changes):
    """Losses, weights and final state of a few steps on random batches, on one device."""
    config = tiny_config(**changes)
    setup = one_device_setup(config)
    state, step, metrics = setup.initial_state(), setup.train_step(), []
    for number in range(steps):
        state, values = step(state, random_batch(8, 16, seed=number))
        metrics.append({name: float(value) for name, value in values.items()})
    return metrics, state


DROPOUT = {'model__dropout': 0.2, 'model__attention__dropout': 0.1}


@pytest.mark.parametrize('accumulation', [2, 8])
def test_accumulated_microbatches_equal_the_large_batch(accumulation):
    """Dropout on, and rows of unequal weight: the last one is padded."""
    whole, whole_state = take_steps(**DROPOUT)
    cut, cut_state = take_steps(training__accumulation=accumulation, **DROPOUT)
    for a, b in zip(whole, cut, strict=True):
        assert a['predicted'] == b['predicted'] < 8 * 16
        np.testing.assert_allclose([b['loss'], b['gradient_norm']], [a['loss'], a['gradient_norm']], rtol=1e-5)
    assert largest_difference(whole_state.params, cut_state.params) < 1e-5


def test_a_step_is_a_pure_function_of_state_and_batch():
    first, second = take_steps(**DROPOUT), take_steps(**DROPOUT)
    assert first[0] == second[0]
    assert largest_difference(first[1], second[1]) == 0


def test_every_step_draws_its_own_dropout():
    """With a learning rate of nearly nothing, two steps on one batch differ by their dropout alone."""
    config = tiny_config(optimizer__learning_rate=1e-20, optimizer__weight_decay=0.0, **DROPOUT)
    setup = one_device_setup(config)
    state, step, losses = setup.initial_state(), setup.train_step(), []
    for _ in range(2):
        state, values = step(state, random_batch(8, 16))
        losses.append(float(values['loss']))
    assert losses[0] != losses[1]


def test_a_seed_decides_the_initial_values():
    (_, first), (_, same), (_, other) = (take_steps(0, seed=seed) for seed in (1, 1, 2))
    assert largest_difference(first.params, same.params) == 0
    assert largest_difference(first.params, other.params) > 0


def test_the_loss_falls_when_a_batch_is_learnt_by_heart():
    config = tiny_config(training__steps=60, optimizer__learning_rate=1e-2)
    setup = one_device_setup(config)
    state, step, batch = setup.initial_state(), setup.train_step(), random_batch(8, 16)
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss']))
    assert abs(losses[0] - np.log(260)) < 0.1
    assert losses[-1] < 1.0


def test_evaluation_has_no_dropout_and_counts_every_token():
    config = tiny_config(**DROPOUT)
    setup = one_device_setup(config)
    state, batch = setup.initial_state(), random_batch(8, 16)
    [(_, step)] = setup.evaluations(lossless=True)
    result, _ = step(state.params, batch, None)
    nats_BL, weights_BL, targets_BL = (result[name] for name in ('nats', 'weights', 'targets'))
    np.testing.assert_array_equal(nats_BL, step(state.params, batch, None)[0]['nats'])
    np.testing.assert_array_equal(targets_BL, batch['tokens'][:, 1:])
    np.testing.assert_array_equal(weights_BL, batch['segment'][:, 1:] > 0)
    plain = one_device_setup(tiny_config())
    _, metrics = plain.train_step()(plain.initial_state(), batch)
    np.testing.assert_allclose(np.sum(nats_BL * weights_BL) / np.sum(weights_BL), metrics['loss'], rtol=1e-5)
