"""What a checkpoint must survive: damage to any of its files, a kill, a full disk, another device count."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax.errors import UserError
from gpt2jax.processes import ALONE
from gpt2jax.training import step_folder
from gpt2jax.training.checkpoints import Checkpoints

REPOSITORY = Path(__file__).parents[2]


def make_params(seed):
    """All that a parameter tree has: nesting, another dtype, a scalar, an array without elements."""
    key = jax.random.key(seed)
    return {
        'block': {'kernel': jax.random.normal(key, (64, 32)), 'bias': jnp.arange(32.0) + seed},
        'table': jax.random.normal(key, (48, 16)).astype(jnp.bfloat16),
        'nothing': jnp.zeros((0, 4)),
        'scale': jnp.float32(seed),
    }


def make_rest(seed):
    """Optimizer-like: tuples, an empty one, None, integers, raw random key data, a host array."""
    params = make_params(seed + 100)
    key = jax.random.key_data(jax.random.key(seed))
    return {
        'optimizer': (params, (), None, jnp.int32(seed)),
        'key': key,
        'seen': np.arange(3, dtype=np.int32),
    }


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == wanted.dtype
        assert leaf.shape == wanted.shape
        assert np.asarray(leaf).tobytes() == np.asarray(wanted).tobytes()


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    store = Checkpoints(tmp_path / 'checkpoints', keep=3, announce=said.append)
    yield store
    store.close()


def save(store, *steps, score=None):
    for step in steps:
        store.save(step, make_params(step), make_rest(step), {'config': {'width': step}}, score)
    store.wait()


def restore(store):
    return store.restore(abstract(make_params(0)), abstract(make_rest(0)))


def files_of(folder):
    return sorted(path for path in folder.rglob('*') if path.is_file())


def largest_file(folder):
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_was_saved_comes_back_bit_for_bit(store, said):
    save(store, 7)
    step, params, rest, metadata = restore(store)
    assert (step, metadata) == (7, {'config': {'width': 7}})
    assert_same(params, make_params(7))
    assert_same(rest, make_rest(7))
    assert said == []


def test_a_new_object_finds_what_an_old_one_saved(store, tmp_path):
    save(store, 7, 9)
    other = Checkpoints(tmp_path / 'checkpoints', keep=3)
    assert other.steps() == [7, 9]
    assert restore(other)[0] == 9
    other.close()


def test_no_checkpoint_at_all_is_none_and_an_error_for_sampling(store):
    assert store.steps() == []
    assert store.best_step() is None
    assert restore(store) is None
    with pytest.raises(UserError, match=r'no checkpoint in .* train first'):
        store.restore_params(abstract(make_params(0)))


def test_a_flipped_bit_in_any_file_falls_back(store, said, tmp_path):
    save(store, 1, 2)
    good = tmp_path / 'good'
    folder = store.directory / '2'
    shutil.copytree(folder, good)
    names = [path.relative_to(good) for path in files_of(good)]
    assert {'metadata.json', 'manifest.json'} <= {name.name for name in names}
    assert len(names) > 10
    for name in names:
        flip_bit(folder / name)
        said.clear()
        step, params, rest, _ = restore(store)
        assert step == 1, name
        assert_same(params, make_params(1))
        assert_same(rest, make_rest(1))
        assert f'{folder} is damaged' in said[0], name
        if name.name != 'manifest.json':
            assert name.as_posix() in said[0]
        assert 'falling back to the checkpoint of step 1' in said[1]
        shutil.copy(good / name, folder / name)
    said.clear()
    assert restore(store)[0] == 2
    assert said == []


@pytest.mark.parametrize('damage', ['truncated', 'deleted', 'empty', 'link'])
@pytest.mark.parametrize('which', ['largest', 'metadata.json', 'manifest.json'])
def test_a_file_cut_short_or_gone_falls_back(store, said, damage, which, tmp_path):
    save(store, 1, 2)
    folder = store.directory / '2'
    path = largest_file(folder) if which == 'largest' else folder / which
    content = path.read_bytes()
    path.unlink()
    if damage == 'link':
        (tmp_path / 'elsewhere').write_bytes(content[:-2] if which == 'manifest.json' else content)
        path.symlink_to(tmp_path / 'elsewhere')
    elif damage != 'deleted':
        path.write_bytes(content[: len(content) // 2] if damage == 'truncated' else b'')
    assert restore(store)[0] == 1
    assert path.name in said[0]
    if damage in ('truncated', 'empty') and which != 'manifest.json':
        assert f'long instead of {len(content)}' in said[0]


@pytest.mark.parametrize('content', ['[' * 100_000, '[]', '{"files": 3}', '{"files": {"a": {}}}', '{"files": {}}'])
def test_a_manifest_from_outside_cannot_break_the_restore(store, said, content):
    save(store, 1, 2)
    (store.directory / '2' / 'manifest.json').write_text(content)
    assert restore(store)[0] == 1
    assert 'is damaged' in said[0]


def test_a_manifest_cannot_point_outside_its_folder(store, said, tmp_path):
    save(store, 1, 2)
    (tmp_path / 'secret').write_text('x')
    path = store.directory / '2' / 'manifest.json'
    manifest = json.loads(path.read_text())
    manifest['files']['arrays/params/../../../../secret'] = {'sha256': '0', 'size': 1}
    path.write_text(json.dumps(manifest))
    assert restore(store)[0] == 1
    assert 'secret: the file is missing' in said[0]


def test_an_empty_step_folder_is_no_checkpoint(store, said):
    save(store, 1)
    (store.directory / '3').mkdir()
    assert store.steps() == [1]
    assert restore(store)[0] == 1
    assert 'manifest.json does not exist' in said[0]
    save(store, 3)
    assert store.steps() == [1, 3]


def test_a_copied_folder_is_not_taken_for_another_step(store, said):
    save(store, 1)
    shutil.copytree(store.directory / '1', store.directory / '5')
    assert restore(store)[0] == 1
    assert 'step 1; expected 1 and 5' in said[0]


def test_when_every_checkpoint_is_damaged_nothing_starts_anew(store, said):
    save(store, 1, 2)
    for step in (1, 2):
        (store.directory / f'{step}' / 'metadata.json').unlink()
    with pytest.raises(UserError, match=r'every checkpoint .* damaged \(steps 1, 2\)'):
        restore(store)
    assert len(said) == 2


def test_a_damaged_step_is_replaced_when_the_run_gets_there_again(store, said):
    save(store, 1, 2)
    flip_bit(largest_file(store.directory / '2'))
    assert restore(store)[0] == 1
    assert store.steps() == [1]
    save(store, 2)
    assert store.steps() == [1, 2]
    said.clear()
    assert restore(store)[0] == 2
    assert said == []


def test_a_complete_step_is_not_saved_again(store):
    save(store, 1)
    before = (store.directory / '1' / 'manifest.json').read_bytes()
    store.save(1, make_params(5), make_rest(5), {}, None)
    store.wait()
    assert (store.directory / '1' / 'manifest.json').read_bytes() == before


def test_the_newest_and_the_best_stay(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step, score in [(1, 3.0), (2, 1.5), (3, float('nan')), (4, 1.5), (5, 2.0), (6, None)]:
        save(store, step, score=score)
    assert store.best_step() == 2
    assert store.steps() == [2, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['2', '5', '6']
    assert store.restore_params(abstract(make_params(0)), 'best')[0] == 2
    assert store.restore_params(abstract(make_params(0)))[0] == 6
    assert store.restore_params(abstract(make_params(0)), 5)[0] == 5
    with pytest.raises(UserError, match=r'no checkpoint of step 4 .*there: 2, 5, 6'):
        store.restore_params(abstract(make_params(0)), 4)
    store.close()


def test_old_steps_stay_until_the_new_one_is_complete(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, keep=1)
    save(store, 1)
    seen = []
    finish = step_folder.finish_writing
    monkeypatch.setattr(step_folder, 'finish_writing', lambda *a: (seen.append(store.steps()), finish(*a)))
    save(store, 2)
    assert seen == [[1]]
    assert store.steps() == [2]
    store.close()


def test_params_are_restored_without_the_rest(store, said):
    save(store, 1)
    shutil.rmtree(store.directory / '1' / 'arrays' / 'rest')
    step, params, metadata = store.restore_params(abstract(make_params(0)))
    assert (step, metadata) == (1, {'config': {'width': 1}})
    assert_same(params, make_params(1))
    assert said == []
    with pytest.raises(UserError, match='damaged'):
        restore(store)


def test_another_shape_dtype_or_structure_is_refused_with_the_differences(store):
    save(store, 1)
    rest = abstract(make_rest(0))

    def refused(change, *expected):
        params = abstract(make_params(0))
        change(params)
        with pytest.raises(UserError) as caught:
            store.restore(params, rest)
        for text in ('does not fit this model', *expected):
            assert text in str(caught.value)

    refused(
        lambda params: params['block'].update(kernel=jax.ShapeDtypeStruct((64, 16), jnp.float32)),
        'params/block/kernel: float32[64, 32] in the checkpoint, float32[64, 16] in this model',
    )
    refused(
        lambda params: params.update(table=jax.ShapeDtypeStruct((48, 16), jnp.float32)),
        'params/table: bfloat16[48, 16] in the checkpoint, float32[48, 16] in this model',
    )
    refused(
        lambda params: params.update(scales=params.pop('scale')),
        'params/scales: nothing in the checkpoint, float32[] in this model',
        'params/scale: float32[] in the checkpoint, nothing in this model',
    )
    refused(lambda params: params.update({f'x{i}': params['scale'] for i in range(9)}), 'and 4 more')
    assert restore(store)[0] == 1


def test_arrays_may_be_donated_and_metadata_changed_while_the_save_runs(store):
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    params = {f'{i}': jax.random.normal(jax.random.key(i), (512, 1024)) for i in range(8)}
    expected = jax.tree.map(np.array, params)
    host = np.zeros(1000, np.float32)
    metadata = {'list': [1]}
    store.save(1, params, {'host': host}, metadata)
    host += 1
    metadata['list'].append(2)
    for _ in range(5):
        params = bump(params)
    jax.block_until_ready(params)
    store.wait()
    _, restored, rest, saved_metadata = store.restore(
        abstract(expected), {'host': jax.ShapeDtypeStruct((1000,), jnp.float32)}
    )
    assert_same(restored, expected)
    assert not np.asarray(rest['host']).any()
    assert saved_metadata == {'list': [1]}


def test_save_returns_before_the_checkpoint_is_complete(tmp_path, monkeypatch):
    finish = step_folder.finish_writing
    monkeypatch.setattr(step_folder, 'finish_writing', lambda *a: (time.sleep(0.3), finish(*a)))
    store = Checkpoints(tmp_path / 'a', keep=1)
    store.save(1, make_params(1), make_rest(1), {})
    assert store.steps() == []
    store.wait()
    assert store.steps() == [1]
    store.close()
    store = Checkpoints(tmp_path / 'b', keep=1, asynchronous=False)
    store.save(1, make_params(1), make_rest(1), {})
    assert store.steps() == [1]
    store.close()


def test_metadata_that_is_not_json_fails_at_once(store):
    for metadata in ({'x': float('inf')}, {'x': object()}):
        with pytest.raises((TypeError, ValueError)):
            store.save(1, make_params(1), make_rest(1), metadata)
    with pytest.raises(TypeError, match='rest/n is a int, not an array'):
        store.save(1, make_params(1), {'n': 1}, {})
    assert store.steps() == []


def test_an_error_in_the_background_is_told_and_the_last_step_stays(store, monkeypatch):
    save(store, 1)

    def full(*arguments):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(step_folder, 'finish_writing', full)
        store.save(2, make_params(2), make_rest(2), {})
        store._thread.join()
        with pytest.raises(UserError) as caught:
            store.save(3, make_params(3), make_rest(3), {})
    for text in (
        'step 2',
        str(store.directory),
        'free',
        'no space left on the disk',
        'step 1 is the last complete one',
    ):
        assert text in str(caught.value)
    assert sorted(path.name for path in store.directory.iterdir()) == ['1']
    store.wait()
    save(store, 3)
    assert restore(store)[0] == 3


def test_a_save_that_fails_beside_another_process_leaves_the_folder_to_it_until_the_next(store, monkeypatch):
    """That process may still be writing: without its folder it would end with a reason of its own."""
    save(store, 1)

    def refuse(name, error):
        raise UserError(error)

    monkeypatch.setattr(store, '_peers', SimpleNamespace(index=0, count=2, agree=refuse))
    with monkeypatch.context() as patch:
        patch.setattr(step_folder, 'finish_writing', lambda *arguments: refuse('', 'it failed'))
        with pytest.raises(UserError, match='it failed'):
            save(store, 2)
    assert {path.name for path in store.directory.iterdir()} == {'1', '2.partial'}
    monkeypatch.setattr(store, '_peers', ALONE)
    save(store, 3)
    assert {path.name for path in store.directory.iterdir()} == {'1', '3'}


def test_a_disk_too_full_is_refused_before_anything_is_written(store, monkeypatch):
    save(store, 1)
    usage = shutil.disk_usage(store.directory)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda path: usage)
        with pytest.raises(UserError, match=r'not enough space .* needed, 1.0 kB \(1000 bytes\) free'):
            store.save(2, make_params(2), make_rest(2), {})
    assert sorted(path.name for path in store.directory.iterdir()) == ['1']


def test_a_folder_that_cannot_be_created_is_a_user_error(tmp_path):
    (tmp_path / 'file').write_text('')
    store = Checkpoints(tmp_path / 'file' / 'checkpoints', keep=1)
    with pytest.raises(UserError, match='could not save the checkpoint of step 1'):
        store.save(1, make_params(1), make_rest(1), {})
    store.close()


def test_leftovers_of_a_kill_are_cleared_by_the_next_save_and_nothing_else(store):
    save(store, 1)
    for name in ('2.partial', '0.deleted'):
        shutil.copytree(store.directory / '1', store.directory / name)
    (store.directory / 'notes.partial').mkdir()
    assert store.steps() == [1]
    assert restore(store)[0] == 1
    assert len(list(store.directory.iterdir())) == 4
    save(store, 2)
    assert sorted(path.name for path in store.directory.iterdir()) == ['1', '2', 'notes.partial']


def run_python(code, *arguments, devices=1, **options):
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}',
        'PYTHONPATH': str(REPOSITORY),
    }
    command = [sys.executable, '-c', code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, **options)


WRITE_REAL_LIMIT = """
import resource, signal, sys
import jax, jax.numpy as jnp
from gpt2jax.errors import UserError
from gpt2jax.training.checkpoints import Checkpoints
store = Checkpoints(sys.argv[1], keep=2)
store.save(1, {'w': jnp.ones(8)}, {}, {})
store.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
big = jax.random.normal(jax.random.key(0), (2_000_000,))
try:
    store.save(2, {'w': big}, {}, {})
    store.wait()
except UserError as error:
    print(error)
print(store.steps())
"""


def test_a_write_that_the_kernel_refuses_leaves_the_last_step(tmp_path):
    process = run_python(WRITE_REAL_LIMIT, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=60)
    assert 'ERROR:absl' not in errors
    assert 'could not save the checkpoint of step 2' in output
    assert output.splitlines()[-1] == '[1]'
    assert not (tmp_path / '2').exists()


SAVE_UNTIL_KILLED = """
import sys
import jax, jax.numpy as jnp
from gpt2jax.training.checkpoints import Checkpoints
store = Checkpoints(sys.argv[1], keep=2)
params = {str(i): jax.random.normal(jax.random.key(i), (1024, 1024)) for i in range(24)}
store.save(1, params, {'n': jnp.int32(1)}, {})
store.wait()
print('first', flush=True)
store.save(2, jax.tree.map(lambda x: x + 1, params), {'n': jnp.int32(2)}, {})
store.wait()
"""


def test_a_process_killed_in_mid_save_leaves_the_step_before(tmp_path, said):
    process = run_python(SAVE_UNTIL_KILLED, tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.readline() == 'first\n'
    while not (tmp_path / '2.partial').exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / '2.partial').exists(), 'the save was over before the kill'

    store = Checkpoints(tmp_path, keep=2, announce=said.append)
    params = {str(i): jax.random.normal(jax.random.key(i), (1024, 1024)) for i in range(24)}
    step, restored, rest, _ = store.restore(abstract(params), {'n': jax.ShapeDtypeStruct((), jnp.int32)})
    assert (step, int(rest['n'])) == (1, 1)
    assert_same(restored, params)
    store.save(2, params, rest, {})
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['1', '2']
    assert said == []


RESTORE_ON_A_MESH = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from gpt2jax.training.checkpoints import Checkpoints
assert jax.device_count() == 8
mesh = jax.make_mesh((2, 4, 1), ('data', 'fsdp', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 3)
place = lambda shape, dtype, *spec: jax.ShapeDtypeStruct(
    shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
params = {'w': place((16, 8), jnp.float32, 'fsdp', 'data'), 'empty': place((0,), jnp.float32)}
store = Checkpoints(sys.argv[1], keep=2)
step, params, rest, _ = store.restore(params, {'n': place((), jnp.int32)})
assert len(params['w'].sharding.device_set) == 8
assert params['w'].addressable_shards[0].data.shape == (4, 4)
assert np.array_equal(params['w'], np.arange(128, dtype=np.float32).reshape(16, 8))
store.save(2, jax.tree.map(lambda x: x * 2, params), rest, {})
store.close()
print('ok')
"""


def test_eight_devices_restore_what_one_saved_and_the_other_way(tmp_path):
    w = jnp.arange(128.0).reshape(16, 8)
    store = Checkpoints(tmp_path, keep=2)
    store.save(1, {'w': w, 'empty': jnp.zeros(0)}, {'n': jnp.int32(5)}, {})
    store.wait()
    process = run_python(RESTORE_ON_A_MESH, tmp_path, devices=8, stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == 'ok\n'
    step, params, rest, _ = store.restore(abstract({'w': w, 'empty': jnp.zeros(0)}), abstract({'n': jnp.int32(5)}))
    assert step == 2
    assert_same(params, {'w': w * 2, 'empty': jnp.zeros(0)})
    assert int(rest['n']) == 5
    store.close()
