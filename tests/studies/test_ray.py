"""Runs on a real Ray cluster of several nodes on this machine; workers, nodes and studies are killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.studies import ray_executor
from gpt2jax.studies.executors import make_executor
from gpt2jax.studies.processes import LOG
from gpt2jax.studies.study import ROOT

ray = pytest.importorskip('ray')
pytestmark = pytest.mark.ray

SLEEP = 'import os,time; print(os.getpid(), flush=True); time.sleep(600)'
POLITE = f'import signal,sys; signal.signal(15, lambda *a: sys.exit({RUN_AGAIN})); {SLEEP}'
EXPERIMENT = '''"""Is RMSNorm as good?

Read it.
"""

from gpt2jax.studies import Study, param


def get_study():
    return Study(
        base='configs/laptop.py',
        changes={changes},
        arms=param('model.norm.kind', 'layernorm', 'rmsnorm', names=('layer', 'rms')),
        seeds=(0,),
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
    'training.steps': 200,
    'training.batch_size': 4,
    'training.log_every': 1,
    'optimizer.warmup_steps': 5,
    'evaluation.every': 100,
    'evaluation.batch_size': 4,
    'checkpoint.every_steps': 5,
    'checkpoint.every_minutes': 0.0,
    'sampling.max_new_tokens': 4,
    'sharding.cpu_devices': 1,
}


@pytest.fixture(name='cluster', scope='module')
def make_cluster():
    """A head without room for runs, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(name='execute')
def make_execute(cluster, tmp_path):
    """Starts a script as the run `name`."""
    executor = make_executor('ray', [f'address={cluster.address}'], tmp_path)
    return lambda script, name='a': executor.start([sys.executable, '-c', script], tmp_path / name, 2)


def wait_until(true, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def ended(job):
    """The exit status of a job."""
    wait_until(lambda: job.poll() is not None)
    return job.poll()


def said(folder):
    """What a run has written."""
    wait_until(lambda: (folder / LOG).exists() and (folder / LOG).read_text().endswith('\n'))
    return (folder / LOG).read_text()


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError), open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0] != 'Z'
    return False


def parent_of(pid):
    with open(f'/proc/{pid}/stat') as file:
        return int(file.read().rpartition(')')[2].split()[1])


def test_a_run_is_a_process_on_a_node(execute, tmp_path):
    script = 'import os; print(os.getcwd(), os.environ["NPROC"]); raise SystemExit(3)'
    assert ended(execute(script)) == 3
    assert said(tmp_path / 'a') == f'{os.getcwd()} 1\n'


def test_a_run_whose_worker_is_killed_ends_and_starts_again(execute, tmp_path):
    job = execute(SLEEP)
    run = int(said(tmp_path / 'a'))
    os.kill(parent_of(run), signal.SIGKILL)
    assert ended(job) == RUN_AGAIN
    wait_until(lambda: not is_alive(run), 10)
    assert 'ray: the worker of this run is lost (ActorDiedError); it continues on another one' in said(tmp_path / 'a')
    assert ended(execute('print(1)')) == 0


def test_runs_are_asked_to_stop_and_those_without_room_are_taken_back(execute, tmp_path):
    jobs = {name: execute(POLITE, name) for name in 'abc'}
    wait_until(lambda: sum((tmp_path / name / LOG).exists() for name in jobs) == 2)
    (late,) = (name for name in jobs if not (tmp_path / name / LOG).exists())
    logs = [tmp_path / name / LOG for name in jobs if name != late]
    wait_until(lambda: all(log.read_text().endswith('\n') for log in logs))
    jobs[late].stop()
    assert ended(jobs[late]) == RUN_AGAIN
    for job in jobs.values():
        job.stop()
    assert [ended(job) for job in jobs.values()] == [RUN_AGAIN] * 3
    assert not any('lost' in log.read_text() for log in logs)
    assert not (tmp_path / late / LOG).exists()


def test_a_cluster_that_does_not_answer_is_named(tmp_path):
    if ray.is_initialized():
        ray.shutdown()
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))  # and nobody listens
        address = f'127.0.0.1:{taken.getsockname()[1]}'
        with pytest.raises(UserError, match=f'--option=address={address}: .*refused'):
            make_executor('ray', [f'address={address}'], tmp_path)
    with pytest.raises(UserError, match=r'--option=address=nowhere\.invalid:1: '):
        make_executor('ray', ['address=nowhere.invalid:1'], tmp_path)


def test_what_a_node_lacks_is_said_with_its_name(cluster, tmp_path, monkeypatch):
    address = f'address={cluster.address}'
    with pytest.raises(UserError, match=r'no node has what a run takes, num_cpus=1 num_gpus=8 .* node .*: CPU 1'):
        make_executor('ray', [address, 'num_gpus=8'], tmp_path)
    with pytest.raises(UserError, match=r'--option=num_cpus=two: expected address=HOST:PORT, or how much of num_cpus'):
        make_executor('ray', [address, 'num_cpus=two'], tmp_path)
    monkeypatch.setattr(ray_executor, 'LAUNCHER', '/nowhere/launch.py')
    with pytest.raises(UserError, match=r'node .* \(.*\) does not see /nowhere/launch\.py; node .* All nodes must see'):
        make_executor('ray', [address], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_start_on_its_node_fails_with_words(execute, tmp_path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(ray_executor.os, 'getcwd', lambda: '/nowhere')
        job = execute('print(1)')
    assert ended(job) == 1
    assert said(tmp_path / 'a') == "launch.py: Ray could not run it: [Errno 2] No such file or directory: '/nowhere'\n"


def curve(folder):
    """What must not change wherever a run goes on."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    keys = ('kind', 'step', 'loss', 'gradient_norm', 'bits_per_byte')
    return [tuple(line.get(key) for key in keys) for line in lines]


def saved(cell):
    """The step of the newest checkpoint of an arm's run."""
    return max((int(path.name) for path in cell.glob('*/checkpoints/*') if path.name.isdigit()), default=0)


def test_a_study_survives_the_death_of_itself_and_of_a_node(cluster, tmp_path):
    (tmp_path / 'plays.txt').write_text('\n\n'.join(f'the king and queen number {i} of a storm' for i in range(400)))
    paths = {'data.path': f'{tmp_path}/plays.txt', 'data.directory': f'{tmp_path}/cache'}
    (tmp_path / 'norms.py').write_text(EXPERIMENT.format(changes=CHANGES | paths))

    def launch(*arguments, **more):
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '300'} | more
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        return subprocess.Popen(
            [sys.executable, str(ROOT / 'launch.py'), *arguments], cwd=tmp_path, env=environment, **pipes
        )

    command = (
        'study',
        '--experiment=norms.py',
        '--parallel=2',
        '--executor=ray',
        f'--option=address={cluster.address}',
    )
    cells = tmp_path / 'runs' / 'studies' / 'norms' / 'cells'
    study = launch(*command)
    wait_until(lambda: all(saved(cells / name) >= 10 for name in ('layer', 'rms')))  # so that 5 is whole
    pids = [json.loads(path.read_text())['pid'] for path in cells.glob('*/*/.lock')]
    study.kill()
    study.wait()
    wait_until(lambda: not any(map(is_alive, pids)), 60)

    study = launch(*command)
    logs = list(cells.glob('*/*/log.txt'))
    wait_until(lambda: all('continuing' in log.read_text() for log in logs))
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)  # SIGKILL
    out = study.communicate(timeout=400)[0]
    assert study.returncode == 0, out
    assert sum('is lost' in log.read_text() for log in logs) == 1

    typed = [one['command'] for one in json.loads((cells.parents[0] / 'report.json').read_text())['study']['results']]
    for text, name in zip(typed, ('layer', 'rms'), strict=True):
        words = text.replace('configs/', f'{ROOT}/configs/').split()[2:-1]
        alone = launch(*words, f'--workdir={tmp_path / name}', NPROC='1')
        out = alone.communicate(timeout=300)[0]
        assert alone.returncode == 0, out
        assert curve(tmp_path / name) == curve(next(cells.glob(f'{name}/*')))
