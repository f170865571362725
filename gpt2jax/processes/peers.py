"""What processes say to each other beside the arrays: values, signs of life, and why one ends.

Words go through the key-value store of JAX's coordination service, which process 0 keeps; collective operations on
devices are of no use for this, since they wait for ever when one process is gone.
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from gpt2jax.errors import RUN_AGAIN, Stopped, UserError
from gpt2jax.processes.signs import Sign, Signs, find_silent, find_stalled

BEAT_SECONDS = 2.0  # between two signs of life
GRACE_SECONDS = 6.0  # for a process to end by itself after another has failed
BROKEN_COLLECTIVE = ('Gloo', 'NCCL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'Connection reset', 'Connection closed')
EXCHANGE_SECONDS = 24 * 3600.0  # one that is alive may prepare data for hours; the watch finds the others


class CommonError(UserError):
    """An error that all processes raise alike."""


class Peers:
    """The processes of this run, from the view of one.

    Attributes:
      index, count: which process this is, of how many.
    """

    def __init__(self, index: int, hosts: list[str], patience_seconds: float):
        """
        Args:
          hosts: of all processes, in their order.
          patience_seconds: silence after which a process is given up.
        """
        self.index, self.count, self._hosts, self._patience = index, len(hosts), hosts, patience_seconds
        self._sign = Sign(0, 'starting', unhurried=True)
        self._exchanges: dict[str, int] = {}

    def exchange(self, name: str, value) -> list:
        """The values of all processes, in their order; every process must call this with the same names in turn.

        Args:
          value: JSON.
        """
        if self.count == 1:
            return [value]
        key, limit = self._say(name, value), round(1000 * EXCHANGE_SECONDS)
        return [json.loads(store().blocking_key_value_get(f'{key}/{i}', limit)) for i in range(self.count)]

    def _say(self, name: str, value) -> str:
        turn = self._exchanges[name] = self._exchanges.get(name, 0) + 1
        key = f'gpt2jax/exchange/{name}/{turn}'
        store().key_value_set(f'{key}/{self.index}', json.dumps(value))
        return key

    def agree(self, name: str, error: str | None) -> None:
        """Raises the error of any process in all of them; returns where there is none.

        The one that has it does not wait for the others, which may wait for it elsewhere.
        """
        if error is not None and self.count > 1:
            self._say(name, error)
            self._publish(error, 2)
            raise UserError(f'{self.name(self.index)}: {error}')
        for index, reason in enumerate(self.exchange(name, error)):
            if reason is not None:
                raise CommonError(f'{self.name(index)}: {reason}' if self.count > 1 else reason)

    def at(self, place: str, unhurried: bool = False) -> None:
        """Says where the program is. All processes come through the same places in the same order.

        Args:
          unhurried: this may take as long as it takes (compiling, preparing data).
        """
        self._sign = Sign(self._sign.count + 1, place, unhurried)

    def name(self, index: int) -> str:
        """'process 3 on host-7'."""
        return f'process {index} on {self._hosts[index]}'

    @contextlib.contextmanager
    def watched(self, end: Callable[[str, int], None] | None = None) -> Iterator[None]:
        """Watches the other processes from a thread; ends this one, with the reason, when one fails or falls silent.

        An exception that leaves this context is told to the others, which then end as well. This process ends here,
        since JAX's own way out waits for all the others. `Stopped` leaves as it does alone: all processes stop.

        Args:
          end: called with the reason and the exit status instead of ending the process; for tests.
        """
        if self.count == 1:
            yield
            return
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over, end or end_process), name='watch', daemon=True)
        watch.start()
        try:
            yield
        except Stopped:
            raise
        except BaseException as error:
            if blames_another(error) and over.wait(2 * self._patience):
                raise  # only in tests: the watch ends the process, with the name of the one that is gone
            self._tell(error)
            reason, status = describe_error(error)
            (end or end_process)(reason, status)
            raise
        finally:
            over.set()

    def _watch(self, over: threading.Event, end: Callable[[str, int], None]) -> None:
        signs = Signs(self.count, time.monotonic())
        courier = threading.Thread(target=self._carry, args=(signs, over), name='signs', daemon=True)
        courier.start()
        while not over.wait(BEAT_SECONDS / 2):
            now = time.monotonic()
            if signs.failed:
                index, (reason, status) = min(signs.failed.items())
                if over.wait(GRACE_SECONDS):
                    return
                return end(f'{self.name(index)} ended: {reason}', status)
            found = find_silent(signs, self._patience, now) or find_stalled(signs, 5 * self._patience, now)
            if found is not None:
                index, reason = found
                return end(
                    f'{self.name(index)} {reason}. Checkpoints on disk are complete; the same command in all '
                    'processes continues from the newest',
                    RUN_AGAIN,
                )

    def _carry(self, signs: Signs, over: threading.Event) -> None:
        """Takes signs to the store and from it. Where the store does not answer, process 0 falls silent."""
        beats = 0
        while not over.is_set():
            beats += 1
            sign = self._sign
            with contextlib.suppress(RuntimeError):  # of JAX: the service is gone
                own = json.dumps([beats, sign.count, sign.place, sign.unhurried])
                store().key_value_set(f'gpt2jax/signs/{self.index}', own, allow_overwrite=True)
                signs.hear(store().key_value_dir_get('gpt2jax/signs/'), time.monotonic())
                signs.hear_failures(store().key_value_dir_get('gpt2jax/failed/'), self.index)
            over.wait(BEAT_SECONDS)

    def _tell(self, error: BaseException) -> None:
        """Leaves word of why this process ends, and gives the others time to read it: process 0 keeps the store."""
        if isinstance(error, CommonError):
            return
        self._publish(*describe_error(error))
        if self.index == 0:
            time.sleep(GRACE_SECONDS + 2 * BEAT_SECONDS)

    def _publish(self, reason: str, status: int) -> None:
        with contextlib.suppress(RuntimeError):  # of JAX: the store is gone, and with it process 0
            failure = json.dumps([reason[-2000:], status])
            store().key_value_set(f'gpt2jax/failed/{self.index}', failure, allow_overwrite=True)


def describe_error(error: BaseException) -> tuple[str, int]:
    """What to print of an error that ends a process, and its exit status."""
    if isinstance(error, UserError):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return 'interrupted', 130
    return ''.join(traceback.format_exception(error)).rstrip(), 1


def blames_another(error: BaseException | None) -> bool:
    """Whether a collective operation broke, which is how a process learns that another one is gone."""
    while error is not None:
        if any(sign in str(error) for sign in BROKEN_COLLECTIVE):
            return True
        error = error.__cause__ or error.__context__
    return False


ALONE = Peers(0, ['this host'], 0.0)


def store():
    """The key-value store of JAX's coordination service; it has no public name."""
    from jax._src import distributed

    return distributed.global_state.client


def end_process(reason: str, status: int) -> None:
    """Ends this process at once: its main thread may wait for ever for a process that is gone."""
    print(f'launch.py: {reason}', file=sys.stderr, flush=True)
    os._exit(status)
