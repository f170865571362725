"""Ctrl-C and SIGTERM ask a run to save and stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopRequest:
    """Whether, and by which signal, this process has been asked to stop."""

    def __init__(self):
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; a second one acts as it always does.

    Outside the main thread, where Python cannot handle signals, nothing is changed.
    """
    request, handlers = StopRequest(), {}

    def ask(number, frame):
        request.name = signal.Signals(number).name
        for other, handler in handlers.items():
            signal.signal(other, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
