"""The report of a study of scaling: the page, Markdown, pictures and JSON, in the files that all studies have."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from gpt2jax.files import replace_file
from gpt2jax.report.figures import svg
from gpt2jax.report.page import escape
from gpt2jax.report.scaling_figures import SIZE, scaling_drawings
from gpt2jax.report.scaling_tables import scaling_tables
from gpt2jax.report.study_figures import PAGE, print_picture
from gpt2jax.report.study_page import facts, fill_page, table_section
from gpt2jax.report.study_tables import Table, runs_table, total_cost, tuning_table
from gpt2jax.report.study_text import markdown_table, plain
from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.scaling import DELTA, RESAMPLES
from gpt2jax.studies.scaling_findings import ScalingFinding
from gpt2jax.studies.scaling_words import scaling_answer, scaling_caveats
from gpt2jax.studies.words import caveats

PAGE_SIZE = (5.4, 3.7)
STATISTICS = (
    'The law is fitted to the last loss of every run, each at the end of a schedule of its own: a Huber loss '
    f'({DELTA:g}) of the logarithms, minimized from a grid of starts (Hoffmann et al. 2022, appendix D.2). The '
    f'intervals are the middle 95 % of {RESAMPLES} fits to runs drawn with replacement, arms first and then seeds of '
    'an arm; Besiroglu et al. (2024) show what becomes of such a study where they are too narrow. They say how far '
    'the runs fix the law, not whether the law is right. An exponent is not known where its interval is not above 0, '
    'or is wider than 1, or where its term may fall by less over the measured range than runs scatter around the law. '
    'Then nothing is extrapolated.'
)


def write_scaling_parts(evidence: Evidence, findings: list[ScalingFinding], folder: Path) -> None:
    """Writes report.html, report.md, report.json and figures/ of a study of scaling; `folder` exists."""
    replace_file(folder / 'report.html', scaling_page(evidence, findings).encode())
    replace_file(folder / 'report.md', scaling_markdown(evidence, findings).encode())
    replace_file(folder / 'report.json', scaling_json(evidence, findings).encode())
    for finding in findings:
        for name, (_, draw) in scaling_drawings(finding).items():
            for kind in ('png', 'svg'):
                path = folder / 'figures' / f'{finding.figure}-{name}.{kind}'
                replace_file(path, print_picture(draw, SIZE, kind))


def scaling_page(evidence: Evidence, findings: list[ScalingFinding]) -> str:
    """The whole report.html."""
    answers = [(scaling_answer(evidence, finding), finding.verdict == 'fitted') for finding in findings]
    sections = []
    for finding in findings:
        drawings = ''.join(
            f'<figure><figcaption>{escape(title)}</figcaption>{svg(draw, PAGE_SIZE, PAGE)}</figure>'
            for title, draw in scaling_drawings(finding).values()
        )
        if drawings:
            sections.append(
                '<section><h2>Scaling</h2><div class="drawings '
                f'wide">{drawings}</div><p>{escape(_legend())}</p></section>'
            )
        sections += map(table_section, scaling_tables(evidence, finding))
    sections += map(table_section, _ending(evidence))
    return fill_page(evidence, answers, _notices(evidence, findings), ''.join(sections), STATISTICS)


def scaling_markdown(evidence: Evidence, findings: list[ScalingFinding]) -> str:
    """The report for a pull request."""
    parts = [f'# {evidence.name}', evidence.question]
    parts += [f'**{plain(scaling_answer(evidence, finding))}**' for finding in findings]
    parts += ['\n'.join(f'- {plain(notice)}' for notice in _notices(evidence, findings))]
    for finding in findings:
        parts += [
            f'![{title}](figures/{finding.figure}-{name}.png)' for name, (title, _) in scaling_drawings(finding).items()
        ]
        parts += [_legend()] if finding.fit is not None else []
        parts += map(markdown_table, scaling_tables(evidence, finding))
    parts += [markdown_table(table) for table in _ending(evidence) if table is not None]
    parts += ['Cost: ' + ', '.join(f'{what} {amount}' for what, amount in total_cost(evidence)) + '.']
    parts += [f'## How to read this\n\n{evidence.reading}\n\n{STATISTICS}']
    parts += ['\n'.join(f'- {what}: `{plain(value)}`' for what, value in facts(evidence))]
    return '\n\n'.join(part for part in parts if part) + '\n'


def scaling_json(evidence: Evidence, findings: list[ScalingFinding]) -> str:
    """Everything: the runs with their curves, the laws of all resamples, the best sizes."""
    found = []
    for finding in findings:
        more = {'answer': scaling_answer(evidence, finding), 'parameters': None}
        if finding.fit is not None:
            values = finding.fit.law.parameters()
            more['parameters'] = {name: [float(value), *finding.fit.interval(name)] for name, value in values.items()}
        found.append(dataclasses.asdict(finding) | more)
    return (
        json.dumps({'study': dataclasses.asdict(evidence), 'scaling': found}, indent=1, default=np.ndarray.tolist)
        + '\n'
    )


def _notices(evidence: Evidence, findings: list[ScalingFinding]) -> list[str]:
    own = [notice for finding in findings for notice in scaling_caveats(evidence, finding)]
    return [*caveats(evidence), *dict.fromkeys(own)]


def _ending(evidence: Evidence) -> list[Table | None]:
    return [tuning_table(evidence, evidence.decide[0]), runs_table(evidence, evidence.decide)]


def _legend() -> str:
    return (
        'Points: runs. Lines: the law. Dotted curves: a parabola at each budget, its lowest point hollow. Bands: 95 % '
        'intervals over resampled runs. Dashed, and right of the dotted upright: extrapolated.'
    )
