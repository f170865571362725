"""The page of a study: study.html filled section by section. Every text that comes from a file is escaped."""

import string
from pathlib import Path

import gpt2jax
from gpt2jax.report.figures import svg
from gpt2jax.report.page import escape
from gpt2jax.report.study_figures import COLORS, DARK, PAGE, draw_curves, draw_forest, drawn_figures, forest_size
from gpt2jax.report.study_tables import (
    Table,
    cost_table,
    figure_table,
    matching_table,
    more_figures_table,
    runs_table,
    total_cost,
    tuning_table,
)
from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.findings import Finding
from gpt2jax.studies.words import answer, caveats, label

_FOLDER = Path(__file__).parent
TABS = {'tokens': 'tokens', 'predicted': 'predicted tokens', 'flops': 'FLOPs', 'seconds': 'seconds'}
TEXT_COLUMNS = ('arm', 'changes', 'about', 'status', 'folder')
STATISTICS = (
    'Seeds are compared in pairs: runs with one seed read the same text in the same order. The t interval decides; it '
    'holds if differences between seeds are about normal. The bootstrap interval is too narrow for a handful of seeds. '
    'A winner is named only where it differs from every other arm after Holm’s correction over all pairs of arms, its '
    '95 % interval does not hold 0, and no way of matching puts another arm first. The correction is over the arms of '
    'a figure, not over figures. "No winner" does not mean that arms are equal: the interval says what may still be '
    'there.'
)


def study_page(evidence: Evidence, findings: list[Finding]) -> str:
    """The whole report.html of a study."""
    answers = [(answer(evidence, finding), finding.verdict == 'winner') for finding in findings]
    shown = ''.join(_finding(evidence, finding) for finding in findings)
    return fill_page(
        evidence,
        answers,
        caveats(evidence),
        shown + _curves(evidence) + _tables(evidence, findings),
        STATISTICS,
    )


def fill_page(
    evidence: Evidence, answers: list[tuple[str, bool]], notices: list[str], sections: str, statistics: str
) -> str:
    """A page of a study from its parts.

    Args:
      answers: (text, whether it names something).
      sections: HTML between the head and what all studies end with.
      statistics: how the figures were judged.
    """
    template = string.Template((_FOLDER / 'study.html').read_text('utf-8'))
    return template.substitute(
        name=escape(evidence.name),
        style=_style(),
        question=escape(evidence.question),
        answers=''.join(_answer(*one) for one in answers),
        notices=_notices(notices),
        tiles=_tiles(total_cost(evidence)),
        sections=sections,
        reading=_reading(evidence, statistics),
        reproduce=_reproduce(evidence),
        footer=f'Written by gpt2jax {escape(gpt2jax.__version__)}. This page loads nothing from elsewhere.',
    )


def _style() -> str:
    light = ' '.join(f'--arm{index}: {color};' for index, color in enumerate(COLORS))
    dark = ' '.join(f'--arm{index}: {color};' for index, color in enumerate(DARK))
    colors = f':root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}'
    shown = ',\n'.join(f'.tabs:has(#x-{name}:checked) .x-{name}' for name in TABS)
    own = string.Template((_FOLDER / 'study.css').read_text('utf-8')).substitute(colors=colors)
    return f'{(_FOLDER / "style.css").read_text("utf-8").strip()}\n{own.strip()}\n{shown} {{ display: grid; }}'


def _answer(text: str, is_named: bool) -> str:
    kind = ' winner' if is_named else ''
    first, stop, rest = text.partition('. ')
    return f'<p class="answer{kind}"><strong>{escape(first + stop.strip())}</strong> {escape(rest)}</p>'


def _notices(notices: list[str]) -> str:
    if not notices:
        return ''
    return f'<ul class="notices">{"".join(f"<li>{escape(notice)}</li>" for notice in notices)}</ul>'


def _tiles(tiles: list[tuple[str, str]]) -> str:
    cells = ''.join(f'<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>' for what, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def table_html(table: Table) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    kinds = [' class="text"' if heading in TEXT_COLUMNS else '' for heading in table.head]
    head = ''.join(f'<th scope="col"{kind}>{escape(h)}</th>' for h, kind in zip(table.head, kinds, strict=True))
    rows = []
    for index, row in enumerate(table.rows):
        cells = []
        for text, kind in zip(row, kinds, strict=True):
            failed = ' class="failed"' if text.startswith('failed: ') else kind
            cells.append(f'<td{failed}>{escape(text)}</td>')
        strong = ' class="strong"' if index in table.strong else ''
        rows.append(f'<tr{strong}>{"".join(cells)}</tr>')
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ''
    return (
        f'<div class="scroll"><table class="number"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>{note}'
    )


def table_section(table: Table | None) -> str:
    return '' if table is None else f'<section><h2>{escape(table.title)}</h2>{table_html(table)}</section>'


def _finding(evidence: Evidence, finding: Finding) -> str:
    forest = ''
    if any(one.versus is not None for one in finding.arms):
        drawing = svg(draw_forest(evidence, finding), forest_size(finding), PAGE)
        single = all(one.versus is None or one.versus.difference.t is None for one in finding.arms)
        caption = 'one seed, no error bars' if single else 'with 95 % intervals, not corrected'
        forest = (
            f'<section><h2>Differences to {escape(finding.baseline)}</h2><div class="drawings forest"><figure>'
            f'<figcaption>{escape(label(finding.figure))}: {caption}</figcaption>{drawing}</figure></div></section>'
        )
    matchings = table_section(matching_table(finding)) if finding.matchings else ''
    return table_section(figure_table(evidence, finding)) + forest + matchings


def _curves(evidence: Evidence) -> str:
    """Each figure against what was spent, one measure at a time, switched by radio buttons without any script."""
    buttons, panels = [], []
    for name, text in TABS.items():
        checked = ' checked' if name == 'tokens' else ''
        buttons.append(f'<input type="radio" name="x" id="x-{name}"{checked}><label for="x-{name}">{text}</label>')
        drawings = ''.join(
            f'<figure><figcaption>{escape(label(figure))}</figcaption>'
            f'{svg(draw_curves(evidence, figure, name), (5.4, 3.4), PAGE)}</figure>'
            for figure in drawn_figures(evidence)
        )
        panels.append(f'<div class="drawings wide x-{name}">{drawings}</div>')
    legend = ''.join(
        f'<li><i style="border-color: var(--arm{index % len(COLORS)})"></i>{escape(name)}</li>'
        for index, name in enumerate(evidence.arms)
    )
    return (
        '<section class="tabs"><h2>Validation against cost</h2>'
        f'<fieldset><legend>Horizontal axis</legend>{"".join(buttons)}</fieldset>'
        f'<ul class="legend">{legend}</ul>{"".join(panels)}'
        '<p>Lines: means over seeds. Bands: from the lowest seed to the highest. The steep start is cut off.</p>'
        '</section>'
    )


def _tables(evidence: Evidence, findings: list[Finding]) -> str:
    figure = evidence.decide[0]
    figures = tuple(dict.fromkeys([finding.figure for finding in findings]))
    tables = [cost_table(evidence), more_figures_table(evidence), tuning_table(evidence, figure)]
    return ''.join(map(table_section, [*tables, runs_table(evidence, figures)]))


def _reading(evidence: Evidence, statistics: str) -> str:
    parts = []
    for part in filter(None, evidence.reading.split('\n\n')):
        if part.startswith('    '):  # a command, as docstrings have it
            parts.append(f'<pre>{escape(part.strip())}</pre>')
        else:
            parts.append(f'<p>{escape(" ".join(part.split()))}</p>')
    return f'<section><h2>How to read this</h2>{"".join(parts)}<p>{escape(statistics)}</p></section>'


def _reproduce(evidence: Evidence) -> str:
    about = ''.join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts(evidence))
    commands = '\n'.join(run.command for run in evidence.results)
    return (
        f'<section><h2>Versions and commands</h2><div class="scroll"><table class="keys"><tbody>{about}</tbody></table>'
        f'</div><details><summary>The command of each run</summary><pre>{escape(commands)}</pre></details></section>'
    )


def facts(evidence: Evidence) -> list[tuple[str, str]]:
    """(what, value): the study, the machine and the packages of its runs."""
    infos = [run.info for run in evidence.results if run.info]
    found = list(evidence.about)
    for key in ('device', 'platform', 'python'):
        values = sorted({str(info[key]) for info in infos if key in info})
        if values:
            found.append((key, '; '.join(values)))
    versions = {name for info in infos for name in info.get('versions', {})}
    for name in sorted(versions):
        values = sorted({str(info['versions'][name]) for info in infos if name in info.get('versions', {})})
        found.append((name, '; '.join(values)))
    return found
