"""Work ahead: the next batches are made in a background thread while the device computes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


def prefetch(function: Callable[[int], Any], start: int, stop: int, depth: int = 2) -> Iterator[tuple[int, Any]]:
    """Yields (step, function(step)) for start <= step < stop, in order, up to `depth` steps ahead.

    An exception of `function` is raised here, in its step's turn. Closing the iterator (or leaving it to the
    garbage collector) ends the thread after the call it is in.

    Args:
      function: called once a step in one background thread.
      start, stop: the range of steps.
      depth: how many results may wait, at least 1.
    """
    if depth < 1:
        raise ValueError(f'depth must be at least 1, not {depth}')
    results: queue.Queue = queue.Queue(depth)
    closed = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(function, start, stop, results, closed), name='prefetch', daemon=True
    )
    thread.start()
    try:
        for step in range(start, stop):
            value, error = results.get()
            if error is not None:
                raise error
            yield step, value
    finally:
        closed.set()
        while thread.is_alive():
            _drain(results)
            thread.join(0.01)


def _produce(function: Callable, start: int, stop: int, results: queue.Queue, closed: threading.Event) -> None:
    for step in range(start, stop):
        if closed.is_set():
            return
        try:
            result = function(step), None
        except BaseException as error:  # handed to the consumer, who raises it
            results.put((None, error))
            return
        results.put(result)


def _drain(results: queue.Queue) -> None:
    while not results.empty():
        results.get_nowait()
