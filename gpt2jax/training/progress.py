"""What a person sees while waiting: a bar on a terminal, a plain line every few seconds in a log."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from rich.console import Console, RenderableType

from gpt2jax.training.display import (
    LINE_SECONDS,
    MIN_BAR_WIDTH,
    Board,
    Clock,
    Count,
    Stage,
    bar_line,
    clock_time,
    short_number,
)

T = TypeVar('T')

_RECENT_SECONDS = 30.0  # the steps that the time left is judged by


class _Pace:
    """Seconds per step over the recent past, with pauses (evaluation, compilation) taken out."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._recent: deque[tuple[int, float]] = deque()
        self._away = 0.0
        self._pauses = 0
        self.seconds_per_step: float | None = None

    def record(self, step: int) -> None:
        now = self._clock() - self._away
        if self._recent and step > self._recent[0][0]:
            first_step, first_time = self._recent[0]
            self.seconds_per_step = (now - first_time) / (step - first_step)
        # A tenth of a second apart is fine enough, and bounds the memory of very fast runs.
        if not self._recent or now - self._recent[-1][1] >= 0.1:
            self._recent.append((step, now))
        while len(self._recent) > 2 and now - self._recent[1][1] > _RECENT_SECONDS:
            self._recent.popleft()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._pauses += 1
        began = self._clock()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._away += self._clock() - began


class Progress:
    """The training bar: step, loss, the last evaluation, tokens a second, MFU, time elapsed and left.

    A context manager. Everything that takes long during training goes through `stage` or `track`, whose time
    does not count in the pace of the steps. On a terminal these show as a second line; anything printed
    meanwhile appears above. Where the output is no terminal, a plain line is printed about every ten seconds.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        tokens_per_step: int,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        *,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ):
        """A bar from `start_step` to `total_steps`.

        Args:
          total_steps, start_step: of the whole run; a resumed run starts in the middle of the bar.
          tokens_per_step: over all devices.
          flops_per_step, peak_flops: floating-point operations of a step, and of a second at best, over all
            devices; MFU is shown where both are known.
          console: where to draw; standard output if None.
          clock: seconds, for tests.
        """
        self._total = total_steps
        self._step = start_step
        self._tokens_per_step = tokens_per_step
        self.set_flops(flops_per_step, peak_flops)
        self._board = Board(console, clock)
        self._pace = _Pace(clock)
        self._clock = clock
        self._began = clock()
        self._loss: float | None = None
        self._evaluated: dict[str, float] = {}
        self._tokens_per_second: float | None = None
        self._mfu: float | None = None
        self._shown: AbstractContextManager | None = None
        self._said: int | None = None

    def __enter__(self) -> 'Progress':
        self._began = self._clock()
        self._shown = self._board.shown(self)
        self._shown.__enter__()
        self._board.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._said != self._step and self._loss is not None:
            self._board.tick(self, now=True)
        self._board.stop()
        self._shown.__exit__(*exception)

    def update(
        self,
        step: int,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        mfu: float | None = None,
    ) -> None:
        """After `step` steps. What is not given is kept (loss) or worked out from the recent pace."""
        self._step = step
        self._loss = self._loss if loss is None else float(loss)
        self._pace.record(step)
        pace = self._pace.seconds_per_step
        if pace:
            tokens_per_second = tokens_per_second or self._tokens_per_step / pace
            mfu = mfu if mfu is not None or self._flops is None else self._flops / pace
        self._tokens_per_second, self._mfu = tokens_per_second, mfu
        self._board.tick(self, now=step >= self._total and self._said != step)
        self._said = step if step >= self._total else None

    def set_flops(self, flops_per_step: float | None, peak_flops: float | None) -> None:
        """What a step costs from here on: an objective that takes over may predict more or fewer tokens."""
        self._flops = flops_per_step / peak_flops if flops_per_step and peak_flops else None

    def evaluated(self, **figures: float) -> None:
        """Shows the result of an evaluation under its own name: `evaluated(bits_per_byte=1.92)`."""
        self._evaluated = {name: float(value) for name, value in figures.items()}

    def message(self, text: str) -> None:
        """Prints above the bar; the text is shown as it is, without markup."""
        self._board.print(text)

    @contextmanager
    def stage(self, name: str, keep: bool = True) -> Iterator[None]:
        """A spinner with the time taken, around one long call: `with progress.stage('compiling'): ...`.

        Args:
          keep: leave a line such as 'compiling took 12.3 s' behind, if it took more than a second.
        """
        row = Stage(name, self._clock)
        if not self._board.interactive and keep:
            self._board.print(f'{name} ...')
        with self._pace.paused(), self._board.shown(row):
            yield
        if keep and row.seconds() >= 1:
            self._board.print(f'{name} took {row.seconds():.1f} s')

    def track(self, work: Iterable[T] | int, description: str, total: int | None = None) -> Iterator[T]:
        """As the function `track`, on a line above the training bar."""
        row = _count(self._board, work, description, total)
        with self._pace.paused(), self._board.shown(row):
            yield from _counted(self._board, row, work)

    def left(self) -> float | None:
        """Seconds of training left at the recent pace; None until two steps have been seen."""
        pace = self._pace.seconds_per_step
        return None if pace is None else pace * max(self._total - self._step, 0)

    def _figures(self, brief: bool) -> list[tuple[int, str]]:
        """(rank, figure) in the order shown; where there is no room, the highest ranks go first."""
        left = self.left()
        figures = [(0, None if self._loss is None else f'loss {self._loss:.3f}')]
        for name, value in self._evaluated.items():
            # 'bits_per_byte' is a unit and follows its number, 'accuracy' is a name and precedes it.
            unit = name.replace('_per_', '/') if brief else name.replace('_', ' ')
            figures.append((2, f'{value:.3f} {unit}' if '_per_' in name else f'{unit} {value:.3f}'))
        rate = self._tokens_per_second
        figures.append((3, rate and f'{short_number(rate)} {"tok" if brief else "tokens"}/s'))
        figures.append((4, None if self._mfu is None else f'MFU {self._mfu:.1%}'))
        finished = self._step >= self._total
        figures.append((1 if finished else 5, f'{clock_time(self._clock() - self._began)} elapsed'))
        figures.append((1, None if left is None or finished else f'{clock_time(left)} left'))
        return [(rank, figure) for rank, figure in figures if figure]

    def text(self) -> str:
        """The line of a log."""
        share = f'{self._step / max(self._total, 1):.0%}'
        figures = [figure for _, figure in self._figures(brief=False)]
        return '  '.join([f'step {self._step:,}/{self._total:,}', share, *figures])

    def render(self, width: int) -> RenderableType:
        """The line of a terminal."""
        label = f'step {self._step:,}/{self._total:,}'
        figures = self._figures(brief=True)
        while figures and len(label) + MIN_BAR_WIDTH + 2 + sum(len(f) + 2 for _, f in figures) > width:
            figures.remove(max(figures))
        return bar_line(label, self._step, self._total, [figure for _, figure in figures])


def track(
    work: Iterable[T] | int,
    description: str,
    total: int | None = None,
    *,
    console: Console | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[T]:
    """Yields the items of `work` under a progress bar, for long work outside training.

    Args:
      work: an iterable, or a number n for range(n).
      total: how many items there will be, where `work` has no length; unknown if None.
    """
    board = Board(console, clock)
    row = _count(board, work, description, total)
    with board.shown(row):
        board.start()
        try:
            yield from _counted(board, row, work)
        finally:
            board.stop()


def _count(board: Board, work: Iterable | int, description: str, total: int | None) -> Count:
    if total is None:
        total = work if isinstance(work, int) else len(work) if hasattr(work, '__len__') else None
    return Count(description, total, board.clock)


def _counted(board: Board, row: Count, work: Iterable[T] | int) -> Iterator[T]:
    for item in range(work) if isinstance(work, int) else work:
        yield item
        row.done += 1
        if row.done != row.total:
            board.tick(row)
    board.tick(row, now=row.seconds() >= LINE_SECONDS)
