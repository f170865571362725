"""The devices of a topology that is not here, as JAX wants them, and how they are connected. Runs in the worker."""

import jax
from jax.experimental import topologies

from gpt2jax.errors import UserError
from gpt2jax.planning.collectives import Network
from gpt2jax.planning.topologies import GPUS_A_HOST, Topology

GPU_TARGETS = {  # cores, compute capability, cores of a processor, clock in GHz, L2 bytes, shared bytes, registers
    'a100': (108, (8, 0), 1.41, 40 * 2**20, 42_505_273_344, 1.555e12),
    'a100-80': (108, (8, 0), 1.41, 40 * 2**20, 84_974_239_744, 2.039e12),
    'h100': (132, (9, 0), 1.98, 50 * 2**20, 84_929_347_584, 3.352e12),
    'h200': (132, (9, 0), 1.98, 50 * 2**20, 150_754_820_096, 4.8e12),
}


def make_devices(topology: Topology) -> list:
    """The devices to compile for.

    Raises:
      UserError: the compiler for them is not installed, or it knows no such pod.
    """
    if topology.chip.platform == 'cpu':
        return jax.devices()[: topology.device_count]
    if topology.chip.platform == 'cuda':
        return _gpus(topology)
    return _tpus(topology)


def _tpus(topology: Topology) -> list:
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            f'--topology={topology.name} needs libtpu, the compiler for TPUs, which is not installed: '
            'pip install -r requirements-plan.txt (no TPU is needed)'
        ) from None
    options = dict(topology.chip.options)
    if topology.slices > 1:
        options['num_slices'] = topology.slices
    if topology.chips // topology.slices == 1:
        options['chips_per_host_bounds'] = [1, 1, 1]
    try:
        return list(topologies.get_topology_desc(topology.name, platform='tpu', **options).devices)
    except Exception as error:
        raise UserError(f'--topology={topology.name}: libtpu knows no such pod ({_first_line(error)})') from error


def _gpus(topology: Topology) -> list:
    jax.devices()  # the compilers that are installed are found when the first device is asked for
    hosts, gpus = max(1, topology.chips // GPUS_A_HOST), min(topology.chips, GPUS_A_HOST)
    try:
        found = topologies.get_topology_desc(
            topology.chip_name,
            platform='cuda',
            target_config=_gpu_target(topology.chip_name),
            topology=f'1x{hosts}x{gpus}',
        )
    except Exception as error:
        raise UserError(
            f'--topology={topology.name} needs the compiler for NVIDIA GPUs: pip install --no-deps '
            f'-r requirements-plan-gpu.txt (no GPU is needed); {_first_line(error)}'
        ) from error
    return list(found.devices)


def _gpu_target(name: str) -> str:
    """A GpuTargetConfig of XLA as text."""
    cores, (major, minor), clock, cache, memory, bandwidth = GPU_TARGETS[name]
    shared = 233_472 if major == 9 else 167_936
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared - 1024}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {int(bandwidth)} l2_cache_size: {cache} clock_rate_ghz: {clock}
  device_memory_size: {memory} registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}"
"""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def make_network(topology: Topology, mesh) -> Network:
    """How the devices of a mesh are connected, in the order of the program's own numbers."""
    chip = topology.chip
    devices = mesh.devices.ravel()
    if chip.platform == 'tpu':
        places = tuple(
            (*map(int, d.coords[: chip.dimensions]), int(getattr(d, 'slice_index', 0) or 0)) for d in devices
        )
        shape, wraps = topology.shape, topology.wraps
    else:
        per_host = GPUS_A_HOST if chip.platform == 'cuda' else len(devices)
        places = tuple((index % per_host, index // per_host) for index in range(len(devices)))
        shape, wraps = (min(per_host, len(devices)),), (False,)
    axes = {name: int(size) for name, size in mesh.shape.items()}
    return Network(axes, places, shape, wraps, chip.link, chip.outside)
