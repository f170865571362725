"""Several runs as one program: their configs differ in the seed and the learning rate alone.

A small model does not fill a large chip, so that a step of eight of them takes less than eight steps. The state of the
group is that of its runs, stacked; each device holds its own runs, and no gradient is ever exchanged. The step of one
run is the one that it would have alone (gpt2jax.training.step): it knows nothing of the others.

Axes: S runs, B batch, P predictions.
"""

import dataclasses
import functools
import os
import types
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import FrozenConfigDict

from gpt2jax.config import flatten, overlay
from gpt2jax.data.rows import batch_shapes
from gpt2jax.errors import UserError
from gpt2jax.evaluation.measures import Measure, make_measures
from gpt2jax.optimizers import check_groups, make_optimizer, make_schedule
from gpt2jax.sharding import AXES, start_devices
from gpt2jax.training.setup import Setup
from gpt2jax.training.state import State, make_init
from gpt2jax.training.step import make_train_step

OWN_KEYS = ('seed', 'optimizer.learning_rate')  # of each run
RUNS = PartitionSpec('data')  # how whatever has S as its first axis is cut


@dataclasses.dataclass(frozen=True)
class GroupSetup(Setup):
    """The parts of a group, in place of those of one run: every state, batch and metric has S as its first axis.

    Attributes:
      config: of the first run; the others differ in OWN_KEYS.
      mesh: whose `data` holds the runs.
      runs: each as if it were alone, on the first device.
      at_once: whether the runs of a device are one batch of products (vmap), or take turns in one program.
    """

    runs: tuple[Setup, ...] = ()
    at_once: bool = False

    @classmethod
    def from_configs(cls, configs: list) -> 'GroupSetup':
        """Raises UserError where the configs cannot be trained as one program, or a group has no parameter.

        On CPU the runs of a device take turns: its products of stacked matrices are slower than one after the other
        (docs/studies.md).
        """
        check_together(configs)
        devices = jax.devices()[: devices_for(len(configs), jax.device_count())]
        runs = tuple(Setup(config, _mesh(devices[:1])) for config in configs)
        if configs[0].optimizer.groups:
            check_groups(configs[0].optimizer.groups, runs[0].abstract.params)
        return cls(configs[0], _mesh(devices), runs=runs, at_once=devices[0].platform != 'cpu')

    @functools.cached_property
    def sharding(self) -> NamedSharding:
        """Of whatever has S as its first axis."""
        return NamedSharding(self.mesh, RUNS)

    @functools.cached_property
    def abstract(self) -> State:
        """Shapes, dtypes and shardings of the stacked state."""
        return jax.tree.map(lambda leaf: self._stacked(leaf.shape, leaf.dtype), self.runs[0].abstract)

    def initial_state(self) -> State:
        """The states of step 0, on their devices."""
        seeds_S = np.array([run.config.seed for run in self.runs], np.uint32)
        rows = self.config.training.batch_size
        init = self._over_runs(lambda seed: make_init(self.model, self._optimizer, seed, rows)())
        return jax.jit(init)((seeds_S,))

    def stack(self, states: list[State]) -> State:
        """The states of all runs, in order -> that of the group."""
        return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves), self.sharding), *jax.device_get(states))

    def train_step(self, kind: str | None = None):
        """(state, batch) -> (state, metrics), jitted; the state is donated, and every metric is [S]."""
        config, objective = self.config, self.objective(kind)
        rates_S = np.array([run.config.optimizer.learning_rate for run in self.runs], np.float32)

        def one_step(rate, state, batch):
            own = with_learning_rate(config, rate)
            steps, accumulation = config.training.steps, config.training.accumulation
            schedule = make_schedule(own.optimizer, steps)
            parts = self.model, objective, make_optimizer(own), schedule
            return make_train_step(*parts, config.loss, steps, accumulation)(state, batch)

        step = self._over_runs(one_step)
        return jax.jit(lambda state, batch: step((rates_S, state, batch)), donate_argnums=0)

    def evaluations(self, lossless: bool) -> list[tuple[Measure, Callable]]:
        """As of one run, but that the parameters and what is measured are stacked: [S, B, P]."""

        def make(measure: Measure):
            step = self.runs[0]._evaluation_step(measure)
            evaluate = self._over_runs(lambda params, carry, batch: step(params, batch, carry))
            return measure, jax.jit(lambda params, batch, carry: evaluate((params, carry), batch))

        return [make(measure) for measure in make_measures(self.config, lossless)]

    def memory(self, measure: Measure):
        """As of one run, stacked."""
        one = self.runs[0].memory(measure)
        return jax.tree.map(lambda a: jax.device_put(np.stack([a] * len(self.runs)), self.sharding), one)

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The batches of all runs, stacked."""
        shapes = batch_shapes(batch_size, self.config.data.length)
        return {name: self._stacked(*shape) for name, shape in shapes.items()}

    def step_flops(self, convention: str = 'full map', kind: str | None = None) -> float:
        """FLOPs of the matrix products of one step of all runs."""
        return len(self.runs) * super().step_flops(convention, kind)

    def _stacked(self, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(self.runs), *shape), dtype, sharding=self.sharding)

    def _over_runs(self, function: Callable) -> Callable:
        """(stacked arguments, ...) -> stacked results of `function(*arguments of one run, ...)`.

        What follows the stacked arguments is the same for all runs.
        """

        def local(stacked, *shared):
            each = functools.partial(_call, function, shared)
            return jax.vmap(each)(stacked) if self.at_once else jax.lax.map(each, stacked)

        def spread(stacked, *shared):
            specs = {'in_specs': (RUNS, *(PartitionSpec() for _ in shared)), 'out_specs': RUNS}
            return jax.shard_map(local, mesh=self.mesh, **specs, check_vma=False)(stacked, *shared)

        return spread


def _call(function: Callable, shared: tuple, own: tuple):
    return function(*own, *shared)


def _mesh(devices) -> Mesh:
    """All devices along `data`."""
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((len(devices), 1, 1, 1), AXES, devices=devices, axis_types=types)


def devices_for(runs: int, available: int) -> int:
    """How many devices a group uses: each holds as many runs as the others."""
    return max(count for count in range(1, available + 1) if runs % count == 0)


def start_group_devices(configs: list) -> None:
    """`start_devices` for a group: on CPU a device a core, as far as the runs divide."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    count = configs[0].sharding.cpu_devices or devices_for(len(configs), cores)
    start_devices(FrozenConfigDict(overlay(configs[0], {'sharding.cpu_devices': count})))


def with_learning_rate(config, rate):
    """What `make_optimizer` reads of a config, with a learning rate that may be an array."""
    optimizer = types.SimpleNamespace(**config.optimizer.to_dict() | {'learning_rate': rate})
    return types.SimpleNamespace(optimizer=optimizer, training=config.training, model=config.model)


def common_part(config) -> dict:
    """What the runs of a group have in common: all of a resolved config but OWN_KEYS."""
    return {key: value for key, value in flatten(config).items() if key not in OWN_KEYS}


def own_values(config) -> dict:
    """What is a run's own in a group, as run.json says it."""
    flat = flatten(config)
    return {key: flat[key] for key in OWN_KEYS}


def why_alone(config) -> str:
    """Why a run of this config is not trained in a group; '' where it may be."""
    for axis in AXES:
        if config.sharding[axis] not in ((-1, 1) if axis == 'data' else (1,)):
            return f'config.sharding.{axis} = {config.sharding[axis]}: each run of a group is on one device'
    if config.training.init_from:
        return 'config.training.init_from: runs that start from others are trained alone'
    return ''


def check_together(configs: list) -> None:
    """Raises UserError where these resolved configs cannot be trained as one program."""
    if reason := why_alone(configs[0]):
        raise UserError(f'{reason}; use train for each')
    for config in configs[1:]:
        first, other = common_part(configs[0]), common_part(config)
        if different := [key for key in first if first[key] != other[key]]:
            raise UserError(
                f'runs that are trained together differ in {" and ".join(OWN_KEYS)} alone, not in '
                f'config.{different[0]}: {first[different[0]]!r} and {other[different[0]]!r}'
            )
