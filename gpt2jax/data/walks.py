"""The ways an evaluation walks through a split: which rows are read together, and which of their tokens count.

Axes: T batches, B rows, L length.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from gpt2jax.data.rows import Batch, Part, Rows

RUN = 8  # consecutive rows that are read where some rows stand for a split


@dataclasses.dataclass(frozen=True)
class Walk:
    """Batches of rows, one after the other.

    Attributes:
      index: [T, B] row numbers; those beyond the split are rows of padding.
      part: this host's rows of each batch.
      continues: [T, B] bool, whether a row goes on where the row above it ended; None: no row does.
      counts: [T, B] bool, whether what is predicted in a row counts; None: all rows count.
    """

    rows: Rows
    index: np.ndarray
    part: Part
    continues: np.ndarray | None = None
    counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Batch]:
        for number, index_B in enumerate(self.index):
            batch = self.rows.batch(index_B[self.part])
            if self.continues is not None:
                batch['continues'] = self.continues[number][self.part]
            if self.counts is not None:
                count_B1 = self.counts[number][self.part][:, None]
                batch['counted'] = np.broadcast_to(count_B1, batch['tokens'].shape)
            yield batch


def evaluation_batches(rows: Rows, batch_size: int, part: Part = slice(None), num_rows: int = 0) -> Walk:
    """All rows in order, each once, or a fixed set of them; the last batch is filled up with rows of padding.

    `row` is the index in the split, so that what an objective draws for a row does not depend on the batch size.

    Args:
      rows: the split's rows.
      batch_size: B, rows of the global batch.
      part: this host's rows of each global batch.
      num_rows: how many rows to take, evenly spaced over the split; 0 takes all.
    """
    count = min(num_rows or len(rows), len(rows))
    chosen = np.arange(count) * len(rows) // count
    padding = np.full(-count % batch_size, len(rows))
    return Walk(rows, np.concatenate([chosen, padding]).reshape(-1, batch_size), part)


def evaluation_streams(rows: Rows, batch_size: int, part: Part = slice(None), num_rows: int = 0) -> Walk:
    """The same rows in lanes, for a model that remembers: each row stands below the one before it in the split.

    A lane begins behind a row in which a document begins, and reads that row first without counting it. What it then
    remembers of the open document is what a walk through the whole split would, so that no figure depends on the
    batch size. Where documents are not kept apart there is no such place: lanes begin anywhere, with a memory of that
    one row before, and figures depend a little on how many lanes there are.

    Args:
      num_rows: about how many rows to take, RUN together, evenly spaced over the split; 0 takes all.
    """
    runs = batch_size if num_rows in (0, len(rows)) else -(-num_rows // RUN)
    starts = sorted({_entrance(rows, place * len(rows) // runs) for place in range(runs)} - {len(rows)})
    most = -(-num_rows // len(starts)) if num_rows else len(rows)
    lanes = [[] for _ in range(batch_size)]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        lane, goes_on = lanes[number % batch_size], bool(rows.goes_on([start])[0])
        if goes_on:
            lane.append((start - 1, False, False))
        lane.append((start, goes_on, True))
        others = np.arange(start + 1, min(start + most, end))
        lane.extend((row, before, True) for row, before in zip(others, rows.goes_on(others), strict=True))
    length = max(map(len, lanes))
    padded_BT3 = [lane + [(len(rows), False, False)] * (length - len(lane)) for lane in lanes]
    index_TB, continues_TB, counts_TB = np.array(padded_BT3, np.int64).transpose(2, 1, 0)
    return Walk(rows, index_TB, part, continues_TB.astype(bool), counts_TB.astype(bool))


def _entrance(rows: Rows, index: int) -> int:
    """The first row from `index` on that a lane may begin with; len(rows) where there is none."""
    if index == 0 or rows.cross_documents:
        return index
    offsets = rows.tokens.offsets
    place = offsets[np.searchsorted(offsets, (index - 1) * rows.length)]  # a closing <|endoftext|> ends the stream
    return min(max(index, -(-int(place) // rows.length)), len(rows))
