"""Cells are run to their end: what is finished stays, what fails is tried once more, what is asked to stop stops."""

import functools
import io
import json
import os
import subprocess
import sys
import time
import types

import pytest
from rich.console import Console

from gpt2jax.errors import RUN_AGAIN, Stopped, UserError
from gpt2jax.studies import executors, running
from gpt2jax.studies.board import CellsBoard
from gpt2jax.studies.cells import ATTEMPTS, Cell, forget_attempts, lock_path, progress_of
from gpt2jax.studies.executors import Local, make_executor, shares, usable_cores
from gpt2jax.studies.processes import LEASH, LOG, last_error, start_process
from gpt2jax.training.signals import StopRequest

STEPS = 10


def make_cell(folder, name='a', seed=0):
    config = types.SimpleNamespace(training=types.SimpleNamespace(steps=STEPS))
    return Cell(name, seed, 'run', ('tokens',), '', {}, config, 'configs/laptop.py', folder / f'{name}{seed}')


def write_run(folder, step, finished=True):
    """What a run leaves that has come to `step`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{'kind': 'train', 'step': step, 'loss': 1.5, 'seconds': 4.0}]
    lines += [{'kind': 'evaluation', 'step': step, 'split': 'validation', 'bits_per_byte': 2.0}] if finished else []
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (folder / 'run.json').write_text(json.dumps({'finished': 'now'} if finished else {}))


class Scripted:
    """An executor whose runs do what a list says: 'done', 'half' (0, not finished), an exit status, or 'hang'."""

    def __init__(self, **scripts):
        self.scripts, self.started, self.now, self.most = scripts, [], 0, 0

    def start(self, command, folder, parallel):
        script = self.scripts.get(folder.name, ['done'])
        what = script.pop(0) if len(script) > 1 else script[0]
        self.started.append(folder.name)
        self.now += 1
        self.most = max(self.most, self.now)
        folder.mkdir(parents=True, exist_ok=True)
        if what == 'done':
            write_run(folder, STEPS)
        elif what != 'hang':
            (folder / LOG).write_text(f'compiling\nlaunch.py: it broke with {what}\n')
        return ScriptedJob(self, what)


class ScriptedJob:
    def __init__(self, executor, what):
        self.executor, self.what, self.polls, self.stopped = executor, what, 0, False

    def poll(self):
        self.polls += 1
        if self.what == 'hang':
            return RUN_AGAIN if self.stopped else None
        if self.polls < 3:
            return None
        if self.polls == 3:
            self.executor.now -= 1
        return {'done': 0, 'half': 0}.get(self.what, self.what)

    def stop(self):
        self.stopped = True


@pytest.fixture(name='run_all')
def make_run_all(monkeypatch):
    monkeypatch.setattr(running, 'POLL_SECONDS', 0.001)

    def run_all(cells, executor, parallel=1, stop=None):
        console = Console(file=open('/dev/null', 'w'))  # noqa: SIM115 (as long as the test)
        with CellsBoard(console, cells) as board:
            running.run(cells, executor, parallel, board, StopRequest() if stop is None else stop)

    return run_all


def test_finished_runs_never_run_again(tmp_path, run_all):
    cells = [make_cell(tmp_path, seed=seed) for seed in range(3)]
    write_run(cells[1].folder, STEPS)
    write_run(cells[2].folder, 4, finished=False)
    executor = Scripted()
    run_all(cells, executor)
    assert executor.started == ['a0', 'a2']
    run_all(cells, executor)
    assert executor.started == ['a0', 'a2']


def test_a_run_that_ended_early_is_not_finished(tmp_path):
    cell = make_cell(tmp_path)
    write_run(cell.folder, STEPS - 1)
    assert progress_of(cell).status == 'begun'
    write_run(cell.folder, STEPS)
    (cell.folder / 'run.json').write_text('{}')
    assert progress_of(cell).status == 'begun'


def test_a_failure_is_tried_once_more_and_then_shown(tmp_path, run_all):
    cells = [make_cell(tmp_path, seed=seed) for seed in range(3)]
    executor = Scripted(a0=[2, 2], a1=[2, 'done'])
    run_all(cells, executor)
    assert executor.started == ['a0', 'a1', 'a2', 'a0', 'a1']
    assert [progress_of(cell).status for cell in cells] == ['failed', 'finished', 'finished']
    assert progress_of(cells[0]).error == 'it broke with 2'
    run_all(cells, executor)
    assert len(executor.started) == 5
    forget_attempts(cells[0])
    assert progress_of(cells[0]).status == 'waiting'


def test_exit_status_0_without_an_end_is_a_failure(tmp_path, run_all):
    cell = make_cell(tmp_path)
    run_all([cell], Scripted(a0=['half']))
    assert progress_of(cell).status == 'failed'


def test_exit_status_75_means_run_it_again_and_is_no_failure(tmp_path, run_all):
    cell, executor = make_cell(tmp_path), Scripted(a0=[RUN_AGAIN, RUN_AGAIN, RUN_AGAIN, 'done'])
    run_all([cell], executor)
    assert executor.started == ['a0'] * 4
    assert progress_of(cell).status == 'finished'
    assert not (cell.folder / ATTEMPTS).exists()


@pytest.mark.parametrize('parallel', [1, 3])
def test_so_many_run_at_a_time(tmp_path, run_all, parallel):
    executor = Scripted()
    run_all([make_cell(tmp_path, seed=seed) for seed in range(7)], executor, parallel)
    assert executor.most == parallel
    assert len(executor.started) == 7


def test_a_study_that_is_asked_to_stop_asks_its_runs(tmp_path, run_all):
    stop, executor = StopRequest(), Scripted(a0=['hang'])
    original = executor.start

    def start(*arguments):
        stop.name = 'SIGTERM'
        return original(*arguments)

    executor.start = start
    with pytest.raises(Stopped, match='SIGTERM: 0 of 2 runs are finished; the same command continues'):
        run_all([make_cell(tmp_path, seed=seed) for seed in range(2)], executor, stop=stop)
    assert executor.started == ['a0']


def test_a_run_that_another_process_holds_is_waited_for(tmp_path, run_all):
    cell = make_cell(tmp_path)
    cell.folder.mkdir()
    script = 'import fcntl,sys,time; f=open(sys.argv[1],"w"); fcntl.flock(f,2); print(1,flush=True); time.sleep(1)'
    holder = subprocess.Popen([sys.executable, '-c', script, str(lock_path(cell))], stdout=subprocess.PIPE)
    holder.stdout.readline()
    executor = Scripted()
    began = time.monotonic()
    run_all([cell], executor)
    assert time.monotonic() - began > 0.5
    assert executor.started == ['a0']
    holder.wait()


def test_what_is_malformed_in_a_folder_stops_nothing(tmp_path):
    cell = make_cell(tmp_path)
    write_run(cell.folder, 4, finished=False)
    with (cell.folder / 'metrics.jsonl').open('ab') as file:
        file.write(b'\xff\xfe not json\n[1]\n{"kind": "train", "st')
    (cell.folder / 'run.json').write_text('[')
    (cell.folder / ATTEMPTS).write_text('{}')
    progress = progress_of(cell)
    assert (progress.status, progress.step, progress.loss) == ('begun', 4, 1.5)


def test_the_table_shows_step_loss_and_time_left(tmp_path):
    cells = [make_cell(tmp_path, name) for name in ('done', 'half', 'bad', 'next')]
    write_run(cells[0].folder, STEPS)
    write_run(cells[1].folder, 4, finished=False)  # in 4 seconds
    cells[2].folder.mkdir()
    (cells[2].folder / ATTEMPTS).write_text(json.dumps([{'error': 'x'}] * 2))
    console = Console(file=io.StringIO(), width=80)
    board = CellsBoard(console, cells)
    board.update({cells[1]})
    console.print(board.table())
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ['✓', 'done,', 'seed', '0', '10/10', '1.500'] in rows
    assert ['▶', 'half,', 'seed', '0', '4/10', '1.500', '0:06'] in rows
    assert ['✗', 'bad,', 'seed', '0', 'failed'] in rows
    assert ['·', 'next,', 'seed', '0', '0/10'] in rows
    assert rows[-1] == ['1', 'of', '4', 'runs', 'finished']


def test_a_local_run_is_a_process_with_a_log(tmp_path):
    job = Local({}, tmp_path).start([sys.executable, '-c', 'print("hello"); raise SystemExit(3)'], tmp_path / 'a', 1)
    assert wait_for(job) == 3
    assert (tmp_path / 'a' / LOG).read_text() == 'hello\n'


def test_a_local_run_can_be_asked_to_stop(tmp_path):
    script = 'import signal,sys,time; signal.signal(15, lambda *a: sys.exit(75)); print(1,flush=True); time.sleep(60)'
    job = Local({}, tmp_path).start([sys.executable, '-c', script], tmp_path / 'a', 1)
    while not (tmp_path / 'a' / LOG).read_text():
        time.sleep(0.02)
    job.stop()
    assert wait_for(job) == RUN_AGAIN


def test_cores_are_shared_equally_or_not_at_all():
    assert shares([0, 1, 2, 3], 2) == [(0, 1), (2, 3)]
    assert shares([2, 5, 7], 2) == [(2,), (5,)]
    assert shares([0, 1, 2, 3], 1) == shares([0], 2) == shares([], 2) == []


@pytest.mark.skipif(len(usable_cores()) < 2, reason='needs two cores')
def test_runs_at_a_time_have_cores_of_their_own(tmp_path, monkeypatch):
    hold, release = os.pipe()
    monkeypatch.setattr(executors, 'start_process', functools.partial(start_process, pass_fds=(hold,)))
    script = f'import os; print(*sorted(os.sched_getaffinity(0)), flush=True); os.read({hold}, 1)'
    local, cores = Local({}, tmp_path), usable_cores()
    jobs = {name: local.start([sys.executable, '-c', script], tmp_path / name, 2) for name in 'ab'}
    seen = {name: wait_for_cores(tmp_path / name / LOG) for name in jobs}
    half = len(cores) // 2
    assert seen == {'a': cores[:half], 'b': cores[half : 2 * half]}
    os.write(release, b'xx')
    for job in jobs.values():
        assert wait_for(job) == 0
    later = {name: local.start([sys.executable, '-c', script], tmp_path / name, n) for name, n in (('c', 2), ('d', 1))}
    assert wait_for_cores(tmp_path / 'c' / LOG) == cores[:half]
    assert wait_for_cores(tmp_path / 'd' / LOG) == cores
    os.close(release)
    assert [wait_for(job) for job in later.values()] == [0, 0]
    os.close(hold)


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone ends a process with its parent')
def test_a_run_ends_with_a_study_that_is_killed(tmp_path):
    script = (
        'import os,subprocess,sys,time; subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid()), "", '
        'sys.executable, "-c", "import os,time; print(os.getpid(), flush=True); time.sleep(60)"]); time.sleep(60)'
    )
    study = subprocess.Popen([sys.executable, '-c', script, LEASH], stdout=subprocess.PIPE, text=True)
    child = int(study.stdout.readline())
    study.kill()
    study.wait()
    for _ in range(100):
        if not is_alive(child):
            return
        time.sleep(0.05)
    pytest.fail('the run outlived its study')


def is_alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def wait_for_cores(log):
    wait_until(lambda: log.exists() and log.read_text().endswith('\n'))
    return [int(core) for core in log.read_text().split()]


def wait_until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise TimeoutError


def wait_for(job):
    for _ in range(600):
        if (status := job.poll()) is not None:
            return status
        time.sleep(0.05)
    raise TimeoutError


def test_the_last_words_of_a_run_are_its_error(tmp_path):
    log = tmp_path / LOG
    log.write_text('a\nlaunch.py: the disk is full;\n  delete something\n')
    assert last_error(tmp_path, 2) == 'the disk is full;\n  delete something'
    log.write_text('Traceback\n  x\n  y\nValueError: z\n')
    assert last_error(tmp_path, 1) == '  x\n  y\nValueError: z'
    assert last_error(tmp_path, -9) == 'ended by SIGKILL after: ValueError: z'
    assert last_error(tmp_path / 'none', 1) == 'exit status 1, and it said nothing'
    log.write_text('launch.py: ' + 'x' * 5000)
    assert len(last_error(tmp_path, 1)) < 700


def test_an_executor_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match='--executor=cloud: one of local, ray, slurm'):
        make_executor('cloud', [], tmp_path)
    with pytest.raises(UserError, match='--option=partition: --executor=local takes no option'):
        make_executor('local', ['partition=gpu'], tmp_path)
    for name, package in (('slurm', 'submitit'), ('ray', 'ray')):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf'(?i)needs {package}: pip install -r requirements-studies\.txt'):
            make_executor(name, [], tmp_path)
    for text in ('partition', '=gpu', 'partition='):
        with pytest.raises(UserError, match=f'--option={text}: expected NAME=VALUE'):
            make_executor('slurm', [text], tmp_path)


@pytest.mark.parametrize('cluster', ['local', 'debug'])
def test_jobs_of_submitit_are_runs(tmp_path, run_all, cluster):
    pytest.importorskip('submitit')
    executor = make_executor('slurm', [f'cluster={cluster}'], tmp_path)
    good = executor.start([sys.executable, '-c', 'print("hello")'], tmp_path / 'a', 2)
    bad = executor.start([sys.executable, '-c', 'raise SystemExit(75)'], tmp_path / 'b', 2)
    assert (wait_for(good), wait_for(bad)) == (0, RUN_AGAIN)
    assert (tmp_path / 'a' / LOG).read_text() == 'hello\n'
    with pytest.raises(UserError, match='--executor=slurm: '):
        make_executor('slurm', ['cluster=local', 'no_such_option=1'], tmp_path)


class FakeSlurm:
    """What submitit has for a cluster: jobs by number, in whatever state they are said to be."""

    cluster, states = 'slurm', {}

    def __init__(self, *_, job_id='', **__):
        self.job_id, self.submitted = job_id, 0

    def update_parameters(self, **_):
        pass

    def submit(self, *_):
        self.submitted += 1
        FakeSlurm.states[f'{len(FakeSlurm.states)}'] = 'PENDING'
        return FakeSlurm(job_id=list(FakeSlurm.states)[-1])

    state = property(lambda self: FakeSlurm.states[self.job_id])

    def done(self):
        return self.state not in ('PENDING', 'RUNNING')

    def exception(self):
        return None if self.state == 'COMPLETED' else RuntimeError(self.state)

    def result(self):
        return 0


def test_a_job_that_still_waits_in_the_queue_is_not_handed_in_twice(tmp_path, monkeypatch):
    fake = types.SimpleNamespace(AutoExecutor=FakeSlurm, SlurmJob=FakeSlurm)
    monkeypatch.setitem(sys.modules, 'submitit', fake)
    monkeypatch.setattr(FakeSlurm, 'states', {})
    first, second = (make_executor('slurm', [], tmp_path) for _ in range(2))
    first.start(['x'], tmp_path / 'a', 1)
    job = second.start(['x'], tmp_path / 'a', 1)
    assert list(FakeSlurm.states) == ['0']
    assert job.poll() is None
    for state, status in (('PREEMPTED', RUN_AGAIN), ('TIMEOUT', RUN_AGAIN), ('OUT_OF_MEMORY', 1), ('COMPLETED', 0)):
        FakeSlurm.states['0'] = state
        assert job.poll() == status
    second.start(['x'], tmp_path / 'a', 1)
    assert list(FakeSlurm.states) == ['0', '1']
