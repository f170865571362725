"""What a few seeds say: intervals, paired differences, tests, and how many seeds it would take. scipy does the work.

Runs with the same seed share their data order, and their initial values as far as their models have the same ones, so
arms are compared seed by seed. Everything here is of a handful of numbers: the t interval, which widens for few, is the
one that decides; the bootstrap interval is too narrow below about ten seeds, and is given beside it.
"""

import bisect
import dataclasses
import math

import numpy as np
from scipy import stats

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8  # of the study that `seeds_needed` plans
MOST_SEEDS = 1000
RESAMPLES = 9999


@dataclasses.dataclass(frozen=True)
class Summary:
    """Some values of one arm. sd and intervals are None for a single value, which has no error bar.

    Attributes:
      n, mean, sd: how many, their mean, and the standard deviation of the population they came from (n - 1).
      t, bootstrap: 95 % intervals of the mean.
    """

    n: int
    mean: float
    sd: float | None
    t: tuple[float, float] | None
    bootstrap: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm against another one, seed by seed.

    Attributes:
      difference: of the arm minus the other one.
      p: two-sided, of no difference; None for a single seed.
      effect: the mean difference in standard deviations of the differences, corrected for few seeds (Hedges 1981);
        None where there is no such deviation, or only two seeds to estimate it from.
      needed: seeds with which a difference of this size would be found four times out of five; None: not known, or
        more than MOST_SEEDS.
    """

    difference: Summary
    p: float | None
    effect: float | None
    needed: int | None


def summarize(values: list[float]) -> Summary:
    """Mean, spread and intervals of one value a seed. Raises ValueError without values."""
    x_N = np.asarray(values, np.float64)
    if not x_N.size:
        raise ValueError('there are no values')
    mean = float(x_N.mean())
    if x_N.size == 1:
        return Summary(1, mean, None, None, None)
    sd = float(x_N.std(ddof=1))
    if sd == 0:
        return Summary(x_N.size, mean, 0.0, (mean, mean), (mean, mean))
    low, high = stats.t.interval(LEVEL, x_N.size - 1, mean, sd / math.sqrt(x_N.size))
    found = stats.bootstrap((x_N,), np.mean, n_resamples=RESAMPLES, method='percentile', rng=np.random.default_rng(0))
    interval = found.confidence_interval
    return Summary(x_N.size, mean, sd, (float(low), float(high)), (float(interval.low), float(interval.high)))


def compare(values: dict[int, float], others: dict[int, float], test: str = 't') -> Comparison | None:
    """An arm against another one, over the seeds that both have; None where there is none.

    Args:
      values, others: seed -> figure.
      test: 't', paired; or 'permutation', of the signs of the differences.
    """
    seeds = sorted(values.keys() & others.keys())
    if not seeds:
        return None
    differences = np.array([values[seed] - others[seed] for seed in seeds], np.float64)
    summary = summarize(differences.tolist())
    if summary.n == 1:
        return Comparison(summary, None, None, None)
    if summary.sd == 0:  # an arm against itself; or, by a rare chance, differences that are all alike
        return Comparison(summary, 1.0 if summary.mean == 0 else 0.0, None, None)
    effect = summary.mean / summary.sd
    p = {'t': _t_test, 'permutation': _permutation_test}[test](differences)
    corrected = effect * (1 - 3 / (4 * (summary.n - 1) - 1)) if summary.n > 2 else None
    return Comparison(summary, p, corrected, seeds_needed(corrected or effect))


def _t_test(differences: np.ndarray) -> float:
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _permutation_test(differences: np.ndarray) -> float:
    """Exact up to 13 seeds: all signs of the differences are as likely where there is no difference."""
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type='samples',
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def least_p(n: int, test: str) -> float:
    """The smallest p-value that a test can give with n seeds: 2 / 2^n for signs, 0 for t."""
    return 2 / 2**n if test == 'permutation' else 0.0


def holm(p_values: dict) -> dict:
    """p-values corrected for their number (Holm 1979): the k-th smallest of m times m - k + 1, never falling."""
    adjusted, highest, m = {}, 0.0, len(p_values)
    for rank, key in enumerate(sorted(p_values, key=p_values.get)):
        highest = max(highest, min(1.0, (m - rank) * p_values[key]))
        adjusted[key] = highest
    return adjusted


def seeds_needed(effect: float) -> int | None:
    """Seeds with which a paired t test at 5 % finds such an effect in a share POWER of all studies."""
    if not effect or power(effect, MOST_SEEDS) < POWER:
        return None
    return bisect.bisect_left(range(MOST_SEEDS), POWER, lo=2, key=lambda n: power(effect, n))


def power(effect: float, n: int) -> float:
    """How often a paired t test with n seeds finds a difference of `effect` standard deviations, at 5 %."""
    limit = stats.t.ppf(1 - ALPHA / 2, n - 1)
    centre = abs(effect) * math.sqrt(n)
    found = stats.nct.sf(limit, n - 1, centre) + stats.nct.cdf(-limit, n - 1, centre)
    return float(found)
