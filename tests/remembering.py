"""Rows that go on from each other, for tests of models with a memory of earlier rows."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import compiled, tiny_config

from gpt2jax.models import make_model
from gpt2jax.objectives import Example

MEMORY = {
    'model__num_layers': 2,
    'model__architecture': 'transformer_xl',
    'model__memory_length': 6,
    'model__position__kind': 'relative',
    'data__order': 'contiguous',
}


def xl(**changes):
    """A model with a memory, and parameters away from their initial zeros."""
    model = make_model(tiny_config(**MEMORY | changes).model)
    params = jax.jit(model.init)(jax.random.key(0))
    return model, jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape), params)


def stream(rows: int, length: int, segments: int, seed: int = 0, vocab: int = 256):
    """Examples of rows that go on from each other, each row one document that never ends."""
    ids = np.random.default_rng(seed).integers(0, vocab, (segments, rows, length))
    return [continuing(ids_BL) for ids_BL in ids]


def continuing(ids_BL, segment_BL=None, continues: bool = True) -> Example:
    ids_BL = jnp.asarray(ids_BL, jnp.int32)
    index_BL = jnp.broadcast_to(jnp.arange(ids_BL.shape[1], dtype=jnp.int32), ids_BL.shape)
    return Example(
        inputs=ids_BL,
        targets=ids_BL,
        weights=jnp.ones(ids_BL.shape),
        order=index_BL,
        segment=jnp.ones_like(ids_BL) if segment_BL is None else jnp.asarray(segment_BL, jnp.int32),
        position=index_BL,
        row=jnp.arange(len(ids_BL), dtype=jnp.int32),
        visibility='causal',
        continues=jnp.full(len(ids_BL), continues),
    )


def read(model, params, examples, carry):
    """Hidden states of one example after the other, and the memory at the end."""
    hidden = []
    for example in examples:
        hidden_BLD, carry = compiled(model)(params, example, carry)
        hidden.append(hidden_BLD)
    return hidden, carry
