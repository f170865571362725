"""What the folders of a study hold: the figures of each cell, what it cost, and its curves against each measure."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from gpt2jax.errors import UserError
from gpt2jax.files import read_json
from gpt2jax.studies.cells import Cell, progress_of, suite_figures, suites_cell
from gpt2jax.studies.costs import flops_until
from gpt2jax.training.metrics import FILE_NAME, is_finite, read_metrics

SPLIT = 'validation'


@dataclasses.dataclass(frozen=True)
class Result:
    """One cell, read from disk.

    Attributes:
      status: as gpt2jax.studies.cells.Progress has it.
      steps, step: it has to train, and has trained.
      figures: of the evaluation after the last step, and nothing before that: the best of several evaluations would be
        a choice made on the text that is measured. With them those of the suites.
      totals: measure -> what was spent until `step`.
      curve: a point an evaluation: {'step', each of MEASURES, and the figures}.
      info: run.json: versions, device, command.
      command: what trains this run alone.
      changes: over the base recipe.
    """

    arm: str
    seed: int
    role: str
    matches: tuple[str, ...]
    setting: str
    status: str
    steps: int
    step: int
    figures: dict[str, float]
    totals: dict[str, float]
    curve: list[dict[str, float]]
    info: dict[str, Any]
    error: str
    folder: str
    command: str
    changes: dict[str, Any]

    def value(self, figure: str) -> float | None:
        """A figure after the last step, where the cell is finished and has it."""
        return self.figures.get(figure) if self.status == 'finished' else None

    def at(self, figure: str, measure: str, budget: float) -> float | None:
        """A figure when `budget` of a measure was spent, between two evaluations in a line over the logarithm.

        None before the first evaluation and after the last one.
        """
        points = [(point[measure], point[figure]) for point in self.curve if figure in point and point[measure] > 0]
        if not points or not points[0][0] <= budget <= points[-1][0] * (1 + 1e-9):
            return None
        spent, values = zip(*points, strict=True)
        return float(np.interp(math.log(budget), np.log(spent), values))


def read_result(cell: Cell) -> Result:
    """Reads the folder of a cell; one that has not begun has no figures."""
    progress, figures = progress_of(cell), {}
    if progress.status == 'finished' and cell.suites:  # a run is finished when all of it is measured
        measured = suites_cell(cell)
        progress = progress_of(measured)
        progress = dataclasses.replace(progress, status={'waiting': 'begun'}.get(progress.status, progress.status))
        figures = {
            name: value for suite in cell.suites for name, value in (suite_figures(measured, suite) or {}).items()
        }
    result = read_run(cell.folder, cell.config)
    return dataclasses.replace(
        result,
        figures=result.figures | figures,
        arm=cell.arm,
        seed=cell.seed,
        role=cell.role,
        matches=cell.matches,
        setting=cell.setting,
        status=progress.status,
        error=progress.error,
        command=cell.typed(),
        changes=cell.changes,
    )


def read_run(folder: Path, config) -> Result:
    """Reads the folder of any run of this config.

    Raises:
      UserError: metrics.jsonl is damaged.
    """
    records = read_metrics(folder / FILE_NAME) if (folder / FILE_NAME).exists() else []
    training = [record for record in records if record['kind'] == 'train']
    evaluations = {r['step']: r for r in records if r['kind'] == 'evaluation' and r.get('split') == SPLIT}
    steps, last = config.training.steps, max([record['step'] for record in records], default=0)
    finished = steps in evaluations
    info = _info(folder / 'run.json')
    return Result(
        arm=folder.resolve().name,
        seed=config.seed,
        role='run',
        matches=(),
        setting='',
        status='finished' if finished else 'begun' if records else 'waiting',
        steps=steps,
        step=last,
        figures=_figures(evaluations[steps]) if finished else {},
        totals=spent(config, training, last),
        curve=[spent(config, training, step) | _figures(record) for step, record in sorted(evaluations.items())],
        info=info,
        error='',
        folder=str(folder),
        command=str(info.get('command', '')),
        changes={},
    )


def spent(config, training: list[dict], step: int) -> dict[str, float]:
    """What a run had spent of each measure after `step`; tokens predicted and seconds are read between its lines."""
    known = [(0, 0.0, 0.0)] + [(r['step'], r.get('predicted', 0), r.get('seconds', 0.0)) for r in training]
    steps, predicted, seconds = map(np.array, zip(*known, strict=True))
    if step > steps[-1] > 0:
        predicted, seconds = predicted * step / steps[-1], seconds * step / steps[-1]
    return {
        'step': float(step),
        'tokens': float(step * config.training.batch_size * config.data.length),
        'predicted': float(np.interp(step, steps, predicted)),
        'flops': float(flops_until(config, step, 'flops')),
        'causal_flops': float(flops_until(config, step, 'causal_flops')),
        'seconds': float(np.interp(step, steps, seconds)),
    }


def step_seconds(folder: Path) -> float | None:
    """Seconds of a step of a run, after its first logged lines, in which caches fill; None where it has too few."""
    lines = [record for record in read_metrics(folder / FILE_NAME) if record['kind'] == 'train']
    if len(lines) < 2:
        return None
    first, last = lines[0], lines[-1]
    return (last['seconds'] - first['seconds']) / (last['step'] - first['step'])


def _figures(record: dict) -> dict[str, float]:
    """The numbers of an evaluation line, but for those that say where it stands, and of how many tokens it is."""
    aside = ('kind', 'step', 'score', 'objective', 'split', 'tokens', 'seconds', 'predicted', 'bytes')
    return {name: value for name, value in record.items() if name not in aside and is_finite(value)}


def _info(path: Path) -> dict[str, Any]:
    try:
        info = read_json(path)
    except UserError:
        return {}
    return info if isinstance(info, dict) else {}
