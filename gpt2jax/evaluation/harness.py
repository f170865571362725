"""EleutherAI's lm-eval on a trained run: its tasks, its metrics, and each item's scores beside them."""

import json
import logging
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from gpt2jax.errors import UserError
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument

TIE = 1e-5  # nats: what is less apart differs by rounding alone
PERPLEXITIES = ('perplexity', 'word_perplexity', 'byte_perplexity', 'bits_per_byte')
RIGHT = {'acc': 'accuracy', 'acc_norm': 'norm_accuracy', 'exact_match': 'exact_match_accuracy'}
PSEUDO = 'pseudo-log-likelihoods, not likelihoods: each token is hidden with the later ones of its word'


def harness(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Runs tasks of lm-eval.

    Args:
      argument: 'TASK,TASK,...': names that lm-eval knows, or FOLDER/TASK for one of the YAML files of a folder.
        'limit=N' runs the first N items of each, 'fewshot=N' shows N solved ones before each.

    Returns:
      For each task and metric a figure harness_TASK_METRIC, and harness_TASK_ties where an answer is chosen.

    Raises:
      UserError: lm-eval is missing, a task is unknown or its data cannot be had, or the model cannot do what it asks.
    """
    try:
        import lm_eval

        from gpt2jax.evaluation.harness_model import HarnessModel
    except ImportError as error:
        raise UserError(f'--suite=harness needs lm-eval: pip install -r requirements-harness.txt ({error})') from None
    names, options = split_argument('harness', argument, {'limit': 0, 'fewshot': 0})
    model = HarnessModel(subject, track)
    logging.getLogger('lm_eval').setLevel(logging.ERROR)
    found = lm_eval.simple_evaluate(
        model,
        tasks=load_tasks(names),
        limit=options['limit'] or None,
        num_fewshot=options['fewshot'] or None,
        bootstrap_iters=0,
    )
    pseudo = model.scorer.mode != 'causal'
    figures, items = figures_of(found, pseudo), items_of(found, model.scorer.mode)
    about = {
        'mode': model.scorer.mode,
        'drawn': model.method,
        'lm_eval': version('lm-eval'),
        'limit': options['limit'],
        'tasks': {
            name: {'version': found['versions'].get(name), 'fewshot': found['n-shot'].get(name)}
            | {'items': found['n-samples'][name]['effective']}
            for name in found['n-samples']
        },
    }
    return SuiteResult(figures, items, [*table_of(found), *notes(figures, pseudo, model.method, found)], about)


def load_tasks(names: str) -> list:
    """lm-eval's tasks and groups of tasks by their names.

    Raises:
      UserError: one is unknown, or its data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    paths = [Path(name.strip()).expanduser() for name in names.split(',') if name.strip()]
    if not paths:
        raise UserError('--suite=harness: which tasks? --suite=harness:TASK or --suite=harness:FOLDER/TASK')
    folders = list(dict.fromkeys(str(path.parent) for path in paths if path.parent != Path()))
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f'--suite=harness: {folder} is no folder; a task is TASK or FOLDER/TASK')
    manager = TaskManager(include_path=folders or None, include_defaults=any(path.parent == Path() for path in paths))
    for path in paths:
        if path.name not in manager.task_index:
            where = f'in {path.parent}' if path.parent != Path() else 'in lm-eval; one of a folder is FOLDER/TASK'
            raise UserError(f'--suite=harness: there is no task {path.name} {where}')
    try:
        loaded = manager.load([path.name for path in paths])
    except Exception as error:  # what a task does to get its data is its own affair
        raise UserError(
            f'--suite=harness: the data of {names} cannot be had ({type(error).__name__}: {str(error)[:300]}); many '
            'tasks fetch theirs from the Hugging Face Hub'
        ) from error
    groups = loaded['groups'].values()
    inside = {one.task_name for group in groups for one in group.get_all_tasks()}
    inside |= {one.name for group in groups for one in group.get_all_groups()}
    return [one for name, one in (loaded['groups'] | loaded['tasks']).items() if name not in inside]


def figures_of(found: dict, pseudo: bool) -> dict[str, float]:
    """lm-eval's metrics as figures, and the share of items in which two answers are equally likely.

    lm-eval counts the first answer then, which in a task of pairs may always be the right one.

    Args:
      found: what lm-eval returns.
      pseudo: whether the model is masked, whose perplexities are none.
    """
    figures = {}
    for task, metrics in found['results'].items():
        filters = {key.partition(',')[2] for key in metrics if ',' in key}
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(',')
            if (
                not comma
                or metric.endswith('_stderr')
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                continue
            name = f'pseudo_{metric}' if pseudo and metric in PERPLEXITIES else RIGHT.get(metric, metric)
            middle = f'{slug(filtered)}_' if len(filters) > 1 else ''
            figures[f'harness_{slug(task)}_{middle}{slug(name)}'] = float(value)
    for task, samples in found['samples'].items():
        gaps = [gap for sample in samples if (gap := gap_of(sample)) is not None]
        if gaps:
            figures[f'harness_{slug(task)}_ties'] = sum(gap < TIE for gap in gaps) / len(gaps)
    return figures


def gap_of(sample: dict) -> float | None:
    """By how much the likeliest answer of an item is ahead of the next one, in nats; None where none is chosen."""
    first = [response[0] for response in sample['resps']]
    if len(first) < 2 or not all(isinstance(one, tuple | list) and len(one) == 2 for one in first):
        return None
    best, second = sorted((float(one[0]) for one in first), reverse=True)[:2]
    return best - second


def items_of(found: dict, mode: str) -> list[dict]:
    """One item for each of a task: what was asked, what the model answered, and what lm-eval made of it."""
    items = []
    for task, samples in found['samples'].items():
        for sample in samples:
            item = {'task': task, 'item': sample['doc_id'], 'filter': sample['filter'], 'mode': mode}
            item |= {'target': sample['target'], 'asked': sample['arguments'], 'answered': sample['resps']}
            item |= {metric: sample[metric] for metric in sample['metrics']}
            items.append(plain(item))
    return items


def plain(value):
    """JSON of whatever a task has in its items."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda text: None)


def table_of(found: dict) -> list[str]:
    """lm-eval's own table."""
    from lm_eval.utils import make_table

    tables = [make_table(found)] + ([make_table(found, 'groups')] if found.get('groups') else [])
    return '\n'.join(tables).rstrip().splitlines()


def notes(figures: dict[str, float], pseudo: bool, method: str, found: dict) -> list[str]:
    """What the table does not say."""
    lines = [PSEUDO] if pseudo else []
    ties = {name: value for name, value in figures.items() if name.endswith('_ties') and value}
    lines += [f'{name}: {value:.2%} of the items; lm-eval takes the first answer' for name, value in ties.items()]
    drawn = any(isinstance(sample['resps'][0][0], str) for samples in found['samples'].values() for sample in samples)
    if drawn and method != 'causal':
        lines.append(f'texts are drawn by the method {method!r} of `launch.py sample`')
    return lines


def slug(name: str) -> str:
    """A name as part of a figure's."""
    return ''.join(c if c.isalnum() else '_' for c in name)
