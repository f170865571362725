"""Labelled texts as a model reads them: which tokens belong to which labelled part, and batches of few lengths.

Axes: B rows, L length, P labelled parts of a row, D width, C labels, T tokens of one text.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2jax.data.labelled import Labelled, Text
from gpt2jax.objectives.texts import text_example

MULTIPLE = 16  # lengths are rounded up to it
QUARTERS = 4  # how many lengths there are: few shapes are few compilations
WORDS = 1 << 16  # whose tokens are remembered
POOL = 16  # batches that are made up together of texts of like lengths


@dataclasses.dataclass(frozen=True)
class Row:
    """A text as the model reads it.

    Attributes:
      tokens: [T] int32, in the wrapping of the tokenizer.
      part: [T] int32, which of the row's labelled parts a token belongs to, from 1; 0: to none.
      labels: of the row's parts, as numbers.
      seen: which parts of the text these are: those that have a token within the model's reach.
      cut: whether the text is longer than that.
    """

    tokens: np.ndarray
    part: np.ndarray
    labels: np.ndarray
    seen: np.ndarray
    cut: bool


def read_texts(tokenizer, labelled: Labelled, split: str, context: int) -> list[Row]:
    """The rows of a split, in order, each cut to the context inside its wrapping.

    A text to classify is one part, its wrapping included (Reimers & Gurevych 2019, section 3, pool so). Words to tag
    are encoded with a space in front of all but the first, and the wrapping belongs to none of them.
    """
    encode = functools.lru_cache(WORDS)(tokenizer.encode)
    number = {label: index for index, label in enumerate(labelled.labels)}
    return [_read_text(tokenizer, encode, number, text, labelled.task, context) for text in labelled.splits[split]]


def _read_text(tokenizer, encode: Callable, number: dict[str, int], text: Text, task: str, context: int) -> Row:
    pieces = [encode(' ' * (place > 0) + part) for place, part in enumerate(text.parts)]
    ids = np.concatenate(pieces)
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    wrapping = tokenizer.wrap([-1])
    room, before = context - len(wrapping) + 1, wrapping.index(-1)
    cut = len(ids) > room
    tokens = np.array(tokenizer.wrap(ids[:room]), np.int32)
    if task == 'classify':
        seen, part = np.array([0]), np.ones(len(tokens), np.int32)
    else:
        seen, numbers = np.unique(owner[:room], return_inverse=True)
        part = np.zeros(len(tokens), np.int32)
        part[before : before + len(numbers)] = numbers + 1
    labels = np.array([number[text.labels[place]] for place in seen], np.int32)
    return Row(tokens, part, labels, seen, cut)


def lengths_of(rows: Sequence[Row], context: int) -> list[int]:
    """The few lengths that batches are filled up to: quartiles of the rows', rounded up."""
    quartiles = np.quantile([len(row.tokens) for row in rows], np.arange(1, QUARTERS + 1) / QUARTERS)
    return sorted({min(int(-(-quartile // MULTIPLE)) * MULTIPLE, context) for quartile in quartiles})


def make_batch(rows: Sequence[Row], size: int, lengths: Sequence[int], single: bool) -> dict[str, np.ndarray]:
    """`size` rows of one of the lengths, with rows that have no label behind those given.

    Args:
      single: every row has one part (a text to classify).

    Returns:
      tokens, part: [B, L] int32; length: [B]; label: [B, P], -1 where there is none; P is 1 or L.
    """
    length = next(length for length in lengths if length >= max(len(row.tokens) for row in rows))
    tokens_BL, part_BL = np.zeros((2, size, length), np.int32)
    length_B, label_BP = np.ones(size, np.int32), np.full((size, 1 if single else length), -1, np.int32)
    for index, row in enumerate(rows):
        length_B[index] = len(row.tokens)
        tokens_BL[index, : len(row.tokens)], part_BL[index, : len(row.tokens)] = row.tokens, row.part
        label_BP[index, : len(row.labels)] = row.labels
    return {'tokens': tokens_BL, 'part': part_BL, 'length': length_B, 'label': label_BP}


def training_batches(rows: Sequence[Row], size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices of the rows of each step: epochs in random orders, like lengths together, the order of batches random."""
    epoch, batches = 0, []
    for _ in range(steps):
        if not batches:
            random = np.random.default_rng([seed, epoch])
            batches, epoch = _alike(rows, random.permutation(len(rows)), size), epoch + 1
            random.shuffle(batches)
        yield list(batches.pop())


def in_order(rows: Sequence[Row], size: int) -> list[list[int]]:
    """Indices of all rows once, by length."""
    order = np.argsort([len(row.tokens) for row in rows], kind='stable')
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def _alike(rows: Sequence[Row], order: np.ndarray, size: int) -> list[np.ndarray]:
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = order[start : start + POOL * size]
        pool = pool[np.argsort([len(rows[i].tokens) for i in pool], kind='stable')]
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    return batches


def example_of(batch: dict[str, Array], visibility: str):
    """The Example of a batch, its padding seen by no token; `visibility` is 'causal' or 'full'."""
    return text_example(batch['tokens'], batch['length'], visibility)


def mean_of_parts(values_BLD: Array, batch: dict[str, Array]) -> Array:
    """[B, P, D]: the mean over the tokens of each part, 0 where a row has fewer parts."""
    number_P1 = 1 + jnp.arange(batch['label'].shape[1])[:, None]
    belongs_BPL = (batch['part'][:, None, :] == number_P1).astype(values_BLD.dtype)
    count_BP1 = jnp.maximum(jnp.sum(belongs_BPL, axis=-1, keepdims=True), 1)
    return jnp.einsum('BPL,BLD->BPD', belongs_BPL, values_BLD) / count_BP1
