"""Rows of a token stream, by random access: a batch is a pure function of (seed, step).

Axes: B rows, L length. Row i covers the stream's positions i*L to i*L + L, one token more than L, so that the
targets of all rows partition the stream.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from gpt2jax.data.tokenizers import Tokenizer
from gpt2jax.data.tokens import Tokens

Batch = dict[str, np.ndarray]
Part = slice | np.ndarray  # which rows of a global batch
STRETCH = 4096  # neighbouring places of an epoch's order that are drawn, and remembered, together


class Rows:
    """The rows of one split.

    Args:
      tokens: the split.
      length: L, targets in a row, at least 1.
      cross_documents: give every token of a row the same segment, so that attention may cross documents.
      tokenizer: of the tokens. Its `end_of_text` begins each document, its `pad` fills the last row, and its
        `begins_word` and `ends_word` say where the words are.
    """

    def __init__(self, tokens: Tokens, length: int, cross_documents: bool, tokenizer: Tokenizer):
        if length < 1:
            raise ValueError(f'length must be at least 1, not {length}')
        self.tokens, self.length, self.cross_documents = tokens, length, cross_documents
        self.end_of_text, self.pad = tokenizer.end_of_text, tokenizer.pad
        self._words = tokenizer.begins_word.astype(np.uint8) | tokenizer.ends_word.astype(np.uint8) << 1
        self._stream = np.asarray(tokens.tokens)  # the same memory map; slices of a plain array cost less

    def __len__(self) -> int:
        return -(-(self.tokens.num_tokens - 1) // self.length)

    def batch(self, indices: np.ndarray) -> Batch:
        """The rows of those indices; one past the last row is all padding.

        Args:
          indices: [B] row numbers, at least 0.

        Returns:
          tokens [B, L+1] int32; segment [B, L+1] int32, the documents of a row counted from 1, 0 for padding;
          begins [B, L+1] bool, where a word begins; row [B] int32, the row numbers.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and indices.min() < 0:
            raise IndexError(f'row numbers start at 0, found {indices.min()}')
        tokens_BL = np.full((len(indices), self.length + 1), self.pad, np.int32)
        real_B = np.zeros(len(indices), np.int64)
        for i, index in enumerate(indices):
            if index < len(self):
                piece = self._stream[index * self.length : index * self.length + self.length + 1]
                tokens_BL[i, : len(piece)] = piece
                real_B[i] = len(piece)
        if self.cross_documents:
            segment_BL = np.ones_like(tokens_BL)
        else:
            # Nothing but the start of a document has the id <|endoftext|>, so documents are counted without a
            # search.
            starts_BL = tokens_BL == self.end_of_text
            starts_BL[:, 0] = True
            segment_BL = np.cumsum(starts_BL, axis=1, dtype=np.int32)
        for i in np.flatnonzero(real_B <= self.length):
            segment_BL[i, real_B[i] :] = 0
        return {
            'tokens': tokens_BL,
            'segment': segment_BL,
            'begins': self._begins(tokens_BL),
            'row': indices.astype(np.int32),
        }

    def _begins(self, tokens_BL: np.ndarray) -> np.ndarray:
        """A word begins with its own first token or where the one before has ended; what precedes a row is unknown."""
        words_BL = self._words[tokens_BL]
        begins_BL = (words_BL & 1).astype(bool)
        begins_BL[:, 0] = True
        begins_BL[:, 1:] |= words_BL[:, :-1] > 1
        return begins_BL


def train_batch(rows: Rows, seed: int, step: int, batch_size: int, part: Part = slice(None)) -> Batch:
    """The batch of a step: every row once an epoch, in an order drawn anew each epoch. A pure function.

    `row` is the index in the global batch.

    Args:
      rows: the training split's rows.
      seed: of the order.
      step: from 0.
      batch_size: B, rows of the global batch; it may be larger than an epoch.
      part: this host's rows of the global batch; all hosts' parts, joined, are the batch of one host.
    """
    batch = rows.batch(train_indices(rows, seed, step, batch_size, part))
    batch['row'] = np.arange(batch_size, dtype=np.int32)[part]
    return batch


def train_indices(rows: Rows, seed: int, step: int, batch_size: int, part: Part = slice(None)) -> list[int]:
    """The numbers in their split of the rows that `train_batch` makes its batch of; takes the same arguments."""
    place_B = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)[part]
    epoch_B, place_B = np.divmod(place_B, len(rows))
    return [
        int(_stretch(place // STRETCH, len(rows), seed, epoch)[place % STRETCH])
        for place, epoch in zip(place_B.tolist(), epoch_B.tolist(), strict=True)
    ]


def batch_shapes(batch_size: int, length: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of each array of a batch."""
    rows = (batch_size, length + 1)
    return {
        'tokens': (rows, np.int32),
        'segment': (rows, np.int32),
        'begins': (rows, bool),
        'row': (rows[:1], np.int32),
    }


def evaluation_batches(rows: Rows, batch_size: int, part: Part = slice(None), num_rows: int = 0) -> Iterator[Batch]:
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
    for indices_B in np.concatenate([chosen, padding]).reshape(-1, batch_size):
        yield rows.batch(indices_B[part])


def permute(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where a pseudo-random permutation of 0 ... size-1 sends `places`, without holding the permutation.

    A Feistel network over the smallest even number of bits that holds `size` is a permutation of that many
    bits; walking its cycles until the value is below `size` makes it one of 0 ... size-1 (Black & Rogaway
    2002). It does not depend on any library's generator, so a resumed run sees the same order under newer
    versions.

    Args:
      places: [n] int64 in 0 ... size-1.
      size: at least 1.
      seed, epoch: what the permutation depends on.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    secret = hashlib.sha256(f'gpt2jax rows {seed} {epoch}'.encode()).digest()
    keys = np.frombuffer(secret, '<u8')
    values = places.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> shift, values[outside] & mask
        for key in np.concatenate([keys, ~keys]):
            left, right = right, left ^ (_mix(right + key) & mask)
        values[outside] = (left << shift) | right
        outside = values >= size
    return values.astype(np.int64)


@functools.lru_cache(16)
def _stretch(number: int, size: int, seed: int, epoch: int) -> np.ndarray:
    return permute(np.arange(number * STRETCH, min((number + 1) * STRETCH, size)), size, seed, epoch)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele et al. 2014): each bit in reaches each bit out."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
