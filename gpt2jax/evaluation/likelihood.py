"""How well a model predicts text it has not seen, in nats a token and bits a byte.

Axes: B batch, L length.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import jax
import numpy as np


@dataclasses.dataclass
class Likelihood:
    """Sums over a split; they do not depend on batch size or devices, beyond the rounding of a matrix product.

    Attributes:
      nats: cross-entropy summed over all predicted tokens.
      predicted: how many tokens that is, ends of documents among them.
      bytes: of text that these tokens stand for (an end of document stands for none).
    """

    nats: float = 0.0
    predicted: int = 0
    bytes: int = 0

    def metrics(self) -> dict[str, float]:
        """The figures that are reported; bits per byte compares across tokenizers, nats per token does not."""
        nats_per_token = self.nats / max(self.predicted, 1)
        return {
            'bits_per_byte': self.nats / math.log(2) / max(self.bytes, 1),
            'nats_per_token': nats_per_token,
            'perplexity': math.exp(min(nats_per_token, 700)),
            'predicted': self.predicted,
            'bytes': self.bytes,
        }


def evaluate(
    step: Callable,
    params,
    batches: Iterable[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    byte_lengths: np.ndarray,
) -> dict[str, float]:
    """Sums the cross-entropy of every weighted token of `batches`, each once, in double precision.

    Args:
      step: (params, batch) -> (nats_BL, weights_BL, targets_BL).
      batches: of gpt2jax.data.rows.evaluation_batches.
      place: puts a batch onto the devices.
      byte_lengths: bytes of text that each id of the vocabulary stands for.

    Returns:
      `Likelihood.metrics`.
    """
    total, waiting = Likelihood(), None

    def add(arrays):
        nats_BL, weights_BL, targets_BL = (np.asarray(array) for array in arrays)
        counted = weights_BL > 0
        total.nats += float(np.sum(nats_BL[counted], dtype=np.float64))
        total.predicted += int(np.sum(counted))
        total.bytes += int(np.sum(byte_lengths[targets_BL[counted]], dtype=np.int64))

    for batch in batches:
        dispatched = step(params, place(batch))
        if waiting is not None:  # read one batch late, so that the device is never idle
            add(waiting)
        waiting = dispatched
    if waiting is not None:
        add(waiting)
    return total.metrics()
