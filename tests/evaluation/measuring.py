"""Tiny models to be measured, and what the model in plain NumPy says of them."""

from pathlib import Path

import jax
import numpy as np
from helpers import one_device_setup, tiny_config
from numpy_transformer import hidden_states, logits
from scipy.special import log_softmax

from gpt2jax.data import make_tokenizer
from gpt2jax.evaluation.subject import Subject
from gpt2jax.objectives import Example

TOKENIZER = make_tokenizer('bytes')
LENGTH = 40
TINY = {'model__num_layers': 1, 'model__width': 16, 'model__attention__num_heads': 2}


def no_bar(work, description, total=None):
    return work


def no_corpus():
    raise AssertionError('the corpus is not needed here')


def make_subject(kind='causal', prepare=no_corpus, scale=0.5, tokenizer=TOKENIZER, **changes):
    """A tiny model, its parameters random numbers of that width; with 0 all its predictions are uniform."""
    tiny = TINY | {'data__length': LENGTH, 'evaluation__batch_size': 4} | changes
    setup, random = one_device_setup(tiny_config(objective__kind=kind, **tiny)), np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(scale * random.normal(size=x.shape)), setup.abstract.params)
    return Subject(setup, params, tokenizer, 7, Path('/nowhere'), prepare)


def log_probs(subject, tokens, order):
    """[L, V]: what the model predicts at each place of one row, in double precision, without padding."""
    L = len(tokens)
    tokens_1L, order_1L = np.array([tokens]), np.array([list(order)])
    row, ones_1L = np.zeros(1, int), np.ones((1, L), int)
    example = Example(tokens_1L, tokens_1L, ones_1L, order_1L, ones_1L, np.arange(L)[None], row, 'permuted')
    config = subject.setup.config.model
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), subject.params)
    return log_softmax(logits(config, params, hidden_states(config, params, example))[0], axis=-1)


def ids_of(text):
    return tuple(TOKENIZER.encode(text).tolist())
