"""The drawings of a report: SVG that follows the page's light or dark colours, and one PNG for a README."""

import io
import math
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullFormatter

from gpt2jax.evaluation.measures import LIKE_THE_LOSS, SCORES
from gpt2jax.report.reading import Run, column, smooth
from gpt2jax.training.display import clock_time, short_number
from gpt2jax.training.metrics import Record, is_finite

# For the page: stand-ins that are exchanged for CSS variables of the same name once the SVG is written.
_PAGE = {
    name: f'#00000{number}'
    for number, name in enumerate(['ink', 'muted', 'grid', 'train', 'raw', 'score', 'bad', 'paper'], start=1)
}
_PRINT = {
    'ink': '#1d1d1f',
    'muted': '#5f6066',
    'grid': '#e4e2dd',
    'train': '#245a96',
    'raw': '#b9cde3',
    'score': '#b0461c',
    'bad': '#b3261e',
    'paper': '#ffffff',
}
_MAX_POINTS = 1200  # beyond it a curve is thinned to the extremes of each stretch

X_AXES = {'step': 'steps', 'tokens': 'tokens', 'seconds': 'training time'}


def curves(run: Run, x_name: str) -> list[tuple[str, str]]:
    """(title, SVG) of the training loss and of the validation score against steps, tokens or seconds."""
    drawings = [('Loss, nats per token', svg(lambda axes, colors: _loss(axes, run, x_name, colors)))]
    if run.evaluations:
        title = f'Validation, {SCORES[run.score]}'
        drawings.append((title, svg(lambda axes, colors: _score(axes, run, x_name, colors))))
    return drawings


def vitals(run: Run) -> list[tuple[str, str]]:
    """(title, SVG) of learning rate, gradient norm and throughput against steps, where measured."""
    drawings = []
    for name, title in (
        ('learning_rate', 'Learning rate'),
        ('gradient_norm', 'Gradient norm'),
        ('tokens_per_second', 'Tokens per second'),
    ):
        if np.isfinite(column(run.training, name)).any():
            drawings.append((title, svg(lambda axes, colors, name=name: _vital(axes, run, name, colors), (3.5, 1.9))))
    return drawings


def picture(run: Run) -> bytes:
    """A PNG of training loss and validation score against steps, for a README."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), dpi=160, facecolor=_PRINT['paper'], layout='constrained')
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(wspace=0.06)
        left, right = figure.subplots(1, 2)
        _loss(left, run, 'step', _PRINT)
        _score(right, run, 'step', _PRINT)
        score = SCORES[run.score]
        for axes, title in ((left, 'Loss, nats per token'), (right, f'Validation, {score}')):
            axes.set_title(title, loc='left', color=_PRINT['ink'], fontsize=11, fontweight='bold', pad=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format='png')
    return buffer.getvalue()


STYLE: dict[str, Any] = {
    'font.size': 9.5,
    'font.family': 'DejaVu Sans',
    'svg.fonttype': 'none',
    'svg.hashsalt': 'gpt2jax',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.spines.left': False,
    'xtick.major.size': 3,
    'ytick.major.size': 0,
    'ytick.minor.size': 0,
    'lines.solid_capstyle': 'round',
}


def svg(
    draw: Callable[[Axes, dict[str, str]], None],
    size: tuple[float, float] = (4.4, 2.7),
    colors: dict[str, str] | None = None,
) -> str:
    """One drawing as an SVG element to put into a page: no ids, no namespaces, colours as CSS variables.

    Args:
      colors: name of a CSS variable -> a colour that stands for it in the drawing; by default those of a run's report.
    """
    colors = colors or _PAGE
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=72, layout='constrained')
        figure.patch.set_visible(False)
        draw(figure.subplots(), colors)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={'Creator': None, 'Date': None, 'Format': None, 'Type': None}
        )
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    for name, color in colors.items():
        text = text.replace(color, f'var(--{name})')
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1)
    text = re.sub(r'<g id="[^"]*"', '<g', text)
    return text.replace('xlink:href', 'href').strip()


def _loss(axes: Axes, run: Run, x_name: str, colors: dict[str, str]) -> None:
    x_N, loss_N = column(run.training, x_name), column(run.training, 'loss')
    _dress(axes, run, x_name, colors)
    if not np.isfinite(loss_N).any():
        _empty(axes, 'no training loss yet', colors)
        return
    # One exploding value must not flatten the rest of the curve, nor pull its mean.
    wild_N = ~(loss_N <= 3 * abs(loss_N[np.isfinite(loss_N)][0]))
    loss_N = np.where(wild_N, np.nan, loss_N)
    smooth_N = smooth(loss_N)
    axes.margins(y=0.15)
    axes.plot(*_thin(x_N, loss_N), color=colors['raw'], linewidth=1)
    axes.plot(*_thin(x_N, smooth_N), color=colors['train'], linewidth=1.8, marker=_marker(loss_N), markersize=4)
    _label(axes, x_N, smooth_N, 'training', colors['train'], above=False)
    x_E, value_E = column(run.evaluations, x_name), like_the_loss(run.evaluations)
    if np.isfinite(value_E).any():
        axes.plot(x_E, value_E, color=colors['score'], linewidth=1.2, marker='o', markersize=3.2)
        _label(axes, x_E, value_E, 'validation', colors['score'], above=True)
    if wild_N.any():
        for x in x_N[wild_N][:20]:
            axes.axvline(x, color=colors['bad'], linewidth=1, linestyle=(0, (2, 2)))
        axes.set_title('dashed: not finite or off the scale', loc='right', fontsize=8, color=colors['bad'])


def like_the_loss(evaluations: list[Record]) -> np.ndarray:
    """[N]: what compares with the training loss, of the objective that was trained with at that time; else NaN."""
    names = [LIKE_THE_LOSS.get(r.get('objective', 'causal'), '') for r in evaluations]
    return np.array([column([r], name)[0] for r, name in zip(evaluations, names, strict=True)])


def _score(axes: Axes, run: Run, x_name: str, colors: dict[str, str]) -> None:
    _dress(axes, run, x_name, colors)
    x_E, value_E = column(run.evaluations, x_name), column(run.evaluations, run.score)
    if not np.isfinite(value_E).any():
        _empty(axes, 'not evaluated', colors)
        return
    axes.plot(x_E, value_E, color=colors['score'], linewidth=1.8, marker='o', markersize=3.6)
    best = int(np.nanargmin(value_E))
    axes.plot(
        x_E[best],
        value_E[best],
        'o',
        markersize=8,
        color=colors['score'],
        fillstyle='none',
        markeredgewidth=1.6,
    )
    side = 'right' if best > (len(value_E) - 1) / 2 else 'left'
    axes.margins(y=0.15)
    axes.annotate(
        f'best {value_E[best]:.3f}',
        (x_E[best], value_E[best]),
        xytext=(-9 if side == 'right' else 9, -12),  # below the best there is no curve
        textcoords='offset points',
        ha=side,
        color=colors['score'],
        fontweight='bold',
    )


def _vital(axes: Axes, run: Run, name: str, colors: dict[str, str]) -> None:
    x_N, value_N = column(run.training, 'step'), column(run.training, name)
    _dress(axes, run, 'step', colors)
    positive = value_N[value_N > 0]
    if name == 'gradient_norm' and positive.size and positive.max() > 10 * np.median(positive):
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * np.nanmax(value_N) or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    if name == 'learning_rate':
        axes.plot(*_thin(x_N, value_N), color=colors['train'], linewidth=1.6, marker=_marker(value_N))
        return
    axes.plot(*_thin(x_N, value_N), color=colors['raw'], linewidth=0.9)
    axes.plot(*_thin(x_N, smooth(value_N)), color=colors['train'], linewidth=1.6, marker=_marker(value_N))


def _dress(axes: Axes, run: Run, x_name: str, colors: dict[str, str]) -> None:
    """Everything but the data: a quiet grid, units on the ticks, the x axis named once."""
    axes.patch.set_visible(False)
    axes.grid(axis='y', color=colors['grid'], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines['bottom'].set_color(colors['muted'])
    axes.tick_params(colors=colors['muted'], labelcolor=colors['muted'])
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(_TICKS[x_name]))
    axes.set_xlabel(X_AXES[x_name], color=colors['muted'], loc='right')
    axes.margins(y=0.1)
    # The same for every drawing of a run, so that they can be compared side by side.
    last = max([r[x_name] for r in run.training + run.evaluations if is_finite(r.get(x_name))], default=0)
    if last > 0:
        axes.set_xlim(-0.02 * last, 1.02 * last)
    if x_name == 'seconds':
        axes.xaxis.set_major_locator(MultipleLocator(_clock_step(last / 5)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))


def _clock_step(seconds: float) -> float:
    """The least round time of at least `seconds`."""
    hour, day = 3600, 86_400
    rounds = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, hour, 2 * hour, 4 * hour, 6 * hour, 12 * hour]
    return next((step for step in rounds if step >= seconds), day * math.ceil(seconds / day))


def _tick(value: float) -> str:
    if value == 0 or abs(value) >= 0.01:
        return short_number(value)
    digits, exponent = f'{value:.2e}'.split('e')
    return f'{float(digits):g}e{int(exponent)}'


_TICKS: dict[str, Callable[[float, int], str]] = {
    'step': lambda value, _: f'{value:,.0f}',
    'tokens': lambda value, _: short_number(value),
    'seconds': lambda value, _: clock_time(value) if value >= 0 else '',
}


def _empty(axes: Axes, text: str, colors: dict[str, str]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', color=colors['muted'])


def _label(axes: Axes, x_N: np.ndarray, y_N: np.ndarray, text: str, color: str, above: bool) -> None:
    """Names a curve beside its last point, in its colour: no legend to look up."""
    last = int(np.flatnonzero(np.isfinite(y_N))[-1])
    axes.annotate(
        text,
        (x_N[last], y_N[last]),
        xytext=(0, 9 if above else -9),
        textcoords='offset points',
        ha='right',
        va='bottom' if above else 'top',
        color=color,
    )


def _marker(values_N: np.ndarray) -> str:
    """Few points are drawn as points; one alone would otherwise be invisible."""
    return 'o' if np.isfinite(values_N).sum() <= 3 else ''


def _thin(x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about _MAX_POINTS points: the lowest and the highest of each stretch, so that spikes stay."""
    known_N = np.isfinite(x_N) & np.isfinite(y_N)
    if known_N.sum() <= _MAX_POINTS:
        return x_N, y_N
    x_N, y_N = x_N[known_N], y_N[known_N]
    keep: set[int] = {0, len(y_N) - 1}
    for stretch in np.array_split(np.arange(len(y_N)), _MAX_POINTS // 2):
        keep |= {int(stretch[np.argmin(y_N[stretch])]), int(stretch[np.argmax(y_N[stretch])])}
    index = sorted(keep)
    return x_N[index], y_N[index]
