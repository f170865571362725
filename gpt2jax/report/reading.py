"""The files of a workdir, as the report needs them. Only metrics.jsonl must be there and sound."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2jax.evaluation.measures import SCORES
from gpt2jax.training.metrics import FILE_NAME, History, Record, is_finite, read_metrics, summarize

SPLIT = 'validation'


@dataclass
class Run:
    """One run, read from disk.

    Attributes:
      training, evaluations: lines of metrics.jsonl by kind; evaluations are those of the validation split.
      others: the last evaluation of every other split.
      score: the field evaluations are judged by, as the last one names it; where none does, bits_per_byte if there is
        such a figure, else nats_per_token.
      config, defaults, info: nested dicts, or None where missing; info is run.json.
      samples: dicts with prompt, text and step; or None where missing.
      notices: what could not be shown, and why, in words.
    """

    path: Path
    training: list[Record]
    evaluations: list[Record]
    others: list[Record]
    score: str
    history: History
    defaults: dict[str, Any] | None
    config: dict[str, Any] | None = None
    info: dict[str, Any] | None = None
    samples: list[dict[str, Any]] | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_run(path: Path, defaults: dict[str, Any] | None = None) -> Run:
    """Reads a workdir; what is optional and missing or malformed becomes a notice.

    Raises:
      UserError: metrics.jsonl is missing or corrupt.
    """
    records = read_metrics(path / FILE_NAME)
    evaluations = [r for r in records if r['kind'] == 'evaluation']
    # A step evaluated twice counts once, as measured last.
    validation = list({r['step']: r for r in evaluations if r.get('split') == SPLIT}.values())
    others = list({r.get('split'): r for r in evaluations if r.get('split') != SPLIT}.values())
    in_bytes = any(is_finite(r.get('bits_per_byte')) for r in evaluations)
    score = 'bits_per_byte' if in_bytes or not validation else 'nats_per_token'
    named = [r.get('score') for r in validation if r.get('score') in SCORES]
    score = named[-1] if named else score
    run = Run(
        path=path,
        training=[r for r in records if r['kind'] == 'train'],
        evaluations=validation,
        others=others,
        score=score,
        history=summarize(records, SPLIT, score),
        defaults=defaults,
    )
    run.config = _optional(run, 'config.json', dict, 'the configuration is not shown')
    run.info = _optional(run, 'run.json', dict, 'versions, device and command are not known')
    samples = _optional(run, 'samples.json', list, 'there are no samples to show')
    if samples is not None:
        run.samples = [s for s in samples if isinstance(s, dict) and isinstance(s.get('text'), str)]
        if len(run.samples) < len(samples):
            run.notices.append('samples.json has entries without a text; they are left out.')
    _notice_gaps(run)
    return run


def _optional(run: Run, name: str, kind: type, otherwise: str) -> Any:
    """The content of a JSON file that may be missing; trouble with it never costs the report."""
    try:
        value = json.loads((run.path / name).read_text('utf-8'))
    except FileNotFoundError:
        run.notices.append(f'{name} is missing: {otherwise}.')
        return None
    except (OSError, ValueError) as error:
        run.notices.append(f'{name} cannot be read ({error}): {otherwise}.')
        return None
    if not isinstance(value, kind):
        run.notices.append(f'{name} does not hold {"an object" if kind is dict else "a list"}: {otherwise}.')
        return None
    return value


def _notice_gaps(run: Run) -> None:
    bad = [r['step'] for r in run.training if 'loss' in r and not is_finite(r['loss'])]
    if bad:
        where = f'at step {bad[0]:,}' if len(bad) == 1 else f'at {len(bad):,} steps, the first {bad[0]:,}'
        run.notices.append(f'The training loss was not finite {where}.')
    if not run.training:
        run.notices.append('No training step has been measured.')
    if not run.evaluations:
        run.notices.append('The run has not been evaluated on the validation split.')


def column(records: list[Record], name: str) -> np.ndarray:
    """[N] float64: one field over the lines, NaN where it is absent or no number."""
    return np.array([r[name] if is_finite(r.get(name)) else np.nan for r in records], dtype=np.float64)


def smooth(values_N: np.ndarray, share: float = 0.02) -> np.ndarray:
    """A centred mean, taken twice so that a spike leaves a small hill and no box.

    The window grows with the index, so that the steep start is not flattened.

    Args:
      values_N: [N], NaN where unknown.
      share: the half-width of the window at most, as a share of N.

    Returns:
      [N]; NaN where the window holds no number.
    """
    size = len(values_N)
    index_N = np.arange(size)
    half_N = np.minimum(index_N // 5, max(int(0.7 * share * size), 1))
    low_N, high_N = index_N - half_N, np.minimum(index_N + half_N + 1, size)
    for _ in range(2):
        known_N = np.isfinite(values_N)
        total = np.concatenate([[0.0], np.cumsum(np.where(known_N, values_N, 0.0))])
        count = np.concatenate([[0], np.cumsum(known_N)])
        found_N = count[high_N] - count[low_N]
        values_N = np.where(found_N > 0, (total[high_N] - total[low_N]) / np.maximum(found_N, 1), np.nan)
    return values_N
