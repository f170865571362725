"""The tables of a study's report, once for the page and for Markdown."""

import dataclasses

from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.findings import Finding
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.results import Result
from gpt2jax.studies.statistics import Summary, summarize
from gpt2jax.studies.words import HOW, interval, label, needed, number, p_text, signed, spent
from gpt2jax.training.display import clock_time

NONE = '–'


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
      note: a line below, or ''.
      strong: numbers of the rows that stand out.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ''
    strong: tuple[int, ...] = ()


def figure_table(evidence: Evidence, finding: Finding) -> Table:
    """One figure: mean, spread and intervals of each arm, and its difference to the baseline."""
    figure, rows = finding.figure, []
    head = ['arm', 'seeds', label(figure), 'sd', '95 %, t', '95 %, bootstrap', 'minus baseline', '95 %, t']
    head += ['p', 'effect', 'seeds needed']
    for one in finding.arms:
        missing = f'{len(one.values)} of {one.planned}' if len(one.values) < one.planned else str(one.planned)
        missing += f', {one.failed} failed' if one.failed else ''
        row = [one.arm, missing, *_summary(figure, one.summary)]
        if one.arm == finding.baseline:
            row += ['the baseline', *[NONE] * 4]
        elif one.versus is None:
            row += [NONE] * 5
        else:
            found = one.versus
            effect = NONE if found.effect is None else f'{found.effect:+.2f}'.replace('-', '\N{MINUS SIGN}')
            p = p_text(one.p).removeprefix('p = ').removeprefix('p ')
            shown = [signed(figure, found.difference.mean), interval(figure, found.difference.t), p, effect]
            row += [*shown, needed(found)]
        rows.append(row)
    test = {'t': 'paired t test', 'permutation': 'permutation test of signs'}[evidence.test]
    single = all(len(one.values) < 2 for one in finding.arms)
    note = (
        'One seed an arm: no standard deviation, no interval, no test. '
        if single
        else f'p: {test}, by seed, after Holm\N{RIGHT SINGLE QUOTATION MARK}s correction over the arms. '
        'Effect: the mean difference in standard deviations of the differences. Seeds needed: with which a difference '
        'as large as the one seen would be found in four studies of five. '
    )
    winner = tuple(index for index, one in enumerate(finding.arms) if one.arm == finding.winner)
    side = 'Less' if finding.lower else 'More'
    return Table(f'{label(figure).capitalize()}, by arm', head, rows, f'{note}{side} is better.', winner)


def _summary(figure: str, summary: Summary | None) -> list[str]:
    if summary is None:
        return [NONE] * 4
    sd = NONE if summary.sd is None else f'{summary.sd:.2g}'
    return [
        number(figure, summary.mean),
        sd,
        interval(figure, summary.t, number),
        interval(figure, summary.bootstrap, number),
    ]


def matching_table(finding: Finding) -> Table:
    """One figure at equal cost, under every measure: who is ahead may depend on it."""
    arms = [one.arm for one in finding.arms if one.summary is not None]
    rows = [[arm] for arm in arms]
    for matching in finding.matchings:
        for row, arm in zip(rows, arms, strict=True):
            score = matching.scores.get(arm)
            star = ' ★' if arm == matching.best else ''
            row.append(number(finding.figure, score.mean) + star if score else NONE)
    rows.append(['each spent', *[spent(matching.measure, matching.budget) for matching in finding.matchings]])
    how: dict[str, list[str]] = {}
    for matching in finding.matchings:
        how.setdefault(matching.how, []).append(MEASURES[matching.measure])
    notes = [f'{", ".join(measures)}: {HOW[kind]}.' for kind, measures in how.items()]
    unknown = [MEASURES[matching.measure] for matching in finding.matchings if matching.best is None]
    notes += [f'Not known for all arms: {", ".join(unknown)}.'] if unknown else []
    head = ['arm', *[MEASURES[matching.measure] for matching in finding.matchings]]
    title = f'{label(finding.figure).capitalize()} when all arms spend the same'
    return Table(title, head, rows, f'Means over seeds; ★ is ahead. {" ".join(notes)}')


def cost_table(evidence: Evidence) -> Table:
    """What one run of each arm spent."""
    rows = []
    for name in evidence.arms:
        runs = [run for run in evidence.main if run.arm == name and run.step]
        if not runs:
            rows.append([name, evidence.arms[name], *[NONE] * (1 + len(MEASURES))])
            continue
        means = [sum(run.totals[measure] for run in runs) / len(runs) for measure in MEASURES]
        amounts = [spent(measure, mean) for measure, mean in zip(MEASURES, means, strict=True)]
        rows.append([name, evidence.arms[name], f'{runs[0].steps:,}', *amounts])
    matched = f'Matched: {", ".join(MEASURES[m] for m in evidence.matches)}.' if evidence.matches else ''
    note = f'{matched} Means over seeds, of the main runs. Seconds are of training steps alone.'.strip()
    return Table('What each arm changes and costs', ['arm', 'changes', 'steps', *MEASURES.values()], rows, note)


def more_figures_table(evidence: Evidence) -> Table | None:
    """The figures that do not decide; nothing is claimed from them."""
    if not evidence.show:
        return None
    rows = []
    for name in evidence.arms:
        row = [name]
        for figure in evidence.show:
            group = [run for run in evidence.main if run.arm == name]
            values = [run.value(figure) for run in group if run.value(figure) is not None]
            failed = any(run.status == 'failed' for run in group)
            summary = summarize(values) if values and not failed else None
            row += [number(figure, summary.mean) if summary else NONE]
            row += [interval(figure, summary.t, number) if summary else NONE]
        rows.append(row)
    head = ['arm', *[text for figure in evidence.show for text in (label(figure), '95 %, t')]]
    return Table('More figures', head, rows, 'These do not decide: no test was made of them.')


def tuning_table(evidence: Evidence, figure: str) -> Table | None:
    """What every setting gave that was tried."""
    runs = [run for run in evidence.results if run.role == 'tune']
    if not runs:
        return None
    settings = list(dict.fromkeys(run.setting for run in runs))
    rows = []
    for name in evidence.arms:
        row = [name]
        for setting in settings:
            group = [run for run in runs if (run.arm, run.setting) == (name, setting)]
            values = [run.value(figure) for run in group]
            if not group:
                row.append(NONE)
            elif None in values:
                row.append(_state(group))
            else:
                row.append(number(figure, sum(values) / len(values)))
        rows.append(row)
    title = f'Tuning: {label(figure)} of each setting, with seeds that are not used again'
    return Table(title, ['arm', *settings], rows)


def _state(group: list[Result]) -> str:
    return 'failed' if any(run.status == 'failed' for run in group) else 'not finished'


def runs_table(evidence: Evidence, figures: tuple[str, ...]) -> Table:
    """Every run, the failed ones with their error."""
    rows = []
    for run in evidence.results:
        values = [number(figure, run.figures[figure]) if figure in run.figures else NONE for figure in figures]
        status = f'failed: {run.error}' if run.status == 'failed' else run.status
        about = run.setting if run.role == 'tune' else '' if run.role == 'run' else run.role
        time = clock_time(run.totals['seconds'])
        rows.append([run.arm, str(run.seed), about, status, f'{run.step:,}/{run.steps:,}', time, *values, run.folder])
    head = ['arm', 'seed', 'about', 'status', 'step', 'time', *map(label, figures), 'folder']
    return Table('All runs', head, rows)


def total_cost(evidence: Evidence) -> list[tuple[str, str]]:
    """(what, amount) over all runs, tuning included."""
    runs = evidence.results
    total = {measure: sum(run.totals[measure] for run in runs) for measure in MEASURES}
    done = sum(run.status == 'finished' for run in runs)
    return [
        ('runs finished', f'{done} of {len(runs)}'),
        ('seeds an arm', str(len(evidence.seeds))),
        ('training time', clock_time(total['seconds'])),
        ('tokens', spent('tokens', total['tokens'])),
        ('FLOPs, full map', spent('flops', total['flops'])),
        ('FLOPs, causal half', spent('causal_flops', total['causal_flops'])),
    ]
