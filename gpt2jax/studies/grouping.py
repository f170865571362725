"""Cells that are trained as one program (`launch.py train_together`): of one config, but for seed and learning rate.

A group that was begun goes on as the same group. What has failed once, or was begun alone, or with others that are no
longer there, is run alone.
"""

import json
import sys

from gpt2jax.errors import UserError
from gpt2jax.files import read_json
from gpt2jax.studies.cells import Cell, progress_of
from gpt2jax.studies.study import ROOT, base_path
from gpt2jax.training.group import OWN_KEYS, common_part, why_alone

Group = tuple[Cell, ...]


def group_cells(cells: list[Cell], most: int) -> list[Group]:
    """What is not at its end, in groups of at most `most` cells, in the order of their first ones."""
    alike: dict[tuple, list[Cell]] = {}
    for place, cell in enumerate(cells):
        if progress_of(cell).status in ('waiting', 'begun'):
            key = _key(cell) if most > 1 else None
            alike.setdefault(key or (place, '[0]'), []).append(cell)
    groups = []
    for key, found in alike.items():
        begun = key[-1]
        size = most if begun is None else len(found) if len(found) == len(json.loads(begun)) else 1
        groups += [tuple(found[first : first + size]) for first in range(0, len(found), size)]
    return sorted(groups, key=lambda group: cells.index(group[0]))


def _key(cell: Cell) -> tuple[str, str | None] | None:
    """What the cells of a group have in common, and the group that they were begun in; None of one that runs alone."""
    begun = companions(cell)
    if cell.role not in ('run', 'tune') or progress_of(cell).attempts or begun == [] or why_alone(cell.config):
        return None
    return json.dumps(common_part(cell.config)), None if begun is None else json.dumps(begun)


def companions(cell: Cell) -> list | None:
    """The runs that this one was begun with, as run.json has them; [] where it was begun alone, None where not yet."""
    path = cell.folder / 'run.json'
    try:
        record = read_json(path) if path.exists() else None
    except UserError:
        return []
    found = record.get('together', []) if isinstance(record, dict) else None
    return found if isinstance(found, list) or found is None else []


def command_of(group: Group) -> list[str]:
    """The process that trains the cells of a group."""
    if len(group) == 1:
        return group[0].command()
    path, colon, argument = group[0].base.partition(':')
    flags = [f'--config.{key}={value}' for key, value in group[0].changes.items() if key not in OWN_KEYS]
    return [
        *(sys.executable, str(ROOT / 'launch.py'), 'train_together', f'--config={base_path(path)}{colon}{argument}'),
        *flags,
        '--seeds=' + ','.join(str(cell.config.seed) for cell in group),
        '--learning_rates=' + ','.join(repr(cell.config.optimizer.learning_rate) for cell in group),
        *(f'--workdir={cell.folder}' for cell in group),
    ]


def error_of(cell: Cell) -> str:
    """What run.json says of a run that failed in its group; '' where it says nothing."""
    try:
        error = read_json(cell.folder / 'run.json').get('error', '')
    except (UserError, AttributeError):
        return ''
    return error if isinstance(error, str) else ''
