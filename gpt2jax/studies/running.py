"""Runs cells to their end: in turns or several at a time, each failure tried once more, none dropped."""

import datetime
import fcntl
import time
from collections import deque

from gpt2jax.errors import RUN_AGAIN, Stopped
from gpt2jax.studies.board import CellsBoard
from gpt2jax.studies.cells import MOST_ATTEMPTS, Cell, add_attempt, lock_path, progress_of
from gpt2jax.studies.grouping import Group, command_of, error_of, group_cells
from gpt2jax.studies.processes import last_error
from gpt2jax.training.signals import StopRequest

POLL_SECONDS = 0.3
STOP_SECONDS = 120.0  # that runs get for saving
MOST_RESTARTS = 100  # of a cell that was asked to stop by somebody else
UNFINISHED = 1  # stands for the status 0 of a run that is not at its end


def run(cells: list[Cell], executor, parallel: int, board: CellsBoard, stop: StopRequest, together: int = 1) -> None:
    """Runs what is not finished and has not failed twice; returns when nothing is left to do.

    Args:
      parallel: processes at a time.
      together: runs of a process, at most.

    Raises:
      Stopped: asked to stop; the runs have saved and stopped.
    """
    waiting = deque(group_cells(cells, together))
    running: dict[Group, object] = {}
    restarts: dict[Group, int] = {}
    while waiting or running:
        if stop:
            _stop(running, board)
            done = sum(progress_of(cell).status == 'finished' for cell in cells)
            raise Stopped(f'{stop.name}: {done} of {len(cells)} runs are finished; the same command continues')
        while waiting and len(running) < parallel and (group := _next_free(waiting, board)) is not None:
            running[group] = executor.start(command_of(group), group[0].folder, parallel)
            for cell in group:
                board.started(cell)
        for group, job in list(running.items()):
            status = job.poll()
            if status is None:
                continue
            del running[group]
            if status == RUN_AGAIN and restarts.get(group, 0) < MOST_RESTARTS:
                restarts[group] = restarts.get(group, 0) + 1
                waiting.appendleft(group)
                continue
            said = last_error(group[0].folder, status)
            for cell in group:
                _ended(cell, status, said, waiting, board)
        board.update({cell for group in running for cell in group})
        time.sleep(POLL_SECONDS)


def _ended(cell: Cell, status: int, said: str, waiting: deque, board: CellsBoard) -> None:
    if progress_of(cell).status == 'finished':
        board.ended(cell, 'finished')
        return
    add_attempt(cell, status or UNFINISHED, error_of(cell) or said, now())
    progress = progress_of(cell)
    if progress.attempts < MOST_ATTEMPTS:
        waiting.append((cell,))
        board.ended(cell, f'failed, and is tried once more: {progress.error}')
    else:
        board.ended(cell, f'failed twice: {progress.error}')


def _next_free(waiting: deque, board: CellsBoard) -> Group | None:
    """The first group that no other process trains; it leaves the queue. A job of an earlier start may still run."""
    for _ in range(len(waiting)):
        group = waiting.popleft()
        held = [cell for cell in group if is_held(cell)]
        if not held:
            return group
        if any(progress_of(cell).status != 'finished' for cell in group):
            waiting.append(group)
            for cell in held:
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


def _stop(running: dict[Group, object], board: CellsBoard) -> None:
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
