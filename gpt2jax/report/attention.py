"""Attention weights as numbers, as a picture, and as a page where one can ask each token what it reads.

Axes: N layers, H heads, L queries or keys.
"""

import base64
import io
import json
import string
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import gpt2jax
from gpt2jax.files import replace_file
from gpt2jax.report.page import escape

_FOLDER = Path(__file__).parent
STATISTICS = {  # name: (heading, what it means)
    'entropy': ('entropy', 'of what a token reads, in bits: 0 is one token alone, 3 as many as eight alike'),
    'distance': ('distance', 'to what is read, in tokens'),
    'first': ('first', 'share of the weight on the first token'),
    'itself': ('itself', 'share on the token that reads'),
    'previous': ('previous', 'share on the token before it'),
    'next': ('next', 'share on the token after it'),
}


@dataclass(frozen=True)
class AttentionReport:
    """What a page and a picture show.

    Attributes:
      name: of the run and its step, for the heading.
      tokens: their texts, as people read them.
      special: which of them are special tokens.
      visibility: in words, who may see whom.
      maps: [N, H, L, L] float32; a row is what one token reads, and sums to 1.
      note: what was left out, or ''.
    """

    name: str
    tokens: list[str]
    special: list[bool]
    visibility: str
    maps: np.ndarray
    note: str = ''


def head_statistics(maps_NHLL: np.ndarray) -> dict[str, np.ndarray]:
    """The STATISTICS of every head, [N, H] each: means over the tokens that read.

    The shares of the first and the previous token are over all readers but the first token, that of the next one over
    all but the last, which have no such token to read.
    """
    maps_NHLL = maps_NHLL.astype(np.float64)
    L = maps_NHLL.shape[-1]
    index_L = np.arange(L)
    distance_LL = abs(index_L[:, None] - index_L)
    logs_NHLL = np.log2(np.where(maps_NHLL > 0, maps_NHLL, 1))

    def share(queries, keys):
        return maps_NHLL[..., queries, keys].sum(-1) / max(len(queries), 1)

    return {
        'entropy': -(maps_NHLL * logs_NHLL).sum((-2, -1)) / L,
        'distance': (maps_NHLL * distance_LL).sum((-2, -1)) / L,
        'first': share(index_L[1:], 0 * index_L[1:]),
        'itself': share(index_L, index_L),
        'previous': share(index_L[1:], index_L[:-1]),
        'next': share(index_L[:-1], index_L[1:]),
    }


def write_attention(out: Path, report: AttentionReport) -> tuple[Path, Path]:
    """Writes OUT.html and OUT.png; returns their paths.

    Raises:
      UserError: they cannot be written.
    """
    html_path, png_path = out.with_name(f'{out.name}.html'), out.with_name(f'{out.name}.png')
    replace_file(html_path, attention_page(report).encode())
    replace_file(png_path, attention_picture(report))
    return html_path, png_path


def attention_page(report: AttentionReport) -> str:
    """A page that loads nothing from elsewhere."""
    template = string.Template((_FOLDER / 'attention.html').read_text('utf-8'))
    N, H, L, _ = report.maps.shape
    return template.substitute(
        name=escape(report.name),
        style=(_FOLDER / 'attention.css').read_text('utf-8').strip(),
        facts=escape(f'{N} layers, {H} heads, {L} tokens; {report.visibility}'),
        note=f'<p class="note">{escape(report.note)}</p>' if report.note else '',
        table=_table(report),
        data=_data(report),
        script=(_FOLDER / 'attention.js').read_text('utf-8').strip(),
        footer=f'Written by gpt2jax {escape(gpt2jax.__version__)}. This page loads nothing from elsewhere.',
    )


def attention_picture(report: AttentionReport) -> bytes:
    """A PNG of all heads: a row of the grid is a layer, a row of a map what one token reads."""
    N, H, *_ = report.maps.shape
    cell = 0.95 if H > 8 else 1.25
    with matplotlib.rc_context({'font.family': 'DejaVu Sans', 'font.size': 8}):
        figure = Figure(figsize=(max(cell * H, 3) + 0.6, cell * N + 0.5), dpi=200, facecolor='white')
        figure.set_layout_engine('constrained', w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        FigureCanvasAgg(figure)
        grid = figure.subplots(N, H, squeeze=False)
        for (layer, head), axes in np.ndenumerate(grid):
            axes.imshow(np.sqrt(report.maps[layer, head]), cmap=_BLUES, vmin=0, vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color='#d9d6cf', linewidth=0.6)
            if not layer:
                axes.set_title(f'head {head + 1}' if H <= 8 else str(head + 1), color='#5f6066', fontsize=8, pad=3)
            if not head:
                axes.set_ylabel(f'layer {layer + 1}' if N <= 8 else str(layer + 1), color='#5f6066', fontsize=8)
        figure.suptitle(f'What each token (row) reads (column) · {report.name}', color='#1d1d1f', fontsize=9, x=0.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format='png')
    return buffer.getvalue()


_BLUES = LinearSegmentedColormap.from_list('blues', ['#ffffff', '#b9cde3', '#245a96', '#0d2a4d'])


def _data(report: AttentionReport) -> str:
    """JSON for a script element: a weight w is the byte round(255 sqrt(w)), so that small ones differ as well."""
    bytes_NHLL = np.round(255 * np.sqrt(np.clip(report.maps, 0, 1))).astype(np.uint8)
    statistics = {name: np.round(values, 4).tolist() for name, values in head_statistics(report.maps).items()}
    data = {
        'shape': list(bytes_NHLL.shape),
        'tokens': report.tokens,
        'special': report.special,
        'statistics': statistics,
        'weights': base64.b64encode(bytes_NHLL.tobytes()).decode(),
    }
    # JSON in which no character can end the element or open another one.
    return json.dumps(data).replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _table(report: AttentionReport) -> str:
    heads = ''.join(f'<th scope="col" title="{escape(what)}">{name}</th>' for name, what in STATISTICS.values())
    statistics = head_statistics(report.maps)
    rows = []
    for layer, head in np.ndindex(report.maps.shape[:2]):
        cells = ''.join(f'<td>{show(name, values[layer, head])}</td>' for name, values in statistics.items())
        rows.append(f'<tr><td>{layer + 1}</td><td>{head + 1}</td>{cells}</tr>')
    return (
        '<table><thead><tr><th scope="col">layer</th><th scope="col">head</th>'
        f'{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def show(name: str, value: float) -> str:
    """One of the STATISTICS, for people."""
    return f'{value:.2f}' if name in ('entropy', 'distance') else f'{value:.0%}'
