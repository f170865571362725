"""`training.init_from`: what fits is loaded, everything else is named."""

import jax
import numpy as np
import pytest
from helpers import largest_difference, one_device_setup, silent, tiny_config

from gpt2jax.config import to_dict
from gpt2jax.data import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.optimizers import evaluation_params
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.starting import changes_from_run, plan_start, starting_params
from gpt2jax.training.workdir import Workdir


def save_run(path, **changes):
    """A run with one checkpoint, of parameters that no seed gives; returns these."""
    config = tiny_config(**changes)
    setup, workdir = one_device_setup(config), Workdir(path)
    params = jax.tree.map(lambda x: x + 1, setup.initial_state().params)
    path.mkdir()
    workdir.save_config(to_dict(config))
    make_tokenizer('bytes').save(path)
    checkpoints = Checkpoints(path / 'checkpoints', 1, announce=silent)
    checkpoints.save(3, params, {}, {'data': None})
    checkpoints.close()
    return params


def begin(path, **changes):
    """(plan, setup, params that the new run begins with)."""
    setup = one_device_setup(tiny_config(training__init_from=str(path), **changes))
    start = plan_start(setup.config, setup.abstract.params, setup.mesh)
    return start, setup, starting_params(start, setup.initial_state().params, silent)


def test_all_parameters_of_the_same_model_are_loaded(tmp_path):
    params = save_run(tmp_path / 'first')
    start, setup, loaded = begin(tmp_path / 'first')
    assert largest_difference(params, loaded) == 0
    assert (start.new, start.left, start.reshaped) == ([], [], [])
    assert start.count == sum(leaf.size for leaf in jax.tree.leaves(setup.abstract.params))
    assert f'{start.count:,} parameters' in start.lines()[0]


def test_what_is_new_left_or_reshaped_is_named_and_comes_from_the_seed(tmp_path):
    params = save_run(tmp_path / 'first', model__head__bias=True)
    start, setup, loaded = begin(
        tmp_path / 'first', data__length=8, model__head__transform=True, model__embedding__token_types=2
    )
    assert set(start.new) == {
        'embedding/token_type', 'head/norm/bias', 'head/norm/scale', 'head/transform/bias', 'head/transform/kernel'
    }  # fmt: skip
    assert start.left == ['head/bias']
    assert start.reshaped == ['embedding/position/embedding [16, 32] -> [8, 32]']
    seed = setup.initial_state().params
    assert np.array_equal(loaded['head']['transform']['kernel'], seed['head']['transform']['kernel'])
    assert np.array_equal(loaded['embedding']['position']['embedding'], seed['embedding']['position']['embedding'])
    assert largest_difference(loaded['blocks'], params['blocks']) == 0
    assert any('left behind (1): head/bias' in line for line in start.lines())


def test_an_average_of_parameters_begins_where_they_do(tmp_path):
    params = save_run(tmp_path / 'first')
    _, setup, loaded = begin(tmp_path / 'first', optimizer__average=0.9)
    state = setup.with_params(setup.initial_state(), loaded)
    assert largest_difference(evaluation_params(state.opt_state, state.params), params) == 0


def test_a_run_of_which_nothing_fits_is_refused(tmp_path):
    save_run(tmp_path / 'first', model__width=48)
    with pytest.raises(UserError, match=r'no parameter of that run .* model\.width is 48 there and 32 here'):
        begin(tmp_path / 'first')


def test_a_missing_run_and_one_without_a_checkpoint_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'init_from = .*no run there'):
        begin(tmp_path / 'first')
    with pytest.raises(UserError, match=r'from=.*no run there'):
        changes_from_run(str(tmp_path / 'first'))
    Workdir(tmp_path).save_config(to_dict(tiny_config()))
    with pytest.raises(UserError, match='no checkpoint yet'):
        begin(tmp_path)


def test_a_recipe_takes_over_the_model_and_the_tokenizer_of_a_run(tmp_path):
    save_run(tmp_path / 'first', objective__switch='masked@5', model__norm__placement='post')
    changes = changes_from_run(str(tmp_path / 'first'))
    config = tiny_config(**{key.replace('.', '__'): value for key, value in changes.items()})
    assert config.model.norm.placement == 'post'
    assert (config.objective.kind, config.objective.switch) == ('masked', '')
    assert config.data.tokenizer == f'file:{tmp_path / "first"}'
    assert config.training.init_from == str(tmp_path / 'first')
