"""Probes read layers, leave the model as it is, and are fitted to their optimum."""

import jax
import numpy as np
import pytest
from labelled_texts import make_subject, no_bar, planted, same_bits

from gpt2jax.data.labelled import Text, make_labelled
from gpt2jax.evaluation import probing
from gpt2jax.evaluation.labelling import Texts
from gpt2jax.evaluation.parts import example_of
from gpt2jax.evaluation.probing import PENALTIES, choose_texts, fit_probes, layer_states, measure_probes
from gpt2jax.models.norms import make_norm


@pytest.mark.parametrize(('reads', 'scan'), [('causal', True), ('full', False)])
def test_the_states_are_those_between_the_blocks(reads, scan):
    subject = make_subject(reads, model__scan_layers=scan)
    texts = Texts(subject, planted('classify', 40))
    batch = texts.batch(texts.rows['test'], 8)
    example, config = example_of(batch, reads), subject.setup.config
    states = jax.jit(lambda params: layer_states(config, params, example))(subject.params)
    assert len(states) == config.model.num_layers + 1
    table = subject.params['embedding']
    place = np.minimum(np.arange(batch['tokens'].shape[1]), batch['length'][:, None] - 1)
    embedded = np.asarray(table['token'])[batch['tokens']] + np.asarray(table['position']['embedding'])[place]
    real = np.arange(place.shape[1]) < batch['length'][:, None]
    np.testing.assert_allclose(np.asarray(states[0])[real], embedded[real], atol=1e-6)
    last = make_norm(config.model.norm).apply({'params': subject.params['norm_final']}, states[-1])
    expected, _ = subject.setup.model.apply(subject.params, example)
    np.testing.assert_allclose(np.asarray(last)[real], np.asarray(expected)[real], atol=1e-5)


@pytest.mark.parametrize('task', ['classify', 'tag'])
def test_a_planted_task_is_read_off_and_the_model_stays_as_it_was(task):
    subject = make_subject('full')
    before = jax.tree.map(np.array, subject.params)
    result = measure_probes(subject, planted(task), no_bar)
    assert same_bits(subject.params, before)
    assert result.figures['probe_planted_accuracy'] > 0.9
    layers = [f'probe_planted_{name}_accuracy' for name in ('embedding', 'layer1', 'layer2')]
    assert (
        result.figures['probe_planted_accuracy'] == result.figures[layers[int(result.figures['probe_planted_layer'])]]
    )
    for name, figure in zip(('embedding', 'layer1', 'layer2'), layers, strict=True):
        pairs = [(item['gold'], item['predicted'][name]) for item in result.items]
        if task == 'tag':
            pairs = [pair for gold, said in pairs for pair in zip(gold, said, strict=True)]
        np.testing.assert_allclose(np.mean([gold == said for gold, said in pairs]), result.figures[figure])


def test_labels_that_mean_nothing_are_not_read_off():
    result = measure_probes(make_subject('full'), planted('classify', shuffled=True), no_bar)
    assert result.figures['probe_planted_accuracy'] < 0.75


def test_the_penalty_is_chosen_on_validation(monkeypatch):
    """Accuracies fall with every call on validation and rise on the test texts: the first penalty is the best."""
    subject, labelled = make_subject('full'), planted('classify', 100)

    def scripted(self, split, answers):
        calls.append(split)
        return {'validation': 1 / len(calls), 'test': len(calls) / 100}[split]

    calls = []
    monkeypatch.setattr(Texts, 'accuracy', scripted)
    _, layers = probing.probe(subject, labelled, no_bar)
    assert calls == ([*['validation'] * len(PENALTIES), 'test']) * 3
    assert [found.penalty for found in layers] == [PENALTIES[0]] * 3


def test_a_probe_is_the_optimum_of_its_own_problem():
    random = np.random.default_rng(0)
    x_ND = (5 + 3 * random.normal(size=(200, 4))).astype(np.float32)
    labels_N = (x_ND @ random.normal(size=(4, 3)) + random.normal(size=(200, 3))).argmax(axis=1)
    weights = []
    for penalty, probe in zip(PENALTIES, fit_probes(x_ND, labels_N, 3), strict=True):
        z_ND = (x_ND - x_ND.mean(axis=0)) / x_ND.std(axis=0)
        logits_NC = z_ND @ probe.kernel + probe.bias
        p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
        error_NC = (p_NC - np.eye(3)[labels_N]) / len(x_ND)
        assert np.abs(z_ND.T @ error_NC + penalty * probe.kernel).max() < 2e-3
        assert np.abs(error_NC.sum(axis=0)).max() < 2e-3
        assert (probe.predict(x_ND) == logits_NC.argmax(axis=1)).all()
        weights.append(np.sum(probe.kernel**2))
    assert weights == sorted(weights)


def test_as_many_texts_are_read_as_there_is_room_for_the_same_for_all(monkeypatch):
    texts = [Text(f't:{n}', ('w',) * (1 + n % 7), ('ab'[n % 2],) * (1 + n % 7)) for n in range(100)]
    labelled = make_labelled('n', 'tag', {'train': texts, 'validation': texts[:5], 'test': texts[:5]}, 'here')
    monkeypatch.setitem(probing.MOST_PARTS, 'train', 50)
    chosen = choose_texts(labelled, 'train')
    assert chosen == choose_texts(labelled, 'train') == sorted(set(chosen))
    assert 50 <= sum(len(texts[i].parts) for i in chosen) < 57
    assert choose_texts(labelled, 'test') == list(range(5))
