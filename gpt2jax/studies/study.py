"""What an experiment file says: the question, what is compared, over which seeds, at what equal cost."""

import dataclasses
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gpt2jax.config import check_key, flatten, full_key, overlay, recipe
from gpt2jax.errors import UserError
from gpt2jax.evaluation.measures import SCORES
from gpt2jax.evaluation.suites import check_suite
from gpt2jax.studies.combinators import Arm, Arms, check_names
from gpt2jax.studies.matching import MEASURES
from gpt2jax.validation import resolve

ROOT = Path(__file__).parents[2]  # recipes are looked for here too, so that a study runs from any folder
TESTS = ('t', 'permutation')
MEASURED = (*SCORES, 'masked_accuracy', 'prefix_accuracy', 'span_accuracy', 'answer_accuracy')  # in training
OURS = ('seed', 'training.steps')  # keys that the runner sets


@dataclasses.dataclass(frozen=True)
class Study:
    """What `get_study()` of an experiment file returns.

    Attributes:
      base: the recipe that all arms start from, as in --config: 'configs/laptop.py:length=64'.
      arms: of the combinators.
      changes: over the base, for all arms. Its training.steps is the length of the baseline's runs; the other arms get
        as many as cost the same.
      baseline: the name of the arm that the others are compared with; '': the first one.
      seeds: each arm is run with all of them, and compared seed by seed.
      match: what all arms get the same of: a name of gpt2jax.studies.matching.MEASURES, or several; then each is run,
        and the first one's runs are the main ones. () where every arm has a budget of its own (`budgets`): then nothing
        is matched, and the report fits a scaling law instead of naming a winner.
      decide: the figures of metrics.jsonl that answer the question; arms without one are left out of its answer.
      show: more figures for the tables.
      suites: what is measured of every main run after its last step, as in `evaluate --suite`: 'cloze', 'length:256'.
      goal: (a figure of the evaluations in training, a value): what a run had spent when it reached the value becomes
        figures of its own, `seconds_to_goal` and so on (gpt2jax.studies.goals).
      tune: settings that every arm tries first, with `tune_seeds`; it keeps the one with the best first figure of
        `decide`. Learning rates, mostly, from low to high. A dict gives each arm settings of its own.
      tune_seeds: others than `seeds`: a choice made on a seed flatters it.
      test: of the differences: 't' (paired, by seed), or 'permutation' (of signs; below six seeds it can find nothing).
    """

    base: str
    arms: Arms
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    baseline: str = ''
    seeds: tuple[int, ...] = (0, 1, 2)
    match: str | tuple[str, ...] = 'tokens'
    decide: tuple[str, ...] = ('bits_per_byte',)
    show: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    goal: tuple[str, float] | None = None
    tune: Arms | dict[str, Arms] = ()
    tune_seeds: tuple[int, ...] = (100,)
    test: str = 't'

    @property
    def matches(self) -> tuple[str, ...]:
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)

    def settings(self, arm: str) -> Arms:
        """What an arm of that name tries."""
        return self.tune[arm] if isinstance(self.tune, dict) else self.tune

    @property
    def is_scaling(self) -> bool:
        """Whether arms are sizes with budgets, of which a law is fitted."""
        return any(arm.budget is not None for arm in self.arms)

    @property
    def base_arm(self) -> Arm:
        """The baseline."""
        return next(arm for arm in self.arms if arm.name == (self.baseline or self.arms[0].name))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A study and the file it came from.

    Attributes:
      question: the first paragraph of the file's docstring.
      reading: the rest of it: how to read the answer.
      changed: what the command line changed, in words: such results are not those of the study that the file describes.
      digest: of the file's text.
      steps: of the baseline's runs, where the command line says; None: as the study has it.
    """

    name: str
    path: str
    study: Study
    question: str
    reading: str
    changed: tuple[str, ...]
    digest: str
    steps: int | None = None

    def config(self, *overlays: dict[str, Any]) -> ConfigDict:
        """The base with the study's changes and more over them, not yet resolved."""
        return overlay(load_base(self.study.base), merged(self.study.changes, *overlays))


def merged(*overlays: dict[str, Any]) -> dict[str, Any]:
    """One overlay of several; a later one counts."""
    return {key: value for one in overlays for key, value in one.items()}


def load_experiment(path: str, sets: list[str] | tuple[str, ...] = (), seeds: int | None = None) -> Experiment:
    """Reads an experiment file and checks all of it, every arm at once, before anything runs.

    Args:
      path: of the file; it is Python, and is run.
      sets: 'training.steps=20', ...: over the study's changes, for a quick try. Steps take the schedules with them.
      seeds: so many of the study's seeds, or of 0, 1, 2, ... where it has fewer.

    Raises:
      UserError: no such file, no get_study(), or whatever is wrong with the study, in one message.
    """
    module = _load(path, 'get_study', '--experiment')
    try:
        study = module.get_study()
    except (TypeError, NameError, AttributeError) as error:
        raise UserError(f'{path}: get_study() failed: {type(error).__name__}: {error}') from error
    if not isinstance(study, Study):
        raise UserError(f'{path}: get_study() returned {type(study).__name__}, not a gpt2jax.studies.Study')
    question, _, reading = (module.__doc__ or '').strip().partition('\n\n')
    if not question:
        raise UserError(f'{path}: the docstring is missing: its first paragraph is the question')
    changed, steps = [], None
    if sets:
        changes = dict(_parse_set(text) for text in sets)
        steps = changes.get('training.steps')
        if steps is not None and steps < 1:
            raise UserError(f'--set=training.steps={steps}: must be at least 1')
        others = {key: value for key, value in changes.items() if key != 'training.steps'}
        study = dataclasses.replace(study, changes=study.changes | others)
        changed += [f'{key} = {value!r}' for key, value in changes.items()]
    if seeds is not None:
        if seeds < 1:
            raise UserError(f'--seeds={seeds}: must be at least 1')
        more = [seed for seed in range(seeds) if seed not in study.seeds]
        study = dataclasses.replace(study, seeds=tuple([*study.seeds, *more][:seeds]))
        changed.append(f'{seeds} seed{"s" if seeds > 1 else ""} an arm')
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    question = ' '.join(question.split())
    name, reading = Path(path).stem, reading.strip()
    experiment = Experiment(name, path, study, question, reading, tuple(changed), digest, steps)
    check(experiment)
    return experiment


def check(experiment: Experiment) -> None:
    """Raises one UserError with everything that is wrong with a study."""
    study, problems = experiment.study, []
    choices = [('match', study.matches, MEASURES), ('test', (study.test,), TESTS)]
    for name, values, known in choices:
        problems += [f'{name} = {value!r}: one of {", ".join(known)}' for value in values if value not in known]
    if len(study.arms) < 2:
        problems.append('a study compares at least two arms')
    if study.is_scaling:
        problems += _scaling_problems(study)
    elif not study.matches:
        problems.append('match must not be empty but where every arm has a budget of its own')
    if not study.decide or not study.seeds:
        problems.append('decide and seeds must not be empty')
    if len(set(study.seeds)) < len(study.seeds):
        problems.append(f'seeds = {study.seeds}: one comes twice')
    if study.tune and set(study.seeds) & set(study.tune_seeds):
        problems.append('tune_seeds must be others than seeds')
    if study.baseline and study.baseline not in {arm.name for arm in study.arms}:
        problems.append(f'baseline = {study.baseline!r}: no arm has this name')
    names = {arm.name for arm in study.arms}
    if isinstance(study.tune, dict) and study.tune.keys() != names:
        problems.append(f'tune = {sorted(study.tune)}: the names must be those of the arms, {sorted(names)}')
    else:
        problems += _config_problems(experiment)
    for arms in (study.arms, *(study.tune.values() if isinstance(study.tune, dict) else [study.tune])):
        try:
            check_names(arms)
        except UserError as error:
            problems.append(str(error))
    for suite in study.suites:
        try:
            check_suite(suite)
        except UserError as error:
            problems.append(str(error).replace('--suite=', 'suites: '))
    if study.goal and study.goal[0] not in MEASURED:
        problems.append(f'goal = {study.goal!r}: the figure is one of {", ".join(MEASURED)}')
    if problems:
        raise UserError(f'{experiment.path}:\n  ' + '\n  '.join(dict.fromkeys(problems)))


def _scaling_problems(study: Study) -> list[str]:
    """What is wrong with arms that have budgets."""
    problems = []
    if study.matches:
        problems.append(f'match = {study.match!r}: arms with budgets spend what they say; set match=()')
    measures = {arm.budget[0] if arm.budget else 'none' for arm in study.arms}
    if len(measures) > 1:
        problems.append(
            f'budgets are of {", ".join(sorted(measures))}: every arm must have one, all in the same measure'
        )
    return problems


def _config_problems(experiment: Experiment) -> list[str]:
    """What is wrong with the keys and values of all arms, and of all settings that are tried."""
    study, problems = experiment.study, []
    overlays = {'changes': study.changes} | {f'arm {arm.name!r}': arm.changes for arm in study.arms}
    overlays |= {f'tune {tried.name!r}': tried.changes for arm in study.arms for tried in study.settings(arm.name)}
    for where, changes in overlays.items():
        for key in changes:
            try:
                check_key(key)
            except UserError as error:
                problems.append(f'{where}: {error}')
            if key == 'seed' or (key in OURS and where != 'changes'):
                problems.append(f'{where}: config.{key} is set by the runner, from `seeds` and `match`')
            if where.startswith('tune') and any(key in arm.changes for arm in study.arms):
                problems.append(f'{where}: config.{key} is what arms differ in')
    if problems:
        return problems
    for arm in study.arms:
        for tried in study.settings(arm.name) or (Arm('', {}),):
            try:
                resolve(experiment.config(arm.changes, tried.changes))
            except UserError as error:
                problems.append(f'arm {arm.name!r}{f" with {tried.name}" if tried.name else ""}: {error}')
    return problems


def load_base(base: str) -> ConfigDict:
    """The config of a recipe. Raises UserError where there is none."""
    path, colon, argument = base.partition(':')
    get_config = _load(base_path(path), 'get_config', 'base').get_config
    return get_config(argument) if colon else get_config()


def recipe_arm(name: str, recipe: str, base: str) -> Arms:
    """An arm that is a recipe of its own: all that it says otherwise than the base, but for what the runner sets.

    Args:
      recipe, base: as in Study.base; `base` is that of the study.
    """
    own, common = flatten(load_base(recipe)), flatten(load_base(base))
    return (Arm(name, {key: value for key, value in own.items() if value != common[key] and key not in OURS}),)


def base_path(path: str) -> str:
    """A recipe as the current folder or else the repository has it."""
    return path if Path(path).is_file() or not (ROOT / path).is_file() else str(ROOT / path)


def _parse_set(text: str) -> tuple[str, Any]:
    """'training.steps=20' -> ('training.steps', 20)."""
    name, equals, value = text.partition('=')
    if not equals:
        raise UserError(f'--set={text}: expected KEY=VALUE, as in --set=training.steps=20')
    key = full_key(name.strip(), recipe({}))
    return key, flatten(recipe({}, f'{key}={value}'))[key]


def _load(path: str, function: str, flag: str):
    """The module of a Python file that must have a function of that name."""
    if not Path(path).is_file():
        there = sorted(f'experiments/{file.name}' for file in (ROOT / 'experiments').glob('*.py'))
        raise UserError(f'{flag} {path}: there is no such file' + (f'; there are: {", ".join(there)}' if there else ''))
    spec = importlib.util.spec_from_file_location(f'gpt2jax_{Path(path).stem}', path)
    if spec is None or spec.loader is None:
        raise UserError(f'{flag} {path}: is not a Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, TypeError) as error:
        raise UserError(f'{path} cannot be loaded: {type(error).__name__}: {error}') from error
    if not callable(getattr(module, function, None)):
        raise UserError(f'{path} has no function {function}()')
    return module
