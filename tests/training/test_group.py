"""Runs that are one program are what they would be alone, also where they are killed, or one of them breaks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from grouped_training import CASES, OWN, STEPS, compare, configs, curve, train_group
from helpers import largest_difference, tiny_config

from gpt2jax.errors import UserError
from gpt2jax.training.group import check_together, devices_for, why_alone
from gpt2jax.training.nonfinite import NAME

TESTS = Path(__file__).parents[1]
QUICK = [('causal', False), ('masked', True)]
SLOW = [(name, at_once) for name in CASES for at_once in (False, True) if (name, at_once) not in QUICK]


class KilledError(Exception):
    """Stands for a process that is gone."""


def killed_at(step):
    """A change to a loop that ends it before this step."""

    def change(loop):
        make = loop._batch

        def batch(number):
            if number == step:
                raise KilledError
            return make(number)

        loop._batch = batch

    return change


def check_same(result):
    assert result['apart'] > 1e-3  # seeds and learning rates matter, or the rest would show nothing
    assert result['curves'] < 1e-5
    assert result['parameters'] < 1e-5


@pytest.mark.parametrize(('name', 'at_once'), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_the_runs_of_a_group_are_those_that_are_trained_alone(tmp_path, name, at_once):
    check_same(compare(tmp_path, at_once, **CASES[name]))


@pytest.mark.parametrize('count', [4, pytest.param(2, marks=pytest.mark.slow)])
def test_each_device_trains_runs_of_its_own(tmp_path, count):
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={count}'
    environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': f'{TESTS}{os.pathsep}{TESTS.parent}'}
    command = [sys.executable, str(TESTS / 'grouped_training.py'), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result['devices'] == count
    check_same(result)


@pytest.fixture(name='whole', scope='module')
def train_whole(tmp_path_factory):
    """A group that nobody disturbed."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, train_group(configs(), folder)


def test_a_group_that_is_killed_goes_on_from_its_last_common_checkpoint_bit_for_bit(tmp_path, whole):
    folder, undisturbed = whole
    with pytest.raises(KilledError):
        train_group(configs(), tmp_path, change=killed_at(5))
    assert [step.name for step in sorted((tmp_path / '0' / 'checkpoints').iterdir())] == ['3', '4']
    shutil.rmtree(tmp_path / '1' / 'checkpoints' / '4')  # as a kill in the middle of the saves leaves it
    starts = []
    loop = train_group(configs(), tmp_path, change=lambda loop: starts.append(int(loop.state.step[0])))
    assert starts == [3]
    for place in range(len(OWN)):
        assert curve(tmp_path / str(place)) == curve(folder / str(place))
    assert largest_difference(loop.state, undisturbed.state) == 0


def test_a_run_that_breaks_ends_alone(tmp_path, whole):
    runs = configs([OWN[0], OWN[1] | {'optimizer__learning_rate': 1e38}, OWN[2]])
    loop = train_group(runs, tmp_path)
    assert 'the loss is nan' in loop.members[1].error or 'inf' in loop.members[1].error
    assert list(loop.alive) == [0, 2]
    failure = json.loads((tmp_path / '1' / NAME).read_text())
    assert failure['config']['seed'] == 1
    assert curve(tmp_path / '1')[-1][1] < failure['step']
    for place in (0, 2):
        assert curve(tmp_path / str(place)) == curve(whole[0] / str(place))
    # Started again it stays failed; without its record it is one of the group again, which then has to go back.
    again = train_group_started(runs, tmp_path)
    assert again == (STEPS, [0, 2])
    (tmp_path / '1' / NAME).unlink()
    assert train_group_started(runs, tmp_path)[0] < failure['step']


def train_group_started(runs, folder):
    """(first step, runs that are alive) of a group that is started again, and not trained on."""
    found = []

    def look(loop):
        found.append((int(np.asarray(loop.state.step)[0]), list(loop.alive)))
        raise KilledError

    with pytest.raises(KilledError):
        train_group(runs, folder, change=look)
    return found[0]


def test_a_group_whose_runs_have_all_failed_says_so(tmp_path):
    runs = configs([{'seed': seed, 'optimizer__learning_rate': 1e38} for seed in (0, 1)])
    with pytest.raises(UserError, match='all runs of the group have failed; the first one: step'):
        train_group(runs, tmp_path)


def test_what_cannot_be_one_program_is_refused():
    with pytest.raises(UserError, match=r'differ in seed and optimizer.learning_rate alone, not in config.data.length'):
        check_together([tiny_config(), tiny_config(seed=1, data__length=8)])
    assert why_alone(tiny_config()) == ''
    with pytest.raises(UserError, match=r'config.sharding.fsdp = 2: each run of a group is on one device; use train'):
        check_together([tiny_config(sharding__fsdp=2), tiny_config(sharding__fsdp=2, seed=1)])
    assert 'init_from' in why_alone(tiny_config(training__init_from='runs/x'))


def test_devices_hold_equally_many_runs():
    assert [devices_for(runs, 4) for runs in (1, 2, 3, 4, 5, 6, 8)] == [1, 2, 3, 4, 1, 3, 4]
    assert jax.device_count() >= 1
