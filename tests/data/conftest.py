"""What the data tests share: the real plays, prepared once, and small streams made by hand."""

import numpy as np
import pytest
from helpers import silent

from gpt2jax.data import Tokens, make_tokenizer, prepare


@pytest.fixture(scope='session')
def plays(tmp_path_factory):
    """Shakespeare with GPT-2's tokens, and the data directory it is in."""
    directory = tmp_path_factory.mktemp('plays')
    return prepare('shakespeare', '', 'text', 'gpt2', directory, announce=silent), directory


@pytest.fixture(scope='session')
def gpt2():
    return make_tokenizer('gpt2')


@pytest.fixture
def stream():
    """Makes Tokens from documents given as lists of ids; <|endoftext|> is 256."""

    def make(documents):
        parts, offsets = [], [0]
        for ids in documents:
            parts += [256, *ids]
            offsets.append(len(parts))
        return Tokens(np.array([*parts, 256], np.uint16), np.array(offsets, np.int64), len(parts) - len(documents))

    return make
