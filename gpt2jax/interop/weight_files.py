"""Safetensors files of a Hugging Face folder: headers first, then one tensor at a time. No pickle is ever read."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from gpt2jax.errors import UserError
from gpt2jax.files import read_json

ONE_FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.h5', '*.msgpack')
LARGEST_CONFIG = 4 << 20
DTYPES = {'F32': np.dtype(np.float32), 'F16': np.dtype(np.float16), 'BF16': np.dtype(ml_dtypes.bfloat16)}
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Header:
    """Where a tensor is, and what the file says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_config(folder: Path) -> dict:
    """The folder's config.json. Raises UserError unless it is a JSON object."""
    config = read_json(folder / 'config.json', LARGEST_CONFIG)
    if not isinstance(config, dict):
        raise UserError(f'{folder / "config.json"} is no JSON object, so no config of a model')
    return config


def read_headers(folder: Path) -> dict[str, Header]:
    """{name: Header} of all tensors in model.safetensors, or in the files that its index names.

    The library checks each header against its file: sizes that add up, no holes, nothing beyond the end.

    Raises:
      UserError: no such file, one that is damaged, or an index that leads out of the folder.
    """
    if (folder / ONE_FILE).is_file():
        return _headers_of(folder / ONE_FILE)
    if not (folder / INDEX).is_file():
        raise _nothing_to_read(folder)
    index = read_json(folder / INDEX)
    places = index.get('weight_map') if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f'{folder / INDEX}: no weight_map of tensors to files')
    headers = {}
    for file in sorted(set(places.values())):
        if not re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors', file):
            raise UserError(f'{folder / INDEX}: {file!r} is not the name of a safetensors file in this folder')
        found = _headers_of(folder / file)
        if twice := found.keys() & headers.keys():
            raise UserError(f'{folder / file}: {min(twice)} is in another file as well')
        headers |= found
    misplaced = [name for name, file in places.items() if name not in headers or headers[name].file.name != file]
    if misplaced:
        raise UserError(f'{folder / INDEX}: {misplaced[0]} is not in {places[misplaced[0]]}')
    return headers


def read_tensor(name: str, header: Header) -> np.ndarray:
    """One tensor in float32. The file is opened for it alone, so that its pages do not stay in memory."""
    try:
        with safe_open(header.file, 'np') as file:
            return np.asarray(file.get_tensor(name), np.float32)
    except (SafetensorError, OSError) as error:
        raise UserError(f'{header.file}: {name} cannot be read ({error})') from error


def write_tensors(
    folder: Path, specs: dict[str, tuple[int, ...]], dtype: str, tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes model.safetensors, or several files and their index where they would be larger than 5 GB.

    Args:
      specs: {name: shape} in the order of `tensors`.
      dtype: float32, bfloat16 or float16.
      tensors: (name, float32 array), made one at a time.

    Raises:
      UserError: a number that is not finite in `dtype`.
    """
    code = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}[dtype]
    shards, tensors = _shards(specs, DTYPES[code].itemsize), iter(tensors)
    places = {}
    for number, shard in enumerate(shards, 1):
        name = ONE_FILE if len(shards) == 1 else f'model-{number:05d}-of-{len(shards):05d}.safetensors'
        _write_file(folder / name, {tensor: specs[tensor] for tensor in shard}, code, tensors)
        places |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = DTYPES[code].itemsize * sum(map(math.prod, specs.values()))
        index = {'metadata': {'total_size': total}, 'weight_map': places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _headers_of(path: Path) -> dict[str, Header]:
    try:
        with safe_open(path, 'np') as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: Header(path, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except FileNotFoundError as error:
        raise UserError(f'{path} does not exist') from error
    except (SafetensorError, OSError) as error:
        raise UserError(f'{path}: damaged, or no safetensors file ({error})') from error


def _nothing_to_read(folder: Path) -> UserError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if not pickles:
        return UserError(f'{folder} holds neither {ONE_FILE} nor {INDEX}')
    return UserError(
        f'{folder} holds {", ".join(pickles[:3])} but no {ONE_FILE}: files of that kind can run any program when they '
        'are opened, so they are not read. Convert them where transformers is installed, if you trust them: '
        "python -c \"import transformers as t; t.AutoModel.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER')\""
        ' (AutoModelForMaskedLM keeps the head of BERT)'
    )


def _shards(specs: dict[str, tuple[int, ...]], itemsize: int) -> list[list[str]]:
    """Names, cut into files of at most SHARD_BYTES, but for one tensor that is larger."""
    shards, size = [[]], 0
    for name, shape in specs.items():
        more = itemsize * math.prod(shape)
        if shards[-1] and size + more > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += more
    return shards


def _write_file(path: Path, specs: dict, code: str, tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    """8 bytes of the header's length, the header as JSON, the numbers: the library itself would need all at once."""
    dtype, start, header = DTYPES[code], 0, {'__metadata__': {'format': 'pt'}}
    for name, shape in specs.items():
        end = start + dtype.itemsize * math.prod(shape)
        header[name] = {'dtype': code, 'shape': list(shape), 'data_offsets': [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for expected in specs:
            name, array = next(tensors)
            if (name, array.shape) != (expected, tuple(specs[expected])):
                raise ValueError(f'{name} {array.shape} came where {expected} {specs[expected]} was announced')
            with np.errstate(over='ignore'):
                stored = np.ascontiguousarray(array, dtype)
            if not np.all(np.isfinite(stored.astype(np.float32, copy=False))):
                raise UserError(f'{name} holds numbers that are not finite in {dtype.name}; take --dtype=float32')
            file.write(stored.view(np.uint8).data if stored.ndim else stored.tobytes())
