"""What depends on a parameter's path: decay, groups of learning rates, and muP's factors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference, one_device_setup, random_batch, tiny_config
from optimizing import by_path, configured, example_gradients, example_params, take

from gpt2jax.errors import UserError
from gpt2jax.models import make_model
from gpt2jax.optimizers import OPTIMIZERS, check_groups, decayed, make_optimizer, parse_groups

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


def test_a_pooler_that_is_never_trained_does_not_fade():
    model = make_model(tiny_config(model__head__pooler=True, model__head__transform=True).model)
    mask = by_path(decayed(jax.eval_shape(model.init, jax.random.key(0))))
    assert mask['head/transform/kernel']
    assert not mask['head/pooler/kernel']


def one_step(config, params, gradient):
    """By how much each parameter moves in one step."""
    after = by_path(take(config, params, [gradient])[0])
    return {path: after[path] - np.float32(value) for path, value in by_path(params).items()}


@pytest.mark.parametrize('kind', sorted(OPTIMIZERS))
def test_a_group_multiplies_the_whole_step_of_its_parameters_decay_included(kind):
    random = np.random.default_rng(0)
    params = example_params(random)
    gradient = example_gradients(random, params, sizes=[1.0])[0]
    options = {'kind': kind, 'schedule': 'constant', 'weight_decay': 0.5, 'learning_rate': 0.1}
    plain = one_step(configured(**options), params, gradient)
    grouped = one_step(configured(**options, groups='position=0, embedding=0.5,norm|/bias$=3'), params, gradient)
    factors = {'embedding/position/embedding': 0, 'embedding/token': 0.5, 'blocks/0/norm_attention/scale': 3}
    factors['blocks/0/attention/query/bias'] = 3
    for path, step in plain.items():
        assert np.any(step)
        np.testing.assert_allclose(grouped[path], factors.get(path, 1) * step, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ('groups', 'complaint'),
    [
        ('embedding', "'embedding' is not PATTERN=FACTOR"),
        ('=2', "'=2' is not PATTERN=FACTOR"),
        ('norm=2,', "'' is not PATTERN=FACTOR"),
        ('norm=twice', 'the factor must be a number of at least 0'),
        ('norm=', 'the factor must be a number of at least 0'),
        ('norm=-1', 'the factor must be a number of at least 0'),
        ('norm=inf', 'the factor must be a number of at least 0'),
        ('norm=nan', 'the factor must be a number of at least 0'),
        ('norm(=2', r"'norm\(' is not a regular expression"),
    ],
)
def test_groups_that_cannot_be_read_are_refused(groups, complaint):
    with pytest.raises(UserError, match=rf'config.optimizer.groups = .*{complaint}'):
        tiny_config(optimizer__groups=groups)


def test_a_pattern_may_hold_an_equals_sign():
    assert parse_groups('(?=norm)n=0.5') == [(re.compile('(?=norm)n'), 0.5)]


@pytest.mark.parametrize(('groups', 'lost'), [('nrom=2', 'nrom'), ('norm=2,norm_final=3', 'norm_final')])
def test_a_pattern_that_decides_about_no_parameter_is_refused(groups, lost):
    config = tiny_config(optimizer__groups=groups)
    params = jax.eval_shape(make_model(config.model).init, jax.random.key(0))
    with pytest.raises(UserError, match=rf"no parameter is found by '{lost}' .*; left are .*embedding/token"):
        check_groups(groups, params)
    check_groups('norm_final=3,norm=2', params)


MUP = {'model__parametrization__kind': 'mup', 'model__parametrization__base_width': 8}  # TINY is four times as wide


@pytest.mark.parametrize('kind', sorted(OPTIMIZERS))
def test_mup_divides_the_step_of_hidden_matrices_and_leaves_decay_and_all_else(kind):
    """A clipped norm of nothing: the step without gradient is the decay alone."""
    random = np.random.default_rng(0)
    params = example_params(random)
    gradient = example_gradients(random, params, sizes=[1.0])[0]
    nothing = jax.tree.map(np.zeros_like, gradient)
    options = {'kind': kind, 'schedule': 'constant', 'weight_decay': 0.5, 'learning_rate': 0.1, 'groups': 'expand=3'}
    steps, decays = (
        [one_step(configured(model, **options), params, g) for model in ({}, MUP)] for g in (gradient, nothing)
    )
    for path in steps[0]:
        hidden = path.startswith('blocks') and path.endswith('kernel')
        factor = (0.5 if kind == 'muon' else 0.25) if hidden else 1.0
        np.testing.assert_array_equal(decays[1][path], decays[0][path], err_msg=path)
        standard, mup = (step[path] - decay[path] for step, decay in zip(steps, decays, strict=True))
        np.testing.assert_allclose(mup, factor * standard, rtol=1e-4, atol=1e-6, err_msg=path)


def test_mup_treats_berts_transform_as_hidden():
    config = tiny_config(model__head__transform=True, model__head__tied=False, **MUP)
    optimizer = make_optimizer(config)
    params = make_model(config.model).init(jax.random.key(0))
    ones = jax.tree.map(jnp.ones_like, params)
    updates = by_path(optimizer.update(ones, optimizer.init(params), jax.tree.map(jnp.zeros_like, params))[0])
    full = updates['norm_final/scale'][0]
    assert full < 0
    for path, update in updates.items():
        hidden = path == 'head/transform/kernel' or (path.startswith('blocks') and path.endswith('kernel'))
        np.testing.assert_allclose(update, full / 4 if hidden else full, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize('kind', ['adamw', 'muon'])
def test_mup_at_its_base_width_is_the_standard_model_bit_for_bit(kind):
    same = {'model__parametrization__base_width': 32, 'model__parametrization__base_head_width': 8}
    ends = []
    for parametrization in ('standard', 'mup'):
        changes = {'model__parametrization__kind': parametrization, 'optimizer__kind': kind}
        setup = one_device_setup(tiny_config(model__num_layers=1, **changes, **same))
        state, step, losses = setup.initial_state(), setup.train_step(), []
        for seed in range(3):
            state, metrics = step(state, random_batch(8, 16, seed=seed))
            losses.append(float(metrics['loss']))
        ends.append((losses, state.params))
    assert ends[0][0] == ends[1][0]
    assert largest_difference(ends[0][1], ends[1][1]) == 0
