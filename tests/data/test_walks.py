"""Rows that go on where others ended: contiguous training, streams and windows of an evaluation."""

import numpy as np
import pytest

from gpt2jax.data import Rows, evaluation_batches, evaluation_streams, make_tokenizer, train_batch
from gpt2jax.data.rows import train_indices
from gpt2jax.data.walks import RUN

BYTES = make_tokenizer('bytes')
LENGTH = 8


def documents(seed=0, count=23, longest=60):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, random.integers(0, longest)).tolist() for _ in range(count)]


def make_rows(stream, cross_documents=False, contiguous=False, **options):
    return Rows(stream(documents(**options)), LENGTH, cross_documents, BYTES, contiguous)


def counted(rows, batches):
    """The place in the stream of every target that counts, in the order of the batches."""
    places = []
    for batch in batches:
        for row, tokens, segment, counts in zip(
            batch['row'], batch['tokens'], batch['segment'], batch['counted'], strict=True
        ):
            start = max(0, (row + 1) * rows.stride - rows.length)
            for index in np.flatnonzero(counts[1:] & (segment[1:] > 0)) + 1:
                assert tokens[index] == rows.tokens.tokens[start + index]
                places.append(start + index)
    return places


def continues(rows, row) -> bool:
    """Whether a row's first token is inside a document, or of any later row where documents are one text."""
    return row > 0 and (rows.cross_documents or rows.tokens.tokens[row * LENGTH] != BYTES.end_of_text)


@pytest.mark.parametrize('cross_documents', [False, True])
def test_contiguous_rows_go_on_where_those_of_the_step_before_ended(stream, cross_documents):
    rows = make_rows(stream, cross_documents, contiguous=True)
    before = train_indices(rows, 3, 0, 4)
    for step in range(1, 3 * len(rows)):
        indices, batch = train_indices(rows, 3, step, 4), train_batch(rows, 3, step, 4)
        assert indices == [(index + 1) % len(rows) for index in before]
        assert batch['continues'].tolist() == [continues(rows, index) for index in indices]
        np.testing.assert_array_equal(batch['tokens'], rows.batch(indices)['tokens'])
        np.testing.assert_array_equal(batch['row'], np.arange(4))
        before = indices


@pytest.mark.parametrize('batch_size', [1, 4, 5, 1000])
def test_the_lanes_of_a_contiguous_epoch_cover_the_split(stream, batch_size):
    rows = make_rows(stream, contiguous=True)
    steps = -(-len(rows) // batch_size)
    seen = np.concatenate([train_indices(rows, 3, step, batch_size) for step in range(steps)])
    counts = np.bincount(seen, minlength=len(rows))
    assert (counts > 0).all()
    assert len(seen) - len(rows) < max(batch_size, steps)
    assert train_indices(rows, 4, 0, batch_size) != train_indices(rows, 3, 0, batch_size)


def test_the_parts_of_hosts_are_those_of_the_contiguous_batch(stream):
    rows = make_rows(stream, contiguous=True)
    whole, parts = train_batch(rows, 3, 5, 6), [train_batch(rows, 3, 5, 6, np.arange(i, 6, 2)) for i in (0, 1)]
    for name, array in whole.items():
        for start, part in enumerate(parts):
            np.testing.assert_array_equal(part[name], array[start::2])


def test_shuffled_rows_continue_nothing(stream):
    rows = make_rows(stream)
    assert not any(train_batch(rows, 0, step, 4)['continues'].any() for step in range(20))
    assert not any(batch['continues'].any() for batch in evaluation_batches(rows, 4))


@pytest.mark.parametrize('cross_documents', [False, True])
@pytest.mark.parametrize('batch_size', [1, 2, 5, 16, 200])
def test_streams_count_every_token_once(stream, batch_size, cross_documents):
    rows = make_rows(stream, cross_documents)
    walk = evaluation_streams(rows, batch_size)
    batches = list(walk)
    assert len(walk) == len(batches)
    assert sorted(counted(rows, batches)) == list(range(1, rows.tokens.num_tokens))
    assert len(batches) < 2 + len(rows) / batch_size + (0 if cross_documents else 60 / LENGTH)


@pytest.mark.parametrize('cross_documents', [False, True])
@pytest.mark.parametrize('num_rows', [0, 24])
def test_the_row_above_is_the_one_before_wherever_a_lane_goes_on(stream, num_rows, cross_documents):
    rows = make_rows(stream, cross_documents)
    before = None
    for batch in evaluation_streams(rows, 5, num_rows=num_rows):
        for lane, row in enumerate(batch['row']):
            if batch['continues'][lane]:
                assert continues(rows, row)
                assert before[lane] == row - 1
        before = batch['row']


def test_what_counts_has_read_its_document_from_the_beginning(stream):
    """In some row above it in its lane, or in its own: so no figure depends on where lanes begin."""
    rows = make_rows(stream, longest=100)
    offsets, reach = rows.tokens.offsets, None
    for batch in evaluation_streams(rows, 6):
        reach = np.full(6, len(rows)) if reach is None else reach
        reach = np.where(batch['continues'], reach, batch['row'])  # the row that the lane has read without a gap since
        for lane in np.flatnonzero(batch['counted'].any(axis=1)):
            row = batch['row'][lane]
            document = offsets[np.searchsorted(offsets, row * LENGTH, side='right') - 1]
            assert reach[lane] * LENGTH <= document or not continues(rows, row)


def test_a_few_rows_of_streams_are_spread_over_the_split(stream):
    rows = make_rows(stream, cross_documents=True, count=100)
    places = np.array(counted(rows, evaluation_streams(rows, 4, num_rows=3 * RUN)))
    assert len(places) == 3 * RUN * LENGTH == len(set(places))
    for third in range(3):
        inside = (places > third * len(rows) // 3 * LENGTH) & (places <= ((third + 1) * len(rows) // 3) * LENGTH)
        assert inside.sum() == RUN * LENGTH
    other = counted(rows, evaluation_streams(rows, 7, num_rows=3 * RUN))
    assert sorted(other) == sorted(places)


def test_one_long_document_is_one_lane(stream):
    rows = Rows(stream([[1] * 500]), LENGTH, False, BYTES)
    assert sorted(counted(rows, evaluation_streams(rows, 4))) == list(range(1, 502))
    assert counted(rows, evaluation_streams(rows, 4, num_rows=10)) == list(range(1, 81))


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize(('context', 'stride'), [(8, 3), (20, 7), (16, 1), (9, 8), (2000, 5)])
def test_windows_count_every_token_once_behind_all_the_context_there_is(stream, context, stride, batch_size):
    rows = make_rows(stream).windows(context, stride)
    places = counted(rows, evaluation_batches(rows, batch_size))
    assert places == list(range(1, rows.tokens.num_tokens))
    for batch in evaluation_batches(rows, 1):
        (row,), inside = batch['row'], np.flatnonzero(batch['counted'][0])
        assert len(inside) == stride
        first = max(0, (row + 1) * stride - context) + inside[0]
        assert inside[0] == min(first, context - stride + 1)  # tokens before the first that counts


def test_windows_without_overlap_are_the_rows(stream):
    rows = make_rows(stream)
    assert rows.windows(LENGTH, LENGTH) is rows
    twice = rows.windows(2 * LENGTH, 2 * LENGTH)
    other = Rows(rows.tokens, 2 * LENGTH, False, BYTES)
    for batch, expected in zip(evaluation_batches(twice, 3), evaluation_batches(other, 3), strict=True):
        assert batch.keys() == expected.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])
