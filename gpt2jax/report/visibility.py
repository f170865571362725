"""The picture of who sees whom in one row: a map of queries and keys with their tokens, and strips of what is known.

Axes: L places.
"""

import dataclasses
import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

INK, MUTED, GRID, PAPER = '#1d1d1f', '#5f6066', '#e4e2dd', '#ffffff'
PREDICTS = ('#245a96', '#b0461c')  # documents take turns
READS = ('#b9cde3', '#ecc7b6')
PADDING = '#d5d5d5'
MARKED = '#b3261e'
MOST_LABELS = 80  # places; beyond, tokens would be too small to read
SPACE = '\N{OPEN BOX}'
CELL = 0.155  # inches of a labelled place
STYLE = {'font.size': 7, 'font.family': 'DejaVu Sans', 'axes.edgecolor': MUTED, 'axes.linewidth': 0.6}


@dataclasses.dataclass(frozen=True)
class View:
    """Some places of a row, ready to be drawn.

    Attributes:
      title: what the row is.
      tokens: [L] text of what the model reads.
      targets: [L] text of what is predicted, '' where nothing is.
      marks: [L] 'hidden' where <|mask|> or a query stands for a token, 'random' where another token does, '' elsewhere.
      order, segment: [L], of the Example.
      visible: [L, L] bool, who sees whom.
    """

    title: str
    tokens: list[str]
    targets: list[str]
    marks: list[str]
    order: np.ndarray
    segment: np.ndarray
    visible: np.ndarray

    @property
    def predicts(self) -> np.ndarray:
        """[L] bool: where there is a prediction."""
        return np.array([bool(target) for target in self.targets])


def visibility_picture(view: View) -> bytes:
    """A PNG: a line a query with what it predicts, a column a key, and below them order, document and predictions."""
    L = len(view.tokens)
    labelled = L <= MOST_LABELS
    side = max(1.5, L * CELL) if labelled else 7.0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side + 2.6, side + 2.0), dpi=200, facecolor=PAPER, layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _map(axes, view)
        bottom = -0.24 / side
        _strips(axes.inset_axes((0, bottom - 0.45 / side, 1, 0.45 / side)), view)
        if labelled:
            _label(axes, view)
        else:
            axes.set_ylabel('place that looks', color=MUTED)
            axes.set_xlabel('place that is seen', color=MUTED)
            axes.xaxis.set_label_position('top')
        handles = [Patch(color=PREDICTS[0], label='seen by a place that predicts'), Patch(color=READS[0], label='seen')]
        place = {'loc': 'upper left', 'bbox_to_anchor': (0, bottom - 0.5 / side), 'borderaxespad': 0, 'borderpad': 0}
        axes.legend(handles=handles, ncols=2, frameon=False, labelcolor=INK, **place)
        axes.set_title(view.title, loc='left', color=INK, fontsize=9, fontweight='bold', pad=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format='png')
    return buffer.getvalue()


def _map(axes: Axes, view: View) -> None:
    """A cell is coloured where the query of its line sees the key of its column, darker where the query predicts."""
    L = len(view.tokens)
    colors_LC = np.array([_color(segment, place) for segment, place in zip(view.segment, view.predicts, strict=True)])
    pixels_LLC = np.where(view.visible[..., None], colors_LC[:, None, :], to_rgb(PAPER))
    axes.imshow(pixels_LLC, interpolation='nearest', aspect='equal', extent=(0, L, L, 0))
    if L <= MOST_LABELS:
        axes.set_xticks(np.arange(1, L), minor=True)
        axes.set_yticks(np.arange(1, L), minor=True)
        axes.grid(which='minor', color=PAPER, linewidth=0.5)
    for border in _borders(view.segment):
        axes.axhline(border, color=MUTED, linewidth=0.6)
        axes.axvline(border, color=MUTED, linewidth=0.6)
    axes.tick_params(which='both', length=0, labelbottom=False, labeltop=True)


def _label(axes: Axes, view: View) -> None:
    """What each line reads on its left, what it predicts on its right, and what each column holds above it."""
    middles = np.arange(len(view.tokens)) + 0.5
    mono = {'fontfamily': 'DejaVu Sans Mono', 'fontsize': 6}
    tokens, targets = ([text.replace(' ', SPACE) for text in texts] for texts in (view.tokens, view.targets))
    axes.set_xticks(middles, tokens, rotation=90, **mono)
    axes.set_yticks(middles, tokens, **mono)
    right = axes.secondary_yaxis('right')
    right.set_yticks(middles, [f'→ {target}' if target else '' for target in targets], **mono)
    right.tick_params(length=0, labelcolor=INK)
    right.spines['right'].set_visible(False)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels(), *right.get_yticklabels()]:
        label.set_parse_math(False)  # a token may be a dollar sign
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, mark in zip(labels, view.marks, strict=True):
            label.set_color(MARKED if mark else INK)
            label.set_fontweight('bold' if mark else 'normal')


def _strips(axes: Axes, view: View) -> None:
    """Three lines: the order, from light to dark; the document; the predictions."""
    L = len(view.tokens)
    order_L = view.order / max(1, view.order.max())
    documents_L = [_color(segment, True) for segment in view.segment]
    predicts_L = ListedColormap([PAPER, INK])(view.predicts.astype(int))[:, :3]
    pixels = np.stack([matplotlib.colormaps['Greys'](0.08 + 0.8 * order_L)[:, :3], documents_L, predicts_L])
    axes.imshow(pixels, interpolation='nearest', aspect='auto', extent=(0, L, 3, 0))
    order = f'order 0–{view.order.max()}' if view.order.any() else 'order 0'
    axes.set_yticks([0.5, 1.5, 2.5], [order, 'document', 'predicts'], color=INK)
    axes.set_yticks([1, 2], minor=True)
    axes.tick_params(which='both', length=0, labelbottom=False)
    axes.grid(which='minor', axis='y', color=PAPER, linewidth=1.5)


def _color(segment: int, predicts: bool) -> tuple[float, float, float]:
    if segment == 0:
        return to_rgb(PADDING)
    return to_rgb((PREDICTS if predicts else READS)[(segment - 1) % 2])


def _borders(segment_L: np.ndarray) -> np.ndarray:
    """Places where another document begins."""
    return 1 + np.flatnonzero(segment_L[1:] != segment_L[:-1])
