"""Prefetching: in order, ahead, and without a thread left behind."""

import threading
import time

import pytest

from gpt2jax.data import prefetch


def alive():
    return [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def test_gives_every_step_in_order():
    assert list(prefetch(lambda step: step * step, 3, 8)) == [(step, step * step) for step in range(3, 8)]
    assert list(prefetch(lambda step: step, 5, 5)) == []


def test_works_ahead_but_not_further_than_depth():
    called = []
    batches = prefetch(lambda step: called.append(step), 0, 100, depth=3)
    next(batches)
    deadline = time.monotonic() + 5
    while len(called) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert called == [0, 1, 2, 3, 4]  # one taken, three waiting, one in hand
    batches.close()


def test_an_exception_arrives_in_its_turn():
    def function(step):
        if step == 2:
            raise KeyError('no batch')
        return step

    batches = prefetch(function, 0, 10, depth=4)
    assert [next(batches)[0], next(batches)[0]] == [0, 1]
    with pytest.raises(KeyError, match='no batch'):
        next(batches)
    assert not alive()


def test_closing_early_ends_the_thread():
    batches = prefetch(lambda step: bytes(1000), 0, 1_000_000)
    next(batches)
    assert alive()
    batches.close()
    assert not alive()
