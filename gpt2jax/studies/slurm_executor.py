"""Runs as jobs of a Slurm cluster, through submitit."""

from pathlib import Path

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.files import replace_file
from gpt2jax.studies.processes import LOG, run_command

JOB = 'job.txt'
TAKEN_BACK = ('TIMEOUT', 'PREEMPTED', 'NODE_FAIL')  # states of Slurm after which a run continues


class Slurm:
    """Jobs of a Slurm cluster. They outlive a study that is killed, which finds them when it is started again.

    Args:
      options: partition, timeout_min, ...: parameters of submitit.AutoExecutor; `cluster=local` runs the jobs on this
        machine, for a try.
    """

    def __init__(self, options: dict[str, str], directory: Path):
        try:
            import submitit
        except ImportError:
            raise UserError(
                '--executor=slurm needs submitit: pip install -r requirements-studies.txt; '
                'or run here with --executor=local'
            ) from None
        given = {name: int(value) if value.isdigit() else value for name, value in options.items()}
        try:
            self._folder = directory / 'slurm'
            self._executor = submitit.AutoExecutor(self._folder, cluster=given.pop('cluster', None))
            self._executor.update_parameters(**{'timeout_min': 24 * 60} | given)
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise UserError(f'--executor=slurm: {error}') from error

    def start(self, command: list[str], folder: Path, parallel: int) -> 'SlurmJob':
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
