"""A Hugging Face folder -> a config and parameters of ours. Everything is checked before anything is allocated."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from gpt2jax.data.files import digest_file
from gpt2jax.errors import UserError
from gpt2jax.interop.configs import OFFSET, changes_of, family_of
from gpt2jax.interop.layouts import COPIES, IGNORED, TABLES, Entry, plain_name
from gpt2jax.interop.weight_files import DTYPES, Header, read_config, read_headers, read_tensor
from gpt2jax.optimizers import path_name

SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder whose headers have been read.

    Attributes:
      folder: where it is.
      hf_config: its config.json.
      family: gpt2, bert or xlnet.
      names: {plain name: name in the file}.
      headers: {name in the file: Header}.
      changes: what its config changes in ours.
    """

    folder: Path
    hf_config: dict
    family: str
    names: dict[str, str]
    headers: dict[str, Header]
    changes: dict

    @property
    def model_type(self) -> str:
        """As the folder says: gpt2, bert, roberta, xlm-roberta, xlnet."""
        return self.hf_config['model_type']

    @property
    def predicts(self) -> bool:
        """Whether there is a head that the model was trained to predict tokens with."""
        head = {'bert': 'model.head.transform', 'xlnet': 'model.head.bias'}
        return self.family == 'gpt2' or self.changes[head[self.family]]

    def digests(self) -> dict[str, str]:
        """{file: sha256} of the files with the weights."""
        return {path.name: digest_file(path) for path in sorted({header.file for header in self.headers.values()})}


def open_folder(folder: Path) -> Source:
    """Reads config.json and the headers of the weights; no weight.

    Raises:
      UserError: a file is missing or damaged, or the model is none of ours.
    """
    if not folder.is_dir():
        raise UserError(f'{folder}: there is no such folder')
    hf_config = read_config(folder)
    family = family_of(hf_config, folder / 'config.json')
    headers = read_headers(folder)
    names = {}
    for name in headers:
        plain = plain_name(family, name)
        if plain in names:
            raise UserError(f'{folder}: {names[plain]} and {name} are the same tensor')
        names[plain] = name
    twins = ('cls.predictions.bias', 'cls.predictions.decoder.bias')  # one of them may stand for both
    for here, there in (twins, twins[::-1]):
        if here in names:
            names.setdefault(there, names[here])
    changes = changes_of(hf_config, names, folder / 'config.json')
    return Source(folder, hf_config, family, names, headers, changes)


def entries_of(source: Source, model) -> list[Entry]:
    """The table of the source's tensors under their plain names; `model` is `config.model`, resolved."""
    options = {'offset': OFFSET.get(source.model_type, 0)} if source.family == 'bert' else {}
    return TABLES[source.family](model, prefix='', **options)


def check(source: Source, model, abstract) -> list[str]:
    """Compares the headers with the parameters of our model; returns the names of tensors that are left.

    Args:
      model: `config.model`, resolved.
      abstract: tree of ShapeDtypeStructs of our parameters.

    Raises:
      UserError: tensors are missing, unknown, or of another shape or dtype; they are named.
    """
    shapes = shapes_of(abstract)
    expected = {entry.name: entry.shape(shapes, model.vocab_size) for entry in entries_of(source, model)}
    optional = {copy for copy in COPIES[source.family] if copy not in expected}
    ignored = re.compile(IGNORED[source.family])
    left = {plain for plain in source.names if plain not in expected and ignored.fullmatch(plain)}
    wrong = [f'missing: {name} {list(shape)}' for name, shape in expected.items() if name not in source.names]
    for plain, name in source.names.items():
        header = source.headers[name]
        if plain in optional or plain in left:
            continue
        if plain not in expected:
            wrong.append(f'unknown: {name} {list(header.shape)}')
        elif header.shape != expected[plain]:
            wrong.append(f'{name} is {list(header.shape)}, config.json asks for {list(expected[plain])}')
        elif header.dtype not in DTYPES:
            wrong.append(f'{name} is {header.dtype}: none of {", ".join(DTYPES)}')
    if wrong:
        more = [f'and {len(wrong) - SHOWN} more'] if len(wrong) > SHOWN else []
        raise UserError(f'the weights in {source.folder} do not fit:\n  ' + '\n  '.join(wrong[:SHOWN] + more))
    used = {source.names[plain] for plain in expected}
    return sorted({source.names[plain] for plain in left} - used)


def load(source: Source, model, abstract, track: Callable[[Iterable, str, int], Iterable] | None = None):
    """The parameters, tensor by tensor, each put where its sharding says as soon as it is read.

    Args:
      model: `config.model`, resolved.
      abstract: tree of ShapeDtypeStructs with shardings; `check` has passed.
      track: draws a bar around the tensors.

    Raises:
      UserError: a tensor that is written twice, with other numbers the second time.
    """
    shapes, entries = shapes_of(abstract), entries_of(source, model)
    _check_copies(source, {entry.name for entry in entries})
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    places = {path_name(path): leaf for path, leaf in leaves}
    loaded = {}
    for entry in track(entries, 'importing', len(entries)) if track else entries:
        name = source.names[entry.name]
        tensor = read_tensor(name, source.headers[name])
        for path, array in entry.split(tensor, shapes):
            loaded[path] = _place(array, places[path])
    return jax.tree.unflatten(structure, [loaded[path_name(path)] for path, _ in leaves])


def shapes_of(abstract) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a tree."""
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]}


def _place(array: np.ndarray, target: jax.ShapeDtypeStruct) -> jax.Array:
    def piece(index):
        return np.ascontiguousarray(array[index], target.dtype)

    return jax.block_until_ready(jax.make_array_from_callback(target.shape, target.sharding, piece))


def _check_copies(source: Source, known: set[str]) -> None:
    for copy, original in COPIES[source.family].items():
        if copy in known or copy not in source.names:
            continue
        first, second = (read_tensor(name, source.headers[name]) for name in map(source.names.get, (original, copy)))
        if not np.array_equal(first, second):
            raise UserError(
                f'{source.folder}: {source.names[copy]} differs from {source.names[original]}, but config.json says '
                'that they are one (tie_word_embeddings)'
            )
