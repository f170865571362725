"""The folder of one run: its lock, its JSON files and the config it was started with.

A run folder belongs to one process at a time and outlives it: whatever is written here appears whole or not
at all, so that a kill at any moment leaves the folder readable.
"""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from gpt2jax.errors import UserError
from gpt2jax.files import describe_bytes, read_json, replace_file, write_json
from gpt2jax.storage import is_bucket, open_path

CONFIG_NAME = 'config.json'
LOCK_NAME = '.lock'

CACHE = Path('~/.cache/gpt2jax/buckets')  # of each run in a bucket, a folder with its small files
FILE_LIMIT_BYTES = 2**30  # a larger one in the bucket is none of ours

ABSENT = object()


def check_space(folder: Path, bytes_needed: int, purpose: str) -> None:
    """Raises a UserError when less than `bytes_needed` bytes are free on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise UserError(
            f'not enough space in {folder} for {purpose}: '
            f'{describe_bytes(bytes_needed)} ({bytes_needed} bytes) needed, '
            f'{describe_bytes(free)} ({free} bytes) free; delete something or choose another --workdir'
        )


class Workdir:
    """The folder of one run.

    Of a run in a bucket the checkpoints are written there by all processes; its small files are kept in a folder of
    this machine, fetched when this object is made, and copied to the bucket by `publish`.

    Attributes:
      path: the folder on this machine.
      store: where the checkpoints are: the same folder, or the address in the bucket.
    """

    def __init__(self, path: str | Path):
        """Raises UserError when a bucket cannot be reached."""
        self.store = self.path = open_path(path)
        self._published: dict[str, int] = {}
        self._lock_descriptor: int | None = None
        if is_bucket(self.store):
            self.path = CACHE.expanduser() / hashlib.sha256(str(self.store).encode()).hexdigest()[:16]
            self._create()
            self._fetch()

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.store / 'checkpoints'

    def publish(self) -> None:
        """Copies files of this folder that have changed to the bucket; does nothing where there is none."""
        if self.store == self.path:
            return
        for path in self.path.iterdir():
            if path.is_file() and not path.name.startswith('.'):
                changed = path.stat().st_mtime_ns
                if self._published.get(path.name) != changed:
                    (self.store / path.name).write_bytes(path.read_bytes())
                    self._published[path.name] = changed

    def _fetch(self) -> None:
        """Takes over what the bucket holds; a file that it lacks is an old one of this machine, and goes."""
        try:
            there = (
                {path.name: path for path in self.store.iterdir() if not path.is_dir()} if self.store.exists() else {}
            )
            for name, path in there.items():
                if path.stat().length <= FILE_LIMIT_BYTES:
                    replace_file(self.path / name, path.read_bytes())
        except UserError:
            raise
        except Exception as error:  # whatever the package of the bucket raises
            raise UserError(f'{self.store} cannot be read: {error}; check the address and your credentials') from error
        for path in self.path.iterdir():
            if path.is_file() and not path.name.startswith('.') and path.name not in there:
                path.unlink()

    def lock(self) -> Self:
        """Takes the folder for this process, creating it when it is not there.

        The kernel holds the lock (flock), so it ends with the process, however that ends.

        Raises:
            UserError: another process holds it (named with its host), or the folder cannot be written.
        """
        if self._lock_descriptor is not None:
            return self
        self._create()
        lock_path = self.path / LOCK_NAME
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f'cannot write in {self.path}: {error.strerror}; choose another --workdir') from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {'pid': os.getpid(), 'host': socket.gethostname(), 'since': _now()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f'{self.path} is in use by {_holder(lock_path)}; wait for it, stop it, or choose another --workdir'
                ) from None
            raise UserError(
                f'cannot lock {lock_path}: {error.strerror}; '
                'choose a --workdir with free space, on a file system that can lock files'
            ) from error
        self._lock_descriptor = descriptor
        return self

    @contextlib.contextmanager
    def locked(self) -> Iterator[Self]:
        """`lock` and `unlock` around what works in the folder."""
        self.lock()
        try:
            yield self
        finally:
            self.unlock()

    def unlock(self) -> None:
        """Gives the folder back; does nothing when this object does not hold it."""
        if self._lock_descriptor is None:
            return
        # The file stays: deleting it would let two processes lock two files of the same name.
        os.ftruncate(self._lock_descriptor, 0)
        os.close(self._lock_descriptor)
        self._lock_descriptor = None

    def check_writable_and_space(self, bytes_needed: int) -> None:
        """Refuses a folder in which the run would fail later: before any compute is spent.

        Args:
            bytes_needed: what the run will write at most, in bytes.

        Raises:
            UserError: the folder cannot be created or written, or its disk has too little space.
        """
        self._create()
        probe = self.path / f'.probe.{os.getpid()}'
        try:
            probe.write_bytes(b'gpt2jax')
            probe.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                probe.unlink(missing_ok=True)
            raise UserError(f'cannot write in {self.path}: {error.strerror}; choose another --workdir') from error
        check_space(self.path, bytes_needed, 'this run')

    def write_json(self, name: str, value: Any) -> None:
        """Writes the file `name` of this folder atomically; see the function `write_json`."""
        write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """Reads the file `name` of this folder; see the function `read_json`."""
        return read_json(self.path / name)

    def save_config(self, config: dict[str, Any]) -> None:
        """Keeps the resolved config of the run as config.json."""
        self.write_json(CONFIG_NAME, config)

    def saved_config(self) -> dict[str, Any] | None:
        """The config this folder was started with, or None when there is none yet.

        Raises:
            UserError: config.json is damaged.
        """
        path = self.path / CONFIG_NAME
        try:
            config = read_json(path)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if not isinstance(config, dict):
            raise UserError(f'{path} holds no config (a JSON object): it was damaged or edited; restore or delete it')
        return config

    def imported(self) -> dict[str, Any] | None:
        """What run.json says of the weights that were imported into this folder; None for a run that was trained."""
        if not (self.path / 'run.json').exists():
            return None
        return self.read_json('run.json').get('imported')

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = 'it is a file' if isinstance(error, FileExistsError) else error.strerror
            raise UserError(f'cannot create the folder {self.path}: {reason}; choose another --workdir') from error


def differences(old: dict[str, Any], new: dict[str, Any], sections: list[str] | tuple[str, ...]) -> list[str]:
    """What differs between two configs in the given top-level sections, one line a key.

    Both are compared as JSON would store them (a tuple equals the list it becomes). A key on one side only
    shows as 'absent' on the other.

    Returns:
        Lines like 'model.width: 128 -> 256', in the order of `sections`, then by key.
    """
    lines = []
    for section in sections:
        old_values = dict(_leaves(section, old[section])) if section in old else {}
        new_values = dict(_leaves(section, new[section])) if section in new else {}
        for key in sorted(old_values.keys() | new_values.keys()):
            before, after = (_describe(values.get(key, ABSENT)) for values in (old_values, new_values))
            if before != after:
                lines.append(f'{key}: {before} -> {after}')
    return lines


def _leaves(path: str, value: Any):
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(f'{path}.{key}', child)
    else:
        yield path, value


def _describe(value: Any) -> str:
    return 'absent' if value is ABSENT else repr(json.loads(json.dumps(value)))


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec='seconds')


def _holder(lock_path: Path) -> str:
    """Who wrote the lock file, in words; it may be caught between taking the lock and signing it."""
    try:
        holder = read_json(lock_path, limit_bytes=4096)
        return f'process {holder["pid"]} on host {holder["host"]} (since {holder["since"]})'
    except (UserError, KeyError, TypeError):
        return 'another process'
