"""Runs a step on the devices of this machine and times it, to set beside what was predicted. Runs in the worker."""

import time

import jax
import numpy as np

from gpt2jax.data.rows import batch_shapes
from gpt2jax.errors import UserError
from gpt2jax.planning.topologies import Topology
from gpt2jax.sharding import make_mesh
from gpt2jax.training.setup import Setup

LEAST_RUNS, MOST_RUNS, MOST_SECONDS = 3, 20, 5.0


def measure(config, topology: Topology) -> dict:
    """The median time of the training step, from random tokens.

    Returns:
      seconds, runs, spread (the slowest over the fastest).

    Raises:
      UserError: this machine does not have these devices.
    """
    devices = jax.devices()
    platform = {'cuda': 'gpu'}.get(topology.chip.platform, topology.chip.platform)
    if devices[0].platform != platform or len(devices) != topology.device_count:
        raise UserError(
            f'--measure: this machine has {len(devices)} device(s) of {devices[0].device_kind}, and '
            f'--topology={topology.name} names {topology.device_count} of {topology.chip.kind}'
        )
    setup = Setup(config, make_mesh(config, devices))
    step, state = setup.train_step(setup.kind_at(0)), setup.initial_state()
    batch = random_batch(setup)
    found = []
    began = time.perf_counter()
    while len(found) < LEAST_RUNS + 1 or (time.perf_counter() - began < MOST_SECONDS and len(found) <= MOST_RUNS):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        found.append(time.perf_counter() - started)
        if len(found) == 1:
            began = time.perf_counter()  # the first one compiled
    timed = found[1:]
    return {'seconds': float(np.median(timed)), 'runs': len(timed), 'spread': max(timed) / min(timed)}


def random_batch(setup: Setup) -> dict:
    """A batch of one document of random tokens a row, on the devices."""
    config, random = setup.config, np.random.default_rng(0)
    shapes = batch_shapes(config.training.batch_size, config.data.length)
    arrays = {name: np.ones(shape, dtype) for name, (shape, dtype) in shapes.items()}
    arrays['tokens'] = random.integers(0, 256, arrays['tokens'].shape).astype(arrays['tokens'].dtype)
    arrays['row'] = np.arange(len(arrays['row']), dtype=arrays['row'].dtype)
    places = setup.abstract_batch(config.training.batch_size)
    return {name: jax.device_put(array, places[name].sharding) for name, array in arrays.items()}
