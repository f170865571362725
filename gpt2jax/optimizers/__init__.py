"""Optimizers: from the config to one optax transformation.

schedules.py: step -> learning rate. kinds.py: gradient -> direction. paths.py: what depends on a parameter's path.
averages.py: parameters that are evaluated but not trained.
"""

import optax

from gpt2jax.optimizers.averages import averaging_state, evaluation_params, moving_average, schedule_free_average
from gpt2jax.optimizers.kinds import OPTIMIZERS
from gpt2jax.optimizers.paths import (
    check_groups,
    decayed,
    group_factor,
    parse_groups,
    path_name,
    scale_by_path,
    width_factor,
)
from gpt2jax.optimizers.schedules import SCHEDULES, make_schedule

__all__ = [
    'OPTIMIZERS',
    'SCHEDULES',
    'averaging_state',
    'check_groups',
    'decayed',
    'evaluation_params',
    'make_optimizer',
    'make_schedule',
    'parse_groups',
    'path_name',
]


def make_optimizer(config) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimizer that `config.optimizer` names, on its schedule.

    A step of a parameter is rate * group * (width * direction + weight_decay * parameter). The factor of its group
    scales all of its step, as the learning rate does. The factor of the width (muP) leaves the decay alone: a decay
    has no sum over the fan-in, and each step shrinks a matrix by the same share at every width (as in the mup package).

    Args:
      config: resolved; `optimizer`, `training.steps` and `model` are read.
    """
    optimizer, model = config.optimizer, config.model
    schedule = make_schedule(optimizer, config.training.steps)
    parts = [OPTIMIZERS[optimizer.kind](optimizer)]
    if model.parametrization.kind != 'standard':
        parts.append(scale_by_path(width_factor(optimizer.kind, model)))
    parts.append(optax.add_decayed_weights(optimizer.weight_decay, mask=decayed))
    if optimizer.groups:
        parts.append(scale_by_path(group_factor(optimizer.groups)))
    update = optax.chain(*parts, optax.scale_by_learning_rate(schedule))
    if optimizer.kind == 'schedule_free':
        update = schedule_free_average(update, schedule, optimizer.b1)
    if optimizer.average:
        update = optax.chain(update, moving_average(optimizer.average))
    if not optimizer.clip_norm:
        return update
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), update)
