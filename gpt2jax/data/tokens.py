"""The token stream of a split: written once, whole or not at all, and read through memory maps.

    <|endoftext|> d1 d2 ... <|endoftext|> d1 d2 ... <|endoftext|>

Every document begins with <|endoftext|> and one more closes the stream, so each token of a document is
predicted from a context that begins with its document, and so is its end. A pair is one document: the ids of its
source, <|sep|>, the ids of its target; no text is encoded to <|sep|>, so its first one is where the target begins.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gpt2jax.data.builder import Pair, texts_of
from gpt2jax.data.files import digest_sampled
from gpt2jax.data.tokenizers import Tokenizer
from gpt2jax.files import write_json

VERSION = '1'  # of the stream and of the files: raise it when either changes
META = 'meta.json'
BATCH = 8 << 20  # characters handed to the tokenizer at once


class Damaged(Exception):  # noqa: N818 (a state of the cache, caught where it is opened)
    """A folder of tokens that is not what was written."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One split.

    Attributes:
      tokens: [num_tokens] uint16 or uint32, the stream, memory-mapped.
      offsets: [num_documents + 1] int64, where in the stream each document's <|endoftext|> is, then the
        closing one.
      num_bytes: UTF-8 bytes of all documents.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    num_bytes: int

    @property
    def num_tokens(self) -> int:
        """The length of the stream, each document's <|endoftext|> and the closing one included."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> np.ndarray:
        """The ids of one document, [n] int32, without its <|endoftext|>."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f'document {index} of {self.num_documents}')
        return self.tokens[self.offsets[index] + 1 : self.offsets[index + 1]].astype(np.int32)


def write_split(
    folder: Path, split: str, documents: Sequence[str | Pair], tokenizer: Tokenizer, advance: Callable[[int], None]
) -> dict:
    """Tokenizes a split on all cores into two files of `folder`; returns its entry for `write_meta`.

    Args:
      folder: where to write; nothing there counts until `write_meta` is done.
      split: names the files.
      documents: the texts, or pairs of them.
      tokenizer: gives the ids and the special token.
      advance: told the number of documents done, after each batch.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    end = np.array([tokenizer.end_of_text], dtype)
    offsets, position, num_bytes = [0], 0, 0
    threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    with _stream_file(folder, split).open('wb') as file:
        for batch in _batches(documents):
            for ids in _encode(batch, tokenizer, threads):
                file.write(end)
                file.write(ids.astype(dtype))
                position += 1 + len(ids)
                offsets.append(position)
                num_bytes += int(tokenizer.byte_lengths[ids].sum())
            advance(len(batch))
        file.write(end)
        file.flush()
        os.fsync(file.fileno())
    np.asarray(offsets, np.int64).tofile(_offsets_file(folder, split))
    return {
        'documents': len(offsets) - 1,
        'tokens': position + 1,
        'bytes': num_bytes,
        'dtype': dtype.name,
        'digests': {file.name: digest_sampled(file) for file in _files(folder, split)},
    }


def write_meta(folder: Path, entries: dict[str, dict], key: str, origin: dict[str, str]) -> None:
    """Writes the description of a finished folder, its last file.

    Args:
      folder: holds the files of `write_split`.
      entries: split -> what `write_split` returned.
      key: what the tokens depend on, checked by `open_tokens`.
      origin: corpus and tokenizer, for people.
    """
    write_json(folder / META, {'version': VERSION, 'key': key, **origin, 'splits': entries})


def open_tokens(folder: Path, key: str) -> dict[str, Tokens]:
    """Opens the splits of a finished folder, without reading more of long streams than samples.

    Raises:
      Damaged: the folder is not what was written, with the reason.
    """
    try:
        meta = json.loads((folder / META).read_text('utf-8'))
        if (meta['version'], meta['key']) != (VERSION, key):
            raise Damaged(f'{META} describes something else')
        return {split: _open_split(folder, split, entry) for split, entry in meta['splits'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f'{type(error).__name__}: {error}') from error


def _open_split(folder: Path, split: str, entry: dict) -> Tokens:
    for file in _files(folder, split):
        if digest_sampled(file) != entry['digests'][file.name]:
            raise Damaged(f'{file.name} does not match its digest')
    tokens = np.memmap(_stream_file(folder, split), np.dtype(entry['dtype']), mode='r')
    offsets = np.memmap(_offsets_file(folder, split), np.int64, mode='r')
    if (len(tokens), len(offsets)) != (entry['tokens'], entry['documents'] + 1):
        raise Damaged(f'{split} has another length than {META} says')
    return Tokens(tokens, offsets, entry['bytes'])


def _batches(documents: Sequence[str | Pair]) -> Iterator[list[str | Pair]]:
    batch: list[str | Pair] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, texts_of([document])))
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(documents: list[str | Pair], tokenizer: Tokenizer, threads: int) -> Iterator[np.ndarray]:
    """The ids of each document."""
    ids, sep = iter(tokenizer.encode_batch(list(texts_of(documents)), threads)), np.array([tokenizer.sep], np.int32)
    for document in documents:
        yield np.concatenate([next(ids), sep, next(ids)]) if isinstance(document, Pair) else next(ids)


def _stream_file(folder: Path, split: str) -> Path:
    return folder / f'{split}.tokens'


def _offsets_file(folder: Path, split: str) -> Path:
    return folder / f'{split}.offsets'


def _files(folder: Path, split: str) -> tuple[Path, Path]:
    return _stream_file(folder, split), _offsets_file(folder, split)
