"""`train_together` from the command line: its runs are runs, through a kill, and what it refuses."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2jax.commands.training_together import run_changes, run_folders
from gpt2jax.errors import RUN_AGAIN, UserError

ROOT = Path(__file__).parents[1]
STEPS = 40
OPTIONS = {
    'data.corpus': 'text',
    'data.path': 'plays.txt',
    'data.directory': 'cache',
    'data.tokenizer': 'bytes',
    'data.length': 32,
    'model.num_layers': 1,
    'model.width': 32,
    'model.attention.num_heads': 2,
    'model.dropout': 0.1,
    'training.steps': STEPS,
    'training.batch_size': 4,
    'training.log_every': 1,
    'optimizer.warmup_steps': 5,
    'evaluation.every': 16,
    'evaluation.batch_size': 4,
    'checkpoint.every_steps': 3,
    'checkpoint.every_minutes': 0.0,
    'sampling.max_new_tokens': 4,
}


@pytest.mark.parametrize(
    ('seeds', 'rates', 'expected'),
    [
        ('0,1', '', [{'seed': 0}, {'seed': 1}]),
        ('', '1e-3,2e-3', [{'optimizer.learning_rate': 1e-3}, {'optimizer.learning_rate': 2e-3}]),
        ('4', '1,2', [{'seed': 4, 'optimizer.learning_rate': rate} for rate in (1.0, 2.0)]),
        ('4,5', '1,2', [{'seed': 4, 'optimizer.learning_rate': 1.0}, {'seed': 5, 'optimizer.learning_rate': 2.0}]),
    ],
)
def test_each_run_has_its_seed_and_rate(seeds, rates, expected):
    assert run_changes(seeds, rates) == expected


@pytest.mark.parametrize(
    ('seeds', 'rates', 'message'),
    [
        ('0', '', 'needs two or more runs'),
        ('', '', 'needs two or more runs'),
        ('0,1,2', '1,2', 'give one of each run, or one for all'),
        ('0,0', '', 'two runs would be the same'),
        ('0,one', '', 'expected numbers'),
        ('0,', '', 'expected numbers'),
    ],
)
def test_lists_that_name_no_runs_are_refused(seeds, rates, message):
    with pytest.raises(UserError, match=message):
        run_changes(seeds, rates)


def test_each_run_has_its_folder():
    changes = run_changes('0,1', '1e-3')
    assert run_folders(['runs/x/'], changes) == ['runs/x/seed0-rate0.001', 'runs/x/seed1-rate0.001']
    assert run_folders(['a', 'b'], changes) == ['a', 'b']
    assert run_folders(['x'], run_changes('1234567,1234568', '')) == ['x/seed1234567', 'x/seed1234568']
    with pytest.raises(UserError, match='3 were given for 2 runs'):
        run_folders(['a', 'b', 'c'], changes)
    with pytest.raises(UserError, match='the same folder'):
        run_folders(['a', './a'], changes)


@pytest.fixture(name='launch')
def make_launch(tmp_path):
    """Starts a subcommand of launch.py on a small text."""
    draw = random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost', 'and', 'the', 'of', 'a']
    (tmp_path / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(150)))

    def launch(command, *flags):
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '300'}
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        return subprocess.Popen(
            [sys.executable, str(ROOT / 'launch.py'), command, *flags], cwd=tmp_path, env=environment, **pipes
        )

    return launch


def finish(process, status=0):
    out = process.communicate(timeout=600)[0]
    assert process.returncode == status, out
    return out


def curve(folder):
    """What must not change however a run is cut into pieces."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    keys = ('kind', 'step', 'loss', 'gradient_norm', 'learning_rate', 'bits_per_byte', 'predicted', 'tokens')
    return [tuple(line.get(key) for key in keys) for line in lines]


def newest_checkpoint(folder):
    return max((int(path.name) for path in (folder / 'checkpoints').glob('*') if path.name.isdecimal()), default=0)


def wait_for_checkpoint(process, folder, after):
    """Until there is one after that step; the process must still be running."""
    for _ in range(60_000):
        if newest_checkpoint(folder) > after:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail('no checkpoint came')


@pytest.mark.slow
def test_a_group_that_is_killed_or_stopped_ends_like_one_that_is_not(launch, tmp_path):
    config = [f'--config={ROOT}/configs/laptop.py', *(f'--config.{key}={value}' for key, value in OPTIONS.items())]
    rates = '--learning_rates=1e-3,2e-3'
    out = finish(launch('train_together', *config, '--seeds=3,4', rates, '--workdir=whole'))
    assert '2 runs as one program on' in out
    first = tmp_path / 'cut' / 'seed3-rate0.001'
    cut = ('train_together', *config, '--seeds=3,4', rates, '--workdir=cut')
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = newest_checkpoint(first)
        process = launch(*cut)
        wait_for_checkpoint(process, first, before)
        process.send_signal(number)
        finish(process, RUN_AGAIN if number == signal.SIGTERM else -number)
    assert 'continuing from step' in finish(launch(*cut))
    for name in ('seed3-rate0.001', 'seed4-rate0.002'):
        assert curve(tmp_path / 'cut' / name) == curve(tmp_path / 'whole' / name)
        assert json.loads((tmp_path / 'cut' / name / 'run.json').read_text())['finished']
        for file in ('config.json', 'tokenizer.json', 'samples.json', 'report.html'):
            assert (tmp_path / 'cut' / name / file).exists()
    assert 'finished already, at step 40' in finish(launch(*cut))

    assert 'bits per byte' in finish(launch('evaluate', '--workdir=cut/seed4-rate0.002'))
    other = finish(
        launch('train_together', *config, '--seeds=3,5', rates, '--workdir=cut/seed3-rate0.001', '--workdir=x'), 2
    )
    assert 'was begun with 1 others that are not the same now' in other
    alone = [*config, '--config.seed=4', '--config.optimizer.learning_rate=2e-3', '--config.sharding.cpu_devices=1']
    finish(launch('train', *alone, '--workdir=alone'))
    ours, theirs = (curve(tmp_path / name) for name in ('cut/seed4-rate0.002', 'alone'))
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    numbers = [[value for line in lines for value in line[2:] if value is not None] for lines in (ours, theirs)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
