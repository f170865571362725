"""Schedules and AdamW against their formulas in plain Python and NumPy."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_config

from gpt2jax.models import make_model
from gpt2jax.optimizers import SCHEDULES, decayed, make_optimizer, make_schedule, path_name

STEPS = 40


def formula(kind, step, *, peak, warmup, steps, decay, final):
    """The learning rate of a step, from its definition."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if kind == 'constant':
        return peak
    length = decay if kind == 'wsd' else steps - warmup
    done = min(max((step - (steps - length)) / length, 0), 1)
    share = (1 + math.cos(math.pi * done)) / 2 if kind == 'cosine' else 1 - done
    return peak * (final + (1 - final) * share)


def settings(**changes):
    changes = {f'optimizer__{name}': value for name, value in changes.items()}
    return tiny_config(training__steps=STEPS, **changes).optimizer


@pytest.mark.parametrize('warmup', [0, 1, 2, 7, STEPS - 1])
@pytest.mark.parametrize('kind', sorted(SCHEDULES))
def test_a_schedule_is_its_formula(kind, warmup):
    optimizer = settings(schedule=kind, learning_rate=3e-3, final_fraction=0.2, warmup_steps=warmup)
    assert optimizer.decay_steps == min(STEPS // 5, STEPS - warmup)
    schedule = jax.jit(jax.vmap(make_schedule(optimizer, STEPS)))
    expected = functools.partial(
        formula, kind, peak=3e-3, warmup=warmup, steps=STEPS, decay=optimizer.decay_steps, final=0.2
    )
    rates = [expected(step) for step in range(STEPS + 5)]
    np.testing.assert_allclose(schedule(jnp.arange(STEPS + 5)), rates, rtol=1e-5)


@pytest.mark.parametrize('kind', sorted(SCHEDULES))
def test_warmup_reaches_the_peak_in_its_last_step_and_not_before(kind):
    schedule = make_schedule(settings(schedule=kind, learning_rate=1.0, warmup_steps=5), STEPS)
    np.testing.assert_allclose([schedule(step) for step in range(6)], [0.2, 0.4, 0.6, 0.8, 1, 1], rtol=1e-6)


@pytest.mark.parametrize('kind', ['cosine', 'linear', 'wsd'])
@pytest.mark.parametrize('final', [0.0, 0.1, 1.0])
def test_a_schedule_ends_at_its_final_fraction(kind, final):
    schedule = make_schedule(settings(schedule=kind, learning_rate=2.0, warmup_steps=5, final_fraction=final), STEPS)
    assert float(schedule(STEPS)) == pytest.approx(2 * final, abs=1e-6)
    assert float(schedule(STEPS + 10)) == pytest.approx(2 * final, abs=1e-6)


def test_wsd_stays_at_the_peak_until_its_decay():
    schedule = make_schedule(settings(schedule='wsd', learning_rate=1.0, warmup_steps=5, decay_steps=10), STEPS)
    np.testing.assert_allclose([schedule(step) for step in range(4, STEPS - 9)], 1, rtol=1e-6)
    assert schedule(STEPS - 9) < 1


def example_params(random):
    """The least tree with a decayed matrix, a decayed embedding, and what is not decayed."""
    shapes = {
        'blocks': {'attention': {'query': {'kernel': (2, 3, 4), 'bias': (2, 4)}}, 'norm_attention': {'scale': (2, 3)}},
        'embedding': {'token': (5, 3), 'position': {'embedding': (4, 3)}},
    }
    return jax.tree.map(lambda shape: random.normal(size=shape), shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def numpy_adamw(params, gradients_of_steps, rates, optimizer):
    """Algorithm 2 of Loshchilov & Hutter 2019 on dicts of path -> array, after clipping by global norm."""
    mean = {path: np.zeros_like(value) for path, value in params.items()}
    square = {path: np.zeros_like(value) for path, value in params.items()}
    for step, (gradients, rate) in enumerate(zip(gradients_of_steps, rates, strict=True), start=1):
        norm = math.sqrt(sum(np.sum(gradient**2) for gradient in gradients.values()))
        clip = min(1.0, optimizer.clip_norm / norm) if optimizer.clip_norm else 1.0
        for path in params:
            gradient = gradients[path] * clip
            mean[path] = optimizer.b1 * mean[path] + (1 - optimizer.b1) * gradient
            square[path] = optimizer.b2 * square[path] + (1 - optimizer.b2) * gradient**2
            update = mean[path] / (1 - optimizer.b1**step)
            update /= np.sqrt(square[path] / (1 - optimizer.b2**step)) + optimizer.epsilon
            if path in ('blocks/attention/query/kernel', 'embedding/token'):
                update += optimizer.weight_decay * params[path]
            params[path] = params[path] - rate * update
    return params


def by_path(tree):
    return {path_name(path): np.array(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize('clip_norm', [0.0, 1.0, 1000.0])
def test_adamw_is_adamw(clip_norm):
    """Gradients of norms from 0.05 to 50, so that clipping acts in some steps and not in others."""
    optimizer = settings(
        clip_norm=clip_norm, weight_decay=0.3, learning_rate=0.1, b1=0.8, b2=0.9, epsilon=1e-3, warmup_steps=2
    )
    random = np.random.default_rng(0)
    params = example_params(random)
    sizes = [0.01, 10.0, 0.1, 1.0, 0.01, 5.0]
    gradients = [jax.tree.map(lambda leaf, s=s: random.normal(size=leaf.shape) * s, params) for s in sizes]
    rates = [formula('cosine', i, peak=0.1, warmup=2, steps=STEPS, decay=0, final=0.1) for i in range(len(sizes))]
    expected = numpy_adamw(by_path(params), [by_path(gradient) for gradient in gradients], rates, optimizer)

    transformation = make_optimizer(optimizer, STEPS)
    params = jax.tree.map(jnp.float32, params)
    state = transformation.init(params)
    for gradient in gradients:
        updates, state = transformation.update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)
    for path, value in by_path(params).items():
        np.testing.assert_allclose(value, expected[path], rtol=2e-5, atol=1e-6, err_msg=path)


GPT2_DECAYED = {
    'embedding/token',
    'blocks/*/attention/query/kernel',
    'blocks/*/attention/key/kernel',
    'blocks/*/attention/value/kernel',
    'blocks/*/attention/out/kernel',
    'blocks/*/feedforward/expand/kernel',
    'blocks/*/feedforward/contract/kernel',
}
GPT2_NOT_DECAYED = {
    'embedding/position/embedding',
    'blocks/*/attention/query/bias',
    'blocks/*/attention/key/bias',
    'blocks/*/attention/value/bias',
    'blocks/*/attention/out/bias',
    'blocks/*/feedforward/expand/bias',
    'blocks/*/feedforward/contract/bias',
    'blocks/*/norm_attention/scale',
    'blocks/*/norm_attention/bias',
    'blocks/*/norm_feedforward/scale',
    'blocks/*/norm_feedforward/bias',
    'norm_final/scale',
    'norm_final/bias',
}


@pytest.mark.parametrize('tied', [True, False])
def test_decay_acts_on_matrices_and_the_token_embedding_alone(tied):
    model = make_model(tiny_config(model__head__tied=tied).model)
    mask = by_path(decayed(jax.eval_shape(model.init, jax.random.key(0))))
    untied = set() if tied else {'head/kernel'}
    names = {path: re.sub(r'^blocks/\d+/', 'blocks/*/', path) for path in mask}
    assert {names[path] for path, decays in mask.items() if decays} == GPT2_DECAYED | untied
    assert {names[path] for path, decays in mask.items() if not decays} == GPT2_NOT_DECAYED


def test_without_weight_decay_a_parameter_without_gradient_stays():
    params = jax.tree.map(jnp.float32, example_params(np.random.default_rng(0)))
    for weight_decay, moves in ((0.0, False), (0.1, True)):
        transformation = make_optimizer(settings(weight_decay=weight_decay), STEPS)
        updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, params), transformation.init(params), params)
        assert bool(jnp.any(updates['embedding']['token'] != 0)) == moves
        assert not jnp.any(updates['embedding']['position']['embedding'] != 0)
