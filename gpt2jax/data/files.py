"""Files that are whole or absent: digests, atomic writing, and one lock for all who prepare."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2jax.errors import UserError

WHOLE = 256 << 20  # files up to this size are hashed whole, larger ones at evenly spaced samples of 1 MiB
SAMPLE = 1 << 20


def digest_bytes(*parts: bytes | str) -> str:
    """sha256 over the parts, each with its length, so that no two lists of parts give the same digest."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, 'little') + data)
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's whole contents, read in pieces."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def digest_sampled(path: Path, whole: int = WHOLE) -> str:
    """A digest cheap for streams of many gigabytes: of all up to `whole` bytes, else of 256 samples."""
    size = path.stat().st_size
    if size <= whole:
        return digest_bytes(str(size), digest_file(path))
    count = whole // SAMPLE
    with path.open('rb') as file:
        parts = [str(size)]
        for i in range(count):
            file.seek(i * (size - SAMPLE) // (count - 1))
            parts.append(hashlib.sha256(file.read(SAMPLE)).hexdigest())
    return digest_bytes(*parts)


def make_folder(path: Path) -> Path:
    """Makes a folder to write in.

    Raises:
      UserError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'config.data.directory: cannot make the folder {path}: {error.strerror}; name one that can be written'
        ) from error
    if not os.access(path, os.W_OK):
        raise UserError(f'config.data.directory: {path} cannot be written; name a folder that can')
    return path


@contextlib.contextmanager
def locked(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder's lock, so that of several processes one prepares and the others find the result.

    The lock belongs to the open file: it goes away with a process that is killed.
    """
    with (folder / '.lock').open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f'Another process is preparing data in {folder}: waiting for it.')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
