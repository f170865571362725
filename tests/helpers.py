"""Small things that many tests need."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from gpt2jax.config import default_config, overlay
from gpt2jax.objectives import make_objective
from gpt2jax.sharding import AXES
from gpt2jax.training.setup import Setup
from gpt2jax.validation import resolve

TINY = {
    'data.tokenizer': 'bytes',
    'data.length': 16,
    'model.num_layers': 3,
    'model.width': 32,
    'model.vocab_multiple': 1,
    'model.attention.num_heads': 4,
    'training.steps': 20,
    'training.batch_size': 8,
    'optimizer.warmup_steps': 2,
}

# What makes a small XLNet of it, as the authors have it.
XLNET = {
    'model__architecture': 'xlnet',
    'model__position__kind': 'relative',
    'model__position__segments': True,
    'model__attention__bias': False,
    'model__norm__placement': 'post',
    'model__feedforward__kind': 'gelu',
    'model__head__bias': True,
}


def model_for(kind: str) -> dict:
    """What a model must be for an objective that not every one can serve."""
    return XLNET if kind == 'permutation' else {}


def tiny_config(**changes):
    """A resolved config of a small GPT-2; `model__width=64` sets model.width. Pairs are given the rows they need."""
    dotted = {name.replace('__', '.'): value for name, value in changes.items()}
    dotted.setdefault('data.whole_documents', dotted.get('objective.kind') == 'seq2seq')
    return resolve(overlay(default_config(), TINY | dotted))


def random_batch(rows: int, length: int, seed: int = 0, documents: int = 3, vocab: int = 256):
    """A batch as gpt2jax.data.rows makes it, with document borders at random places and one padded row."""
    random = np.random.default_rng(seed)
    tokens_BL = random.integers(0, vocab, (rows, length + 1), dtype=np.int32)
    borders_BL = np.zeros((rows, length + 1), np.int32)
    for row in borders_BL:
        row[random.choice(np.arange(1, length), documents - 1, replace=False)] = 1
    segment_BL = 1 + np.cumsum(borders_BL, axis=1, dtype=np.int32)
    segment_BL[-1, length - 3 :] = 0
    begins_BL = random.random((rows, length + 1)) < 0.5
    begins_BL[:, 0] = True
    return {
        'tokens': tokens_BL,
        'segment': segment_BL,
        'begins': begins_BL,
        'row': np.arange(rows, dtype=np.int32),
        'continues': np.arange(rows) % 2 == 1,
    }


def in_pairs(batch):
    """The same with a <|sep|> (of `bytes`) in the middle of each document, as objectives that need pairs have it."""
    tokens_BL = batch['tokens'].copy()
    for tokens, segments in zip(tokens_BL, batch['segment'], strict=True):
        for segment in set(segments.tolist()) - {0}:
            start, end = np.flatnonzero(segments == segment)[[0, -1]]
            if end > start:
                tokens[(start + end + 2) // 2] = 259
    return batch | {'tokens': tokens_BL}


def causal_example(rows: int, length: int, **options):
    """The causal Example of a random batch."""
    return example_of('causal', random_batch(rows, length, **options))


def example_of(kind: str, batch, seed: int = 0, progress: float = 1.0, **changes):
    """What the objective of a tiny config makes of a batch."""
    objective = make_objective(tiny_config(objective__kind=kind, **changes))
    return objective(jax.tree.map(jnp.asarray, batch), jax.random.key(seed), progress)


compiled = functools.cache(lambda model: jax.jit(model.apply))  # operation by operation it takes several times as long


def largest_difference(a, b) -> float:
    """Over all leaves of two trees."""
    return max(
        float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def one_device_setup(config) -> Setup:
    """The parts of a run on the first device, however many there are."""
    ones, types = (1,) * len(AXES), (AxisType.Auto,) * len(AXES)
    mesh = jax.make_mesh(ones, AXES, devices=jax.devices()[:1], axis_types=types)
    return Setup(config, mesh)


def silent(message):
    """An `announce` for tests that do not read it."""
