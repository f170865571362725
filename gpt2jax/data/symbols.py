"""`symbols:N`: a text is units with white space between them, such as the phonemes `HH AH L OW`.

For what is written in an alphabet of its own, above all pronunciations. The units are those of the training split, the
most frequent first. White space is not kept, so a text is known from its ids but for its spaces: no bits per byte.
"""

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gpt2jax.data.files import digest_bytes
from gpt2jax.files import write_json

FORMAT = 'gpt2jax symbols 1'
UNKNOWN = '<unk>'  # id 0: every unit that is not in the vocabulary, and what a text says by that name
FEWEST = 2  # ordinary ids


class SymbolTokenizer:
    """A vocabulary of whole units, with the interface of gpt2jax.data.tokenizers.Tokenizer.

    Args:
      name: symbols:N.
      symbols: the units, `UNKNOWN` first; N at most.
      size: N, how many ordinary ids there are; more than the symbols when the training split has fewer.

    Attributes:
      those of Tokenizer; every symbol is a word.
    """

    lossless = False

    def __init__(self, name: str, symbols: Sequence[str], size: int):
        from gpt2jax.data.tokenizers import SPECIAL  # which imports this file

        self.name, self.symbols, self.size = name, list(symbols), size
        self.end_of_text, self.mask, self.pad, self.sep = range(size, size + len(SPECIAL))
        self.vocab_size = size + len(SPECIAL)
        self._spelling = [*self.symbols, *[''] * (size - len(self.symbols)), *SPECIAL]
        lengths = [len(symbol.encode()) for symbol in self._spelling[:size]] + [0] * len(SPECIAL)
        self.byte_lengths = np.array(lengths, np.int32)
        self.begins_word = self.ends_word = np.ones(self.vocab_size, bool)
        self.fingerprint = digest_bytes(FORMAT, str(size), *self.symbols)
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> np.ndarray:
        """Ids of the units of a text, [n] int32; special tokens' names are units like any other."""
        return np.array([self._ids.get(unit, 0) for unit in text.split()], np.int32)

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """`encode` of each text, on one core: looking a unit up is too little work to share."""
        return [self.encode(text) for text in texts]

    def wrap(self, ids: Iterable[int]) -> list[int]:
        """A text as a model reads it alone: as in the streams, <|endoftext|> comes first."""
        return [self.end_of_text, *map(int, ids)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The units, each with a space behind it, so that pieces can be joined; an unused id gives nothing.

        Raises:
          IndexError: an id outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise IndexError(f'token ids must lie in 0..{self.vocab_size - 1}, found {min(ids)}..{max(ids)}')
        return ''.join(f'{self._spelling[i]} ' for i in ids if self._spelling[i]).encode()

    def decode(self, ids: Iterable[int]) -> str:
        """The units with a space between them; special tokens give their names."""
        return self.decode_bytes(ids).decode().removesuffix(' ')

    def save(self, folder: Path | str) -> None:
        """Writes the tokenizer into `folder` as one JSON file, whole or not at all."""
        from gpt2jax.data.tokenizers import FILE

        value = {'format': FORMAT, 'name': self.name, 'size': self.size}
        write_json(Path(folder) / FILE, value | {'symbols': self.symbols, 'fingerprint': self.fingerprint})


def train(documents: Iterable[str], size: int) -> list[str]:
    """`UNKNOWN` and the most frequent units of the texts, `size` at most; equally frequent ones by their name."""
    counts = collections.Counter(unit for text in documents for unit in text.split())
    counts.pop(UNKNOWN, None)
    return [UNKNOWN, *sorted(counts, key=lambda unit: (-counts[unit], unit))[: size - 1]]


def from_json(value: dict) -> SymbolTokenizer | None:
    """The tokenizer of what `save` wrote; None where it is not whole."""
    name, symbols, size = value['name'], value['symbols'], value['size']
    whole = name == f'symbols:{size}' and len(set(symbols)) == len(symbols) <= size and symbols[0] == UNKNOWN
    return SymbolTokenizer(name, symbols, size) if whole else None
