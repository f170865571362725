"""What it cost to get there: how much of each measure a run had spent when a figure first reached a value."""

import itertools

from gpt2jax.evaluation.measures import HIGHER
from gpt2jax.studies.matching import MEASURES

LABELS = {f'{measure}_to_goal': f'{what} to the goal' for measure, what in MEASURES.items()}


def goal_figures(curve: list[dict[str, float]], figure: str, value: float) -> dict[str, float]:
    """Each measure at the first crossing, in a line between the two evaluations around it.

    Args:
      curve: as gpt2jax.studies.results.Result has it.
      figure: of the evaluations; higher is better where its name ends in one of HIGHER, lower for all else.
      value: to be reached.

    Returns:
      {'seconds_to_goal', ...}; empty where the run did not reach it, or had before its first evaluation.
    """
    sign = -1 if figure.endswith(HIGHER) else 1
    points = [point for point in curve if figure in point]
    for before, after in itertools.pairwise(points):
        was, now = sign * (before[figure] - value), sign * (after[figure] - value)
        if now <= 0 < was:
            share = was / (was - now)
            return {f'{m}_to_goal': before[m] + share * (after[m] - before[m]) for m in MEASURES}
    return {}
