"""The drawing of a coordinate check: a column a quantity, a row a parametrization, a line a step."""

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

INK, MUTED, GRID, BLUES = '#1d1d1f', '#5f6066', '#e4e2dd', ('#a9c1dc', '#0f3358')
LEAST_RANGE = 30
TITLES = {'standard': 'standard', 'mup': 'muP'}
STYLE = {
    'font.size': 9,
    'font.family': 'DejaVu Sans',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': MUTED,
    'xtick.color': MUTED,
    'ytick.color': MUTED,
}


def coordinate_picture(widths: list[int], measured: dict[str, list[list[dict]]]) -> bytes:
    """A PNG of how far each step moves activations, against the width, on logarithmic axes.

    Args:
      measured: parametrization -> a list a width, of what gpt2jax.training.coordinates.measure yields.
    """
    names = shown(next(iter(measured.values()))[0][0]['size'])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * len(names) + 0.6, 5.2), dpi=160, facecolor='white', layout='constrained')
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(measured), len(names), sharex=True, sharey='col', squeeze=False)
        for row, (kind, runs) in zip(grid, measured.items(), strict=True):
            for axes, name in zip(row, names, strict=True):
                _lines(axes, widths, runs, name)
            row[0].set_ylabel(f'{TITLES[kind]}\nmean |x - x of step 0|', color=INK)
        for axes, name in zip(grid[0], names, strict=True):
            _widen(axes)
            axes.set_title(name, loc='left', color=INK, fontweight='bold', fontsize=10)
        for axes in grid[-1]:
            axes.set_xlabel('width', color=MUTED, loc='right')
        grid[0, 0].legend(frameon=False, fontsize=7.5, labelcolor=INK)
        buffer = io.BytesIO()
        figure.savefig(buffer, format='png')
    return buffer.getvalue()


def shown(names) -> list[str]:
    """What there is room for: the first and the last block, the last scores, and the two ends of the model."""
    last = {name.partition(' ')[0]: name for name in names}
    chosen = ['block 1', last.get('block'), last.get('scores'), 'hidden', 'logits']
    return [name for name in dict.fromkeys(chosen) if name in names]


def _lines(axes: Axes, widths: list[int], runs: list[list[dict]], name: str) -> None:
    """The change after each step, later ones darker; dotted, the size at the start."""
    light, dark = (matplotlib.colors.to_rgb(color) for color in BLUES)
    steps = len(runs[0]) - 1
    axes.plot(widths, [run[0]['size'][name] for run in runs], ':', color=MUTED, linewidth=1.2, label='|x| at step 0')
    for step in range(1, steps + 1):
        share = 1 if steps == 1 else (step - 1) / (steps - 1)
        color = [a + share * (b - a) for a, b in zip(light, dark, strict=True)]
        values = [run[step]['change'][name] for run in runs]
        axes.plot(widths, values, color=color, linewidth=1.6, marker='o', markersize=3, label=f'step {step}')
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xticks(widths)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.0f}'))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis='y', color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _widen(axes: Axes) -> None:
    """At least LEAST_RANGE from bottom to top, so that what is nearly flat looks flat."""
    low, high = axes.get_ylim()
    missing = max(1, LEAST_RANGE * low / high) ** 0.5
    axes.set_ylim(low / missing, high * missing)
