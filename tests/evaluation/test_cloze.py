"""Gaps in held-out documents: which words are asked for, among which others, and what counts as right."""

import numpy as np
import pytest
from measuring import TOKENIZER, log_probs, make_subject, no_bar

from gpt2jax.errors import UserError
from gpt2jax.evaluation import cloze as cloze_module
from gpt2jax.evaluation.cloze import CANDIDATES, cloze, judge, last_word
from gpt2jax.evaluation.passages import Words, gaps_inside, last_gap, passages, spread
from gpt2jax.evaluation.scoring import Score

NOUNS = [
    'rose',
    'king',
    'tree',
    'road',
    'bird',
    'moon',
    'fire',
    'wind',
    'lake',
    'ship',
    'gold',
    'hand',
    'door',
    'snow',
    'iron',
    'lion',
]
LENGTH = 96
LONGEST = LENGTH - 2  # tokens of a passage, so that what wraps it has room


def sentence(random):
    a, b, c, d, e = random.choice(NOUNS, 5, replace=False)
    return f'The {a} and the {b} saw a {c} by the {d}, and it was {e}.'


@pytest.fixture(name='texts', scope='module')
def make_texts():
    random = np.random.default_rng(0)
    train = [' '.join(sentence(random) for _ in range(40)) for _ in range(10)]
    return {'train': train, 'validation': [' '.join(sentence(random) for _ in range(6)) for _ in range(4)]}


@pytest.fixture(name='subject_of', scope='module')
def make_subject_of(texts):
    class Known:
        """A subject whose documents are these texts."""

        def __init__(self, subject):
            self._subject = subject

        def __getattr__(self, name):
            return getattr(self._subject, name)

        def documents(self, split):
            if split not in texts:
                raise UserError(f'no split {split}')
            return texts[split]

    return lambda kind, **changes: Known(make_subject(kind, data__length=LENGTH, **changes))


def test_passages_are_whole_sentences_and_cover_a_document(texts):
    found = list(passages(texts['validation'], TOKENIZER, LONGEST))
    assert all(len(TOKENIZER.encode(text)) <= LONGEST and text.endswith('.') for _, text in found)
    for number, document in enumerate(texts['validation']):
        assert ' '.join(text for n, text in found if n == number) == document
    assert list(passages(['A short one.', 'x' * 500, 'word ' * 100], TOKENIZER, LONGEST)) == []


def test_a_gap_has_words_on_both_sides_and_is_a_word_of_its_own():
    text = "One two three four It it's well-known behind; the rose X5 (red) is gone now, he said to me."
    assert [text[start:end] for start, end in gaps_inside(text)] == ['behind', 'the', 'rose', 'is', 'gone', 'now']
    assert gaps_inside('one two three') == []


def test_the_last_word_is_asked_for_with_nothing_behind_it():
    gap = last_gap(3, 'He saw the King.\nThen said the "king."', TOKENIZER)
    assert gap is None  # behind a sign it has no space of its own
    gap = last_gap(3, 'He saw the King.\nThen came the king!)', TOKENIZER)
    assert (gap.document, gap.before, gap.word, gap.after) == (3, 'He saw the King.\nThen came the', 'king', '')
    assert TOKENIZER.decode(gap.left + gap.target) == 'He saw the King.\nThen came the king'
    assert gap.target == tuple(b' king')
    assert gap.seen
    assert not last_gap(0, 'He saw the kings. Then came the king', TOKENIZER).seen
    assert last_gap(0, 'He came at 5.', TOKENIZER) is None


def test_words_are_alike_in_tokens_and_frequency(texts):
    words = Words(['a rose the the the the the the tree ' * 8 + 'a dog ' * 4 + 'a king ' * 12 + 'on on'], TOKENIZER)
    assert words.counts['rose'] == words.counts['tree'] == 8
    assert words.like('rose') == ['tree', 'king']
    assert words.like('dog') == words.like('unknown') == []
    assert words.like('the') == []


def test_questions_are_the_same_whatever_the_model_and_the_right_word_is_one_of_ten(subject_of, texts):
    found = {kind: cloze(subject_of(kind), '', no_bar) for kind in ('causal', 'masked')}
    asked = {
        kind: [(i['document'], i['before'], i['words'], i['after']) for i in result.items]
        for kind, result in found.items()
    }
    assert asked['causal'] == asked['masked']
    assert len(asked['causal']) >= 10
    for document, before, words, after in asked['causal']:
        assert len(set(words)) == CANDIDATES
        assert f'{before} {words[0]}{after}' in texts['validation'][document]
        assert not any(word in f'{before} {after}'.split() for word in words)
    assert found['causal'].figures.keys() == {'cloze_accuracy', 'cloze_causal_accuracy'}
    assert found['masked'].figures.keys() == {'cloze_accuracy', 'cloze_pseudo_l2r_accuracy'}
    assert len(cloze(subject_of('causal'), 'validation,items=3', no_bar).items) == 3


def test_a_causal_model_reads_what_follows_the_gap(subject_of):
    subject = subject_of('causal')
    item = cloze(subject, 'validation,items=1', no_bar).items[0]
    for word, nats in list(zip(item['words'], item['causal']['nats'], strict=True))[:2]:
        before, rest = (TOKENIZER.encode(text).tolist() for text in (item['before'], f' {word}{item["after"]}'))
        tokens = [TOKENIZER.end_of_text, *before, *rest]
        log_LV = log_probs(subject, tokens, range(len(tokens)))
        places = range(1 + len(before), len(tokens))
        assert nats == pytest.approx(-sum(log_LV[place - 1, tokens[place]] for place in places), abs=1e-3)


def test_a_masked_model_sees_both_sides_and_not_the_rest_of_the_word(subject_of):
    subject = subject_of('masked')
    item = cloze(subject, 'validation,items=1', no_bar).items[0]
    before, word, after = item['before'], item['words'][0], item['after']
    tokens = [TOKENIZER.end_of_text, *TOKENIZER.encode(f'{before} {word}{after}').tolist()]
    start, nats = 1 + len(before), 0.0
    for place in range(start, start + 1 + len(word)):
        shown = list(tokens)
        end = place + 1 if place == start else start + 1 + len(word)  # the space is a word of its own in bytes
        shown[place:end] = [TOKENIZER.mask] * (end - place)
        nats -= log_probs(subject, shown, [0] * len(tokens))[place, tokens[place]]
    assert item['pseudo_l2r']['nats'][0] == pytest.approx(nats, abs=1e-3)


def test_the_likeliest_candidate_is_the_answer_and_equals_share():
    nats_NC = np.full((3, CANDIDATES), 5.0)
    nats_NC[0, 0], nats_NC[1, 3] = 4.0, 4.0
    assert judge([Score(nats, False, 1) for nats in nats_NC.ravel()]).tolist() == [1, 0, 1 / CANDIDATES]


def test_last_words_are_scored_from_the_left_alone(subject_of, monkeypatch):
    result = last_word(subject_of('hybrid'), 'validation,items=6', no_bar)
    assert len(result.items) == 6
    names = {'accuracy', 'nats_per_word'}
    assert {name.removeprefix('last_word_') for name in result.figures} >= names
    mean = np.mean([item['causal']['nats'] for item in result.items])
    assert result.figures['last_word_nats_per_word'] == result.figures['last_word_causal_nats_per_word']
    assert result.figures['last_word_nats_per_word'] == pytest.approx(mean)
    masked = np.mean([item['pseudo_l2r']['nats'] for item in result.items])
    assert result.figures['last_word_pseudo_l2r_nats_per_word'] == pytest.approx(masked)

    class Knows:
        """Predicts a word that has been seen, and no other."""

        def score(self, requests, track):
            def seen(request):
                return TOKENIZER.decode(request.target) + ' ' in TOKENIZER.decode(request.context) + ' '

            assert not any(request.after for request in requests)
            return [Score(2.0, seen(request), len(request.target)) for request in requests]

    monkeypatch.setattr(cloze_module, 'make_scorers', lambda subject: {'causal': Knows(), 'pseudo': None})
    result = last_word(subject_of('causal'), 'validation,items=0', no_bar)
    right = [item['causal']['greedy'] for item in result.items]
    assert result.figures['last_word_accuracy'] == np.mean(right)
    assert result.figures['last_word_nats_per_word'] == 2.0
    if any(item['seen'] for item in result.items):
        assert result.figures['last_word_seen_accuracy'] >= result.figures['last_word_accuracy']


def test_a_model_without_a_mode_has_no_figure_and_a_text_without_words_is_refused(subject_of, texts, monkeypatch):
    for suite in (cloze, last_word):
        nothing = suite(subject_of('span_corruption'), '', no_bar)
        assert (nothing.figures, nothing.items) == ({}, [])
        assert 'no figure' in nothing.lines[0]
        with pytest.raises(UserError, match='no split tset'):
            suite(subject_of('causal'), 'tset', no_bar)
    monkeypatch.setitem(texts, 'validation', ['1 2 3'])
    with pytest.raises(UserError, match='no passage with a word'):
        cloze(subject_of('causal'), '', no_bar)
    with pytest.raises(UserError, match='no passage that ends with a word'):
        last_word(subject_of('causal'), '', no_bar)


def test_items_are_spread_evenly():
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert spread([1, 2], 5) == spread([1, 2], 0) == [1, 2]
