"""Vectors of texts do not depend on what stands beside them."""

import json

import jax
import numpy as np
import pytest
from helpers import one_device_setup, tiny_config

from gpt2jax.commands.embedding import read_lines, similarity_table, wrap, write_vectors
from gpt2jax.data import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.evaluation.embeddings import POOLINGS, Embedder
from gpt2jax.objectives.texts import text_example

TOKENIZER = make_tokenizer('bytes')
TEXTS = ['the king', '', 'a', 'long live the king, and his', 'exit', 'to be', 'or not to be that is it']
CONTEXT = 28


@pytest.fixture(name='setup', scope='module')
def make_setup():
    return one_device_setup(tiny_config(data__length=CONTEXT, model__head__pooler=True, model__init__std=0.2))


@pytest.fixture(name='params', scope='module')
def make_params(setup):
    return setup.initial_state().params


def no_bar(work, description, total):
    assert len(work) == total
    return work


def embed(setup, params, texts=TEXTS, visibility='full', pooling='mean', normalize=False, batch_size=3):
    rows, _ = wrap(TOKENIZER, texts, CONTEXT)
    return Embedder(setup, params, visibility, pooling, normalize, batch_size)(rows, CONTEXT, no_bar)


def alone(setup, params, text, visibility):
    """Hidden states of one text without padding, [L, D]."""
    tokens = TOKENIZER.wrap(TOKENIZER.encode(text))
    example = text_example(np.array([tokens]), np.array([len(tokens)]), visibility)
    return np.asarray(setup.model.apply(params, example)[0][0], np.float64)


@pytest.mark.parametrize(
    ('pooling', 'visibility'),
    [('mean', 'full'), ('mean', 'causal'), ('first', 'full'), ('last', 'full'), ('last', 'causal'), ('pooler', 'full')],
)
def test_a_vector_is_that_of_the_text_alone_in_the_order_given(setup, params, pooling, visibility):
    pooler = jax.tree.map(np.asarray, params['head']['pooler'])
    by_hand = {
        'mean': lambda hidden_LD: hidden_LD.mean(0),
        'first': lambda hidden_LD: hidden_LD[0],
        'last': lambda hidden_LD: hidden_LD[-1],
        'pooler': lambda hidden_LD: np.tanh(pooler['kernel'] @ hidden_LD[0] + pooler['bias']),
    }
    assert by_hand.keys() == POOLINGS.keys()
    found = embed(setup, params, visibility=visibility, pooling=pooling)
    expected = np.stack([by_hand[pooling](alone(setup, params, text, visibility)) for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(embed(setup, params, TEXTS, visibility, pooling, batch_size=7), found, atol=1e-5)


def test_normalized_vectors_have_length_one_and_their_direction(setup, params):
    found, plain = embed(setup, params, normalize=True), embed(setup, params)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain, axis=-1, keepdims=True), atol=1e-6)


def test_a_long_text_is_cut_inside_its_wrapping():
    rows, shortened = wrap(TOKENIZER, ['x' * 50, 'y', 'z' * 27, 'z' * 28], CONTEXT)
    assert shortened == 2
    assert [len(row) for row in rows] == [28, 2, 28, 28]
    assert {row[0] for row in rows} == {TOKENIZER.end_of_text}


@pytest.mark.parametrize(
    ('pooling', 'visibility', 'says'),
    [('pooler', 'full', 'no pooler'), ('first', 'causal', 'seen nothing'), ('median', 'full', 'one of: mean')],
)
def test_a_pooling_that_means_nothing_is_refused(params, pooling, visibility, says):
    plain = one_device_setup(tiny_config())
    with pytest.raises(UserError, match=says):
        Embedder(plain, params, visibility, pooling, False, 2)


def test_vectors_are_written_with_their_texts(tmp_path):
    texts, vectors_ND = ['a "b"', 'ü\n', ''], np.arange(6, dtype=np.float32).reshape(3, 2) / 7
    write_vectors(tmp_path / 'new' / 'v.npz', texts, vectors_ND)
    with np.load(tmp_path / 'new' / 'v.npz', allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive['embeddings'], vectors_ND)
        assert archive['texts'].tolist() == texts
    write_vectors(tmp_path / 'v.jsonl', texts, vectors_ND)
    lines = [json.loads(line) for line in (tmp_path / 'v.jsonl').read_text().splitlines()]
    assert [line['text'] for line in lines] == texts
    np.testing.assert_array_equal(np.array([line['embedding'] for line in lines], np.float32), vectors_ND)


def test_line_n_of_a_file_is_row_n(tmp_path):
    (tmp_path / 'lines.txt').write_bytes('one\r\n\nthrée\n'.encode())
    assert read_lines(tmp_path / 'lines.txt') == ['one', '', 'thrée']
    (tmp_path / 'empty.txt').write_text('')
    (tmp_path / 'bad.txt').write_bytes(b'\xff\xfe')
    for name in ('empty.txt', 'bad.txt', 'missing.txt'):
        with pytest.raises(UserError, match=name):
            read_lines(tmp_path / name)


def test_similarities_are_cosines():
    table = similarity_table(['x', 'y'], np.array([[3.0, 0.0], [1.0, 1.0]]))
    assert list(table.columns[3].cells) == ['0.707', '1.000']
