"""The machines that can be asked for: chips a host, hosts a slice, and what GKE and Cloud TPU call them.

Sources: cloud.google.com/tpu/docs (a page for each generation: shapes, accelerator types, runtime versions) and
cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (node labels, chips of a node).
"""

import dataclasses
import math
import re

from gpt2jax.errors import UserError

FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
LESS_THAN_A_CUBE = ('2x2x1', '2x2x2', '2x2x4', '2x4x4')


def cubes(most_chips: int) -> tuple[str, ...]:
    """Shapes of a 3D generation: parts of a cube of 4x4x4 chips, then whole cubes, sides in rising order."""
    whole = (
        f'{a}x{b}x{c}'
        for a in range(4, most_chips // 16 + 1, 4)
        for b in range(a, most_chips // (4 * a) + 1, 4)
        for c in range(b, most_chips // (a * b) + 1, 4)
    )
    return (*LESS_THAN_A_CUBE, *whole)


@dataclasses.dataclass(frozen=True)
class Generation:
    """A TPU generation as those who lend it know it.

    Attributes:
      gke: the node label cloud.google.com/gke-tpu-accelerator.
      prefix: of accelerator types, PREFIX-NUMBER.
      numbered: what that NUMBER counts in a chip: its 2 TensorCores, or 1 where chips are counted.
      devices: JAX devices a chip.
      runtime: the image of a TPU VM; '' where only GKE lends the generation.
      shapes: topologies of a slice.
    """

    gke: str
    prefix: str
    numbered: int
    devices: int
    runtime: str
    shapes: tuple[str, ...]


GENERATIONS = {
    'v4': Generation('tpu-v4-podslice', 'v4', 2, 1, 'tpu-ubuntu2204-base', cubes(4096)),
    'v5e': Generation('tpu-v5-lite-podslice', 'v5litepod', 1, 1, 'v2-alpha-tpuv5-lite', FLAT),
    'v5p': Generation('tpu-v5p-slice', 'v5p', 2, 1, 'v2-alpha-tpuv5', cubes(6144)),
    'v6e': Generation('tpu-v6e-slice', 'v6e', 1, 1, 'v2-alpha-tpuv6e', FLAT),
    '7x': Generation('tpu7x', 'tpu7x', 2, 2, '', cubes(9216)),
}

# --gpus=KIND:N on GKE: the node label cloud.google.com/gke-accelerator.
GKE_GPUS = {
    'H200': 'nvidia-h200-141gb',
    'H100': 'nvidia-h100-80gb',
    'H100-MEGA': 'nvidia-h100-mega-80gb',
    'B200': 'nvidia-b200',
    'A100': 'nvidia-tesla-a100',
    'A100-80GB': 'nvidia-a100-80gb',
    'L4': 'nvidia-l4',
    'V100': 'nvidia-tesla-v100',
    'T4': 'nvidia-tesla-t4',
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """The hosts of one slice, or of a GPU cluster.

    Attributes:
      kind: 'tpu' or 'gpu'.
      name: v5e:4x4, H100:8 or 8, as errors and summaries show it.
      hosts: of a slice; for GPUs the nodes.
      chips_per_host: chips, or GPUs, of each.
      devices: JAX devices of a slice, or of all nodes.
      gke: the value of the GKE node label; '' for GPUs whose kind was not given.
      topology, accelerator_type, runtime: of a TPU alone (see Generation); '' for GPUs.
      gpu: the kind of a GPU, H100; '' where it was not given.
    """

    kind: str
    name: str
    hosts: int
    chips_per_host: int
    devices: int
    gke: str = ''
    topology: str = ''
    accelerator_type: str = ''
    runtime: str = ''
    gpu: str = ''


def find_machine(topology: str | None, gpus: str | None, nodes: int) -> Machine:
    """What --topology, or --gpus and --nodes, ask for.

    Raises:
      UserError: both or none of them; an unknown generation, shape or kind (naming those there are).
    """
    if (topology is None) == (gpus is None):
        raise UserError(
            'give either --topology (TPU, as v5e:4x4) or --gpus and --nodes (GPU, as H100:8): one of the two'
        )
    return find_slice(topology) if topology else find_gpus(gpus, nodes)


def find_slice(name: str) -> Machine:
    """v5e:4x4, v5e-16, tpu7x:2x2x1 -> the slice. A number counts what accelerator types count (v5p-32: cores)."""
    match = re.fullmatch(r'(?:tpu-?)?(v?\w+?)(?:(:)([\dx]+)|-(\d+))', name)
    aliases = {'v5litepod': 'v5e', 'v7x': '7x'}
    label = aliases.get(match[1], match[1]) if match else None
    if label not in GENERATIONS:
        raise UserError(f'--topology={name}: unknown; {known()}')
    generation = GENERATIONS[label]
    if match[2]:
        shape = match[3]
    else:
        fitting = [s for s in generation.shapes if chips_of(s) * generation.numbered == int(match[4])]
        shape = min(fitting, key=lambda s: sum(map(int, s.split('x'))), default='')
    if shape not in generation.shapes:
        raise UserError(f'--topology={name}: {label} has no such slice; {known(label)}')
    return make_slice(label, shape)


def make_slice(label: str, shape: str) -> Machine:
    """The slice of a generation and a shape of its table. A v5e or v6e of up to 8 chips is one host."""
    generation, chips = GENERATIONS[label], chips_of(shape)
    per_host = chips if shape in FLAT and chips <= 8 else 4
    return Machine(
        kind='tpu',
        name=f'{label}:{shape}',
        hosts=chips // per_host,
        chips_per_host=per_host,
        devices=chips * generation.devices,
        gke=generation.gke,
        topology=shape,
        accelerator_type=f'{generation.prefix}-{chips * generation.numbered}',
        runtime=generation.runtime,
    )


def find_gpus(gpus: str, nodes: int) -> Machine:
    """H100:8, or 8 where the engine need not know the kind -> the nodes."""
    match = re.fullmatch(r'(?:([A-Za-z][A-Za-z0-9-]*):)?([1-9]\d?)', gpus)
    if not match:
        raise UserError(f'--gpus={gpus}: expected KIND:N, the GPUs of one node, as H100:8, or N alone')
    if nodes < 1:
        raise UserError(f'--nodes={nodes}: at least 1')
    kind, count = (match[1] or '').upper(), int(match[2])
    return Machine('gpu', gpus, nodes, count, nodes * count, gke=GKE_GPUS.get(kind, ''), gpu=kind)


def chips_of(shape: str) -> int:
    """2x2x4 -> 16."""
    return math.prod(map(int, shape.split('x')))


def known(label: str = '') -> str:
    """The shapes there are, of one generation or of all; of the 3D ones those up to 512 chips."""
    labels = [label] if label else list(GENERATIONS)
    rows = (
        f'{name}: {", ".join(s for s in GENERATIONS[name].shapes if chips_of(s) <= 512 or label)}' for name in labels
    )
    return 'there are ' + '; '.join(rows)
