"""tfds:NAME reads what TFDS prepared, and says what is missing."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import silent

from gpt2jax.data import prepare
from gpt2jax.errors import UserError


def build(folder, splits, file_format='array_record'):
    class TinyReviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = {'review': tfds.features.Text(), 'stars': tfds.features.Scalar(np.int32)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split, count) for split, count in splits.items()}

        def _generate_examples(self, split, count):
            for i in range(count):
                yield i, {'review': f'{split} number {i} \x00', 'stars': i}

    builder = TinyReviews(data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    return builder


def texts(prepared):
    return {
        split: [prepared.tokenizer.decode(tokens.document(i)) for i in range(tokens.num_documents)]
        for split, tokens in prepared.splits.items()
    }


def read(path, directory, text_key='review', name='tiny_reviews'):
    return prepare(f'tfds:{name}', str(path), text_key, 'bytes', directory, announce=silent)


def test_all_three_splits_are_read(tmp_path):
    build(tmp_path / 'tfds', {'train': 5, 'validation': 3, 'test': 2})
    found = texts(read(tmp_path / 'tfds', tmp_path / 'data'))
    assert {split: len(documents) for split, documents in found.items()} == {'train': 5, 'validation': 3, 'test': 2}
    assert sorted(found['train']) == [f'train number {i} \x00' for i in range(5)]


def test_missing_splits_are_carved_from_train_without_overlap(tmp_path):
    build(tmp_path / 'tfds', {'train': 300, 'test': 4})
    found = texts(read(tmp_path / 'tfds', tmp_path / 'data'))
    assert len(found['test']) == 4
    assert sorted(found['train'] + found['validation']) == sorted(f'train number {i} \x00' for i in range(300))
    assert 5 < len(found['validation']) < 30


def test_a_dataset_in_the_data_directory_needs_no_path(tmp_path):
    build(tmp_path / 'data' / 'corpora', {'train': 5, 'validation': 3, 'test': 2})
    assert len(texts(read('', tmp_path / 'data'))['train']) == 5


def test_user_errors(tmp_path):
    build(tmp_path / 'tfds', {'train': 5})
    with pytest.raises(UserError, match=r"data\.text_key = 'text'.*text features: review; all features: review, stars"):
        read(tmp_path / 'tfds', tmp_path / 'data', text_key='text')
    with pytest.raises(UserError, match='stars'):
        read(tmp_path / 'tfds', tmp_path / 'data', text_key='stars')
    with pytest.raises(UserError, match='knows no such dataset'):
        read(tmp_path / 'tfds', tmp_path / 'data', name='no_such_reviews')
    with pytest.raises(UserError, match='no document for'):
        read(tmp_path / 'tfds', tmp_path / 'data')
    build(tmp_path / 'other', {'test': 5})
    with pytest.raises(UserError, match=r'no split named train \(its splits: test\)'):
        read(tmp_path / 'other', tmp_path / 'data')


def test_a_dataset_that_cannot_be_downloaded_says_so(tmp_path, monkeypatch):
    def offline(self, **arguments):
        raise ConnectionError('no network')

    builder = build(tmp_path / 'tfds', {'train': 5})
    monkeypatch.setattr(type(builder), 'download_and_prepare', offline)
    monkeypatch.setattr(tfds, 'builder', lambda name, **arguments: type(builder)(data_dir=tmp_path / 'empty'))
    with pytest.raises(UserError, match=r'ConnectionError: no network.*tfds build --file_format=array_record'):
        read(tmp_path / 'empty', tmp_path / 'data')
