"""The page of a report: page.html filled section by section. Every text that comes from a file is escaped."""

import html
import json
import re
import shlex
import string
from pathlib import Path
from typing import Any

import numpy as np

import gpt2jax
from gpt2jax.evaluation.measures import SCORES
from gpt2jax.report.figures import X_AXES, curves, vitals
from gpt2jax.report.reading import SPLIT, Run, column
from gpt2jax.training.display import clock_time, short_number
from gpt2jax.training.metrics import is_finite

_FOLDER = Path(__file__).parent
_MAX_EVALUATIONS = 200  # rows of the table; the figures show them all
_ABSENT = object()
_METHODS = {'infilling': ', by iterated infilling: not a sample of a likelihood', 'answer': ', the answer to a mask'}
_ACCURACIES = {
    'masked_accuracy': 'hidden tokens right',
    'prefix_accuracy': 'tokens after the prefix right',
    'span_accuracy': 'tokens of the spans right',
}


def page(run: Run) -> str:
    """The whole report.html of a run."""
    template = string.Template((_FOLDER / 'page.html').read_text('utf-8'))
    return template.substitute(
        name=escape(run.name),
        style=(_FOLDER / 'style.css').read_text('utf-8').strip(),
        outcome=outcome(run),
        tiles=_tiles(run),
        notices=_notices(run),
        curves=_curves(run),
        vitals=_vitals(run),
        samples=_samples(run),
        evaluations=_evaluations(run),
        config=_config(run),
        info=_info(run),
        command=_command(run),
        footer=f'Written by gpt2jax {escape(gpt2jax.__version__)}. This page loads nothing from elsewhere.',
    )


def escape(value: Any) -> str:
    """Text for HTML: markup made harmless, control characters and lone surrogates made visible."""
    text = str(value).replace('\r\n', '\n')
    text = re.sub(r'[\x00-\x08\x0b-\x1f]', lambda match: chr(0x2400 + ord(match[0])), text)
    return html.escape(re.sub(r'[\x7f-\x9f\ud800-\udfff]', '\ufffd', text))


def outcome(run: Run) -> str:
    """The result of the run in a sentence, as HTML."""
    history, best = run.history, run.history.best_evaluation
    effort = f'{short_number(history.tokens)} tokens in {_words(history.seconds)} of training'
    rate = _median(run, 'tokens_per_second')
    if rate:
        effort += f', {round(rate):,} tokens a second'
    if best:
        score = f'{best[run.score]:.3f} {SCORES[run.score]}'
        where = f'at step {best["step"]:,} of {history.step:,}'
        return f'Best validation: <strong>{score}</strong> {where}; {effort}.'
    if run.training:
        loss = run.training[-1].get('loss')
        shown = f'{loss:.3f}' if is_finite(loss) else 'not finite'
        return f'Training loss at step {history.step:,}: <strong>{shown}</strong>. {effort}.'
    return 'Nothing has been measured yet.'


def _words(seconds: float) -> str:
    if seconds < 1:
        return 'less than a second'
    return f'{seconds:.0f} seconds' if 2 <= seconds < 100 else clock_time(seconds)


def _median(run: Run, name: str) -> float | None:
    values = column(run.training, name)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def _tiles(run: Run) -> str:
    history, best = run.history, run.history.best_evaluation
    tiles = []
    if best:
        tiles.append((SCORES[run.score], f'{best[run.score]:.3f}'))
        if is_finite(best.get('perplexity')):
            tiles.append(('perplexity per token', f'{best["perplexity"]:.4g}'))
        for name, label in _ACCURACIES.items():
            if is_finite(best.get(name)):
                tiles.append((label, f'{best[name]:.1%}'))
    for other in run.others:
        if is_finite(other.get(run.score)):
            tiles.append((f'{other.get("split")}, {SCORES[run.score]}', f'{other[run.score]:.3f}'))
    if run.info and is_finite(run.info.get('parameters')):
        tiles.append(('parameters', short_number(run.info['parameters'])))
    tiles.append(('steps', f'{history.step:,}'))
    tiles.append(('tokens', short_number(history.tokens)))
    tiles.append(('training time', clock_time(history.seconds)))
    for name, label, shown in (
        ('tokens_per_second', 'tokens a second', short_number),
        ('mfu', 'MFU', '{:.1%}'.format),
    ):
        value = _median(run, name)
        if value is not None:
            tiles.append((label, shown(value)))
    cells = ''.join(f'<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>' for label, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _notices(run: Run) -> str:
    if not run.notices:
        return ''
    return f'<ul class="notices">{"".join(f"<li>{escape(notice)}</li>" for notice in run.notices)}</ul>'


def _figures(drawings: list[tuple[str, str]]) -> str:
    return ''.join(f'<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>' for title, svg in drawings)


def _curves(run: Run) -> str:
    """Loss and score against three x axes, one at a time, switched by radio buttons without any script."""
    if not run.training and not run.evaluations:
        return ''
    buttons, panels = [], []
    for name, label in X_AXES.items():
        checked = ' checked' if name == 'step' else ''
        button = f'<input type="radio" name="x" id="x-{name}"{checked}><label for="x-{name}">{label}</label>'
        buttons.append(button)
        panels.append(f'<div class="drawings x-{name}">{_figures(curves(run, name))}</div>')
    return (
        '<section class="tabs"><h2>Learning curves</h2>'
        f'<fieldset><legend>Horizontal axis</legend>{"".join(buttons)}</fieldset>'
        f'{"".join(panels)}'
        '<p>Pale: every measurement. Dark: a centred mean. Dots: evaluations of the validation split.</p>'
        '</section>'
    )


def _vitals(run: Run) -> str:
    drawings = vitals(run)
    if not drawings:
        return ''
    return f'<section><h2>Optimization</h2><div class="drawings small">{_figures(drawings)}</div></section>'


def _samples(run: Run) -> str:
    if not run.samples:
        return ''
    shown = []
    for number, sample in enumerate(run.samples, start=1):
        prompt, text = str(sample.get('prompt') or ''), sample['text']
        step = f' at step {sample["step"]:,}' if is_finite(sample.get('step')) else ''
        how = _METHODS.get(sample.get('method'), '')
        marked = f'<span class="prompt">{escape(prompt)}</span>' if prompt else ''
        marked += escape(text.removeprefix(prompt))
        shown.append(
            f'<figure><figcaption>Sample {number}{step}{how}</figcaption>'
            f'<blockquote dir="auto" tabindex="0">{marked}</blockquote></figure>'
        )
    return (
        '<section><h2>Samples</h2><p>Written by the model; prompts are in colour.</p>'
        f'<div class="samples">{"".join(shown)}</div></section>'
    )


def _evaluations(run: Run) -> str:
    if not run.evaluations:
        return ''
    best = run.history.best_evaluation
    names = [n for n in (*SCORES, 'perplexity', *_ACCURACIES) if any(n in r for r in run.evaluations)]
    rows = []
    for record in run.evaluations[-_MAX_EVALUATIONS:]:
        cells = [
            f'{record["step"]:,}',
            short_number(record.get('tokens', 0)),
            clock_time(record.get('seconds', 0)),
        ]
        cells += [f'{record[n]:,.3f}' if is_finite(record.get(n)) else str(record.get(n)) for n in names]
        marked = ' class="best"' if best and record['step'] == best['step'] else ''
        rows.append(f'<tr{marked}>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>')
    heads = ['step', 'tokens', 'time', *(name.replace('_', ' ') for name in names)]
    return (
        '<section><h2>Evaluations</h2>'
        f'<details><summary>{len(run.evaluations):,} on the {SPLIT} split</summary>'
        '<div class="scroll"><table class="number"><thead><tr>'
        f'{"".join(f"<th scope=col>{head}</th>" for head in heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div></details></section>'
    )


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'model.width': 128, ...}: the leaves of nested dicts by dotted path."""
    leaves = {}
    for key, value in tree.items():
        path = f'{prefix}{key}'
        leaves |= _flat(value, f'{path}.') if isinstance(value, dict) and value else {path: value}
    return leaves


def _value(value: Any) -> str:
    return escape(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))


def _table(rows: dict[str, Any], defaults: dict[str, Any] | None = None) -> str:
    heads, body = ['key', 'value'], []
    if defaults is not None:
        heads.append('default')
    for key, value in rows.items():
        cells = f'<th scope="row">{escape(key)}</th><td>{_value(value)}</td>'
        if defaults is not None:
            cells += f'<td class="default">{_value(defaults[key]) if key in defaults else "none"}</td>'
        body.append(f'<tr>{cells}</tr>')
    head = ''.join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="scroll"><table class="keys"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div>'
    )


def _config(run: Run) -> str:
    if run.config is None:
        return ''
    whole = _flat(run.config)
    if run.defaults is None:
        changed = ''
    else:
        defaults = _flat(run.defaults)
        different = {k: v for k, v in whole.items() if defaults.get(k, _ABSENT) != v}
        changed = _table(different, defaults) if different else '<p>Everything is as by default.</p>'
        changed = f'<p>What this run changed.</p>{changed}' if different else changed
    return (
        f'<section><h2>Configuration</h2>{changed}'
        f'<details><summary>All {len(whole)} keys</summary>{_table(whole)}</details></section>'
    )


def _info(run: Run) -> str:
    rows = {} if run.info is None else {k: v for k, v in run.info.items() if k != 'command'}
    if not rows:
        return ''
    named = {
        key.replace('_', ' ').replace('.', ' · '): f'{value:,}' if type(value) is int else value
        for key, value in _flat(rows).items()
    }
    return f'<section><h2>Versions and device</h2>{_table(named)}</section>'


def _command(run: Run) -> str:
    command = None if run.info is None else run.info.get('command')
    if not command:
        return ''
    if isinstance(command, list):
        command = shlex.join(str(word) for word in command)
    return f'<section><h2>To reproduce</h2><pre><code>{escape(command)}</code></pre></section>'
