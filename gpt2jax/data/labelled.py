"""Labelled texts: sentences with a class, or words with a tag each, from a user's .tsv or .jsonl files.

A text is a tuple of parts with a label each: the one part of a text to classify, or the words of a sentence to tag.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gpt2jax.data.builder import SPLITS
from gpt2jax.errors import UserError

TASKS = ('classify', 'tag')
SUFFIXES = ('.tsv', '.jsonl')
KEYS = {'classify': ('text', 'label'), 'tag': ('tokens', 'tags')}
SHARES = {'train': 0.8, 'validation': 0.1, 'test': 0.1}
SPLIT_SEED = 0  # the same for every model: all are measured on the same texts
LARGEST_FILE = 1 << 28  # bytes
MOST_LABELS = 1000
LONGEST_LABEL = 200  # characters
FEWEST = 10  # different texts that a split can be made of


@dataclasses.dataclass(frozen=True)
class Text:
    """One text with its labels.

    Attributes:
      name: where it comes from, as 'file.tsv:12'.
      parts: the whole text, or its words.
      labels: one a part.
    """

    name: str
    parts: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same for texts that differ in white space and capitals alone."""
        return ' '.join(' '.join(self.parts).split()).casefold()


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A set of labelled texts.

    Attributes:
      name: names the set in figures: letters, digits and underscores.
      task: 'classify' or 'tag'.
      labels: all of them, sorted.
      splits: 'train', 'validation' and 'test', none of them empty.
      notes: what there is to say of the set.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    splits: dict[str, list[Text]]
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def most_frequent(self) -> str:
        """The label that most parts of the training texts have; of several the first."""
        counts = collections.Counter(label for text in self.splits['train'] for label in text.labels)
        return max(sorted(counts), key=counts.__getitem__)


def read_labelled(path: Path, task: str | None) -> Labelled:
    """The labelled texts of a file, dealt to three splits, or of a folder that holds train, validation and test.

    A line of a .tsv file is a text, a tab and a label; to be tagged, a word, a tab and a tag, with an empty line after
    each sentence. A line of a .jsonl file is {"text": ..., "label": ...} or {"tokens": [...], "tags": [...]}.

    Args:
      task: 'classify' or 'tag'; None: what the keys of a .jsonl file say, and 'classify' for a .tsv file.

    Raises:
      UserError: no such file, a line that is something else, a file beyond the limits, too little to deal.
    """
    if task not in (None, *TASKS):
        raise UserError(f'--task={task}: unknown; one of: {", ".join(TASKS)}')
    name = ''.join(c if c.isascii() and c.isalnum() else '_' for c in path.stem) or 'data'
    if path.is_dir():
        files = {split: _file_of(path, split) for split in SPLITS}
        task = task or _task_of(files['train'])
        splits = {split: list(_read(file, task)) for split, file in files.items()}
        return make_labelled(name, task, splits, str(path))
    if path.suffix not in SUFFIXES:
        raise UserError(f'{path}: labelled texts are a file that ends in {" or ".join(SUFFIXES)}, or a folder of three')
    task = task or _task_of(path)
    return make_labelled(name, task, deal(list(_read(path, task)), str(path)), str(path))


def make_labelled(name: str, task: str, splits: dict[str, list[Text]], origin: str) -> Labelled:
    """Checks what was read. Raises UserError for an empty split, one label alone, or too many."""
    empty = [split for split, texts in splits.items() if not texts]
    if empty:
        raise UserError(f'{origin}: no text for {" and ".join(empty)}')
    labels = sorted({label for texts in splits.values() for text in texts for label in text.labels})
    if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(f'{origin}: 2 to {MOST_LABELS} different labels are needed, found {len(labels)}')
    seen = {text.key for text in splits['train']}
    both = sum(text.key in seen for split in ('validation', 'test') for text in splits[split])
    notes = (f'{both} texts of validation and test also stand in train',) if both else ()
    return Labelled(name, task, tuple(labels), splits, notes)


def deal(texts: list[Text], origin: str) -> dict[str, list[Text]]:
    """Deals texts at random, the same way each time, with all that are equal (`Text.key`) in one split.

    Raises:
      UserError: fewer than `FEWEST` different texts.
    """
    groups = collections.defaultdict(list)
    for text in texts:
        groups[text.key].append(text)
    if len(groups) < FEWEST:
        raise UserError(f'{origin}: at least {FEWEST} different texts are needed, found {len(groups)}')
    keys = sorted(groups)
    np.random.default_rng(SPLIT_SEED).shuffle(keys)
    ends = np.rint(np.cumsum(list(SHARES.values())) * len(keys)).astype(int)
    starts = [0, *ends[:-1]]
    return {
        split: [text for key in keys[start:end] for text in groups[key]]
        for split, start, end in zip(SPLITS, starts, ends, strict=True)
    }


def _file_of(folder: Path, split: str) -> Path:
    found = [folder / f'{split}{suffix}' for suffix in SUFFIXES if (folder / f'{split}{suffix}').is_file()]
    if len(found) != 1:
        names = ' or '.join(f'{split}{suffix}' for suffix in SUFFIXES)
        raise UserError(f'{folder}: one file {names} is needed, found {len(found)}; a folder holds {", ".join(SPLITS)}')
    return found[0]


def _task_of(path: Path) -> str:
    """By the keys of the first line of a .jsonl file."""
    if path.suffix == '.tsv':
        return 'classify'
    for number, line in _lines(path):
        if line.strip():
            return 'tag' if 'tokens' in _object(f'{path}, line {number}', line) else 'classify'
    return 'classify'


def _read(path: Path, task: str) -> Iterator[Text]:
    if path.suffix == '.jsonl':
        return _read_jsonl(path, task)
    return {'classify': _read_tsv, 'tag': _read_columns}[task](path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a file in UTF-8, with or without a byte-order mark."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f'{path}: larger than {LARGEST_FILE >> 20} MiB; cut it down')
        text = path.read_text('utf-8-sig')
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read as UTF-8 text ({error})') from error
    return enumerate(text.split('\n'), 1)


def _two_columns(path: Path, number: int, line: str, what: str) -> tuple[str, str]:
    columns = line.split('\t')
    if len(columns) != 2 or not columns[0].strip() or not columns[1].strip():
        raise UserError(f'{path}, line {number}: {what} is needed, found {line[:80]!r}')
    return columns[0], columns[1].strip()


def _read_tsv(path: Path) -> Iterator[Text]:
    for number, line in _lines(path):
        if line.strip():
            text, label = _two_columns(path, number, line, 'a text, one tab and a label')
            yield _text(path, number, [text], [label])


def _read_columns(path: Path) -> Iterator[Text]:
    begins, words, tags = 1, [], []
    for number, line in _lines(path):
        if not line.strip():
            if words:
                yield _text(path, begins, words, tags)
            begins, words, tags = number + 1, [], []
            continue
        word, tag = _two_columns(path, number, line, 'a word, one tab and a tag (an empty line ends a sentence)')
        words.append(word)
        tags.append(tag)
    if words:
        yield _text(path, begins, words, tags)


def _read_jsonl(path: Path, task: str) -> Iterator[Text]:
    parts_key, labels_key = KEYS[task]
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f'{path}, line {number}'
        record = _object(where, line)
        if parts_key not in record or labels_key not in record:
            keys = ', '.join(sorted(record)[:20]) or 'none'
            raise UserError(f'{where}: the keys {parts_key!r} and {labels_key!r} are needed to {task} (found: {keys})')
        parts, labels = record[parts_key], record[labels_key]
        if task == 'classify':
            parts, labels = [parts], [labels]
        if not _strings(parts, str) or not _strings(labels, (str, int)) or len(parts) != len(labels):
            kind = 'a string and a label' if task == 'classify' else 'lists of one length, not empty, of strings'
            raise UserError(f'{where}: {parts_key!r} and {labels_key!r} must be {kind}, none of them blank')
        yield _text(path, number, parts, [str(label) for label in labels])


def _object(where: str, line: str) -> dict:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: not JSON ({error}); a .jsonl file has one JSON object a line') from error
    if not isinstance(record, dict):
        raise UserError(f'{where}: a JSON object is needed, this is {type(record).__name__}')
    return record


def _strings(values, kinds) -> bool:
    filled = isinstance(values, list) and bool(values)
    return filled and all(isinstance(v, kinds) and str(v).strip() for v in values)


def _text(path: Path, number: int, parts: Iterable[str], labels: list[str]) -> Text:
    long = [label for label in labels if len(label) > LONGEST_LABEL]
    if long:
        raise UserError(f'{path}, line {number}: a label of {len(long[0])} characters: {long[0][:40]!r}...')
    return Text(f'{path.name}:{number}', tuple(parts), tuple(labels))
