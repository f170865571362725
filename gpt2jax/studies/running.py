"""Runs cells to their end: in turns or several at a time, each failure tried once more, none dropped."""

import datetime
import fcntl
import time
from collections import deque

from gpt2jax.errors import RUN_AGAIN, Stopped
from gpt2jax.studies.board import CellsBoard
from gpt2jax.studies.cells import MOST_ATTEMPTS, Cell, add_attempt, lock_path, progress_of
from gpt2jax.studies.executors import last_error
from gpt2jax.training.signals import StopRequest

POLL_SECONDS = 0.3
STOP_SECONDS = 120.0  # that runs get for saving
MOST_RESTARTS = 100  # of a cell that was asked to stop by somebody else
UNFINISHED = 1  # stands for the status 0 of a run that is not at its end


def run(cells: list[Cell], executor, parallel: int, board: CellsBoard, stop: StopRequest) -> None:
    """Runs what is not finished and has not failed twice; returns when nothing is left to do.

    Raises:
      Stopped: asked to stop; the runs have saved and stopped.
    """
    waiting = deque(cell for cell in cells if progress_of(cell).status in ('waiting', 'begun'))
    running: dict[Cell, object] = {}
    restarts: dict[Cell, int] = {}
    while waiting or running:
        if stop:
            _stop(running, board)
            done = sum(progress_of(cell).status == 'finished' for cell in cells)
            raise Stopped(f'{stop.name}: {done} of {len(cells)} runs are finished; the same command continues')
        while waiting and len(running) < parallel and (cell := _next_free(waiting, board)) is not None:
            running[cell] = executor.start(cell.command(), cell.folder)
            board.started(cell)
        for cell, job in list(running.items()):
            status = job.poll()
            if status is None:
                continue
            del running[cell]
            if status == RUN_AGAIN and restarts.get(cell, 0) < MOST_RESTARTS:
                restarts[cell] = restarts.get(cell, 0) + 1
                waiting.appendleft(cell)
                continue
            _ended(cell, status, waiting, board)
        board.update(set(running))
        time.sleep(POLL_SECONDS)


def _ended(cell: Cell, status: int, waiting: deque, board: CellsBoard) -> None:
    if progress_of(cell).status == 'finished':
        board.ended(cell, 'finished')
        return
    add_attempt(cell, status or UNFINISHED, last_error(cell.folder, status), now())
    progress = progress_of(cell)
    if progress.attempts < MOST_ATTEMPTS:
        waiting.append(cell)
        board.ended(cell, f'failed, and is tried once more: {progress.error}')
    else:
        board.ended(cell, f'failed twice: {progress.error}')


def _next_free(waiting: deque, board: CellsBoard) -> Cell | None:
    """The first cell that no other process trains; it leaves the queue. A job of an earlier start may still run."""
    for _ in range(len(waiting)):
        cell = waiting.popleft()
        if not is_held(cell):
            return cell
        if progress_of(cell).status != 'finished':
            waiting.append(cell)
            board.held(cell)
    return None


def is_held(cell: Cell) -> bool:
    """Whether some process trains in the cell's folder."""
    try:
        with lock_path(cell).open('rb+') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _stop(running: dict[Cell, object], board: CellsBoard) -> None:
    """Asks all runs to save, and waits until they have."""
    board.say('asked to stop: the runs save and end')
    for job in running.values():
        job.stop()
    deadline = time.monotonic() + STOP_SECONDS
    while any(job.poll() is None for job in running.values()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def now() -> str:
    """Local time to the second, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec='seconds')
