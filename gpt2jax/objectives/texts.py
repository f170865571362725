"""Texts as a model reads them when it is used: nothing is hidden by chance, nothing has a weight.

Axes: B rows, L length.
"""

import jax.numpy as jnp
from jax import Array

from gpt2jax.objectives.example import Example


def text_example(tokens_BL: Array, length_B: Array, visibility: str, prefix_B: Array | None = None) -> Example:
    """The Example of texts, one a row, with padding behind them.

    Args:
      tokens_BL: int32; what stands behind a text is never seen.
      length_B: tokens of each text.
      visibility: 'causal', 'full' or 'prefix', as in Example.
      prefix_B: of 'prefix', how many tokens at the beginning are seen in both directions.
    """
    tokens_BL, length_B = jnp.asarray(tokens_BL), jnp.asarray(length_B)
    index_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
    prefix_B1 = {'causal': 1, 'full': tokens_BL.shape[1]}[visibility] if prefix_B is None else prefix_B[:, None]
    text_BL = index_BL < length_B[:, None]
    return Example(
        inputs=tokens_BL,
        targets=jnp.roll(tokens_BL, -1, axis=1),
        weights=jnp.zeros(tokens_BL.shape),
        order=jnp.maximum(index_BL - prefix_B1 + 1, 0),
        segment=text_BL.astype(jnp.int32),
        position=jnp.where(text_BL, index_BL, 0),
        row=jnp.arange(len(tokens_BL)),
        visibility=visibility,
    )
