"""What a tensor holds, in a few numbers that can be taken of one part of a batch after the other.

Axes: B rows, L length.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of one tensor. The first four are those of its finite values.

    Attributes:
      count: how many there are.
      largest: |x|.
      mean, std: of x.
      nonfinite: how many values are not finite.
      rows: {index in the batch: places where the row is not finite, None where they are not known}; only rows that have
        such values.
    """

    count: int
    largest: float
    mean: float
    std: float
    nonfinite: int
    rows: dict[int, list[int] | None] = dataclasses.field(default_factory=dict)

    def __add__(self, other: 'Statistics') -> 'Statistics':
        """Of both parts together."""
        count = self.count + other.count
        share = other.count / max(count, 1)
        mean = (1 - share) * self.mean + share * other.mean
        squares = [part.std**2 + (part.mean - mean) ** 2 for part in (self, other)]
        return Statistics(
            count,
            max(self.largest, other.largest),
            mean,
            ((1 - share) * squares[0] + share * squares[1]) ** 0.5,
            self.nonfinite + other.nonfinite,
            self.rows | other.rows,
        )


def measure(x: Array) -> dict[str, Array]:
    """What `summary` reads, as arrays. Values are scaled by the largest, whose square may be no float32."""
    x = x.astype(jnp.float32)
    finite = jnp.isfinite(x)
    count = jnp.sum(finite)
    largest = jnp.max(jnp.abs(jnp.where(finite, x, 0)), initial=0)
    scale = jnp.where(largest > 0, largest, 1)
    scaled = jnp.where(finite, x, 0) / scale
    mean = jnp.sum(scaled) / jnp.maximum(count, 1)
    variance = jnp.sum(jnp.where(finite, jnp.square(scaled - mean), 0)) / jnp.maximum(count, 1)
    return {
        'count': count,
        'largest': largest,
        'mean': mean * scale,
        'std': jnp.sqrt(variance) * scale,
        'nonfinite': x.size - count,
    }


def measure_rows(x: Array) -> dict[str, Array]:
    """The same of an activation [B, L, ...], with the places that are not finite."""
    broken_BL = jnp.any(~jnp.isfinite(x), axis=tuple(range(2, x.ndim)))
    return measure(x) | {'broken': broken_BL}


def summary(measured: dict[str, np.ndarray], row_B: np.ndarray | None = None, places: bool = True) -> Statistics:
    """Statistics of what `measure` or `measure_rows` took.

    Args:
      row_B: indices in the batch of the rows of `measure_rows`.
      places: whether the second axis are the places of a row.
    """
    rows = {}
    if row_B is not None:
        for row, broken_L in zip(row_B.tolist(), measured['broken'], strict=True):
            if broken_L.any():
                rows[row] = np.flatnonzero(broken_L).tolist() if places else None
    numbers = (float(measured[name]) for name in ('largest', 'mean', 'std'))
    return Statistics(int(measured['count']), *numbers, int(measured['nonfinite']), rows)
