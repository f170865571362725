"""From an experiment to its cells: what is tuned first, what is timed, what is run with how many steps."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2jax.data import Prepared
from gpt2jax.studies.cells import Cell, make_cell
from gpt2jax.studies.combinators import Arm
from gpt2jax.studies.costs import step_cost
from gpt2jax.studies.matching import StepCost, matched_steps, with_steps
from gpt2jax.studies.study import Experiment
from gpt2jax.validation import resolve

SPEED_STEPS = 60  # of a run that only measures seconds
OWN = 'own'  # stands for the measure where each arm has a budget of its own


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps each arm gets.

    Attributes:
      costs: arm -> what one of its steps costs.
      steps: (arm, measure) -> its steps when that is matched; a measure whose cost is not known yet is missing. Of arms
        with budgets the measure is OWN.
    """

    costs: dict[str, StepCost]
    steps: dict[tuple[str, str], int]


def make_plan(experiment: Experiment, prepare: Callable[[Any], Prepared], seconds: dict[str, float]) -> Plan:
    """Counts what steps cost and solves for the steps.

    Args:
      prepare: a resolved config -> its corpus and tokens.
      seconds: arm -> measured seconds of a step; arms that were not measured are missing.
    """
    study = experiment.study
    configs = {arm.name: resolve(experiment.config(arm.changes)) for arm in study.arms}
    costs = {name: step_cost(config, prepare(config), seconds.get(name)) for name, config in configs.items()}
    base = study.base_arm.name
    base_steps = experiment.steps or configs[base].training.steps
    if study.is_scaling:
        return Plan(costs, {(name, OWN): count for name, count in _own_steps(experiment, costs).items()})
    steps = {}
    for measure in study.matches:
        if any(cost.of(measure) is None for cost in costs.values()):
            continue
        for name, cost in costs.items():
            steps[name, measure] = matched_steps(measure, costs[base], base_steps, cost)
    return Plan(costs, steps)


def _own_steps(experiment: Experiment, costs: dict[str, StepCost]) -> dict[str, int]:
    """Arm -> the steps that its budget pays for; in a quick try all are shorter by the same share."""
    study = experiment.study
    exact = {arm.name: arm.budget[1] / costs[arm.name].of(arm.budget[0]) for arm in study.arms}
    share = experiment.steps / exact[study.base_arm.name] if experiment.steps else 1.0
    return {name: max(1, round(share * count)) for name, count in exact.items()}


def speed_cells(experiment: Experiment, directory: Path) -> list[Cell]:
    """A short run of each arm, where seconds are matched."""
    if 'seconds' not in experiment.study.matches:
        return []
    short = {'training.log_every': 10, 'evaluation.num_rows': 1, 'sampling.max_new_tokens': 1}
    cells = []
    for arm in experiment.study.arms:
        steps = with_steps(experiment.config(arm.changes), SPEED_STEPS) | {'evaluation.every': 0} | short
        cells.append(make_cell(experiment, directory, arm.name, 0, [arm.changes, steps], 'speed'))
    return cells


def tune_cells(experiment: Experiment, directory: Path, plan: Plan) -> list[Cell]:
    """Every setting of every arm, as long as the main runs."""
    study, cells = experiment.study, []
    for arm in study.arms:
        for tried in study.settings(arm.name):
            for seed in study.tune_seeds:
                overlays = _overlays(experiment, plan, arm, tried, (study.matches or (OWN,))[0])
                cells.append(make_cell(experiment, directory, arm.name, seed, overlays, 'tune', setting=tried.name))
    return cells


def run_cells(experiment: Experiment, directory: Path, plan: Plan, chosen: dict[str, Arm]) -> list[Cell]:
    """The cells that answer the question, seed by seed, so that a study that is stopped early has all arms.

    Runs that are the same under several measures are one.

    Args:
      chosen: arm -> the setting it keeps, where there was tuning.
    """
    cells: dict[Path, Cell] = {}
    for seed in experiment.study.seeds:
        for arm in experiment.study.arms:
            for measure in experiment.study.matches or (OWN,):
                setting = chosen.get(arm.name, Arm('', {}))
                overlays = _overlays(experiment, plan, arm, setting, measure)
                about = ('run', (measure,) if measure != OWN else (), setting.name, experiment.study.suites)
                cell = make_cell(experiment, directory, arm.name, seed, overlays, *about)
                if cell.folder in cells:
                    measures = (*cells[cell.folder].matches, measure)
                    cell = dataclasses.replace(cell, matches=measures)
                cells[cell.folder] = cell
    return list(cells.values())


def _overlays(experiment: Experiment, plan: Plan, arm: Arm, setting: Arm, measure: str) -> list[dict]:
    overlays = [arm.changes, setting.changes]
    return [*overlays, with_steps(experiment.config(*overlays), plan.steps[arm.name, measure])]
