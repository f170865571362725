"""Questions from held-out documents: passages, and words of them that can be left out.

They depend on the text, the tokenizer and the length of a passage alone, so that models with the same tokenizer get
the same ones.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

PASSAGE = 96  # tokens at most
LEAST_WORDS = 12  # of a passage
SIDE = 4  # words that stand at least on each side of a gap
SAMPLE = 32 << 20  # characters of training text in which words are counted
SENTENCE_END = re.compile(r'(?<=[.!?])["\')\]]*\s+|\n\s*\n\s*')
WORD = re.compile(r'[^\W\d_]+')
PLAIN = re.compile(r"(?<=[^\s] )[^\W\d_]{2,}(?![\w'’-])")  # behind one space, and not part of something longer
LAST = re.compile(r'(?<=[^\s]) ([^\W\d_]{2,})[^\w\s]*\Z')


@dataclasses.dataclass(frozen=True)
class Gap:
    """A word left out of a passage, in ids of the text.

    Attributes:
      document: its number in the split.
      before, word, after: the passage as text; the space before the word is part of neither side.
      left, target, right: their ids; the space belongs to the target.
      seen: whether the word stands in `before` as well.
    """

    document: int
    before: str
    word: str
    after: str
    left: tuple[int, ...]
    target: tuple[int, ...]
    right: tuple[int, ...]
    seen: bool


def passages(documents: Sequence[str], tokenizer, longest: int) -> Iterator[tuple[int, str]]:
    """(number of the document, text): runs of whole sentences of at most `longest` tokens, one behind the other."""
    for number in range(len(documents)):
        text, start, end = documents[number], 0, 0
        for stop in [*(match.end() for match in SENTENCE_END.finditer(text)), len(text)]:
            if end > start and too_long(text[start:stop], tokenizer, longest):
                yield from worth_asking(number, text[start:end], tokenizer, longest)
                start = end
            end = stop
        yield from worth_asking(number, text[start:end], tokenizer, longest)


def too_long(text: str, tokenizer, longest: int) -> bool:
    """Whether a text has more tokens; one of very many characters is not tokenized to find out."""
    return len(text) > 64 * longest or len(tokenizer.encode(text.strip())) > longest


def worth_asking(number: int, text: str, tokenizer, longest: int) -> Iterator[tuple[int, str]]:
    """The passage, unless it has too few words or too many tokens."""
    text = text.strip()
    if not too_long(text, tokenizer, longest) and len(WORD.findall(text)) >= LEAST_WORDS:
        yield number, text


def gap_at(number: int, text: str, start: int, end: int, tokenizer) -> Gap | None:
    """The gap of a word at text[start:end] behind a space; None where its tokens are not its own."""
    before, word, after = text[: start - 1], text[start:end], text[end:]
    left, target, right = (tuple(tokenizer.encode(part).tolist()) for part in (before, f' {word}', after))
    if not target or tuple(tokenizer.encode(text).tolist()) != left + target + right:
        return None
    seen = word.lower() in (other.lower() for other in WORD.findall(before))
    return Gap(number, before, word, after, left, target, right, seen)


def gaps_inside(text: str) -> list[tuple[int, int]]:
    """Where the lower-case words of a passage are that have some words on both sides."""
    words = [match.start() for match in WORD.finditer(text)]
    if len(words) <= 2 * SIDE:
        return []
    inside = words[SIDE], words[-SIDE - 1]
    found = [match.span() for match in PLAIN.finditer(text) if inside[0] <= match.start() <= inside[1]]
    return [(start, end) for start, end in found if text[start:end].islower()]


def last_gap(number: int, text: str, tokenizer) -> Gap | None:
    """The gap of a passage's last word, with nothing behind it."""
    match = LAST.search(text)
    return gap_at(number, text[: match.end(1)], match.start(1), match.end(1), tokenizer) if match else None


def spread(found: list, count: int) -> list:
    """`count` of them, evenly spaced; 0: all."""
    take = min(count or len(found), len(found))
    return [found[i * len(found) // take] for i in range(take)]


class Words:
    """How often words stand in a text, and which ones are alike: as frequent, and of as many tokens.

    Args:
      documents: the training split; words are counted in its first `SAMPLE` characters.
    """

    def __init__(self, documents: Iterable[str], tokenizer, least: int = 5):
        self.counts = collections.Counter(
            itertools.chain.from_iterable(PLAIN.findall(text) for text in first_characters(documents, SAMPLE))
        )
        self.ids, alike = {}, {}
        for word in sorted(word for word, count in self.counts.items() if count >= least and word.islower()):
            self.ids[word] = tuple(tokenizer.encode(f' {word}').tolist())
            alike.setdefault(len(self.ids[word]), []).append(word)
        self._alike = {size: sorted(words, key=lambda w: (self.counts[w], w)) for size, words in alike.items()}
        self._counts = {size: [self.counts[w] for w in words] for size, words in self._alike.items()}

    def like(self, word: str) -> list[str]:
        """Other words of as many tokens that are between half and twice as frequent; [] for one that is rare."""
        if word not in self.ids:
            return []
        size, count = len(self.ids[word]), self.counts[word]
        low, high = np.searchsorted(self._counts[size], [count / 2, 2 * count + 1])
        return [other for other in self._alike[size][low:high] if other != word]


def first_characters(documents: Iterable[str], limit: int) -> Iterator[str]:
    """The texts up to a number of characters."""
    for text in documents:
        yield text[:limit]
        limit -= len(text)
        if limit <= 0:
            return
