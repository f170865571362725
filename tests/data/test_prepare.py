"""prepare: once, whole, and never stale."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import silent

from gpt2jax.data import Tokenizer, cutting, prepare, tokenizers, tokens
from gpt2jax.data.files import digest_sampled
from gpt2jax.errors import UserError


def write_text(folder, count=300, word='document'):
    lines = [json.dumps({'text': f'{word} {i} has a few words.' + ' more' * (i % 7)}) for i in range(count)]
    (folder / 'corpus.jsonl').write_text('\n'.join(lines))
    return str(folder / 'corpus.jsonl')


def contents(prepared):
    return {split: found.tokens.tolist() for split, found in prepared.splits.items()}


def prepare_there(path, directory):
    prepare('text', path, 'text', 'bpe:300', directory, announce=silent)


@pytest.fixture
def source(tmp_path):
    return write_text(tmp_path)


def test_the_plays_are_one_stream_with_every_byte_counted(plays):
    prepared, directory = plays
    for split in prepared.splits.values():
        stream = np.asarray(split.tokens)
        starts = np.flatnonzero(stream == prepared.tokenizer.end_of_text)
        np.testing.assert_array_equal(starts, split.offsets)
        assert starts[-1] == split.num_tokens - 1
        assert split.num_documents == len(starts) - 1
        assert prepared.tokenizer.byte_lengths[stream].sum() == split.num_bytes
    scene = prepared.tokenizer.decode(prepared.splits['validation'].document(0))
    assert scene.split('\n')[0] in ('Macbeth', 'Twelfth Night')
    assert prepared.folder.is_relative_to(directory)
    assert isinstance(prepared.splits['train'].tokens, np.memmap)
    assert prepared.splits['train'].tokens.dtype == np.uint16


def test_preparing_never_imports_tensorflow(tmp_path, source):
    code = (
        'import sys; from gpt2jax.data import prepare; '
        "prepare('text', sys.argv[1], 'text', 'bytes', sys.argv[2]); "
        "assert 'tensorflow_datasets' in sys.modules; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code, source, tmp_path / 'data'], check=True)


@pytest.mark.parametrize('name', ['gpt2', 'bytes', 'bpe:300'])
def test_a_second_run_finds_everything_done(tmp_path, source, name, monkeypatch):
    messages = []
    first = prepare('text', source, 'text', name, tmp_path / 'data', announce=messages.append)
    assert len(messages) == 2
    assert str(first.folder) in messages[1]
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    monkeypatch.setattr('gpt2jax.data.builder.Corpus.sources', None)  # calling it would fail
    second = prepare('text', source, 'text', name, tmp_path / 'data', announce=messages.append)
    assert len(messages) == 3
    assert contents(second) == contents(first)
    assert {file: file.stat().st_mtime_ns for file in second.folder.iterdir()} == before


def test_documents_come_back_as_they_were(tmp_path, source):
    prepared = prepare('text', source, 'text', 'bpe:300', tmp_path / 'data', announce=silent)
    found = [
        prepared.tokenizer.decode(split.document(i))
        for split in prepared.splits.values()
        for i in range(split.num_documents)
    ]
    with open(source) as file:
        assert sorted(found) == sorted(json.loads(line)['text'] for line in file)
    with pytest.raises(IndexError):
        prepared.splits['test'].document(prepared.splits['test'].num_documents)


def test_changed_text_is_prepared_anew(tmp_path, source):
    first = prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    write_text(tmp_path, word='DOCUMENT')
    second = prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    assert second.folder != first.folder
    assert 'DOCUMENT' in second.tokenizer.decode(second.splits['train'].document(0))


def test_bpe_is_trained_on_the_training_split_alone(tmp_path):
    lines = [json.dumps({'text': f'plain words {i}'}) for i in range(400)]
    (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
    prepared = prepare('text', str(tmp_path), 'text', 'bpe:400', tmp_path / 'data', announce=silent)
    train = prepared.splits['train']
    texts = [prepared.tokenizer.decode(train.document(i)) for i in range(train.num_documents)]
    assert tokenizers.make_tokenizer('bpe:400', texts).fingerprint == prepared.tokenizer.fingerprint
    whole = [json.loads(line)['text'] for line in lines]
    assert tokenizers.make_tokenizer('bpe:400', whole).fingerprint != prepared.tokenizer.fingerprint


def truncate(path):
    os.truncate(path, path.stat().st_size - 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize('damage', [truncate, flip, os.unlink])
@pytest.mark.parametrize('file', ['train.tokens', 'test.offsets', 'meta.json'])
def test_a_damaged_cache_is_announced_and_rebuilt(tmp_path, source, damage, file):
    first = prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    expected = contents(first)
    damage(first.folder / file)
    messages = []
    again = prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=messages.append)
    assert contents(again) == expected
    assert 'damaged' in messages[0]
    assert str(first.folder) in messages[0]
    messages.clear()
    prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=messages.append)
    assert len(messages) == 1


def test_a_damaged_tokenizer_is_announced_and_trained_again(tmp_path, source):
    first = prepare('text', source, 'text', 'bpe:300', tmp_path / 'data', announce=silent)
    (path,) = (tmp_path / 'data' / 'tokenizers').glob(f'*/{tokenizers.FILE}')
    path.write_text(path.read_text()[:1000])
    messages = []
    again = prepare('text', source, 'text', 'bpe:300', tmp_path / 'data', announce=messages.append)
    assert 'damaged' in messages[0]
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert Tokenizer.load(path.parent).fingerprint == first.tokenizer.fingerprint


@pytest.mark.parametrize('moment', ['write_split', 'write_meta'])
def test_an_interrupted_prepare_is_not_mistaken_for_a_finished_one(tmp_path, source, monkeypatch, moment):
    with monkeypatch.context() as patch:
        real, calls = getattr(tokens, moment), []

        def interrupted(*arguments):
            calls.append(arguments)
            if len(calls) == 2 or moment == 'write_meta':
                raise KeyboardInterrupt
            return real(*arguments)

        patch.setattr(tokens, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    assert list((tmp_path / 'data' / 'tokens').iterdir()) == []
    prepared = prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    assert set(prepared.splits) == {'train', 'validation', 'test'}


def test_a_killed_prepare_leaves_nothing_that_counts(tmp_path, source):
    code = (
        'import os, signal, sys; from gpt2jax.data import prepare, tokens\n'
        'tokens.write_meta = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)\n'
        "prepare('text', sys.argv[1], 'text', 'bytes', sys.argv[2])"
    )
    killed = subprocess.run([sys.executable, '-c', code, source, tmp_path / 'data'], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / 'data' / 'tokens').iterdir())) == 1
    prepared = prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    assert list((tmp_path / 'data' / 'tokens').iterdir()) == [prepared.folder]


def test_what_a_killed_build_of_the_corpus_left_is_cleared_away(tmp_path, source):
    prepare('text', source, 'text', 'bytes', tmp_path / 'first', announce=silent)
    (built,) = (tmp_path / 'first' / 'corpora' / 'gpt2jax').iterdir()
    leftover = tmp_path / 'data' / 'corpora' / 'gpt2jax' / built.name / 'incomplete.ABC_1.0.0'
    leftover.mkdir(parents=True)
    prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    assert [folder.name for folder in leftover.parent.iterdir()] == ['1.0.0']


def test_processes_that_prepare_at_once_do_not_hurt_each_other(tmp_path, source):
    context = multiprocessing.get_context('spawn')
    workers = [context.Process(target=prepare_there, args=(source, tmp_path / 'data')) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    messages = []
    prepare('text', source, 'text', 'bpe:300', tmp_path / 'data', announce=messages.append)
    assert len(messages) == 1


def test_waiting_for_another_process_is_announced(tmp_path, source):
    code = (
        'import fcntl, sys, time; file = open(sys.argv[1], "a"); fcntl.flock(file, fcntl.LOCK_EX); '
        'print("held", flush=True); time.sleep(0.5)'
    )
    (tmp_path / 'data').mkdir()
    with subprocess.Popen([sys.executable, '-c', code, tmp_path / 'data' / '.lock'], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        messages, started = [], time.monotonic()
        prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=messages.append)
    assert 'Another process' in messages[0]
    assert time.monotonic() - started > 0.3


def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path, source, monkeypatch):
    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(tokens, 'write_split', full)
    with pytest.raises(UserError, match='No space left'):
        prepare('text', source, 'text', 'bytes', tmp_path / 'data', announce=silent)
    assert list((tmp_path / 'data' / 'tokens').iterdir()) == []


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(UserError, match='no document for validation and test'):
        prepare('text', str(tmp_path / 'a.txt'), 'text', 'bytes', tmp_path / 'data', announce=silent)


def test_what_cannot_work_is_refused_before_any_work(tmp_path, source):
    with pytest.raises(UserError, match=r'data\.tokenizer'):
        prepare('text', source, 'text', 'gpt5', tmp_path / 'data', announce=silent)
    with pytest.raises(
        UserError, match=r"data\.corpus = 'shakespear'.*cmudict, gutenberg, pairs, shakespeare, text, tfds:NAME"
    ):
        prepare('shakespear', '', 'text', 'bytes', tmp_path / 'data', announce=silent)
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'data\.directory'):
        prepare('text', source, 'text', 'bytes', tmp_path / 'file' / 'below', announce=silent)


def test_a_document_longer_than_a_batch_is_tokenized_as_if_whole(tmp_path, monkeypatch, gpt2):
    long = ' '.join(f'word{i}' for i in range(3000))
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': f'{long} {i}'}) for i in range(200)))
    monkeypatch.setattr(tokens, 'BATCH', 1000)
    monkeypatch.setattr(cutting, 'CHUNK', 1000)
    prepared = prepare('text', str(tmp_path), 'text', 'gpt2', tmp_path / 'data', announce=silent)
    monkeypatch.undo()
    document = prepared.splits['test'].document(0)
    np.testing.assert_array_equal(document, gpt2.encode(gpt2.decode(document)))


def test_large_vocabularies_use_wider_tokens(tmp_path):
    wide = tokenizers.Tokenizer('bpe:65535', [bytes([byte]) for byte in range(256)], 65535)
    entry = tokens.write_split(tmp_path, 'train', ['ab'], wide, silent)
    tokens.write_meta(tmp_path, {'train': entry}, 'key', {})
    found = tokens.open_tokens(tmp_path, 'key')['train']
    assert found.tokens.tolist() == [65535, 97, 98, 65535]
    with pytest.raises(tokens.Damaged):
        tokens.open_tokens(tmp_path, 'another key')


def test_sampled_digests_see_size_and_samples(tmp_path):
    path = tmp_path / 'large'
    path.write_bytes(bytes(9 << 20))
    first = digest_sampled(path, whole=4 << 20)
    assert digest_sampled(path, whole=4 << 20) == first
    path.write_bytes(bytes((9 << 20) - 1) + b'\x01')
    assert digest_sampled(path, whole=4 << 20) != first
    path.write_bytes(bytes((9 << 20) + 1))
    assert digest_sampled(path, whole=4 << 20) != first
