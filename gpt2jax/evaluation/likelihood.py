"""How well a model predicts text it has not seen."""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from gpt2jax.evaluation.measures import Sums


def evaluate(
    step: Callable,
    params,
    carry,
    batches: Iterable[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    byte_lengths: np.ndarray,
) -> Sums:
    """Sums what is measured of every token of `batches` that counts, each once, in double precision.

    Args:
      step: (params, batch, carry) -> ({'nats', 'weights', 'targets'} of the tokens that may be predicted, and 'hits'
        where accuracy is measured, carry) (gpt2jax.training.step.make_evaluation_step).
      carry: what the first batch remembers; None where no batch does.
      place: puts a batch onto the devices.
      byte_lengths: bytes of text that each id of the vocabulary stands for.
    """
    total, waiting = Sums(), None
    for batch in batches:
        result, carry = step(params, place(batch), carry)
        if waiting is not None:  # read one batch late, so that the device is never idle
            add(total, waiting, byte_lengths)
        waiting = result
    if waiting is not None:
        add(total, waiting, byte_lengths)
    return total


def add(total: Sums, result: dict[str, jax.Array], byte_lengths: np.ndarray) -> None:
    """Adds one batch's tokens to the sums; those without a weight do not count."""
    arrays = {name: np.asarray(array) for name, array in result.items()}
    counted = arrays['weights'] > 0
    total.nats += float(np.sum(arrays['nats'][counted], dtype=np.float64))
    total.hits += int(np.sum(arrays['hits'][counted])) if 'hits' in arrays else 0
    total.predicted += int(np.sum(counted))
    total.bytes += int(np.sum(byte_lengths[arrays['targets'][counted]], dtype=np.int64))
