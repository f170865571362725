"""The tables of a scaling law's report, once for the page and for Markdown."""

from gpt2jax.report.study_tables import NONE, Table
from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.scaling import PARAMETERS, Fit
from gpt2jax.studies.scaling_findings import ScalingFinding
from gpt2jax.studies.scaling_words import is_outside
from gpt2jax.studies.words import label, number
from gpt2jax.training.display import short_number


def scaling_tables(evidence: Evidence, finding: ScalingFinding) -> list[Table]:
    """The law, the best sizes and the runs."""
    tables = []
    if finding.fit is not None:
        tables.append(law_table(finding))
    if finding.optima:
        tables.append(optima_table(finding))
    if finding.parabolas:
        tables.append(parabola_table(finding))
    return [*tables, points_table(evidence, finding)]


def law_table(finding: ScalingFinding) -> Table:
    """The parameters of the law under both ways of counting N."""
    rows = []
    for name in PARAMETERS:
        rows.append([name, *_with_interval(finding.fit, name), *_with_interval(finding.total_fit, name)])
    head = ['', 'N without embeddings', '95 %', 'N with embeddings', '95 %']
    rows.append(['N falls by', *_span(finding.fit, 0), *_span(finding.total_fit, 0)])
    rows.append(['D falls by', *_span(finding.fit, 1), *_span(finding.total_fit, 1)])
    note = (
        f'{label(finding.figure).capitalize()} = E + A / N^alpha + B / D^beta. The last two rows: what the term of N, '
        'and that of D, falls by from the least measured N or D to the largest. Kaplan et al. (2020) count N without '
        'embeddings, Hoffmann et al. (2022) with them; everything else here is without. A and B are known far less '
        'than what they stand for, since they are the terms of a model of one parameter and of one token.'
    )
    return Table('The law', head, rows, note)


def _with_interval(fit: Fit, name: str) -> list[str]:
    low, high = fit.interval(name)
    return [_plain(float(fit.law.parameters()[name])), f'[{_plain(low)}, {_plain(high)}]']


def _span(fit: Fit, which: int) -> list[str]:
    value, low, high = fit.spans[which]
    return [_plain(value), f'[{_plain(low)}, {_plain(high)}]']


def _plain(value: float) -> str:
    return f'{value:.3g}'.replace('-', '\N{MINUS SIGN}')


def optima_table(finding: ScalingFinding) -> Table:
    """The best N and D at each budget, measured and beyond."""
    rows = []
    for one in finding.optima:
        kind = 'extrapolated' if one.is_beyond else 'measured'
        kind += ', outside the sizes' if is_outside(finding, one.n[0]) else ''
        cells = [f'{one.flops:.2g}', kind]
        for values in (one.n, one.d):
            cells += [short_number(values[0]), f'[{short_number(values[1])}, {short_number(values[2])}]']
        loss = [number(finding.figure, value) for value in one.loss]
        rows.append([*cells, f'{one.d[0] / one.n[0]:.3g}', loss[0], f'[{loss[1]}, {loss[2]}]'])
    head = ['FLOPs', 'budget', 'N', '95 %', 'D', '95 %', 'D / N', label(finding.figure), '95 %']
    note = (
        'The N and D that the law expects to be best for their FLOPs, as they are counted for these models; between '
        'and beyond the sizes the count goes on in straight lines in logarithms. The intervals are of the law, over '
        'resampled runs: what the law itself leaves out is not in them.'
    )
    return Table('Compute-optimal models', head, rows, note)


def parabola_table(finding: ScalingFinding) -> Table:
    """The lowest point of each measured budget, which asks no law."""
    rows = []
    for one in finding.parabolas:
        best = [NONE] * 3
        if one.best is not None:
            best = [short_number(one.best[0]), short_number(one.best[1]), number(finding.figure, one.best[2])]
        rows.append([f'{one.flops:.2g}', str(len(set(one.n))), short_number(one.n[one.loss.argmin()]), *best])
    head = ['FLOPs', 'sizes', 'best measured N', 'N', 'D', label(finding.figure)]
    note = (
        'N, D and loss of the lowest point of a parabola over log N; a dash where it is not between the measured sizes.'
    )
    if finding.growth is not None:
        power, (low, high) = finding.growth
        note += f' The best N grows with FLOPs to the power of {power:.2f} (95 %, t: {low:.2f} to {high:.2f}).'
        note = note.replace('-', '\N{MINUS SIGN}')
    return Table('Lowest points at equal FLOPs', head, rows, note)


def points_table(evidence: Evidence, finding: ScalingFinding) -> Table:
    """Every finished run and what the law says of it."""
    rows = []
    runs = {(run.arm, run.seed): run for run in evidence.main}
    for point in finding.points:
        fitted = [NONE] * 2
        if finding.fit is not None:
            value = float(finding.fit.law.loss(point.n, point.d))
            missed = f'{100 * (point.loss / value - 1):+.2f} %'.replace('-', '\N{MINUS SIGN}')
            fitted = [number(finding.figure, value), missed]
        more = [runs[point.arm, point.seed].value(figure) for figure in evidence.show]
        shown = [
            NONE if value is None else number(name, value) for name, value in zip(evidence.show, more, strict=True)
        ]
        amounts = [short_number(point.n), short_number(point.total), short_number(point.d), f'{point.flops:.3g}']
        rows.append([point.arm, str(point.seed), *amounts, number(finding.figure, point.loss), *fitted, *shown])
    head = ['arm', 'seed', 'N', 'with embeddings', 'D', 'FLOPs', label(finding.figure), 'by the law', 'missed by']
    return Table('Runs and the law', [*head, *map(label, evidence.show)], rows)
