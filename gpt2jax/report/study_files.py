"""All files of a study's report: a page, Markdown, pictures, CSV and JSON."""

import csv
import dataclasses
import io
import json
from pathlib import Path

from gpt2jax.errors import UserError
from gpt2jax.files import replace_file
from gpt2jax.report.scaling_report import write_scaling_parts
from gpt2jax.report.study_figures import draw_curves, draw_forest, drawn_figures, forest_size, print_picture
from gpt2jax.report.study_page import STATISTICS, facts, study_page
from gpt2jax.report.study_tables import (
    cost_table,
    figure_table,
    matching_table,
    more_figures_table,
    runs_table,
    total_cost,
    tuning_table,
)
from gpt2jax.report.study_text import markdown_table, plain
from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.findings import Finding, find
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.scaling_findings import find_scaling
from gpt2jax.studies.scaling_words import scaling_answer
from gpt2jax.studies.words import answer, caveats

CURVE_SIZE = (6.0, 3.8)
CURVE_MEASURES = ('tokens', 'flops', 'seconds')


def write_study_report(evidence: Evidence, folder: Path) -> tuple[Path, list[str]]:
    """Writes report.html, report.md, report.json, runs.csv and figures/ into a folder, replacing earlier ones.

    Returns:
      The path of the page, and an answer for each deciding figure.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        (folder / 'figures').mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot create {folder / "figures"}: {error.strerror}; choose another --directory') from error
    replace_file(folder / 'runs.csv', as_csv(evidence).encode())
    if evidence.sizes is not None:
        scaling = [find_scaling(evidence, figure) for figure in evidence.decide]
        write_scaling_parts(evidence, scaling, folder)
        return folder / 'report.html', [scaling_answer(evidence, finding) for finding in scaling]
    findings = [find(evidence, figure) for figure in evidence.decide]
    replace_file(folder / 'report.html', study_page(evidence, findings).encode())
    replace_file(folder / 'report.md', markdown(evidence, findings).encode())
    replace_file(folder / 'report.json', as_json(evidence, findings).encode())
    pictures = {
        f'{figure}-{measure}': (draw_curves(evidence, figure, measure), CURVE_SIZE)
        for figure in drawn_figures(evidence)
        for measure in CURVE_MEASURES
    }
    pictures |= {f'{one.figure}-differences': (draw_forest(evidence, one), forest_size(one)) for one in findings}
    for name, (draw, size) in pictures.items():
        for kind in ('png', 'svg'):
            picture = print_picture(draw, size, kind, legend=not name.endswith('differences'))
            replace_file(folder / 'figures' / f'{name}.{kind}', picture)
    return folder / 'report.html', [answer(evidence, finding) for finding in findings]


def markdown(evidence: Evidence, findings: list[Finding]) -> str:
    """The report for a pull request."""
    parts = [f'# {evidence.name}', evidence.question]
    parts += [f'**{plain(answer(evidence, finding))}**' for finding in findings]
    parts += ['\n'.join(f'- {plain(notice)}' for notice in caveats(evidence))]
    for finding in findings:
        parts += [markdown_table(figure_table(evidence, finding))]
        if finding.matchings:
            parts += [markdown_table(matching_table(finding))]
        parts += [f'![{finding.figure}, differences](figures/{finding.figure}-differences.png)']
    parts += [f'![{figure} against tokens](figures/{figure}-tokens.png)' for figure in drawn_figures(evidence)]
    more = more_figures_table(evidence), tuning_table(evidence, evidence.decide[0])
    parts += [markdown_table(table) for table in (cost_table(evidence), *more) if table is not None]
    if any(run.status != 'finished' for run in evidence.results):
        parts += [markdown_table(runs_table(evidence, evidence.decide))]
    parts += ['Cost: ' + ', '.join(f'{what} {amount}' for what, amount in total_cost(evidence)) + '.']
    parts += [f'## How to read this\n\n{evidence.reading}\n\n{STATISTICS}']
    parts += ['\n'.join(f'- {what}: `{plain(value)}`' for what, value in facts(evidence))]
    return '\n\n'.join(part for part in parts if part) + '\n'


def as_csv(evidence: Evidence) -> str:
    """A line a run: what it is, what it spent, all its figures."""
    figures = sorted({name for run in evidence.results for name in run.figures})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    about = ('arm', 'seed', 'role', 'setting', 'status', 'steps', 'step', 'folder', 'error')
    writer.writerow([*about, 'matched', *MEASURES, *figures])
    for run in evidence.results:
        row = [getattr(run, name) for name in about] + ['+'.join(run.matches)]
        writer.writerow(row + [run.totals[m] for m in MEASURES] + [run.figures.get(name, '') for name in figures])
    return buffer.getvalue()


def as_json(evidence: Evidence, findings: list[Finding]) -> str:
    """Everything, curves included."""
    found = []
    for finding in findings:
        plain = dataclasses.asdict(dataclasses.replace(finding, pairs={}))
        plain['pairs'] = [
            {'better': better, 'other': other, 'p_holm': p, **dataclasses.asdict(comparison)}
            for (better, other), (comparison, p) in finding.pairs.items()
        ]
        found.append(plain | {'answer': answer(evidence, finding)})
    return json.dumps({'study': dataclasses.asdict(evidence), 'findings': found}, indent=1) + '\n'
