"""The supervisor: statuses, signals, and the lines of several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2jax.processes import supervisor
from gpt2jax.processes.supervisor import local_commands, supervise


def python(code):
    return [sys.executable, '-c', code]


@pytest.fixture(autouse=True)
def little_grace(monkeypatch):
    monkeypatch.setattr(supervisor, 'GRACE_SECONDS', 0.5)


WAITS = 'import time; time.sleep(60)'


@pytest.mark.parametrize(
    ('codes', 'status'),
    [
        (['pass', 'pass'], 0),
        (['raise SystemExit(75)', 'raise SystemExit(75)'], 75),
        (['raise SystemExit(2)', WAITS], 2),
        (['raise SystemExit(75)', 'raise SystemExit(2)'], 2),
        ([WAITS, 'raise SystemExit(75)'], 75),
        (['raise SystemExit(1)', 'pass'], 1),
        (['import os, signal; os.kill(os.getpid(), signal.SIGKILL)', WAITS], 75),
    ],
)
def test_the_status_of_all(codes, status):
    assert supervise([python(code) for code in codes]) == status


def test_the_one_that_was_killed_is_named_and_not_those_that_waited_for_it(capfd):
    assert supervise([python(WAITS), python('import os; os.abort()')]) == 75
    err = capfd.readouterr().err
    assert 'process 1 by SIGABRT (by JAX, since process 0 is gone)' in err
    assert 'process 0 by' not in err


def test_the_first_has_the_terminal_and_the_others_are_told_apart(capfd):
    say = 'import sys; print("said by", {0}); print("wrong with", {0}, file=sys.stderr)'
    assert supervise([python(say.format(index)) for index in range(2)]) == 0
    out, err = capfd.readouterr()
    assert out == 'said by 0\n'
    assert sorted(err.splitlines()) == ['[process 1] wrong with 1', 'wrong with 0']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(number, tmp_path):
    child = (
        'import signal, sys, time; signal.signal({0}, lambda *a: sys.exit(75)); '
        'open({1!r}, "w").close(); time.sleep(60)'
    )
    ready = [str(tmp_path / str(index)) for index in range(2)]
    commands = [python(child.format(int(number), path)) for path in ready]
    code = f'from gpt2jax.processes.supervisor import supervise; raise SystemExit(supervise({commands!r}))'
    process = subprocess.Popen(python(code))
    while not all(map(os.path.exists, ready)):
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == 75


def test_no_process_outlives_a_supervisor_that_is_killed(tmp_path):
    mark = tmp_path / 'pid'
    child = (
        'import os, time; from gpt2jax.processes.supervisor import end_with_supervisor; end_with_supervisor(); '
        f'open({str(mark)!r}, "w").write(str(os.getpid())); time.sleep(60)'
    )
    code = f'from gpt2jax.processes.supervisor import supervise; supervise([{python(child)!r}])'
    process = subprocess.Popen(python(code))
    while not mark.exists() or not mark.read_text():
        time.sleep(0.02)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while os.path.exists(f'/proc/{mark.read_text()}') and time.monotonic() < deadline:
        if Path(f'/proc/{mark.read_text()}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
            return
        time.sleep(0.05)
    assert not os.path.exists(f'/proc/{mark.read_text()}')


@pytest.mark.parametrize('given', [['--local_processes=3'], ['--local_processes', '3'], ['-local_processes=3']])
def test_the_flag_gives_way_to_a_cluster(monkeypatch, given):
    monkeypatch.setattr(sys, 'orig_argv', ['python', 'launch.py', 'train', *given, '--workdir=a b'])
    commands = local_commands(3)
    coordinator = commands[0][4]
    assert coordinator.startswith('--coordinator=localhost:')
    for index, command in enumerate(commands):
        assert command == [
            sys.executable,
            'launch.py',
            'train',
            '--workdir=a b',
            coordinator,
            '--num_processes=3',
            f'--process_id={index}',
        ]
