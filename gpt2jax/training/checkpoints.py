"""Checkpoints of everything a run needs to go on: when to keep, what to delete, which to trust.

A save fills a folder in the background and makes it complete as its very last act (step_folders.py); its manifest
shows whether it still is. What a folder holds is in step_folder.py.
"""

import errno
import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from gpt2jax.errors import UserError
from gpt2jax.files import read_json
from gpt2jax.processes import ALONE, Peers
from gpt2jax.storage import remove_folder
from gpt2jax.training import step_folder
from gpt2jax.training.manifest import MANIFEST
from gpt2jax.training.step_folder import ITEMS, METADATA
from gpt2jax.training.step_folders import open_step_folders


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        directory: str | Path,
        keep: int,
        asynchronous: bool = True,
        announce: Callable[[str], None] = print,
        peers: Peers = ALONE,
    ):
        """Opens the folder without touching it.

        Args:
            directory: where the step folders lie, on disks or in a bucket; the first save creates it.
            keep: how many of the newest steps to keep, at least 1; the one with the best score stays too.
            asynchronous: return from `save` while the files are still being written.
            announce: receives warnings as text.
            peers: the processes that save together, each its own parts of the arrays.
        """
        if keep < 1:
            raise ValueError(f'keep = {keep}: at least one checkpoint must be kept')
        self._folders = open_step_folders(directory)
        self.directory = self._folders.directory
        self._keep = keep
        self._asynchronous = asynchronous
        self._announce = announce
        self._peers = peers
        self._checkpointer = step_folder.make_checkpointer()
        self._damaged: set[int] = set()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, step: int, params: Any, rest: Any, metadata: dict[str, Any], score: float | None = None) -> None:
        """Saves a step; a step that is complete already is left as it is.

        The arrays may be donated or overwritten as soon as this returns. The checkpoint counts once its
        manifest is written, and only then older ones go.

        Args:
            params, rest: trees of jax or numpy arrays.
            metadata: JSON; returned by `restore`.
            score: lower is better; a step without one, or with one that is not finite, is never the best.

        Raises:
            UserError: this save, or the one before it in the background, failed; older ones are untouched.
        """
        self.wait()
        if step in self.steps():
            return
        trees = {'params': params, 'rest': rest}
        record = step_folder.make_record(step, trees, metadata, score)
        # A copy, since the caller goes on; and metadata that is not JSON is a mistake to learn of now.
        record = json.loads(json.dumps(record, allow_nan=False))
        try:
            if self._peers.index == 0:
                self._folders.make_room(step, sum(leaf.nbytes for leaf in jax.tree.leaves(trees)))
            step_folder.start_writing(self._checkpointer, self._folders.unfinished(step), trees)
        except Exception as error:
            raise self._failure(step, error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, record), name=f'checkpoint {step}')
        self._thread.start()
        if not self._asynchronous:
            self.wait()

    def restore(
        self, abstract_params: Any, abstract_rest: Any, among: Sequence[int] | None = None
    ) -> tuple[int, Any, Any, dict[str, Any]] | None:
        """Restores the newest good step, with a warning for every damaged one that it has to pass over.

        Args:
            abstract_params, abstract_rest: trees of jax.ShapeDtypeStruct; the sharding of each, on any mesh,
                is where the array goes (without one: the first device).
            among: these steps alone, where a run goes back further than it must; later saves replace what is newer.

        Returns:
            (step, params, rest, metadata), or None when there has never been a checkpoint, or none of `among`.

        Raises:
            UserError: there are checkpoints but none is good, or the good one holds other arrays.
        """
        self.wait()
        newest_first = self._folders.steps()[::-1]
        if not newest_first:
            return None
        wanted = [step for step in newest_first if among is None or step in among]
        if not wanted:
            self._damaged.update(newest_first)
            return None
        step = self._first_good(wanted, ITEMS)
        # Everything newer was found damaged or is not wanted: a later save of the same step must replace it.
        self._damaged.update(other for other in newest_first if other > step)
        targets = {'params': abstract_params, 'rest': abstract_rest}
        trees, metadata = step_folder.read(self._checkpointer, self._folders.of(step), targets)
        return step, trees['params'], trees['rest'], metadata

    def restore_params(self, abstract_params: Any, step: int | str | None = None) -> tuple[int, Any, dict[str, Any]]:
        """Restores the parameters alone, without reading or verifying the rest.

        Args:
            abstract_params: as for `restore`.
            step: None for the newest good step, 'best' for the good one with the best score (the newest where
                no step has a score), or a number for that step and no other.

        Returns:
            (step, params, metadata).

        Raises:
            UserError: no such checkpoint, none good, or other arrays than asked for.
        """
        self.wait()
        order = self._folders.steps()[::-1]
        if step == 'best':
            scores = self._scores()
            order.sort(key=lambda other: scores.get(other, math.inf))
        elif step is not None:
            order = [other for other in order if other == step]
        if not order:
            found = ', '.join(map(str, self._folders.steps())) or 'none'
            wanted = 'checkpoint' if step in (None, 'best') else f'checkpoint of step {step}'
            raise UserError(f'no {wanted} in {self.directory} (there: {found}); train first')
        chosen = self._first_good(order, ITEMS[:1])
        try:
            targets = {'params': abstract_params}
            trees, metadata = step_folder.read(self._checkpointer, self._folders.of(chosen), targets)
        except FileNotFoundError:
            if self._folders.of(chosen).is_dir():
                raise
            # A training run retired this step while it was being read: choose again.
            return self.restore_params(abstract_params, step)
        return chosen, trees['params'], metadata

    def steps(self) -> list[int]:
        """The complete steps, oldest first, without those that a restore has found damaged."""
        complete = (step for step in self._folders.steps() if (self._folders.of(step) / MANIFEST).is_file())
        return [step for step in complete if step not in self._damaged]

    def best_step(self) -> int | None:
        """The complete step with the lowest score, the earliest of equals; None when no step has a score."""
        scores = self._scores()
        return min(scores, key=lambda step: (scores[step], step), default=None)

    def wait(self) -> None:
        """Waits for the save in the background.

        Raises:
            UserError: it failed. Said once: the next call is silent.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Waits like `wait` and ends the threads; the object is of no use afterwards."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def _finish(self, step: int, record: dict[str, Any]) -> None:
        """The background half of a save: arrays, then metadata, manifest, rename, and only then deletion."""
        error = None
        try:
            self._checkpointer.wait_until_finished()
            if self._peers.index == 0:
                self._complete(step, record)
        except Exception as caught:
            error = self._failure(step, caught)
            error.__cause__ = caught
        try:
            # No process may look at the folder before process 0 is done with it, and a failure is that of all.
            self._peers.agree('checkpoint', error and str(error))
        except Exception as caught:
            self._error = error or caught
            return
        self._damaged.discard(step)

    def _complete(self, step: int, record: dict[str, Any]) -> None:
        """What process 0 does once all arrays are on disk."""
        step_folder.finish_writing(self._folders.unfinished(step), record)
        self._folders.complete(step)
        self._damaged.discard(step)
        self._retire()

    def _retire(self) -> None:
        """Deletes what is neither among the newest nor the best: a newer good step is complete by now."""
        complete = self.steps()
        kept = {*complete[-self._keep :], self.best_step()}
        for step in self._folders.steps():
            if step not in kept:
                self._folders.remove(step)

    def _failure(self, step: int, error: Exception) -> UserError:
        """What to tell about a save that failed; what it has written is removed.

        Where others may still be writing, the next save removes it: they would fail too, and hide the reason.
        """
        if self._peers.count == 1:
            remove_folder(self._folders.unfinished(step))
        if isinstance(error, UserError):
            reason = str(error)
        elif os.strerror(errno.ENOSPC) in str(error):
            reason = 'no space left on the disk'
        else:
            reason = f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no message"}'
        complete = self.steps()
        last = f'step {complete[-1]} is the last complete one' if complete else 'no step is complete yet'
        return UserError(
            f'could not save the checkpoint of step {step} in {self.directory} '
            f'({self._folders.space()}): {reason}; '
            f'{last}: put the cause right and run the same command again'
        )

    def _scores(self) -> dict[int, float]:
        """Scores of the complete steps that have one, newest first."""
        scores = {}
        for step in reversed(self.steps()):
            try:
                score = read_json(self._folders.of(step) / METADATA)['score']
            except (UserError, KeyError, TypeError):
                continue  # damaged: no candidate for the best; a restore says what is wrong with it
            if isinstance(score, float) and math.isfinite(score):
                scores[step] = score
        return scores

    def _first_good(self, order: Sequence[int], items: Sequence[str]) -> int:
        """The first undamaged step in `order`. Process 0 looks and announces; the others take its word."""
        good = self._look(order, items) if self._peers.index == 0 else None
        good = self._peers.exchange('good checkpoint', good)[0]
        if good == len(order):
            listed = ', '.join(map(str, sorted(order)))
            raise UserError(
                f'every checkpoint in {self.directory} that could be used is damaged (steps {listed}): '
                'bring back a copy of one, or start again in another --workdir'
            )
        return order[good]

    def _look(self, order: Sequence[int], items: Sequence[str]) -> int:
        for place, step in enumerate(order):
            damage = step_folder.find_damage(self._folders.of(step), step, items)
            if damage is None:
                if place > 0:
                    self._announce(f'warning: falling back to the checkpoint of step {step}')
                return place
            self._announce(f'warning: checkpoint {self._folders.of(step)} is damaged and not used: {damage}')
        return len(order)
