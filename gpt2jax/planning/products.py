"""FLOPs of the matrix products of a compiled program, and bytes that an instruction moves."""

import math
import re

import numpy as np

from gpt2jax.planning.hlo import Array, Computation, Instruction, Program

PRODUCTS = ('dot', 'convolution')
_GPU_PRODUCTS = ('__cublas$', '__cudnn$')  # library calls of matrix products
_SLICES = ('dynamic-slice', 'slice', 'gather')
_THROUGH = ('bitcast', 'reshape', 'copy', 'transpose', 'convert')


def product_flops(computation: Computation, instruction: Instruction) -> int:
    """FLOPs of one dot, convolution or cuDNN attention, two a multiplication and an addition; 0 of anything else."""
    operands = [computation[name].arrays[0] for name in instruction.operands[:2] if name in computation]
    if len(operands) < 2:
        return 0
    if instruction.opcode == 'dot':
        contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
        sizes = [operands[0].sizes[int(i)] for i in contracted[1].split(',') if i] if contracted else []
        return 2 * instruction.arrays[0].count * math.prod(sizes)
    if instruction.opcode == 'convolution':
        return _convolution_flops(instruction, *operands)
    if instruction.target.startswith('__cudnn$fmha') and len(operands[0].sizes) == 4:
        # Attention of [B, L, H, K] and [B, M, N, K], with the whole map: two products forward, five backward.
        products = 5 if 'Backward' in instruction.target else 2
        return 2 * products * operands[0].count * operands[1].sizes[1]
    return 0


def _convolution_flops(instruction: Instruction, left: Array, right: Array) -> int:
    """A product is a convolution on a TPU; its batch dimensions are spatial, with one valid place an output."""
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest)
    if labels is None:
        return 0
    inputs, kernel, outputs = labels.groups()
    window = dict(re.findall(r'(\w+)=([\dx_\-]+)', (re.search(r'window=\{([^}]*)\}', instruction.rest) or ['', ''])[1]))
    spatial = sorted(letter for letter in outputs if letter.isdigit())
    places = 1
    for index, letter in enumerate(spatial):
        sizes = left.sizes[inputs.index(letter)], instruction.arrays[0].sizes[outputs.index(letter)]
        places *= _valid_places(*sizes, right.sizes[kernel.index(letter)], window, index) / max(sizes[1], 1)
    return round(2 * instruction.arrays[0].count * right.sizes[kernel.index('i')] * places)


def _valid_places(size: int, out: int, width: int, window: dict[str, str], index: int) -> int:
    """Pairs of an output and a place of the window that meet an element of the input, along one dimension."""

    def option(name: str, default: str) -> str:
        values = window.get(name, '').split('x')
        return values[index] if len(values) > index and values[index] else default

    low = int(option('pad', '0_0').rpartition('_')[0] or 0)
    stride, dilation, spread = (int(option(name, '1')) for name in ('stride', 'rhs_dilate', 'lhs_dilate'))
    place = np.arange(out)[:, None] * stride + np.arange(width)[None] * dilation - low
    return int(((place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)).sum())


def all_flops(program: Program, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of the products of an instruction and of all it calls, loops aside."""
    total = product_flops(computation, instruction)
    if instruction.opcode == 'fusion':
        for inner in program.called_by(instruction):
            total += sum(all_flops(program, inner, i) for i in inner.values())
    return total


def is_product(program: Program, instruction: Instruction) -> bool:
    """Whether an instruction is a matrix product, or a fusion around one."""
    if instruction.opcode in PRODUCTS or instruction.target.startswith(_GPU_PRODUCTS):
        return True
    return instruction.opcode == 'fusion' and any(i.opcode in PRODUCTS for i in program.inside(instruction))


def moved_bytes(program: Program, computation: Computation, instruction: Instruction, on_chip: float = 0.0) -> float:
    """Bytes that an instruction reads from and writes to the large memory (HBM).

    Of an operand that is only sliced the slice counts, and of a result that is an updated array the update.

    Args:
      on_chip: what a byte in the memory on the chip (another space than 0) counts.
    """

    def size_of(arrays: tuple[Array, ...]) -> float:
        return sum(array.bytes * (1.0 if array.space == 0 else on_chip) for array in arrays)

    if instruction.opcode in _SLICES:
        return 2 * size_of(instruction.arrays)
    if instruction.opcode == 'dynamic-update-slice':
        update = computation.get(instruction.operands[1])
        return 2 * size_of(update.arrays) if update else 0
    inner = _inside(program, instruction)
    read = 0.0
    for index, name in enumerate(instruction.operands):
        operand = computation.get(name)
        if operand is None:
            continue
        size = size_of(operand.arrays)
        read += min(size, _read_of(program, inner, index)) if inner and size else size
    written = size_of(instruction.arrays)
    return read + (min(written, _written(program, inner)) if inner and written else written)


def copied_bytes(instruction: Instruction) -> int:
    """Bytes in HBM that an asynchronous copy or slice reads and writes, in whichever direction."""
    pair = [array for array in instruction.arrays if array.count > 1][:2]
    return min((array.bytes for array in pair), default=0) * sum(array.space == 0 for array in pair)


def _inside(program: Program, instruction: Instruction) -> Computation | None:
    """What a fusion is made of."""
    return next(iter(program.called_by(instruction)), None) if instruction.opcode == 'fusion' else None


def _read_of(program: Program, inner: Computation, index: int) -> float:
    """Bytes that a fusion reads of its operand `index`: of one that is only sliced, the slices."""
    if index >= len(inner.parameters):
        return math.inf
    return _read_below(program, inner, inner.parameters[index])


def _read_below(program: Program, inner: Computation, instruction: Instruction) -> float:
    total = 0.0
    for user in inner.users[instruction.name]:
        if user.opcode in _SLICES and user.operands[0] == instruction.name:
            total += user.bytes
        elif user.opcode == 'dynamic-update-slice' and user.operands[0] == instruction.name:
            continue
        elif user.opcode == 'bitcast':
            total += _read_below(program, inner, user)
        elif deeper := _inside(program, user):
            total += sum(
                _read_of(program, deeper, i) for i, name in enumerate(user.operands) if name == instruction.name
            )
        else:
            return math.inf
    return total


def _written(program: Program, inner: Computation) -> float:
    """Bytes that a fusion writes: of an updated array the update."""
    root = inner.root
    results = [inner[name] for name in root.operands if name in inner] if root.opcode == 'tuple' else [root]
    return sum(_written_by(program, inner, result) for result in results)


def _written_by(program: Program, inner: Computation, result: Instruction) -> float:
    source = result
    while source.opcode in _THROUGH and source.operands and source.operands[0] in inner:
        source = inner[source.operands[0]]
    if source.opcode == 'dynamic-update-slice' and source.operands[1] in inner:
        return inner[source.operands[1]].bytes
    deeper = _inside(program, source)
    return min(result.bytes, _written(program, deeper)) if deeper else result.bytes
