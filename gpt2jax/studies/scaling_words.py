"""A law of scaling in words: what was measured, what follows from it, and what does not."""

from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.scaling import LEAST_PAIRS, Fit
from gpt2jax.studies.scaling_findings import Point, ScalingFinding
from gpt2jax.studies.words import label, number
from gpt2jax.training.display import short_number

FAR = 1.2  # the lowest points of parabolas have errors too, so one counts as elsewhere that is so far outside


def scaling_answer(evidence: Evidence, finding: ScalingFinding) -> str:
    """The law and the best size in a few sentences, with intervals; or why there is none."""
    return _ANSWERS[finding.verdict](evidence, finding)


def _fitted(evidence: Evidence, finding: ScalingFinding) -> str:
    fit = finding.fit
    last = max((one for one in finding.optima if not one.is_beyond), key=lambda one: one.flops)
    return (
        f'{label(finding.figure).capitalize()} = {law_text(fit)}. {exponents_text(fit)} '
        f'At {last.flops:.2g} FLOPs, the largest budget that was measured, the law expects the best model to have '
        f'{with_interval(last.n)} parameters and to read {with_interval(last.d)} tokens{_outside(finding, last.n[0])}. '
        f'{_disagreement(finding)}{measured_text(finding.points)}'
    )


def _disagreement(finding: ScalingFinding) -> str:
    """Where the parabolas, which ask no law, find the best size outside its intervals."""
    lowest = {one.flops: one.best[0] for one in finding.parabolas if one.best is not None}
    elsewhere = [
        f'{short_number(lowest[one.flops])} at {one.flops:.2g} FLOPs'
        for one in finding.optima
        if one.flops in lowest and not one.n[1] / FAR <= lowest[one.flops] <= one.n[2] * FAR
    ]
    if not elsewhere:
        return ''
    return (
        f'Parabolas over the measured sizes find the best one elsewhere at {len(elsewhere)} of {len(lowest)} budgets '
        f'({", ".join(elsewhere)}): the two ways disagree there, so do not trust the law beyond the runs. '
    )


def _unknown(evidence: Evidence, finding: ScalingFinding) -> str:
    fit = finding.fit
    known = {'alpha': 'parameters', 'beta': 'tokens'}
    what = ' and of '.join(known[name] for name in fit.unknown)
    return (
        f'No law: these runs do not tell what becomes of the loss with more {what}. {exponents_text(fit)} '
        f'So no compute-optimal size is named, and nothing is extrapolated. {measured_text(finding.points)}'
    )


def _few(evidence: Evidence, finding: ScalingFinding) -> str:
    return (
        f'No law: {len(finding.points)} runs have {label(finding.figure)}. Its five parameters take at least '
        f'{LEAST_PAIRS} pairs of a size and a budget, of three sizes, with three different numbers of tokens.'
    )


def _unfinished(evidence: Evidence, finding: ScalingFinding) -> str:
    runs = evidence.main
    return f'Not finished: {len(finding.points)} of {len(runs)} runs are done, so there is no law yet.'


_ANSWERS = {'fitted': _fitted, 'unknown': _unknown, 'few': _few, 'unfinished': _unfinished}


def law_text(fit: Fit) -> str:
    """'1.72 + 69.6 / N^0.368 + 276 / D^0.392'."""
    values = {name: float(value) for name, value in fit.law.parameters().items()}
    return (
        f'{values["E"]:.3g} + {values["A"]:.3g} / N^{values["alpha"]:.3f} + {values["B"]:.3g} / D^{values["beta"]:.3f}'
    )


def exponents_text(fit: Fit) -> str:
    """The exponents and E with their intervals."""
    values = fit.law.parameters()
    parts = []
    for name in ('alpha', 'beta', 'E'):
        low, high = fit.interval(name)
        parts.append(
            f'{name} {values[name]:.3f} (95 % interval {low:.3f} to {high:.3f})'.replace('-', '\N{MINUS SIGN}')
        )
    return f'{", ".join(parts)}.'


def measured_text(points: list[Point]) -> str:
    """The range that was measured."""
    sizes, tokens = [point.n for point in points], [point.d for point in points]
    return (
        f'Measured: {len(points)} runs of {short_number(min(sizes))} to {short_number(max(sizes))} parameters and '
        f'{short_number(min(tokens))} to {short_number(max(tokens))} tokens, on one text, with one tokenizer and '
        'schedule.'
    )


def with_interval(values: tuple[float, float, float], show=short_number) -> str:
    """'98.9k (71k to 120k)'."""
    value, low, high = map(show, values)
    return f'{value} ({low} to {high})'


def is_outside(finding: ScalingFinding, n: float) -> bool:
    """Whether a size is smaller or larger than all that were measured."""
    sizes = [point.n for point in finding.points]
    return not min(sizes) <= n <= max(sizes)


def _outside(finding: ScalingFinding, n: float) -> str:
    return ', which is outside the measured sizes' if is_outside(finding, n) else ''


def scaling_caveats(evidence: Evidence, finding: ScalingFinding) -> list[str]:
    """What a reader must know before believing a law."""
    found = [
        'N counts parameters without embeddings and output matrix, D the tokens that were read, padding included. '
        f'FLOPs are {MEASURES[finding.measure].removeprefix("FLOPs ").strip("()")}, head and embeddings counted.'
    ]
    if finding.failed:
        found.append(f'{finding.failed} runs failed and are not in the fit, which may flatter their size or budget.')
    if finding.fit is None:
        return found
    if len(evidence.seeds) == 1:
        found.append(
            'One seed an arm: the intervals are over runs, and the noise between seeds is not told from what the law '
            'does not describe.'
        )
    if finding.optima:
        found += _optimum_caveats(finding)
    one_sided = [one for one in finding.parabolas if one.best is None]
    if one_sided:
        listed = ', '.join(f'{one.flops:.2g}' for one in one_sided)
        found.append(
            f'No lowest point between the measured sizes at {listed} FLOPs: the best size there is not bracketed.'
        )
    if finding.check is not None:
        low, high = (f'{100 * error:+.1f}'.replace('-', '\N{MINUS SIGN}') for error in finding.check.errors)
        found.append(
            f'Check of extrapolation: a law of the cheaper runs misses the {finding.check.runs} dearest, with '
            f'{finding.check.factor:.2g} times the FLOPs, by {low} to {high} %; {finding.check.inside} of them lie in '
            'its 95 % interval, which is of the law and not of single runs.'
        )
    return found


def _optimum_caveats(finding: ScalingFinding) -> list[str]:
    found = []
    if not finding.fit.is_floor_known:
        low, high = finding.fit.interval('E')
        found.append(
            f'E is hardly known ({number(finding.figure, low)} to {number(finding.figure, high)}): what no amount of '
            'compute removes cannot be said from runs this far above it.'
        )
    beyond = [one for one in finding.optima if one.is_beyond]
    found.append(
        f'Beyond {max(point.flops for point in finding.points):.2g} FLOPs everything is extrapolated: it supposes that '
        'the law goes on, and that new text is read, as repeated text teaches less (Muennighoff et al. 2023). At '
        f'{beyond[-1].flops:.2g} FLOPs the best model would read {short_number(beyond[-1].d[0])} tokens.'
    )
    return found
