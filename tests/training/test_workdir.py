"""The run folder: one process at a time, files whole or absent, errors that say what to do."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2jax.errors import UserError
from gpt2jax.files import describe_bytes, read_json, write_json
from gpt2jax.training import workdir as workdir_module
from gpt2jax.training.workdir import Workdir, differences

REPOSITORY = Path(__file__).parents[2]

HOLD = """
import sys
from gpt2jax.training.workdir import Workdir
Workdir(sys.argv[1]).lock()
print('locked', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path / 'run')],
        env=os.environ | {'PYTHONPATH': str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def unprivileged():
    """Root may write anywhere: be nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_two_processes_cannot_have_one_folder(tmp_path, holder):
    with pytest.raises(UserError) as caught:
        Workdir(tmp_path / 'run').lock()
    assert f'process {holder.pid} on host {socket.gethostname()}' in str(caught.value)
    assert str(tmp_path / 'run') in str(caught.value)


def test_the_lock_ends_with_its_process_even_by_a_kill(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    workdir = Workdir(tmp_path / 'run').lock()
    with pytest.raises(UserError, match=f'process {os.getpid()} '):
        Workdir(tmp_path / 'run').lock()
    workdir.unlock()


def test_lock_and_unlock_may_be_repeated(tmp_path):
    workdir = Workdir(tmp_path / 'run')
    workdir.unlock()
    assert workdir.lock().lock() is workdir
    workdir.unlock()
    workdir.unlock()
    Workdir(tmp_path / 'run').lock().unlock()


def test_a_lock_file_with_nonsense_does_not_matter(tmp_path, holder):
    (tmp_path / 'run' / '.lock').write_bytes(b'\xff[[[')
    with pytest.raises(UserError, match='in use by another process'):
        Workdir(tmp_path / 'run').lock()


def test_a_file_system_without_locks_is_a_user_error(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(workdir_module.fcntl, 'flock', refuse)
    with pytest.raises(UserError, match=r'cannot lock .*No locks available'):
        Workdir(tmp_path).lock()


@pytest.mark.parametrize('action', [Workdir.lock, lambda workdir: workdir.check_writable_and_space(1)])
def test_a_path_that_is_a_file_or_below_one_is_refused(tmp_path, action):
    (tmp_path / 'file').write_text('kept')
    with pytest.raises(UserError, match='file: it is a file; choose another'):
        action(Workdir(tmp_path / 'file'))
    with pytest.raises(UserError, match=r'cannot create the folder .*Not a directory'):
        action(Workdir(tmp_path / 'file' / 'run'))
    assert (tmp_path / 'file').read_text() == 'kept'


@pytest.mark.parametrize('action', [Workdir.lock, lambda workdir: workdir.check_writable_and_space(1)])
def test_a_folder_of_somebody_else_is_refused(tmp_path, request, action):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run').chmod(0o555)
    request.getfixturevalue('unprivileged')
    for path in (tmp_path / 'run', tmp_path / 'run' / 'new'):
        with pytest.raises(UserError, match=r'run.*Permission denied; choose another --workdir'):
            action(Workdir(path))
    with pytest.raises(UserError):
        Workdir(tmp_path / 'run' / 'new').read_json('run.json')


@pytest.mark.parametrize('call', ['open', 'write_bytes'])
def test_a_file_system_mounted_read_only_is_refused(tmp_path, monkeypatch, call):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    workdir = Workdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os if call == 'open' else Path, call, refuse)
        with pytest.raises(UserError, match=r'cannot write in .*Read-only file system'):
            workdir.lock() if call == 'open' else workdir.check_writable_and_space(1)


def test_too_little_space_is_refused_with_both_numbers(tmp_path):
    workdir = Workdir(tmp_path / 'run')
    workdir.check_writable_and_space(1)
    assert list((tmp_path / 'run').iterdir()) == []
    with pytest.raises(UserError, match=r'1000\.0 TB \(1000000000000000 bytes\) needed, .* bytes\) free'):
        workdir.check_writable_and_space(10**15)


def test_json_goes_and_comes(tmp_path):
    workdir = Workdir(tmp_path)
    value = {'text': 'ROMEO \u2014 \x00', 'numbers': [1, 2.5, None, True]}
    workdir.write_json('run.json', value)
    assert workdir.read_json('run.json') == value
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / 'run.json'
    write_json(path, 'old')

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, 'fsync') if call == 'fsync' else (Path, 'replace')), full)
        with pytest.raises(UserError, match='No space left'):
            write_json(path, 'new')
    assert read_json(path) == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / 'run.json'
    write_json(path, 'old')
    for value in (object(), float('nan')):
        with pytest.raises((TypeError, ValueError)):
            write_json(path, value)
    assert read_json(path) == 'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('content', [b'', b'{"a": ', b'\xff\xfe', b'[' * 100_000, b'1' * 5000])
def test_damaged_json_names_the_file(tmp_path, content):
    (tmp_path / 'run.json').write_bytes(content)
    with pytest.raises(UserError, match=r'run\.json is not valid JSON'):
        Workdir(tmp_path).read_json('run.json')


def test_missing_oversized_and_unreadable_json_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r'run\.json does not exist'):
        Workdir(tmp_path).read_json('run.json')
    (tmp_path / 'run.json').write_bytes(b'"' + b'x' * 100 + b'"')
    with pytest.raises(UserError, match='larger than 50 bytes'):
        read_json(tmp_path / 'run.json', limit_bytes=50)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match=r'cannot read .*folder'):
        Workdir(tmp_path).read_json('folder')


def test_the_config_is_kept(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.saved_config() is None
    workdir.save_config({'model': {'width': 128}})
    assert workdir.saved_config() == {'model': {'width': 128}}
    (tmp_path / 'config.json').write_text('[]')
    with pytest.raises(UserError, match='holds no config'):
        workdir.saved_config()


def test_differences_name_each_key_once_and_only_in_the_sections_asked_for():
    old = {
        'model': {
            'width': 128,
            'norm': {'kind': 'layer', 'bias': True},
            'shape': [1, 2],
            'old': 3,
            'nan': float('nan'),
        },
        'data': {'corpus': 'shakespeare'},
        'optimizer': {'learning_rate': 1e-3},
    }
    new = {
        'model': {
            'width': 256,
            'norm': {'kind': 'rms', 'bias': 1},
            'shape': (1, 2),
            'new': {'x': None},
            'nan': float('nan'),
        },
        'optimizer': {'learning_rate': 6e-4},
    }
    assert differences(old, new, ['model', 'data']) == [
        'model.new.x: absent -> None',
        'model.norm.bias: True -> 1',
        "model.norm.kind: 'layer' -> 'rms'",
        'model.old: 3 -> absent',
        'model.width: 128 -> 256',
        "data.corpus: 'shakespeare' -> absent",
    ]
    assert differences(old, old, ['model', 'data', 'optimizer', 'none']) == []
    assert differences({'model': {'a': {}}}, {'model': {'a': 1}}, ['model']) == ['model.a: {} -> 1']


def test_bytes_for_people():
    assert [describe_bytes(n) for n in (0, 999, 1000, 999_960, 1_300_000_000, 5 * 10**12)] == [
        '0 bytes',
        '999 bytes',
        '1.0 kB',
        '1.0 MB',
        '1.3 GB',
        '5.0 TB',
    ]
