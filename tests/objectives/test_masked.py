"""BERT's masking: exact counts, whole words, spans of the drawn lengths, the share of each replacement."""

import functools

import jax
import numpy as np
import pytest
from helpers import one_device_setup, tiny_config

from gpt2jax.objectives import make_objective
from gpt2jax.objectives.hiding import draw_spans, most_hidden, span_length_shares

LENGTH = 64
END, MASK, PAD, SEP = 256, 257, 258, 259


@functools.cache
def compiled(length, options):
    changes = {f'objective__{key}': value for key, value in options}
    return jax.jit(make_objective(tiny_config(data__length=length, objective__kind='masked', **changes)))


def mask(batch, seed=0, progress=1.0, **options):
    """(inputs, hidden) of a batch, as NumPy arrays."""
    length = batch['tokens'].shape[1] - 1
    example = compiled(length, tuple(options.items()))(batch, jax.random.key(seed), progress)
    np.testing.assert_array_equal(example.targets, batch['tokens'][:, :-1])
    np.testing.assert_array_equal(example.order, np.zeros_like(example.order))
    assert example.visibility == 'full'
    return np.asarray(example.inputs), np.asarray(example.weights) > 0


def text(rows, length=LENGTH, seed=0, borders=0.0, words=0.4):
    """Random bytes; a share of the tokens begins a document, another a word."""
    random = np.random.default_rng(seed)
    shape = (rows, length + 1)
    tokens_BL = random.integers(0, 256, shape, dtype=np.int32)
    starts_BL = random.random(shape) < borders
    tokens_BL[starts_BL] = END
    begins_BL = starts_BL | (random.random(shape) < words)
    begins_BL[:, 0] = True
    segment_BL = 1 + np.cumsum(starts_BL, axis=1, dtype=np.int32)
    index_B = np.arange(rows, dtype=np.int32)
    texts = {'tokens': tokens_BL, 'segment': segment_BL, 'begins': begins_BL}
    return texts | {'continues': np.zeros(rows, bool), 'row': index_B}


def padded(batch):
    """Row i keeps its first i tokens, and the rest is padding."""
    padding_BL = np.arange(batch['tokens'].shape[1]) >= np.arange(len(batch['tokens']))[:, None]
    return batch | {
        'tokens': np.where(padding_BL, PAD, batch['tokens']).astype(np.int32),
        'segment': np.where(padding_BL, 0, batch['segment']).astype(np.int32),
    }


@pytest.mark.parametrize('rate', [0.15, 0.3, 0.4, 0.85, 1.0])
@pytest.mark.parametrize(
    'options', [{}, {'whole_words': True}, {'mean_span': 3.8}, {'mean_span': 5.0, 'whole_words': True}], ids=str
)
def test_exactly_the_rounded_share_of_the_real_tokens_is_hidden(rate, options):
    """Rows of every count of real tokens, special tokens among the others."""
    batch = padded(text(LENGTH + 2, borders=0.05))
    _, hidden_BL = mask(batch, rate=rate, **options)
    tokens_BL, segment_BL = batch['tokens'][:, :-1], batch['segment'][:, :-1]
    may_hide_BL = (segment_BL > 0) & (tokens_BL < 256)
    assert not (hidden_BL & ~may_hide_BL).any()
    assert hidden_BL.sum(1).tolist() == [round(rate * real) for real in may_hide_BL.sum(1).tolist()]


@pytest.mark.parametrize('length', [1, 2, 3, 7, 64, 1024])
@pytest.mark.parametrize(('rate', 'start_rate'), [(0.15, 0.0), (0.15, 0.6), (0.5, 0.1), (1.0, 0.0), (1e-3, 0.0)])
def test_the_promised_count_covers_every_row(length, rate, start_rate):
    config = tiny_config(objective__rate=rate, objective__start_rate=start_rate).objective
    largest = max(round(share * real) for share in (rate, start_rate) for real in range(length + 1))
    assert most_hidden(config, length) == max(1, largest)


def test_the_shares_of_mask_random_and_kept_are_those_of_the_config():
    batch = text(200)
    inputs_BL, hidden_BL = mask(batch, rate=0.5, mask_share=0.6, random_share=0.3)
    tokens_BL = batch['tokens'][:, :-1]
    np.testing.assert_array_equal(inputs_BL[~hidden_BL], tokens_BL[~hidden_BL])
    count, masked = hidden_BL.sum(), (inputs_BL == MASK).sum()
    kept = (inputs_BL == tokens_BL)[hidden_BL].sum()
    replaced = count - masked - kept
    for found, share in ((masked, 0.6), (kept, 0.1 + 0.3 / 256), (replaced, 0.3 * 255 / 256)):
        assert abs(found - share * count) < 5 * np.sqrt(count * share * (1 - share))
    strangers = inputs_BL[hidden_BL & (inputs_BL != tokens_BL) & (inputs_BL != MASK)]
    assert strangers.max() < 256
    counts = np.bincount(strangers, minlength=256)
    expected = replaced / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize(('mask_share', 'random_share', 'expected'), [(1.0, 0.0, MASK), (0.0, 0.0, None)])
def test_extreme_shares_are_exact(mask_share, random_share, expected):
    batch = text(50)
    inputs_BL, hidden_BL = mask(batch, mask_share=mask_share, random_share=random_share)
    wanted = batch['tokens'][:, :-1] if expected is None else np.full_like(inputs_BL, expected)
    np.testing.assert_array_equal(inputs_BL[hidden_BL], wanted[hidden_BL])


def test_every_token_is_as_likely_to_be_hidden():
    batch = {key: np.repeat(array[:1], 4000, 0) for key, array in text(1, borders=0.0).items()}
    batch['row'] = np.arange(4000, dtype=np.int32)
    _, hidden_BL = mask(batch, rate=0.25)
    share = hidden_BL.mean(0)
    assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 4000)


def units_of(batch, whole_words):
    """[B, L] the unit of each token: a new one where a word, a document or a special token begins, and after it."""
    tokens_BL, segment_BL, begins_BL = (batch[name][:, :-1] for name in ('tokens', 'segment', 'begins'))
    units_BL = np.zeros_like(tokens_BL)
    for tokens, segment, begins, units in zip(tokens_BL, segment_BL, begins_BL, units_BL, strict=True):
        for i in range(1, len(tokens)):
            fresh = not whole_words or begins[i] or segment[i] != segment[i - 1] or max(tokens[i - 1 : i + 1]) >= 256
            units[i] = units[i - 1] + fresh
    return units_BL


def test_words_are_hidden_whole_but_for_the_last_one():
    batch = text(100, borders=0.05)
    _, hidden_BL = mask(batch, rate=0.3, whole_words=True)
    for units, hidden in zip(units_of(batch, True), hidden_BL, strict=True):
        cut = [unit for unit in set(units[hidden]) if not hidden[units == unit].all()]
        assert len(cut) <= 1
        for unit in cut:
            inside = hidden[units == unit]
            assert inside[: inside.sum()].all()  # cut from the left
    assert any(hidden[units == unit].sum() > 1 for unit in set(units))


def spans_of(rows, length, borders, **options):
    """The batch and the number of each token's span, [B, L]."""
    config = tiny_config(**{f'objective__{key}': value for key, value in options.items()}).objective
    batch = text(rows, length, borders=borders)
    tokens_BL, segment_BL, begins_BL = (batch[name][:, :-1] for name in ('tokens', 'segment', 'begins'))
    keys_B = jax.random.split(jax.random.key(0), rows)
    draw = jax.jit(jax.vmap(functools.partial(draw_spans, config)))
    return batch, np.asarray(draw(keys_B, tokens_BL < 256, begins_BL, segment_BL))


def inner_spans(units, spans, tokens):
    """Lengths, in units, of the spans of a row that nothing has cut: they begin after another one, and so they end."""
    for span in range(1, spans[-1]):
        first, last = np.flatnonzero(spans == span)[[0, -1]]
        if max(tokens[first - 1 : last + 2]) < 256:
            yield units[last] - units[first] + 1


@pytest.mark.parametrize('whole_words', [False, True])
def test_spans_have_the_lengths_of_the_cut_off_geometric_distribution(whole_words):
    batch, spans_BL = spans_of(500, 512, 0.002, mean_span=3.0, max_span=6, whole_words=whole_words)
    rows = zip(units_of(batch, whole_words), spans_BL, batch['tokens'][:, :-1], strict=True)
    lengths = np.array([length for row in rows for length in inner_spans(*row)])
    found, expected = np.bincount(lengths, minlength=7)[1:], span_length_shares(3.0, 6)
    assert found.sum() > 10_000
    # A long span is cut more often by what ends a run of text, and so it is left out more often in this count.
    np.testing.assert_allclose(found / found.sum(), expected, atol=0.02)


@pytest.mark.parametrize('options', [{}, {'whole_words': True}, {'mean_span': 4.0, 'whole_words': True}], ids=str)
def test_spans_are_whole_units_inside_one_document(options):
    batch, spans_BL = spans_of(100, 64, 0.02, **options)
    for units, spans, segment in zip(
        units_of(batch, options.get('whole_words')), spans_BL, batch['segment'][:, :-1], strict=True
    ):
        assert spans[0] == 0
        assert set(np.diff(spans)) <= {0, 1}
        for unit in set(units):
            assert len(set(spans[units == unit])) == 1
        for span in set(spans):
            assert len(set(segment[spans == span])) == 1
    if options.get('mean_span', 1.0) == 1:
        np.testing.assert_array_equal(spans_BL, units_of(batch, options.get('whole_words')))


def test_spans_are_hidden_whole_but_for_the_last_one_and_each_is_as_likely():
    """Three words, which are three documents, of 1, 3 and 8 tokens."""
    rows, segment_L = 3000, np.repeat([1, 2, 3, 4], [1, 3, 8, 1])
    batch = {key: np.repeat(array[:1], rows, 0) for key, array in text(1, length=12).items()}
    batch |= {'segment': np.tile(segment_L, (rows, 1)).astype(np.int32), 'row': np.arange(rows, dtype=np.int32)}
    batch['begins'] = np.zeros((rows, 13), bool)
    _, hidden_BL = mask(batch, rate=1 / 12, whole_words=True)
    assert (hidden_BL.sum(1) == 1).all()
    first = hidden_BL[:, [0, 1, 4]].mean(0)
    assert first.sum() == 1
    assert np.abs(first - 1 / 3).max() < 5 * np.sqrt(2 / 9 / rows)
    _, hidden_BL = mask(batch, rate=0.5, whole_words=True)
    assert (hidden_BL.sum(1) == 6).all()
    counts_B3 = np.stack([hidden_BL[:, segment_L[:-1] == segment].sum(1) for segment in (1, 2, 3)], 1)
    assert {tuple(counts) for counts in counts_B3} == {(1, 3, 2), (1, 0, 5), (0, 3, 3), (0, 0, 6)}
    assert (np.diff(hidden_BL[:, 4:].astype(int)) <= 0).all()  # cut from the left


def test_span_lengths_are_those_of_spanbert():
    """SpanBERT, section 3.1: p = 0.2 cut off at 10 gives a mean of about 3.8."""
    shares = span_length_shares(5.0, 10)
    assert shares.sum() == pytest.approx(1)
    assert shares[1] / shares[0] == pytest.approx(0.8)
    assert (shares * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)


@pytest.mark.parametrize(('progress', 'expected'), [(0.0, 0.6), (0.25, 0.5), (0.5, 0.4), (1.0, 0.2)])
def test_the_rate_moves_in_a_line_over_the_run(progress, expected):
    _, hidden_BL = mask(text(4, length=100), progress=progress, rate=0.2, start_rate=0.6)
    assert hidden_BL.sum(1).tolist() == [round(100 * expected)] * 4


def test_training_moves_along_that_line():
    config = tiny_config(
        data__length=20, objective__kind='masked', objective__rate=0.1, objective__start_rate=0.5, training__steps=4,
        optimizer__warmup_steps=1,
    )  # fmt: skip
    setup, counts = one_device_setup(config), []
    state, step = setup.initial_state(), setup.train_step()
    for _ in range(4):
        state, metrics = step(state, text(8, length=20))
        counts.append(int(metrics['predicted']) // 8)
    assert counts == [10, 8, 6, 4]
