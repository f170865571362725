"""Where the memory of a device goes: the compiler's list of buffers, and its error when a program does not fit."""

import dataclasses
import math
import re
from pathlib import Path

from gpt2jax.planning.hlo import Program

UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_VALUE = re.compile(r' value: <\d+ ([\w.\-]+)(\{[\d,]*\})?.*? @0?(\d*)> \(size=(\d+),offset=(\d+)\): (\S+)')


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Attributes: bytes; shape; name, of the source; count, how many such ones there are at different places."""

    bytes: int
    shape: str
    name: str
    count: int = 1


def largest_buffers(dump: Path, program: Program, most: int = 12) -> list[Buffer]:
    """The largest temporaries, from XLA's dump of its buffer assignment; [] where there is none."""
    files = sorted(dump.glob('*buffer-assignment.txt'), key=lambda path: path.stat().st_size)
    if not files:
        return []
    names = {name: i.op_name for computation in program.computations.values() for name, i in computation.items()}
    found: dict[tuple[int, int], tuple[str, str]] = {}
    counting = False
    with files[-1].open(errors='replace') as file:
        for line in file:
            if line.startswith('allocation '):
                large = 'color' not in line.lower() or 'color 0' in line.lower()
                counting = 'preallocated-temp' in line and large
            elif counting and (value := _VALUE.match(line)) and not value[6].startswith('('):
                size, offset = int(value[4]), int(value[5])
                name, shape = value[1], value[6].partition('{')[0]
                if (size, offset) not in found or not found[size, offset][0]:
                    found[size, offset] = names.get(name) or name, shape
    grouped: dict[tuple[int, str, str], int] = {}
    for (size, _), (name, shape) in found.items():
        grouped[size, shape, name] = grouped.get((size, shape, name), 0) + 1
    largest = sorted(grouped, key=lambda key: -key[0] * grouped[key])[:most]
    return [Buffer(size, shape, name, grouped[size, shape, name]) for size, shape, name in largest]


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """The compiler's verdict.

    Attributes:
      used, limit: bytes, None where it names none.
      text: its own words.
      temporaries: whether `used` is of temporaries alone.
      buffers: the largest ones, where it lists them.
    """

    used: int | None
    limit: int | None
    text: str
    temporaries: bool = False
    buffers: tuple[Buffer, ...] = ()


def read_out_of_memory(text: str) -> OutOfMemory | None:
    """From the text of an error; None for errors of another kind."""
    if 'RESOURCE_EXHAUSTED' not in text and 'Ran out of memory' not in text:
        return None
    number = r'([\d.]+)\s*([KMGT]?)i?B?'
    used = re.search(rf'Used {number} of {number} hbm', text)
    temporaries = re.search(rf'temporaries \({number}\) exceeds available \w+ \({number}\)', text)
    used = used or temporaries
    amounts = [_amount(used[1], used[2]), _amount(used[3], used[4])] if used else [None, None]
    return OutOfMemory(*amounts, text.strip().splitlines()[0][:600], bool(temporaries), tuple(_listed_buffers(text)))


def _amount(number: str, unit: str) -> int:
    return math.ceil(float(number) * UNITS[unit])


def _listed_buffers(text: str) -> list[Buffer]:
    """The largest allocations that the error lists."""
    buffers = []
    for part in re.split(r'\n\s*\d+\. Size: ', text)[1:]:
        size = re.match(r'([\d.]+)([KMGT]?)', part)
        shape = re.search(r'Shape: (\S+?)[\{\s]', part)
        name = re.search(r'op_name="([^"]*)"', part)
        if size:
            buffers.append(Buffer(_amount(size[1], size[2]), shape[1] if shape else '', name[1] if name else ''))
    return buffers
