"""Files of this machine and objects of a bucket, by the same calls.

A path is a pathlib.Path, or for gs://BUCKET/... an etils.epath.Path, which has the same methods.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from gpt2jax.errors import UserError

BUCKET = 'gs://'


def is_bucket(path) -> bool:
    """Whether a path names objects in a bucket rather than files of this machine."""
    return str(path).startswith(BUCKET)


def open_path(path: str | os.PathLike) -> Path:
    """A path that a user gave.

    Raises:
      UserError: what it takes to reach a bucket is not installed, or the address is of another kind.
    """
    text = str(path)
    if not is_bucket(text):
        if '://' in text:
            raise UserError(f'{text}: expected a folder, which may be a mounted bucket, or {BUCKET}BUCKET/PATH')
        return Path(text).expanduser().absolute()
    try:
        import gcsfs  # noqa: F401 (epath finds it by itself)
    except ImportError as error:
        raise UserError(
            f'{text}: the package gcsfs is missing, through which buckets are reached: '
            'python -m pip install "etils[epath-gcs]"'
        ) from error
    return epath.Path(text)


def remove_folder(folder: Path) -> None:
    """Deletes a folder and all that is in it; one that is not there is fine."""
    if is_bucket(folder):
        if folder.exists():
            folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def files_below(folder: Path) -> Iterator[Path]:
    """Every ordinary file below a folder; links are not followed and do not count."""
    if is_bucket(folder):
        for path in folder.iterdir():
            if path.is_dir():
                yield from files_below(path)
            else:
                yield path
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path
