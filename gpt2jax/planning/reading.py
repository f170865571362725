"""From a compiled program to the figures of a plan, as plain data."""

import collections
import dataclasses
import functools
from pathlib import Path

from gpt2jax.objectives import make_objective
from gpt2jax.planning.collectives import Network, by_axes
from gpt2jax.planning.hlo import parse
from gpt2jax.planning.kernels import Visible, kernel_cost
from gpt2jax.planning.memory import Buffer, OutOfMemory, largest_buffers
from gpt2jax.planning.timing import SHARE_OF_BANDWIDTH, Item, Time, Timer
from gpt2jax.planning.topologies import Topology

RANKED = 20  # kinds of work that are named


def visible_of(config) -> Visible:
    """What a query sees, for kernels that skip the rest. Of layers that differ the widest is taken."""
    attention = config.model.attention
    window = 0 if attention.global_every else attention.window
    return Visible(make_objective(config).reads == 'causal', window)


def out_of_memory(verdict: OutOfMemory, topology: Topology, held: dict[str, int], dump: Path) -> dict:
    """The memory and the buffers of a program that does not fit. `held` and `dump` are as in `read_compiled`."""
    kinds, peak = dict(held), verdict.used
    if verdict.temporaries:
        kinds['activations and temporaries'] = verdict.used
        peak = sum(kinds.values())
    files = sorted(dump.glob('*after_optimizations.txt'), key=lambda path: path.stat().st_size)
    program = parse(files[-1].read_text(errors='replace')) if files else parse('')
    return {
        'memory': {'kinds': kinds, 'peak': peak, 'limit': verdict.limit or topology.chip.memory},
        'buffers': [buffer_row(buffer) for buffer in verdict.buffers or largest_buffers(dump, program)],
        'message': verdict.text,
    }


def read_compiled(
    text: str, stats, dump: Path, topology: Topology, network: Network, visible: Visible, held: dict[str, int]
) -> dict:
    """Memory, buffers, time and communication of one run of a compiled program.

    Args:
      text: of the program.
      stats: compiled.memory_analysis().
      dump: where XLA wrote its list of buffers.
      held: bytes on one device of the arguments, by name.
    """
    program = parse(text)
    kernel = functools.partial(kernel_cost, chip=topology.chip, visible=visible)
    time = Timer(program, topology.chip, network, kernel).total()
    memory = memory_of(stats, held, topology)
    limit = memory['limit']
    return {
        'fits': topology.chip.platform == 'tpu'
        or not limit
        or memory['peak'] <= limit,  # a TPU's compiler refuses itself
        'memory': memory,
        'buffers': [buffer_row(buffer) for buffer in largest_buffers(dump, program)],
        'time': time_of(time, topology),
    }


def memory_of(stats, held: dict[str, int], topology: Topology) -> dict:
    """Bytes on one device, by kind.

    An accelerator's compiler counts the most that is in use at any time; its sum of temporaries is higher, differs
    between versions, and is told beside it (`allotted`). On a CPU that sum is all there is.
    """
    arguments, outputs = stats.argument_size_in_bytes, max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    allotted, peak = stats.temp_size_in_bytes, int(stats.peak_memory_in_bytes)
    counted = topology.chip.platform != 'cpu' and peak > arguments
    kinds = held | {
        'other arguments': max(0, arguments - sum(held.values())),
        'outputs': outputs,
        'activations and temporaries': max(0, peak - arguments - outputs) if counted else allotted,
        'code': stats.generated_code_size_in_bytes,
    }
    return {'kinds': kinds, 'peak': sum(kinds.values()), 'limit': topology.chip.memory, 'allotted': allotted}


def time_of(time: Time, topology: Topology) -> dict:
    """Seconds of one run, as a bracket and by kind, with what takes most of it."""
    chip = topology.chip
    floor = time.hbm_bytes / (SHARE_OF_BANDWIDTH * chip.hbm_bandwidth)
    low = max(time.products_low + time.low, floor)
    return {
        'low': low,
        'high': time.products + time.high + time.exposed,
        'products': [time.products_low, time.products],
        'other': [low - time.products_low, time.high],
        'exposed': time.exposed,
        'communication': sum(count * collective.seconds for collective, count in time.collectives),
        'memory_floor': floor,
        'hbm_bytes': time.hbm_bytes,
        'flops_per_device': time.flops,
        'collectives': by_axes(time.collectives),
        'kernels': time.kernels,
        'unknown_loops': time.unknown,
        'ranking': ranking(time.items),
    }


def ranking(items: list[Item]) -> list[dict]:
    """What takes most of the high figure; work of the same source is one row, whatever its layer."""
    rows: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for item in items:
        row = rows[source_name(item.name), item.kind]
        for index, value in enumerate((item.low, item.high, 1.0)):
            row[index] += item.times * value
    largest = sorted(rows, key=lambda key: -rows[key][1])[:RANKED]
    return [
        {'name': name, 'kind': kind, 'low': row[0], 'high': row[1], 'times': row[2]}
        for name, kind in largest
        for row in [rows[name, kind]]
    ]


def source_name(op_name: str) -> str:
    """What a person wrote, and of which pass: 'jit(step)/transpose(jvp(Block))/query/dot' -> 'query/dot (backward)'."""
    parts = [part for part in op_name.split('/') if part not in _NOISE and not part.startswith(('jit(', 'pjit'))]
    again = 'rematted_computation' in op_name
    backward = 'transpose(' in op_name
    kept = [part for part in parts if not part.startswith(('jvp(', 'transpose(', 'vmap(', 'checkpoint'))]
    inner = [part for part in kept if part != 'rematted_computation']
    note = ' (again)' if again else ' (backward)' if backward else ''
    return ('/'.join(inner[-4:]) or op_name or 'unnamed') + note


_NOISE = ('while', 'body', 'cond', 'closed_call', 'shard_map', 'remat', 'branch_0_fun', 'branch_1_fun')


def buffer_row(buffer: Buffer) -> dict:
    """A buffer as plain data, with what made it in words."""
    return dataclasses.asdict(buffer) | {'source': source_name(buffer.name)}
