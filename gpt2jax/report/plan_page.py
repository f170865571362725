"""The page of a plan: what a config would need and do on hardware that is not here. It loads nothing from elsewhere."""

import json
import string
from pathlib import Path

import gpt2jax
from gpt2jax.config import default_config, flatten
from gpt2jax.files import replace_file
from gpt2jax.planning.printing import (
    LABEL,
    gib,
    money,
    outlook_rows,
    seconds_text,
    span,
    verdict,
)
from gpt2jax.planning.searching import as_flags
from gpt2jax.report.page import escape
from gpt2jax.report.plan_scatter import scatter
from gpt2jax.training.display import clock_time, short_number

_FOLDER = Path(__file__).parent
_COLORS = 7


def write_plan_page(base: Path, plan: dict) -> Path:
    """Writes BASE.html. Raises UserError where it cannot be written."""
    path = base.with_name(f'{base.name}.html')
    replace_file(path, plan_page(plan).encode())
    return path


def plan_page(plan: dict) -> str:
    """The whole page of a plan (gpt2jax.commands.planning.plan)."""
    template = string.Template((_FOLDER / 'plan.html').read_text('utf-8'))
    notices = [LABEL, plan['method'], ', '.join(f'{name} {version}' for name, version in plan['versions'].items())]
    if 'measured' in plan:
        notices.append(_measured(plan))
    return template.substitute(
        name=escape(plan['name']),
        topology=escape((f'{plan["slices"]} slices of ' if plan['slices'] > 1 else '') + plan['topology']),
        style=(_FOLDER / 'style.css').read_text('utf-8').strip(),
        outcome=' '.join(escape(verdict(plan, step)) + '.' for step in plan['steps']),
        tiles=_tiles(plan),
        notices=''.join(f'<li>{escape(notice)}</li>' for notice in notices),
        steps=''.join(_step(plan, step) for step in plan['steps']),
        search=_search(plan['search']) if 'search' in plan else '',
        config=_config(plan),
        footer=f'Written by gpt2jax {escape(gpt2jax.__version__)}. This page loads nothing from elsewhere.',
    )


def _measured(plan: dict) -> str:
    seconds, (low, high) = plan['measured']['seconds'], plan['steps'][0]['outlook']['step_seconds']
    ratio = span([seconds / high, seconds / low], '{:.2f}'.format)
    return f'Measured on this machine: {seconds_text(seconds)} a step; measured / predicted: {ratio}.'


def _tiles(plan: dict) -> str:
    step = plan['steps'][0]
    tiles = [('devices', f'{plan["devices"]}'), ('memory of a device', gib(step['memory']['peak']))]
    if outlook := step['outlook']:
        tiles += [
            ('a step, predicted', span(outlook['step_seconds'], seconds_text)),
            ('tokens a second', span(outlook['tokens_per_second'][::-1], short_number)),
        ]
        if 'mfu' in outlook:
            tiles.append(('MFU, full attention map', span(outlook['mfu']['full map'][::-1], '{:.0%}'.format)))
        if 'hours' in outlook:
            tiles.append(('the whole run', span([hours * 3600 for hours in outlook['hours']], clock_time)))
            tiles.append(('chip-hours', span(outlook['chip_hours'], short_number)))
        if 'cost' in outlook:
            tiles.append((f'cost at {plan["price"]:g} a chip-hour', span(outlook['cost'], money)))
    cells = ''.join(f'<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>' for label, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _step(plan: dict, step: dict) -> str:
    parts = [f'<h2>{escape(step["name"].capitalize())}: memory of a device</h2>', _memory(step)]
    if step['buffers']:
        rows = [(gib(b['bytes']), str(b['count']), b['shape'], b['source']) for b in step['buffers']]
        parts.append(_table(('#size', '#places', 'largest buffers', 'made by'), rows))
    if 'time' in step:
        parts += [f'<h2>{escape(step["name"].capitalize())}: time</h2>', _time(step)]
        parts.append(_table(('what', '#value', 'meaning'), outlook_rows(plan, step)))
        ranking = [
            (seconds_text(r['low']), seconds_text(r['high']), f'{r["times"]:g}', r['kind'], r['name'])
            for r in step['time']['ranking']
        ]
        parts.append(_table(('#low', '#high', '#runs', 'kind', 'where the time goes'), ranking))
        collectives = [
            (r['axes'], r['kind'], f'{r["count"]:g}', gib(r['sent_bytes']), seconds_text(r['seconds']))
            for r in step['time']['collectives']
        ]
        if collectives:
            heads = ('communication along', 'kind', '#runs', '#sent by a device', '#time if alone')
            parts.append(_table(heads, collectives))
    return f'<section>{"".join(parts)}</section>'


def _memory(step: dict) -> str:
    memory = step['memory']
    kinds = {name: size for name, size in (memory.get('kinds') or step['held']).items() if size}
    whole = max(memory['limit'] or 0, sum(kinds.values()))
    return _bar([(name, size / whole, gib(size)) for name, size in kinds.items()])


def _time(step: dict) -> str:
    time, high = step['time'], step['time']['high']
    parts = [('matrix products', time['products'][1]), ('other work', time['other'][1])]
    parts.append(('exposed communication', time['exposed']))
    return _bar([(f'{name}, high figure', seconds / high, seconds_text(seconds)) for name, seconds in parts])


def _bar(parts: list[tuple[str, float, str]]) -> str:
    """A bar of (name, share, value)."""
    pieces, legend = [], []
    for index, (name, share, value) in enumerate(parts):
        color = f'c{index % _COLORS}'
        title = f'{escape(name)}: {escape(value)}'
        pieces.append(f'<span class="{color}" style="width:{share:.2%}" title="{title}"></span>')
        legend.append(f'<li><i class="{color}"></i>{title}</li>')
    return f'<div class="bar">{"".join(pieces)}</div><ul class="legend">{"".join(legend)}</ul>'


def _table(heads, rows, marked=()) -> str:
    """A table; a head that begins with # is of numbers."""
    numbers = [head.startswith('#') for head in heads]
    kinds = [' class="number"' if number else ' class="source"' for number in numbers]
    head = ''.join(
        f'<th scope="col"{kind}>{escape(name.lstrip("#"))}</th>' for name, kind in zip(heads, kinds, strict=True)
    )
    body = ''.join(
        f'<tr{" class=front" if index in marked else ""}>'
        + ''.join(f'<td{kind}>{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        + '</tr>'
        for index, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _search(search: dict) -> str:
    rows = [
        (
            span(r['step_seconds'], seconds_text) if r['step_seconds'] else r['why'],
            gib(r['bytes']),
            as_flags(r['changes']) or '(the config as it is)',
        )
        for r in search['results']
    ]
    best = search['recommended']
    flags = '' if best is None else as_flags(search['results'][best]['changes']) or '(the config as it is)'
    pasted = f'<pre>{escape(flags)}</pre>' if flags else '<p>None of the candidates fits.</p>'
    return (
        '<section><h2>Search: step time against memory</h2>'
        '<p>Bold and joined: no other candidate is both faster and smaller. The middle of each bracket counts.</p>'
        f'{scatter(search)}{_table(("#step", "#memory", "changes"), rows, search["front"])}'
        f'<h2>Recommended</h2>{pasted}</section>'
    )


def _config(plan: dict) -> str:
    default = flatten(default_config())
    changed = [(k, repr(v), repr(default[k])) for k, v in flatten(plan['config']).items() if v != default.get(k)]
    everything = escape(json.dumps(plan['config'], indent=2))
    return (
        '<section><h2>Config</h2>' + _table(('key', 'value', 'default'), changed) + '<details><summary>all keys'
        f'</summary><pre>{everything}</pre></details></section>'
    )
