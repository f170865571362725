"""A corpus: documents by split, stored through TFDS as array_record, without TensorFlow.

A corpus of the project is a name, a fingerprint of its contents, and a function from a split to an iterator
of documents. One TFDS builder stores them all; the fingerprint is part of the builder's config, so changed
contents give another folder and nothing stale is ever read.
"""

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2jax.errors import UserError

SPLITS = ('train', 'validation', 'test')
TOGETHER = 1 << 20  # bytes of text fetched together
PERIOD = 20  # one part in twenty is for validation and one for test


class Pair(NamedTuple):
    """A document of two texts, of which the second answers the first: the stream holds source, <|sep|>, target."""

    source: str
    target: str


def texts_of(documents: Iterable[str | Pair]) -> Iterator[str]:
    """All texts of documents in order, a pair's source before its target."""
    for document in documents:
        yield from document if isinstance(document, Pair) else (document,)


def split_of(number: int) -> str:
    """The split of a block's running number, or of a document's hash: 18, 1 and 1 parts of twenty.

    The middle of a period is for validation and its end for test, so both lie between blocks of training
    text.
    """
    place = number % PERIOD
    return {PERIOD // 2: 'validation', PERIOD - 1: 'test'}.get(place, 'train')


def require_all(found: set[str], name: str, origin: str) -> None:
    """Refuses a corpus with an empty split.

    Raises:
      UserError: names the splits that are not in `found`.
    """
    missing = [split for split in SPLITS if split not in found]
    if missing:
        raise UserError(
            f'config.data.corpus: {name} ({origin}) has no document for {" and ".join(missing)}; it needs more text'
        )


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents by split.

    Attributes:
      name: names the corpus in folders: letters, digits and underscores.
      fingerprint: hexadecimal digest of the contents and of the code that cleans them.
      documents: a split's documents, streamed. Called once a split.
      origin: where the text comes from, for messages.
      pairs: whether the documents are pairs.
    """

    name: str
    fingerprint: str
    documents: Callable[[str], Iterator[str] | Iterator[Pair]]
    origin: str
    pairs: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The features that a document is stored in."""
        return Pair._fields if self.pairs else ('text',)

    def sources(self, directory: Path) -> dict[str, 'Documents']:
        """Builds the TFDS dataset under `directory`/corpora unless it is there, and opens its splits."""
        with quiet():
            builder = _builder(self, directory / 'corpora')
        home = Path(builder.data_dir)
        if not home.exists():
            found = {split for split in SPLITS if next(self.documents(split), None) is not None}
            require_all(found, self.name, self.origin)
            for leftover in home.parent.glob('*incomplete*'):  # of a build that was killed
                shutil.rmtree(leftover)
            with quiet():
                builder.download_and_prepare()
        return {split: Documents(builder.as_data_source(split), *self.keys) for split in SPLITS}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS from talking over our own progress: its prints, bars and warnings."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


class Documents(Sequence):
    """A random-access view of text features of a TFDS data source: item i is a str, or a Pair of two features.

    Args:
      source: a TFDS data source.
      keys: the name of the text feature, or of the two of a pair.
      indices: which of the source's records, all when None.
    """

    def __init__(self, source: Any, *keys: str, indices: np.ndarray | None = None):
        self.source, self.keys = source, keys
        self.indices = np.arange(len(source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> str | Pair:
        return self._document(self.source[int(self.indices[index])])

    def __iter__(self) -> Iterator[str | Pair]:
        start, count = 0, 1  # records are fetched together while they are small, one by one when large
        while start < len(self):
            records = self.source.__getitems__(self.indices[start : start + count].tolist())
            yield from map(self._document, records)
            start += count
            size = sum(len(record[key]) for record in records for key in self.keys)
            count = min(2 * count, 256) if size < TOGETHER else max(1, count // 2)

    def _document(self, record: dict) -> str | Pair:
        texts = [clean(record[key]) for key in self.keys]
        return texts[0] if len(texts) == 1 else Pair(*texts)


def clean(text: str | bytes) -> str:
    """Valid Unicode: what is not is replaced by U+FFFD. Everything else, NUL too, stays as it is."""
    if isinstance(text, bytes):
        return text.decode('utf-8', 'replace')
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def package_folder(distribution: str, folder: str, install: str) -> Path:
    """The folder of text that an installed package ships, found without importing the package.

    Raises:
      UserError: the package is not installed; names `install`, the command that installs it.
    """
    import importlib.metadata

    try:
        found = Path(str(importlib.metadata.distribution(distribution).locate_file(folder)))
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f'The text of this corpus comes with {distribution}, missing here: {install}') from error
    if not found.is_dir():
        raise UserError(f'{distribution} is installed without its text ({found}); install it again: {install}')
    return found


def _builder(corpus: Corpus, folder: Path) -> Any:
    """The TFDS builder of a corpus; TFDS takes a second to import, which a prepared run need not pay."""
    import tensorflow_datasets as tfds

    class Gpt2jax(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Stores documents in the order of a hash; TFDS spills to disk what is more than a gigabyte."""

        VERSION = tfds.core.Version('1.0.0')

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict({key: tfds.features.Text() for key in corpus.keys})
            return tfds.core.DatasetInfo(builder=self, description=corpus.origin, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in SPLITS}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
            for i, document in enumerate(corpus.documents(split)):
                texts = document if corpus.pairs else (document,)
                yield i, dict(zip(corpus.keys, texts, strict=True))

    config = tfds.core.BuilderConfig(name=f'{corpus.name}-{corpus.fingerprint[:16]}')
    return Gpt2jax(data_dir=folder, config=config, file_format='array_record')
