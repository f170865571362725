"""Pairs: from a dictionary, the user's files or a TFDS translation set to one document each, source and target."""

import gzip
import json

import pytest
import tensorflow_datasets as tfds
from helpers import silent

from gpt2jax.data import cmudict, prepare
from gpt2jax.data.builder import Pair, texts_of
from gpt2jax.data.corpora import make_corpus
from gpt2jax.errors import UserError

PAIRS = [(f'Satz {i}', f'sentence {i}') for i in range(300)]


def decoded(prepared):
    """Split -> its pairs, read back from the ids."""
    tokenizer, found = prepared.tokenizer, {}
    for split, tokens in prepared.splits.items():
        documents = [tokens.document(i).tolist() for i in range(tokens.num_documents)]
        halves = [(ids[: ids.index(tokenizer.sep)], ids[ids.index(tokenizer.sep) + 1 :]) for ids in documents]
        found[split] = [tuple(map(tokenizer.decode, pair)) for pair in halves]
    return found


def read(path, folder, text_key='text', tokenizer='bytes', corpus='pairs'):
    return prepare(corpus, str(path), text_key, tokenizer, folder, announce=silent)


def write_tsv(path, pairs=PAIRS):
    path.write_text(''.join(f'{source}\t{target}\n' for source, target in pairs))
    return path


def write_jsonl(path, keys=('de', 'en'), pairs=PAIRS):
    path.write_text(''.join(json.dumps(dict(zip(keys, pair, strict=True)) | {'id': 1}) + '\n' for pair in pairs))
    return path


def all_of(found):
    return sorted(pair for pairs in found.values() for pair in pairs)


def test_every_pair_of_a_tsv_is_one_document_of_one_split(tmp_path):
    found = decoded(read(write_tsv(tmp_path / 'a.tsv'), tmp_path / 'data'))
    assert all_of(found) == sorted(PAIRS)
    assert len(found['train']) > 200
    assert found['validation']
    assert found['test']


def test_jsonl_names_its_keys_and_so_the_direction(tmp_path):
    path = write_jsonl(tmp_path / 'a.jsonl')
    there, back = (decoded(read(path, tmp_path / 'data', text_key)) for text_key in ('de,en', 'en,de'))
    assert all_of(there) == sorted(PAIRS)
    assert all_of(back) == sorted((target, source) for source, target in PAIRS)


def test_a_folder_and_gzip_are_read_alike(tmp_path):
    folder = tmp_path / 'corpus'
    (folder / 'more').mkdir(parents=True)
    write_tsv(folder / 'a.tsv', PAIRS[:150])
    with gzip.open(folder / 'more' / 'b.jsonl.gz', 'wt') as file:
        file.writelines(json.dumps({'s': source, 't': target}) + '\n' for source, target in PAIRS[150:])
    assert all_of(decoded(read(folder, tmp_path / 'data', 's,t'))) == sorted(PAIRS)


def test_equal_sources_are_in_one_split(tmp_path):
    pairs = [(f'word {i % 100}', f'said {i}') for i in range(400)]
    found = decoded(read(write_tsv(tmp_path / 'a.tsv', pairs), tmp_path / 'data'))
    sources = [{source for source, _ in pairs} for pairs in found.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 100


def test_changed_pairs_and_another_direction_are_prepared_anew(tmp_path):
    path = write_jsonl(tmp_path / 'a.jsonl')
    keys = {make_corpus('pairs', str(path), text_key, tmp_path).fingerprint for text_key in ('de,en', 'en,de')}
    write_jsonl(path, pairs=PAIRS[:-1])
    keys.add(make_corpus('pairs', str(path), 'de,en', tmp_path).fingerprint)
    assert len(keys) == 3


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('no tab\n', r'line 3: 1 fields, expected 2'),
        ('a\tb\tc\n', r'line 3: 3 fields'),
        ('a\t \n', r'line 3: the target is empty'),
        ('\tb\n', r'line 3: the source is empty'),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_place(tmp_path, line, words):
    path = tmp_path / 'a.tsv'
    path.write_text('a\tb\n\n' + line)
    with pytest.raises(UserError, match=rf'a\.tsv, {words}'):
        read(path, tmp_path / 'data')


@pytest.mark.parametrize(
    ('line', 'words'), [('{"de": "x"}', "no key 'en'"), ('{"de": "x", "en": 3}', 'not a string'), ('x', 'not JSON')]
)
def test_a_line_of_jsonl_that_is_no_pair_is_refused_with_its_place(tmp_path, line, words):
    path = tmp_path / 'a.jsonl'
    path.write_text(f'{{"de": "x", "en": "y"}}\n{line}\n')
    with pytest.raises(UserError, match=rf'a\.jsonl, line 2: .*{words}'):
        read(path, tmp_path / 'data', 'de,en')


def test_jsonl_without_two_keys_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"data\.text_key = 'text'.*'source,target'"):
        make_corpus('pairs', str(write_jsonl(tmp_path / 'a.jsonl')), 'text', tmp_path)


def test_a_missing_path_is_refused(tmp_path):
    for path in ('', tmp_path / 'nothing', tmp_path):
        with pytest.raises(UserError, match=r'data\.path'):
            make_corpus('pairs', str(path), 'text', tmp_path)


def test_a_tokenizer_learns_from_both_sides(tmp_path):
    prepared = read(write_tsv(tmp_path / 'a.tsv'), tmp_path / 'data', tokenizer='symbols:400')
    assert {'Satz', 'sentence'} <= set(prepared.tokenizer.symbols)
    again = read(tmp_path / 'a.tsv', tmp_path / 'data', tokenizer='symbols:400')
    assert (again.folder, again.tokenizer.fingerprint) == (prepared.folder, prepared.tokenizer.fingerprint)


def build_translations(folder, count=300):
    """As TFDS's own translation sets are made, wmt16_translate among them."""

    class TinyTranslate(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = tfds.features.Translation(languages=('de', 'en'))
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=('de', 'en'))

        def _split_generators(self, dl_manager):
            return {'train': self._generate_examples(0, count), 'test': self._generate_examples(count, count + 5)}

        def _generate_examples(self, start, end):
            for i in range(start, end):
                yield i, {'de': f'Satz {i}', 'en': f'sentence {i}'}

    TinyTranslate(data_dir=folder, file_format='array_record').download_and_prepare()


def test_a_tfds_translation_set_is_pairs_in_the_direction_of_text_key(tmp_path):
    build_translations(tmp_path / 'tfds')
    there, back = (
        decoded(read(tmp_path / 'tfds', tmp_path / 'data', text_key, corpus='tfds:tiny_translate'))
        for text_key in ('de,en', 'en,de')
    )
    assert all_of(there) == sorted((f'Satz {i}', f'sentence {i}') for i in range(305))
    assert len(there['test']) == 5
    assert all_of(back) == sorted((target, source) for source, target in all_of(there))


@pytest.mark.parametrize('text_key', ['text', 'de,fr', 'de,en,de'])
def test_a_tfds_set_without_these_features_says_which_it_has(tmp_path, text_key):
    build_translations(tmp_path / 'tfds', 30)
    with pytest.raises(UserError, match=rf"text_key = '{text_key}'.*text features: de, en.*'de,en'"):
        make_corpus('tfds:tiny_translate', str(tmp_path / 'tfds'), text_key, tmp_path)


def test_pairs_and_texts_are_both_sequences_of_texts():
    assert list(texts_of(['a', Pair('b', 'c'), 'd'])) == ['a', 'b', 'c', 'd']


def test_a_dictionary_keeps_each_pronunciation_once_without_stress(tmp_path):
    file = tmp_path / 'cmudict.dict'
    file.write_text("read R EH1 D\nread(2) R IY1 D\nread(3) R IY0 D # a comment\n'bout B AW1 T\n")
    assert cmudict.read(file) == {'read': ['R EH D', 'R IY D'], "'bout": ['B AW T']}


def test_words_are_dealt_by_shares_and_each_to_one_split():
    words = [f'word{i}' for i in range(1000)]
    dealt = {split: cmudict.words_of(split, words) for split in ('train', 'validation', 'test')}
    assert {split: len(found) for split, found in dealt.items()} == {'train': 900, 'validation': 50, 'test': 50}
    assert sorted(word for found in dealt.values() for word in found) == sorted(words)
    assert dealt['test'] == cmudict.words_of('test', words[::-1])


def test_the_real_dictionary_is_pairs_of_letters_and_39_phonemes_and_says_how_it_is_split(tmp_path):
    corpus = make_corpus('cmudict', '', 'text', tmp_path)
    assert (corpus.pairs, corpus.origin) == (True, 'without stress, words split 90/5/5 by seed 2017')
    pairs = {split: list(corpus.documents(split)) for split in ('train', 'validation', 'test')}
    words = {split: {pair.source for pair in found} for split, found in pairs.items()}
    assert sum(map(len, words.values())) == len(set.union(*words.values())) == 126_052
    assert len({phoneme for found in pairs.values() for pair in found for phoneme in pair.target.split()}) == 39
    assert all(len(letter) == 1 for pair in pairs['test'] for letter in pair.source.split())
    everywhere = [pair for found in pairs.values() for pair in found if pair.source == 'r e a d']
    assert sorted(pair.target for pair in everywhere) == ['R EH D', 'R IY D']
