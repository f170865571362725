"""Averages of the parameters: what is evaluated, sampled and saved where it is not what is trained."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax import contrib


class MovingAverage(NamedTuple):
    """Attributes:
    count: int32, steps done.
    average: of the parameters after each step.
    """

    count: Array
    average: optax.Params


def moving_average(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters beside them; the updates stay as they are.

    After t steps a step i has the weight decay^(t-i), and these are divided by their sum: the initial parameters have
    none, and the first steps are not held back by them (Kingma & Ba 2015, section 3, says the same of Adam's means).
    The last transformation of a chain.
    """

    def init(params):
        # A copy: one array cannot be donated twice, as parameter and as average.
        return MovingAverage(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        # (1 - decay) / (1 - decay^count), also where 1 - decay is tiny.
        weight = math.expm1(math.log(decay)) / jnp.expm1(count * math.log(decay))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, weight)
        return updates, MovingAverage(count, average)

    return optax.GradientTransformation(init, update)


def schedule_free_average(update: optax.GradientTransformation, schedule: optax.Schedule, b1: float):
    """Trains at an interpolation of `update`'s iterates and their average (Defazio et al. 2024, algorithm 1).

    The average weighs a step by the square of its learning rate, so that a warmup counts for little. optax asks for
    the rate of step t + 1 there and for that of step t in the update; here both are of step t.
    """
    return contrib.schedule_free(update, lambda count: schedule(count - 1), b1=b1)


def averaging_state(opt_state) -> MovingAverage | contrib.ScheduleFreeState | None:
    """The part of an optimizer's state that holds an average, None where there is none."""
    kinds = MovingAverage, contrib.ScheduleFreeState
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    return next((node for node in nodes if isinstance(node, kinds)), None)


def evaluation_params(opt_state, params):
    """The parameters that a run is evaluated, sampled and saved by: their average, where the optimizer keeps one.

    Args:
      opt_state, params: the optimizer's state, and the parameters that are trained.
    """
    state = averaging_state(opt_state)
    if isinstance(state, MovingAverage):
        return state.average
    return params if state is None else contrib.schedule_free_eval_params(state, params)
