"""Whole runs from the command line: trained, killed, continued, evaluated, sampled."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import one_device_setup

from gpt2jax.config import default_config, flatten, overlay
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.validation import resolve

ROOT = Path(__file__).parents[1]
STEPS = 40
OPTIONS = {
    'data.corpus': 'text',
    'data.tokenizer': 'bytes',
    'data.length': 32,
    'model.num_layers': 2,
    'model.width': 32,
    'model.attention.num_heads': 2,
    'model.dropout': 0.1,
    'training.steps': STEPS,
    'training.batch_size': 4,
    'training.log_every': 1,
    'optimizer.warmup_steps': 5,
    'evaluation.every': 16,
    'evaluation.batch_size': 4,
    'checkpoint.every_steps': 7,
    'checkpoint.every_minutes': 0.0,
    'checkpoint.keep': 3,
    'sampling.max_new_tokens': 20,
    'sharding.cpu_devices': 1,
}


@pytest.fixture(name='text', scope='module')
def write_text(tmp_path_factory):
    """A text with some order in it, for the corpus 'text'."""
    folder, draw = tmp_path_factory.mktemp('corpus'), random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost', 'and', 'the', 'of', 'a']
    paragraphs = [' '.join(draw.choices(words, k=40)) for _ in range(150)]
    (folder / 'plays.txt').write_text('\n\n'.join(paragraphs))
    return folder


def arguments(text, command, workdir, **changes):
    """launch.py's arguments for a tiny run on `text`."""
    options = OPTIONS | {name.replace('__', '.'): value for name, value in changes.items()}
    options |= {'data.path': text / 'plays.txt', 'data.directory': text / 'cache', 'runtime.compilation_cache': ''}
    flags = [f'--config.{key}={value}' for key, value in options.items()]
    return [sys.executable, 'launch.py', command, '--config=configs/laptop.py', f'--workdir={workdir}', *flags]


def start(command, **options):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '300'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, **pipes, **options)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def launch(*command):
    return finish(start([sys.executable, 'launch.py', *command]))


def curve(workdir):
    """What must not change however a run is cut into pieces."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    keys = ('kind', 'step', 'loss', 'gradient_norm', 'learning_rate', 'bits_per_byte', 'predicted')
    return [tuple(line.get(key) for key in keys) for line in lines]


def parameters(workdir):
    """The arrays of the last checkpoint, by name."""

    config = resolve(overlay(default_config(), flatten(json.loads((workdir / 'config.json').read_text()))))
    setup = one_device_setup(config)
    checkpoints = Checkpoints(workdir / 'checkpoints', 3)
    step, params, _ = checkpoints.restore_params(setup.abstract.params)
    checkpoints.close()
    assert step == STEPS
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.fixture(name='whole', scope='module')
def train_whole(text, tmp_path_factory):
    """A run that nobody disturbed, and what it printed."""
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    status, out, err = finish(start(arguments(text, 'train', workdir)))
    assert status == 0, err
    return workdir, out


def wait_for_step(process, workdir, step):
    """Until the run has written the metrics of a step; it must still be running."""
    for _ in range(12000):
        metrics = workdir / 'metrics.jsonl'
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    pytest.fail('the run made no progress')


def test_a_run_prints_what_a_newcomer_wants_and_leaves_its_files(whole):
    workdir, out = whole
    for expected in ('bits per byte', 'tokens/s', 'report.html', 'model.width', 'Data: text'):
        assert expected in out, expected
    for name in (
        'config.json',
        'metrics.jsonl',
        'run.json',
        'samples.json',
        'report.html',
        'report.png',
        'tokenizer.json',
    ):
        assert (workdir / name).stat().st_size > 0, name
    steps = [line[1] for line in curve(workdir) if line[0] == 'train']
    assert steps == list(range(1, STEPS + 1))
    evaluations = [line for line in curve(workdir) if line[0] == 'evaluation']
    assert [line[1] for line in evaluations] == [16, 32, 40]
    assert evaluations[-1][5] < evaluations[0][5]


def test_a_killed_run_continues_bit_for_bit(whole, text, tmp_path):
    """SIGKILL at a random step, twice, with dropout on: parameters and curve equal those of the undisturbed run."""
    workdir, draw = tmp_path / 'killed', random.Random(time.time_ns())
    for lowest in (9, 22):
        step = draw.randrange(lowest, lowest + 8)
        process = start(arguments(text, 'train', workdir))
        wait_for_step(process, workdir, step)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL, f'killed too late (step {step})'
    status, out, err = finish(start(arguments(text, 'train', workdir)))
    assert status == 0, err
    assert 'continuing' in out
    assert curve(workdir) == curve(whole[0])
    expected, found = parameters(whole[0]), parameters(workdir)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name], found[name], err_msg=name)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_says_run_me_again(whole, text, tmp_path, number):
    workdir = tmp_path / 'stopped'
    process = start(arguments(text, 'train', workdir))
    wait_for_step(process, workdir, 3)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == 75, err
    assert 'saved step' in err
    assert 'Traceback' not in err
    status, out, err = finish(start(arguments(text, 'train', workdir)))
    assert status == 0, err
    assert 'continuing' in out
    assert curve(workdir) == curve(whole[0])


def test_a_finished_run_says_so_and_evaluates(whole, text):
    workdir, out = whole
    before = curve(workdir)
    status, again, err = finish(start(arguments(text, 'train', workdir)))
    assert status == 0, err
    assert 'finished already' in again
    figure = [line for line in out.splitlines() if 'validation:' in line][-1].partition('validation:')[2]
    assert figure in again
    assert curve(workdir) == before


def test_evaluate_gives_the_same_bits_per_byte_at_any_batch_size_and_device_count(whole, text):
    workdir, _ = whole
    from_training = [line for line in curve(workdir) if line[0] == 'evaluation'][-1][5]
    found = []
    for batch_size, devices in ((4, 1), (3, 1), (8, 2)):
        config = json.loads((workdir / 'config.json').read_text())
        config['evaluation']['batch_size'] = batch_size
        config['sharding']['cpu_devices'] = devices
        copy = workdir.with_name(f'copy{batch_size}')
        copy.mkdir()
        (copy / 'config.json').write_text(json.dumps(config))
        (copy / 'checkpoints').symlink_to(workdir / 'checkpoints')
        status, out, err = launch('evaluate', f'--workdir={copy}', '--step=latest')
        assert status == 0, err
        found.append(float(out.split(' bits per byte')[0].split()[-1]))
    np.testing.assert_allclose(found, from_training, atol=1e-4)


def test_the_test_split_is_another_text(whole):
    outputs = [launch('evaluate', f'--workdir={whole[0]}', f'--split={split}')[1] for split in ('validation', 'test')]
    assert 'test:' in outputs[1]
    assert outputs[0].split('validation:')[1] != outputs[1].split('test:')[1]


def test_bytes_of_an_evaluation_are_the_bytes_of_the_text(whole, text):
    _, out = whole
    line = next(line for line in out.replace('\n', ' ').split('Data: ') if line.startswith('text'))
    expected = line.split('validation ')[1].split(' bytes')[0].split()[-1]
    assert f'{expected} bytes; context ' in out.replace('\n', ' ')


def test_a_workdir_of_another_config_is_refused_with_the_difference(whole, text):
    status, _, err = finish(start(arguments(text, 'train', whole[0], model__width=64)))
    assert status == 2
    assert 'model.width: 32 -> 64' in err
    assert 'Traceback' not in err


def test_two_runs_cannot_share_a_workdir(text, tmp_path):
    first = start(arguments(text, 'train', tmp_path / 'shared', training__steps=5000))
    wait_for_step(first, tmp_path / 'shared', 2)
    status, _, err = finish(start(arguments(text, 'train', tmp_path / 'shared', training__steps=5000)))
    first.kill()
    first.communicate()
    assert status == 2
    assert str(first.pid) in err
    assert 'Traceback' not in err


def test_a_loss_that_is_no_number_stops_the_run(text, tmp_path):
    changes = {'optimizer__learning_rate': 1e30, 'optimizer__clip_norm': 0.0, 'optimizer__warmup_steps': 0}
    status, _, err = finish(start(arguments(text, 'train', tmp_path / 'nan', **changes)))
    assert status == 2
    for expected in ('step', 'nan', 'learning_rate', 'checkpoint'):
        assert expected in err, err
    assert 'Traceback' not in err


def test_samples_are_those_of_the_seed(whole):
    workdir, _ = whole
    flags = [f'--workdir={workdir}', '--prompt=the king', '--num_samples=2', '--max_new_tokens=30']
    (status, first, err), (_, same, _), (_, other, _) = (launch('sample', *flags, f'--seed={s}') for s in (1, 1, 2))
    assert status == 0, err
    assert first == same != other
    assert 'the king' in first
    assert 'Traceback' not in err
