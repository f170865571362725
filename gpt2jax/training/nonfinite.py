"""What is kept of a training step whose loss or gradient is no number, so that it can be run again.

The step's own state is gone when its loss is read: the next step has taken its memory. A run is deterministic, so the
checkpoint before it and the rows of its batch are enough to make it again, and a run that goes well pays nothing.
"""

import os
import shlex
import shutil
from pathlib import Path

import jax

from gpt2jax.config import to_dict
from gpt2jax.data.rows import Rows, train_indices
from gpt2jax.errors import UserError
from gpt2jax.files import read_json, write_json
from gpt2jax.storage import files_below, is_bucket, remove_folder
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.setup import Setup

NAME = 'nonfinite.json'
FOLDER = 'nonfinite'


def keep_failure(checkpoints: Checkpoints, setup: Setup, rows: Rows, step: int, metrics: dict, data: str) -> str:
    """Writes nonfinite.json into the folder of the run, and keeps the newest checkpoint for the replay.

    Args:
      rows: of the training split.
      step: counted from 1.
      metrics: of the step.
      data: fingerprint of the prepared data.

    Returns:
      What to tell the user: the command that looks into the step, or why nothing could be kept.
    """
    config, steps = setup.config, checkpoints.steps()
    workdir = checkpoints.directory.parent
    if jax.process_index() == 0:
        start = steps[-1] if steps else None
        try:
            _keep_checkpoint(checkpoints.directory, workdir / FOLDER, start)
            record = {
                'step': step,
                'loss': str(metrics['loss']),  # JSON has no nan
                'gradient_norm': str(metrics['gradient_norm']),
                'objective': setup.kind_at(step - 1),
                'rows': train_indices(rows, config.seed, step - 1, config.training.batch_size),
                'checkpoint': start,
                'devices': setup.mesh.size,
                'data': data,
                'config': to_dict(config),
            }
            write_json(workdir / NAME, record)
        except (OSError, UserError) as error:
            return f'The step could not be kept for a replay: {error}'
    command = f'python launch.py replay --workdir={shlex.quote(str(workdir))}'
    return f'What the step needs is kept ({workdir / NAME}); see where it broke: {command}'


def read_failure(workdir: Path) -> dict:
    """The content of nonfinite.json.

    Raises:
      UserError: there is none, or it was damaged.
    """
    path = workdir / NAME
    if not path.exists():
        raise UserError(f'{workdir} has no {NAME}: no step of this run had a loss or a gradient that is no number')
    record = read_json(path)
    missing = {'step', 'objective', 'rows', 'checkpoint', 'data', 'config'} - set(record)
    if missing:
        raise UserError(f'{path} lacks {", ".join(sorted(missing))}: it was damaged or edited')
    return record


def _keep_checkpoint(checkpoints: Path, folder: Path, step: int | None) -> None:
    """Links the files of a checkpoint into a folder of their own: they stay when the run retires it, and cost nothing.

    A file system without links, and a bucket, gets a copy.
    """
    remove_folder(folder)
    if step is None:
        return
    source, target = checkpoints / str(step), folder / str(step)
    if is_bucket(folder):
        for path in files_below(source):
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    else:
        shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
