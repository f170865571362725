"""A study from its beginning to its last cell: seconds are measured, settings tuned, arms run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from gpt2jax.errors import UserError
from gpt2jax.evaluation.measures import HIGHER
from gpt2jax.studies.cells import Cell, progress_of, suites_cell
from gpt2jax.studies.combinators import Arm
from gpt2jax.studies.planning import Plan, make_plan, run_cells, speed_cells, tune_cells
from gpt2jax.studies.results import read_result, step_seconds
from gpt2jax.studies.study import Experiment


@dataclasses.dataclass(frozen=True)
class Layout:
    """All cells of a study that are known, and what they follow from.

    Attributes:
      cells: in the order in which they run. Those of the main runs are missing as long as seconds or settings that they
        depend on are not measured.
      chosen: arm -> the setting it keeps.
      complete: whether no cells are missing.
    """

    cells: list[Cell]
    plan: Plan
    chosen: dict[str, Arm]
    complete: bool


def lay_out(
    experiment: Experiment, directory: Path, prepare: Callable, run: Callable[[list[Cell]], None], assume: bool = False
) -> Layout:
    """Goes through the stages of a study.

    Args:
      prepare: a resolved config -> its corpus and tokens.
      run: brings cells to their end, or does nothing, where only what is on disk is wanted.
      assume: where settings are not chosen yet, take the first one, to say how many runs there will be.

    Raises:
      UserError: an arm failed under every setting, or its seconds could not be measured.
    """
    study = experiment.study
    timed = speed_cells(experiment, directory)
    run(timed)
    check_none_failed(timed)
    seconds = {}
    for cell in timed:
        measured = step_seconds(cell.folder) if progress_of(cell).status == 'finished' else None
        seconds |= {cell.arm: measured} if measured else {}
    plan = make_plan(experiment, prepare, seconds)
    if len(plan.steps) < len(study.arms) * max(1, len(study.matches)):
        return Layout(timed, plan, {}, complete=False)
    tried = tune_cells(experiment, directory, plan) if study.tune else []
    run(tried)
    chosen = choose(experiment, tried)
    if study.tune and len(chosen) < len(study.arms):
        if not assume:
            return Layout([*timed, *tried], plan, chosen, complete=False)
        chosen = {arm.name: chosen.get(arm.name, study.settings(arm.name)[0]) for arm in study.arms}
    cells = run_cells(experiment, directory, plan, chosen)
    run(cells)
    if study.suites:
        run([suites_cell(cell) for cell in cells if progress_of(cell).status == 'finished'])
    return Layout([*timed, *tried, *cells], plan, chosen, complete=True)


def choose(experiment: Experiment, tried: list[Cell]) -> dict[str, Arm]:
    """Arm -> the setting with the best mean of the first deciding figure; arms with unfinished runs are missing.

    A setting with a failed run is not chosen: a learning rate that diverges is no candidate.

    Raises:
      UserError: an arm of which every setting failed, or gave no such figure.
    """
    study, chosen = experiment.study, {}
    figure = study.decide[0]
    sign = -1 if figure.endswith(HIGHER) else 1
    for arm in study.arms:
        cells = [cell for cell in tried if cell.arm == arm.name]
        if not cells or any(progress_of(cell).status in ('waiting', 'begun') for cell in cells):
            continue
        means = {}
        for setting in study.settings(arm.name):
            values = [read_result(cell).value(figure) for cell in cells if cell.setting == setting.name]
            if values and None not in values:
                means[setting.name] = sign * sum(values) / len(values)
        if not means:
            errors = dict.fromkeys(progress_of(cell).error for cell in cells)
            raise UserError(
                f'arm {arm.name!r}: no setting can be chosen, as none gave {figure}: {"; ".join(filter(None, errors))}'
            )
        best = min(means, key=means.get)
        chosen[arm.name] = next(setting for setting in study.settings(arm.name) if setting.name == best)
    return chosen


def check_none_failed(cells: list[Cell]) -> None:
    """Raises UserError where a run that others depend on has failed."""
    for cell in cells:
        progress = progress_of(cell)
        if progress.status == 'failed':
            raise UserError(f'{cell.name} failed: {progress.error}; mend it and use --retry_failed')
