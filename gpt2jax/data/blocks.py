"""Cutting long texts into contiguous blocks, at paragraph borders where there are any."""

from collections.abc import Iterable, Iterator

from gpt2jax.data.builder import split_of

PATIENCE = 2  # a block grows to at most this many times its wanted size in search of a border


def blocks(pieces: Iterable[str], size: int) -> Iterator[str]:
    """Cuts a stream of text into blocks of about `size` characters; joined, they are the text.

    A text of at most `PATIENCE * size` characters stays whole. Else a block ends at the first paragraph border (an
    empty line) past `size` characters, or at the last line or word border within `PATIENCE * size`, or in the middle
    of an endless word. Holds a few blocks in memory, never the text.

    Args:
      pieces: the text in order, in pieces of any length.
      size: wanted block length in characters, at least 1.
    """
    limit = PATIENCE * size
    parts: list[str] = []
    length = 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length <= limit:
            continue
        buffer, start = ''.join(parts), 0
        while len(buffer) - start > limit:
            end = _border(buffer, start, size, limit)
            yield buffer[start:end]
            start = end
        parts, length = [buffer[start:]], len(buffer) - start
    if length:
        yield ''.join(parts)


def split_blocks(texts: Iterable[Iterable[str]], size: int, split: str) -> Iterator[str]:
    """The blocks of texts that belong to a split; neighbours of one split and one text join to one document.

    Blocks are numbered through all the texts and dealt by `builder.split_of`, so each split samples every
    part of a long text and no block is in two splits.

    Args:
      texts: texts, each as a stream of pieces.
      size: block length in characters.
      split: train, validation or test.
    """
    number = 0
    for pieces in texts:
        run: list[str] = []
        for block in blocks(pieces, size):
            if split_of(number) == split:
                run.append(block)
            elif run:
                yield ''.join(run)
                run = []
            number += 1
        if run:
            yield ''.join(run)


def _border(buffer: str, start: int, size: int, limit: int) -> int:
    """Where a block that begins at `start` ends."""
    paragraph = buffer.find('\n\n', start + size - 1, start + limit)
    if paragraph >= 0:
        end = paragraph + 2
        while end < min(start + limit, len(buffer)) and buffer[end] == '\n':
            end += 1
        return end
    for border in '\n ':
        last = buffer.rfind(border, start, start + limit)
        if last >= 0:
            return last + 1
    return start + size
