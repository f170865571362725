"""Suites from the command line: what is written, what is refused; and those of held-out rows."""

import json
import math

import numpy as np
import pytest
from helpers import one_device_setup, silent, tiny_config
from measuring import TOKENIZER, make_subject, no_bar

from gpt2jax import commands
from gpt2jax.commands import evaluating, runs
from gpt2jax.config import to_dict
from gpt2jax.errors import UserError
from gpt2jax.evaluation.heldout import length, pseudo
from gpt2jax.evaluation.subject import SuiteResult, split_argument
from gpt2jax.evaluation.suites import SUITES, check_suite, run_suite, slug_of, write_result
from gpt2jax.losses import token_nats
from gpt2jax.objectives.texts import text_example
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.state import rest_of
from gpt2jax.training.workdir import Workdir

SENTENCE = "The king's rose and the road saw a {} by the lake, and it was {} again.\n\n"
WORDS = ['gold', 'fire', 'wind', 'door', 'hand', 'ship', 'bird', 'tree', 'moon', 'snow', 'rain', 'iron']


@pytest.fixture(name='config', scope='module')
def make_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('corpus')
    lines = [SENTENCE.format(WORDS[i % 12], WORDS[(i // 12 + i) % 12]) for i in range(400)]
    (folder / 'text.txt').write_text(''.join(lines))
    return tiny_config(
        data__corpus='text',
        data__path=str(folder / 'text.txt'),
        data__directory=str(folder / 'cache'),
        data__length=32,
        model__num_layers=1,
        model__width=16,
        evaluation__batch_size=8,
        evaluation__pseudo_rows=1,
        runtime__compilation_cache='',
    )


@pytest.fixture(name='path', scope='module')
def make_run(config, tmp_path_factory):
    """The folder of a run at its initial parameters."""
    path = tmp_path_factory.mktemp('run')
    setup, workdir, prepared = one_device_setup(config), Workdir(path), runs.prepare_data(config)
    prepared.tokenizer.save(path)
    workdir.lock()
    workdir.save_config(to_dict(config))
    workdir.unlock()
    checkpoints, state = Checkpoints(path / 'checkpoints', 2, announce=silent), setup.initial_state()
    metadata = {'config': to_dict(config), 'data': prepared.folder.name}
    checkpoints.save(3, state.params, rest_of(state), metadata, 1.0)
    checkpoints.close()
    return path


@pytest.fixture(name='subject_of', scope='module')
def make_subject_of(config):
    data = {f'data__{name}': config.data[name] for name in ('corpus', 'path', 'directory', 'length')}
    return lambda kind, **changes: make_subject(
        kind, lambda: runs.prepare_data(config), **data, evaluation__pseudo_rows=1, **changes
    )


def test_suites_write_their_figures_and_items_into_the_run(path, tmp_path, capsys):
    (tmp_path / 'pairs.jsonl').write_text('{"sentence_good": "a b", "sentence_bad": "a bc"}\n')
    texts = [f'blimp:{tmp_path}', 'length:16']
    figures = commands.evaluate(str(path), 'validation', 'best', texts)
    assert figures.keys() >= {'blimp_accuracy', 'blimp_ties', 'bits_per_byte_at_16'}
    out = ' '.join(capsys.readouterr().out.split())
    for text in texts:
        written = json.loads((path / 'suites' / f'{slug_of(text)}.json').read_text())
        items = (path / 'suites' / f'{slug_of(text)}.items.jsonl').read_text().splitlines()
        assert (written['suite'], written['step']) == (text, 3)
        assert written['figures'].items() <= figures.items()
        assert written['about']['items'] == len(items) == 1
        assert written['about']['versions'].keys() == {'jax', 'flax', 'numpy'}
        assert all(line in out for line in written['about']['lines'])
        assert f'{slug_of(text)}.json' in out
        assert f'{slug_of(text)}.items.jsonl' in out
    assert json.loads(items[0])['bits_per_byte'] == figures['bits_per_byte_at_16']


def test_wrong_suites_are_refused_before_anything_is_opened(monkeypatch):
    monkeypatch.setattr(evaluating, 'open_run', None)
    with pytest.raises(UserError, match=r'no such suite; one of: .*blimp.*cloze'):
        commands.evaluate('nowhere', 'validation', 'best', ['length:16', 'blmp:x'])
    with pytest.raises(UserError, match='--suite=cloze:test'):
        commands.evaluate('nowhere', 'test', 'best', ['cloze'])


def test_names_of_files_are_safe_and_differ():
    texts = ['cloze', 'cloze:test', 'cloze-test', 'blimp:/a/b', 'blimp:/a-b', 'blimp:../../x', 'é' * 300, 'CON:']
    slugs = [slug_of(text) for text in texts]
    assert slugs[0] == 'cloze'
    assert len(set(slugs)) == len(texts)
    assert all(slug.replace('-', '').replace('_', '').isalnum() and slug.isascii() for slug in slugs)
    assert max(map(len, slugs)) < 80


def test_the_items_are_there_when_the_figures_are(tmp_path, monkeypatch):
    result = SuiteResult({'a': 1.0}, [{'x': 'ä\n'}, {'x': 2}], ['line'], {'more': 1})
    written = []
    monkeypatch.setattr('gpt2jax.evaluation.suites.replace_file', lambda path, data: written.append(path.name))
    monkeypatch.setattr('gpt2jax.evaluation.suites.write_json', lambda path, value: written.append(value))
    write_result(tmp_path / 'suites', 'cloze', make_subject(), result)
    assert written[0] == 'cloze.items.jsonl'
    assert written[1]['figures'] == {'a': 1.0}
    assert written[1]['about']['more'] == 1


def test_arguments_are_taken_apart():
    assert split_argument('blimp', 'a,b/c,limit=5', {'limit': 0}) == ('a,b/c', {'limit': 5})
    assert split_argument('blimp', 'a', {'limit': 7}) == ('a', {'limit': 7})
    with pytest.raises(UserError, match="no option 'max'"):
        split_argument('blimp', 'a,max=3', {'limit': 0})
    with pytest.raises(UserError, match='expected a number'):
        split_argument('blimp', 'a,limit=-1', {'limit': 0})
    assert check_suite('blimp:a:b') == ('blimp', 'a:b')
    assert set(SUITES) >= {'blimp', 'cloze', 'last_word', 'pseudo', 'length'}


def test_rows_of_another_length_are_exact_where_positions_allow_it(subject_of):
    rotary = subject_of('causal', model__position__kind='rotary')
    uniform = subject_of('causal', model__position__kind='rotary', scale=0.0)
    bits = math.log2(TOKENIZER.vocab_size)
    for subject, N in ((rotary, 64), (uniform, 20)):
        found = run_suite(subject, f'length:{N}', no_bar)
        [item] = found.items
        tokens = subject.rows('validation').tokens.num_tokens
        assert item['predicted'] == tokens - 1
        assert item['rows'] == -(-(tokens - 1) // N)
        if subject is uniform:
            assert found.figures['bits_per_byte_at_20'] == pytest.approx(bits * (tokens - 1) / item['bytes'])
    assert run_suite(rotary, 'length:32', no_bar).items != run_suite(rotary, 'length:64', no_bar).items
    table = run_suite(subject_of('causal'), 'length:33', no_bar)
    assert table.figures == {}
    assert 'ends at 32' in table.lines[0]
    none = run_suite(subject_of('masked'), 'length:16', no_bar)
    assert (none.figures, none.lines) == ({}, ['no figure: such a model gives a text no likelihood'])
    for argument in ('', 'x', '0', '99999999', '16:tset'):
        with pytest.raises(UserError, match='--suite'):
            length(rotary, argument, no_bar)


def test_sliding_predicts_each_token_once_with_the_context_that_it_says(subject_of):
    """Against its definition: a text for each token, of what its window and its document let it see."""
    subject, stride, context = subject_of('causal'), 8, 24
    found = run_suite(subject, f'sliding:stride={stride},context={context}', no_bar)
    tokens = np.asarray(subject.rows('validation').tokens.tokens, np.int32)
    targets = np.arange(1, len(tokens))
    begins = np.maximum((targets - 1) // stride * stride - (context - stride), 0)
    starts = np.maximum.accumulate(np.where(tokens == TOKENIZER.end_of_text, np.arange(len(tokens)), 0))
    begins, texts = np.maximum(begins, starts[targets - 1]), np.zeros((len(targets), context), np.int32)
    for text, begin, target in zip(texts, begins, targets, strict=True):
        text[: target - begin] = tokens[begin:target]
    model, length_N = subject.setup.model, targets - begins
    hidden_NLD, _ = model.apply(subject.params, text_example(texts, length_N, 'causal'))
    head_params, logits = model.head(subject.params)
    nats_N, _ = token_nats(logits(head_params, hidden_NLD[np.arange(len(targets)), length_N - 1]), tokens[targets])
    assert found.items[0]['predicted'] == len(targets)
    assert found.figures['nats_per_token_sliding'] == pytest.approx(float(np.mean(nats_N)), rel=1e-5)
    assert 'context 24, stride 8' in found.lines[0]
    whole = run_suite(subject, 'sliding:stride=32,context=32', no_bar).figures['nats_per_token_sliding']
    assert whole != pytest.approx(found.figures['nats_per_token_sliding'], rel=1e-5)
    assert 'no figure: config.' in run_suite(subject, 'sliding:context=999', no_bar).lines[0]
    assert run_suite(subject_of('masked'), 'sliding', no_bar).figures == {}


def test_angles_are_shrunk_to_the_length_that_is_read(subject_of):
    figures = {
        scaling: length(
            subject_of('causal', model__position__kind='rotary', model__position__scaling=scaling), '64', no_bar
        ).figures['bits_per_byte_at_64']
        for scaling in ('none', 'linear')
    }
    assert abs(figures['none'] - figures['linear']) > 1e-4


def test_both_pseudo_likelihoods_of_held_out_rows(subject_of):
    found = run_suite(subject_of('masked'), 'pseudo', no_bar)
    assert found.figures['pseudo_rows'] == found.figures['pseudo_l2r_rows'] == len(found.items) == 1
    for name in ('pseudo', 'pseudo_l2r'):
        total = sum(item[f'{name}_nats'] for item in found.items)
        tokens = sum(item['tokens'] for item in found.items)
        assert found.figures[f'{name}_nats_per_token'] == pytest.approx(total / tokens, rel=1e-6)
    assert found.figures['pseudo_nats_per_token'] != pytest.approx(found.figures['pseudo_l2r_nats_per_token'], abs=1e-3)
    assert len(pseudo(subject_of('masked'), 'test,rows=2', no_bar).items) == 2
    assert run_suite(subject_of('causal'), 'pseudo', no_bar).figures == {}
    with pytest.raises(UserError, match="no split 'tset'; one of: train, validation, test"):
        pseudo(subject_of('masked'), 'tset', no_bar)


def test_documents_are_the_texts_of_the_corpus(subject_of):
    subject = subject_of('causal')
    documents = subject.documents('validation')
    assert 'king' in documents[0]
    assert sum(len(text.encode()) for text in documents) == subject.prepared.splits['validation'].num_bytes
    assert subject_of('causal', objective__switch='masked@5,hybrid@9,causal@12').kinds == ('causal', 'hybrid', 'masked')
