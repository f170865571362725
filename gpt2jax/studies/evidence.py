"""All that a report of several runs is made from, whether they are the cells of a study or just some folders."""

import dataclasses
import os
from pathlib import Path

from gpt2jax.config import flatten
from gpt2jax.errors import UserError
from gpt2jax.evaluation.measures import SCORES
from gpt2jax.studies import goals
from gpt2jax.studies.cells import Cell
from gpt2jax.studies.combinators import Arm
from gpt2jax.studies.costs import ModelSize, model_size
from gpt2jax.studies.goals import goal_figures
from gpt2jax.studies.results import Result, read_result, read_run
from gpt2jax.studies.study import Experiment
from gpt2jax.training.starting import resolve_saved
from gpt2jax.training.workdir import Workdir, differences

NAMES = SCORES | {
    'masked_accuracy': 'accuracy at hidden tokens',
    'prefix_accuracy': 'accuracy after the prefix',
    'span_accuracy': 'accuracy in the spans',
    'answer_accuracy': 'accuracy in the targets',
    'unit_error_rate': 'error rate of units (of phonemes: PER)',
    'word_error_rate': 'share of wrong answers (of words: WER)',
    'bleu': 'BLEU',
    'chrf': 'chrF',
    **goals.LABELS,
}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was asked, and what the runs say.

    Attributes:
      arms: in the order of the tables -> what each changes, in words.
      baseline: the arm that differences are taken to.
      matches: measures at whose equal cost runs were made, the main one first; empty where nothing was matched.
      results: of all runs, tuning included.
      notices: what a reader must know before anything else.
      about: (what, value) for the end of the page: files, commands.
      sizes: arm -> its model's size, in a study of scaling; None: in others.
      budgets: the measure of the budgets there; '' in others.
      goal: (figure, value) that runs are asked the cost of; None: there is none.
    """

    name: str
    question: str
    reading: str
    arms: dict[str, str]
    baseline: str
    seeds: tuple[int, ...]
    matches: tuple[str, ...]
    decide: tuple[str, ...]
    show: tuple[str, ...]
    test: str
    results: list[Result]
    notices: tuple[str, ...]
    about: tuple[tuple[str, str], ...]
    sizes: dict[str, ModelSize] | None = None
    budgets: str = ''
    goal: tuple[str, float] | None = None

    @property
    def main(self) -> list[Result]:
        """The runs that answer the question: those of the first matching."""
        runs = [result for result in self.results if result.role == 'run']
        return [run for run in runs if self.matches[0] in run.matches] if self.matches else runs


def study_evidence(experiment: Experiment, cells: list[Cell], chosen: dict[str, Arm], command: str) -> Evidence:
    """What the folders of a study hold now.

    Args:
      cells: all of them, the tuning's included.
      chosen: arm -> the setting it keeps.
      command: what runs the study.
    """
    study = experiment.study
    arms = {}
    for arm in study.arms:
        changes = arm.changes | (chosen[arm.name].changes if arm.name in chosen else {})
        arms[arm.name] = ', '.join(f'{key} = {value}' for key, value in changes.items()) or 'the base recipe'
    notices = []
    if experiment.changed:
        notices.append(
            f'Not the study as its file has it; changed on the command line: {"; ".join(experiment.changed)}.'
        )
    notices += _tuning_notices(experiment, chosen)
    results = [read_result(cell) for cell in cells]
    if study.goal:
        results = [
            dataclasses.replace(result, figures=result.figures | goal_figures(result.curve, *study.goal))
            for result in results
        ]
        notices.append(f'The goal is {study.goal[1]:g} {NAMES.get(study.goal[0], study.goal[0])}.')
    about = [
        ('experiment', experiment.path),
        ('sha256 of the file', experiment.digest),
        ('base recipe', study.base),
        ('changes for all arms', ', '.join(f'{k} = {v}' for k, v in study.changes.items()) or 'none'),
        ('command', command),
    ]
    return Evidence(
        name=experiment.name,
        question=experiment.question,
        reading=experiment.reading,
        arms=arms,
        baseline=study.base_arm.name,
        seeds=study.seeds,
        matches=study.matches,
        decide=study.decide,
        show=study.show,
        test=study.test,
        results=results,
        notices=tuple(notices),
        about=tuple(about),
        sizes={cell.arm: model_size(cell.config) for cell in cells} if study.is_scaling else None,
        budgets=study.base_arm.budget[0] if study.is_scaling else '',
        goal=study.goal or None,
    )


def _tuning_notices(experiment: Experiment, chosen: dict[str, Arm]) -> list[str]:
    """Whose best setting is at the end of what was tried: a better one may lie beyond."""
    ends = {}
    for name, setting in chosen.items():
        tried = [one.name for one in experiment.study.settings(name)]
        if len(tried) > 1 and setting.name in (tried[0], tried[-1]):
            ends[name] = setting.name
    if not ends:
        return []
    listed = '; '.join(f'{name} ({setting})' for name, setting in ends.items())
    return [f'The best setting is the first or the last one tried, so a better one may lie beyond it: {listed}.']


def runs_evidence(paths: list[str], command: str) -> Evidence:
    """Some folders of runs, side by side. Runs that differ in their seed alone are seeds of one arm.

    Raises:
      UserError: a folder without a run, the same one twice, or a damaged file.
    """
    groups: dict[str, list[tuple[Path, object]]] = {}
    configs = {}
    if len({os.path.realpath(path) for path in paths}) < max(2, len(paths)):
        raise UserError('compare takes two or more different folders: --workdir=A --workdir=B')
    for path in paths:
        workdir = Workdir(path)
        saved = workdir.saved_config()
        if saved is None:
            raise UserError(f'{path} holds no run (no config.json)')
        config = resolve_saved(saved, workdir)
        key = repr(sorted((name, value) for name, value in flatten(config).items() if name not in ('seed',)))
        groups.setdefault(key, []).append((workdir.path, config))
        configs[key] = config.to_dict()
    names = _names([[path for path, _ in group] for group in groups.values()])
    first = next(iter(configs.values()))
    arms, results = {}, []
    for name, (key, group) in zip(names, groups.items(), strict=True):
        lines = differences(first, configs[key], [section for section in first if section != 'seed'])
        arms[name] = ', '.join(lines) or ('the first one' if name == names[0] else 'the same config')
        results += [dataclasses.replace(read_run(path, config), arm=name) for path, config in group]
    scores = [score for score in SCORES if any(score in result.figures for result in results)]
    if not scores:
        raise UserError('none of these runs has been evaluated at its last step: there is nothing to compare yet')
    accuracies = tuple(name for name in NAMES if name.endswith('accuracy') and any(name in r.figures for r in results))
    return Evidence(
        name=' or '.join(names),
        question=f'How do {len(paths)} runs compare?',
        reading='These runs were not made to cost the same: read the table of costs before the figures.',
        arms=arms,
        baseline=names[0],
        seeds=tuple(sorted({result.seed for result in results})),
        matches=(),
        decide=tuple(scores),
        show=accuracies,
        test='t',
        results=results,
        notices=(),
        about=(('command', command), ('folders', ', '.join(paths))),
    )


def _names(groups: list[list[Path]]) -> list[str]:
    """A short name for each group of folders: of its first one, with its parent's where that is not enough."""
    short = [group[0].resolve().name for group in groups]
    if len(set(short)) == len(short):
        return short
    return ['/'.join(group[0].resolve().parts[-2:]) for group in groups]
