"""What this machine's CPU does at most: a product and a copy, timed. Runs in the worker."""

import time

import jax
import jax.numpy as jnp
import numpy as np

SIZE, COPIED = 1024, 4 * 2**20  # a matrix; bytes that stay in a cache, as the arrays of a small step do
SECONDS = 0.5


def calibrate(dtype: str, devices: int) -> dict[str, float]:
    """FLOP/s and bytes/s of one of `devices` devices that share the machine.

    The best of half a second of products of two matrices in `dtype`, and of sums of an array with a number, each of
    which reads and writes it once.
    """
    left = jnp.asarray(np.random.default_rng(0).normal(size=(SIZE, SIZE)), dtype)
    numbers = jnp.ones(COPIED // 4, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
    return {
        'flops': 2 * SIZE**3 / _best(product, left) / devices,
        'bandwidth': 2 * COPIED / _best(copy, numbers) / devices,
    }


def _best(function, argument) -> float:
    function(argument).block_until_ready()
    best, end = float('inf'), time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        function(argument).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return best
