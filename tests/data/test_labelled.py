"""Labelled texts are read as they are written, dealt so that no text stands on two sides, and else refused."""

import json

import numpy as np
import pytest

from gpt2jax.data import labelled
from gpt2jax.data.builder import SPLITS
from gpt2jax.data.labelled import Text, deal, read_labelled
from gpt2jax.errors import UserError

SENTENCES = [(f'Film number {n} "is" it', 'good' if n % 3 else 'bad') for n in range(40)]
TAGGED = [(('Time', 'flies', str(n)), ('NN', 'VBZ', 'CD')) for n in range(40)]


def write_tsv(path):
    path.write_text(''.join(f'{text}\t{label}\r\n\n' for text, label in SENTENCES), newline='')


def write_columns(path):
    sentences = [''.join(f'{w}\t{t}\n' for w, t in zip(*pair, strict=True)) for pair in TAGGED]
    path.write_text('\n\n'.join(sentences), 'utf-8-sig')


def write_jsonl(path, task='classify'):
    pairs, keys = {'classify': (SENTENCES, ('text', 'label')), 'tag': (TAGGED, ('tokens', 'tags'))}[task]
    path.write_text(''.join(json.dumps(dict(zip(keys, pair, strict=True))) + '\n' for pair in pairs))


def everything(data):
    return sorted((text.parts, text.labels) for texts in data.splits.values() for text in texts)


@pytest.mark.parametrize('task', ['classify', 'tag'])
def test_every_format_says_the_same(tmp_path, task):
    {'classify': write_tsv, 'tag': write_columns}[task](tmp_path / 'a.tsv')
    write_jsonl(tmp_path / 'a.jsonl', task)
    table, objects = read_labelled(tmp_path / 'a.tsv', task), read_labelled(tmp_path / 'a.jsonl', None)
    expected = {'classify': [((text,), (label,)) for text, label in SENTENCES], 'tag': TAGGED}[task]
    assert everything(table) == everything(objects) == sorted(expected)
    assert (table.task, objects.task) == (task, task)
    assert table.labels == {'classify': ('bad', 'good'), 'tag': ('CD', 'NN', 'VBZ')}[task]
    assert (table.name, table.notes) == ('a', ())
    assert [len(table.splits[split]) for split in SPLITS] == [32, 4, 4]
    assert table.splits == read_labelled(tmp_path / 'a.tsv', task).splits


def test_a_text_is_named_after_its_line(tmp_path):
    write_columns(tmp_path / 'a.tsv')
    names = {
        text.parts[2]: text.name for texts in read_labelled(tmp_path / 'a.tsv', 'tag').splits.values() for text in texts
    }
    lines = (tmp_path / 'a.tsv').read_text('utf-8-sig').split('\n')
    for number, name in names.items():
        file, line = name.split(':')
        assert (file, lines[int(line) + 1]) == ('a.tsv', f'{number}\tCD')


def test_equal_texts_are_dealt_to_one_split():
    random = np.random.default_rng(0)
    spelling = (str.upper, str.lower, lambda text: f'  {text} ', lambda text: text.replace(' ', '\n'))
    texts = [
        Text(f'{n}', (spelling[random.integers(4)](f'text {n % 150}'),), (str(random.integers(2)),)) for n in range(600)
    ]
    splits = deal(texts, 'here')
    assert sorted(text.name for group in splits.values() for text in group) == sorted(text.name for text in texts)
    keys = [{text.key for text in splits[split]} for split in SPLITS]
    assert [len(group) for group in keys] == [120, 15, 15]
    assert len(set.union(*keys)) == 150


def test_a_folder_brings_its_own_splits_and_says_what_they_share(tmp_path):
    for split, (start, end) in {'train': (0, 20), 'validation': (20, 30), 'test': (18, 40)}.items():
        (tmp_path / f'{split}.tsv').write_text(''.join(f'{t}\t{label}\n' for t, label in SENTENCES[start:end]))
    data = read_labelled(tmp_path, None)
    assert [len(data.splits[split]) for split in SPLITS] == [20, 10, 22]
    assert data.notes == ('2 texts of validation and test also stand in train',)
    assert data.most_frequent == 'good'
    (tmp_path / 'test.jsonl').write_text('')
    with pytest.raises(UserError, match=r'one file test\.tsv or test\.jsonl is needed, found 2'):
        read_labelled(tmp_path, None)


@pytest.mark.parametrize(
    ('name', 'task', 'content', 'says'),
    [
        ('a.tsv', None, 'fine\tx\nno tab here\n', r'a\.tsv, line 2: a text, one tab and a label'),
        ('a.tsv', None, 'fine\tx\na\tb\tc\n', 'line 2: a text, one tab'),
        ('a.tsv', None, '\tx\n', 'line 1: a text'),
        ('a.tsv', 'tag', 'a\tx\n\nb \n', 'line 3: a word, one tab and a tag'),
        (
            'a.jsonl',
            None,
            '{"text": "a", "label": "b"}\n[1]\n',
            r'a\.jsonl, line 2: a JSON object is needed, this is list',
        ),
        ('a.jsonl', None, '{"text": "a"\n', 'line 1: not JSON'),
        ('a.jsonl', None, '[' * 100_000, 'line 1: not JSON'),
        (
            'a.jsonl',
            None,
            '{"words": 1}\n',
            r"line 1: the keys 'text' and 'label' are needed to classify \(found: words\)",
        ),
        ('a.jsonl', None, '{"text": 3, "label": "b"}\n', "line 1: 'text' and 'label' must be a string and a label"),
        ('a.jsonl', None, '{"text": "a", "label": 0.5}\n', 'line 1'),
        ('a.jsonl', None, '{"tokens": ["a", "b"], "tags": ["x"]}\n', 'lists of one length'),
        ('a.jsonl', None, '{"tokens": [], "tags": []}\n', 'lists of one length'),
        ('a.jsonl', 'tag', '{"text": "a", "label": "b"}\n', "'tokens' and 'tags' are needed to tag"),
        ('a.tsv', None, 'a\tx\nb\ty\n', 'at least 10 different texts are needed, found 2'),
        ('a.tsv', None, ''.join(f'{n}\tx\n' for n in range(20)), '2 to 1000 different labels are needed, found 1'),
        ('a.tsv', None, f'a\t{"x" * 300}\n', 'line 1: a label of 300 characters'),
        ('a.tsv', None, b'\xff\xfe\n', r'a\.tsv: cannot be read as UTF-8'),
        ('a.csv', None, 'a,b\n', r'ends in \.tsv or \.jsonl'),
        ('a.tsv', 'sort', 'a\tb\n', '--task=sort: unknown; one of: classify, tag'),
    ],
)
def test_what_is_something_else_is_refused_with_its_line(tmp_path, name, task, content, says):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says):
        read_labelled(tmp_path / name, task)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    write_tsv(tmp_path / 'a.tsv')
    monkeypatch.setattr(labelled, 'LARGEST_FILE', 100)
    with pytest.raises(UserError, match=r'a\.tsv: larger than'):
        read_labelled(tmp_path / 'a.tsv', None)
