"""What is checked, before anything expensive, of processes that are to train together (gpt2jax.processes)."""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gpt2jax.batches import local_rows
from gpt2jax.processes.peers import CommonError, Peers
from gpt2jax.storage import is_bucket
from gpt2jax.training.setup import Setup

VISIBLE_SECONDS = 20.0  # until a file that another host wrote must be there; NFS looks anew after some seconds


def check_processes(setup: Setup, workdir: Path, peers: Peers, seconds: float) -> None:
    """Rows are disjoint, every process sees and writes the run's folder, and a sum over all devices is right.

    Args:
      workdir: exists.
      seconds: how long the sum may take.

    Raises:
      CommonError: in all processes alike; names the process and what is wrong.
    """
    if peers.count == 1:
        return
    check_rows(peers.exchange('rows', local_rows(setup.config.training.batch_size, setup.mesh).tolist()), setup, peers)
    check_folder(workdir, peers)
    check_sum(setup.mesh, peers, seconds)


def check_rows(rows: list[list[int]], setup: Setup, peers: Peers) -> None:
    """All rows of a batch are read, and two processes read the same ones or none in common."""
    wanted = list(range(setup.config.training.batch_size))
    groups = {tuple(part): index for index, part in enumerate(rows)}
    if sorted(row for part in groups for row in part) != wanted:
        parts = '; '.join(f'{peers.name(index)}: {describe_rows(part)}' for index, part in enumerate(rows))
        raise CommonError(
            f'the processes would not read each of the {len(wanted)} rows of a batch once ({parts}): config.sharding '
            'cannot be cut over these hosts; try sharding.data=-1 with the other axes within a host'
        )


def describe_rows(part: list[int]) -> str:
    """'rows 0 to 7', or their number where they are no range."""
    if part == list(range(part[0], part[-1] + 1)):
        return f'rows {part[0]} to {part[-1]}'
    return f'{len(part)} rows from {part[0]} to {part[-1]}'


def check_folder(workdir: Path, peers: Peers) -> None:
    """Every process writes a file, and finds those of all others."""
    own = workdir / f'.process.{peers.index}.{secrets.token_hex(8)}'
    error = None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        own.write_text('gpt2jax')
    except Exception as failure:  # a bucket's package has its own kinds
        error = f'cannot write in --workdir={workdir}: {getattr(failure, "strerror", None) or failure}'
    try:
        peers.agree('workdir written', error)
        names = peers.exchange('workdir', own.name)
        unseen = _wait_for([workdir / name for name in names])
        missing = ', '.join(peers.name(index) for index in unseen)
        peers.agree(
            'workdir seen',
            f'does not see in {workdir} what {missing} wrote there: --workdir must be a folder that all hosts share '
            '(NFS or the like), or gs://BUCKET/PATH'
            if unseen
            else None,
        )
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)


def _wait_for(paths: list[Path]) -> list[int]:
    """Which of the files have not appeared in time."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while unseen := [index for index, path in enumerate(paths) if not path.exists()]:
        if time.monotonic() > deadline:
            return unseen
        if not is_bucket(paths[0]):
            with contextlib.suppress(OSError):
                os.listdir(paths[0].parent)  # makes NFS look at the folder again
        time.sleep(0.2)
    return []


def check_sum(mesh, peers: Peers, seconds: float) -> None:
    """Adds one number a device over all devices, which is the first thing that needs the network between them."""
    found: list[float | BaseException] = []

    def add():
        try:
            found.append(sum_of_devices(mesh))
        except BaseException as error:  # told by the main thread
            found.append(error)

    with quiet_output():
        thread = threading.Thread(target=add, name='sum over devices', daemon=True)
        thread.start()
        thread.join(seconds)
    expected, error = mesh.size * (mesh.size + 1) / 2, None
    if not found:
        error = f'a sum over all {mesh.size} devices did not come to an end within {seconds:.0f} s'
    elif isinstance(found[0], BaseException):
        error = f'a sum over all {mesh.size} devices failed: {str(found[0]).splitlines()[0]}'
    elif found[0] != expected:
        error = f'a sum over all {mesh.size} devices is {found[0]}, not {expected}'
    peers.agree('sum', error and f'{error}; is the network between the hosts open, and the devices healthy?')


def sum_of_devices(mesh) -> float:
    """1 + 2 + ... + the number of devices, added by the devices."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    numbers = np.arange(1, mesh.size + 1, dtype=np.float32)
    array = jax.make_array_from_callback(numbers.shape, sharding, lambda index: numbers[index])
    total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(array)
    return float(total)


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """Drops what native code prints meanwhile: gloo tells of every connection."""
    kept, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)
