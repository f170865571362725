"""What a model remembers of the rows before it: part of the state, of its checkpoints, and of every microbatch."""

import shutil

import jax
import numpy as np
import pytest
from helpers import XLNET, largest_difference, one_device_setup, random_batch, tiny_config

from gpt2jax.data import Rows, Tokens, make_tokenizer
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.loop import Loop
from gpt2jax.training.metrics import MetricWriter, read_metrics
from gpt2jax.training.replay import examine, run_to
from gpt2jax.training.state import rest_of, state_from
from gpt2jax.training.step import make_example

STEPS, KEEP = 8, 3
MODELS = {
    'lstm': {'model__architecture': 'lstm', 'model__recurrent__hidden_drop': 0.1, 'model__init__std': 0.3},
    'transformer_xl': {
        'model__architecture': 'transformer_xl',
        'model__position__kind': 'relative',
        'model__memory_length': 20,
        'model__attention__dropout': 0.1,
    },
    'xlnet': {
        **XLNET,
        'objective__kind': 'permutation',
        'objective__rate': 0.4,
        'model__memory_length': 20,
        'model__attention__dropout': 0.1,
        'model__init__std': 0.1,
    },
}
# Has no memory, and is resumed like the others.
FORGETFUL = {'encoder_decoder': {'model__architecture': 'encoder_decoder', 'objective__kind': 'prefix'}}
RUN = {
    'model__num_layers': 2,
    'model__width': 16,
    'model__dropout': 0.1,
    'data__order': 'contiguous',
    'training__steps': STEPS,
    'training__log_every': 1,
    'optimizer__learning_rate': 3e-3,
    'optimizer__epsilon': 1e-5,
    'evaluation__every': 4,
    'checkpoint__every_steps': KEEP,
    'checkpoint__every_minutes': 0.0,
    'checkpoint__keep': 9,
}


def make_setup(model, **changes):
    return one_device_setup(tiny_config(**RUN | (MODELS | FORGETFUL)[model] | changes))


def make_rows():
    tokenizer = make_tokenizer('bytes')
    stream = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint16)
    stream[::50] = tokenizer.end_of_text
    tokens = Tokens(stream, np.arange(0, 2001, 50), 1960)
    return Rows(tokens, 16, False, tokenizer, contiguous=True), tokenizer


def train(setup, workdir):
    """Trains what is left of the run in a folder; returns its loop and the step that it began with."""
    (rows, tokenizer), checkpoints = make_rows(), Checkpoints(workdir / 'checkpoints', 9)
    loop = Loop(setup, dict.fromkeys(('train', 'validation'), rows), tokenizer, checkpoints, {'data': 'test'})
    start = loop.restore()
    with MetricWriter(workdir, start) as writer:
        loop.run(start, writer)
    checkpoints.close()
    return loop, start


def steps(setup, count=3):
    """The state after a few random batches, of which half of the rows go on."""
    state, step = setup.initial_state(), setup.train_step()
    for seed in range(count):
        state, _ = step(state, random_batch(8, 16, seed=seed))
    return state


@pytest.mark.parametrize('model', [*MODELS, *FORGETFUL])
def test_a_resumed_run_is_bit_equal_with_all_that_it_remembers(model, tmp_path):
    setup = make_setup(model)
    whole, _ = train(setup, tmp_path / 'whole')
    shutil.copytree(tmp_path / 'whole', tmp_path / 'part')
    for folder in (tmp_path / 'part' / 'checkpoints').iterdir():
        if folder.name.isdigit() and int(folder.name) > KEEP:
            shutil.rmtree(folder)
    again, start = train(setup, tmp_path / 'part')
    assert start == KEEP
    assert largest_difference(tree_of(whole.state), tree_of(again.state)) == 0
    names = ('step', 'loss', 'gradient_norm', 'bits_per_byte', 'predicted', 'stride', 'memory')
    expected, found = (
        [[line.get(name) for name in names] for line in read_metrics(tmp_path / folder / 'metrics.jsonl')]
        for folder in ('whole', 'part')
    )
    assert expected == found


def tree_of(state):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (state.params, state.opt_state, state.carry))


@pytest.mark.parametrize('model', MODELS)
def test_a_step_reads_what_the_one_before_it_left(model):
    setup = make_setup(model)
    state, step = steps(setup), setup.train_step()
    keep = jax.tree.map(np.asarray, state)
    forgotten = keep.replace(carry=jax.tree.map(np.zeros_like, keep.carry))
    batch = random_batch(8, 16, seed=9)
    _, with_memory = step(state, batch)
    _, without = step(jax.tree.map(jax.numpy.array, forgotten), batch)
    assert abs(with_memory['loss'] - without['loss']) > 1e-5
    alone = batch | {'continues': np.zeros(8, bool)}
    first, second = (step(jax.tree.map(jax.numpy.array, start), alone)[1]['loss'] for start in (keep, forgotten))
    assert first == second


@pytest.mark.parametrize('model', MODELS)
def test_the_carry_is_that_of_the_forward_pass(model):
    setup = make_setup(model, model__dropout=0.0, **{key: 0.0 for key in MODELS[model] if 'drop' in key})
    state, batch = steps(setup), random_batch(8, 16, seed=9)
    objective_key, _ = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))
    example, _ = make_example(setup.model, setup.objective(), batch, objective_key, 0.0)
    _, expected = setup.model.apply(state.params, example, state.carry)
    after, _ = setup.train_step()(state, batch)
    assert largest_difference(floats(after.carry), floats(expected)) < 1e-5


def floats(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


@pytest.mark.parametrize('model', MODELS)
def test_microbatches_remember_as_the_whole_batch_does(model):
    whole, parts = steps(make_setup(model)), steps(make_setup(model, training__accumulation=4))
    assert largest_difference(floats(whole.carry), floats(parts.carry)) < 1e-5
    assert largest_difference(whole.params, parts.params) < 1e-5


def test_a_model_without_a_memory_has_the_checkpoints_it_always_had():
    setup = one_device_setup(tiny_config())
    state = setup.initial_state()
    assert state.carry is None
    assert rest_of(state).keys() == {'step', 'opt_state', 'key'}
    assert state_from(state.params, rest_of(state)) == state


@pytest.mark.parametrize('model', MODELS)
def test_a_replay_remembers_what_the_run_did(model):
    setup, (rows, _) = make_setup(model), make_rows()
    state, broken = run_to(setup, setup.initial_state(), rows, 0, 4, lambda work, *_: work)
    assert broken is None
    batch = random_batch(8, 16, seed=9)
    found = examine(setup, state, batch, lambda work, *_: work)
    _, metrics = setup.train_step()(state, batch)
    assert found.loss == pytest.approx(float(metrics['loss']), rel=1e-5)
    assert found.gradient_norm == pytest.approx(float(metrics['gradient_norm']), rel=1e-4)
