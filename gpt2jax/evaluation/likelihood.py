"""How well a model predicts text it has not seen."""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from gpt2jax.evaluation.measures import Measure, Sums


def evaluate(
    evaluations: list[tuple[Measure, Callable]],
    params,
    batches: Iterable[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    byte_lengths: np.ndarray,
) -> dict[str, float]:
    """Sums what is measured of every predicted token of `batches`, each once, in double precision.

    Args:
      evaluations: what is measured, and how: (params, batch) -> {'nats', 'weights', 'targets'} of the tokens that may
        be predicted, and 'hits' where accuracy is measured (gpt2jax.training.step.make_evaluation_step).
      batches: of gpt2jax.data.rows.evaluation_batches.
      place: puts a batch onto the devices.
      byte_lengths: bytes of text that each id of the vocabulary stands for.

    Returns:
      The figures of all measures.
    """
    totals, waiting = [Sums() for _ in evaluations], None
    for batch in batches:
        placed = place(batch)
        dispatched = [step(params, placed) for _, step in evaluations]
        if waiting is not None:  # read one batch late, so that the device is never idle
            add(totals, waiting, byte_lengths)
        waiting = dispatched
    if waiting is not None:
        add(totals, waiting, byte_lengths)
    figures = {}
    for (measure, _), total in zip(evaluations, totals, strict=True):
        figures |= measure.figures(total)
    return figures


def add(totals: list[Sums], results: list[dict[str, jax.Array]], byte_lengths: np.ndarray) -> None:
    """Adds one batch's tokens to the sums; those without a weight do not count."""
    for total, result in zip(totals, results, strict=True):
        arrays = {name: np.asarray(array) for name, array in result.items()}
        counted = arrays['weights'] > 0
        total.nats += float(np.sum(arrays['nats'][counted], dtype=np.float64))
        total.hits += int(np.sum(arrays['hits'][counted])) if 'hits' in arrays else 0
        total.predicted += int(np.sum(counted))
        total.bytes += int(np.sum(byte_lengths[arrays['targets'][counted]], dtype=np.int64))
