"""A run of ours -> a folder that transformers loads, written tensor by tensor and whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np

from gpt2jax.errors import UserError
from gpt2jax.files import sync_folder, write_json
from gpt2jax.interop import layouts
from gpt2jax.interop.hf_tokenizers import write_tokenizer
from gpt2jax.interop.importing import shapes_of
from gpt2jax.interop.weight_files import write_tensors
from gpt2jax.optimizers import path_name

DTYPES = ('float32', 'bfloat16', 'float16')
PREFIX = {  # of the names of tensors
    'GPT2LMHeadModel': 'transformer.',
    'BertForMaskedLM': 'bert.',
    'BertModel': '',
    'XLNetLMHeadModel': 'transformer.',
    'XLNetModel': '',
}


def check_target(folder: Path, dtype: str) -> None:
    """Refuses a folder that holds something, and an unknown dtype."""
    if dtype not in DTYPES:
        raise UserError(f'--dtype={dtype}: one of {", ".join(DTYPES)}')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder} is not empty: choose another --to, nothing is overwritten')


def write_folder(
    folder: Path,
    family: str,
    hf_config: dict,
    model,
    params,
    tokenizer,
    dtype: str,
    track: Callable[[Iterable, str, int], Iterable] | None = None,
) -> None:
    """Writes config.json, the weights and the tokenizer.

    Args:
      folder: missing or empty.
      family, hf_config: as gpt2jax.interop.expressing.express gives them.
      model: `config.model`, resolved.
      params: tree of arrays.
      dtype: float32, bfloat16 or float16.
      track: draws a bar around the tensors.

    Raises:
      UserError: the file system refuses, or a number does not fit into `dtype`; nothing is left behind.
    """
    check_target(folder, dtype)
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.unfinished')
    entries = layouts.TABLES[family](model, PREFIX[hf_config['architectures'][0]])
    shapes = shapes_of(params)
    specs = {entry.name: entry.shape(shapes, model.vocab_size) for entry in entries}
    try:
        temporary.mkdir(parents=True)
        write_json(temporary / 'config.json', hf_config | {'dtype': dtype})
        write_tokenizer(temporary, tokenizer, model, family)
        tracked = track(entries, 'exporting', len(entries)) if track else entries
        write_tensors(temporary, specs, dtype, _tensors(tracked, params, model.vocab_size))
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise UserError(f'cannot write {folder}: {error.strerror or error}') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tensors(entries: Iterable[layouts.Entry], params, vocab_size: int) -> Iterator[tuple[str, np.ndarray]]:
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    for entry in entries:
        parameters = {path: np.asarray(jax.device_get(leaves[path])) for path in entry.paths}
        yield entry.name, entry.join(parameters, vocab_size)
