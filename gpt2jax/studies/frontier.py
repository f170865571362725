"""Sizes at equal FLOPs: what was measured, and the compute-optimal size that a fitted law expects at any budget.

Two of the three approaches of Hoffmann et al. 2022: a parabola over the sizes at each measured budget (their second),
and the least loss of the law along the line of equal FLOPs (their third). FLOPs are counted here (gpt2jax.models.cost),
embeddings, head and attention included: 6 N D would leave out most of a small model's.
"""

import dataclasses

import numpy as np
from scipy import stats

from gpt2jax.studies.scaling import LEVEL, Fit, Laws, interval

GRID = 400  # sizes that are tried at each budget
REACH = 1e4  # how far beyond the measured sizes an optimum is looked for
SAME = 1.03  # runs whose FLOPs differ by less spent the same


@dataclasses.dataclass(frozen=True)
class TokenCost:
    """FLOPs of training on one token, by size: as counted for the measured sizes.

    Between them a straight line in logarithms, and beyond them the same line as between the last two.
    """

    log_n: np.ndarray
    log_flops: np.ndarray

    def of(self, n: np.ndarray) -> np.ndarray:
        """FLOPs a token of models of `n` parameters."""
        log_n = np.log(n)
        inside = np.interp(log_n, self.log_n, self.log_flops)
        slopes = np.diff(self.log_flops) / np.diff(self.log_n)
        below, above = np.minimum(log_n - self.log_n[0], 0), np.maximum(log_n - self.log_n[-1], 0)
        return np.exp(inside + slopes[0] * below + slopes[-1] * above)


def token_cost(n: np.ndarray, d: np.ndarray, flops: np.ndarray) -> TokenCost:
    """Of runs: [P] parameters, tokens and FLOPs."""
    sizes = np.unique(n)
    return TokenCost(np.log(sizes), np.log([np.mean(flops[n == size] / d[n == size]) for size in sizes]))


@dataclasses.dataclass(frozen=True)
class Parabola:
    """The sizes of one budget of FLOPs, and the parabola of the loss over log N through them.

    Attributes:
      n, loss: [P] what was measured.
      coefficients: of (log N)^2, log N and 1; None for fewer than three sizes.
      best: (N, D, loss) of its lowest point; None where it has none between the measured sizes.
    """

    flops: float
    n: np.ndarray
    loss: np.ndarray
    coefficients: np.ndarray | None
    best: tuple[float, float, float] | None


def parabolas(n: np.ndarray, d: np.ndarray, flops: np.ndarray, loss: np.ndarray) -> list[Parabola]:
    """One for each group of runs that spent the same FLOPs, of at least two sizes."""
    cost, found = token_cost(n, d, flops), []
    order = np.argsort(flops)
    ends = np.flatnonzero(np.diff(np.log(flops[order])) > np.log(SAME)) + 1
    for chosen in np.split(order, ends):
        if len(set(n[chosen])) < 2:
            continue
        spent = float(np.mean(flops[chosen]))
        coefficients, best = None, None
        if len(set(n[chosen])) >= 3:
            coefficients = np.polyfit(np.log(n[chosen]), loss[chosen], 2)
            lowest = np.exp(-coefficients[1] / (2 * coefficients[0]))
            if coefficients[0] > 0 and n[chosen].min() < lowest < n[chosen].max():
                least = float(np.polyval(coefficients, np.log(lowest)))
                best = float(lowest), float(spent / cost.of(lowest)), least
        found.append(Parabola(spent, n[chosen], loss[chosen], coefficients, best))
    return found


def growth(found: list[Parabola]) -> tuple[float, tuple[float, float]] | None:
    """The power of FLOPs with which the lowest points' N grows, and its t interval; None for fewer than three."""
    points = [(one.flops, one.best[0]) for one in found if one.best is not None]
    if len(points) < 3:
        return None
    line = stats.linregress(*np.log(np.array(points)).T)
    wide = stats.t.ppf((1 + LEVEL) / 2, len(points) - 2) * line.stderr
    return float(line.slope), (float(line.slope - wide), float(line.slope + wide))


@dataclasses.dataclass(frozen=True)
class Optimum:
    """What the law expects to be best at a budget, each with its interval.

    Attributes:
      is_beyond: whether the budget is above all that were measured.
      n, d, loss: (value, low, high).
    """

    flops: float
    is_beyond: bool
    n: tuple[float, float, float]
    d: tuple[float, float, float]
    loss: tuple[float, float, float]


def optima(fit: Fit, cost: TokenCost, budgets: list[float], largest: float) -> list[Optimum]:
    """The compute-optimal N and D of each budget, by the law of all runs, with intervals by those of the resamples.

    Args:
      largest: budget that was measured.
    """
    found = []
    for flops in budgets:
        values = best_sizes(fit.law, cost, flops)
        resampled = best_sizes(fit.laws, cost, flops)
        shown = [(float(value), *interval(many)) for value, many in zip(values, resampled, strict=True)]
        found.append(Optimum(flops, flops > SAME * largest, *shown))
    return found


def best_sizes(law: Laws, cost: TokenCost, flops: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, loss), each [...] as the laws are, of the least loss that `flops` can buy."""
    reach = np.log(REACH)
    log_n_G = np.linspace(cost.log_n[0] - reach, cost.log_n[-1] + reach, GRID)
    wide, n_G = law.expanded(1), np.exp(log_n_G)
    reducible = wide.reducible(n_G, flops / cost.of(n_G))  # without E, whose size would hide small differences
    lowest = np.clip(reducible.argmin(-1), 1, GRID - 2)
    left, middle, right = (np.take_along_axis(reducible, lowest[..., None] + step, -1)[..., 0] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0)
    n = np.exp(log_n_G[lowest] + np.clip(shift, -1, 1) * (log_n_G[1] - log_n_G[0]))
    d = flops / cost.of(n)
    return n, d, law.loss(n, d)
