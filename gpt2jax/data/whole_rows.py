"""Rows of whole documents, as many as fit, in the order of the stream.

Axes: B rows, L length. A row is a run of neighbouring documents, each behind its <|endoftext|>, one more <|endoftext|>
and padding. So no document is cut, and every one is predicted from its beginning to its end.
"""

import numpy as np

from gpt2jax.data.rows import Rows
from gpt2jax.data.tokenizers import Tokenizer
from gpt2jax.data.tokens import Tokens

PIECE = 1 << 24  # tokens looked at together


class WholeRows(Rows):
    """The rows of one split; `batch` and all that takes Rows works on them.

    A document that does not fit into a row is left out. The rest stands in some row once.

    Args:
      tokens, length, cross_documents, tokenizer, contiguous: as in Rows.
      answers: the most places of a row in which a target is predicted, its end included; None: all. A document with
        more is left out as well.

    Attributes:
      left_out: how many documents are.
    """

    def __init__(
        self,
        tokens: Tokens,
        length: int,
        cross_documents: bool,
        tokenizer: Tokenizer,
        contiguous: bool = False,
        answers: int | None = None,
    ):
        super().__init__(tokens, length, cross_documents, tokenizer, contiguous)
        offsets = np.asarray(tokens.offsets)
        first_after = fitting(offsets, length)
        if answers is not None:
            answered = np.concatenate([[0], np.cumsum(answer_lengths(self._stream, offsets, tokenizer.sep))])
            first_after = np.minimum(first_after, fitting(answered, answers))
        rows, document = [], 0
        first_after = first_after.tolist()
        while document < tokens.num_documents:
            if first_after[document] > document:
                rows.append((document, first_after[document]))
            document = max(first_after[document], document + 1)
        documents = np.array(rows, np.int64).reshape(-1, 2)
        self._bounds = offsets[documents]
        self.left_out = tokens.num_documents - int((documents[:, 1] - documents[:, 0]).sum())

    def __len__(self) -> int:
        return len(self._bounds)

    def piece(self, index: int) -> np.ndarray:
        """A row's documents and the <|endoftext|> behind them, which is that of the next document in the stream."""
        start, end = self._bounds[index]
        return self._stream[start : end + 1]

    def goes_on(self, indices: np.ndarray) -> np.ndarray:
        """[B] bool: whether a row may read what stands before it, which is so across documents alone."""
        indices = np.asarray(indices, np.int64)
        return (indices > 0) & (indices < len(self)) & self.cross_documents


def fitting(offsets: np.ndarray, room: int) -> np.ndarray:
    """[n]: for each of n documents the first one after it that no longer fits into `room` with it; itself if it is too
    long.

    Args:
      offsets: [n + 1], rising: where each document begins, then the end.
    """
    return np.searchsorted(offsets, offsets[:-1] + room, side='right') - 1


def answer_lengths(stream: np.ndarray, offsets: np.ndarray, sep: int) -> np.ndarray:
    """[n]: places that predict the target of each document, from its first <|sep|> to the place before its end."""
    seps = np.concatenate(
        [np.flatnonzero(stream[start : start + PIECE] == sep) + start for start in range(0, len(stream), PIECE)]
    )
    first = np.append(seps, len(stream))[np.searchsorted(seps, offsets[:-1])]
    return np.maximum(offsets[1:] - first, 0)
