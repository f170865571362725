"""Where arrays live: a mesh of devices, and a table of parameter paths. The models know nothing of it.

Mesh axes: `data` holds copies of the model (across slices), `fsdp` cuts one copy of parameters and optimizer state
into parts. Every device gets its own rows of the batch.
"""

import math
import os
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2jax.errors import UserError
from gpt2jax.optimizers import path_name

# First match wins. A dimension that the axis does not divide stays whole.
RULES = (
    (r'embedding/token$|head/kernel$', PartitionSpec('fsdp', None)),
    (r'embedding/position', PartitionSpec(None, 'fsdp')),
    (r'attention/out/kernel$', PartitionSpec('fsdp', None)),
    (r'feedforward/contract/kernel$', PartitionSpec('fsdp', None)),
    (r'blocks/.*/kernel$', PartitionSpec(None, 'fsdp')),
    (r'.*', PartitionSpec()),
)

ROWS = PartitionSpec(('data', 'fsdp'))  # how a batch is cut


def start_devices(config) -> None:
    """Splits the CPU into devices, before JAX first touches a device; elsewhere it changes nothing.

    One device a core with data parallelism is faster on small models than one device with many threads
    (docs/performance.md). XLA_FLAGS with --xla_force_host_platform_device_count win over the config.
    """
    if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
        return
    count = config.sharding.cpu_devices
    if not count:
        microbatch = config.training.batch_size // config.training.accumulation
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        wanted = max(config.sharding.data, 1) * config.sharding.fsdp
        cores = max(cores, wanted)
        if config.sharding.data != -1:
            cores = wanted
        rows = math.gcd(microbatch, config.evaluation.batch_size)
        count = max(n for n in range(1, cores + 1) if rows % n == 0 and n % config.sharding.fsdp == 0)
    if jax.config.jax_num_cpu_devices != count:
        try:
            jax.config.update('jax_num_cpu_devices', count)
        except RuntimeError:  # devices are up already, in a test or a notebook: use what there is
            return


def keep_compiled(folder: str) -> None:
    """Keeps what XLA compiles in a folder, so that the same program starts faster the next time; '' keeps nothing."""
    path = os.path.expanduser(folder) if folder else None
    if path != jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', path)


def make_mesh(config) -> Mesh:
    """The mesh of `config.sharding` over all devices there are.

    Raises:
      UserError: when the axes cannot take exactly the devices, or the devices cannot divide the batch.
    """
    count = jax.device_count()
    data, fsdp = config.sharding.data, config.sharding.fsdp
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        legal = ', '.join(f'{count // n} x {n}' for n in range(1, count + 1) if count % n == 0)
        raise UserError(
            f'config.sharding.data x fsdp = {config.sharding.data} x {fsdp} does not fit {count} devices; '
            f'what fits: {legal}'
        )
    microbatch = config.training.batch_size // config.training.accumulation
    if microbatch % count:
        raise UserError(
            f'a microbatch of {microbatch} rows (config.training.batch_size / accumulation) cannot be divided over '
            f'{count} devices'
        )
    if config.evaluation.batch_size % count:
        raise UserError(
            f'config.evaluation.batch_size = {config.evaluation.batch_size} cannot be divided over {count} devices'
        )
    return jax.make_mesh((data, fsdp), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of one parameter, or of an optimizer's array of the same path and shape."""
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    if len(spec) > len(shape):
        return PartitionSpec()
    fits = (axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, shape, strict=False))
    return PartitionSpec(*fits)


def shard(tree, mesh: Mesh):
    """A tree of arrays or shapes -> the same tree of ShapeDtypeStructs with their shardings."""

    def place(path, leaf):
        sharding = NamedSharding(mesh, parameter_spec(path_name(path), leaf.shape, mesh))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, tree)


def shardings(tree):
    """The shardings of a tree of arrays or ShapeDtypeStructs."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of the global batch -> global arrays, cut by rows over all devices."""
    sharding = NamedSharding(mesh, ROWS)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def local_rows(batch_size: int) -> slice:
    """The rows of a global batch that this process reads."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def bytes_per_device(tree) -> int:
    """Bytes that a tree of ShapeDtypeStructs with shardings takes on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
