"""Files that are whole or absent, and JSON that anyone may have written."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from gpt2jax.errors import UserError
from gpt2jax.storage import is_bucket

# A file from outside must not be able to fill the memory; the largest of ours stay far below.
JSON_LIMIT_BYTES = 64 * 2**20


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees its old contents or all of the new.

    Raises:
      UserError: the file system refuses (no space left, no permission, the folder is missing).
    """
    if is_bucket(path):  # an object appears whole
        path.write_bytes(data)
        return
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise UserError(f'cannot write {path}: {error.strerror or error}; nothing that was there is lost') from error


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes `value` as JSON, whole or not at all.

    Raises:
      UserError: as `replace_file`.
      TypeError, ValueError: `value` is not JSON.
    """
    replace_file(path, (json.dumps(value, indent=indent, allow_nan=False) + '\n').encode())


def read_json(path: Path, limit_bytes: int = JSON_LIMIT_BYTES) -> Any:
    """Reads a JSON file that anyone may have written.

    Raises:
        UserError: the file is missing, unreadable, larger than `limit_bytes` or not JSON.
    """
    try:
        with path.open('rb') as file:
            content = file.read(limit_bytes + 1)
    except FileNotFoundError as error:
        raise UserError(f'{path} does not exist') from error
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error}') from error
    if len(content) > limit_bytes:
        raise UserError(f'{path} is larger than {describe_bytes(limit_bytes)}: not a file of gpt2jax')
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{path} is not valid JSON ({error}): it was damaged or edited; restore or delete it'
        ) from error


def sync_folder(path: Path) -> None:
    """Makes renames inside a folder survive a power cut (fsync of the folder itself). A bucket needs none."""
    if is_bucket(path):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_bytes(count: int) -> str:
    """A number of bytes for people: 1300000000 -> '1.3 GB' (decimal units, as disks are sold)."""
    size = float(count)
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if size < 999.95:
            return f'{size:.0f} bytes' if unit == 'bytes' else f'{size:.1f} {unit}'
        size /= 1000
    return f'{size:.1f} TB'
