"""Cutting long texts where a pre-token of GPT-2 ends, so that they can be encoded in pieces."""

import re
from collections.abc import Iterator

CHUNK = 1 << 20  # characters encoded at once; longer texts are cut where no token can span the cut
SPACE = '\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000'  # \s of the pre-tokenizer, not Python's
CUT = re.compile(f'(?<=[^{SPACE}])(?=[{SPACE}])')
# The pre-tokenizer backtracks over a run of white space that something follows, and its stack is finite.
LONG_SPACE = re.compile(f'[{SPACE}]{{1000,}}(?=[^{SPACE}])')
SURROGATES = re.compile('([\ud800-\udfff]+)')


def pieces(text: str) -> Iterator[str]:
    """Cuts a text where its tokens end in any case, so that the pieces' ids, joined, are the text's ids.

    Before white space that follows something else a new pre-token begins, whatever stands around it. A long
    run of white space is a pre-token of its own but for its last character, and is so too when it stands
    alone.
    """
    start = 0
    borders = [border for match in LONG_SPACE.finditer(text) for border in (match.start(), match.end() - 1)]
    for end in [*borders, len(text)]:
        while end - start > CHUNK:
            cut = CUT.search(text, start + CHUNK, end)
            if cut is None:
                break
            yield text[start : cut.start()]
            start = cut.start()
        if end > start:
            yield text[start:end]
            start = end


def cut_surrogates(text: str) -> list[str]:
    """The text in pieces, every second of which is a run of lone surrogates, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return SURROGATES.split(text)
    return [text]
