"""The chips and pods that `plan` knows, from their names alone. Nothing here imports JAX.

Peaks and bandwidths are the makers' data sheets and the table of "How to Scale Your Model" (Austin et al. 2025,
jax-ml.github.io/scaling-book, "Rooflines" and "TPUs"); the memory that a program may use is the compiler's own limit.
"""

import dataclasses
import math
import re

from gpt2jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX sees it.

    Attributes:
      platform: tpu, cuda or cpu.
      kind: its `device_kind`, or what comes nearest.
      peak_flops: dense bfloat16 products, FLOP/s.
      memory: bytes that a program may use.
      hbm_bandwidth: bytes a second.
      link: bytes a second to one neighbour, in one direction.
      outside: bytes a second to other slices or hosts.
      cycles: a microsecond; 0 where the compiler gives no cycles.
      attention: bundles of an attention kernel, over those of a v5e; two cores that share a kernel take half.
      dimensions: of its pods.
      devices: JAX devices a chip.
      accelerator: what TPU_ACCELERATOR_TYPE begins with.
      options: for the description of the topology.
    """

    platform: str
    kind: str
    peak_flops: float
    memory: int
    hbm_bandwidth: float
    link: float
    outside: float
    cycles: float = 0.0
    attention: float = 1.0
    dimensions: int = 1
    devices: int = 1
    accelerator: str = ''
    options: tuple = ()


def _tpu(kind, tflops, memory, bandwidth, link, outside, cycles, dimensions, accelerator, **more) -> Chip:
    return Chip(
        'tpu', kind, tflops * 1e12, int(memory * GIB), bandwidth, link, outside, cycles, dimensions=dimensions,
        accelerator=accelerator, **more,
    )  # fmt: skip


CHIPS = {
    'v2': _tpu('TPU v2', 22.5, 7.75, 3.5e11, 6.2e10, 1.5e9, 700, 2, 'v2', devices=2),
    'v3': _tpu('TPU v3', 61.5, 15.75, 4.5e11, 1e11, 1.5e9, 940, 2, 'v3', devices=2),
    'v4': _tpu(
        'TPU v4',
        275,
        30.75,
        1.2e12,
        4.5e10,
        6.25e9,
        1050,
        3,
        'v4',
        attention=0.5,
        options=(('chip_config_name', 'megacore'),),
    ),
    'v5e': _tpu('TPU v5 lite', 197, 15.75, 8.19e11, 4.5e10, 3.125e9, 1500, 2, 'v5litepod'),
    'v5p': _tpu('TPU v5', 459, 95.73, 2.765e12, 9e10, 6.25e9, 1750, 3, 'v5p', attention=0.5),
    'v6e': _tpu('TPU v6 lite', 918, 31.24, 1.64e12, 9e10, 12.5e9, 1750, 2, 'v6e', attention=0.7),
    'tpu7x': _tpu('TPU7x', 1153.5, 94.74, 3.69e12, 9e10, 6.25e9, 1900, 3, 'tpu7x', attention=0.7, devices=2),
    'a100': Chip('cuda', 'NVIDIA A100', 312e12, int(39.4 * GIB), 1.555e12, 3e11, 2.5e10),
    'a100-80': Chip('cuda', 'NVIDIA A100 80GB', 312e12, int(79.1 * GIB), 2.039e12, 3e11, 2.5e10),
    'h100': Chip('cuda', 'NVIDIA H100', 989e12, int(79.1 * GIB), 3.35e12, 4.5e11, 5e10),
    'h200': Chip('cuda', 'NVIDIA H200', 989e12, int(140 * GIB), 4.8e12, 4.5e11, 5e10),
    'cpu': Chip('cpu', 'CPU', 2.7e11, 0, 1.4e10, 1e10, 1e9),
}
EXAMPLES = {
    'v2': ('v2:2x2', 'v2:16x16'),
    'v3': ('v3:2x2', 'v3:32x32'),
    'v4': ('v4:2x2x1', 'v4:4x4x4', 'v4:8x8x8'),
    'v5e': ('v5e:1x1', 'v5e:2x4', 'v5e:4x4', 'v5e:16x16'),
    'v5p': ('v5p:2x2x1', 'v5p:4x4x4', 'v5p:16x16x24'),
    'v6e': ('v6e:1x1', 'v6e:2x4', 'v6e:16x16'),
    'tpu7x': ('tpu7x:2x2x1', 'tpu7x:4x4x4'),
    'a100': ('a100:1', 'a100:8'),
    'a100-80': ('a100-80:1', 'a100-80:8'),
    'h100': ('h100:1', 'h100:8'),
    'h200': ('h200:1', 'h200:8'),
    'cpu': ('cpu:1', 'cpu:8'),
}
GPUS_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Topology:
    """A pod, a host or a few of them.

    Attributes:
      name: 'v5e:16x16'.
      chip_name: of CHIPS.
      shape: chips along each dimension; (n,) for GPUs and CPUs.
      slices: how many of these pods, joined by the data centre's network.
      peaks: measured FLOP/s and bytes/s of one device, in place of the chip's.
    """

    name: str
    chip_name: str
    shape: tuple[int, ...]
    slices: int = 1
    peaks: tuple[float, float] | None = None

    @property
    def chip(self) -> Chip:
        """What it is made of."""
        chip = CHIPS[self.chip_name]
        if self.peaks is None:
            return chip
        return dataclasses.replace(chip, peak_flops=self.peaks[0], hbm_bandwidth=self.peaks[1])

    def with_peaks(self, flops: float, bandwidth: float) -> 'Topology':
        """The same with peaks that were measured."""
        return dataclasses.replace(self, peaks=(flops, bandwidth))

    @property
    def chips(self) -> int:
        """Of all slices together: what is paid for."""
        return math.prod(self.shape) * self.slices

    @property
    def device_count(self) -> int:
        """JAX devices."""
        return self.chips * self.chip.devices

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Whether the last chip along each dimension is a neighbour of the first."""
        chip = self.chip
        if chip.platform != 'tpu':
            return (True,) * len(self.shape)
        if chip.dimensions == 2:
            return tuple(size >= 16 for size in self.shape)
        return tuple(size >= 4 and size % 4 == 0 for size in self.shape)


def read_topology(name: str, slices: int = 1) -> Topology:
    """'v5e:16x16' -> a Topology.

    Raises:
      UserError: an unknown chip, or a shape that such pods do not have; the known ones are listed.
    """
    match = re.fullmatch(r'([a-z0-9\-]+):(\d{1,5}(?:x\d{1,5})*)', name.strip().lower())
    chip = CHIPS.get(match[1]) if match else None
    if chip is None:
        raise UserError(f'--topology={name}: unknown. Known are, in these and other shapes:\n{known_topologies()}')
    shape = tuple(int(size) for size in match[2].split('x'))
    examples = ', '.join(EXAMPLES[match[1]])
    if len(shape) != chip.dimensions or 0 in shape:
        raise UserError(
            f'--topology={name}: {match[1]} has {chip.dimensions} dimension(s), of sizes from 1; for example {examples}'
        )
    if slices < 1:
        raise UserError(f'--slices={slices}: expected 1 or more')
    if slices > 1 and chip.platform != 'tpu':
        raise UserError(f'--slices={slices}: only TPU pods have slices; for several hosts of GPUs write {match[1]}:16')
    if chip.platform == 'cuda' and shape[0] > GPUS_A_HOST and shape[0] % GPUS_A_HOST:
        raise UserError(
            f'--topology={name}: hosts have {GPUS_A_HOST} GPUs each, so beyond one host write a multiple of it'
        )
    return Topology(f'{match[1]}:{match[2]}', match[1], shape, slices)


def known_topologies() -> str:
    """A line for each chip."""
    width = max(map(len, CHIPS))
    return '\n'.join(f'  {name:{width}} {CHIPS[name].kind}: {", ".join(EXAMPLES[name])}' for name in CHIPS)
