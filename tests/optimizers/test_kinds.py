"""Every optimizer against its algorithm in NumPy, and on a small model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import one_device_setup, random_batch, tiny_config
from optimizing import (
    DECAYED,
    STEPS,
    assert_close,
    by_path,
    clipped,
    configured,
    example_gradients,
    example_params,
    formula,
    take,
)

from gpt2jax.optimizers import OPTIMIZERS, evaluation_params, make_optimizer

MATRICES = ('blocks/0/attention/query/kernel', 'blocks/0/feedforward/expand/kernel')


def compare(reference, config, rtol=2e-5):
    """Runs the optimizer and `reference(params, gradients a step, rates, config.optimizer)` and compares."""
    random = np.random.default_rng(0)
    params = example_params(random)
    gradients = example_gradients(random, params)
    schedule = functools.partial(formula, config.optimizer.schedule, steps=STEPS, decay=0, final=0.1)
    rate, warmup = config.optimizer.learning_rate, config.optimizer.warmup_steps
    rates = [schedule(step, peak=rate, warmup=warmup) for step in range(len(gradients))]
    cut = [clipped(by_path(gradient), config.optimizer.clip_norm) for gradient in gradients]
    expected = reference(by_path(params), cut, rates, config.optimizer)
    found, state = take(config, params, gradients)
    assert_close(found, expected, rtol)
    return state, expected


def decay_of(path, optimizer):
    return optimizer.weight_decay if path in DECAYED else 0.0


def adamw(params, gradients_of_steps, rates, optimizer):
    """Loshchilov & Hutter 2019, algorithm 2."""
    mean, square = ({path: np.zeros_like(value) for path, value in params.items()} for _ in range(2))
    for step, (gradients, rate) in enumerate(zip(gradients_of_steps, rates, strict=True), start=1):
        for path, gradient in gradients.items():
            mean[path] = optimizer.b1 * mean[path] + (1 - optimizer.b1) * gradient
            square[path] = optimizer.b2 * square[path] + (1 - optimizer.b2) * gradient**2
            update = mean[path] / (1 - optimizer.b1**step)
            update /= np.sqrt(square[path] / (1 - optimizer.b2**step)) + optimizer.epsilon
            params[path] = params[path] - rate * (update + decay_of(path, optimizer) * params[path])
    return params


def lion(params, gradients_of_steps, rates, optimizer):
    """Chen et al. 2023, algorithm 2."""
    mean = {path: np.zeros_like(value) for path, value in params.items()}
    for gradients, rate in zip(gradients_of_steps, rates, strict=True):
        for path, gradient in gradients.items():
            update = np.sign(optimizer.b1 * mean[path] + (1 - optimizer.b1) * gradient)
            params[path] = params[path] - rate * (update + decay_of(path, optimizer) * params[path])
            mean[path] = optimizer.b2 * mean[path] + (1 - optimizer.b2) * gradient
    return params


def adafactor(params, gradients_of_steps, rates, optimizer):
    """Shazeer & Stern 2018, algorithms 4 and 5, at absolute rates."""
    rows, columns = {}, {}
    for step, (gradients, rate) in enumerate(zip(gradients_of_steps, rates, strict=True), start=1):
        decay = 1 - step**-0.8
        for path, gradient in gradients.items():
            square, axes = gradient**2 + 1e-30, (1, 0) if gradient.ndim == 2 else ((), ())
            row, column = (np.mean(square, axis=axis, keepdims=True) for axis in axes)
            rows[path] = decay * rows.get(path, 0) + (1 - decay) * row
            columns[path] = decay * columns.get(path, 0) + (1 - decay) * column
            moment = rows[path] * columns[path] / np.mean(rows[path]) if gradient.ndim == 2 else rows[path]
            update = gradient / np.sqrt(moment)
            update /= max(1, np.sqrt(np.mean(update**2)))
            params[path] = params[path] - rate * (update + decay_of(path, optimizer) * params[path])
    return params


def schedule_free(params, gradients_of_steps, rates, optimizer, x):
    """Defazio et al. 2024, algorithm 1: the interpolation y, which is trained; the average x is written into `x`."""
    y, z = dict(params), dict(params)
    x |= params
    square = {path: np.zeros_like(value) for path, value in params.items()}
    total = 0.0
    for step, (gradients, rate) in enumerate(zip(gradients_of_steps, rates, strict=True), start=1):
        total += rate**2
        share = rate**2 / total
        for path, gradient in gradients.items():
            square[path] = optimizer.b2 * square[path] + (1 - optimizer.b2) * gradient**2
            update = gradient / (np.sqrt(square[path] / (1 - optimizer.b2**step)) + optimizer.epsilon)
            z[path] = z[path] - rate * (update + decay_of(path, optimizer) * y[path])
            x[path] = (1 - share) * x[path] + share * z[path]
            y[path] = (1 - optimizer.b1) * z[path] + optimizer.b1 * x[path]
    return y


REFERENCES = {'adamw': adamw, 'lion': lion, 'adafactor': adafactor}


@pytest.mark.parametrize('clip_norm', [0.0, 1.0, 1000.0])
@pytest.mark.parametrize('kind', REFERENCES)
def test_an_optimizer_is_its_algorithm(kind, clip_norm):
    """Gradients of norms from 0.05 to 50, so that clipping acts in some steps and not in others."""
    config = configured(
        kind=kind,
        clip_norm=clip_norm,
        weight_decay=0.3,
        learning_rate=0.1,
        b1=0.8,
        b2=0.9,
        epsilon=1e-3,
        warmup_steps=2,
    )
    compare(REFERENCES[kind], config)


def test_schedule_free_trains_the_interpolation_and_evaluates_the_average():
    config = configured(
        kind='schedule_free', schedule='constant', weight_decay=0.3, learning_rate=0.1, b1=0.8, warmup_steps=4
    )
    average = {}
    state, trained = compare(functools.partial(schedule_free, x=average), config, rtol=2e-4)
    trained = jax.tree.unflatten(jax.tree.structure(example_params(np.random.default_rng(0))), trained.values())
    assert_close(evaluation_params(state, trained), average, rtol=2e-4, atol=1e-5)


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix():
    params = example_params(np.random.default_rng(0))
    state = make_optimizer(configured(kind='adafactor', clip_norm=0.0)).init(jax.tree.map(jnp.float32, params))
    factored = next(part for part in jax.tree.leaves(state, is_leaf=is_factored) if is_factored(part))
    kernel = [moments['blocks'][0]['feedforward']['expand']['kernel'].shape for moments in factored[1:]]
    assert sorted(kernel) == [(1,), (4,), (6,)]
    assert factored.v['blocks'][0]['norm_attention']['scale'].shape == (4,)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 0.8 * numbers


def is_factored(node):
    return type(node).__name__ == 'FactoredState'


def first_update(config, gradient, params):
    optimizer = make_optimizer(config)
    params, gradient = (jax.tree.map(jnp.float32, tree) for tree in (params, gradient))
    return by_path(optimizer.update(gradient, optimizer.init(params), params)[0])


def test_muon_turns_a_matrix_of_a_block_into_an_orthogonal_one_of_the_size_of_adamws():
    """Newton-Schulz leaves singular values around 1, not at it (Jordan et al. 2024)."""
    random = np.random.default_rng(0)
    params = example_params(random)
    gradient = example_gradients(random, params, sizes=[1.0])[0]
    changes = {'learning_rate': 0.1, 'warmup_steps': 0, 'weight_decay': 0.0, 'schedule': 'constant'}
    updates = first_update(configured(kind='muon', **changes), gradient, params)
    plain = first_update(configured(kind='adamw', **changes), gradient, params)
    for path, update in updates.items():
        if path not in MATRICES:
            np.testing.assert_array_equal(update, plain[path], err_msg=path)
            continue
        before = np.linalg.svd(by_path(gradient)[path], compute_uv=False)
        values = np.linalg.svd(update / (0.2 * np.sqrt(max(update.shape)) * 0.1), compute_uv=False)
        assert before.max() / before.min() > 2
        np.testing.assert_allclose(values, 1, atol=0.35, err_msg=path)
        np.testing.assert_allclose(np.sqrt(np.mean(update**2)), 0.2 * 0.1, rtol=0.25)
        turned = np.linalg.svd(by_path(gradient)[path], full_matrices=False)
        assert np.sum(-update * (turned[0] @ turned[2])) > 0.9 * np.linalg.norm(update) * np.sqrt(min(update.shape))


def test_muon_has_the_momentum_of_its_key():
    random = np.random.default_rng(0)
    params = example_params(random)
    gradients = example_gradients(random, params, sizes=[1.0, 1.0])
    ends = [by_path(take(configured(kind='muon', momentum=momentum), params, gradients)[0]) for momentum in (0.5, 0.95)]
    for path in ends[0]:
        assert np.array_equal(ends[0][path], ends[1][path]) == (path not in MATRICES), path


@pytest.mark.parametrize('kind', sorted(OPTIMIZERS))
def test_every_optimizer_learns_a_batch_by_heart(kind):
    """Lion at a third of the rate, as its paper has it; what is evaluated is good as well."""
    rate = 3e-3 if kind == 'lion' else 1e-2
    changes = {'optimizer__kind': kind, 'optimizer__learning_rate': rate, 'optimizer__schedule': 'constant'}
    config = tiny_config(model__num_layers=1, training__steps=50, **changes)
    setup, batch = one_device_setup(config), random_batch(8, 16)
    state, step, losses = setup.initial_state(), setup.train_step(), []
    for _ in range(50):
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss']))
    assert losses[-1] < losses[0] - 2
    averaged = state.replace(params=evaluation_params(state.opt_state, state.params))
    assert step(averaged, batch)[1]['loss'] < losses[0] - 2


@pytest.mark.parametrize('kind', sorted(OPTIMIZERS))
def test_without_weight_decay_a_parameter_without_gradient_stays(kind):
    params = jax.tree.map(jnp.float32, example_params(np.random.default_rng(0)))
    for weight_decay, moves in ((0.0, False), (0.1, True)):
        config = configured(kind=kind, weight_decay=weight_decay, schedule='constant', learning_rate=1e-2)
        optimizer = make_optimizer(config)
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        after = optax.apply_updates(params, updates)
        before, after = by_path(params), by_path(after)
        for path in before:
            moved = not np.allclose(after[path], before[path], rtol=1e-5)
            assert moved == (moves and path in DECAYED), path
