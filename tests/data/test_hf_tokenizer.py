"""Tokenizers of Hugging Face folders: the same interface, and ours where they do the same."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gpt2jax.data import Tokenizer, make_tokenizer, vocabulary_of
from gpt2jax.data.hf_tokenizer import HuggingFaceTokenizer
from gpt2jax.errors import UserError
from gpt2jax.interop.hf_tokenizers import write_tokenizer

WORDS = ['[PAD]', '[unused0]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'king', '##s', 'queen', '##dom', ',', 'a']


@pytest.fixture(name='bert')
def write_vocab(tmp_path):
    """A folder with BERT's vocab.txt."""
    (tmp_path / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
    return tmp_path


def test_wordpiece_has_the_interface_of_ours(bert, tmp_path):
    tokenizer = make_tokenizer(f'file:{bert}')
    assert tokenizer.vocab_size == tokenizer.size == len(WORDS)
    special = tokenizer.end_of_text, tokenizer.mask, tokenizer.pad, tokenizer.sep
    assert [WORDS[i] for i in special] == ['[CLS]', '[MASK]', '[PAD]', '[SEP]']
    ids = tokenizer.encode('The Kings,  a KINGDOM')
    assert [WORDS[i] for i in ids] == ['the', 'king', '##s', ',', 'a', 'king', '##dom']
    assert ids.dtype == np.int32
    assert tokenizer.wrap(ids) == [tokenizer.end_of_text, *ids, tokenizer.sep]
    assert tokenizer.decode(ids) == 'the kings, a kingdom'
    assert tokenizer.decode([tokenizer.mask, *ids[:2]]) == '[MASK]the king'
    assert tokenizer.decode_bytes(ids) == b' the kings , a kingdom'
    assert [len(x) for x in tokenizer.encode_batch(['the king', '', 'zebra'], 2)] == [2, 0, 1]
    assert not tokenizer.lossless
    assert Tokenizer.lossless
    begins = tokenizer.begins_word[ids]
    assert begins.tolist() == [True, True, False, True, True, True, False]
    with pytest.raises(IndexError):
        tokenizer.decode([len(WORDS)])
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert isinstance(again, HuggingFaceTokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    vocabulary = vocabulary_of(f'file:{bert}')
    assert (vocabulary.size, vocabulary.ordinary, vocabulary.mask) == (len(WORDS), len(WORDS), tokenizer.mask)


def test_a_cased_vocabulary_stays_cased(bert):
    (bert / 'tokenizer_config.json').write_text('{"do_lower_case": false}')
    tokenizer = make_tokenizer(f'file:{bert}')
    assert [WORDS[i] for i in tokenizer.encode('The king')] == ['[UNK]', 'king']


def test_names_of_special_tokens_in_a_text_are_text(bert):
    tokenizer = make_tokenizer(f'file:{bert}')
    assert not {tokenizer.mask, tokenizer.end_of_text} & set(tokenizer.encode('the [MASK] [CLS] king').tolist())


def test_truncation_and_padding_of_a_file_are_left_out(bert):
    spec = make_tokenizer(f'file:{bert}').spec
    padding = {'strategy': {'Fixed': 9}, 'direction': 'Right', 'pad_to_multiple_of': None, 'pad_id': 0}
    spec |= {'padding': padding | {'pad_type_id': 0, 'pad_token': '[PAD]'}}
    spec |= {'truncation': {'max_length': 2, 'strategy': 'LongestFirst', 'stride': 0, 'direction': 'Right'}}
    (bert / 'tokenizer.json').write_text(json.dumps(spec))
    assert len(make_tokenizer(f'file:{bert}').encode('the king the king the king')) == 6


def byte_level(folder, vocab, merges, special=(), **model):
    library = Library(models.BPE(vocab, merges, **model))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(list(special))
    library.save(str(folder / 'tokenizer.json'))


def test_gpt2s_own_files_give_our_exact_tokenizer(tmp_path):
    ours = make_tokenizer('gpt2')
    model = type('Model', (), {'vocab_size': 50257, 'position': type('P', (), {'max_length': 1024})})
    write_tokenizer(tmp_path, ours, model, 'gpt2')
    spec = json.loads((tmp_path / 'tokenizer.json').read_text())
    assert [token['content'] for token in spec['added_tokens']] == ['<|endoftext|>']
    again = make_tokenizer(f'file:{tmp_path}')
    assert isinstance(again, Tokenizer)
    assert (again.name, again.fingerprint) == ('gpt2', ours.fingerprint)
    (tmp_path / 'vocab.json').write_text(json.dumps(spec['model']['vocab']))
    merges = [' '.join(merge) for merge in spec['model']['merges']]
    (tmp_path / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]))
    (tmp_path / 'tokenizer.json').unlink()
    assert make_tokenizer(f'file:{tmp_path}').fingerprint == ours.fingerprint


def test_a_byte_level_bpe_in_another_order_keeps_its_ids_and_loses_nothing(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ['<s>', '<pad>', '</s>', '<unk>', *alphabet[::-1], 'th', 'the', '<mask>']
    byte_level(tmp_path, {n: i for i, n in enumerate(names)}, [('t', 'h'), ('th', 'e')], names[:4] + names[-1:])
    tokenizer = make_tokenizer(f'file:{tmp_path}')
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    text = 'the Höhe,\n  <mask> 東京'
    ids = tokenizer.encode(text)
    assert tokenizer.lossless
    assert tokenizer.decode_bytes(ids).decode() == tokenizer.decode(ids) == text
    assert int(tokenizer.byte_lengths[ids].sum()) == len(text.encode())
    assert tokenizer.wrap(ids) == [0, *ids, 2]
    assert (tokenizer.pad, tokenizer.mask) == (1, len(names) - 1)


def test_special_tokens_that_a_file_lacks_come_behind_its_own(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ['<|endoftext|>', *alphabet]
    byte_level(tmp_path, {n: i for i, n in enumerate(names)}, [], names[:1])
    tokenizer = make_tokenizer(f'file:{tmp_path}')
    assert (tokenizer.end_of_text, tokenizer.size, tokenizer.vocab_size) == (0, 257, 260)
    assert sorted([tokenizer.mask, tokenizer.pad, tokenizer.sep]) == [257, 258, 259]
    assert tokenizer.decode([tokenizer.mask]) == '<|mask|>'
    assert tokenizer.wrap([5]) == [0, 5]


def test_our_own_file_in_a_folder_is_read_as_it_is(tmp_path):
    make_tokenizer('bytes').save(tmp_path)
    assert make_tokenizer(f'file:{tmp_path}').name == 'bytes'
    assert vocabulary_of(f'file:{tmp_path}').size == 260


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        ('{"model": {"type": "WordLevel", "vocab": {}}}', "model.type = 'WordLevel'"),
        ('{"model": {"type": "BPE"}}', 'not a tokenizer that can be read'),
        ('{"model": 3}', 'not a tokenizer that can be read'),
        ('[]', 'damaged'),
        ('{', 'not valid JSON'),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, content, part):
    (tmp_path / 'tokenizer.json').write_text(content)
    with pytest.raises(UserError, match=part):
        make_tokenizer(f'file:{tmp_path}')


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match='has no tokenizer'):
        make_tokenizer(f'file:{tmp_path}')
    with pytest.raises(UserError, match='there is no such folder'):
        vocabulary_of(f'file:{tmp_path / "nowhere"}')


def test_an_id_beyond_all_bounds_is_refused(bert):
    spec = make_tokenizer(f'file:{bert}').spec
    spec['added_tokens'][0]['id'] = 1 << 40
    (bert / 'tokenizer.json').write_text(json.dumps(spec))
    with pytest.raises(UserError, match='has an id beyond'):
        make_tokenizer(f'file:{bert}')


def test_a_normalizer_makes_a_tokenizer_lossy(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE({n: i for i, n in enumerate(alphabet)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.normalizer = normalizers.Lowercase()
    library.save(str(tmp_path / 'tokenizer.json'))
    assert not make_tokenizer(f'file:{tmp_path}').lossless
