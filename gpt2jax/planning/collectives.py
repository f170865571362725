"""Collectives of a compiled program: along which mesh axes, how many bytes, how long.

Times are those of rings over the links that a group spans (Chan et al. 2007, section 5): estimates.
"""

import dataclasses
import math
import re

import numpy as np

from gpt2jax.planning.hlo import Instruction

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')
HOP_SECONDS = 1e-6  # the least time of a message between neighbours


@dataclasses.dataclass(frozen=True)
class Network:
    """How the devices are connected.

    Attributes:
      axes: of the mesh, name -> size, in the order of the devices' numbers.
      places: for each device its coordinates in the pod, and last the number of its slice.
      shape: of the pod, in the same coordinates without the slice.
      wraps: for each of them, whether the last is a neighbour of the first.
      link: bytes a second between two neighbours, in one direction.
      outside: bytes a second of one device to other slices or hosts.
    """

    axes: dict[str, int]
    places: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    wraps: tuple[bool, ...]
    link: float
    outside: float


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: of KINDS.
      axes: 'fsdp', 'data x fsdp', ...: the axes of the mesh along which its groups lie.
      payload: bytes of the whole array on one device: what is gathered, summed or moved.
      sent: bytes that each device sends.
      seconds: an estimate, when nothing else uses the links.
    """

    kind: str
    axes: str
    payload: int
    sent: float
    seconds: float


def kind_of(instruction: Instruction) -> str | None:
    """'all-reduce' of all-reduce and all-reduce-start; None where it is no collective."""
    name = instruction.opcode.removesuffix('-start')
    return name if name in KINDS else None


def read_collective(instruction: Instruction, payload: int, network: Network, kind: str | None = None) -> Collective:
    """What a collective costs. `payload` is as in Collective; `kind` overrides that of the instruction."""
    kind = kind or kind_of(instruction)
    group = first_group(instruction, len(network.places))
    n = len(group)
    if kind == 'collective-permute':
        share = 1.0
    elif kind == 'all-reduce':
        share = 2 * (n - 1) / n
    else:
        share = (n - 1) / n
    seconds = _seconds(kind, payload, group, network)
    return Collective(kind, axes_of(group, network.axes), payload, share * payload, seconds)


def rendezvous(instruction: Instruction) -> str | None:
    """What the send and the receive of a collective between slices have in common; None of anything else."""
    if '_xla_megascale_transfer_type' not in instruction.rest:
        return None
    match = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', instruction.rest)
    return match and match[1]


def between_slices(instruction: Instruction, payload: int, network: Network) -> Collective:
    """A collective between slices, which a TPU's compiler writes as a send to the hosts: each device sends its part."""
    kind = re.search(r'_xla_megascale_transfer_type="([^"]*)"', instruction.rest)[1].lower().replace('_', '-')
    twins = [device for device, place in enumerate(network.places) if place[:-1] == network.places[0][:-1]]
    share = (2 if kind == 'all-reduce' else 1) * (len(twins) - 1) / max(len(twins), 1)
    axes = f'{axes_of(twins, network.axes)}, between slices'
    return Collective(kind, axes, payload, share * payload, share * payload / network.outside)


def first_group(instruction: Instruction, count: int) -> list[int]:
    """The devices of the group that holds device 0, in all notations of replica groups; all of them where none is."""
    text = instruction.rest
    if pairs := re.search(r'source_target_pairs=\{(.*?)\}\}', text):
        numbers = [[int(n) for n in pair.split(',')] for pair in re.findall(r'\{(\d+,\d+)', '{' + pairs[1].lstrip('{'))]
        return next((pair for pair in numbers if pair[0] != pair[1]), [0])
    if mesh := re.search(r'replica_groups=@?\w*mesh\[([^\]]*)\](?:, ?device_ids=\(([^)]*)\))? ?\{([^}]*)\}', text):
        return _mesh_group(*mesh.groups())
    if iota := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
        shape, source, order = ([int(n) for n in part.split(',')] if part else None for part in iota.groups())
        numbers = np.arange(math.prod(source)).reshape(source)
        return (numbers.transpose(order) if order else numbers).reshape(shape)[0].tolist()
    if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
        return [int(n) for n in listed[1].split(',')]
    return list(range(count))


def _mesh_group(axes: str, device_ids: str | None, chosen: str) -> list[int]:
    """replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}; parts of an axis are written 'axis_0':(1)2."""
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", axes)}
    numbers = np.arange(math.prod(sizes.values()))
    if device_ids and re.fullmatch(r'[\d, ]+', device_ids):
        numbers = np.array([int(n) for n in device_ids.split(',')])
    shape, wanted = [], []
    parts = {name: (int(before), int(size)) for name, before, size in re.findall(r"'([\w.]+)':\((\d+)\)(\d+)", chosen)}
    names = re.findall(r"'([\w.]+)'", chosen)
    for name, size in sizes.items():
        before, part = parts.get(name, (1, size))
        shape += [before, part, size // before // part]
        wanted += [False, name in names, False]
    grid = numbers.reshape(shape)
    return grid[tuple(slice(None) if keep else 0 for keep in wanted)].ravel().tolist()


def axes_of(group: list[int], axes: dict[str, int]) -> str:
    """The axes of the mesh along which the devices of a group differ."""
    if not axes or math.prod(axes.values()) <= max(group):
        return 'unknown'
    places = np.array(np.unravel_index(group, tuple(axes.values())))
    names = [name for name, row in zip(axes, places, strict=True) if len(set(row.tolist())) > 1]
    return ' x '.join(names) or 'none'


def _seconds(kind: str, payload: int, group: list[int], network: Network) -> float:
    """Rings along every dimension that the group spans at once; between slices each device sends its part."""
    if len(group) < 2:
        return 0.0
    places = [network.places[device] for device in group]
    slices = len({place[-1] for place in places})
    inside = len(group) // slices
    factor = 2.0 if kind == 'all-reduce' else 1.0
    seconds = 0.0
    if inside > 1 or slices == 1:
        bandwidth, hops = _ring(places, network)
        if kind == 'collective-permute':
            seconds = max(payload / network.link * _distance(places, network), HOP_SECONDS)
        else:
            seconds = max(factor * payload * (inside - 1) / inside / bandwidth, hops * HOP_SECONDS)
    if slices > 1:
        part = payload if kind == 'collective-permute' else factor * payload / inside * (slices - 1) / slices
        seconds += part / network.outside
    return seconds


def _ring(places: list[tuple[int, ...]], network: Network) -> tuple[float, int]:
    """Bytes a second that a device receives, and the hops to the furthest one."""
    bandwidth, hops = 0.0, 0
    for index, size in enumerate(network.shape):
        span = len({place[index] for place in places})
        if span > 1:
            ring = network.wraps[index] and span == size and size > 2
            bandwidth += network.link * (2 if ring else 1)
            hops += span // 2 if ring else span - 1
    return bandwidth or network.link, hops


def _distance(places: list[tuple[int, ...]], network: Network) -> int:
    """Hops from the first place to the second."""
    total = 0
    for index, size in enumerate(network.shape):
        step = abs(places[0][index] - places[1][index])
        total += min(step, size - step) if network.wraps[index] else step
    return max(total, 1)


def by_axes(collectives: list[tuple[Collective, float]]) -> list[dict]:
    """Sums of (collective, how often) by axes and kind, the largest first."""
    rows: dict[tuple[str, str], dict] = {}
    for collective, times in collectives:
        row = rows.setdefault((collective.axes, collective.kind), {'count': 0.0, 'sent_bytes': 0.0, 'seconds': 0.0})
        row['count'] += times
        row['sent_bytes'] += times * collective.sent
        row['seconds'] += times * collective.seconds
    keys = sorted(rows, key=lambda key: -rows[key]['sent_bytes'])
    return [{'axes': axes, 'kind': kind} | rows[axes, kind] for axes, kind in keys]
