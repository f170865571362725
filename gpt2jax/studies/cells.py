"""The runs of a study: a folder for each arm and seed, and what the folder says of how far it is.

A cell is an ordinary run of `launch.py train`. Its folder is named after its arm, its seed and its config: another
config is another folder, so that what is finished never runs again, and nothing is mistaken for something else.
"""

import dataclasses
import hashlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from gpt2jax.config import default_config, flatten
from gpt2jax.errors import UserError
from gpt2jax.evaluation.suites import slug_of
from gpt2jax.files import read_json, write_json
from gpt2jax.studies.study import ROOT, Experiment, base_path, load_base, merged
from gpt2jax.training.metrics import FILE_NAME, is_finite
from gpt2jax.training.workdir import LOCK_NAME
from gpt2jax.validation import resolve

ATTEMPTS, MOST_ATTEMPTS = 'attempts.json', 2
SUITES_FOLDER = 'suites'  # of a run, where `evaluate --suite` writes
UNIMPORTANT = ('data.directory', 'runtime.', 'data.prefetch')  # keys that change no figure
TAIL_BYTES = 65_536


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One run of a study.

    Attributes:
      arm: its name.
      role: 'run', 'tune' (tries a setting), 'speed' (measures seconds) or 'suites' (measures a run after its end).
      matches: the measures at whose equal cost it is run; empty but for role 'run'.
      setting: what was tuned: the name of the setting, or ''.
      changes: over the base recipe, all of them.
      config: resolved.
      base: the recipe, as in --config.
      folder: of the run; of role 'suites' the folder in it where the measurements are.
      suites: what is measured after the run.
    """

    arm: str
    seed: int
    role: str
    matches: tuple[str, ...]
    setting: str
    changes: dict[str, Any]
    config: Any
    base: str
    folder: Path
    suites: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        about = {'run': [], 'tune': [self.setting]}.get(self.role, [self.role])
        return ', '.join([self.arm, f'seed {self.seed}', *about])

    @property
    def steps(self) -> int:
        return self.config.training.steps

    def arguments(self) -> list[str]:
        """What follows `launch.py`."""
        if self.role == 'suites':
            missing = [f'--suite={suite}' for suite in self.suites if suite_figures(self, suite) is None]
            return ['evaluate', f'--workdir={self.folder.parent}', '--step=latest', *missing]
        path, colon, argument = self.base.partition(':')
        flags = [f'--config.{key}={value}' for key, value in self.changes.items()]
        return ['train', f'--config={base_path(path)}{colon}{argument}', *flags, f'--workdir={self.folder}']

    def command(self) -> list[str]:
        """The process to start."""
        return [sys.executable, str(ROOT / 'launch.py'), *self.arguments()]

    def typed(self) -> str:
        """What a person would type to get this run without the study, from the repository's folder."""
        path, colon, argument = self.base.partition(':')
        text = [f'--config={path}{colon}{argument}', *self.arguments()[2:]]
        return shlex.join(['python', 'launch.py', 'train', *text])


def make_cell(
    experiment: Experiment,
    directory: Path,
    arm: str,
    seed: int,
    overlays: list[dict[str, Any]],
    role: str = 'run',
    matches: tuple[str, ...] = (),
    setting: str = '',
    suites: tuple[str, ...] = (),
) -> Cell:
    """A cell from its overlays over the study's changes; keys that the base has already are left out."""
    changes = merged(experiment.study.changes, *overlays, {'seed': seed})
    config = resolve(experiment.config(*overlays, {'seed': seed}))
    base = flatten(load_base(experiment.study.base))
    changes = {key: value for key, value in changes.items() if base[key] != value}
    folder = (
        directory / 'cells' / slug(arm) / f'{"" if role == "run" else f"{role}-"}seed{seed}-{config_digest(config)}'
    )
    return Cell(arm, seed, role, matches, setting, changes, config, experiment.study.base, folder, suites)


def suites_cell(cell: Cell) -> Cell:
    """What measures a run after its last step."""
    return dataclasses.replace(cell, role='suites', folder=cell.folder / SUITES_FOLDER)


def suite_figures(cell: Cell, suite: str) -> dict[str, float] | None:
    """What a suite has measured of a run after its last step; None where it has not. `cell` is of role 'suites'."""
    record = _json(cell.folder / f'{slug_of(suite)}.json', dict)
    if record.get('step') != cell.steps or not isinstance(record.get('figures'), dict):
        return None
    return {name: value for name, value in record['figures'].items() if is_finite(value)}


def slug(name: str) -> str:
    """A name in letters that a folder may have; other names give other ones."""
    plain = re.sub(r'[^A-Za-z0-9.=_]+', '-', name).strip('-.')[:60]
    return plain if plain == name else f'{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}'


def config_digest(config) -> str:
    """Eight letters for what differs from the defaults, but for what changes no figure: a new key at its default
    changes nothing."""
    defaults = flatten(default_config())
    flat = {key: value for key, value in flatten(config).items() if not key.startswith(UNIMPORTANT)}
    changed = {key: value for key, value in flat.items() if value != defaults[key]}
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a cell is, by its folder.

    Attributes:
      status: 'waiting', 'begun' (a run was started and is not at its end), 'finished' or 'failed' (twice).
      step, loss: of the last line of training; 0 and None where there is none.
      seconds: that its process had trained by then.
      error: of the last attempt that failed.
      attempts: how many did.
    """

    status: str
    step: int = 0
    loss: float | None = None
    seconds: float = 0.0
    error: str = ''
    attempts: int = 0


def progress_of(cell: Cell) -> Progress:
    """Reads the end of a cell's metrics, its run.json and its attempts. Nothing that is malformed stops it."""
    attempts = _json(cell.folder / ATTEMPTS, list)
    error = attempts[-1].get('error', '') if attempts else ''
    if cell.role == 'suites':
        missing = [suite for suite in cell.suites if suite_figures(cell, suite) is None]
        failed = 'failed' if len(attempts) >= MOST_ATTEMPTS else 'waiting'
        return Progress(failed if missing else 'finished', error=error, attempts=len(attempts))
    lines = _tail(cell.folder / FILE_NAME)
    step, loss, seconds = 0, None, 0.0
    for line in lines:
        if line.get('kind') == 'train':
            step, loss, seconds = line.get('step', 0), line.get('loss'), line.get('seconds', 0.0)
    info = _json(cell.folder / 'run.json', dict)
    seconds *= len(info.get('together', '1'))  # of runs that are one program each has a share
    evaluated = any(line.get('kind') == 'evaluation' and line.get('step') == cell.steps for line in lines)
    if evaluated and info.get('finished'):
        status = 'finished'
    elif len(attempts) >= MOST_ATTEMPTS:
        status = 'failed'
    else:
        status = 'begun' if lines else 'waiting'
    loss = loss if isinstance(loss, float) else None
    return Progress(status, step, loss, seconds, error, len(attempts))


def add_attempt(cell: Cell, status: int, error: str, ended: str) -> None:
    """Notes that a run of this cell failed."""
    attempts = _json(cell.folder / ATTEMPTS, list)
    write_json(cell.folder / ATTEMPTS, [*attempts, {'status': status, 'error': error, 'ended': ended}])


def forget_attempts(cell: Cell) -> None:
    """Lets a failed cell be tried again."""
    (cell.folder / ATTEMPTS).unlink(missing_ok=True)


def lock_path(cell: Cell) -> Path:
    """The file that the process which trains this cell holds."""
    return cell.folder / LOCK_NAME


def _json(path: Path, kind: type):
    try:
        value = read_json(path)
    except UserError:
        return kind()
    return value if isinstance(value, kind) else kind()


def _tail(path: Path) -> list[dict]:
    """The last lines of a metrics.jsonl; a torn one is left out."""
    try:
        with path.open('rb') as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b'\n')
    except OSError:
        return []
    found = []
    for line in lines[1 if size > TAIL_BYTES else 0 : -1]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found
