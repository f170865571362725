"""Where arrays live: a mesh of devices, and a table of parameter paths. The models know nothing of it.

Mesh axes: `data` holds copies of the model (across slices); `fsdp` cuts one copy of parameters and optimizer state into
parts, which are gathered where they are used; `tensor` cuts the work of each layer: heads, feed-forward and vocabulary
(Shoeybi et al. 2019, section 3). Rows of the batch are cut over `data` and `fsdp`.
"""

import math
import os
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2jax.errors import UserError
from gpt2jax.optimizers import path_name

# First match wins. A dimension that the axes do not divide stays whole. Kernels are [out, in].
RULES = (
    (r'embedding/token$|head/kernel$', PartitionSpec(('tensor', 'fsdp'), None)),
    (r'embedding/position', PartitionSpec(None, 'fsdp')),
    (r'attention/out/kernel$|feedforward/contract/kernel$', PartitionSpec('fsdp', 'tensor')),
    (r'attention/(query|key|value)/kernel$|feedforward/(expand|gate)/kernel$', PartitionSpec('tensor', 'fsdp')),
    (r'attention/(query|key|value)/bias$|feedforward/(expand|gate)/bias$', PartitionSpec('tensor')),
    (r'.*', PartitionSpec()),
)

AXES = ('data', 'fsdp', 'tensor')
ROWS = PartitionSpec(('data', 'fsdp'))  # how a batch is cut, and the activations between two blocks


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
        tensor, fsdp = config.sharding.tensor, config.sharding.fsdp
        least = max(config.sharding.data, 1) * fsdp * tensor
        most = max(cores, least) if config.sharding.data == -1 else least
        rows = math.gcd(microbatch, config.evaluation.batch_size)
        count = max(n for n in range(least, most + 1, fsdp * tensor) if rows % (n // tensor) == 0)
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
    data, fsdp, tensor = (config.sharding[axis] for axis in AXES)
    if data == -1:
        data = count // (fsdp * tensor)
    if data * fsdp * tensor != count:
        fits = [
            f'{count // (f * t)} x {f} x {t}'
            for t in range(1, count + 1)
            for f in range(1, count + 1)
            if count % (f * t) == 0 and config.model.attention.num_kv_heads % t == 0
        ]
        raise UserError(
            f'config.sharding.data x fsdp x tensor = {config.sharding.data} x {fsdp} x {tensor} does not fit {count} '
            f'devices; what fits: {", ".join(fits)}'
        )
    parts = data * fsdp
    microbatch = config.training.batch_size // config.training.accumulation
    if microbatch % parts:
        raise UserError(
            f'a microbatch of {microbatch} rows (config.training.batch_size / accumulation) cannot be divided over '
            f'{parts} devices (data x fsdp)'
        )
    if config.evaluation.batch_size % parts:
        raise UserError(
            f'config.evaluation.batch_size = {config.evaluation.batch_size} cannot be divided over {parts} devices '
            '(data x fsdp)'
        )
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of one parameter, or of an optimizer's array of the same path and shape."""
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    if len(spec) > len(shape):
        return PartitionSpec()

    def parts(axes) -> int:
        return math.prod(mesh.shape[axis] for axis in (axes if isinstance(axes, tuple) else (axes,)))

    fits = (axes if axes and size % parts(axes) == 0 else None for axes, size in zip(spec, shape, strict=False))
    return PartitionSpec(*fits)


def constrain_rows(mesh: Mesh):
    """What keeps activations [B, ...] cut by rows alone between two blocks; None where every device has its own rows.

    There the step sees the rows of one device only (gpt2jax.training.step.sum_over_replicas).
    """
    if mesh.shape['fsdp'] == mesh.shape['tensor'] == 1:
        return None
    return lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, ROWS))


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
