"""The pieces of a progress display: numbers for people, rows, and the board that draws or prints them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

Clock = Callable[[], float]

LINE_SECONDS = 10.0  # between the lines of a log
MIN_BAR_WIDTH = 8  # figures that leave less room are dropped


def clock_time(seconds: float) -> str:
    """A duration as on a clock: 0:41, 1:02:03, 2 d 3:04:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f'{days} d {hour}:{minute:02d}:{second:02d}'
    return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'


def short_number(value: float) -> str:
    """A count in three digits: 950, 45.2k, 1.31M, 2.1B."""
    for size, suffix in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= 0.9995 * size:
            return f'{value / size:.3g}{suffix}'
    return f'{value:.3g}'


class Row(Protocol):
    """One line of the display, for a log (`text`) and for a terminal (`render`)."""

    def text(self) -> str: ...
    def render(self, width: int) -> RenderableType: ...


class Board:
    """The rows now on display: drawn by one rich Live, or printed now and then where there is no terminal."""

    def __init__(self, console: Console | None, clock: Clock):
        self.console = console or Console()
        self.clock = clock
        self._rows: list[Row] = []
        self._printed = clock()
        # Not console.is_terminal, which FORCE_COLOR turns on in pipes.
        self.interactive = self.console.file.isatty() and not self.console.is_dumb_terminal
        self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4)

    def _render(self) -> RenderableType:
        return Group(*(row.render(self.console.width) for row in list(self._rows)))

    def start(self) -> None:
        if self.interactive:
            self._live.start()

    def stop(self) -> None:
        if self.interactive:
            self._live.stop()

    @contextmanager
    def shown(self, row: Row) -> Iterator[None]:
        """Puts a row above the ones on display."""
        self._rows.insert(0, row)
        try:
            yield
        finally:
            self._rows.remove(row)

    def print(self, text: str) -> None:
        if self.interactive:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.console.file, flush=True)

    def tick(self, row: Row, now: bool = False) -> None:
        """Prints the row in a log, if it is time for a line or `now`."""
        if not self.interactive and (now or self.clock() - self._printed >= LINE_SECONDS):
            self.print(row.text())
            self._printed = self.clock()


class Stage:
    """Work of unknown length: a spinner and the time it has taken."""

    def __init__(self, name: str, clock: Clock):
        self.name = name
        self._clock = clock
        self._began = clock()
        self._spinner = Spinner('dots', style='cyan')

    def seconds(self) -> float:
        return self._clock() - self._began

    def text(self) -> str:
        return f'{self.name}: {clock_time(self.seconds())}'

    def render(self, width: int) -> RenderableType:
        self._spinner.update(text=Text(f'{self.name}  {clock_time(self.seconds())}', style='dim'))
        return self._spinner


class Count:
    """Work of known length beside the training bar, or alone."""

    def __init__(self, description: str, total: int | None, clock: Clock):
        self.description = description
        self.total = total
        self.done = 0
        self._clock = clock
        self._began = clock()

    def seconds(self) -> float:
        return self._clock() - self._began

    def _figures(self) -> list[str]:
        seconds = self.seconds()
        if self.total is None or not self.done or self.done >= self.total:
            return [f'{clock_time(seconds)} elapsed']
        return [f'{clock_time(seconds * (self.total - self.done) / self.done)} left']

    def _position(self) -> str:
        return f'{self.done:,}' if self.total is None else f'{self.done:,}/{self.total:,}'

    def text(self) -> str:
        return '  '.join([f'{self.description} {self._position()}', *self._figures()])

    def render(self, width: int) -> RenderableType:
        return bar_line(f'{self.description} {self._position()}', self.done, self.total, self._figures())


def bar_line(label: str, done: float, total: float | None, figures: list[str]) -> Table:
    """label, a bar that takes what room is left, figures; one line of text at any width."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    bar = ProgressBar(total=max(total, 1) if total is not None else None, completed=done, pulse=total is None)
    for _ in figures:
        grid.add_column(no_wrap=True)
    grid.add_row(Text(label), bar, *(Text(figure) for figure in figures))
    return grid
