"""Which processes train together: what the user says, or what the machine says of itself."""

import dataclasses
import warnings

from gpt2jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Processes:
    """What a user says of the processes that train together.

    Attributes:
      local: how many to start on this machine.
      coordinator, count, index: HOST:PORT of process 0, how many there are, and which one this is.
    """

    local: int = 1
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of one run, as this one sees them.

    Attributes:
      coordinator: HOST:PORT of process 0.
      count: how many processes there are, at least 2.
      index: which of them this is.
      local_devices: numbers of the devices of this host that are this process's; None: all.
    """

    coordinator: str
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None

    @property
    def host(self) -> str:
        """Of the coordinator."""
        return self.coordinator.rpartition(':')[0].strip('[]')

    @property
    def port(self) -> int:
        """Of the coordinator."""
        return int(self.coordinator.rpartition(':')[2])


def find_cluster(processes: Processes) -> Cluster | None:
    """The cluster that the user names, or the one that JAX detects: a TPU pod, Slurm, Kubernetes, Open MPI.

    Returns:
      None where this process trains alone.

    Raises:
      UserError: the flags do not name a cluster, or the machine's own account of it cannot be read.
    """
    coordinator, count, index = processes.coordinator, processes.count, processes.index
    given = {'coordinator': coordinator, 'num_processes': count, 'process_id': index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return _detect()
    if missing:
        raise UserError(
            f'--{missing[0]} is missing: --coordinator=HOST:PORT --num_processes=N --process_id=I go together, and '
            'without all three the cluster is detected'
        )
    _check_address(coordinator)
    if count < 1 or not 0 <= index < count:
        raise UserError(
            f'--process_id={index} --num_processes={count}: the processes are numbered from 0 to num_processes - 1'
        )
    return Cluster(coordinator, count, index) if count > 1 else None


def _check_address(coordinator: str) -> None:
    host, colon, port = coordinator.rpartition(':')
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f'--coordinator={coordinator}: expected HOST:PORT of process 0, such as 10.0.0.1:8476')


def _detect() -> Cluster | None:
    # JAX has no public way to ask where it runs without starting its service at once.
    from jax._src.clusters import ClusterEnv

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it advises a package to every pod, also to those that train alone
        try:
            found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 60)
        except Exception as error:  # whatever an engine's own client raises
            raise UserError(
                f'the cluster that this process seems to run in could not be read ({error}); name it with '
                '--coordinator=HOST:PORT --num_processes=N --process_id=I, or train alone with '
                '--coordinator=localhost:1 --num_processes=1 --process_id=0'
            ) from error
    coordinator, count, index, devices = found
    if coordinator is None or count is None or count < 2:
        return None
    return Cluster(coordinator, count, index, None if devices is None else tuple(devices))
