"""Training a byte-level BPE on a corpus (Sennrich et al. 2016; Radford et al. 2019, section 2.2)."""

import functools
import itertools
import string
from collections.abc import Iterable, Iterator

LARGEST_SAMPLE = 512 << 20  # characters learnt from; more would change few merges and takes minutes
LETTERS = frozenset(string.ascii_letters.encode() + string.digits.encode() + bytes(range(0x80, 0x100)))
LONGEST_WORD = 1 << 16  # a run without any border learns nothing and costs its length in memory


def train(documents: Iterable[str], size: int) -> list[bytes]:
    """The tokens: the 256 bytes by value, then what training found, in order, `size` at most.

    Deterministic: the same documents give the same tokens.

    Args:
      documents: the training split, streamed.
      size: how many tokens to end with, 256 or more.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=[], show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(_sample(documents), trainer)
    to_byte = byte_of_character()
    ids = tokenizer.get_vocab()
    learnt = [bytes(to_byte[c] for c in token) for token in sorted(ids, key=ids.__getitem__)]
    return [bytes([byte]) for byte in range(256)] + [token for token in learnt if len(token) > 1]


def _sample(documents: Iterable[str]) -> Iterator[str]:
    seen = 0
    for text in documents:
        for start in range(0, len(text), LONGEST_WORD):
            yield text[start : start + LONGEST_WORD]
        seen += len(text)
        if seen >= LARGEST_SAMPLE:
            return


@functools.cache
def byte_of_character() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes as: themselves where printable, else from 256 on."""
    plain = [b for b in range(256) if chr(b).isprintable() and chr(b) != ' ']
    hidden = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(c): b for c, b in zip(itertools.count(256), hidden, strict=False)}
