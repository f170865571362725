"""`tfds:NAME`: text of any TFDS dataset, prepared or downloadable, without TensorFlow.

Documents are those of one feature, data.text_key = 'text', or pairs of two, as the two languages of a translation set:
data.text_key = 'de,en' is German to English.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from gpt2jax.data.builder import SPLITS, Documents, require_all, split_of
from gpt2jax.data.files import digest_bytes, digest_sampled, locked, make_folder
from gpt2jax.errors import UserError

VERSION = '1'  # of the rules below: raise it when the documents change


@dataclasses.dataclass(frozen=True)
class TfdsCorpus:
    """The text of one TFDS dataset; the same four things as `builder.Corpus`, already stored by TFDS."""

    name: str
    fingerprint: str
    origin: str
    builder: Any
    keys: tuple[str, ...]

    @property
    def pairs(self) -> bool:
        """Whether the documents are pairs."""
        return len(self.keys) == 2

    def sources(self, directory: Path) -> dict[str, Documents]:
        """Opens the splits; those missing are carved from train, by a hash of the record's number."""
        present = [split for split in SPLITS if split in self.builder.info.splits]
        opened = {split: _data_source(self.builder, split) for split in present}
        numbers = np.arange(len(opened['train']))
        missing = [split for split in SPLITS if split not in opened]
        dealt = np.array([_deal(i) if missing else 'train' for i in numbers], dtype='U10')
        kept = ~np.isin(dealt, missing)
        documents = {'train': Documents(opened['train'], *self.keys, indices=numbers[kept])}
        for split in SPLITS[1:]:
            if split in opened:
                documents[split] = Documents(opened[split], *self.keys)
            else:
                documents[split] = Documents(opened['train'], *self.keys, indices=numbers[dealt == split])
        require_all({split for split, source in documents.items() if len(source)}, self.name, self.origin)
        return documents


def corpus(name: str, path: str, text_key: str, directory: Path) -> TfdsCorpus:
    """Finds the dataset prepared, or prepares it.

    Args:
      name: what TFDS calls it: `name`, `name/config` or `name/config:version`.
      path: the TFDS data folder that holds it; '' looks in `directory`/corpora and TFDS's own folder.
      text_key: the feature that holds the text, or the two of a pair with a comma between, the source first.
      directory: the data directory, where a dataset that is nowhere is prepared.

    Raises:
      UserError: unknown dataset, not prepared and not downloadable, stored in a format without random access,
        no train split, or no such text features.
    """
    import tensorflow_datasets as tfds

    folders = [Path(path).expanduser()] if path else [directory / 'corpora', Path(tfds.core.constants.DATA_DIR)]
    builder = _find(name, folders)
    if 'train' not in builder.info.splits:
        found = ', '.join(builder.info.splits) or 'none'
        raise UserError(f'config.data.corpus = tfds:{name}: no split named train (its splits: {found})')
    features = builder.info.features
    texts = sorted(key for key, feature in features.items() if isinstance(feature, tfds.features.Text))
    keys = tuple(text_key.split(','))
    if len(keys) > 2 or set(keys) - set(texts):
        pair = f"; two of them are a pair: '{texts[0]},{texts[1]}'" if len(texts) > 1 else ''
        raise UserError(
            f'config.data.text_key = {text_key!r}: tfds:{name} has no such text feature; '
            f'text features: {", ".join(texts) or "none"}; all features: {", ".join(sorted(features))}{pair}'
        )
    home = Path(builder.data_dir)
    files = [file for file in sorted(home.iterdir()) if file.is_file()]
    contents = [part for file in files for part in (file.name, digest_sampled(file))]
    slug = 'tfds_' + ''.join(c if c.isalnum() else '_' for c in name)
    fingerprint = digest_bytes(VERSION, name, text_key, *contents)
    return TfdsCorpus(slug, fingerprint, str(home), builder, keys)


def _find(name: str, folders: list[Path]) -> Any:
    import tensorflow_datasets as tfds

    unprepared = None
    for folder in folders:
        try:
            builder = tfds.builder(name, data_dir=os.fspath(folder), try_gcs=False)
        except tfds.core.DatasetNotFoundError:
            continue
        except (ValueError, AssertionError, ImportError, OSError) as error:
            raise UserError(f'config.data.corpus = tfds:{name}: TFDS cannot open it: {_line(error)}') from error
        if Path(builder.data_dir).exists():
            return builder
        unprepared = unprepared or builder
    where = ' or '.join(str(folder) for folder in folders)
    if unprepared is None:
        raise UserError(
            f'config.data.corpus = tfds:{name}: TFDS knows no such dataset, and none is prepared in {where}; '
            'check the name, or set data.path to the TFDS folder that holds it'
        )
    return _download(name, folders[0])


def _download(name: str, folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=os.fspath(folder), try_gcs=False, file_format='array_record')
        with locked(make_folder(folder), announce=print):
            builder.download_and_prepare()
    except Exception as error:
        # Whatever a dataset's own code raises: no network, a missing package, a step by hand.
        raise UserError(
            f'config.data.corpus = tfds:{name}: not prepared, and preparing it here failed: {_line(error)}; '
            'prepare it where it can be downloaded (tfds build --file_format=array_record), '
            'and set data.path to a copy of that TFDS folder'
        ) from error
    return builder


def _data_source(builder: Any, split: str) -> Any:
    try:
        return builder.as_data_source(split)
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f'{builder.data_dir} is not stored for random access; convert it: '
            f'tfds convert_format --dataset_dir={builder.data_dir} --out_file_format=array_record'
        ) from error


def _deal(number: int) -> str:
    return split_of(int(hashlib.sha256(str(number).encode()).hexdigest()[:15], 16))


def _line(error: BaseException) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
