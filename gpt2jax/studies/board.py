"""The live table of cells: step, loss, time left. Where there is no terminal, a line when something happens."""

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gpt2jax.studies.cells import Cell, Progress, progress_of
from gpt2jax.training.display import clock_time

LINE_SECONDS = 30.0  # between lines of a log about runs that go on
READ_SECONDS = 1.0  # between looks into the folders of running cells
MOST_ROWS = 30
MARKS = {'waiting': '·', 'begun': '·', 'running': '▶', 'finished': '✓', 'failed': '✗'}


class CellsBoard:
    """Shows the cells of a study while they run; a context."""

    def __init__(self, console: Console, cells: list[Cell]):
        self._console, self._cells = console, cells
        self._known = {cell: progress_of(cell) for cell in cells}
        self._running: set[Cell] = set()
        self._held: set[Cell] = set()
        self._read_at = self._printed_at = time.monotonic()
        interactive = console.file.isatty() and not console.is_dumb_terminal
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=2) if interactive else None

    def __enter__(self) -> 'CellsBoard':
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line above the table."""
        self._console.print(text, soft_wrap=True)

    def started(self, cell: Cell) -> None:
        """A cell begins, or goes on."""
        if self._live:
            return
        step = self._known[cell].step
        begins = f'continues from about step {step:,}' if step else 'begins'
        self.say(f'{cell.name}: {begins}' + (f', {cell.steps:,} steps' if cell.role != 'suites' else ''))

    def held(self, cell: Cell) -> None:
        """A cell is trained by a process that is not of this study; said once."""
        if cell not in self._held:
            self._held.add(cell)
            self.say(f'{cell.name}: another process trains in {cell.folder}; waiting for it')

    def ended(self, cell: Cell, how: str) -> None:
        """A cell has finished or failed."""
        self._known[cell] = progress_of(cell)
        done = sum(progress.status == 'finished' for progress in self._known.values())
        self.say(f'{cell.name}: {how} ({done} of {len(self._cells)} runs finished)')

    def update(self, running: set[Cell]) -> None:
        """Reads the folders of the cells that run, now and then."""
        self._running, at = set(running), time.monotonic()
        if at - self._read_at >= READ_SECONDS:
            self._read_at = at
            self._known |= {cell: progress_of(cell) for cell in running}
        if not self._live and at - self._printed_at >= LINE_SECONDS:
            self._printed_at = at
            for cell in running:
                self.say('  '.join([cell.name, *figures(cell, self._known[cell])]))

    def table(self) -> Table:
        """The rows that matter now: all, or those that run, have failed or come next."""
        table = Table(box=None, pad_edge=False, header_style='dim')
        for heading in ('', 'run', 'step', 'loss', 'left'):
            table.add_column(heading, justify='left' if heading in ('', 'run') else 'right', no_wrap=True)
        finished = [cell for cell in self._cells if self._known[cell].status == 'finished']
        shown = self._cells
        if len(shown) > MOST_ROWS:
            shown = [cell for cell in shown if cell not in finished][:MOST_ROWS]
        for cell in shown:
            progress = self._known[cell]
            status = 'running' if cell in self._running else progress.status
            style = {'running': 'bold', 'failed': 'red', 'finished': 'green'}.get(status, 'dim')
            table.add_row(MARKS[status], cell.name, *figures(cell, progress), style=style)
        table.caption = f'{len(finished)} of {len(self._cells)} runs finished'
        table.caption_justify = 'left'
        return table


def figures(cell: Cell, progress: Progress) -> tuple[str, str, str]:
    """Step, loss and time left of a cell, for people."""
    if progress.status == 'failed' or cell.role == 'suites':
        return 'failed' if progress.status == 'failed' else '', '', ''
    loss = '' if progress.loss is None else f'{progress.loss:.3f}'
    left = ''
    if progress.step and progress.status != 'finished':
        left = clock_time(progress.seconds / progress.step * (cell.steps - progress.step))
    return f'{progress.step:,}/{cell.steps:,}', loss, left
