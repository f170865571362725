"""What the runs of a study of scaling say: the law with its intervals, the best sizes, how far to trust them."""

import dataclasses

import numpy as np

from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.frontier import Optimum, Parabola, TokenCost, growth, optima, parabolas, token_cost
from gpt2jax.studies.scaling import Fit, fit_law

BEYOND = (10.0, 100.0)  # times the largest budget: what is extrapolated to
HELD_BACK = 0.6  # runs with more than this share of the largest budget are held back for the check of extrapolation


@dataclasses.dataclass(frozen=True)
class Point:
    """A finished run.

    Attributes:
      n, total: parameters, without and with embeddings.
      d: tokens that were read.
      flops: as the study counts them.
    """

    arm: str
    seed: int
    n: int
    total: int
    d: float
    flops: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Check:
    """A law of the cheaper runs against the dearest ones, which it has not seen.

    Attributes:
      runs: that were held back.
      factor: their FLOPs over those of the dearest run that was fitted.
      errors: the least and the largest of measured over predicted, minus one.
      inside: of them, how many lie in the interval that the cheaper runs gave.
    """

    runs: int
    factor: float
    errors: tuple[float, float]
    inside: int


@dataclasses.dataclass(frozen=True)
class ScalingFinding:
    """All that is known of how one figure scales.

    Attributes:
      verdict: 'fitted', 'unknown' (the runs do not tell an exponent), 'few' or 'unfinished'.
      measure: of FLOPs: 'flops' or 'causal_flops'.
      points: of the finished runs.
      failed: runs that have none.
      fit, total_fit: the law over parameters without and with embeddings; None where there are too few runs.
      cost: FLOPs a token, by size.
      parabolas: of each measured budget that two sizes share.
      growth: of the best size with FLOPs, by the parabolas.
      optima: by the law, at measured budgets and beyond; empty unless the verdict is 'fitted'.
      check: None where the cheaper runs are too few for a law.
    """

    figure: str
    verdict: str
    measure: str
    points: list[Point]
    failed: int
    fit: Fit | None
    total_fit: Fit | None
    cost: TokenCost | None
    parabolas: list[Parabola]
    growth: tuple[float, tuple[float, float]] | None
    optima: list[Optimum]
    check: Check | None


def find_scaling(evidence: Evidence, figure: str) -> ScalingFinding:
    """Fits the law to the last figures of the finished runs of a study of scaling."""
    measure = 'causal_flops' if evidence.budgets == 'causal_flops' else 'flops'
    points = [
        Point(run.arm, run.seed, size.parameters, size.total, run.totals['tokens'], run.totals[measure], value)
        for run in evidence.main
        if (value := run.value(figure)) is not None and (size := evidence.sizes[run.arm])
    ]
    failed = sum(run.status == 'failed' for run in evidence.main)
    nothing = ScalingFinding(figure, 'unfinished', measure, points, failed, None, None, None, [], None, [], None)
    if not evidence.main or any(run.status in ('waiting', 'begun') for run in evidence.main):
        return nothing
    n, total, d, flops, loss = (
        np.array([getattr(point, name) for point in points], np.float64)
        for name in ('n', 'total', 'd', 'flops', 'loss')
    )
    arms = np.array([point.arm for point in points])
    try:
        fit, total_fit = (fit_law(count, d, loss, arms) for count in (n, total))
    except ValueError:
        return dataclasses.replace(nothing, verdict='few')
    cost, shared = token_cost(n, d, flops), parabolas(n, d, flops, loss)
    best = []
    if not fit.unknown:
        levels = [one.flops for one in shared] or sorted({float(flops.min()), float(flops.max())})
        best = optima(fit, cost, [*levels, *(factor * max(levels) for factor in BEYOND)], max(levels))
    return ScalingFinding(
        figure=figure,
        verdict='unknown' if fit.unknown else 'fitted',
        measure=measure,
        points=points,
        failed=failed,
        fit=fit,
        total_fit=total_fit,
        cost=cost,
        parabolas=shared,
        growth=growth(shared),
        optima=best,
        check=check_extrapolation(n, d, flops, loss, arms),
    )


def check_extrapolation(
    n: np.ndarray, d: np.ndarray, flops: np.ndarray, loss: np.ndarray, arms: np.ndarray
) -> Check | None:
    """Fits the law to the cheaper runs and asks it for the others; None where they are too few for a law."""
    back = flops > HELD_BACK * flops.max()
    try:
        fit = fit_law(*(values[~back] for values in (n, d, loss)), arms[~back])
    except ValueError:
        return None
    errors = loss[back] / fit.law.loss(n[back], d[back]) - 1
    low, high = np.quantile(fit.laws.expanded(1).loss(n[back], d[back]), [0.025, 0.975], axis=0)
    inside = int(((loss[back] >= low) & (loss[back] <= high)).sum())
    return Check(int(back.sum()), float(flops.max() / flops[~back].max()), (errors.min(), errors.max()), inside)
