"""Arms of a study, as small expressions: `product(param('model.norm.kind', 'layernorm', 'rmsnorm'), ...)`.

An arm is a name and an overlay: dotted keys of the config and their values. Every function here gives a tuple of arms,
so that they nest.
"""

import builtins
import dataclasses
import itertools
from typing import Any

from gpt2jax.errors import UserError

BUDGETS = {'tokens': 'tokens', 'flops': 'FLOPs', 'causal_flops': 'FLOPs (causal half)'}  # measures, and their units


@dataclasses.dataclass(frozen=True)
class Arm:
    """One thing that is compared.

    Attributes:
      name: for the report and, in plain letters, for folders.
      changes: {'model.width': 512, ...} over the base config.
      budget: (measure, amount) that its runs are to spend, in a study of scaling; None: what the study matches.
    """

    name: str
    changes: dict[str, Any]
    budget: tuple[str, float] | None = None


Arms = tuple[Arm, ...]


def arm(name: str, changes: dict[str, Any] | None = None) -> Arms:
    """One arm with a name of your own; without changes it is the base config."""
    return (Arm(name, dict(changes or {})),)


def param(key: str, *values: Any, names: tuple[str, ...] = ()) -> Arms:
    """An arm for each value of a key.

    Args:
      names: of the arms; by default the last word of the key that says something, and the value: 'norm=rmsnorm'.
    """
    section, _, leaf = key.rpartition('.')
    label = section.rpartition('.')[2] if leaf == 'kind' and section else leaf
    names = names or tuple(f'{label}={value}' for value in values)
    if len(names) != len(values):
        raise UserError(f'param({key!r}): {len(values)} values and {len(names)} names')
    return tuple(Arm(name, {key: value}) for name, value in builtins.zip(names, values, strict=True))


def budgets(measure: str, *amounts: float) -> Arms:
    """An arm for each amount that a run may spend, for `product` with sizes of a model.

    Args:
      measure: one of BUDGETS.
    """
    if measure not in BUDGETS:
        raise UserError(f'budgets({measure!r}): one of {", ".join(BUDGETS)}')
    if wrong := [amount for amount in amounts if not amount > 0]:
        raise UserError(f'budgets({measure!r}, {wrong[0]}): must be above 0')
    return tuple(Arm(f'{amount:.4g} {BUDGETS[measure]}', {}, (measure, float(amount))) for amount in amounts)


def product(*parts: Arms) -> Arms:
    """Every combination of one arm of each part. Raises UserError where two parts set the same key."""
    return tuple(_merge(combination) for combination in itertools.product(*parts))


def zip(*parts: Arms) -> Arms:
    """The first arms of all parts together, the second ones, and so on. Raises UserError for unequal lengths."""
    if len({len(part) for part in parts}) > 1:
        lengths = ', '.join(str(len(part)) for part in parts)
        raise UserError(f'zip: the parts have {lengths} arms; they must have the same number')
    return tuple(_merge(together) for together in builtins.zip(*parts, strict=True))


def chain(*parts: Arms) -> Arms:
    """The arms of one part after those of the other. Raises UserError where a name comes twice."""
    arms = tuple(itertools.chain(*parts))
    check_names(arms)
    return arms


def check_names(arms: Arms) -> None:
    """Raises UserError where two arms have the same name."""
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'two arms have the name {name!r}: give each its own')


def _merge(arms: tuple[Arm, ...]) -> Arm:
    changes: dict[str, Any] = {}
    for one in arms:
        if twice := changes.keys() & one.changes.keys():
            raise UserError(f'arm {one.name!r} sets {sorted(twice)[0]}, which another part of its product sets as well')
        changes |= one.changes
    found = [one.budget for one in arms if one.budget is not None]
    if len(found) > 1:
        raise UserError(f'arm {arms[-1].name!r} sets a budget, which another part of its product sets as well')
    return Arm(', '.join(one.name for one in arms if one.name), changes, *found)
