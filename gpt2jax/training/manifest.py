"""A manifest: size and sha256 of every file of a folder, to know later that the bytes are those written."""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from gpt2jax.errors import UserError
from gpt2jax.files import describe_bytes, read_json, sync_folder, write_json
from gpt2jax.storage import files_below, is_bucket

MANIFEST = 'manifest.json'


def write_manifest(folder: Path) -> None:
    """Describes every file below `folder` in its manifest.json, each safe on the disk before it is described.

    Raises:
        OSError, UserError: the file system refuses.
    """
    files = {}
    for path in sorted(_files(folder)):
        digest, size = _digest(path, sync=True)
        files[path.relative_to(folder).as_posix()] = {'sha256': digest, 'size': size}
    for parent in {path.parent for path in _files(folder)}:
        sync_folder(parent)
    write_json(folder / MANIFEST, {'files': files}, indent=None)


def find_damage(folder: Path, required: Collection[str], left_out: Collection[str] = ()) -> str | None:
    """Compares a folder with its manifest; nothing outside the folder is read, whatever the manifest says.

    Args:
        required: relative paths of files or folders that must be in the manifest.
        left_out: relative paths of folders that are not looked at; everything else listed is compared.

    Returns:
        The first damage as 'file: reason', or None when every byte is as it was written.
    """
    try:
        files = read_json(folder / MANIFEST)['files']
        listed = {str(name): (str(entry['sha256']), int(entry['size'])) for name, entry in files.items()}
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        return str(error) if isinstance(error, UserError) else f'{MANIFEST}: not a manifest'
    for part in required:
        if not any(_within(name, [part]) for name in listed):
            return f'{part}: not in {MANIFEST}'
    present = {path.relative_to(folder).as_posix() for path in _files(folder)}
    for name in sorted(listed):
        if _within(name, left_out):
            continue
        reason = _compare(folder / name, *listed[name]) if name in present else 'the file is missing'
        if reason:
            return f'{name}: {reason}'
    return None


def _within(name: str, parts: Collection[str]) -> bool:
    return any(name == part or name.startswith(part + '/') for part in parts)


def _compare(path: Path, sha256: str, size: int) -> str | None:
    try:
        found = path.stat().length if is_bucket(path) else path.stat().st_size
        if found != size:
            return f'{found} bytes ({describe_bytes(found)}) long instead of {size}'
        return None if _digest(path)[0] == sha256 else 'its content has changed (sha256 differs)'
    except OSError as error:
        return f'cannot be read ({error.strerror})'


def _files(folder: Path) -> Iterator[Path]:
    """Every ordinary file below `folder` but its manifest."""
    return (path for path in files_below(folder) if path != folder / MANIFEST)


def _digest(path: Path, sync: bool = False) -> tuple[str, int]:
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
        if sync and not is_bucket(path):
            os.fsync(file.fileno())
        return digest, file.tell()
