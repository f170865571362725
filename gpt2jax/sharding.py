"""Where arrays live: a mesh of devices, and a table of parameter paths. The models know a Placement of it alone.

Mesh axes: `data` holds copies of the model (across slices); `fsdp` cuts one copy of parameters and optimizer state into
parts, which are gathered where they are used (Rajbhandari et al. 2020, section 5.3); `context` cuts the length of each
row; `tensor` cuts the work of each layer: heads, feed-forward and vocabulary (Shoeybi et al. 2019, section 3). Rows of
the batch are cut over `data` and `fsdp`.
"""

import math
import os
import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt2jax.errors import UserError
from gpt2jax.optimizers import path_name
from gpt2jax.placement import ROW_AXES, Placement

# First match wins. A dimension that the axes do not divide stays whole. Kernels are [out, in].
RULES = (
    (r'^carry(/|$)', PartitionSpec(ROW_AXES)),  # what a model remembers of each row
    (r'embedding/(tail_\d+/)?token$|head/(tail_\d+/)?kernel$', PartitionSpec('tensor', 'fsdp')),
    (r'embedding/position|(widen|narrow)/kernel$', PartitionSpec(None, 'fsdp')),
    (r'(attention|cross)/out/kernel$|feedforward/contract/kernel$', PartitionSpec('fsdp', 'tensor')),
    (r'(attention|cross)/(query|key|value)/kernel$|feedforward/(expand|gate)/kernel$', PartitionSpec('tensor', 'fsdp')),
    (r'(attention|cross)/(query|key|value)/bias$|feedforward/(expand|gate)/bias$', PartitionSpec('tensor')),
    (r'attention/relative/kernel$', PartitionSpec('tensor', 'fsdp')),
    (r'attention/relative/\w+_bias$', PartitionSpec('tensor')),
    (r'attention/relative/segment_embedding$', PartitionSpec(None, 'tensor')),
    (r'blocks/\d+/(input|recurrent)/kernel$', PartitionSpec('fsdp')),  # an LSTM's, whole along tensor
    (r'.*', PartitionSpec()),
)

AXES = ('data', 'fsdp', 'context', 'tensor')  # the last are the nearest neighbours
SHOWN_MESHES = 24  # of those that fit, in an error
ROWS = PartitionSpec(ROW_AXES)  # how a batch is cut


def start_devices(config, processes: int = 1) -> None:
    """Splits the CPU into devices, before JAX first touches a device; elsewhere it changes nothing.

    `processes` that train together share the devices that the mesh asks for.

    One device a core with data parallelism is faster on small models than one device with many threads
    (docs/performance.md). XLA_FLAGS with --xla_force_host_platform_device_count win over the config.
    """
    if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
        return
    count = config.sharding.cpu_devices
    if not count:
        microbatch = config.training.batch_size // config.training.accumulation
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        sizes = {axis: max(config.sharding[axis], 1) for axis in AXES}
        least, rows = math.prod(sizes.values()), sizes['data'] * sizes['fsdp']
        count = least
        if -1 in (config.sharding.data, config.sharding.fsdp):
            batch = math.gcd(microbatch, config.evaluation.batch_size)
            times = range(1, max(cores, processes) // least + 1)
            fits = (least * n for n in times if batch % (rows * n) == 0 and least * n % processes == 0)
            count = max(fits, default=least)
        count = -(-count // processes)
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


def make_mesh(config, devices=None) -> Mesh:
    """The mesh of `config.sharding` over all devices there are, or over `devices` (of a machine that is not there).

    Several slices of a TPU pod are joined by `data` alone, whose traffic is one sum a step.

    Raises:
      UserError: when the axes cannot take exactly the devices, or the devices cannot divide the batch.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices), num_slices(devices))
    types = (AxisType.Auto,) * len(AXES)
    if getattr(devices[0], 'platform', '') != 'tpu':
        return jax.make_mesh(shape, AXES, devices=devices, axis_types=types)
    options = {'devices': devices, 'allow_split_physical_axes': True}
    slices = num_slices(devices)
    if slices == 1:
        return Mesh(mesh_utils.create_device_mesh(shape, **options), AXES, axis_types=types)
    within, across = (shape[0] // slices, *shape[1:]), (slices, *np.ones_like(shape[1:]))
    return Mesh(mesh_utils.create_hybrid_device_mesh(within, across, **options), AXES, axis_types=types)


def num_slices(devices) -> int:
    """TPU slices, which are joined by a slower network than the one inside of each; 1 on all other hardware."""
    if getattr(devices[0], 'platform', '') != 'tpu':
        return 1
    return len({getattr(device, 'slice_index', 0) for device in devices})


def mesh_shape(config, count: int, slices: int = 1) -> tuple[int, ...]:
    """Sizes of AXES over `count` devices. Raises UserError where they do not fit, or cannot divide the batch."""
    given = [config.sharding[axis] for axis in AXES]
    others = math.prod(size for size in given if size != -1)
    shape = tuple(count // others if size == -1 else size for size in given)
    if math.prod(shape) != count or shape[0] % slices:
        asked = ' x '.join(map(str, given))
        of = f' in {slices} slices, whose slow network data alone may cross' if slices > 1 else ''
        shapes = [' x '.join(map(str, shape)) for shape in meshes_that_fit(config, count, slices)]
        more = f' and {len(shapes) - SHOWN_MESHES} more' if len(shapes) > SHOWN_MESHES else ''
        fits = ', '.join(shapes[:SHOWN_MESHES]) + more
        raise UserError(
            f'config.sharding.{" x ".join(AXES)} = {asked} does not fit {count} devices{of}; what fits: '
            f'{fits or "nothing: change config.training.batch_size or accumulation, or take other devices"}'
        )
    parts = shape[0] * shape[1]
    if reason := _indivisible(config, parts):
        raise UserError(reason)
    return shape


def meshes_that_fit(config, count: int, slices: int = 1) -> list[tuple[int, ...]]:
    """Every shape of AXES over `count` devices that divides the config's batch, length and heads; data first."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    found = [
        (count // (fsdp * context * tensor), fsdp, context, tensor)
        for tensor in divisors
        for context in divisors
        for fsdp in divisors
        if count % (fsdp * context * tensor) == 0
        and config.model.attention.num_kv_heads % tensor == 0
        and config.data.length % context == 0
    ]
    return [shape for shape in found if shape[0] % slices == 0 and not _indivisible(config, shape[0] * shape[1])]


def _indivisible(config, parts: int) -> str:
    """What of the config's rows cannot be divided over `parts` devices, and what can."""
    rows, accumulation = config.training.batch_size, config.training.accumulation
    over = f'cannot be divided over {parts} devices (data x fsdp)'
    if rows // accumulation % parts:
        advice = f'batch_size={-(-rows // parts) * parts} --config.training.accumulation=1'
        if rows % parts == 0:
            advice = f'accumulation={max(n for n in range(1, rows // parts + 1) if rows % (n * parts) == 0)}'
        return (
            f'a microbatch of {rows // accumulation} rows (config.training.batch_size = {rows} / accumulation = '
            f'{accumulation}) {over}; try --config.training.{advice}'
        )
    if config.evaluation.batch_size % parts:
        return (
            f'config.evaluation.batch_size = {config.evaluation.batch_size} {over}: make it a multiple, or 0 for a '
            'microbatch of training'
        )
    return ''


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of one parameter, or of an optimizer's array of the same path and shape."""
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    if len(spec) > len(shape):
        return PartitionSpec()

    def parts(axes) -> int:
        return math.prod(mesh.shape[axis] for axis in (axes if isinstance(axes, tuple) else (axes,)))

    fits = (axes if axes and size % parts(axes) == 0 else None for axes, size in zip(spec, shape, strict=False))
    return PartitionSpec(*fits)


def make_placement(mesh: Mesh, params) -> Placement:
    """What a model is told of a mesh; `params` are its parameters, or their shapes."""
    cuts = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        spec = parameter_spec(path_name(path), leaf.shape, mesh)
        cuts += [(path_name(path), tuple(spec))] if 'fsdp' in spec else []
    return Placement(mesh, tuple(cuts))


def shard(tree, mesh: Mesh):
    """A tree of arrays or shapes -> the same tree of ShapeDtypeStructs with their shardings."""

    def place(path, leaf):
        sharding = NamedSharding(mesh, parameter_spec(path_name(path), leaf.shape, mesh))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, tree)


def shardings(tree):
    """The shardings of a tree of arrays or ShapeDtypeStructs."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def bytes_per_device(tree) -> int:
    """Bytes that a tree of ShapeDtypeStructs with shardings takes on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
