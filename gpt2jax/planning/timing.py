"""How long one run of a compiled program takes, as a bracket, and where the time goes. Every figure is an estimate.

On a TPU the compiler's own cycles are added up, loops as often as they run. Its figures for matrix products are close;
those for work that is bound by memory are 1.6 to 4 times too long. So two sums are made: *high* takes all its figures
and adds the communication that no computation hides, *low* takes for such work the bytes at 0.9 of the memory's
bandwidth, and no communication. Elsewhere there are no cycles, and both are rooflines.
"""

import dataclasses
from collections.abc import Callable

from gpt2jax.planning.collectives import Collective, Network, between_slices, kind_of, read_collective, rendezvous
from gpt2jax.planning.hlo import Computation, Instruction, Program, trip_count
from gpt2jax.planning.kernels import KernelCost
from gpt2jax.planning.products import all_flops, copied_bytes, is_product, moved_bytes

SHARE_OF_BANDWIDTH = 0.9
ON_CHIP = 0.1  # what a byte in the memory on a TPU chip takes, against one in HBM
# Shares of the peaks that products and memory reach, for the low and the high figure, where there are no cycles. Of a
# CPU the peaks are measured, and the memory's is that of arrays in cache; of a GPU they are the maker's.
SHARES = {'cuda': ((0.75, 0.4), (0.9, 0.6)), 'cpu': ((1.0, 0.5), (1.0, 0.3))}
FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'iota', 'partition-id')
ASYNC = ('copy-start', 'copy-done', 'slice-start', 'slice-done', 'async-update')
CALLS = ('call', 'conditional', 'async-start')


@dataclasses.dataclass
class Item:
    """One kind of work, for the ranking. Attributes: name, of the source; seconds, low and high; times; kind."""

    name: str
    kind: str
    low: float
    high: float
    times: float


@dataclasses.dataclass
class Time:
    """Sums over a computation and all it calls, in seconds, bytes and FLOPs of one device.

    Attributes:
      products: matrix products, and attention kernels.
      low, high: other work.
      exposed: communication that no computation hides.
      hbm_bytes: moved to and from the large memory; asynchronous copies included.
      flops: of products, as compiled: what remat computes again is in it.
      collectives: each with how often it runs.
      items: what takes time, one for each instruction.
      unknown: loops whose number of turns the text does not tell.
    """

    products_low: float = 0.0
    products: float = 0.0
    low: float = 0.0
    high: float = 0.0
    exposed: float = 0.0
    hbm_bytes: float = 0.0
    flops: float = 0.0
    collectives: list[tuple[Collective, float]] = dataclasses.field(default_factory=list)
    items: list[Item] = dataclasses.field(default_factory=list)
    kernels: dict[str, str] = dataclasses.field(default_factory=dict)
    unknown: int = 0

    def add(self, other: 'Time', times: float = 1.0) -> None:
        """Adds `times` runs of another computation."""
        for name in ('products_low', 'products', 'low', 'high', 'exposed', 'hbm_bytes', 'flops'):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        self.collectives += [(collective, times * count) for collective, count in other.collectives]
        self.items += [dataclasses.replace(item, times=times * item.times) for item in other.items]
        self.kernels |= other.kernels
        self.unknown += other.unknown

    @property
    def busy(self) -> float:
        """The high figure, without communication."""
        return self.products + self.high


class Timer:
    """Walks the computations of one program.

    Args:
      program: gpt2jax.planning.hlo.
      chip: gpt2jax.planning.topologies.
      network: what connects the devices.
      kernel: (computation, call) -> KernelCost, for kernels without an estimate.
    """

    def __init__(self, program: Program, chip, network: Network, kernel: Callable[..., KernelCost]):
        self.program, self.chip, self.network, self.kernel = program, chip, network, kernel
        self._known: dict[str, Time] = {}
        self._chains = {
            _key(inner)
            for computation in program.computations.values()
            if any(i.target == 'AsyncCollectiveStart' for i in computation.values())
            for inner in computation.values()
            if kind_of(inner)
        }

    def total(self) -> Time:
        """Of one run of the program."""
        return self._time(self.program.entry)

    def _time(self, name: str) -> Time:
        if name not in self._known:
            computation, time = self.program.computations[name], Time()
            links = _Links()
            for instruction in computation.values():
                self._instruction(computation, instruction, time, links)
            self._known[name] = time
        return self._known[name]

    def _instruction(self, computation: Computation, instruction: Instruction, time: Time, links: '_Links') -> None:
        opcode = instruction.opcode
        if opcode in FREE:
            return
        if opcode == 'while':
            turns = trip_count(self.program, computation, instruction)
            time.unknown += turns is None
            for role in ('condition', 'body'):
                if instruction.called.get(role) in self.program.computations:
                    time.add(self._time(instruction.called[role]), 1 if turns is None else turns)
        elif opcode in CALLS and not self._collective_below(instruction):
            branches = [self._time(name) for name in instruction.called.values() if name in self.program.computations]
            if branches:
                time.add(max(branches, key=lambda branch: branch.busy))
        elif opcode in ASYNC:
            time.hbm_bytes += copied_bytes(instruction) if opcode.endswith('-start') else 0
        else:
            self._work(computation, instruction, time, links)

    def _work(self, computation: Computation, instruction: Instruction, time: Time, links: '_Links') -> None:
        """Computation, communication, or a fusion of both."""
        found = self._communication(computation, instruction)
        before = time.busy
        if found is None or instruction.cycles is not None:
            self._computation(computation, instruction, time)
        if found:
            collective, phase, key = found
            if phase in ('whole', 'begin'):
                time.collectives.append((collective, 1.0))
            begin, end = before + time.exposed, time.busy + time.exposed
            if phase == 'whole':
                time.exposed += max(0.0, links.send(collective, key, begin) - end)
            elif phase == 'begin':
                links.send(collective, key, end)
            elif phase == 'end':
                time.exposed += links.wait((key,), end)
        elif instruction.opcode.endswith('-done'):
            started = [computation[name] for name in instruction.operands if name in computation]
            keys = *instruction.operands, *(rendezvous(i) for i in started)
            time.exposed += links.wait(keys, time.busy + time.exposed)

    def _computation(self, computation: Computation, instruction: Instruction, time: Time) -> None:
        if instruction.opcode.endswith('-done') or instruction.opcode in ('send', 'recv'):
            return
        chip, cycles = self.chip, instruction.cycles
        if instruction.target == 'tpu_custom_call':
            cost = self.kernel(computation, instruction)
            time.products_low, time.products = time.products_low + cost.seconds, time.products + cost.seconds
            time.flops += cost.flops
            time.kernels[cost.name] = cost.method
            time.items.append(Item(cost.name, 'kernel', cost.seconds, cost.seconds, 1.0))
            return
        if instruction.opcode == 'custom-call' and cycles is None and chip.platform == 'tpu':
            return  # views, allocations and hints to the compiler
        if cycles is None and all(array.count == 1 for array in instruction.arrays):
            return  # counters of loops
        moved, reached = (moved_bytes(self.program, computation, instruction, weight) for weight in (0.0, ON_CHIP))
        flops = all_flops(self.program, computation, instruction)
        product = is_product(self.program, instruction)
        time.hbm_bytes += moved
        time.flops += flops
        low, high = self._bounds(cycles, flops, reached, product)
        if product:
            time.products_low, time.products = time.products_low + low, time.products + high
        else:
            time.low, time.high = time.low + low, time.high + high
        name = instruction.op_name or instruction.name
        time.items.append(Item(name, 'product' if product else 'other', low, high, 1.0))

    def _bounds(self, cycles: int | None, flops: int, moved: float, product: bool) -> tuple[float, float]:
        """Seconds of an instruction, low and high."""
        chip = self.chip
        if chip.platform != 'tpu':
            (fast, slow), (near, far) = SHARES[chip.platform]
            bytes_seconds, flops_seconds = moved / chip.hbm_bandwidth, flops / chip.peak_flops
            return max(bytes_seconds / near, flops_seconds / fast), max(bytes_seconds / far, flops_seconds / slow)
        roofline = max(moved / (SHARE_OF_BANDWIDTH * chip.hbm_bandwidth), flops / chip.peak_flops)
        estimate = roofline if cycles is None else cycles / chip.cycles * 1e-6
        return (estimate if product else min(estimate, roofline)), estimate

    def _collective_below(self, instruction: Instruction) -> bool:
        return any(kind_of(inner) for inner in self.program.inside(instruction))

    def _communication(self, computation: Computation, instruction: Instruction):
        """(the collective, its phase, what its end is found by) of an instruction, None where it has none.

        A phase is whole, begin, middle or end. The asynchronous ones of a TPU are a chain of fusions, each of which
        names the collective again beside the computation that hides it.
        """
        opcode = instruction.opcode
        if opcode == 'send' and rendezvous(instruction):
            sent = sum(computation[name].bytes for name in instruction.operands if name in computation)
            return between_slices(instruction, sent, self.network), 'begin', rendezvous(instruction)
        if kind_of(instruction):
            phase = 'begin' if opcode.endswith('-start') else 'whole'
            return self._read(instruction, self._payload(computation, instruction)), phase, instruction.name
        if opcode not in ('fusion', 'async-start', 'call'):
            return None
        home, inner = next(
            ((home, i) for home in self._below(instruction) for i in home.values() if kind_of(i)), (None, None)
        )
        if inner is None:
            return None
        if 'all-reduce-scatter' in ' '.join(instruction.called.values()):
            return self._read(inner, inner.bytes, 'reduce-scatter'), 'whole', instruction.name
        collective = self._read(inner, self._payload(home, inner))
        if opcode == 'async-start':
            return collective, 'begin', instruction.name
        targets = {i.target for i in self.program.inside(instruction)}
        for target, phase in (('AsyncCollectiveStart', 'begin'), ('AsyncCollectiveDone', 'end')):
            if target in targets:
                return collective, phase, _key(inner)
        return collective, 'middle' if _key(inner) in self._chains else 'whole', _key(inner)

    def _below(self, instruction: Instruction):
        """Yields the computations below an instruction."""
        for computation in self.program.called_by(instruction):
            yield computation
            for inner in computation.values():
                yield from self._below(inner)

    def _read(self, instruction: Instruction, payload: int, kind: str | None = None) -> Collective:
        return read_collective(instruction, payload, self.network, kind)

    def _payload(self, computation: Computation, instruction: Instruction) -> int:
        """Bytes of the whole array: the result of a gather, the operand of a reduction."""
        read = sum(computation[name].bytes for name in instruction.operands if name in computation)
        kind = kind_of(instruction)
        if kind != 'all-gather':
            return read or instruction.bytes
        return instruction.bytes - read if instruction.opcode.endswith('-start') else instruction.bytes


def _key(instruction: Instruction) -> tuple:
    """What the parts of one asynchronous collective have in common."""
    return instruction.channel, kind_of(instruction)


class _Links:
    """What is on its way, by the axes it uses: a collective waits for earlier ones on the same axes."""

    def __init__(self):
        self._free: dict[str, float] = {}
        self._arrives: dict[object, float] = {}

    def send(self, collective: Collective, key, now: float) -> float:
        """When a collective that is asked for now will be done."""
        arrives = max(now, self._free.get(collective.axes, 0.0)) + collective.seconds
        self._free[collective.axes] = self._arrives[key] = arrives
        return arrives

    def wait(self, keys: tuple, now: float) -> float:
        """Seconds until what these started is done."""
        return max([0.0, *(self._arrives.pop(key) - now for key in keys if key in self._arrives)])
