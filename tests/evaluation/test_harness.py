"""What lm-eval asks of a model, in ids, and what becomes of its answers; tests/parity has lm-eval itself."""

import functools
import sys

import numpy as np
import pytest
from helpers import one_device_setup, tiny_config

from gpt2jax.data import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.evaluation import harness_requests
from gpt2jax.evaluation.harness import figures_of, gap_of, harness, plain
from gpt2jax.evaluation.harness_requests import continue_prompts, make_request, make_scorer, rolling_windows, until
from gpt2jax.evaluation.scoring import Request
from gpt2jax.evaluation.subject import Subject
from gpt2jax.losses import token_nats
from gpt2jax.objectives.texts import text_example

LENGTH = 16


@functools.cache
def make_subject(**changes):
    setup = one_device_setup(tiny_config(**changes))
    return Subject(setup, setup.initial_state().params, make_tokenizer('bytes'), 0, None, None)


@pytest.fixture(name='causal', scope='module')
def make_causal():
    return make_subject()


def no_bar(work, description, total=None):
    return work


def nats_after(subject, context, target):
    """-log p of the target by one call of the model on exactly these ids."""
    ids = np.array([[*context, *target]], np.int32)
    setup, count = subject.setup, len(target)
    hidden_BLD, _ = setup.model.apply(subject.params, text_example(ids[:, :-1], np.array([ids.shape[1] - 1]), 'causal'))
    head_params, logits_fn = setup.model.head(subject.params)
    nats, _ = token_nats(logits_fn(head_params, hidden_BLD[0, -count:]), ids[0, -count:])
    return float(np.sum(nats))


def test_a_continuation_is_scored_behind_its_context_and_nothing_else(causal):
    scorer, random = make_scorer(causal), np.random.default_rng(0)
    sizes = [(1, 1), (3, 4), (LENGTH, 1), (1, LENGTH), (40, 3), (LENGTH - 2, 5)]
    texts = [(random.integers(0, 256, context).tolist(), random.integers(0, 256, target)) for context, target in sizes]
    scores = scorer.score([make_request(scorer, 0, context, target, '') for context, target in texts], no_bar)
    for (context, target), score in zip(texts, scores, strict=True):
        read = context[-(LENGTH + 1 - len(target)) :]
        assert score.nats == pytest.approx(nats_after(causal, read, target), rel=1e-5)


def test_what_cannot_be_scored_is_said(causal):
    scorer = make_scorer(causal)
    for count in (0, LENGTH + 1):
        with pytest.raises(
            UserError, match=f"'long' is a continuation of {count} tokens; this model can score 1 to 16"
        ):
            make_request(scorer, 0, [1], [2] * count, 'long')
    with pytest.raises(UserError, match='a model of the objective span_corruption gives a text no score'):
        make_scorer(make_subject(objective__kind='span_corruption', model__vocab_multiple=1))


@pytest.mark.parametrize('kind', ['causal', 'masked'])
@pytest.mark.parametrize('count', [0, 1, 15, 16, 17, 31, 32, 33, 80])
def test_windows_score_each_token_once_and_the_last_is_full(kind, count):
    subject = make_subject(objective__kind=kind)
    scorer, begin, ids = make_scorer(subject), subject.tokenizer.end_of_text, list(range(1, count + 1))
    windows = rolling_windows(scorer, begin, ids)
    assert [one for window in windows for one in window.target] == ids
    for number, window in enumerate(windows):
        if number == 0:
            assert window.context == ((begin,) if kind == 'causal' else ())
        else:
            assert len(window.context) + len(window.target) == scorer.engine.window
            whole = [*window.context, *window.target]
            assert whole == list(range(whole[0], whole[0] + len(whole)))
    for window in windows:
        scorer.engine.check(window)


def test_a_masked_model_has_its_own_beginning_of_a_text():
    scorer = make_scorer(make_subject(objective__kind='masked'))
    assert scorer.mode == 'pseudo_l2r'
    assert make_request(scorer, 9, [9], [5, 6], '') == Request((), (5, 6))
    assert make_request(scorer, 9, [9, 4], [5, 6], '') == Request((9, 4), (5, 6))


def test_a_text_ends_before_the_first_stop():
    assert until('a. b\nc', ['\n', '.']) == 'a'
    assert until('a b', ['\n', '']) == 'a b'


class Scripted:
    """Continues each prompt with its own ids, again and again, two at a time; keeps what it was asked."""

    def __init__(self):
        self.asked, self.pieces = [], 0

    def stream(self, prompts, count, seed):
        self.asked.append([list(prompt) for prompt in prompts])
        endless_BN = np.stack([np.resize(np.array(prompt), count) for prompt in prompts])
        for start in range(0, count, 2):
            self.pieces += 1
            yield endless_BN[:, start : start + 2]


@pytest.mark.parametrize('count', [1, 15, 40])
def test_every_prompt_gets_its_own_continuation(count):
    tokenizer, generator = make_tokenizer('bytes'), Scripted()
    texts = [f'{number:03}' * (1 + number % 4) for number in reversed(range(count))]
    prompts = [tokenizer.encode(text).tolist() for text in texts]
    found = continue_prompts(generator, tokenizer, 64, prompts, [], 8, no_bar)
    assert found == [(text * 8)[:8] for text in texts]
    assert {len(asked) for asked in generator.asked} == {harness_requests.PROMPTS}


def test_generation_ends_when_all_have_stopped_and_prompts_keep_their_end():
    tokenizer, generator = make_tokenizer('bytes'), Scripted()
    prompts = [tokenizer.encode(text).tolist() for text in ('ab.cdef', 'x' * 30 + 'yz.uv')]
    assert continue_prompts(generator, tokenizer, 20, prompts, ['.'], 13, no_bar) == ['ab', 'xxyz']
    assert generator.pieces == 3
    assert max(len(prompt) for prompt in generator.asked[0]) == 7
    assert continue_prompts(generator, tokenizer, 10, prompts, ['.'], 13, no_bar) == ['', 'yz']
    assert continue_prompts(generator, tokenizer, 10, [[]], [], 1, no_bar) == ['']


def make_found(metrics, resps):
    sample = {'resps': [[response] for response in resps]}
    return {'results': {'a/b': metrics}, 'samples': {'a/b': [sample, {'resps': [[(-1.0, True)], [(-2.0, False)]]}]}}


def test_figures_are_named_and_ties_are_counted():
    metrics = {'acc,none': 0.5, 'acc_stderr,none': 0.1, 'bits_per_byte,none': 2.0, 'f1,none': 0.25, 'alias': 'x'}
    found = make_found(metrics | {'bad,none': float('nan')}, [(-3.0, True), (-3.000001, False), (-4.0, False)])
    assert figures_of(found, pseudo=False) == {
        'harness_a_b_accuracy': 0.5,
        'harness_a_b_bits_per_byte': 2.0,
        'harness_a_b_f1': 0.25,
        'harness_a_b_ties': 0.5,
    }
    assert 'harness_a_b_pseudo_bits_per_byte' in figures_of(found, pseudo=True)
    assert 'harness_a_b_strict_accuracy' in figures_of(make_found({'acc,strict': 1.0, 'acc,loose': 1.0}, []), False)


def test_only_items_with_a_choice_can_tie():
    assert gap_of({'resps': [[(-1.0, True)], [(-1.5, False)], [(-9.0, False)]]}) == 0.5
    assert gap_of({'resps': [[(-1.0, True)]]}) is None
    assert gap_of({'resps': [['text'], ['text']]}) is None
    assert plain({'a': float('inf'), 'b': {1, 2}.__class__, 'c': (1, 2)}) == {
        'a': None,
        'b': "<class 'set'>",
        'c': [1, 2],
    }


def test_without_lm_eval_it_says_what_to_install(causal, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lm_eval', None)
    with pytest.raises(UserError, match=r'needs lm-eval: pip install -r requirements-harness\.txt'):
        harness(causal, 'pairs', no_bar)
