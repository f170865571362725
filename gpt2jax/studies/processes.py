"""A run's process: started so that it does not outlive who started it, its log, and what it said last."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LOG = 'log.txt'
ERROR_CHARACTERS = 600
LEASH = str(Path(__file__).with_name('leash.py'))


def start_process(command: list[str], log_path: str | Path, cores: Sequence[int] = (), **options) -> subprocess.Popen:
    """Starts a run, its output at the end of a file. On Linux it ends with the thread that calls this.

    Args:
      cores: that it may use; empty: those of this process.
      options: env and cwd of subprocess.Popen, where they are not those of this process.
    """
    leash = [sys.executable, LEASH, str(os.getpid()), ','.join(map(str, cores))]
    with open(log_path, 'ab') as log:
        return subprocess.Popen(
            [*leash, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the study alone, which passes it on once
            **options,
        )


def run_command(command: list[str], log_path: str) -> int:
    """What a job of Slurm does: one run, its output at the end of a file; returns its exit status."""
    with open(log_path, 'ab') as log:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode


def last_error(folder: Path, status: int) -> str:
    """What a failed run said last, in a few lines; and by which signal it ended, if one did."""
    try:
        with (folder / LOG).open('rb') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 20_000))
            lines = file.read().decode(errors='replace').strip().splitlines()
    except OSError:
        lines = []
    spoken = [index for index, line in enumerate(lines) if line.startswith('launch.py: ')]
    text = '\n'.join(lines[spoken[-1] :] if spoken else lines[-3:])[:ERROR_CHARACTERS]
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f'ended by {name}' + (f' after: {lines[-1][:ERROR_CHARACTERS]}' if lines else '')
    return text.removeprefix('launch.py: ') or f'exit status {status}, and it said nothing'
