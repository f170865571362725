"""Fine-tuning learns what is to be learned and nothing else, on the budget and the texts that it is given."""

import json
from typing import ClassVar

import jax
import numpy as np
import pytest
from labelled_texts import make_subject, no_bar, planted, same_bits

import launch
from gpt2jax import commands
from gpt2jax.errors import UserError
from gpt2jax.evaluation import finetuning
from gpt2jax.evaluation.finetuning import Budget, Trainer, finetune, measure_finetuning
from gpt2jax.evaluation.labelling import Texts
from gpt2jax.evaluation.subject import SuiteResult
from gpt2jax.evaluation.suites import run_suite

BUDGET = Budget(steps=60, batch_size=16, seeds=2, rates=(1e-5, 3e-3))


@pytest.fixture(name='subjects', scope='module')
def make_subjects():
    return {reads: make_subject(reads) for reads in ('causal', 'full')}


@pytest.mark.parametrize(('task', 'reads'), [('classify', 'causal'), ('tag', 'full')])
def test_a_planted_task_is_learned_and_the_model_stays_as_it_was(subjects, task, reads):
    subject = subjects[reads]
    before = jax.tree.map(np.array, subject.params)
    result = measure_finetuning(subject, planted(task), BUDGET, no_bar)
    assert same_bits(subject.params, before)
    figures = result.figures
    assert figures['finetune_planted_accuracy'] > 0.9
    assert figures['finetune_planted_validation_accuracy'] > 0.9
    assert figures['finetune_planted_majority'] < 0.7
    assert figures['finetune_planted_rate'] == 3e-3
    assert figures.keys() >= {'finetune_planted_sd', 'finetune_planted_cut'}
    parts = [(i['gold'], i['predicted']) for i in result.items]
    assert [len(predicted) for _, predicted in parts] == [2] * 30
    by_hand = {}
    for seed in ('1', '2'):
        pairs = [(gold, said[seed]) for gold, said in parts]
        if task == 'tag':
            pairs = [pair for gold, said in pairs for pair in zip(gold, said, strict=True)]
        by_hand[seed] = np.mean([gold == said for gold, said in pairs])
    np.testing.assert_allclose(np.mean(list(by_hand.values())), figures['finetune_planted_accuracy'])
    np.testing.assert_allclose(np.std(list(by_hand.values()), ddof=1), figures['finetune_planted_sd'])
    assert result.about['test_accuracy'] == list(by_hand.values())
    assert any('highest that was tried' in line for line in result.lines)


def test_labels_that_mean_nothing_are_not_learned(subjects):
    labelled = planted('classify', shuffled=True)
    result = measure_finetuning(subjects['causal'], labelled, Budget(60, 16, 2, (3e-3,)), no_bar)
    assert result.figures['finetune_planted_accuracy'] < 0.75


class Scripted:
    """A Trainer whose accuracies are known: what it was asked to train, and answers that are right so often."""

    right: ClassVar = {'validation': {1e-4: 0.5, 3e-4: 0.9, 1e-3: 0.7}, 'test': {1e-4: 0.9, 3e-4: 0.3, 1e-3: 1.0}}

    def __init__(self, subject, texts, budget):
        self.texts = texts
        Scripted.trained, Scripted.read = [], []

    def train(self, rate, seed, track):
        self.trained.append((rate, seed))
        return rate

    def answers(self, params, split):
        self.read.append(split)
        texts = self.texts.labelled.splits[split]
        wrong = {'high': 'low', 'low': 'high'}
        right = self.right[split][params] * len(texts)
        return [[t.labels[0] if i < right else wrong[t.labels[0]]] for i, t in enumerate(texts)]


def test_the_learning_rate_is_chosen_on_validation_and_the_test_texts_are_read_after_it(subjects, monkeypatch):
    monkeypatch.setattr(finetuning, 'Trainer', Scripted)
    subject = subjects['causal']
    found = finetune(subject, Texts(subject, planted('classify')), Budget(rates=(1e-3, 1e-4, 3e-4)), no_bar)
    assert found.rate == 3e-4
    np.testing.assert_allclose(list(found.validation.values()), [0.5, 0.9, 0.7])
    np.testing.assert_allclose(found.test, [0.3] * 3)
    assert Scripted.trained == [(1e-4, 0), (3e-4, 0), (1e-3, 0), (3e-4, 1), (3e-4, 2), (3e-4, 3)]
    assert Scripted.read == ['validation'] * 3 + ['test'] * 3


def test_a_training_depends_on_its_seed_and_rate_alone(subjects):
    subject = subjects['causal']
    trainer = Trainer(subject, Texts(subject, planted('classify', 60)), Budget(4, 16, 1, (1e-3,)))
    first, again, other = (trainer.train(1e-3, seed, no_bar) for seed in (1, 1, 2))
    assert same_bits(first, again)
    assert not same_bits(first['task'], other['task'])
    assert not same_bits(first['blocks'], subject.params['blocks'])


def test_an_update_is_as_large_as_its_learning_rate(subjects):
    subject = subjects['causal']
    trainer = Trainer(subject, Texts(subject, planted('classify', 60)), Budget(1, 16, 1, (1e-3,)))
    for rate in (1e-3, 1e-4):
        params = trainer.train(rate, 1, no_bar)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params['blocks'], subject.params['blocks'])
        np.testing.assert_allclose(max(jax.tree.leaves(moved)), rate, rtol=0.05)  # the first step of Adam


def test_words_that_are_not_seen_count_as_the_most_frequent_label():
    subject = make_subject('causal', data__length=8)
    texts = Texts(subject, planted('tag', 60))
    assert texts.cut > 0.5
    numbers = [row.labels for row in texts.rows['test']]  # all that is seen is right
    answers = texts.answers('test', numbers)
    unseen = texts.labelled.most_frequent
    for text, row, answer in zip(texts.labelled.splits['test'], texts.rows['test'], answers, strict=True):
        expected = [label if place in row.seen else unseen for place, label in enumerate(text.labels)]
        assert answer == expected
    assert texts.majority() < texts.accuracy('test', answers) < 1


@pytest.mark.parametrize(
    ('changes', 'says'),
    [({'steps': 0}, 'steps = 0'), ({'seeds': 0}, 'seeds = 0'), ({'rates': ()}, 'rates'), ({'rates': (-1.0,)}, 'rates')],
)
def test_a_budget_of_nothing_is_refused(changes, says):
    with pytest.raises(UserError, match=says):
        Budget(**changes).check()


def test_one_seed_has_no_standard_deviation(subjects):
    result = measure_finetuning(subjects['causal'], planted('classify', 60), Budget(2, 16, 1, (1e-3,)), no_bar)
    assert 'finetune_planted_sd' not in result.figures
    assert any('one seed alone' in line for line in result.lines)


def test_the_command_and_the_suite_measure_the_same_and_the_command_writes_it(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(subject, labelled, budget, track):
        asked.append((labelled, budget))
        return SuiteResult({'finetune_mine_accuracy': 0.5}, [{'text': 'mine.tsv:1'}], ['half of it'], {'task': 'tag'})

    subject, data = make_subject('causal'), tmp_path / 'mine.tsv'
    data.write_text(''.join(f'text {n}\t{"xy"[n % 2]}\n' for n in range(20)))
    monkeypatch.setattr('gpt2jax.commands.finetuning.open_subject', lambda path, which: (subject, tmp_path / 'suites'))
    monkeypatch.setattr('gpt2jax.commands.finetuning.measure_finetuning', measure)
    monkeypatch.setattr(finetuning, 'measure_finetuning', measure)

    def command(**changes):
        return commands.finetune('runs/x', str(data), None, False, default_options() | changes, 'best')

    figures, path = command()
    assert run_suite(subject, f'finetune:{data}', no_bar).figures == figures == {'finetune_mine_accuracy': 0.5}
    assert json.loads(path.read_text())['suite'] == f'finetune:{data}'
    assert path.with_suffix('').with_suffix('.items.jsonl').read_text() == '{"text": "mine.tsv:1"}\n'
    assert 'half of it' in capsys.readouterr().out
    _, other = command(steps=3, rates='1e-5')
    run_suite(subject, f'finetune:{data},steps=3,seeds=1,rates=1e-3+3e-3', no_bar)
    assert json.loads(other.read_text())['suite'] == f'finetune:{data},steps=3,rates=1e-05'
    assert asked[0][0].splits == asked[1][0].splits
    assert [budget for _, budget in asked] == [
        Budget(),
        Budget(),
        Budget(3, rates=(1e-5,)),
        Budget(3, 32, 1, (1e-3, 3e-3)),
    ]
    with pytest.raises(UserError, match='--rates=fast: expected numbers'):
        command(rates='fast')
    with pytest.raises(UserError, match='rates=1e-3-2: expected numbers with'):
        run_suite(subject, f'finetune:{data},rates=1e-3-2', no_bar)


def default_options():
    """The options of the command, as launch.py gives them by default."""
    values = launch.Flags([])
    launch.COMMANDS['finetune'].define(values)
    return {name: values[name].value for name in ('steps', 'batch_size', 'seeds', 'rates')}
