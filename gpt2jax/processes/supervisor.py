"""A process that watches over the ones that train: it starts them, passes signals on, and says how they ended.

JAX ends a process hard (SIGABRT) when process 0, which keeps the coordination service, is gone: only another process
can turn that into a status that means "run me again".
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from gpt2jax.errors import RUN_AGAIN

SUPERVISED = 'GPT2JAX_SUPERVISED'  # set in the environment of a process that has a supervisor
GRACE_SECONDS = 20.0  # for the others to end by themselves once one has ended badly
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1  # of prctl(2)


def is_supervised() -> bool:
    """Whether this process has been started by `supervise`."""
    return SUPERVISED in os.environ


def end_with_supervisor() -> None:
    """Asks the kernel for a SIGTERM to this process when its supervisor dies, so that no process is left behind."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(os.environ[SUPERVISED]):  # it has died already
        signal.raise_signal(signal.SIGTERM)


def this_command() -> list[str]:
    """What starts this program again with the same arguments."""
    return [sys.executable, *sys.orig_argv[1:]]


def local_commands(count: int) -> list[list[str]]:
    """What starts `count` processes on this machine instead of this one: --local_processes gives way to a cluster."""
    arguments = iter(this_command())
    command = []
    for argument in arguments:
        if argument.lstrip('-') == 'local_processes':
            next(arguments)  # its value
        elif not argument.lstrip('-').startswith('local_processes='):
            command.append(argument)
    cluster = f'--coordinator=localhost:{free_port()}', f'--num_processes={count}'
    return [[*command, *cluster, f'--process_id={index}'] for index in range(count)]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(('localhost', 0)) as server:
        return server.getsockname()[1]


def supervise(commands: list[list[str]]) -> int:
    """Runs processes of one training to their end; returns the exit status of the whole.

    SIGINT and SIGTERM are passed on. When one process ends badly, the others get a little time, and are then ended:
    they wait for a process that is gone. The first process keeps the terminal; what the others say on standard error
    appears with their numbers, and their standard output, which repeats what the first one says, is dropped.
    """
    children = [_start(command, first=index == 0) for index, command in enumerate(commands)]
    relays = [_relay(index, child) for index, child in enumerate(children) if child.stderr is not None]

    def forward(number, frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    handlers = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _wait(children)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for relay in relays:
        relay.join(1.0)
    return _status([child.returncode for child in children])


def _start(command: list[str], first: bool) -> subprocess.Popen:
    streams = {} if first else {'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE}
    return subprocess.Popen(
        command,
        env=os.environ | {SUPERVISED: str(os.getpid())},
        start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on once
        **streams,
    )


def _relay(index: int, child: subprocess.Popen) -> threading.Thread:
    def copy():
        for line in child.stderr:
            sys.stderr.write(f'[process {index}] {line.decode(errors="replace")}')
            sys.stderr.flush()

    thread = threading.Thread(target=copy, name=f'stderr of process {index}', daemon=True)
    thread.start()
    return thread


def _wait(children: list[subprocess.Popen]) -> None:
    """Until all have ended; those that this has to kill end with RUN_AGAIN: nothing was wrong with them."""
    deadline = None
    while None in (codes := [child.poll() for child in children]):
        if deadline is None and any(codes):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
                    child.returncode = RUN_AGAIN
        time.sleep(POLL_SECONDS)


def _status(codes: list[int]) -> int:
    """The status of the whole, and a line about processes that were killed.

    A mistake of the user's counts before all; what a new start can mend is RUN_AGAIN.
    """
    killed = {index: signal.Signals(-code).name for index, code in enumerate(codes) if code < 0}
    if 2 in codes:
        return 2
    if not any(codes):
        return 0
    if killed:
        what = ', '.join(f'process {index} by {name}' for index, name in killed.items())
        why = ' (by JAX, since process 0 is gone)' if list(killed.values()) == ['SIGABRT'] else ''
        print(
            f'launch.py: ended hard: {what}{why}. Checkpoints on disk are complete; the same command continues from '
            f'the newest (exit status {RUN_AGAIN})',
            file=sys.stderr,
        )
    return RUN_AGAIN if killed or RUN_AGAIN in codes else 1
