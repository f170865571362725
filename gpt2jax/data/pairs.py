"""`pairs`: the user's own pairs, .tsv and .jsonl files, plain or gzipped, one file or a folder of them.

A line of a .tsv file is a source, a tab and its target. A line of a .jsonl file is a JSON object with both, under the
two keys of data.text_key, 'source,target' or any others, the source first: so the direction is chosen there.
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.data.builder import Corpus, Pair, clean, split_of
from gpt2jax.data.files import digest_bytes, digest_file
from gpt2jax.data.text import find_files, lines_of, readable, text_of
from gpt2jax.errors import UserError

VERSION = '1'  # of the rules below: raise it when the documents change
SUFFIXES = ('.tsv', '.jsonl', '.tsv.gz', '.jsonl.gz')


def corpus(path: str, text_key: str) -> Corpus:
    """The pairs at `path`, streamed. Their split follows from the hash of the source: equal sources stay together.

    Args:
      path: a file or a folder, read recursively in the order of the names.
      text_key: of .jsonl files, the keys of source and target with a comma between.

    Raises:
      UserError: no such path, no file of pairs in the folder, or a line that is not a pair.
    """
    root = Path(path).expanduser()
    files = find_files(root, path, 'pairs', SUFFIXES)
    keys = text_key.split(',')
    if len(keys) != 2 and any('.jsonl' in file.suffixes for file in files):
        raise UserError(
            f"config.data.text_key = {text_key!r}: pairs in .jsonl need two keys, as in 'source,target' "
            "(or 'target,source' for the other direction)"
        )
    names = [str(file.relative_to(root)) if root.is_dir() else file.name for file in files]
    digests = [readable(digest_file, file) for file in files]
    parts = itertools.chain.from_iterable(zip(names, digests, strict=True))

    def documents(split: str) -> Iterator[Pair]:
        for pair in itertools.chain.from_iterable(read(file, keys) for file in files):
            if split_of(int(hashlib.sha256(pair.source.encode()).hexdigest()[:15], 16)) == split:
                yield pair

    return Corpus('pairs', digest_bytes(VERSION, text_key, *parts), documents, str(root), pairs=True)


def read(file: Path, keys: list[str]) -> Iterator[Pair]:
    """The pairs of a file in order; empty lines are skipped.

    Raises:
      UserError: a line that is not a pair, with its number.
    """
    for number, line in lines_of(file):
        if '.jsonl' in file.suffixes:
            pair = Pair(*(text_of(line, file, number, key) for key in keys))
        else:
            fields = line.rstrip('\n').split('\t')
            if len(fields) != 2:
                raise UserError(
                    f'{file}, line {number}: {len(fields)} fields, expected 2: a source, one tab, and its target'
                )
            pair = Pair(*map(clean, fields))
        if not pair.source.strip() or not pair.target.strip():
            raise UserError(f'{file}, line {number}: the {"target" if pair.source.strip() else "source"} is empty')
        yield pair
