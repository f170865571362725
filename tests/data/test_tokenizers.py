"""Tokenizers: exact both ways, for any string."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import tiktoken

from gpt2jax.data import Tokenizer, cutting, make_tokenizer, tokenizers, vocab_size_of
from gpt2jax.errors import UserError

NASTY = [
    '',
    ' ',
    '\x00',
    'a\x00\x00',
    '\n\n\n  \t x',
    'ROMEO:\nBut, soft! what light',
    '<|endoftext|> and <|mask|><|pad|><|sep|>',
    'naïve café \u0301\u200b\ufeff',
    '👩‍👩‍👧‍👦🏳️‍🌈',
    '日本語テキスト ไทย العربية',
    "it's we'll I'D 'Re",
    '\r\n\x0b\x0c\x1c\x85\u2028\u3000',
    '\ud800',
    'lone \udfff and pair \ud83d\ude00!',
    '\ufffd\U0010ffff',
]
TEXT = ['To be, or not to be, that is the question: the question is to be.', 'Ay, there is the rub; the rub.'] * 9


@pytest.fixture(scope='module', params=['gpt2', 'bytes', 'bpe:300'])
def tokenizer(request):
    return make_tokenizer(request.param, TEXT)


def random_text(generator, size):
    ranges = [(0, 127), (0, 127), (0, 0x2FF), (0x2000, 0x206F), (0, 0x10FFFF)]
    return ''.join(chr(generator.randint(*generator.choice(ranges))) for _ in range(size))


@pytest.mark.parametrize('text', NASTY, ids=range(len(NASTY)))
def test_decode_inverts_encode(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.byte_lengths[ids].sum()) == len(text.encode('utf-8', 'surrogatepass'))


def test_decode_inverts_encode_on_random_text(tokenizer):
    generator = random.Random(0)
    texts = [random_text(generator, generator.randint(0, 60)) for _ in range(300)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts, threads=2), strict=True):
        assert tokenizer.decode(ids) == text
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_special_tokens_lie_above_ordinary_ids_and_no_text_reaches_them(tokenizer):
    special = [tokenizer.end_of_text, tokenizer.mask, tokenizer.pad, tokenizer.sep]
    assert special == list(range(tokenizer.vocab_size - 4, tokenizer.vocab_size))
    assert tokenizer.encode('<|endoftext|><|mask|><|pad|><|sep|>').max() < special[0]
    assert tokenizer.decode(special) == '<|endoftext|><|mask|><|pad|><|sep|>'
    assert (tokenizer.byte_lengths[special] == 0).all()
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.vocab_size == vocab_size_of(tokenizer.name)


def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(IndexError):
            tokenizer.decode([bad])


def test_bytes_that_are_no_text_decode_to_replacement_characters(tokenizer):
    ids = tokenizer.encode('é')
    half = ids[:1] if len(ids) > 1 else np.array([tokenizer.tokens.index(b'\xc3')])
    assert tokenizer.decode(half) == '\ufffd'
    assert tokenizer.decode_bytes(half) == b'\xc3'


def test_gpt2_gives_the_published_ids(gpt2):
    assert gpt2.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert (gpt2.end_of_text, gpt2.mask, gpt2.pad, gpt2.sep) == (50256, 50257, 50258, 50259)
    assert gpt2.vocab_size == 50260


def test_gpt2_files_that_were_altered_are_refused(monkeypatch, tmp_path):
    for name in ('vocab.bpe', 'encoder.json'):
        (tmp_path / name).write_text('{}')
    monkeypatch.setattr('gpt2jax.data.gpt2_merges.package_folder', lambda *arguments: tmp_path)
    with pytest.raises(UserError, match="not GPT-2's"):
        make_tokenizer('gpt2')


def test_reading_gpt2_leaves_the_environment_alone(monkeypatch):
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', 'mine')
    make_tokenizer('gpt2')
    assert os.environ['TIKTOKEN_CACHE_DIR'] == 'mine'


@pytest.mark.parametrize('chunk', [1, 7, 64])
def test_a_text_longer_than_a_chunk_is_encoded_as_if_whole(gpt2, monkeypatch, chunk):
    ranks = {token: i for i, token in enumerate(gpt2.tokens)}
    whole = tiktoken.Encoding('whole', pat_str=tokenizers.r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    generator = random.Random(chunk)
    words = ['a', 'the', "it's", '  ', ' ', '\n', '\n\n \n', '12345', '!?', '\u3000', '\x85', '\x1c', 'é日', ' ' * 1500]
    texts = [''.join(generator.choices(words, k=generator.randint(1, 80))) for _ in range(40)]
    monkeypatch.setattr(cutting, 'CHUNK', chunk)
    for text, ids in zip(texts, gpt2.encode_batch(texts, threads=2), strict=True):
        assert ids.tolist() == whole.encode_ordinary(text)
        assert gpt2.encode(text).tolist() == whole.encode_ordinary(text)


def test_a_huge_run_of_white_space_does_not_overflow_the_pretokenizer(gpt2):
    text = 'a' + '\n' * 1_100_000 + 'b'
    assert gpt2.decode(gpt2.encode(text)) == text


def test_a_huge_word_without_borders_is_encoded(gpt2):
    text = 'ab' * 300_000
    assert gpt2.decode(gpt2.encode_batch([text], threads=2)[0]) == text


def test_training_finds_frequent_strings_and_fills_at_most_n():
    tokenizer = make_tokenizer('bpe:300', TEXT)
    assert tokenizer.tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert b' question' in tokenizer.tokens
    assert len(tokenizer.tokens) <= 300
    assert len(tokenizer.encode(TEXT[0])) < len(TEXT[0]) / 2
    poor = make_tokenizer('bpe:5000', ['ab ab'])
    assert len(poor.tokens) < 300
    assert poor.vocab_size == 5004
    assert poor.decode([4000]) == ''


def test_training_is_deterministic_across_processes(tmp_path):
    code = (
        'import json, sys; from gpt2jax.data import make_tokenizer; '
        "make_tokenizer('bpe:300', json.loads(sys.argv[2])).save(sys.argv[1])"
    )
    folders = [tmp_path / name for name in 'ab']
    for folder, seed in zip(folders, '12', strict=True):
        folder.mkdir()
        environment = os.environ | {'PYTHONHASHSEED': seed}
        subprocess.run([sys.executable, '-c', code, folder, json.dumps(TEXT)], check=True, env=environment)
    first, second = [(folder / tokenizers.FILE).read_bytes() for folder in folders]
    assert first == second


def test_a_loaded_tokenizer_is_the_saved_one(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.fingerprint, loaded.name, loaded.vocab_size) == (
        tokenizer.fingerprint,
        tokenizer.name,
        tokenizer.vocab_size,
    )
    assert loaded.encode(NASTY[5]).tolist() == tokenizer.encode(NASTY[5]).tolist()


def test_damaged_tokenizers_are_refused(tmp_path):
    tokenizer = make_tokenizer('bytes')
    tokenizer.save(tmp_path)
    path = tmp_path / tokenizers.FILE
    good = path.read_text()
    value = json.loads(good)
    damaged = [
        good[: len(good) // 2],
        '[]',
        '{}',
        'null',
        json.dumps(value | {'tokens': ['ab', *value['tokens'][1:]]}),
        json.dumps(value | {'tokens': value['tokens'][::-1]}),
        json.dumps(value | {'tokens': ['日', *value['tokens'][1:]]}),
        json.dumps(value | {'size': 1 << 60}),
        json.dumps(value | {'size': '256'}),
        json.dumps(value | {'name': 7}),
        '[' * 100_000,
    ]
    for text in damaged:
        path.write_text(text)
        with pytest.raises(UserError, match=tokenizers.FILE):
            Tokenizer.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=tokenizers.FILE):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_file_of_impossible_size_is_not_read(tmp_path, monkeypatch):
    make_tokenizer('bytes').save(tmp_path)
    monkeypatch.setattr(tokenizers, 'LARGEST_FILE', 100)
    with pytest.raises(UserError, match='larger than any'):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize('name', ['', 'gpt3', 'bpe', 'bpe:', 'bpe:x', 'bpe:-5', 'bpe:255', 'bpe:99999999', 'bpe:300\n'])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=r'data\.tokenizer'):
        vocab_size_of(name)
    with pytest.raises(UserError, match=r'data\.tokenizer'):
        make_tokenizer(name)


def test_vocabulary_sizes_are_known_without_data():
    assert [vocab_size_of(name) for name in ('gpt2', 'bytes', 'bpe:4096')] == [50260, 260, 4100]
