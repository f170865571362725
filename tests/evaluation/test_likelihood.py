"""What evaluation reports: the sums behind every figure, whatever the objective."""

import math

import jax
import numpy as np
import pytest
from helpers import model_for, one_device_setup, tiny_config

from gpt2jax.data import make_tokenizer
from gpt2jax.data.rows import Rows
from gpt2jax.evaluation.lengths import Lengths
from gpt2jax.evaluation.likelihood import evaluate
from gpt2jax.evaluation.measures import SCORES, Measure, Sums, make_measures
from gpt2jax.evaluation.pseudo import pseudo_likelihood
from gpt2jax.objectives import OBJECTIVES, make_objective
from gpt2jax.training.loop import evaluate_rows

BYTES_V = np.array([1, 2, 3, 0])  # the last id stands for no text
TOKENIZER = make_tokenizer('bytes')
LENGTH = 24


class Stream:
    """The tokens of a split, without a file."""

    def __init__(self, documents):
        self.tokens = np.concatenate([TOKENIZER.wrap(TOKENIZER.encode(text)) for text in documents]).astype(np.uint16)
        self.num_tokens = len(self.tokens)


def make_rows(cross_documents=False):
    """Seven rows, the last one with padding, with documents that end inside a row."""
    texts = ['the king is dead', 'long live the king, and his horse too', 'exit', 'a rose is a rose is a rose' * 4]
    return Rows(Stream(texts), LENGTH, cross_documents, TOKENIZER)


def tiny_run(kind, batch_size=3, **changes):
    options = {'data__length': LENGTH, 'evaluation__batch_size': batch_size, 'objective__rate': 0.3}
    config = tiny_config(**options | model_for(kind) | changes, objective__kind=kind)
    setup = one_device_setup(config)
    return setup, setup.initial_state().params


def no_bar(batches, description, count):
    batches = list(batches)
    assert len(batches) == count
    return batches


def figures(kind, batch_size=3, num_rows=0, **changes):
    setup, params = tiny_run(kind, batch_size, **changes)
    rows, evaluations = make_rows(), setup.evaluations(lossless=True)
    return evaluate_rows(setup, evaluations, params, rows, TOKENIZER.byte_lengths, num_rows, no_bar)


def uneven_batches():
    """Three batches of two rows of five tokens, the last one padded."""
    random = np.random.default_rng(0)
    for number in range(3):
        weights_BL = np.ones((2, 5), np.float32)
        if number == 2:
            weights_BL[1, 2:] = 0
        yield {
            'nats': random.exponential(size=(2, 5)).astype(np.float32),
            'weights': weights_BL,
            'targets': random.integers(0, 4, (2, 5)),
            'hits': random.random((2, 5)) < 0.5,
        }


def measure(name, lossless=True):
    return Measure(name, make_objective(tiny_config()), lossless, Lengths(16, 16))


def test_every_weighted_token_counts_once_with_its_bytes():
    batches = list(uneven_batches())
    total = evaluate(lambda _, batch, carry: (batch, carry), None, None, batches, lambda batch: batch, BYTES_V)
    result = measure('likelihood').figures(total) | measure('masked').figures(total)
    nats = predicted = count = hits = 0
    for batch in batches:
        arrays = (batch[key].ravel() for key in ('nats', 'weights', 'targets', 'hits'))
        for nat, weight, target, hit in zip(*arrays, strict=True):
            if weight:
                nats, predicted, count = nats + float(nat), predicted + 1, count + BYTES_V[target]
                hits += hit
    assert predicted == 27 == result['predicted'] == result['masked_predicted']
    assert result['bytes'] == count
    assert result['bits_per_byte'] == pytest.approx(nats / math.log(2) / count)
    assert result['nats_per_token'] == pytest.approx(nats / 27) == result['masked_nats']
    assert result['perplexity'] == pytest.approx(math.exp(nats / 27))
    assert result['masked_accuracy'] == pytest.approx(hits / 27)


def test_an_evaluation_of_nothing_is_zero():
    total = evaluate(None, None, None, [], None, BYTES_V)
    assert measure('likelihood').figures(total)['bits_per_byte'] == 0


def test_without_bytes_there_are_no_bits_per_byte():
    lossy = measure('likelihood', lossless=False)
    assert lossy.figures(Sums(6.0, 0, 3, 9)).keys() == {
        'nats_per_token',
        'perplexity',
        'predicted',
        'context',
        'stride',
    }
    assert lossy.score == 'nats_per_token'


@pytest.mark.parametrize(
    ('kind', 'score', 'others'),
    [
        ('causal', 'bits_per_byte', set()),
        ('masked', 'masked_nats', {'masked_accuracy'}),
        ('prefix', 'prefix_nats', {'prefix_accuracy', 'bits_per_byte'}),
        ('hybrid', 'bits_per_byte', {'masked_nats', 'masked_accuracy'}),
        ('span_corruption', 'span_nats', {'span_accuracy'}),
    ],
)
def test_an_objective_has_the_figures_that_mean_something_for_it(kind, score, others):
    found = figures(kind)
    assert make_measures(tiny_config(objective__kind=kind), lossless=True)[0].score == score
    assert found.keys() >= {score} | others
    meaningless = SCORES.keys() - {score, 'nats_per_token'} - others
    assert found.keys().isdisjoint(meaningless)
    assert all(math.isfinite(value) for value in found.values())


def test_every_objective_says_how_it_is_measured():
    for kind in OBJECTIVES:
        assert make_measures(tiny_config(objective__kind=kind, **model_for(kind)), lossless=True)


@pytest.mark.parametrize(
    ('share', 'names'), [(0.0, ['masked']), (0.5, ['likelihood', 'masked']), (1.0, ['likelihood'])]
)
def test_a_hybrid_is_measured_by_what_it_was_trained_for(share, names):
    measures = make_measures(tiny_config(objective__kind='hybrid', objective__causal_share=share), lossless=True)
    assert [m.name for m in measures] == names


def test_a_run_that_switches_is_judged_by_its_last_objective_and_measured_by_all():
    config = tiny_config(objective__kind='causal', objective__switch='masked@5,prefix@9')
    assert [m.score for m in make_measures(config, lossless=True)] == ['prefix_nats', 'bits_per_byte', 'masked_nats']


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_figures_do_not_depend_on_the_batch_size(kind):
    """Seven rows: the last batch is filled up with rows of padding, which must not count."""
    first, second = figures(kind, batch_size=2), figures(kind, batch_size=5)
    assert first == pytest.approx(second, rel=1e-5)


def test_a_prefix_model_has_the_likelihood_of_a_causal_one():
    """A prefix of one token is causal."""
    causal, prefix = figures('causal'), figures('prefix')
    assert prefix['bits_per_byte'] == pytest.approx(causal['bits_per_byte'], rel=1e-6)
    assert prefix['predicted'] == causal['predicted']


@pytest.mark.parametrize('kind', ['masked', 'hybrid'])
def test_masked_figures_are_those_of_a_plain_loop(kind):
    """Without gathering, without chunks, without jit."""
    changes = {'objective__causal_share': 0.0} if kind == 'hybrid' else {}
    setup, params = tiny_run(kind, **changes)
    objective, rows = setup.objective(), make_rows()
    head_params, logits_fn = setup.model.head(params)
    nats = hits = predicted = 0
    for row in range(len(rows)):
        example = objective(jax.tree.map(np.asarray, rows.batch([row])), jax.random.key(0), 1.0)
        hidden_1LD, _ = setup.model.apply(params, example)
        log_LV = np.asarray(jax.nn.log_softmax(logits_fn(head_params, hidden_1LD[0])), np.float64)
        for place in np.flatnonzero(example.weights[0]):
            target = int(example.targets[0, place])
            nats, hits = nats - log_LV[place, target], hits + (log_LV[place].argmax() == target)
            predicted += 1
    found = figures(kind, **changes)
    assert found['masked_predicted'] == predicted > 20
    assert found['masked_nats'] == pytest.approx(nats / predicted, rel=1e-5)
    assert found['masked_accuracy'] == pytest.approx(hits / predicted)


@pytest.mark.parametrize('kind', ['masked', 'hybrid'])
def test_the_pseudo_likelihood_is_that_of_a_plain_loop(kind):
    """Token after token: mask it, read the row, look at the prediction."""
    setup, params = tiny_run(kind, batch_size=4)
    objective, rows = setup.objective(), make_rows()
    found = pseudo_likelihood(setup, params, objective, rows, TOKENIZER, 3, no_bar).figures(TOKENIZER)
    head_params, logits_fn = setup.model.head(params)
    read = jax.jit(lambda example: logits_fn(head_params, setup.model.apply(params, example)[0][0]))
    nats = predicted = 0
    for row in (0, len(rows) // 3, 2 * len(rows) // 3):
        batch = rows.batch([row])
        tokens_L, segment_L = batch['tokens'][0, :-1], batch['segment'][0, :-1]
        for place in range(LENGTH):
            at = place - objective.mask_offset
            if tokens_L[place] >= 256 or at < 0 or segment_L[at] != segment_L[place]:
                continue
            hidden_L = tokens_L.copy()
            hidden_L[place] = TOKENIZER.mask
            example = make_objective(tiny_config(objective__kind='masked', objective__mask_share=0.0))
            example = example({k: np.asarray(v) for k, v in batch.items()}, jax.random.key(0), 1.0)
            log_LV = np.asarray(jax.nn.log_softmax(read(example.replace(inputs=hidden_L[None]))), np.float64)
            nats, predicted = nats - log_LV[at, tokens_L[place]], predicted + 1
    assert found['pseudo_rows'] == 3
    assert found['pseudo_predicted'] == predicted > 50
    assert found['pseudo_nats_per_token'] == pytest.approx(nats / predicted, rel=1e-5)
    assert found['pseudo_nats_per_byte'] == pytest.approx(nats / predicted, rel=1e-5)  # a token is a byte here
