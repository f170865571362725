"""Where cells run: on this machine, or on a Slurm cluster through submitit. A new one is a class and its name."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.files import replace_file

LOG, JOB = 'log.txt', 'job.txt'
TAKEN_BACK = ('TIMEOUT', 'PREEMPTED', 'NODE_FAIL')  # states of Slurm after which a run continues
ERROR_CHARACTERS = 600
LEASH = str(Path(__file__).with_name('leash.py'))


class Job(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def stop(self) -> None:
        """Asks it to save and stop."""


class Local:
    """Processes of this machine, which end with the study, however that ends."""

    def __init__(self, options: list[str], directory: Path):
        if options:
            raise UserError(f'--slurm={options[0]}: --executor=local takes no such option')

    def start(self, command: list[str], folder: Path) -> Job:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open('ab') as log:
            process = subprocess.Popen(
                [sys.executable, LEASH, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the study alone, which passes it on once
            )
        return LocalJob(process)


class LocalJob:
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


class Slurm:
    """Jobs of a Slurm cluster. They outlive a study that is killed, which finds them when it is started again.

    Args:
      options: 'partition=gpu', 'timeout_min=240', ...: parameters of submitit.AutoExecutor; `cluster=local` runs the
        jobs on this machine, for a try.
    """

    def __init__(self, options: list[str], directory: Path):
        try:
            import submitit
        except ImportError:
            raise UserError(
                '--executor=slurm needs submitit: pip install -r requirements-studies.txt; '
                'or run here with --executor=local'
            ) from None
        given = dict(_option(text) for text in options)
        try:
            self._folder = directory / 'slurm'
            self._executor = submitit.AutoExecutor(self._folder, cluster=given.pop('cluster', None))
            self._executor.update_parameters(**{'timeout_min': 24 * 60} | given)
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise UserError(f'--executor=slurm: {error}') from error

    def start(self, command: list[str], folder: Path) -> Job:
        folder.mkdir(parents=True, exist_ok=True)
        job = self._job_of(folder)
        if job is None:
            job = self._executor.submit(run_command, command, str(folder / LOG))
            replace_file(folder / JOB, str(job.job_id).encode())
        return SlurmJob(job)

    def _job_of(self, folder: Path):
        """The job that an earlier start handed in for this run, where it still waits or runs."""
        import submitit

        if self._executor.cluster != 'slurm' or not (folder / JOB).exists():
            return None
        job = submitit.SlurmJob(folder=self._folder, job_id=(folder / JOB).read_text())
        return None if job.done() else job


class SlurmJob:
    """A job that submitit has handed in."""

    def __init__(self, job):
        self._job = job

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        if self._job.exception() is None:
            return self._job.result()
        return RUN_AGAIN if self._job.state in TAKEN_BACK else 1

    def stop(self) -> None:
        if not self._job.done():
            self._job.cancel()


def run_command(command: list[str], log_path: str) -> int:
    """What a job of a cluster does: one run, its output at the end of a file; returns its exit status."""
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


def _option(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition('=')
    if not equals:
        raise UserError(f'--slurm={text}: expected NAME=VALUE, as in --slurm=partition=gpu')
    return name, int(value) if value.isdigit() else value


EXECUTORS = {'local': Local, 'slurm': Slurm}


def make_executor(name: str, options: list[str], directory: Path):
    """Raises UserError for an unknown name, options that it does not take, or a package that is missing."""
    if name not in EXECUTORS:
        raise UserError(f'--executor={name}: one of {", ".join(EXECUTORS)}')
    return EXECUTORS[name](options, directory)
