"""Averages of the parameters: what they are, and that a run is evaluated, saved and continued by the right ones."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference, one_device_setup, silent, tiny_config
from optimizing import assert_close, by_path, configured, example_gradients, example_params, take

from gpt2jax.commands.runs import make_rows, open_checkpoints, prepare_data, restore_params
from gpt2jax.commands.training import run
from gpt2jax.errors import UserError
from gpt2jax.optimizers import averaging_state, evaluation_params, make_optimizer
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.loop import Loop
from gpt2jax.training.state import rest_of, state_from
from gpt2jax.training.workdir import Workdir


@pytest.mark.parametrize('decay', [0.5, 0.9, 0.9999])
def test_the_moving_average_weighs_steps_by_their_age_and_the_start_not_at_all(decay):
    draw = np.random.default_rng(0)
    params = example_params(draw)
    gradients = example_gradients(draw, params)
    config = configured(average=decay, learning_rate=0.1)
    after = [by_path(take(config, params, gradients[: step + 1])[0]) for step in range(len(gradients))]
    ages = np.arange(len(after))[::-1]
    weights = decay**ages / np.sum(decay**ages)
    expected = {path: sum(w * p[path] for w, p in zip(weights, after, strict=True)) for path in after[0]}
    trained, state = take(config, params, gradients)
    assert_close(evaluation_params(state, trained), expected, rtol=1e-4)
    assert largest_difference(trained, evaluation_params(state, trained)) > 0.01


def test_averaging_changes_nothing_that_is_trained():
    draw = np.random.default_rng(0)
    params = example_params(draw)
    gradients = example_gradients(draw, params)
    (plain, plain_state), (averaged, _) = (take(configured(average=decay), params, gradients) for decay in (0.0, 0.9))
    assert largest_difference(plain, averaged) == 0
    assert evaluation_params(plain_state, plain) is plain


@pytest.mark.parametrize('changes', [{'average': 0.9}, {'kind': 'schedule_free', 'schedule': 'constant'}])
def test_before_the_first_step_the_average_is_the_start(changes):
    params = jax.tree.map(jnp.float32, example_params(np.random.default_rng(0)))
    state = make_optimizer(configured(**changes)).init(params)
    assert largest_difference(evaluation_params(state, params), params) < 1e-6


@pytest.mark.parametrize(
    ('changes', 'complaint'),
    [
        ({}, "config.optimizer.schedule = 'cosine': .*schedule=constant"),
        ({'schedule': 'constant', 'b1': 0.0}, 'config.optimizer.b1 = 0.0: .*above 0'),
        ({'schedule': 'constant', 'average': 0.9}, 'config.optimizer.average = 0.9: .*of its own'),
    ],
)
def test_schedule_free_refuses_what_it_takes_the_place_of(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        configured(kind='schedule_free', **changes)


@pytest.fixture(name='text', scope='module')
def write_text(tmp_path_factory):
    """A little text for the corpus 'text'."""
    folder, draw = tmp_path_factory.mktemp('corpus'), random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'and', 'the', 'of', 'a']
    (folder / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(60)))
    return folder


def run_config(text, **changes):
    """Six steps, saved after three, evaluated at the end, with dropout on."""
    return tiny_config(
        data__corpus='text',
        data__path=str(text / 'plays.txt'),
        data__directory=str(text / 'cache'),
        model__num_layers=1,
        model__dropout=0.1,
        training__steps=6,
        evaluation__every=0,
        evaluation__num_rows=8,
        checkpoint__every_steps=3,
        checkpoint__every_minutes=0.0,
        checkpoint__keep=5,
        optimizer__learning_rate=1e-2,
        **{f'optimizer__{name}': value for name, value in changes.items()},
    )


@pytest.mark.parametrize(
    'changes',
    [
        {'average': 0.9, 'kind': 'muon'},
        {'kind': 'schedule_free', 'schedule': 'constant'},
        {'kind': 'adafactor', 'groups': 'embedding=0.5'},
    ],
    ids=lambda changes: changes['kind'],
)
def test_a_run_that_continues_is_bit_equal_and_saves_what_it_is_evaluated_by(text, tmp_path, changes):
    """The copy has no checkpoint after step 3, as if it had been killed there."""
    config = run_config(text, **changes)
    setup, prepared = one_device_setup(config), prepare_data(config)
    whole, killed = Workdir(tmp_path / 'whole'), Workdir(tmp_path / 'killed')
    whole.path.mkdir()
    state = run(setup, whole, prepared, 'a test')
    shutil.copytree(whole.path, killed.path)
    shutil.rmtree(killed.path / 'checkpoints' / '6')
    again = run(setup, killed, prepared, 'a test')
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert largest_difference(again, state) == 0

    for workdir in (whole, killed):
        step, params, _ = restore_params(setup, workdir, 'latest')
        assert step == 6
        assert largest_difference(params, evaluation_params(state.opt_state, state.params)) == 0
    averaged = averaging_state(state.opt_state) is not None
    assert averaged == (changes['kind'] != 'adafactor')
    assert (largest_difference(params, state.params) > 0) == averaged

    checkpoints = open_checkpoints(whole, config)
    step, params, rest, _ = checkpoints.restore(setup.abstract.params, rest_of(setup.abstract))
    checkpoints.close()
    assert largest_difference(state_from(params, rest), state) == 0
    assert ('trained' in rest) == averaged


def test_an_evaluation_is_of_the_average(text, tmp_path):
    """The trained parameters are taken away, so that only the average can give the figure."""
    config = run_config(text, average=0.99)
    setup, prepared = one_device_setup(config), prepare_data(config)
    rows = make_rows(config, prepared)
    loop = Loop(setup, rows, prepared.tokenizer, Checkpoints(tmp_path, 2, announce=silent), {'data': ''})
    loop.restore()

    def track(batches, description, count):
        return batches

    def without(tree):
        return jax.tree.map(jnp.zeros_like, tree)

    before, state = loop.evaluate(track), loop.state
    loop.state = state.replace(params=without(state.params))
    assert loop.evaluate(track) == before
    loop.state = state.replace(opt_state=without(state.opt_state))
    assert loop.evaluate(track) != before
