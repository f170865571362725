"""Vectors of texts, pooled from the hidden states after the final norm.

Axes: B batch, L length, D width, N texts.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2jax.batches import place_batch
from gpt2jax.errors import UserError
from gpt2jax.models.embedding import pool
from gpt2jax.objectives.texts import text_example

MULTIPLE = 16  # lengths are rounded up to it: few shapes are few compilations


def mean(config, params, hidden_BLD: Array, length_B: Array) -> Array:
    """Over all tokens of a text, those that wrap it among them (Reimers & Gurevych 2019, section 3)."""
    text_BL1 = (jnp.arange(hidden_BLD.shape[1]) < length_B[:, None])[..., None]
    return jnp.sum(hidden_BLD * text_BL1, axis=1) / length_B[:, None]


def first(config, params, hidden_BLD: Array, length_B: Array) -> Array:
    """The first token's, BERT's [CLS]."""
    return hidden_BLD[:, 0]


def last(config, params, hidden_BLD: Array, length_B: Array) -> Array:
    """The last token's, which has seen the whole text in a causal model as well."""
    return jnp.take_along_axis(hidden_BLD, length_B[:, None, None] - 1, axis=1)[:, 0]


def pooler(config, params, hidden_BLD: Array, length_B: Array) -> Array:
    """BERT's matrix and tanh on the first token (Devlin et al. 2019, section 3)."""
    return pool(config, params['head']['pooler'], hidden_BLD)


POOLINGS = {'mean': mean, 'first': first, 'last': last, 'pooler': pooler}


def check_pooling(pooling: str, config, visibility: str) -> None:
    """Raises UserError for an unknown pooling, or one that means nothing for the model; `config` is `config.model`."""
    if pooling not in POOLINGS:
        raise UserError(f'--pooling={pooling}: unknown; one of: {", ".join(POOLINGS)}')
    if pooling == 'pooler' and not config.head.pooler:
        raise UserError('--pooling=pooler: this model has no pooler (config.model.head.pooler); use mean')
    if pooling in ('first', 'pooler') and visibility == 'causal':
        raise UserError(
            f'--pooling={pooling}: in a causal model the first token has seen nothing else; use mean or last'
        )


class Embedder:
    """Embeds texts of any lengths.

    Args:
      setup: its model, config and mesh are used.
      params: on the devices of the mesh.
      visibility: 'causal' or 'full', how the model sees a text.
      pooling: one of POOLINGS.
      normalize: make every vector one of length 1.
      batch_size: texts at a time; rounded up to a multiple of the devices.
    """

    def __init__(self, setup, params, visibility: str, pooling: str, normalize: bool, batch_size: int):
        check_pooling(pooling, setup.config.model, visibility)
        self._setup, self._params = setup, params
        self._rows = -(-batch_size // setup.mesh.size) * setup.mesh.size

        def embed(params, batch):
            hidden_BLD = setup.model.encode(params, text_example(batch['tokens'], batch['length'], visibility))
            vector_BD = POOLINGS[pooling](setup.config.model, params, hidden_BLD.astype(jnp.float32), batch['length'])
            length_B1 = jnp.linalg.norm(vector_BD, axis=-1, keepdims=True)
            return vector_BD / jnp.maximum(length_B1, 1e-12) if normalize else vector_BD

        self._embed = jax.jit(embed)

    def __call__(self, texts: Sequence[Sequence[int]], context: int, track: Callable) -> np.ndarray:
        """[N, D] float32, in the order of the texts, whatever stands beside them in a batch.

        Args:
          texts: token ids, at least one each, none longer than the context.
          context: the most tokens the model may see.
          track: draws a bar.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        groups = [order[start : start + self._rows] for start in range(0, len(order), self._rows)]
        vectors_ND = np.zeros((len(texts), self._setup.config.model.width), np.float32)
        for group in track(groups, 'embedding', len(groups)):
            length = min(-(-max(len(texts[i]) for i in group) // MULTIPLE) * MULTIPLE, context)
            tokens_BL = np.zeros((self._rows, length), np.int32)
            length_B = np.ones(self._rows, np.int32)
            for row, i in enumerate(group):
                tokens_BL[row, : len(texts[i])] = texts[i]
                length_B[row] = len(texts[i])
            batch = place_batch({'tokens': tokens_BL, 'length': length_B}, self._setup.mesh)
            vectors_ND[group] = np.asarray(self._embed(self._params, batch))[: len(group)]
        return vectors_ND
