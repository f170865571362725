"""What follows from the runs of a study, and what does not: no claim here that the figures do not support.

A winner is named where all runs are finished, it differs from every other arm after Holm's correction over all pairs,
and no way of matching puts another arm first. Everything less is said as what it is.
"""

import dataclasses
import itertools

from gpt2jax.evaluation.measures import HIGHER
from gpt2jax.studies import goals
from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.results import Result
from gpt2jax.studies.statistics import ALPHA, Comparison, Summary, compare, holm, summarize

EQUAL = {measure: 1.02 for measure in MEASURES} | {'seconds': 1.05}  # totals that differ by less count as matched


@dataclasses.dataclass(frozen=True)
class ArmFinding:
    """One arm in one figure.

    Attributes:
      values: seed -> the figure after the last step.
      planned, failed: runs. One without the figure that others of its arm have has failed: it did not reach a goal.
      summary: of the values; None without any, and None where a run has failed: the mean of the rest would flatter it.
      versus: against the baseline, seed by seed; None as for `summary`, and for the baseline.
      p: of that, after Holm's correction over the arms.
    """

    arm: str
    values: dict[int, float]
    planned: int
    failed: int
    summary: Summary | None
    versus: Comparison | None
    p: float | None


@dataclasses.dataclass(frozen=True)
class Matching:
    """The arms at equal cost in one measure.

    Attributes:
      how: 'run' (steps were set so), 'equal' (the main runs happen to cost the same), or 'read' off the curves of the
        main runs where the cheapest one ends: in mid-schedule for the others.
      budget: that all have spent: on average; of 'read', what the cheapest run has.
      scores: arm -> the figure.
      best: the arm with the best mean; None where not all arms have a score.
    """

    measure: str
    how: str
    budget: float
    scores: dict[str, Summary]
    best: str | None


@dataclasses.dataclass(frozen=True)
class Finding:
    """All that is known in one figure.

    Attributes:
      lower: whether less is better.
      baseline: the study's, or the first arm that has the figure.
      without: arms that have no such figure.
      pairs: (better arm, other arm) -> comparison and p after Holm's correction over all pairs.
      verdict: 'winner', 'undecided', 'disagree', 'unmatched' (of a measure it is not known who is ahead), 'one seed',
        'unfinished' or 'failed'.
      winner: None unless the verdict is one.
    """

    figure: str
    lower: bool
    baseline: str
    arms: list[ArmFinding]
    without: list[str]
    pairs: dict[tuple[str, str], tuple[Comparison, float | None]]
    matchings: list[Matching]
    verdict: str
    winner: str | None

    def arm(self, name: str) -> ArmFinding:
        return next(one for one in self.arms if one.arm == name)

    @property
    def ranked(self) -> list[ArmFinding]:
        """The arms that have a mean, the best one first."""
        known = [one for one in self.arms if one.summary is not None]
        return sorted(known, key=lambda one: one.summary.mean if self.lower else -one.summary.mean)


def find(evidence: Evidence, figure: str) -> Finding:
    """Judges one figure."""
    lower = not figure.endswith(HIGHER)
    runs = {name: [run for run in evidence.main if run.arm == name] for name in evidence.arms}
    measured = {name: {run.seed: run.value(figure) for run in group} for name, group in runs.items()}
    values = {name: {s: v for s, v in group.items() if v is not None} for name, group in measured.items()}
    finished = {name: sum(run.status == 'finished' for run in group) for name, group in runs.items()}
    without = [name for name in runs if finished[name] and not values[name]]
    names = [name for name in runs if name not in without]
    baseline = evidence.baseline if evidence.baseline in names else (names or list(runs))[0]
    arms = _arms(evidence, {name: runs[name] for name in names}, values, baseline)
    usable = [one.arm for one in arms if one.summary is not None]
    pairs = _pairs(usable, values, evidence.test, lower)
    # What is a cost itself has nothing to be matched by.
    matchings = [] if figure in goals.LABELS else find_matchings(evidence, figure, usable, lower)
    verdict, winner = _verdict(evidence, arms, pairs, matchings, lower)
    return Finding(figure, lower, baseline, arms, without, pairs, matchings, verdict, winner)


def _arms(evidence: Evidence, runs: dict[str, list[Result]], values: dict, baseline: str) -> list[ArmFinding]:
    failed = {name: sum(_is_lost(run, values[name]) for run in group) for name, group in runs.items()}
    versus = {
        name: compare(values[name], values[baseline], evidence.test)
        for name in runs
        if name != baseline and not failed[name] and not failed.get(baseline)
    }
    p = holm({name: found.p for name, found in versus.items() if found is not None and found.p is not None})
    return [
        ArmFinding(
            arm=name,
            values=values[name],
            planned=len(group),
            failed=failed[name],
            summary=summarize(list(values[name].values())) if values[name] and not failed[name] else None,
            versus=versus.get(name),
            p=p.get(name),
        )
        for name, group in runs.items()
    ]


def _is_lost(run: Result, values: dict[int, float]) -> bool:
    """Whether a run is at its end and has no figure; `values` are those of its arm."""
    return run.status == 'failed' or (run.status == 'finished' and run.seed not in values)


def _pairs(names: list[str], values: dict, test: str, lower: bool) -> dict:
    """All pairs of arms, the one with the better mean first."""
    found = {}
    for one, other in itertools.combinations(names, 2):
        comparison = compare(values[one], values[other], test)
        if comparison is None:
            continue
        if (comparison.difference.mean > 0) == lower and comparison.difference.mean:
            one, other = other, one
            comparison = compare(values[one], values[other], test)
        found[one, other] = comparison
    p = holm({pair: comparison.p for pair, comparison in found.items() if comparison.p is not None})
    return {pair: (comparison, p.get(pair)) for pair, comparison in found.items()}


def find_matchings(evidence: Evidence, figure: str, names: list[str], lower: bool) -> list[Matching]:
    """The arms under every measure: run so, equal by themselves, or read off the curves."""
    found = []
    main = [run for run in evidence.main if run.arm in names and run.value(figure) is not None]
    for measure in MEASURES:
        runs = [r for r in evidence.results if measure in r.matches and r.arm in names]
        how = 'run'
        if measure not in evidence.matches:
            runs = main
            how = 'equal' if _spread(runs, measure) <= EQUAL[measure] else 'read'
        done = [run for run in runs if run.value(figure) is not None]
        if not done or len({run.arm for run in done}) < 2:
            continue
        totals = [run.totals[measure] for run in done]
        budget = min(totals) if how == 'read' else sum(totals) / len(totals)
        scores = {}
        for name in names:
            group = [run for run in done if run.arm == name]
            scored = [_score_at(run, figure, measure, budget) if how == 'read' else run.value(figure) for run in group]
            if scored and None not in scored:
                scores[name] = summarize(scored)
        best = None
        if scores.keys() == set(names):
            best = (min if lower else max)(scores, key=lambda name: scores[name].mean)
        found.append(Matching(measure, how, budget, scores, best))
    return found


def _score_at(run: Result, figure: str, measure: str, budget: float) -> float | None:
    """The last figure of a run that spent about the budget; of one that spent more, that of the moment it had."""
    if budget / EQUAL[measure] <= run.totals[measure] <= budget * EQUAL[measure]:
        return run.value(figure)
    return run.at(figure, measure, budget)


def _means(runs: list[Result], measure: str) -> dict[str, float]:
    """Arm -> what its runs have spent, on average."""
    spent: dict[str, list[float]] = {}
    for run in runs:
        spent.setdefault(run.arm, []).append(run.totals[measure])
    return {name: sum(totals) / len(totals) for name, totals in spent.items()}


def _spread(runs: list[Result], measure: str) -> float:
    """How many times more the most expensive arm has spent than the cheapest."""
    means = _means(runs, measure).values()
    return max(means, default=1.0) / max(min(means, default=1.0), 1e-9)


def _verdict(evidence: Evidence, arms: list[ArmFinding], pairs: dict, matchings: list[Matching], lower: bool):
    """(verdict, winner or None), as the head of this file says."""
    runs = [run for run in evidence.results if run.role == 'run']
    if not runs or any(run.status in ('waiting', 'begun') for run in runs):
        return 'unfinished', None
    known = [one for one in arms if one.summary is not None]
    if len(known) < 2:
        return 'failed', None
    if min(len(one.values) for one in known) == 1:
        return 'one seed', None
    best = (min if lower else max)(known, key=lambda one: one.summary.mean).arm
    others = [one.arm for one in known if one.arm != best]
    if not all((best, other) in pairs and is_decided(*pairs[best, other]) for other in others):
        return 'undecided', None
    if any(matching.best not in (None, best) for matching in matchings):
        return 'disagree', None
    if matchings and {matching.measure for matching in matchings if matching.best is not None} < MEASURES.keys():
        return 'unmatched', None
    return 'winner', best


def is_decided(comparison: Comparison, p: float | None) -> bool:
    """Whether a difference is one: its corrected p is small enough, and its 95 % interval does not hold 0."""
    interval = comparison.difference.t
    return p is not None and p < ALPHA and interval is not None and not interval[0] <= 0 <= interval[1]
