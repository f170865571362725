"""Texts with blanks: '<mask>' in what a person types -> ids with <|mask|>, and what may stand there.

A byte-level BPE keeps the space before a word in the word's own token. So a space before a blank belongs to the token
that fills it: 'to <mask>,' is read as 'to', <|mask|>, ',', and a token that begins with a space is asked for. A blank
right behind a letter goes on with its word: 'play<mask>' asks for a token without one. Where no token holds a space
and more ('bytes'), nothing is asked for.

Axes: V vocabulary.
"""

import dataclasses
import functools

import numpy as np

from gpt2jax.errors import UserError

BLANK = '<mask>'


@dataclasses.dataclass(frozen=True)
class Blanks:
    """A text with blanks.

    Attributes:
      tokens: ids as a model reads the text alone, <|mask|> in the blanks.
      places: index of each blank token.
      allowed: [V] bool for each place, what may stand there.
    """

    tokens: list[int]
    places: list[int]
    allowed: list[np.ndarray]


def read_blanks(text: str, tokenizer, tokens_per_mask: int, context: int) -> Blanks:
    """The blanks of a text.

    Args:
      tokens_per_mask: how many tokens each '<mask>' stands for.
      context: the most tokens a model may see.

    Raises:
      UserError: no '<mask>', or a text that is longer than the context.
    """
    pieces = text.split(BLANK)
    if len(pieces) < 2:
        raise UserError(f'--text={text!r}: there is no {BLANK} in it, which marks what is to be filled')
    may, begins_V = fillable(tokenizer), begins_with_space(tokenizer)
    keeps_spaces = begins_V[tokenizer.byte_lengths > 1].any()
    ids, allowed = [], []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        spaced = piece.endswith(' ')
        stripped = piece[:-1] if spaced and keeps_spaces and not last else piece
        ids += tokenizer.encode(stripped).tolist() if stripped else []
        if last:
            break
        ids += tokens_per_mask * [tokenizer.mask]
        first_V = may
        if keeps_spaces:
            # Where spaces are not kept, a word at the beginning or behind a sign is a word as behind a space.
            whole = spaced or (not tokenizer.lossless and not piece[-1:].isalnum())
            first_V = may & (begins_V == whole)
        allowed += [first_V] + (tokens_per_mask - 1) * [may]
    tokens = tokenizer.wrap(ids)
    if len(tokens) > context:
        raise UserError(f'--text: {len(tokens)} tokens with those that wrap it; the model sees at most {context}')
    return Blanks(tokens, [i for i, token in enumerate(tokens) if token == tokenizer.mask], allowed)


def fillable(tokenizer) -> np.ndarray:
    """[V] bool: tokens that stand for text."""
    return tokenizer.byte_lengths > 0


@functools.lru_cache(2)
def begins_with_space(tokenizer) -> np.ndarray:
    """[V] bool: tokens whose text begins with a space."""
    return np.array([tokenizer.decode_bytes([i])[:1] == b' ' for i in range(tokenizer.vocab_size)])


def text_of(tokenizer, tokens: list[int]) -> str:
    """The text of a filled one, without what wraps it."""
    wrapping = (tokenizer.end_of_text, tokenizer.sep, tokenizer.pad)
    return tokenizer.decode([token for token in tokens if token not in wrapping])
