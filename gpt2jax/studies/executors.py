"""Where cells run: on this machine, or on a cluster. A new place is a class and its name."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Protocol

from gpt2jax.errors import UserError
from gpt2jax.studies.processes import LOG, start_process
from gpt2jax.studies.ray_executor import Ray
from gpt2jax.studies.slurm_executor import Slurm


class Job(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs or waits for its turn."""

    def stop(self) -> None:
        """Asks it to save and stop."""


class Executor(Protocol):
    """What starts runs. `options` are those of --option, by name; `directory` is the folder of the study."""

    def __init__(self, options: dict[str, str], directory: Path): ...

    def start(self, command: list[str], folder: Path, parallel: int) -> Job:
        """Starts the run of a folder, of which `parallel` go on at a time."""


class Local:
    """Processes of this machine, which end with the study, however that ends.

    Of several at a time each has cores of its own: XLA gives every process as many threads as there are cores, and
    they would wait for each other's.
    """

    def __init__(self, options: dict[str, str], directory: Path):
        if options:
            raise UserError(f'--option={next(iter(options))}: --executor=local takes no option')
        self._started: list[tuple[LocalJob, tuple[int, ...]]] = []

    def start(self, command: list[str], folder: Path, parallel: int) -> Job:
        folder.mkdir(parents=True, exist_ok=True)
        cores = self._free_cores(parallel)
        job = LocalJob(start_process(command, folder / LOG, cores))
        self._started.append((job, cores))
        return job

    def _free_cores(self, parallel: int) -> tuple[int, ...]:
        """The first share that no run has; empty where there is nothing to share."""
        self._started = [(job, cores) for job, cores in self._started if job.poll() is None]
        taken = {cores for _, cores in self._started}
        return next((share for share in shares(usable_cores(), parallel) if share not in taken), ())


class LocalJob:
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []


def shares(cores: list[int], parallel: int) -> list[tuple[int, ...]]:
    """Equal shares of neighbouring cores, one for each of `parallel` runs; none for one run, or for too few cores.

    What does not divide is left over: runs with equal shares take equal time, and their sums are made alike.
    """
    each = len(cores) // parallel
    return [tuple(cores[i * each : (i + 1) * each]) for i in range(parallel)] if parallel > 1 and each else []


EXECUTORS = {'local': Local, 'ray': Ray, 'slurm': Slurm}


def make_executor(name: str, texts: list[str], directory: Path) -> Executor:
    """An executor by name.

    Args:
      texts: 'NAME=VALUE' of --option.
      directory: the folder of the study.

    Raises:
      UserError: an unknown name, options that it does not take, a package that is missing, or a cluster that cannot
        be reached or does not see the folder.
    """
    if name not in EXECUTORS:
        raise UserError(f'--executor={name}: one of {", ".join(EXECUTORS)}')
    return EXECUTORS[name](dict(_option(text) for text in texts), directory)


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition('=')
    if not (name and equals and value):
        raise UserError(f'--option={text}: expected NAME=VALUE, as in --option=partition=gpu')
    return name, value
