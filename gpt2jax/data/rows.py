"""Rows of a token stream, by random access: a batch is a pure function of (seed, step).

Axes: B rows, L length. Row i covers the stream's positions i*L to i*L + L, one token more than L, so that the
targets of all rows partition the stream.
"""

import copy
import functools
import hashlib

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
      contiguous: in training, row b of a step is the one behind row b of the step before; else rows are shuffled.

    Attributes:
      left_out: how many documents stand in no row.
    """

    left_out = 0

    def __init__(
        self, tokens: Tokens, length: int, cross_documents: bool, tokenizer: Tokenizer, contiguous: bool = False
    ):
        if length < 1:
            raise ValueError(f'length must be at least 1, not {length}')
        self.tokens, self.length, self.cross_documents, self.contiguous = tokens, length, cross_documents, contiguous
        self.stride = length
        self.end_of_text, self.pad = tokenizer.end_of_text, tokenizer.pad
        self._words = tokenizer.begins_word.astype(np.uint8) | tokenizer.ends_word.astype(np.uint8) << 1
        self._stream = np.asarray(tokens.tokens)  # the same memory map; slices of a plain array cost less

    def __len__(self) -> int:
        return -(-(self.tokens.num_tokens - 1) // self.stride)

    def windows(self, length: int, stride: int) -> 'Rows':
        """The same split in rows of another length that overlap: the last `stride` targets of each are in no other.

        The first rows all begin with the split, and what such a row predicts is not always at its end.
        """
        if (length, stride) == (self.length, self.stride):
            return self
        other = copy.copy(self)
        other.length, other.stride = length, stride
        return other

    def batch(self, indices: np.ndarray) -> Batch:
        """The rows of those indices; one past the last row is all padding.

        Args:
          indices: [B] row numbers, at least 0.

        Returns:
          tokens [B, L+1] int32; segment [B, L+1] int32, the documents of a row counted from 1, 0 for padding;
          begins [B, L+1] bool, where a word begins; row [B] int32, the row numbers; continues [B] bool, False: no row
          goes on where the one before it ended. Of overlapping rows also counted [B, L+1] bool, what is in no other.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and indices.min() < 0:
            raise IndexError(f'row numbers start at 0, found {indices.min()}')
        tokens_BL = np.full((len(indices), self.length + 1), self.pad, np.int32)
        real_B = np.zeros(len(indices), np.int64)
        for i, index in enumerate(indices):
            if index < len(self):
                piece = self.piece(index)
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
        batch = {
            'tokens': tokens_BL,
            'segment': segment_BL,
            'begins': self._begins(tokens_BL),
            'row': indices.astype(np.int32),
            'continues': np.zeros(len(indices), bool),
        }
        if self.stride < self.length:
            last_B1 = np.minimum(self.length, (indices + 1) * self.stride)[:, None]
            behind_BL = last_B1 - np.arange(self.length + 1)
            batch['counted'] = (behind_BL >= 0) & (behind_BL < self.stride)
        return batch

    def piece(self, index: int) -> np.ndarray:
        """The part of the stream that a row holds, at most L + 1 ids."""
        start = max(0, (index + 1) * self.stride - self.length)
        return self._stream[start : start + self.length + 1]

    def goes_on(self, indices: np.ndarray) -> np.ndarray:
        """[B] bool: whether the text of each row begins inside a document that the row before it has begun to read."""
        indices = np.asarray(indices, np.int64)
        inside_B = (indices > 0) & (indices < len(self))
        if not self.cross_documents:
            first_B = self._stream[np.where(inside_B, indices, 0) * self.length]
            inside_B &= first_B != self.end_of_text
        return inside_B

    def _begins(self, tokens_BL: np.ndarray) -> np.ndarray:
        """A word begins with its own first token or where the one before has ended; what precedes a row is unknown."""
        words_BL = self._words[tokens_BL]
        begins_BL = (words_BL & 1).astype(bool)
        begins_BL[:, 0] = True
        begins_BL[:, 1:] |= words_BL[:, :-1] > 1
        return begins_BL


def train_batch(rows: Rows, seed: int, step: int, batch_size: int, part: Part = slice(None)) -> Batch:
    """The batch of a step, a pure function: every row once an epoch, in an order drawn anew each epoch.

    Contiguous rows come in lanes: lane b begins at row offset(seed) + b R / B of the split's R, and each step reads the
    next one, behind the last row the first. `row` is the index in the global batch.

    Args:
      rows: the training split's rows.
      seed: of the order.
      step: from 0.
      batch_size: B, rows of the global batch; it may be larger than an epoch.
      part: this host's rows of the global batch; all hosts' parts, joined, are the batch of one host.
    """
    indices = train_indices(rows, seed, step, batch_size, part)
    batch = rows.batch(indices)
    batch['row'] = np.arange(batch_size, dtype=np.int32)[part]
    if rows.contiguous:
        batch['continues'] = rows.goes_on(indices)
    return batch


def train_indices(rows: Rows, seed: int, step: int, batch_size: int, part: Part = slice(None)) -> list[int]:
    """The numbers in their split of the rows that `train_batch` makes its batch of; takes the same arguments."""
    if rows.contiguous:
        offset = int(permute(np.zeros(1, np.int64), len(rows), seed, 0)[0])
        lane_B = np.arange(batch_size, dtype=np.int64)[part]
        return ((offset + lane_B * len(rows) // batch_size + step) % len(rows)).tolist()
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
        'continues': (rows[:1], bool),
    }


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
