"""The drawings of a study: curves with bands over seeds, and differences to the baseline as a forest plot."""

import io
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2jax.report.figures import STYLE
from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.findings import Finding
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.words import label, spent

COLORS = ('#245a96', '#b0461c', '#1a7a55', '#7d4aa8', '#876a00', '#b8307a', '#3d6b7d', '#5f6066')
DARK = ('#86b6ea', '#f0976a', '#6ecba5', '#c3a0e8', '#d9bd5a', '#f08fc0', '#93c4d6', '#b4b5bc')
DASHES = ('-', '--', ':')  # for more arms than colours
INKS = {'ink': '#1d1d1f', 'muted': '#5f6066', 'grid': '#e4e2dd', 'paper': '#ffffff'}
PRINT = INKS | {f'arm{index}': color for index, color in enumerate(COLORS)}
PAGE = {name: f'#0000{index:02x}' for index, name in enumerate(PRINT, start=1)}  # stand for CSS variables
SHOWN_FROM = 0.25  # share of the longest run from which on all curves are in the picture

Draw = Callable[[Axes, dict[str, str]], None]


def drawn_figures(evidence: Evidence) -> list[str]:
    """What there are curves of: the deciding figures that are evaluated in training, and that of the goal."""
    figures = dict.fromkeys([*evidence.decide, *([evidence.goal[0]] if evidence.goal else [])])
    points = [point for run in evidence.main for point in run.curve]
    return [figure for figure in figures if any(figure in point for point in points)] or [evidence.decide[0]]


def draw_curves(evidence: Evidence, figure: str, measure: str) -> Draw:
    """A figure against one of MEASURES: a line an arm, the mean of its seeds, and a band over all of them.

    The goal, if it is one of this figure, is a line across.
    """

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        dress(axes, colors)
        heights, ends = [], []
        for index, name in enumerate(evidence.arms):
            x_N, y_SN = arm_curve(evidence, figure, name, measure)
            if not len(x_N):
                continue
            color, dash = colors[f'arm{index % len(COLORS)}'], DASHES[index // len(COLORS) % len(DASHES)]
            mean_N = y_SN.mean(0)
            if len(y_SN) > 1:
                axes.fill_between(x_N, y_SN.min(0), y_SN.max(0), color=color, alpha=0.16, linewidth=0)
            axes.plot(x_N, mean_N, dash, color=color, linewidth=1.7, marker='o', markersize=2.6, label=name)
            ends.append(x_N[-1])
            heights.append((x_N, y_SN))
        if not ends:
            axes.text(0.5, 0.5, 'nothing measured yet', transform=axes.transAxes, ha='center', color=colors['muted'])
            return
        shown = [y_SN[:, x_N >= SHOWN_FROM * max(ends)].ravel() for x_N, y_SN in heights]
        inside = np.concatenate([part for part in shown if part.size] or [y_SN.ravel() for _, y_SN in heights])
        margin = 0.06 * (np.ptp(inside) or abs(inside[0]) or 1)
        axes.set_ylim(inside.min() - margin, inside.max() + margin)
        axes.set_xlim(0, 1.03 * max(ends))
        if evidence.goal and evidence.goal[0] == figure:
            axes.axhline(evidence.goal[1], color=colors['ink'], linewidth=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: spent(measure, max(value, 0))))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(MEASURES[measure], color=colors['muted'], loc='right')

    return draw


def arm_curve(evidence: Evidence, figure: str, arm: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """([N] what was spent on average, [S, N] the figure of each seed) at the evaluations that all seeds have."""
    curves = []
    for run in evidence.main:
        points = [(point[measure], point[figure]) for point in run.curve if figure in point]
        if run.arm == arm and points:
            curves.append(np.array(points))
    if not curves:
        return np.zeros(0), np.zeros((0, 0))
    count = min(map(len, curves))
    curves_SN2 = np.stack([curve[:count] for curve in curves])
    return curves_SN2[..., 0].mean(0), curves_SN2[..., 1]


def draw_forest(evidence: Evidence, finding: Finding) -> Draw:
    """Differences to the baseline with their 95 % intervals; a hollow point has none."""
    rows = [one for one in finding.arms if one.versus is not None]
    scale = 100 if finding.figure.endswith('accuracy') else 1

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        dress(axes, colors)
        axes.grid(axis='y', visible=False)
        axes.grid(axis='x', color=colors['grid'], linewidth=0.8)
        axes.axvline(0, color=colors['ink'], linewidth=1)
        for row, one in enumerate(rows):
            difference, color = one.versus.difference, colors[f'arm{list(evidence.arms).index(one.arm) % len(COLORS)}']
            if difference.t:
                axes.plot([scale * bound for bound in difference.t], [row, row], color=color, linewidth=2)
            fill = color if difference.t else colors['paper']
            axes.plot(scale * difference.mean, row, 'o', color=color, markerfacecolor=fill, markersize=6)
        axes.set_yticks(range(len(rows)), [one.arm for one in rows], color=colors['ink'])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        unit = f'{label(finding.figure)}, points' if scale == 100 else label(finding.figure)
        side = 'left' if finding.lower else 'right'
        axes.set_xlabel(f'{unit}, minus {finding.baseline} ({side} of 0 is better)', color=colors['muted'], loc='right')

    return draw


def forest_size(finding: Finding) -> tuple[float, float]:
    """Inches: a row an arm."""
    return 6.2, 0.75 + 0.3 * max(1, sum(one.versus is not None for one in finding.arms))


def print_picture(draw: Draw, size: tuple[float, float], kind: str, legend: bool = False) -> bytes:
    """A drawing for a paper: 'png' or 'svg', on white."""
    with matplotlib.rc_context(STYLE | {'svg.fonttype': 'path'}):
        figure = Figure(figsize=size, dpi=200, facecolor='white', layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        draw(axes, PRINT)
        if legend and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, labelcolor=PRINT['ink'])
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={'Date': None} if kind == 'svg' else None)
    return buffer.getvalue()


def dress(axes: Axes, colors: dict[str, str]) -> None:
    """Axes as all drawings of studies have them."""
    axes.patch.set_visible(False)
    axes.grid(axis='y', color=colors['grid'], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines['bottom'].set_color(colors['muted'])
    axes.tick_params(colors=colors['muted'], labelcolor=colors['muted'])
