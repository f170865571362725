"""From a cluster to JAX on all of its processes, once they are known to fit together."""

import functools
import hashlib
import os
import platform
import socket
from importlib.metadata import version
from pathlib import Path

import jax

import gpt2jax
from gpt2jax.processes.cluster import Cluster
from gpt2jax.processes.peers import ALONE, Peers
from gpt2jax.processes.roll_call import Facts, roll_call

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
# Ours speaks first, and names who is silent; JAX's own watch ends a program without a word (gpt2jax.processes.peers).
HEARTBEAT_FACTOR = 20
SHUTDOWN_SECONDS = 3600  # the others wait while process 0 writes the report


def join(cluster: Cluster | None, config: dict, start_seconds: float, patience_seconds: float) -> Peers:
    """Starts JAX on all processes of a cluster, after the roll call. Must precede the first use of a device.

    Args:
      cluster: None for a process that trains alone.
      config: the resolved config, flat; it must be the same in all processes.
      start_seconds: how long processes wait for each other.
      patience_seconds: `config.runtime.patience_seconds`.

    Raises:
      UserError: a process did not answer, or has other code, versions or values than the others.
    """
    if cluster is None:
        return ALONE
    present = roll_call(cluster, facts_of_this_process(config), find_difference, start_seconds)
    # Nothing else takes SIGTERM from gpt2jax.training.signals.
    jax.config.update('jax_enable_preemption_service', False)
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.count,
        cluster.index,
        local_device_ids=cluster.local_devices,
        cluster_detection_method='deactivate',
        initialization_timeout=round(start_seconds),
        heartbeat_timeout_seconds=round(HEARTBEAT_FACTOR * patience_seconds) + 1,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    return Peers(cluster.index, [facts['host'] for facts in present], patience_seconds)


def facts_of_this_process(config: dict) -> Facts:
    """What must be the same in all processes, and where this one is."""
    return {
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'code': code_fingerprint(),
        'versions': {'python': platform.python_version(), 'gpt2jax': gpt2jax.__version__}
        | {name: version(name) for name in PACKAGES},
        'config': config,
    }


def find_difference(present: list[Facts]) -> str | None:
    """How the first process that is unlike process 0 differs from it, in words; None where all are alike."""
    first = present[0]
    for index, other in enumerate(present[1:], start=1):
        who = f'process {index} on {other["host"]} differs from process 0 on {first["host"]}'
        for what in ('config', 'versions'):
            keys = sorted(key for key in first[what] | other[what] if first[what].get(key) != other[what].get(key))
            if keys:
                lines = ', '.join(f'{key} = {other[what].get(key)!r}, not {first[what].get(key)!r}' for key in keys[:5])
                return f'{who} in its {what}: {lines}; start all with the same command in the same environment'
        if first['code'] != other['code']:
            return f'{who}: it runs other code (the files of gpt2jax/ are not the same); bring both to the same commit'
    return None


@functools.cache
def code_fingerprint() -> str:
    """A hash of all Python files of the package."""
    folder, digest = Path(gpt2jax.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob('*.py')):
        content = path.read_bytes()
        digest.update(f'{path.relative_to(folder).as_posix()} {len(content)} '.encode() + content)
    return digest.hexdigest()
