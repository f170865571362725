"""Every token belongs to the part it came from, whatever stands beside a text in its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled_texts import LENGTH, make_subject, planted

from gpt2jax.data import make_tokenizer
from gpt2jax.data.labelled import Text, make_labelled
from gpt2jax.evaluation.labelling import Texts
from gpt2jax.evaluation.parts import (
    example_of,
    in_order,
    lengths_of,
    make_batch,
    mean_of_parts,
    read_texts,
    training_batches,
)

TOKENIZER = make_tokenizer('bytes')


class Closing:
    """A tokenizer that wraps on both sides, as BERT's does, and has nothing for '*'."""

    def encode(self, text):
        return TOKENIZER.encode(text.replace('*', '').strip())

    def wrap(self, ids):
        return [256, *map(int, ids), 257]


def rows_of(parts, labels, task='tag', tokenizer=TOKENIZER, context=LENGTH):
    text = Text('here', parts, labels)
    both = [Text('there', ('x',), (label,)) for label in ('p', 'q')]
    splits = {'train': [text, *both], 'validation': [text], 'test': [text]}
    return read_texts(tokenizer, make_labelled('n', task, splits, 'here'), 'train', context)[0]


def words_of(row):
    """The text that is read of each labelled part."""
    return [bytes(row.tokens[row.part == number + 1].tolist()).decode() for number in range(len(row.labels))]


def test_words_own_their_tokens_and_the_wrapping_belongs_to_none():
    row = rows_of(('To', 'be', '!'), ('p', 'q', 'p'))
    assert words_of(row) == ['To', ' be', ' !']
    assert (row.tokens[0], row.part[0]) == (TOKENIZER.end_of_text, 0)
    assert (row.labels.tolist(), row.seen.tolist(), row.cut) == ([0, 1, 0], [0, 1, 2], False)


def test_a_word_without_a_token_or_beyond_the_context_is_not_seen():
    row = rows_of(('To', '*', 'be', 'gone', 'now'), ('p', 'p', 'q', 'p', 'q'), tokenizer=Closing(), context=8)
    assert row.tokens.tolist() == [256, *b'Tobego', 257]
    assert words_of(row) == ['To', 'be', 'go']
    assert (row.labels.tolist(), row.seen.tolist(), row.cut) == ([0, 1, 0], [0, 2, 3], True)


def test_a_text_to_classify_is_one_part_with_its_wrapping():
    row = rows_of(('To be',), ('q',), task='classify', tokenizer=Closing())
    assert row.tokens.tolist() == [256, *b'To be', 257]
    assert (row.part.tolist(), row.labels.tolist(), row.cut) == ([1] * 7, [1], False)
    assert rows_of(('x' * 99,), ('q',), task='classify').cut


@pytest.mark.parametrize(('task', 'reads'), [('classify', 'full'), ('tag', 'causal')])
def test_a_part_does_not_know_what_stands_beside_its_text(reads, task):
    subject = make_subject(reads)
    texts = Texts(subject, planted(task, 40))
    assert texts.visibility == reads
    model, rows = subject.setup.model, sorted(texts.rows['train'], key=lambda row: len(row.tokens))[::16]
    assert len({len(row.tokens) for row in rows}) == len(rows) == 2

    def parts(batch):
        hidden_BLD, _ = model.apply(subject.params, example_of(batch, reads))
        return mean_of_parts(hidden_BLD, batch)

    together_BPD = parts(make_batch(rows, 4, [LENGTH], task == 'classify'))
    for row, found_PD in zip(rows, together_BPD, strict=False):
        alone = {'tokens': row.tokens[None], 'length': np.array([len(row.tokens)])}
        hidden_LD = np.asarray(model.apply(subject.params, example_of(alone, reads))[0][0])
        for number in range(len(row.labels)):
            expected_D = hidden_LD[row.part == number + 1].mean(axis=0)
            np.testing.assert_allclose(found_PD[number], expected_D, atol=1e-5)


def test_parts_that_are_not_there_are_zero():
    values = jax.random.normal(jax.random.key(0), (1, 4, 3))
    batch = {'part': jnp.array([[1, 0, 2, 2]]), 'label': jnp.array([[0, 1, -1, -1]])}
    found = np.asarray(mean_of_parts(values, batch))[0]
    np.testing.assert_allclose(found[0], values[0, 0])
    np.testing.assert_allclose(found[1], (values[0, 2] + values[0, 3]) / 2, rtol=1e-6)
    assert not found[2:].any()


def test_batches_have_few_lengths_and_hold_every_text_once_an_epoch():
    rows = read_texts(TOKENIZER, planted('tag', 300), 'train', LENGTH)
    lengths = lengths_of(rows, LENGTH)
    assert lengths == [16, LENGTH]
    steps = -(-len(rows) // 7)
    drawn = [list(training_batches(rows, 7, 2 * steps, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for epoch in (drawn[0][:steps], drawn[0][steps:], drawn[2][:steps], in_order(rows, 7)):
        assert sorted(i for batch in epoch for i in batch) == list(range(len(rows)))
    assert drawn[0][:steps] != drawn[0][steps:]
    batch = make_batch([rows[i] for i in drawn[0][0]], 8, lengths, single=False)
    assert batch['tokens'].shape[1] in lengths
    assert (batch['label'][7] == -1).all()
