"""A run whose objective changes on the way: what it reports, and that it continues bit for bit in the middle."""

import shutil

import numpy as np
import pytest
from helpers import largest_difference, one_device_setup, tiny_config

from gpt2jax.data import Rows, Tokens, make_tokenizer
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.loop import Loop
from gpt2jax.training.metrics import MetricWriter, read_metrics

STEPS, KEEP = 12, 7
KINDS = ['causal'] * 4 + ['masked'] * 5 + ['prefix'] * 3


@pytest.fixture(name='setup', scope='module')
def make_setup():
    return one_device_setup(
        tiny_config(
            model__num_layers=1,
            model__width=16,
            model__dropout=0.1,
            objective__switch='masked@4,prefix@9',
            objective__rate=0.2,
            objective__start_rate=0.5,
            training__steps=STEPS,
            training__log_every=1,
            evaluation__every=6,
            evaluation__num_rows=8,
            checkpoint__every_steps=KEEP,
            checkpoint__every_minutes=0.0,
            checkpoint__keep=5,
        )
    )


def train(setup, workdir):
    """Trains what is left of the run in a folder; returns its loop."""
    tokenizer = make_tokenizer('bytes')
    stream = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint16)
    stream[::50] = tokenizer.end_of_text
    tokens = Tokens(stream, np.arange(0, 2001, 50), 1960)
    rows = dict.fromkeys(('train', 'validation'), Rows(tokens, 16, False, tokenizer))
    checkpoints = Checkpoints(workdir / 'checkpoints', 5)
    loop = Loop(setup, rows, tokenizer, checkpoints, {'data': 'test'})
    start = loop.restore()
    with MetricWriter(workdir, start) as writer:
        loop.run(start, writer)
    checkpoints.close()
    return loop, start


@pytest.fixture(name='whole', scope='module')
def train_whole(setup, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    loop, _ = train(setup, workdir)
    return workdir, loop


def lines(workdir, kind='train'):
    return [record for record in read_metrics(workdir / 'metrics.jsonl') if record['kind'] == kind]


def test_every_line_names_its_objective_and_counts_tokens_seen_and_predicted_apart(whole):
    workdir, _ = whole
    assert [line['objective'] for line in lines(workdir)] == KINDS
    assert [line['tokens'] for line in lines(workdir)] == [8 * 16 * step for step in range(1, STEPS + 1)]
    predicted = np.diff([0, *(line['predicted'] for line in lines(workdir))])
    assert (predicted[:4] == 8 * 16).all()
    assert ((predicted[4:9] > 0.2 * 110) & (predicted[4:9] < 0.5 * 128)).all()
    assert (predicted[9:] < 8 * 16).all()
    assert [line['objective'] for line in lines(workdir, 'evaluation')] == ['masked', 'prefix']


@pytest.mark.parametrize('step', [KEEP, 6])
def test_a_run_that_stopped_within_a_phase_continues_bit_for_bit(setup, whole, step, tmp_path):
    workdir, loop = whole
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for folder in (tmp_path / 'checkpoints').iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    again, start = train(setup, tmp_path)
    assert start == step
    assert largest_difference(loop.state.params, again.state.params) == 0
    names = ('step', 'objective', 'loss', 'gradient_norm', 'predicted', 'tokens')
    expected, found = ([[line[name] for name in names] for line in lines(path)] for path in (workdir, tmp_path))
    assert expected == found


def test_a_finished_run_knows_the_objective_it_ended_with(setup, whole):
    workdir, _ = whole
    assert setup.kind_at(STEPS - 1) == 'prefix'
    loop, start = train_nothing(setup, workdir)
    assert start == STEPS
    assert loop.evaluate(lambda batches, *_: batches)


def train_nothing(setup, workdir):
    """A loop over a finished run."""
    tokenizer = make_tokenizer('bytes')
    tokens = Tokens(np.full(200, 7, np.uint16), np.array([0, 200]), 199)
    checkpoints = Checkpoints(workdir / 'checkpoints', 5)
    rows = dict.fromkeys(('train', 'validation'), Rows(tokens, 16, False, tokenizer))
    loop = Loop(setup, rows, tokenizer, checkpoints, {'data': 'test'})
    return loop, loop.restore()


def test_each_objective_is_counted_with_the_logits_it_makes(setup):
    causal, masked = setup.step_flops(kind='causal'), setup.step_flops(kind='masked')
    assert setup.step_flops() == causal > masked
    logits = 3 * 2 * 16 * 260 * 8  # of one position of each row
    assert causal - masked == logits * (16 - round(0.5 * 16))
