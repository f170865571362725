"""Rows and batches: nothing lost, nothing twice, the same on any number of hosts and after any restart."""

import numpy as np
import pytest

from gpt2jax.data import Rows, Tokens, evaluation_batches, make_tokenizer, train_batch
from gpt2jax.data.rows import batch_shapes, permute

BYTES = make_tokenizer('bytes')
END, PAD = BYTES.end_of_text, BYTES.pad
FIRST = [225, 407, 133, 452, 477, 936, 666, 446]


def random_documents(seed, count=23, longest=40):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, generator.integers(0, longest)).tolist() for _ in range(count)]


def targets(batches):
    """Every (token, was it real) that the batches predict, in order."""
    tokens = np.concatenate([batch['tokens'][:, 1:].reshape(-1) for batch in batches])
    segment = np.concatenate([batch['segment'][:, 1:].reshape(-1) for batch in batches])
    return tokens[segment > 0]


@pytest.mark.parametrize('cross_documents', [False, True])
@pytest.mark.parametrize(('length', 'batch_size'), [(1, 1), (7, 3), (16, 4), (1000, 2)])
def test_evaluation_predicts_every_token_exactly_once(stream, length, batch_size, cross_documents):
    tokens = stream(random_documents(length))
    rows = Rows(tokens, length, cross_documents, BYTES)
    batches = list(evaluation_batches(rows, batch_size))
    np.testing.assert_array_equal(targets(batches), tokens.tokens[1:])
    assert {batch['tokens'].shape for batch in batches} == {(batch_size, length + 1)}


def test_a_stream_that_fills_its_rows_exactly_has_no_padding(stream):
    tokens = stream([[1] * 7, [2] * 7])  # 17 tokens, 16 targets
    rows = Rows(tokens, 8, False, BYTES)
    assert len(rows) == 2
    assert (rows.batch(np.arange(2))['segment'] > 0).all()


def test_segments_restart_with_each_document(stream):
    tokens = stream([[1, 2], [3], [], [4, 5, 6]])
    batch = Rows(tokens, 4, False, BYTES).batch(np.arange(3))
    # Stream: E 1 2 E 3 E E 4 5 6 E; rows overlap by one token.
    assert batch['tokens'].tolist() == [[END, 1, 2, END, 3], [3, END, END, 4, 5], [5, 6, END, PAD, PAD]]
    assert batch['segment'].tolist() == [[1, 1, 1, 2, 2], [1, 2, 3, 3, 3], [1, 1, 2, 0, 0]]
    crossing = Rows(tokens, 4, True, BYTES).batch(np.arange(3))
    assert crossing['segment'].tolist() == [[1] * 5, [1] * 5, [1, 1, 1, 0, 0]]


def test_segments_follow_the_offsets_of_the_documents(stream):
    tokens = stream(random_documents(3, count=60, longest=9))
    rows = Rows(tokens, 13, False, BYTES)
    batch = rows.batch(np.arange(len(rows)))
    for i in range(len(rows)):
        positions = np.arange(i * 13, min(i * 13 + 14, tokens.num_tokens))
        document = np.searchsorted(tokens.offsets, positions, side='right')
        np.testing.assert_array_equal(batch['segment'][i, : len(positions)], document - document[0] + 1)


def test_a_row_past_the_end_is_all_padding(stream):
    rows = Rows(stream([[1, 2, 3]]), 4, False, BYTES)
    batch = rows.batch(np.array([0, 1, 50]))
    assert len(rows) == 1
    assert (batch['tokens'][1:] == PAD).all()
    assert (batch['segment'][1:] == 0).all()
    with pytest.raises(IndexError):
        rows.batch(np.array([-1]))


def test_batches_are_small_integers_and_number_their_rows(stream):
    batch = train_batch(Rows(stream(random_documents(0)), 8, False, BYTES), seed=0, step=0, batch_size=5)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == batch_shapes(5, 8)
    assert batch['row'].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('batch_size', [1, 4, 7])
def test_evaluation_numbers_rows_by_their_place_in_the_split(stream, batch_size):
    rows = Rows(stream(random_documents(0)), 8, False, BYTES)
    numbers = np.concatenate([batch['row'] for batch in evaluation_batches(rows, batch_size)])
    assert numbers[: len(rows)].tolist() == list(range(len(rows)))


@pytest.mark.parametrize('hosts', [2, 4])
def test_the_parts_of_all_hosts_join_to_the_global_batch(stream, hosts):
    rows = Rows(stream(random_documents(1)), 8, False, BYTES)
    share = 8 // hosts
    slices = [slice(i * share, (i + 1) * share) for i in range(hosts)]
    whole = [train_batch(rows, 5, step, 8) for step in range(12)] + list(evaluation_batches(rows, 8))
    parts = [
        [train_batch(rows, 5, step, 8, part) for step in range(12)] + list(evaluation_batches(rows, 8, part))
        for part in slices
    ]
    for i, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([part[i][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


@pytest.mark.parametrize('batch_size', [1, 6, 100])
def test_each_epoch_has_every_row_once_in_another_order(stream, batch_size):
    tokens = stream([[n % 256] for n in range(60)])
    rows = Rows(tokens, 2, False, BYTES)  # a row a document: its first token is E, its second the document
    size = len(rows)
    steps = -(-3 * size // batch_size)
    seen = np.concatenate([train_batch(rows, 7, step, batch_size)['tokens'][:, 1] for step in range(steps)])
    epochs = seen[: 3 * size].reshape(3, size)
    for epoch in epochs:
        assert sorted(epoch) == list(range(60))
    assert not (epochs[0] == epochs[1]).all()
    assert not (epochs[1] == epochs[2]).all()


def test_a_resumed_run_sees_the_same_batches(stream):
    tokens = stream(random_documents(2))
    straight = [train_batch(Rows(tokens, 8, False, BYTES), 3, step, 4) for step in range(20)]
    fresh = Rows(tokens, 8, False, BYTES)
    for step in (19, 4, 11):
        for name, array in train_batch(fresh, 3, step, 4).items():
            np.testing.assert_array_equal(array, straight[step][name])
    other = train_batch(fresh, 4, 4, 4)
    assert not (other['tokens'] == straight[4]['tokens']).all()


@pytest.mark.parametrize('size', [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_permute_is_a_permutation(size):
    np.testing.assert_array_equal(np.sort(permute(np.arange(size), size, 1, 2)), np.arange(size))


def test_permute_stays_what_it_was():
    # A change here would silently give resumed runs other batches.
    assert permute(np.arange(8), 1000, 0, 0).tolist() == FIRST


def test_permute_sends_each_place_everywhere():
    size, draws = 10, 2000
    counts = np.zeros((size, size), int)
    for epoch in range(draws):
        counts[np.arange(size), permute(np.arange(size), size, 0, epoch)] += 1
    expected = draws / size
    assert ((counts - expected) ** 2 / expected).sum() < 81 + 5 * np.sqrt(2 * 81)  # chi-squared, five sigma


def test_a_length_below_one_is_refused(stream):
    with pytest.raises(ValueError, match='length'):
        Rows(stream([[1]]), 0, False, BYTES)


def words(tokenizer, text):
    """The text cut where the rows say that words begin."""
    ids = [tokenizer.end_of_text, *tokenizer.encode(text).tolist()]
    tokens = Tokens(np.array([*ids, tokenizer.end_of_text], np.uint16), np.array([0, len(ids)]), len(ids) - 1)
    begins = Rows(tokens, len(ids), False, tokenizer).batch(np.array([0]))['begins'][0]
    pieces = []
    for token, new in zip([*ids, tokenizer.end_of_text], begins, strict=True):
        pieces += [b''] if new else []
        pieces[-1] += tokenizer.decode_bytes([token])
    return [piece.decode() for piece in pieces]


def test_words_begin_where_the_tokenizer_says(gpt2):
    end = '<|endoftext|>'
    text = "Unbelievable, isn't it? Überraschung  x_1 (antidisestablishmentarianism)."
    found = [end, 'Unbelievable', ',', ' isn', "'t", ' it', '?', ' Überraschung', ' ', ' x', '_', '1', ' (']
    assert words(gpt2, text) == [*found, 'antidisestablishmentarianism', ').', end]
    assert words(BYTES, 'to be, ñ\n') == [end, 'to', ' ', 'be', ',', ' ', 'ñ', '\n', end]


def test_a_row_begins_with_a_word_though_it_may_be_in_the_middle_of_one():
    tokens = Tokens(np.array([END, *b'abcdef', END], np.uint16), np.array([0, 7]), 6)
    begins = Rows(tokens, 3, False, BYTES).batch(np.arange(3))['begins']
    assert begins.tolist() == [[True, True, False, False], [True, False, False, False], [True, True, True, True]]
