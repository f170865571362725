"""A run whose folder is in a bucket, against a server on this machine that speaks as Google Cloud Storage does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from together import STEPS, finish, losses, train, wait_for, write_text

from gpt2jax.errors import UserError
from gpt2jax.processes.supervisor import free_port
from gpt2jax.storage import open_path
from gpt2jax.training import workdir
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.manifest import MANIFEST
from gpt2jax.training.workdir import Workdir

TREE = {'w': jnp.arange(5000.0), 'b': jnp.ones((3, 4), jnp.bfloat16)}
ABSTRACT = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE)


@pytest.fixture(name='bucket', scope='module')
def serve_bucket():
    """The address of an empty bucket."""
    port = free_port()
    server = [sys.executable, Path(__file__).with_name('bucket_server.py'), str(port)]
    address = f'http://localhost:{port}'
    names = ('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL')
    with (
        subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert process.stdout.readline() == b'ready\n'
        for name in names:
            patch.setenv(name, address)
        yield 'gs://tests'
        process.stdin.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, 'CACHE', tmp_path / 'cache')


def save(address, *steps, keep=2):
    store = Checkpoints(address, keep)
    for step in steps:
        store.save(step, jax.tree.map(lambda leaf, step=step: leaf + step, TREE), {}, {'at': step})
    store.close()


def restore(address):
    said = []
    store = Checkpoints(address, 2, announce=said.append)
    step, params, _, metadata = store.restore(ABSTRACT, {})
    store.close()
    assert metadata == {'at': step}
    assert params['w'].tolist() == (TREE['w'] + step).tolist()
    return step, said


def test_checkpoints_come_and_go_and_come_back(bucket):
    save(f'{bucket}/a', 1, 2, 3)
    store = Checkpoints(f'{bucket}/a', 2)
    assert store.steps() == [2, 3]
    store.close()
    assert restore(f'{bucket}/a') == (3, [])
    assert not (open_path(f'{bucket}/a') / '1').exists()


def test_a_save_that_was_killed_does_not_count_and_is_cleared(bucket):
    save(f'{bucket}/b', 1, 2)
    folder = open_path(f'{bucket}/b')
    (folder / '2' / MANIFEST).unlink()  # written last, so a killed save lacks it
    assert restore(f'{bucket}/b') == (1, [])
    save(f'{bucket}/b', 3)
    assert sorted(path.name for path in folder.iterdir()) == ['1', '3']


def test_a_damaged_object_is_found(bucket):
    save(f'{bucket}/c', 1, 2)
    arrays = open_path(f'{bucket}/c') / '2' / 'arrays' / 'params' / 'ocdbt.process_0' / 'd'
    largest = max(arrays.iterdir(), key=lambda path: path.stat().length)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    step, said = restore(f'{bucket}/c')
    assert step == 1
    assert 'its content has changed' in said[0]


def test_small_files_of_a_run_are_published_and_fetched_elsewhere(bucket, tmp_path, monkeypatch):
    here = Workdir(f'{bucket}/d')
    here.save_config({'seed': 3})
    here.write_json('run.json', {'a': 1})
    here.publish()
    monkeypatch.setattr(workdir, 'CACHE', tmp_path / 'elsewhere')
    there = Workdir(f'{bucket}/d')
    assert there.path != here.path
    assert there.saved_config() == {'seed': 3}
    there.write_json('run.json', {'a': 2})
    there.publish()
    (here.path / 'old.json').write_text('{}')
    monkeypatch.setattr(workdir, 'CACHE', tmp_path / 'cache')
    again = Workdir(f'{bucket}/d')
    assert again.read_json('run.json') == {'a': 2}
    assert not (again.path / 'old.json').exists()


def test_other_addresses_are_refused():
    with pytest.raises(UserError, match=r's3://a/b: expected a folder, which may be a mounted bucket, or gs://'):
        Workdir('s3://a/b')


def test_without_the_package_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gcsfs', None)
    with pytest.raises(UserError, match=r'gs://a/b: the package gcsfs is missing.*pip install'):
        open_path('gs://a/b')


@pytest.mark.slow
def test_two_processes_train_into_a_bucket_and_one_on_another_machine_goes_on(bucket, tmp_path, monkeypatch):
    text, address, homes = write_text(tmp_path), f'{bucket}/run', [tmp_path / 'one', tmp_path / 'two']
    monkeypatch.setenv('HOME', str(homes[0]))
    whole = train(text, tmp_path / 'whole', devices=2)
    assert finish(whole)[0] == 0
    process = train(text, address, '--local_processes=2')
    metrics = open_path(address) / 'metrics.jsonl'
    wait_for(lambda: metrics.exists() and '"step": 19,' in metrics.read_text(), process, 'the save of step 20')
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 75, err
    monkeypatch.setenv('HOME', str(homes[1]))  # nothing of the run is on this machine
    status, out, err = finish(train(text, address, devices=2))
    assert status == 0, err
    assert 'continuing' in out
    assert f'both are also in {address}' in out
    found = {line['step']: line['loss'] for line in map(json.loads, metrics.read_text().splitlines()) if 'loss' in line}
    assert found == losses(tmp_path / 'whole')
    assert len(found) == STEPS
    assert os.listdir(homes[1] / '.cache' / 'gpt2jax' / 'buckets')
