"""Real processes on one machine: they equal one process, stop together, and lose nothing when one of them fails."""

import os
import resource
import signal

import numpy as np
import pytest
from together import (
    STEPS,
    cluster,
    finish,
    kill,
    losses,
    reached,
    saved_steps,
    step_of,
    train,
    wait_for,
    worker,
    write_text,
)

TWO = '--local_processes=2'


@pytest.fixture(name='text', scope='module')
def make_text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(name='whole', scope='module')
def train_whole(text, tmp_path_factory):
    """One process with two devices, that nobody disturbed."""
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    status, _, err = finish(train(text, workdir, devices=2))
    assert status == 0, err
    return workdir


def continues(text, workdir, whole, *flags, exactly=True, **changes):
    """The same command goes on where the run was, and ends with the losses of the undisturbed run."""
    status, out, err = finish(train(text, workdir, *(flags or (TWO,)), **changes))
    assert status == 0, err
    expected, found = losses(whole), losses(workdir)
    assert found.keys() == expected.keys() == set(range(1, STEPS + 1))
    if exactly:
        assert found == expected
    else:  # Adam amplifies what the order of a sum changes
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=2e-4)
    return out, err


def test_two_processes_equal_one_and_stop_together(whole, text, tmp_path):
    """SIGTERM reaches one of them; both save the same step and say "run me again"; all losses are those of one."""
    process = train(text, tmp_path / 'run', TWO)
    wait_for(reached(tmp_path / 'run', 14), process, 'step 14')
    kill(worker(process, 1), signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 75, err
    saved = step_of(err.partition('SIGTERM')[2])
    assert f'another process was asked to stop: saved step {saved}' in err
    assert saved_steps(tmp_path / 'run')[-1] == saved >= 14
    assert out.count('Data: text') == 1
    out, _ = continues(text, tmp_path / 'run', whole)
    assert f'from step {saved}' in out
    assert 'sample 1 of 1' in out
    assert (tmp_path / 'run' / 'report.html').exists()


def test_a_process_with_another_config_is_named_before_anything_runs(text, tmp_path):
    first, second = cluster(2)
    one = train(text, tmp_path / 'run', *first)
    other = train(text, tmp_path / 'run', *second, optimizer__learning_rate=0.1)
    for status, _, err in (finish(one), finish(other)):
        assert status == 2
        assert 'process 1 on ' in err
        assert 'optimizer.learning_rate = 0.1, not 0.00' in err
    assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_coordinator_that_never_comes_is_named(text, tmp_path):
    _, second = cluster(2)
    status, _, err = finish(train(text, tmp_path / 'run', *second, runtime__start_seconds=2.0))
    assert status == 1
    assert f'process 1 on {os.uname().nodename}: the coordinator {second[0].partition("=")[2]} (process 0)' in err
    assert 'did not answer' in err


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(text, tmp_path):
    first, _ = cluster(2)
    status, _, err = finish(train(text, tmp_path / 'run', *first, runtime__start_seconds=2.0))
    assert status == 1
    assert 'of 2 processes, 1 did not answer' in err
    assert 'process 1. There are: 0 on' in err


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_killed_process_ends_all_and_loses_nothing(whole, text, tmp_path, index):
    process = train(text, tmp_path / 'run', TWO)
    wait_for(reached(tmp_path / 'run', 24), process, 'step 24')
    kill(worker(process, index))
    status, _, err = finish(process)
    assert status == 75, err
    assert f'process {index} by SIGKILL' in err
    assert saved_steps(tmp_path / 'run')[-1] >= 10  # that of step 20 may have been on its way
    continues(text, tmp_path / 'run', whole)


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_process_killed_in_the_middle_of_a_save_loses_that_save_alone(whole, text, tmp_path, index):
    process = train(text, tmp_path / 'run', TWO)
    wait_for(reached(tmp_path / 'run', 21), process, 'step 21')
    pid, checkpoints = worker(process, index), tmp_path / 'run' / 'checkpoints'
    wait_for((checkpoints / '30.partial').exists, process, 'the save of step 30')
    kill(pid)
    status, _, err = finish(process)
    assert status == 75, err
    good = saved_steps(tmp_path / 'run')
    assert good
    assert 20 <= good[-1] <= 30
    out, _ = continues(text, tmp_path / 'run', whole)
    assert f'from step {good[-1]}' in out


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_stopped_process_is_named_and_the_others_end(whole, text, tmp_path, index):
    process = train(text, tmp_path / 'run', TWO, runtime__patience_seconds=20.0)
    wait_for(reached(tmp_path / 'run', 24), process, 'step 24')
    kill(worker(process, index), signal.SIGSTOP)
    status, _, err = finish(process)
    assert status == 75, err
    assert f'process {index} on ' in err
    assert 'has given no sign of life' in err
    continues(text, tmp_path / 'run', whole)


def limit_files():
    """A full disk, as far as this process is concerned: no file may grow beyond 40 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


@pytest.mark.slow
@pytest.mark.parametrize('full', [0, 1])
def test_a_host_that_cannot_write_is_named_and_older_checkpoints_stay(text, tmp_path, full):
    whole = tmp_path / 'whole'
    assert finish(train(text, whole, devices=2, sharding__fsdp=2))[0] == 0
    process = train(text, tmp_path / 'run', TWO, sharding__fsdp=2)
    wait_for(reached(tmp_path / 'run', 24), process, 'step 24')
    process.terminate()
    assert finish(process)[0] == 75
    before = saved_steps(tmp_path / 'run')
    flags = cluster(2)
    processes = [
        train(
            text, tmp_path / 'run', *flags[index], preexec_fn=limit_files if index == full else None, sharding__fsdp=2
        )
        for index in range(2)
    ]
    for status, _, err in map(finish, processes):
        assert status == 2, err
        assert f'process {full} on ' in err or index_of_own_error(err)
        assert 'could not save the checkpoint' in err
    assert set(before) <= set(saved_steps(tmp_path / 'run'))
    continues(text, tmp_path / 'run', whole, sharding__fsdp=2)


def index_of_own_error(err):
    return 'File too large' in err


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['flipped', 'torn'])
def test_a_damaged_checkpoint_is_passed_over_by_all(whole, text, tmp_path, damage):
    process = train(text, tmp_path / 'run', TWO)
    wait_for(reached(tmp_path / 'run', 35), process, 'step 35')
    kill(worker(process, 1))
    finish(process)
    *_, before, newest = saved_steps(tmp_path / 'run')
    files = (path for path in (tmp_path / 'run' / 'checkpoints' / str(newest)).rglob('*') if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 16
    largest.write_bytes(content if damage == 'flipped' else content[: len(content) // 2])
    out, _ = continues(text, tmp_path / 'run', whole)
    assert 'is damaged and not used' in out
    assert f'from step {before}' in out


MATRIX = {
    '1 -> 2 processes': (('--local_processes=1', 2, {}), (TWO, None, {}), True),
    '2 -> 1 processes': ((TWO, None, {}), ('--local_processes=1', 2, {}), True),
    '2 -> 4 processes': ((TWO, 2, {}), ('--local_processes=4', 1, {}), True),
    '8 -> 4 devices': (('--local_processes=1', 8, {}), ('--local_processes=1', 4, {}), False),
    '4 devices -> 2 processes of 1': (('--local_processes=1', 4, {}), (TWO, 1, {}), False),
    'data 4 -> fsdp 4': (('--local_processes=1', 4, {}), (TWO, 2, {'sharding__fsdp': 4}), False),
    'fsdp 4 -> data 2 x tensor 2': (
        (TWO, 2, {'sharding__fsdp': 4}),
        (TWO, 2, {'sharding__tensor': 2}),
        False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', MATRIX)
def test_a_run_continues_on_another_number_of_processes_devices_or_another_mesh(text, tmp_path, case):
    """The same rows and the same random draws in every step; bit-equal where the mesh is the same one."""
    (flag, devices, changes), after, exactly = MATRIX[case]
    whole = tmp_path / 'whole'
    assert finish(train(text, whole, flag, devices=devices, **changes))[0] == 0
    process = train(text, tmp_path / 'run', flag, devices=devices, **changes)
    wait_for(reached(tmp_path / 'run', 24), process, 'step 24')
    process.terminate()
    assert finish(process)[0] == 75
    flag, devices, changes = after
    continues(text, tmp_path / 'run', whole, flag, devices=devices, exactly=exactly, **changes)
