"""Scores of targets in all modes, against one row at a time, without padding, in plain NumPy."""

import numpy as np
import pytest
from measuring import LENGTH, TOKENIZER, ids_of, log_probs, make_subject, no_bar

from gpt2jax.evaluation.engines import rounded
from gpt2jax.evaluation.scoring import Request, best_mode, make_scorers, score_all

BEGIN, MASK = TOKENIZER.end_of_text, TOKENIZER.mask
SUBJECTS = {kind: make_subject(kind) for kind in ('causal', 'masked', 'hybrid')}
SUBJECTS['prefix'] = make_subject('prefix', model__num_layers=2)  # one layer cannot tell how the context reads itself
SCORERS = {kind: make_scorers(subject, batch_tokens=256) for kind, subject in SUBJECTS.items()}
REQUESTS = [
    Request((), ids_of('a red rose')),
    Request(ids_of('a king '), ids_of('is ill')),
    Request(ids_of('long live '), ids_of('k')),
    Request(ids_of('a '), ids_of("queen's he")),
]


def by_chain_rule(kind, request):
    """(nats, greedy): token by token; a prefix model sees the context in both directions."""
    tokens = [BEGIN, *request.context, *request.target]
    seen_at_once = 1 + len(request.context) if kind == 'prefix' else 1
    log_LV = log_probs(SUBJECTS[kind], tokens, [max(i - seen_at_once + 1, 0) for i in range(len(tokens))])
    places = range(1 + len(request.context), len(tokens))
    nats = -sum(log_LV[place - 1, tokens[place]] for place in places)
    return nats, all(log_LV[place - 1].argmax() == tokens[place] for place in places)


def by_hiding(kind, request, within_word):
    """(nats, greedy): hide a token, and the later letters of its word if asked to; read; look at the prediction."""
    offset = {'masked': 0, 'hybrid': 1}[kind]
    text = [*request.context, *request.target, *request.after]
    nats, greedy = 0.0, True
    for place in range(len(request.context), len(request.context) + len(request.target)):
        tokens = list(text)
        tokens[place] = MASK
        later = place + 1
        while within_word and chr(text[place]).isalpha() and later < len(text) and chr(text[later]).isalpha():
            tokens[later] = MASK
            later += 1
        log_LV = log_probs(SUBJECTS[kind], [BEGIN, *tokens], [0] * (len(text) + 1))
        nats -= log_LV[place + 1 - offset, text[place]]
        greedy = greedy and log_LV[place + 1 - offset].argmax() == text[place]
    return nats, greedy


@pytest.mark.parametrize('kind', ['causal', 'prefix', 'hybrid'])
def test_the_chain_rule_is_that_of_a_plain_loop(kind):
    found = SCORERS[kind]['causal'].score(REQUESTS, no_bar)
    for request, score in zip(REQUESTS, found, strict=True):
        nats, greedy = by_chain_rule(kind, request)
        assert score.nats == pytest.approx(nats, abs=1e-4)
        assert (score.greedy, score.tokens) == (greedy, len(request.target))


def test_a_prefix_model_reads_its_context_in_both_directions():
    request = REQUESTS[1]
    scorer = SCORERS['prefix']['causal']
    assert scorer.engine.prefix
    [score] = scorer.score([request], no_bar)
    tokens = [BEGIN, *request.context, *request.target]
    one_direction = log_probs(SUBJECTS['prefix'], tokens, range(len(tokens)))
    causal = -sum(one_direction[place - 1, tokens[place]] for place in range(1 + len(request.context), len(tokens)))
    assert abs(score.nats - causal) > 1e-2


@pytest.mark.parametrize('kind', ['masked', 'hybrid'])
def test_hidden_tokens_are_predicted_as_in_a_plain_loop(kind):
    requests = [*REQUESTS, Request(ids_of('to '), ids_of('be or'), ids_of('al no'))]
    scorers = SCORERS[kind]
    together = score_all({mode: scorers[mode] for mode in ('pseudo', 'pseudo_l2r')}, requests, no_bar)
    for mode, within_word in (('pseudo', False), ('pseudo_l2r', True)):
        alone = scorers[mode].score(requests, no_bar)
        for request, one, other in zip(requests, together[mode], alone, strict=True):
            nats, greedy = by_hiding(kind, request, within_word)
            assert one.nats == pytest.approx(nats, abs=1e-4)
            assert one.nats == pytest.approx(other.nats, abs=1e-5)
            assert (one.greedy, one.tokens) == (other.greedy, other.tokens) == (greedy, len(request.target))
    assert together['pseudo'][3].nats != pytest.approx(together['pseudo_l2r'][3].nats, abs=1e-3)


@pytest.mark.parametrize(('kind', 'mode'), [('causal', 'causal'), ('masked', 'pseudo_l2r')])
def test_neither_batches_nor_neighbours_change_a_score(kind, mode):
    random = np.random.default_rng(0)
    sizes = zip(random.integers(0, 8, 30), random.integers(1, 5, 30), strict=True)
    requests = [Request(tuple(random.integers(97, 123, a)), tuple(random.integers(97, 123, b))) for a, b in sizes]
    requests += requests[:5]
    many = SCORERS[kind][mode].score(requests, no_bar)
    few = make_scorers(SUBJECTS[kind], batch_tokens=40)[mode].score(requests[::-1], no_bar)[::-1]
    np.testing.assert_allclose([s.nats for s in many], [s.nats for s in few], atol=1e-5)
    assert [s.greedy for s in many] == [s.greedy for s in few]
    assert many[-5:] == many[:5]


def test_what_is_nearest_to_the_target_is_kept():
    far, near = ids_of('x' * 60), ids_of('abcdefgh' * 8)
    causal = SCORERS['causal']['causal']
    long = Request(far + near[:30], near[:10])
    # The beginning of the text does not fit, so that the row begins in the middle of it.
    kept = Request((far + near[:30])[-(LENGTH + 1 - 10) :], near[:10])
    tokens = [*kept.context, *kept.target]
    log_LV = log_probs(SUBJECTS['causal'], tokens[:-1], range(LENGTH))
    expected = -sum(log_LV[place - 1, tokens[place]] for place in range(LENGTH + 1 - 10, LENGTH + 1))
    found = causal.score([long], no_bar)[0]
    assert found.nats == pytest.approx(expected, abs=1e-4)

    masked = SCORERS['masked']['pseudo']
    room = LENGTH - 1 - 4
    long = Request(far + near, ids_of('gold'), near + far)
    cut = Request((far + near)[-(room - room // 2) :], ids_of('gold'), (near + far)[: room // 2])
    short_left = Request(ids_of('ab'), ids_of('gold'), near + far)
    short_left_cut = Request(ids_of('ab'), ids_of('gold'), (near + far)[: room - 2])
    a, b, c, d = masked.score([long, cut, short_left, short_left_cut], no_bar)
    assert (a.nats, c.nats) == (pytest.approx(b.nats, abs=1e-5), pytest.approx(d.nats, abs=1e-5))
    assert a.nats != pytest.approx(c.nats, abs=1e-3)


@pytest.mark.parametrize(('kind', 'mode'), [('causal', 'causal'), ('masked', 'pseudo')])
def test_windows_score_every_token_once(kind, mode):
    scorer = SCORERS[kind][mode]
    ids = tuple(range(97, 123)) * 5
    for overlap in (1, 17):
        windows = scorer.windows(ids, overlap)
        assert sum((window.target for window in windows), ()) == ids
        assert all(window.context == ids[start - overlap : start] for window, start in starts(windows))
        assert all(len(w.context) + len(w.target) <= LENGTH + 1 for w in windows)
        scorer.engine.check(windows[0])
    assert scorer.windows(ids[: scorer.longest]) == [Request((), ids[: scorer.longest])]
    assert scorer.windows(()) == []
    with pytest.raises(ValueError, match='overlap must lie in'):
        scorer.windows(ids, LENGTH + 1)


def starts(windows):
    place = 0
    for window in windows:
        if place:
            yield window, place
        place += len(window.target)


def test_what_cannot_be_scored_is_refused():
    causal, masked = SCORERS['causal']['causal'], SCORERS['masked']['pseudo']
    assert (causal.longest, masked.longest) == (LENGTH, LENGTH - 1)
    for scorer in (causal, masked):
        scorer.engine.check(Request((), (97,) * scorer.longest))
        with pytest.raises(ValueError, match='can score at most'):
            scorer.score([Request((), (97,) * (scorer.longest + 1))], no_bar)
        with pytest.raises(ValueError, match='at least one token'):
            scorer.score([Request((97,), ())], no_bar)
    with pytest.raises(ValueError, match='what stands behind'):
        causal.score([Request((), (97,), (98,))], no_bar)


@pytest.mark.parametrize(
    ('kind', 'changes', 'modes', 'best'),
    [
        ('causal', {}, ['causal'], 'causal'),
        ('prefix', {}, ['causal'], 'causal'),
        ('masked', {}, ['pseudo', 'pseudo_l2r'], 'pseudo_l2r'),
        ('hybrid', {}, ['causal', 'pseudo', 'pseudo_l2r'], 'causal'),
        ('hybrid', {'objective__causal_share': 0.0}, ['pseudo', 'pseudo_l2r'], 'pseudo_l2r'),
        ('hybrid', {'objective__causal_share': 1.0}, ['causal'], 'causal'),
        ('span_corruption', {}, [], None),
        ('causal', {'objective__switch': 'masked@5'}, ['causal', 'pseudo', 'pseudo_l2r'], 'pseudo_l2r'),
    ],
)
def test_modes_are_those_that_a_model_was_trained_for(kind, changes, modes, best):
    subject = make_subject(kind, **changes) if changes or kind not in SUBJECTS else SUBJECTS[kind]
    assert sorted(make_scorers(subject)) == modes
    assert best_mode(subject) == best


def test_row_lengths_are_few_and_long_enough():
    lengths = [rounded(length) for length in range(1, 1025)]
    assert all(length <= found for length, found in enumerate(lengths, 1))
    assert all(found <= max(8, 1.3 * length + 4) for length, found in enumerate(lengths, 1))
    assert len(set(lengths)) < 60
