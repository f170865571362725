"""T5's objective against a plain loop over documents and spans."""

import functools

import jax
import numpy as np
import pytest
from helpers import tiny_config

from gpt2jax.data import vocabulary_of
from gpt2jax.objectives import make_objective
from gpt2jax.objectives.span_corruption import rearrange

MASK, PAD, SEP = 257, 258, 259
LENGTH = 24


def plain(tokens, segment, hidden):
    """(tokens, segment, predicted, order) of a row: the text that fits, each document with its spans behind it."""

    def layout(end):
        out = []
        for document in sorted(set(segment[:end]) - {0}):
            text, behind, open_span = [], [], False
            for i in [i for i in range(end) if segment[i] == document]:
                if not hidden[i]:
                    text.append((tokens[i], False))
                elif not open_span:
                    text.append((MASK, False))
                    behind += [(SEP, bool(behind)), (tokens[i], True)]
                else:
                    behind.append((tokens[i], True))
                open_span = hidden[i]
            behind += [(SEP, True)] if behind else []
            prefix = len(text) + 1
            for position, (token, predicted) in enumerate(text + behind):
                out.append((token, document, predicted, max(position - prefix + 1, 0)))
        return out

    real = int((segment > 0).sum())
    out = next(out for out in map(layout, range(real, -1, -1)) if len(out) <= len(tokens))
    return np.array(out + [(PAD, 0, False, 0)] * (len(tokens) - len(out)))


def random_rows(rows, seed, hidden_share, borders):
    random = np.random.default_rng(seed)
    for _ in range(rows):
        segment_L = 1 + np.cumsum(random.random(LENGTH) < borders, dtype=np.int32)
        segment_L[random.integers(1, 2 * LENGTH) :] = 0
        hidden_L = (random.random(LENGTH) < hidden_share) & (segment_L > 0)
        yield random.integers(0, 256, LENGTH, dtype=np.int32), segment_L, hidden_L


@pytest.mark.parametrize('hidden_share', [0.0, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize('borders', [0.0, 0.1, 0.5])
def test_a_row_is_what_a_plain_loop_makes_of_it(hidden_share, borders):
    function = jax.jit(functools.partial(rearrange, vocabulary=vocabulary_of('bytes')))
    for tokens_L, segment_L, hidden_L in random_rows(60, 0, hidden_share, borders):
        tokens, segment, prefix, predicted = map(np.asarray, function(tokens_L, segment_L, hidden_L))
        expected = plain(tokens_L, segment_L, hidden_L)
        np.testing.assert_array_equal(tokens, expected[:, 0])
        np.testing.assert_array_equal(segment, expected[:, 1])
        np.testing.assert_array_equal(predicted, expected[:, 2])
        for document in set(segment) - {0}:
            places = np.flatnonzero(segment == document)
            order = np.maximum(np.arange(len(places)) - prefix[places] + 1, 0)
            np.testing.assert_array_equal(order, expected[places, 3])


def test_the_example_of_the_docstring():
    letters = np.array([*b'abcdef'] + [PAD] * 12, np.int32)
    segment_L = np.array([1] * 6 + [0] * 12, np.int32)
    hidden_L = np.isin(letters, [*b'bce'])
    tokens, *_ = rearrange(letters, segment_L, hidden_L, vocabulary_of('bytes'))
    names = {MASK: '?', SEP: '|', PAD: '.'}
    assert ''.join(names.get(token, chr(min(token, 255))) for token in tokens.tolist()) == 'a?d?f|bc|e|.......'


@pytest.fixture(name='example', scope='module')
def make_example():
    """100 rows of 64 tokens, two documents each, with a mean span of 3."""
    config = tiny_config(
        data__length=64, objective__kind='span_corruption', objective__rate=0.2, objective__mean_span=3.0
    )
    random = np.random.default_rng(0)
    batch = {
        'tokens': random.integers(0, 256, (100, 65), dtype=np.int32),
        'segment': np.repeat([[1, 2]], [30, 35], axis=1).repeat(100, 0).astype(np.int32),
        'begins': np.ones((100, 65), bool),
        'row': np.arange(100, dtype=np.int32),
    }
    return batch, jax.jit(make_objective(config))(batch, jax.random.key(0), 1.0)


def test_the_prediction_at_a_place_is_the_token_that_stands_next(example):
    _, example = example
    weights_BL, inputs_BL = np.asarray(example.weights) > 0, np.asarray(example.inputs)
    assert not weights_BL[:, -1].any()
    np.testing.assert_array_equal(np.asarray(example.targets)[:, :-1], inputs_BL[:, 1:])
    next_segment_BL = np.asarray(example.segment)[:, 1:]
    assert (next_segment_BL == np.asarray(example.segment)[:, :-1])[weights_BL[:, :-1]].all()


def test_what_is_predicted_is_everything_behind_the_first_separator(example):
    _, example = example
    order_BL, weights_BL = np.asarray(example.order), np.asarray(example.weights)
    behind_BL = (order_BL > 0) & (np.asarray(example.segment) > 0)
    np.testing.assert_array_equal(weights_BL[:, :-1] > 0, behind_BL[:, 1:])
    assert not behind_BL[:, 0].any()


def test_each_document_has_as_many_masks_as_spans_and_the_text_can_be_put_together_again(example):
    batch, example = example
    for b in range(100):
        pieces = []
        for document in (1, 2):
            tokens = np.asarray(example.inputs)[b][np.asarray(example.segment)[b] == document].tolist()
            text, *spans = ' '.join(map(str, tokens)).split(f' {SEP}')
            spans = [span.split() for span in spans[:-1]]
            for token in text.split():
                pieces += spans.pop(0) if token == str(MASK) else [token]
            assert spans == []
        found = np.array(pieces, int)
        np.testing.assert_array_equal(found, batch['tokens'][b, : len(found)])
        assert len(found) >= 40


def test_rows_are_full_but_for_what_one_more_token_would_need(example):
    """A token more needs four places at the most: itself, its mask and two separators."""
    _, example = example
    assert ((np.asarray(example.segment) == 0).sum(1) <= 3).all()


def test_about_the_share_that_the_config_names_is_hidden(example):
    _, example = example
    inputs_BL = np.asarray(example.inputs)
    predicted = (np.asarray(example.weights) > 0).sum()
    spans = (inputs_BL == MASK).sum()
    hidden = predicted - spans
    text = (inputs_BL < 256).sum()
    assert hidden / text == pytest.approx(0.2, abs=0.02)
    assert 2 < hidden / spans < 4
