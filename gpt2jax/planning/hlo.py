"""The text of a compiled program (HLO), read into instructions.

Only what the estimates need is read. Kernels may hold text of their own, with newlines and lines that begin with
braces: a line counts as an instruction only if it has a shape, and everything else belongs to the one before it.
"""

import dataclasses
import functools
import math
import re

ITEM_BYTES = {
    'pred': 1,
    's4': 0.5,
    'u4': 0.5,
    's8': 1,
    'u8': 1,
    's16': 2,
    'u16': 2,
    'bf16': 2,
    'f16': 2,
    's32': 4,
    'u32': 4,
    'f32': 4,
    's64': 8,
    'u64': 8,
    'f64': 8,
    'c64': 8,
    'c128': 16,
}
FLOAT8_BYTES = 1

_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (\(|[a-z0-9]+\[)')
_OPCODE = re.compile(r'([a-z][a-z0-9\-]*)\(')
_SHAPE = re.compile(r'([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_SPACE = re.compile(r'S\((\d+)\)')
_REFERENCE = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(r'(calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
INT64_MAX = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape. Attributes: dtype, its name in HLO; sizes; space, of memory (0: the large one, HBM)."""

    dtype: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return math.ceil(self.count * item_bytes(self.dtype))

    def __str__(self) -> str:
        return f'{self.dtype}[{",".join(map(str, self.sizes))}]'


def item_bytes(dtype: str) -> float:
    """Bytes of one number; 0 of a token and of other things without data."""
    return FLOAT8_BYTES if dtype.startswith('f8') else ITEM_BYTES.get(dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      arrays: of its result, a tuple flattened.
      operands: names, in order.
      rest: everything behind the operands.
      literal: the text between the parentheses: the value of a constant, the number of a parameter.
      root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    literal: str
    root: bool

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """Role -> computation: calls, to_apply, condition, body, branches."""
        found = dict(_CALLED.findall(self.rest))
        branches = _BRANCHES.search(self.rest)
        for index, name in enumerate(_REFERENCE.findall(branches[1]) if branches else ()):
            found[f'branch {index}'] = name
        return found

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate; None where it gives none, or gives up (INT64_MAX)."""
        match = re.search(r'"estimated_cycles":"?(-?\d+)', self.rest)
        value = int(match[1]) if match else None
        return None if value is None or value >= INT64_MAX or value < 0 else value

    @functools.cached_property
    def op_name(self) -> str:
        """The path of what the program's author wrote, '' where it is the compiler's own."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return match[1].replace('\\', '') if match else ''

    @functools.cached_property
    def target(self) -> str:
        """Of a custom call."""
        match = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return match[1] if match else ''

    @functools.cached_property
    def channel(self) -> int | None:
        """Of a collective."""
        match = re.search(r'channel_id=(\d+)', self.rest)
        return int(match[1]) if match else None

    @property
    def bytes(self) -> int:
        """Of the result, wherever it lies."""
        return sum(array.bytes for array in self.arrays)


class Computation(dict):
    """Instructions by name, in the order of the text, which is that of a scheduled program."""

    @functools.cached_property
    def root(self) -> Instruction:
        """The result."""
        return next((i for i in self.values() if i.root), list(self.values())[-1])

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """In the order of the call."""
        return sorted((i for i in self.values() if i.opcode == 'parameter'), key=lambda i: int(i.literal))

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads what."""
        users: dict[str, list[Instruction]] = {name: [] for name in self}
        for instruction in self.values():
            for operand in instruction.operands:
                if operand in users:
                    users[operand].append(instruction)
        return users


@dataclasses.dataclass
class Program:
    """Computations by name. Attributes: entry, the one that runs; scheduled, whether lines are in the order of time."""

    computations: dict[str, Computation]
    entry: str
    scheduled: bool

    def called_by(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction names."""
        return [self.computations[name] for name in instruction.called.values() if name in self.computations]

    def inside(self, instruction: Instruction):
        """Yields the instructions of all computations below an instruction."""
        for computation in self.called_by(instruction):
            for inner in computation.values():
                yield inner
                yield from self.inside(inner)


def parse(text: str) -> Program:
    """Reads the text of a compiled program, as `compiled.as_text()` gives it."""
    computations: dict[str, Computation] = {}
    entry, current, pending = '', None, []

    def finish():
        instruction = _read('\n'.join(pending)) if pending else None
        if instruction:
            current[instruction.name] = instruction
        pending.clear()

    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = computations[header[2]] = Computation()
                entry = header[2] if header[1] else entry
        elif line.rstrip() == '}':
            finish()
            current = None
        elif _INSTRUCTION.match(line):
            finish()
            pending.append(line)
        elif pending:
            pending.append(line)
    return Program(computations, entry, 'is_scheduled=true' in text[:4096])


def _read(line: str) -> Instruction | None:
    """A line, with what follows it -> an instruction; None for text of a kernel that merely looks like one."""
    match = _INSTRUCTION.match(line)
    begin = match.start(2)
    end = _closing(line, begin) if line[begin] == '(' else begin
    opcode = _OPCODE.search(line, end)
    if opcode is None:
        return None
    last = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : last - 1]
    return Instruction(
        name=match[1],
        opcode=opcode[1],
        arrays=read_arrays(line[begin : opcode.start()]),
        operands=tuple(_REFERENCE.findall(inside)) if opcode[1] != 'constant' else (),
        rest=line[last:],
        literal=inside,
        root=line.lstrip().startswith('ROOT '),
    )


def _closing(line: str, begin: int) -> int:
    """The index behind the parenthesis that closes the one at `begin`."""
    depth = 0
    for match in re.compile(r'[()]').finditer(line, begin):
        depth += 1 if match[0] == '(' else -1
        if not depth:
            return match.end()
    return len(line)


def read_arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape, tuples flattened: '(f32[8,4]{1,0:S(1)}, s32[])' -> two arrays."""
    arrays = []
    for dtype, sizes, layout in _SHAPE.findall(text):
        space = _SPACE.search(layout)
        numbers = tuple(int(size.lstrip('<=')) for size in sizes.split(',') if size)
        arrays.append(Array(dtype, numbers, int(space[1]) if space else 0))
    return tuple(arrays)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a while loop runs, None where the text does not tell.

    That is the known count the compiler noted, or what is left between the constant that the condition compares the
    counter with and the constant it starts from; JAX's loops count up by 1.
    """
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest)
    if known:
        return int(known[1])
    condition = program.computations.get(loop.called.get('condition', ''), {})
    for instruction in condition.values():
        inner = [instruction, *program.inside(instruction)]
        if not any(i.opcode == 'compare' and 'direction=LT' in i.rest for i in inner):
            continue
        read = [condition[name] for name in instruction.operands if name in condition]
        limits = [_constant(i) for i in (*read, *inner) if _constant(i) is not None]
        if limits:
            return max(0, limits[0] - _first_count(computation, loop, read))
    return None


def _first_count(computation: Computation, loop: Instruction, read: list[Instruction]) -> int:
    """What the counter of a loop starts from; 0 where the text does not tell."""
    index = next((re.search(r'index=(\d+)', i.rest) for i in read if i.opcode == 'get-tuple-element'), None)
    carried = computation.get(loop.operands[0]) if loop.operands else None
    if index is None or carried is None or carried.opcode != 'tuple' or int(index[1]) >= len(carried.operands):
        return 0
    first = computation.get(carried.operands[int(index[1])])
    while first is not None and first.opcode == 'copy':
        first = computation.get(first.operands[0])
    return (_constant(first) if first is not None else None) or 0


def _constant(instruction: Instruction) -> int | None:
    """The value of a whole number that is written in the text."""
    whole = instruction.opcode == 'constant' and re.fullmatch(r'-?\d+', instruction.literal)
    return int(instruction.literal) if whole and instruction.arrays[0].dtype != 'pred' else None
