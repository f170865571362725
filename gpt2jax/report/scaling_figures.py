"""The drawings of a scaling law: isoFLOP curves, the fit, its residuals, and what it expects beyond the runs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from gpt2jax.report.study_figures import COLORS, Draw, dress
from gpt2jax.studies.frontier import best_sizes
from gpt2jax.studies.scaling import LEVEL
from gpt2jax.studies.scaling_findings import BEYOND, ScalingFinding
from gpt2jax.studies.words import label
from gpt2jax.training.display import short_number

SIZE = (6.0, 4.0)
LINE = 120  # points of a curve
MARKERS = 'osD^vPX*'


def scaling_drawings(finding: ScalingFinding) -> dict[str, tuple[str, Draw]]:
    """Name of a file -> (title, drawing); the last two only where a best size is known."""
    if finding.fit is None:
        return {}
    name = label(finding.figure)
    found = {
        'isoflop': (f'IsoFLOP curves: {name} against parameters', draw_isoflops(finding)),
        'fit': (f'The fitted law: {name} against tokens', draw_fit(finding)),
        'residuals': ('What the law misses: measured over fitted, minus one', draw_residuals(finding)),
    }
    if finding.optima:
        found |= {
            'extrapolation': (f'The least {name} that FLOPs can buy', draw_extrapolation(finding)),
            'optimal-size': ('Compute-optimal parameters', draw_best_size(finding)),
        }
    return {f'scaling-{key}': value for key, value in found.items()}


def draw_isoflops(finding: ScalingFinding) -> Draw:
    """Loss against N, a colour a budget: measured, the parabola through them with its lowest point, and the law."""

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        _dress_logs(axes, colors, 'parameters, without embeddings')
        for index, one in enumerate(finding.parabolas):
            color, mark = colors[f'arm{index % len(COLORS)}'], MARKERS[index % len(MARKERS)]
            n_N = np.geomspace(one.n.min(), one.n.max(), LINE)
            axes.plot(one.n, one.loss, mark, color=color, markersize=4.5, label=f'{one.flops:.2g} FLOPs')
            axes.plot(n_N, finding.fit.law.loss(n_N, one.flops / finding.cost.of(n_N)), color=color, linewidth=1.4)
            if one.coefficients is not None:
                axes.plot(n_N, np.polyval(one.coefficients, np.log(n_N)), ':', color=color, linewidth=1.3)
            if one.best is not None:
                axes.plot(one.best[0], one.best[2], mark, color=color, markerfacecolor='none', markersize=11)
        if not finding.parabolas:
            axes.text(
                0.5,
                0.5,
                'no two sizes have the same FLOPs',
                transform=axes.transAxes,
                ha='center',
                color=colors['muted'],
            )
        _legend(axes, colors)

    return draw


def draw_fit(finding: ScalingFinding) -> Draw:
    """Loss against D, a colour a size: measured, and the law."""

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        _dress_logs(axes, colors, 'tokens read')
        for color, mark, size, chosen in _by_size(finding, colors):
            d_N = np.geomspace(finding.fit.d.min(), finding.fit.d.max(), LINE)
            axes.plot(
                finding.fit.d[chosen], finding.fit.loss[chosen], mark, color=color, markersize=4.5, label=_size(size)
            )
            axes.plot(d_N, finding.fit.law.loss(size, d_N), color=color, linewidth=1.4)
        _legend(axes, colors)

    return draw


def draw_residuals(finding: ScalingFinding) -> Draw:
    """Measured over fitted, minus one, against D: a pattern in it is what the law does not describe."""

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        _dress_logs(axes, colors, 'tokens read', loss=False)
        axes.axhline(0, color=colors['ink'], linewidth=1)
        for color, mark, size, chosen in _by_size(finding, colors):
            rest = 100 * finding.fit.residuals[chosen]
            axes.plot(finding.fit.d[chosen], rest, mark, color=color, markersize=4.5, label=_size(size))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:+g} %'.replace('-', '\N{MINUS SIGN}')))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        _legend(axes, colors)

    return draw


def draw_extrapolation(finding: ScalingFinding) -> Draw:
    """The law's least loss against FLOPs with its band, dashed beyond the runs."""

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        _dress_logs(axes, colors, 'FLOPs')
        flops_P = np.array([point.flops for point in finding.points])
        axes.plot(flops_P, finding.fit.loss, 'o', color=colors['muted'], markersize=3.5, label='runs')
        _band(axes, colors, finding, 2, 'the best size, by the law')
        _legend(axes, colors)

    return draw


def draw_best_size(finding: ScalingFinding) -> Draw:
    """The compute-optimal N against FLOPs with its band, dashed beyond the runs; the parabolas' lowest points."""

    def draw(axes: Axes, colors: dict[str, str]) -> None:
        _dress_logs(axes, colors, 'FLOPs', loss=False)
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _band(axes, colors, finding, 0, 'by the law')
        lowest = [(one.flops, one.best[0]) for one in finding.parabolas if one.best is not None]
        if lowest:
            axes.plot(*np.array(lowest).T, 'D', color=colors['arm1'], markersize=5, label='lowest points of parabolas')
        sizes = [point.n for point in finding.points]
        axes.axhspan(min(sizes), max(sizes), color=colors['muted'], alpha=0.1, linewidth=0, label='measured sizes')
        _legend(axes, colors)

    return draw


def _band(axes: Axes, colors: dict[str, str], finding: ScalingFinding, which: int, name: str) -> None:
    """What `best_sizes` gives at place `which`, over the budgets and BEYOND, with an interval of the resamples."""
    spent = [point.flops for point in finding.points]
    flops_F = np.geomspace(min(spent), BEYOND[-1] * max(spent), LINE // 3)
    fit, cost = finding.fit, finding.cost
    value_F = np.array([float(best_sizes(fit.law, cost, flops)[which]) for flops in flops_F])
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low_F, high_F = np.array([np.quantile(best_sizes(fit.laws, cost, flops)[which], tails) for flops in flops_F]).T
    inside, color = flops_F <= max(spent), colors['arm0']
    axes.fill_between(flops_F, low_F, high_F, color=color, alpha=0.18, linewidth=0, label='95 % interval')
    axes.plot(flops_F[inside], value_F[inside], color=color, linewidth=1.8, label=name)
    axes.plot(flops_F[~inside], value_F[~inside], '--', color=color, linewidth=1.8, label='extrapolated')
    axes.axvline(max(spent), color=colors['muted'], linewidth=1, linestyle=':')


def _by_size(finding: ScalingFinding, colors: dict[str, str]):
    """(colour, marker, N, [P] whether a run has it) of each size."""
    for index, size in enumerate(np.unique(finding.fit.n)):
        yield colors[f'arm{index % len(COLORS)}'], MARKERS[index % len(MARKERS)], size, finding.fit.n == size


def _size(n: float) -> str:
    return f'N = {short_number(n)}'


def _legend(axes: Axes, colors: dict[str, str]) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7.5, labelcolor=colors['ink'], handlelength=1.6)


def _dress_logs(axes: Axes, colors: dict[str, str], below: str, loss: bool = True) -> None:
    """A logarithmic horizontal axis; with `loss` a vertical one as well, with plain numbers."""
    dress(axes, colors)
    axes.set_xscale('log')
    show = (
        (lambda value, _: f'{value:.0e}'.replace('e+', 'e'))
        if below == 'FLOPs'
        else (lambda value, _: short_number(value))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(show))
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0) if below != 'FLOPs' else (1.0,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(below, color=colors['muted'], loc='right')
    if loss:
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 4, 5, 6, 7, 8)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
