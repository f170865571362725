"""What a run measures, line by line: metrics.jsonl, with a mirror for TensorBoard.

One JSON object a line. A training line has step, tokens, predicted, seconds, loss, learning_rate,
gradient_norm, tokens_per_second and mfu; an evaluation line has step, tokens, seconds, split, the figures of
gpt2jax.evaluation.measures and `score`, the name of the one that decides which checkpoint is the best. Both have
`objective`, which the step was trained with. `seconds`, `tokens` and the `predicted` of training count from the first
step of the run, over all restarts; the `predicted` of an evaluation is that of the split.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from gpt2jax.errors import UserError
from gpt2jax.files import replace_file

FILE_NAME = 'metrics.jsonl'
_NON_FINITE = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}

Record = dict[str, Any]


@dataclass(frozen=True)
class History:
    """Where a run stands after its last line; what a restart continues counting from.

    Attributes:
      step, tokens, seconds: of the last line; 0 where there is none.
      last_evaluation, best_evaluation: whole evaluation lines, or None. Best is the lowest finite score.
    """

    step: int
    tokens: int
    seconds: float
    last_evaluation: Record | None
    best_evaluation: Record | None


def summarize(records: list[Record], split: str = 'validation', score: str = 'bits_per_byte') -> History:
    """Folds the lines of a run into a History; evaluations of other splits do not count as last or best."""
    last: Record = records[-1] if records else {}
    evaluations = [r for r in records if r['kind'] == 'evaluation' and r.get('split') == split]
    scored = [r for r in evaluations if is_finite(r.get(score))]
    return History(
        step=last.get('step', 0),
        tokens=last.get('tokens', 0),
        seconds=last.get('seconds', 0.0),
        last_evaluation=evaluations[-1] if evaluations else None,
        best_evaluation=min(scored, key=lambda r: r[score]) if scored else None,
    )


def is_finite(value: Any) -> bool:
    """Whether a field of a line is a number one can plot: absent, null, text and NaN are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_metrics(path: str | os.PathLike) -> list[Record]:
    """The lines of a metrics.jsonl, in order; non-finite numbers come back as floats.

    A last line without its newline is what a crash leaves behind, and is dropped without a word.

    Raises:
      UserError: the file cannot be read, or a line is not a JSON object with `kind` and `step`.
    """
    return [record for _, record in _parse(Path(path))]


class MetricWriter:
    """Appends lines to workdir/metrics.jsonl and mirrors their numbers to workdir/tensorboard.

    Opening it takes the run back to `resume_step`: later lines are cut and TensorBoard is told to forget
    them, so that a resumed curve equals an uninterrupted one. Each line reaches the operating system in one
    write: a killed process loses at most the line it was writing.
    """

    def __init__(self, workdir_path: str | os.PathLike, resume_step: int):
        """Opens the files of a run, creating them where needed.

        Args:
          workdir_path: the folder of the run.
          resume_step: the step to continue from; 0 for a new run.

        Raises:
          UserError: a line is corrupt, or the folder cannot be written.
        """
        self._path = Path(workdir_path) / FILE_NAME
        resumed = self._path.exists()
        kept = _cut(self._path, resume_step) if resumed else []
        self.history: History = summarize(kept)
        # The evaluation at the checkpoint's own step may be repeated by the loop: one line each is enough.
        self._present = {_identity(record) for record in kept if record['step'] == resume_step}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open('ab', buffering=0)
        except OSError as error:
            raise UserError(f'{self._path}: cannot be written ({error.strerror}).') from error
        self._board = SummaryWriter(
            logdir=str(self._path.parent / 'tensorboard'),
            purge_step=resume_step + 1 if resumed else None,
            # Names otherwise differ by the second only, and the later file would replace the earlier one.
            filename_suffix=f'.{os.getpid()}.{resume_step}',
        )

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Adds one line. Numbers may be of Python, NumPy or JAX (which waits for the device).

        Raises:
          UserError: the disk does not take the line.
        """
        record: Record = {'kind': kind, 'step': int(step)} | {k: _plain(v) for k, v in values.items()}
        if _identity(record) in self._present:
            return
        encoded = {k: _encodable(v) for k, v in record.items()}
        line = (json.dumps(encoded, allow_nan=False, ensure_ascii=False) + '\n').encode('utf-8', 'replace')
        try:
            written = self._file.write(line)
        except OSError as error:
            raise UserError(f'{self._path}: cannot be written ({error.strerror}).') from error
        if written != len(line):
            raise UserError(f'{self._path}: the disk is full; free some space and run the command again.')
        self._mirror(record)

    def _mirror(self, record: Record) -> None:
        group = record.get('split', record['kind'])
        for name, value in record.items():
            # TensorBoard draws no point for a non-finite value, and its writer complains on the terminal.
            if name not in ('kind', 'step') and is_finite(value):
                self._board.add_scalar(f'{group}/{name}', value, record['step'])

    def close(self) -> None:
        """Closes both files; lines already written are safe without it, TensorBoard's last ones are not."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> 'MetricWriter':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class SilentWriter:
    """Stands in for a MetricWriter in the processes that write nothing: process 0 writes for all."""

    history = summarize([])

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Drops the line."""

    def __enter__(self) -> 'SilentWriter':
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _identity(record: Record) -> tuple:
    return record['kind'], record['step'], record.get('split')


def _plain(value: Any) -> Any:
    """A Python number, text or None; refuses arrays, which do not belong on a line of scalars."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return np.asarray(value).item()


def _encodable(value: Any) -> Any:
    """JSON has no NaN: non-finite numbers become their names, which `read_metrics` turns back."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return 'NaN'
    return 'Infinity' if value > 0 else '-Infinity'


def _parse(path: Path) -> list[tuple[bytes, Record]]:
    """Every complete line, as stored and as read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}).') from error
    *lines, _torn = data.split(b'\n')
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise _corrupt(path, number, 'is not JSON') from error
        well_formed = isinstance(record, dict) and isinstance(record.get('kind'), str)
        if not well_formed or type(record.get('step')) is not int:
            raise _corrupt(path, number, "is not an object with a 'kind' and a whole 'step'")
        decoded = {k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in record.items()}
        parsed.append((line, decoded))
    return parsed


def _corrupt(path: Path, number: int, problem: str) -> UserError:
    return UserError(f'{path}, line {number}: {problem}; remove the line (keep a copy) and try again.')


def _cut(path: Path, last_step: int) -> list[Record]:
    """Drops a torn end and every line after `last_step`, all or nothing; returns what stays."""
    kept = [(line, record) for line, record in _parse(path) if record['step'] <= last_step]
    data = b''.join(line + b'\n' for line, _ in kept)
    if len(data) != path.stat().st_size:
        replace_file(path, data)
    return [record for _, record in kept]
