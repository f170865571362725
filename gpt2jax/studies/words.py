"""Findings in words and numbers for people: the same in the page, in Markdown and in the terminal."""

from gpt2jax.studies.evidence import NAMES, Evidence
from gpt2jax.studies.findings import Finding, is_decided
from gpt2jax.studies.goals import LABELS
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.statistics import MOST_SEEDS, Comparison, Summary, least_p
from gpt2jax.training.display import clock_time, short_number

HOW = {
    'run': 'steps set so that all arms spend the same',
    'equal': 'all arms happen to spend the same',
    'read': 'read off the curves where the cheapest arm ends, in mid-schedule for the others: a hint only',
}


def label(figure: str) -> str:
    """'bits_per_byte' -> 'bits per byte'."""
    return NAMES.get(figure, figure.replace('_', ' '))


def number(figure: str, value: float) -> str:
    """A figure: accuracies in per cent, costs as `spent` has them, others with four decimals, large ones without."""
    if figure in LABELS:
        return f'{value:.1f}' if figure == 'seconds_to_goal' else f'{value:.4g}'
    if abs(value) >= 1000:
        return f'{value:,.0f}'
    return f'{value:.2%}' if figure.endswith('accuracy') else f'{value:.4f}'


def signed(figure: str, value: float) -> str:
    """A difference, with its sign and a real minus; of accuracies in points of a per cent."""
    plain = f'{"+" * (value >= 0)}{number(figure, value)}'
    text = f'{100 * value:+.2f} points' if figure.endswith('accuracy') else plain
    return text.replace('-', '\N{MINUS SIGN}')


def interval(figure: str, bounds: tuple[float, float] | None, show=signed) -> str:
    """'[low, high]', or a dash where there is none."""
    return f'[{show(figure, bounds[0])}, {show(figure, bounds[1])}]' if bounds else '–'


def p_text(p: float | None) -> str:
    """'p = 0.012', never '0.000'."""
    if p is None:
        return '–'
    return 'p < 0.001' if p < 0.001 else f'p = {p:.3f}'


def spent(measure: str, amount: float) -> str:
    """An amount of one of MEASURES."""
    if measure == 'seconds':
        return clock_time(amount)
    return f'{amount:.3g}' if measure.endswith('flops') else short_number(amount)


def needed(comparison: Comparison) -> str:
    """How many seeds a difference of this size takes."""
    if comparison.difference.n < 2 or not comparison.difference.sd:
        return '–'
    return f'{comparison.needed}' if comparison.needed else f'over {MOST_SEEDS:,}'


def answer(evidence: Evidence, finding: Finding) -> str:
    """The answer in a sentence or a few, with its interval; or why there is none."""
    parts = [f'In {label(finding.figure)}: '] if len(evidence.decide) > 1 else []
    parts.append(_ANSWERS[finding.verdict](evidence, finding))
    failed = [one for one in finding.arms if one.failed]
    for one in failed:
        how = 'did not reach the goal or failed' if finding.figure in LABELS else 'failed'
        parts.append(f' {one.arm} {how} in {one.failed} of {one.planned} runs, so it has no mean and is not judged.')
    if finding.without:
        has = 'has' if len(finding.without) == 1 else 'have'
        parts.append(f' {_list(finding.without)} {has} no {label(finding.figure)}.')
    return ''.join(parts)


def _winner(evidence: Evidence, finding: Finding) -> str:
    best, second = finding.ranked[0], finding.ranked[1]
    comparison, p = finding.pairs[best.arm, second.arm]
    others = 'the next best' if len(finding.ranked) > 2 else 'the other'
    return (
        f'{best.arm} is best: {_mean(finding, best.summary)}. Its difference to {others}, {second.arm}, is '
        f'{_difference(finding, comparison)}, {p_text(p)} after correction. '
        + ('Every way of matching puts it first.' if finding.matchings else 'It is a cost, and nothing is matched.')
    )


def _unmatched(evidence: Evidence, finding: Finding) -> str:
    known = {matching.measure for matching in finding.matchings if matching.best is not None}
    unknown = _list([name for measure, name in MEASURES.items() if measure not in known])
    best = finding.ranked[0]
    return (
        f'No winner. {best.arm} has the best mean, {_mean(finding, best.summary)}, and is told apart from every other '
        f'arm; but who is ahead at equal {unknown} is not known: nothing was measured at that cost.'
    )


def _undecided(evidence: Evidence, finding: Finding) -> str:
    best = finding.ranked[0]
    rest = [one.arm for one in finding.ranked[1:]]
    beaten = [arm for arm in rest if is_decided(*finding.pairs[best.arm, arm])]
    open_ = [arm for arm in rest if arm not in beaten]
    nearest, p = finding.pairs[best.arm, open_[0]]
    side = 'lowest' if finding.lower else 'highest'
    text = (
        f'No winner. {best.arm} has the {side} mean, {_mean(finding, best.summary)}, but its difference to {open_[0]}, '
        f'{_difference(finding, nearest)}, {p_text(p)} after correction, may be chance.'
    )
    if len(open_) > 1:
        text += f' Nor is it told apart from {_list(open_[1:])}.'
    if beaten:
        text += f' It is better than {_list(beaten)}.'
    if least_p(nearest.difference.n, evidence.test) > 0.05:
        text += f' With {nearest.difference.n} seeds a permutation test can find nothing.'
    elif nearest.needed and nearest.needed > nearest.difference.n:
        text += f' If it is as large as it looks, a study would need about {nearest.needed} seeds to find it.'
    if len({matching.best for matching in finding.matchings} - {None}) > 1:
        text += f' Which arm has the best mean also depends on what is matched: {_favours(finding)}.'
    return text


def _disagree(evidence: Evidence, finding: Finding) -> str:
    return f'No winner: it depends on what is matched. {_favours(finding)}.'


def _favours(finding: Finding) -> str:
    """Which matching favours whom."""
    said = []
    for arm in dict.fromkeys(matching.best for matching in finding.matchings if matching.best is not None):
        mine = [matching for matching in finding.matchings if matching.best == arm]
        made, read = ([MEASURES[m.measure] for m in mine if (m.how == 'read') is off] for off in (False, True))
        parts = [f'at equal {_list(made)}'] if made else []
        parts += [f'as read off the curves at equal {_list(read)}'] if read else []
        said.append(f'{arm} is ahead {", and ".join(parts)}')
    return '; '.join(said)


def _one_seed(evidence: Evidence, finding: Finding) -> str:
    values = '; '.join(f'{one.arm} {number(finding.figure, one.summary.mean)}' for one in finding.ranked)
    return f'One seed an arm: there is no error bar, and so no answer. Seen: {values}.'


def _unfinished(evidence: Evidence, finding: Finding) -> str:
    runs = [run for run in evidence.results if run.role == 'run']
    done = sum(run.status == 'finished' for run in runs)
    if not runs:
        return 'Not finished: timing or tuning comes first, so there is no answer yet.'
    return f'Not finished: {done} of {len(runs)} runs are done, so there is no answer yet.'


def _failed(evidence: Evidence, finding: Finding) -> str:
    return 'No answer: fewer than two arms have finished all their runs with such a figure.'


_ANSWERS = {
    'winner': _winner,
    'undecided': _undecided,
    'disagree': _disagree,
    'unmatched': _unmatched,
    'one seed': _one_seed,
    'unfinished': _unfinished,
    'failed': _failed,
}


def _mean(finding: Finding, summary: Summary) -> str:
    name, count = label(finding.figure), f'{summary.n} seeds'
    low, high = (number(finding.figure, bound) for bound in summary.t)
    return f'{number(finding.figure, summary.mean)} {name} (95 % interval {low} to {high}, {count})'


def _difference(finding: Finding, comparison: Comparison) -> str:
    difference = comparison.difference
    return f'{signed(finding.figure, difference.mean)} {interval(finding.figure, difference.t)}'


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} and {names[-1]}'


def caveats(evidence: Evidence) -> list[str]:
    """What a reader must know of how the runs were made."""
    found = list(evidence.notices)
    finished = [run for run in evidence.results if run.status == 'finished' and run.info]
    for key, what in (('device', 'devices'), ('platform', 'platforms')):
        kinds = sorted({str(run.info.get(key)) for run in finished})
        if len(kinds) > 1:
            found.append(
                f'The runs were made on different {what}, so their seconds do not compare: {"; ".join(kinds)}.'
            )
    versions = {str(sorted(run.info.get('versions', {}).items())) for run in finished}
    if len(versions) > 1:
        found.append('The runs were made with different versions of the packages.')
    if not evidence.matches and evidence.sizes is None:
        found.append('Nothing was matched: the runs are as they are, and the table of costs says what each spent.')
    tried = [run for run in evidence.results if run.role == 'tune' and run.status == 'failed']
    if tried:
        found.append(f'{len(tried)} runs of the tuning failed; their settings were not chosen.')
    return found
