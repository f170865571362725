"""Which cells are trained as one program, and what becomes of each of them."""

import io
import json
import os
import random
import subprocess
import sys
import time

import pytest
from helpers import TINY
from rich.console import Console

from gpt2jax.config import default_config, overlay
from gpt2jax.errors import RUN_AGAIN
from gpt2jax.studies import running
from gpt2jax.studies.board import CellsBoard
from gpt2jax.studies.cells import ATTEMPTS, Cell, progress_of
from gpt2jax.studies.grouping import command_of, group_cells
from gpt2jax.studies.study import ROOT
from gpt2jax.training.group import own_values
from gpt2jax.training.signals import StopRequest
from gpt2jax.validation import resolve

STEPS = 10


def make_cell(folder, arm='a', seed=0, role='run', **changes):
    """A cell of a study; `model__width=64` sets model.width."""
    changes = {'training.steps': STEPS, **{name.replace('__', '.'): value for name, value in changes.items()}}
    config = resolve(overlay(default_config(), TINY | changes | {'seed': seed}))
    name = f'{arm}{seed}{"".join(map(str, changes.values()))}'
    return Cell(arm, seed, role, (), '', changes | {'seed': seed}, config, 'configs/laptop.py', folder / name)


def write_run(folder, step, finished=True):
    """What a run leaves that has come to `step`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{'kind': 'train', 'step': step, 'loss': 1.5, 'seconds': 4.0}]
    lines += [{'kind': 'evaluation', 'step': step, 'split': 'validation', 'bits_per_byte': 2.0}] if finished else []
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (folder / 'run.json').write_text(json.dumps({'finished': 'now'} if finished else {}))


def begin(group, step=4, together=None):
    """What a group leaves that is killed."""
    own = [own_values(cell.config) for cell in group] if together is None else together
    for cell in group:
        write_run(cell.folder, step, finished=False)
        (cell.folder / 'run.json').write_text(json.dumps({'together': own} if own else {}))


def seeds(groups):
    return [[(cell.arm, cell.seed) for cell in group] for group in groups]


@pytest.fixture(name='cells')
def make_cells(tmp_path):
    """Two arms by three seeds, seed by seed."""
    widths = {'a': 32, 'b': 64}
    return [make_cell(tmp_path, arm, seed, model__width=widths[arm]) for seed in range(3) for arm in widths]


def test_seeds_of_an_arm_are_one_program(cells):
    a, b = ([('a', 0), ('a', 1), ('a', 2)], [('b', 0), ('b', 1), ('b', 2)])
    assert seeds(group_cells(cells, 8)) == [a, b]
    assert seeds(group_cells(cells, 2)) == [a[:2], b[:2], a[2:], b[2:]]
    assert seeds(group_cells(cells, 1)) == [[('a', 0)], [('b', 0)], [('a', 1)], [('b', 1)], [('a', 2)], [('b', 2)]]


def test_learning_rates_that_are_tried_are_one_program(tmp_path):
    rates = [make_cell(tmp_path, seed=100, role='tune', optimizer__learning_rate=rate) for rate in (1e-3, 2e-3)]
    assert len(group_cells(rates, 8)) == 1
    command = command_of(group_cells(rates, 8)[0])
    assert command[2] == 'train_together'
    assert '--seeds=100,100' in command
    assert '--learning_rates=0.001,0.002' in command
    assert [word for word in command if word.startswith('--workdir')] == [f'--workdir={cell.folder}' for cell in rates]
    assert not [word for word in command if 'config.seed' in word or 'config.optimizer.learning_rate' in word]


def test_runs_that_measure_seconds_and_those_that_cannot_share_run_alone(tmp_path):
    assert len(group_cells([make_cell(tmp_path, seed=seed, role='speed') for seed in range(3)], 8)) == 3
    assert len(group_cells([make_cell(tmp_path, seed=seed, sharding__fsdp=2) for seed in range(3)], 8)) == 3


def test_a_group_that_was_begun_goes_on_as_it_was(cells):
    a = cells[::2]
    begin(a[:2])
    assert seeds(group_cells(a, 8)) == [[('a', 0), ('a', 1)], [('a', 2)]]
    write_run(a[0].folder, STEPS)  # its companion is then alone
    assert seeds(group_cells(a, 8)) == [[('a', 1)], [('a', 2)]]


def test_what_was_begun_or_has_failed_alone_stays_alone(cells):
    a = cells[::2]
    begin(a[:1], together=[])
    a[1].folder.mkdir()
    (a[1].folder / ATTEMPTS).write_text('[{"status": 2, "error": "it broke"}]')
    assert seeds(group_cells(a, 8)) == [[('a', 0)], [('a', 1)], [('a', 2)]]


class Scripted:
    """An executor whose processes do what a list says: (what becomes of each run, exit status)."""

    def __init__(self, *scripts):
        self.scripts, self.started = list(scripts), []

    def start(self, command, folder, parallel):
        folders = [folder.parent / word.rpartition('/')[2] for word in command if word.startswith('--workdir=')]
        becomes, self.status = self.scripts.pop(0)
        self.started.append(folder.name)
        for own, what in zip(folders, becomes, strict=True):
            write_run(own, STEPS if what == 'done' else 4, finished=what == 'done')
            if what not in ('done', 'half'):
                (own / 'run.json').write_text(json.dumps({'error': what}))
        return self

    def poll(self):
        return self.status


@pytest.fixture(name='run_all')
def make_run_all(monkeypatch):
    monkeypatch.setattr(running, 'POLL_SECONDS', 0.001)

    def run_all(cells, executor):
        with CellsBoard(Console(file=io.StringIO()), cells) as board:
            running.run(cells, executor, 1, board, StopRequest(), together=8)

    return run_all


def test_of_a_group_those_that_fail_are_tried_once_more_alone(cells, run_all):
    a = cells[::2]
    executor = Scripted((('done', 'step 3: nan', 'done'), 2), (('step 3: nan again',), 2))
    run_all(a, executor)
    assert executor.started == [a[0].folder.name, a[1].folder.name]
    assert [progress_of(cell).status for cell in a] == ['finished', 'failed', 'finished']
    attempts = json.loads((a[1].folder / ATTEMPTS).read_text())
    assert [attempt['error'] for attempt in attempts] == ['step 3: nan', 'step 3: nan again']


def test_a_group_that_was_asked_to_stop_goes_on_as_one(cells, run_all):
    a = cells[::2]
    executor = Scripted((('half',) * 3, RUN_AGAIN), (('done',) * 3, 0))
    run_all(a, executor)
    assert executor.started == [a[0].folder.name] * 2
    assert {progress_of(cell).status for cell in a} == {'finished'}
    assert not (a[0].folder / ATTEMPTS).exists()


EXPERIMENT = '''"""Is RMSNorm as good?

Read it.
"""

from gpt2jax.studies import Study, arm, chain


def get_study():
    return Study(
        base='configs/laptop.py',
        changes={changes},
        arms=chain(arm('layer'), arm('rms', {{'model.norm.kind': 'rmsnorm'}})),
        seeds=(0, 1),
    )
'''
CHANGES = {
    'data.corpus': 'text',
    'data.tokenizer': 'bytes',
    'data.length': 32,
    'model.num_layers': 1,
    'model.width': 32,
    'model.attention.num_heads': 2,
    'model.dropout': 0.1,
    'training.steps': 30,
    'training.batch_size': 4,
    'training.log_every': 1,
    'optimizer.warmup_steps': 5,
    'evaluation.every': 10,
    'evaluation.batch_size': 4,
    'checkpoint.every_steps': 3,
    'checkpoint.every_minutes': 0.0,
    'sampling.max_new_tokens': 4,
}


@pytest.mark.slow
def test_a_study_of_groups_that_is_killed_goes_on(tmp_path):
    draw = random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost', 'and', 'the', 'of', 'a']
    (tmp_path / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(150)))
    paths = {'data.path': f'{tmp_path}/plays.txt', 'data.directory': f'{tmp_path}/cache'}
    (tmp_path / 'norms.py').write_text(EXPERIMENT.format(changes=CHANGES | paths))
    command = [sys.executable, str(ROOT / 'launch.py'), 'study', '--experiment=norms.py', '--together=2']
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '300'}
    options = {'cwd': tmp_path, 'env': environment, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
    cells = tmp_path / 'runs' / 'studies' / 'norms' / 'cells'

    study = subprocess.Popen(command, **options)
    while not list(cells.glob('rms/seed1-*/checkpoints/[0-9]*[0-9]')):
        assert study.poll() is None
        time.sleep(0.02)
    study.kill()
    study.communicate()
    begun = {path: path.stat().st_mtime_ns for path in cells.glob('layer/*/metrics.jsonl')}
    assert len(begun) == 2

    done = subprocess.run(command, **options, timeout=900, check=False)
    out = done.stdout.decode()
    assert done.returncode == 0, out
    assert 'layer, seed 0: begins' not in out
    assert '(4 of 4 runs finished)' in out
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in begun.items())
    for run in cells.glob('*/*/run.json'):
        assert [own['seed'] for own in json.loads(run.read_text())['together']] == [0, 1]
    assert len(list(cells.glob('*/*/report.html'))) == 4
