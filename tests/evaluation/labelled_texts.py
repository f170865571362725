"""Planted tasks: labels that follow from the letters of a text, so that a model that reads can learn them."""

import jax
import numpy as np
from helpers import one_device_setup, tiny_config

from gpt2jax.data import make_tokenizer
from gpt2jax.data.labelled import Text, deal, make_labelled
from gpt2jax.evaluation.subject import Subject

LENGTH = 24
KINDS = {'causal': 'causal', 'full': 'masked'}


def make_subject(reads='causal', **changes):
    """An untrained model of 2 layers over bytes, large enough in its initial values to tell texts apart."""
    options = {'data__length': LENGTH, 'model__num_layers': 2, 'model__init__std': 0.2} | changes
    setup = one_device_setup(tiny_config(objective__kind=KINDS[reads], **options))
    return Subject(setup, setup.initial_state().params, make_tokenizer('bytes'), 3, None, None)


def planted(task, count=300, shuffled=False, seed=0):
    """To classify: whether the letters are of the first or the second half of the alphabet. To tag: each word so.

    Args:
      shuffled: labels are dealt out anew, so that nothing can be learned.
    """
    random, halves = np.random.default_rng(seed), {'low': 'abcdefghijklm', 'high': 'nopqrstuvwxyz'}
    words = [[random.choice(['low', 'high']) for _ in range(random.integers(2, 6))] for _ in range(count)]
    if task == 'classify':
        words = [[labels[0]] * len(labels) for labels in words]
    drawn = [[''.join(random.choice(list(halves[half]), 3)) for half in labels] for labels in words]
    if task == 'classify':
        drawn, words = [(' '.join(parts),) for parts in drawn], [labels[:1] for labels in words]
    if shuffled:
        flat = random.permutation([label for labels in words for label in labels])
        words = [list(part) for part in np.split(flat, np.cumsum([len(labels) for labels in words])[:-1])]
    pairs = enumerate(zip(drawn, words, strict=True))
    texts = [Text(f'planted:{n}', tuple(parts), tuple(map(str, labels))) for n, (parts, labels) in pairs]
    return make_labelled('planted', task, deal(texts, 'planted'), 'planted')


def same_bits(one, other):
    """Whether two trees of arrays are equal, bit by bit."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def no_bar(work, description, total):
    """A `track` that checks what it is told."""
    done = 0
    for item in work:
        done += 1
        yield item
    assert done == total
