"""How long hand-written attention kernels (Pallas) take on a TPU: the compiler gives no estimate of them.

Counted: the pairs of a query and a key in the blocks that the mask leaves, times the instruction bundles that a pair
costs. Those were read off splash attention compiled alone, for v5e, v5p and v6e (docs/planning.md): the compiler's
static schedule, which knows no stalls.
"""

import dataclasses
import json
import math
import re

from gpt2jax.planning.hlo import Array, Computation, Instruction

CYCLES_A_PAIR = {'fwd': 6.1e-3, 'dq': 5.9e-3, 'dkv': 7.9e-3, 'fused': 9.9e-3}  # heads up to 128 wide, blocks of 1024
WIDER_HEADS = 0.8  # more for each further 128 of the head's width
SMALLER_BLOCKS = {1024: 1.0, 512: 1.2, 256: 1.5, 128: 2.0}  # 512 was read off, the smaller ones are a guess
PRODUCTS_OF = {'fwd': 2, 'dq': 3, 'dkv': 4, 'fused': 5}  # matrix products of a visible block


@dataclasses.dataclass(frozen=True)
class Visible:
    """What the objective lets a query see, in indices. Attributes: causal; window, 0: all that is visible."""

    causal: bool
    window: int = 0

    def share(self, queries: int, keys: int, block_q: int, block_k: int) -> float:
        """Of the blocks of the map, those in which a query sees a key."""
        block_q, block_k = min(block_q, queries), min(block_k, keys)
        rows, columns, seen = math.ceil(queries / block_q), math.ceil(keys / block_k), 0
        if queries != keys:  # a part of the queries: on average over the parts
            return (1 + columns) / (2 * columns) if self.causal else 1.0
        for row in range(rows):
            last = min(columns, math.ceil((row + 1) * block_q / block_k)) if self.causal else columns
            first = max(0, (row * block_q - self.window + 1) // block_k) if self.window else 0
            seen += last - first
        return seen / (rows * columns)


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """Attributes: seconds; flops, of its products; name; method, how the seconds were estimated."""

    seconds: float
    flops: float
    name: str
    method: str


def kernel_cost(computation: Computation, call: Instruction, chip, visible: Visible) -> KernelCost:
    """What one call of a kernel costs.

    Args:
      chip: of gpt2jax.planning.topologies.
    """
    name = re.search(r'(\w+)/pallas_call', call.op_name)
    name = name[1] if name else call.name
    operands = [array for operand in call.operands if operand in computation for array in computation[operand].arrays]
    matrices = [array for array in operands if len(array.sizes) >= 3 and array.dtype in ('bf16', 'f32', 'f16')]
    if len(matrices) >= 3 and (kind := _attention_kind(name, call, matrices[0])):
        return _attention_cost(name, kind, matrices[0], matrices[1], call, chip, visible)
    moved = sum(array.bytes for array in (*operands, *call.arrays) if array.space == 0)
    told = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', call.rest)
    flops = float(told[1]) if told else 0.0
    seconds = max(flops / chip.peak_flops, moved / (0.9 * chip.hbm_bandwidth))
    return KernelCost(seconds, flops, name, 'its own count of FLOPs' if told else 'its bytes alone')


def _attention_kind(name: str, call: Instruction, query: Array) -> str | None:
    """Of CYCLES_A_PAIR; a fused backward pass hands out gradients of queries, keys and values."""
    lowered = name.lower()
    if not any(word in lowered for word in ('splash', 'flash', 'mha', 'mqa')):
        return None
    if 'dkv' in lowered:
        gradients = [a for a in call.arrays if a.dtype == query.dtype and len(a.sizes) >= len(query.sizes)]
        return 'fused' if len(gradients) > 2 else 'dkv'
    return 'dq' if 'dq' in lowered else 'fwd'


def _attention_cost(name, kind, query: Array, key: Array, call, chip, visible: Visible) -> KernelCost:
    *rows, queries, width = query.sizes
    keys = key.sizes[-2]
    suffix = {'fwd': '', 'dq': '_dq'}.get(kind, '_dkv')
    blocks = [_noted(call, f'{side}{suffix}') or 512 for side in ('block_q', 'block_kv')]
    pairs = math.prod(rows) * queries * keys * visible.share(queries, keys, *blocks)
    wider = 1 + WIDER_HEADS * (math.ceil(width / 128) - 1)
    smaller = next(factor for size, factor in SMALLER_BLOCKS.items() if min(blocks) >= size or size == 128)
    cycles = pairs * CYCLES_A_PAIR[kind] * wider * smaller * chip.attention
    flops = 2.0 * pairs * PRODUCTS_OF[kind] * width
    return KernelCost(cycles / chip.cycles * 1e-6, flops, name, 'its visible blocks')


def _noted(call: Instruction, key: str) -> int | None:
    """A number of the settings that splash attention notes in its metadata."""
    noted = re.search(r'"xprof_metadata":"((?:[^"\\]|\\.)*)"', call.rest)
    try:
        return json.loads(noted[1].replace('\\"', '"')).get(key) if noted else None
    except ValueError:
        return None
