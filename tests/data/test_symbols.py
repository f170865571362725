"""symbols:N knows the units of the training split, and says what it does not know."""

import json

import numpy as np
import pytest

from gpt2jax.data import Tokenizer, make_tokenizer, vocabulary_of
from gpt2jax.data.symbols import UNKNOWN
from gpt2jax.errors import UserError

TEXTS = ['h e l l o', 'HH AH L OW', 'l o  w\tHH\n']


@pytest.fixture(name='tokenizer')
def make():
    return make_tokenizer('symbols:20', TEXTS)


def test_units_are_between_white_space_and_come_back_with_one_space(tokenizer):
    ids = tokenizer.encode(' h  e\tl\nl o ')
    assert (ids.dtype, len(ids)) == ('int32', 5)
    assert tokenizer.decode(ids) == 'h e l l o'
    assert tokenizer.encode('').tolist() == []
    assert tokenizer.decode([]) == ''


def test_units_that_training_has_not_seen_are_one_id(tokenizer):
    assert tokenizer.encode('h zz l QQ').tolist()[1::2] == [0, 0]
    assert tokenizer.decode(tokenizer.encode('h zz')) == f'h {UNKNOWN}'


def test_only_the_most_frequent_units_are_kept():
    small = make_tokenizer('symbols:3', ['b a a', 'a b c', UNKNOWN])
    assert small.symbols == [UNKNOWN, 'a', 'b']
    assert small.encode('a b c').tolist() == [1, 2, 0]


def test_the_vocabulary_is_known_from_the_name_alone(tokenizer):
    vocabulary = vocabulary_of('symbols:20')
    assert (vocabulary.size, vocabulary.ordinary) == (tokenizer.vocab_size, tokenizer.size) == (24, 20)
    for name in ('end_of_text', 'mask', 'pad', 'sep'):
        assert getattr(vocabulary, name) == getattr(tokenizer, name)


def test_names_of_special_tokens_in_a_text_are_units_like_any_other(tokenizer):
    assert tokenizer.encode('<|sep|> <|endoftext|>').tolist() == [0, 0]


def test_pieces_of_ids_can_be_joined_as_bytes(tokenizer):
    """So a text can be printed while it is written."""
    ids = tokenizer.encode('HH AH L OW')
    joined = tokenizer.decode_bytes(ids[:2]) + tokenizer.decode_bytes(ids[2:])
    assert joined.decode().strip() == tokenizer.decode(ids) == 'HH AH L OW'


def test_bytes_are_those_of_the_units_and_it_is_not_lossless(tokenizer):
    assert not tokenizer.lossless
    ids = tokenizer.encode('HH l')
    assert tokenizer.byte_lengths[ids].tolist() == [2, 1]
    assert tokenizer.byte_lengths[tokenizer.size :].tolist() == [0, 0, 0, 0]


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.name, loaded.fingerprint, loaded.symbols) == ('symbols:20', tokenizer.fingerprint, tokenizer.symbols)
    np.testing.assert_array_equal(loaded.encode('h e zz'), tokenizer.encode('h e zz'))
    assert vocabulary_of(f'file:{tmp_path}').sep == tokenizer.sep


@pytest.mark.parametrize(
    'change', [{'symbols': [UNKNOWN, 'x']}, {'size': 21}, {'symbols': [UNKNOWN, 'h', 'h']}, {'symbols': None}]
)
def test_a_damaged_file_is_refused(tokenizer, tmp_path, change):
    tokenizer.save(tmp_path)
    path = tmp_path / 'tokenizer.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match='damaged'):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize('name', ['symbols:1', 'symbols:', 'symbols:x', 'symbols:99999999'])
def test_an_impossible_size_is_refused(name):
    with pytest.raises(UserError, match=r'data\.tokenizer'):
        vocabulary_of(name)


def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    with pytest.raises(IndexError, match=r'0\.\.23'):
        tokenizer.decode([24])
