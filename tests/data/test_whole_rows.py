"""Rows of whole documents: each document in one row once, uncut, or counted as left out."""

import itertools

import numpy as np
import pytest
from helpers import tiny_config

from gpt2jax.batches import rows_of
from gpt2jax.data import evaluation_batches, make_tokenizer, train_batch
from gpt2jax.data.rows import train_indices
from gpt2jax.data.whole_rows import WholeRows
from gpt2jax.errors import UserError

BYTES = make_tokenizer('bytes')
END, PAD, SEP = BYTES.end_of_text, BYTES.pad, BYTES.sep


def random_documents(seed, count=60, longest=14):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, random.integers(0, longest + 1)).tolist() for _ in range(count)]


def random_pairs(seed, count=60):
    random = np.random.default_rng(seed)
    sides = [[random.integers(0, 256, random.integers(1, 9)).tolist() for _ in range(2)] for _ in range(count)]
    return [[*source, SEP, *target] for source, target in sides]


def documents_in(row):
    """The documents of a row of ids, each between two <|endoftext|>; what stands behind the last one is padding."""
    ends = np.flatnonzero(row == END)
    assert (row[ends[-1] + 1 :] == PAD).all()
    return [row[start + 1 : end].tolist() for start, end in itertools.pairwise(ends)]


def in_plain_python(documents, length, answers):
    """Greedy packing: (rows of documents, those left out)."""
    rows, row, left_out = [], [], 0

    def size(row):
        return sum(1 + len(document) for document in row)

    def answered(row):
        return sum(len(document) - document.index(SEP) for document in row if SEP in document)

    for document in documents:
        fits = size([document]) <= length and answered([document]) <= answers
        if row and (not fits or size([*row, document]) > length or answered([*row, document]) > answers):
            rows.append(row)
            row = []
        left_out += not fits
        row += [document] if fits else []
    return rows + ([row] if row else []), left_out


@pytest.mark.parametrize('length', [8, 13, 30, 1000])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_rows_are_those_of_greedy_packing(stream, length, seed):
    documents = random_documents(seed)
    rows = WholeRows(stream(documents), length, False, BYTES)
    found = [documents_in(row) for row in rows.batch(np.arange(len(rows)))['tokens']]
    assert (found, rows.left_out) == in_plain_python(documents, length, 10**9)


@pytest.mark.parametrize('answers', [4, 6, 15])
@pytest.mark.parametrize('length', [16, 30])
def test_a_row_has_no_more_answers_than_it_is_told(stream, length, answers):
    documents = random_pairs(answers)
    rows = WholeRows(stream(documents), length, False, BYTES, answers=answers)
    batch = rows.batch(np.arange(len(rows)))
    assert ([documents_in(row) for row in batch['tokens']], rows.left_out) == in_plain_python(
        documents, length, answers
    )


def test_segments_count_documents_and_padding_has_none(stream):
    rows = WholeRows(stream([[1, 2], [3], [4] * 9]), 8, False, BYTES)
    batch = rows.batch(np.array([0]))
    assert batch['tokens'][0].tolist() == [END, 1, 2, END, 3, END, PAD, PAD, PAD]
    assert batch['segment'][0].tolist() == [1, 1, 1, 2, 2, 3, 0, 0, 0]
    assert (len(rows), rows.left_out) == (1, 1)


def test_documents_of_a_row_may_share_a_segment(stream):
    rows = WholeRows(stream([[1, 2], [3], [4] * 4]), 8, True, BYTES, contiguous=True)
    assert rows.batch(np.array([0]))['segment'][0].tolist() == [1] * 6 + [0] * 3
    assert rows.goes_on(np.array([0, 1, 2])).tolist() == [False, True, False]


def test_a_row_may_be_full_to_its_last_place(stream):
    rows = WholeRows(stream([[1, 2, 3], [4, 5, 6]]), 8, False, BYTES)
    assert rows.batch(np.array([0]))['tokens'][0].tolist() == [END, 1, 2, 3, END, 4, 5, 6, END]


def test_evaluation_reads_every_document_that_fits_once(stream):
    documents = random_documents(5)
    rows = WholeRows(stream(documents), 10, False, BYTES)
    found = [
        document
        for batch in evaluation_batches(rows, 4)
        for row, segment in zip(batch['tokens'], batch['segment'], strict=True)
        if segment.any()
        for document in documents_in(row)
    ]
    fitting = [document for document in documents if len(document) < 10]
    assert found == fitting
    assert rows.left_out == len(documents) - len(fitting) > 0


def test_an_epoch_has_every_row_once_and_is_a_pure_function_of_seed_and_step(stream):
    tokens = stream(random_documents(6))
    rows = WholeRows(tokens, 16, False, BYTES)
    order = [index for step in range(len(rows)) for index in train_indices(rows, 3, step, 1)]
    assert sorted(order) == list(range(len(rows))) != order
    again = train_batch(WholeRows(tokens, 16, False, BYTES), 3, 7, 4)
    np.testing.assert_array_equal(again['tokens'], train_batch(rows, 3, 7, 4)['tokens'])


@pytest.mark.parametrize('kind', ['causal', 'masked', 'prefix', 'hybrid', 'span_corruption'])
def test_any_objective_may_have_whole_documents(stream, kind):
    config = tiny_config(objective__kind=kind, data__whole_documents=True)
    rows = rows_of(config, stream(random_documents(1)), BYTES)
    assert isinstance(rows, WholeRows)


def test_targets_of_pairs_take_at_most_half_a_row(stream):
    config = tiny_config(objective__kind='seq2seq', data__length=20)
    rows = rows_of(config, stream(random_pairs(0)), BYTES)
    tokens_BL = rows.batch(np.arange(len(rows)))['tokens']
    answered = [sum(len(d) - d.index(SEP) for d in documents_in(row)) for row in tokens_BL]
    assert 5 < max(answered) <= 10


def test_a_text_without_pairs_is_refused_for_pairs(stream):
    with pytest.raises(UserError, match=r"data\.corpus = 'shakespeare' has no pairs.*seq2seq"):
        rows_of(tiny_config(objective__kind='seq2seq'), stream(random_documents(1)), BYTES)


def test_rows_that_hold_no_document_at_all_are_refused(stream):
    with pytest.raises(UserError, match=r'data\.length = 16: no document fits'):
        rows_of(tiny_config(data__whole_documents=True), stream([[1] * 20]), BYTES)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [({'data.whole_documents': False}, 'whole_documents=true'), ({'data.cross_documents': True}, 'cross_documents')],
)
def test_pairs_that_could_be_cut_or_seen_by_others_are_refused(changes, words):
    changes = {key.replace('.', '__'): value for key, value in changes.items()}
    with pytest.raises(UserError, match=words):
        tiny_config(objective__kind='seq2seq', **changes)
