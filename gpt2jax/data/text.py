"""`text`: the user's own .txt and .jsonl files, plain or gzipped, one file or a folder of them."""

import contextlib
import functools
import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.data.blocks import blocks, split_blocks
from gpt2jax.data.builder import Corpus, clean, split_of
from gpt2jax.data.files import digest_bytes, digest_file
from gpt2jax.errors import UserError

VERSION = '1'  # of the rules below: raise it when the documents change
SUFFIXES = ('.txt', '.jsonl', '.txt.gz', '.jsonl.gz')
PIECE = 1 << 20  # characters read at once
LONGEST = 16 << 20  # characters of one document; a longer .txt file becomes several documents
LONGEST_LINE = 256 << 20  # characters of one .jsonl line
MANY = 200  # from so many documents on, whole documents are dealt to the splits
BLOCKS = 40  # fewer documents are cut into at least about so many blocks


def corpus(path: str, text_key: str) -> Corpus:
    """The text at `path`, streamed: files may be larger than memory.

    A .txt file is a document, each line of a .jsonl file is one. From `MANY` documents on, a document's split
    follows from the hash of its text; fewer are cut into contiguous blocks, and the blocks are dealt.

    Args:
      path: a file or a folder, read recursively in the order of the names.
      text_key: the key of the text in each line of a .jsonl file.

    Raises:
      UserError: no such path, no text file in the folder, nothing but white space in it, or a .jsonl line
        that is no JSON object with a string under `text_key`.
    """
    root = Path(path).expanduser()
    files = find_files(root, path, 'text', SUFFIXES)
    names = [str(file.relative_to(root)) if root.is_dir() else file.name for file in files]
    digests = [readable(digest_file, file) for file in files]
    parts = [part for pair in zip(names, digests, strict=True) for part in pair]

    @functools.cache
    def measured() -> tuple[int, int]:
        return _measure(files, text_key, path)

    def documents(split: str) -> Iterator[str]:
        count, characters = measured()
        if count >= MANY:
            for text in itertools.chain.from_iterable(_documents(file, text_key) for file in files):
                if text.strip() and split_of(int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)) == split:
                    yield text
            return
        size = max(1, min(characters // BLOCKS, PIECE))
        texts = itertools.chain.from_iterable(_texts(file, text_key) for file in files)
        yield from (text for text in split_blocks(texts, size, split) if text.strip())

    return Corpus('text', digest_bytes(VERSION, text_key, *parts), documents, str(root))


def find_files(root: Path, path: str, corpus: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The file that the user named, or all those in the folder, in the order of their names.

    Args:
      root: `path`, expanded.
      corpus: the corpus that needs the files, for messages.
      suffixes: what their names may end in.

    Raises:
      UserError: no such file.
    """
    if not path:
        kinds = ' or '.join(suffixes[:2])
        raise UserError(f'config.data.path is empty: the corpus {corpus!r} needs a {kinds} file, or a folder of them')
    if root.is_file():
        if not root.name.endswith(suffixes):
            raise UserError(f'config.data.path = {path!r}: the name must end in one of {", ".join(suffixes)}')
        return [root]
    if not root.is_dir():
        raise UserError(f'config.data.path = {path!r}: no such file or folder')
    files = sorted(file for file in root.rglob('*') if file.name.endswith(suffixes) and file.is_file())
    if not files:
        raise UserError(f'config.data.path = {path!r}: the folder has no file that ends in {", ".join(suffixes)}')
    return files


def readable(function, file: Path):
    """`function(file)`; an error of reading becomes words for the user."""
    try:
        return function(file)
    except OSError as error:
        raise UserError(f'config.data.path: cannot read {file}: {error.strerror or error}') from error


def _measure(files: list[Path], text_key: str, path: str) -> tuple[int, int]:
    """The number of documents (counted up to `MANY`) and of characters, in one pass."""
    count, characters, blank = 0, 0, True
    for text in itertools.chain.from_iterable(_texts(file, text_key) for file in files):
        length = 0
        for piece in text:
            length += len(piece)
            blank = blank and not piece.strip()
        characters += length
        count += -(-length // LONGEST)
        if count >= MANY and not blank:
            break
    if blank:
        raise UserError(f'config.data.path = {path!r}: no text there (empty, or white space only)')
    return count, characters


def _documents(file: Path, text_key: str) -> Iterator[str]:
    for text in _texts(file, text_key):
        yield from blocks(text, LONGEST // 2)


def _texts(file: Path, text_key: str) -> Iterator[Iterator[str]]:
    """The texts of a file, each as a stream of pieces; one that is not used up is skipped over."""
    if file.name.endswith(('.txt', '.txt.gz')):
        yield _pieces(file)
    else:
        for text in _jsonl(file, text_key):
            yield iter([text])


def _open(file: Path) -> io.TextIOBase:
    # utf-8-sig drops the byte-order mark that some editors write; line ends become \n.
    if file.suffix == '.gz':
        return gzip.open(file, 'rt', encoding='utf-8-sig', errors='replace')
    return file.open(encoding='utf-8-sig', errors='replace')


def _pieces(file: Path) -> Iterator[str]:
    with _whole(file), _open(file) as stream:
        while piece := stream.read(PIECE):
            yield piece


def _jsonl(file: Path, text_key: str) -> Iterator[str]:
    for number, line in lines_of(file):
        yield text_of(line, file, number, text_key)


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers from 1.

    Raises:
      UserError: a file that is damaged, or an endless line.
    """
    with _whole(file), _open(file) as stream:
        for number in itertools.count(1):
            line = stream.readline(LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise UserError(f'{file}, line {number}: longer than {LONGEST_LINE} characters; split the document')
            if line.strip():
                yield number, line


def text_of(line: str, file: Path, number: int, text_key: str) -> str:
    """The text under a key of a line of .jsonl. Raises UserError where there is none."""
    where = f'{file}, line {number}'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: not JSON ({error}); a .jsonl file has one JSON object a line') from error
    if not isinstance(record, dict):
        raise UserError(f'{where}: a JSON object is needed, this is {type(record).__name__}')
    if text_key not in record:
        keys = ', '.join(sorted(record)) or 'none'
        raise UserError(f'{where}: no key {text_key!r} (its keys: {keys}); set data.text_key to the one with the text')
    if not isinstance(record[text_key], str):
        raise UserError(f'{where}: the value of {text_key!r} is {type(record[text_key]).__name__}, not a string')
    return clean(record[text_key])


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turns an error of reading `file` into words for the user."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{file}: cannot be read to its end ({error}); is it damaged?') from error
