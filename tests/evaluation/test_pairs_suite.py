"""The suite pairs: what a model answers against all targets of each source."""

import importlib.util
import sys

import numpy as np
import pytest
from helpers import one_device_setup, silent, tiny_config
from measuring import no_bar

from gpt2jax.data import prepare
from gpt2jax.data.builder import Pair
from gpt2jax.errors import UserError
from gpt2jax.evaluation import pairs as suite
from gpt2jax.evaluation.pairs import Question, edit_distance, gather, pairs, score_texts, score_units, spread
from gpt2jax.evaluation.subject import Subject
from gpt2jax.generation.beam import BeamSearch
from gpt2jax.generation.text import until_end

needs_sacrebleu = pytest.mark.skipif(not importlib.util.find_spec('sacrebleu'), reason='sacrebleu is an optional extra')


def recursive_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    first = recursive_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(first, recursive_distance(a[1:], b) + 1, recursive_distance(a, b[1:]) + 1)


def test_the_edit_distance_is_that_of_its_definition():
    random = np.random.default_rng(0)
    for _ in range(60):
        a, b = ([*random.integers(0, 3, random.integers(0, 6))] for _ in range(2))
        assert edit_distance(a, b) == recursive_distance(a, b) == edit_distance(b, a)


def test_targets_are_gathered_by_source_each_once():
    found = gather([Pair('a', 'x'), Pair('b', 'y'), Pair('a', 'z'), Pair('a', 'x')])
    assert found == [Question('a', ('x', 'z')), Question('b', ('y',))]


def test_a_limit_takes_sources_from_everywhere():
    questions = [Question(str(i), ('x',)) for i in range(10)]
    assert [question.source for question in spread(questions, 5)] == ['0', '2', '4', '6', '8']
    assert spread(questions, 0) == spread(questions, 99) == questions


def test_the_closest_target_counts():
    questions = [Question('r e a d', ('R EH D', 'R IY D')), Question('a', ('AH', 'EY')), Question('b', ('B IY',))]
    figures, items, _ = score_units(questions, ['R IY D', 'EY T', ''])
    assert [item['edits'] for item in items] == [0, 1, 2]
    assert figures == {'unit_error_rate': 3 / (3 + 1 + 2), 'word_error_rate': 2 / 3}


@needs_sacrebleu
def test_texts_are_scored_as_sacrebleu_does_with_its_signature():
    from sacrebleu.metrics import BLEU

    questions = [
        Question('eins', ('the cat sat on the mat today', 'a cat sat down on a mat')),
        Question('zwei', ('there is a dog in my house',)),
    ]
    right = [question.targets[0] for question in questions]
    figures, items, lines = score_texts(questions, right)
    assert figures['bleu'] == pytest.approx(100)
    assert figures['chrf'] == pytest.approx(100)
    assert 'nrefs:var' in lines[0]
    assert 'version:' in lines[0]
    assert items[0]['targets'] == questions[0].targets
    answers = ['the cat sat on a mat', 'there is a dog']
    single = [Question(question.source, question.targets[:1]) for question in questions]
    expected = BLEU().corpus_score(answers, [[question.targets[0] for question in questions]]).score
    assert score_texts(single, answers)[0]['bleu'] == pytest.approx(expected)


def test_without_sacrebleu_texts_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sacrebleu', None)
    with pytest.raises(UserError, match=r'requirements-translation\.txt'):
        suite.import_sacrebleu()


@pytest.fixture(name='subject_of', scope='module')
def make_subject_of(tmp_path_factory):
    """Models at random values, on words spelt backwards."""
    folder = tmp_path_factory.mktemp('pairs')
    random = np.random.default_rng(0)
    words = [' '.join('abcd'[i] for i in random.integers(0, 4, random.integers(1, 9))) for _ in range(300)]
    (folder / 'words.tsv').write_text(''.join(f'{word}\t{word[::-1]}\n' for word in words))

    def make(kind='seq2seq', tokenizer='symbols:8', **changes):
        config = tiny_config(
            objective__kind=kind,
            data__whole_documents=True,
            data__corpus='pairs',
            data__path=str(folder / 'words.tsv'),
            data__directory=str(folder / 'cache'),
            data__tokenizer=tokenizer,
            data__length=32,
            model__num_layers=1,
            model__width=16,
            **changes,
        )
        data, setup = config.data, one_device_setup(config)
        prepared = prepare('pairs', data.path, data.text_key, tokenizer, data.directory, announce=silent)
        params = setup.model.init(np.array([0, 1], np.uint32))
        return Subject(setup, params, prepared.tokenizer, 3, folder, lambda: prepared)

    return make


def test_every_source_is_answered_as_alone_and_in_its_place(subject_of, monkeypatch):
    """In batches of several lengths, against one prompt at a time; by default greedily."""
    monkeypatch.setattr(suite, 'ROWS', 4)
    subject = subject_of()
    result = pairs(subject, 'test,limit=6', no_bar)
    assert len(result.items) == 6
    search = BeamSearch(subject.setup.model, subject.params, 32, 1, 0.6, subject.tokenizer, reading='target')
    for item in result.items:
        ids, _ = search([subject.tokenizer.encode(item['source']).tolist()], 16)
        written = subject.tokenizer.decode(until_end(ids[0], subject.tokenizer, True))
        assert item['answer'].split()[:16] == written.split()
        assert item['targets'] == (item['source'][::-1],)
    assert result.figures['unit_error_rate'] > 0
    assert 'greedy' in result.lines[-1]


def test_beams_are_an_option_and_said(subject_of):
    result = pairs(subject_of(), 'test,limit=2,beams=3', no_bar)
    assert '3 beams' in result.lines[-1]
    assert result.about['beams'] == 3


@needs_sacrebleu
def test_texts_have_bleu_and_chrf(subject_of):
    result = pairs(subject_of(tokenizer='bytes'), 'test,limit=2', no_bar)
    assert result.figures.keys() == {'bleu', 'chrf'}


def test_a_model_that_was_not_trained_on_pairs_has_no_figure(subject_of):
    assert pairs(subject_of('causal'), 'test', no_bar).figures == {}


@pytest.mark.parametrize(('argument', 'words'), [('dev', 'no split'), ('test,beams=0', 'beams=0'), ('test,x=1', 'x')])
def test_what_cannot_be_measured_is_refused(subject_of, argument, words):
    with pytest.raises(UserError, match=words):
        pairs(subject_of(), argument, no_bar)
