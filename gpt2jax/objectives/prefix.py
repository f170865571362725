"""The prefix language model.

Axes: B rows, L length, S segments.
"""

import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.objectives.causal import Causal
from gpt2jax.objectives.example import Example, Objective, position_in_segment
from gpt2jax.objectives.hiding import row_keys


class Prefix(Objective):
    """A document's beginning is seen in both directions, the rest is predicted (Raffel et al. 2020, section 3.2.1).

    Every document of a row has a prefix of its own, at least its first token: a share of what the row holds of it, or
    a length drawn from 1 to all of that. Like `Causal`, the last token of a document predicts its end.
    """

    def evaluations(self):
        # A prefix of one token is causal, so the chain rule gives the whole text's likelihood.
        return [('prefix', self), ('likelihood', Causal(self.config, self.vocabulary))]

    def __call__(self, batch, key, progress) -> Example:
        segment_BL = batch['segment'][:, :-1]
        prefix_BL = jax.vmap(self._prefix)(row_keys(key, batch['row']), segment_BL)
        return behind_prefix(batch, prefix_BL)

    def _prefix(self, key: Array, segment_L: Array) -> Array:
        """[L] int32: how many tokens the prefix of each token's document has."""
        S = len(segment_L) + 1
        length_S = jnp.zeros(S, jnp.int32).at[segment_L].add(1)
        if self.config.prefix:
            prefix_S = jnp.round(self.config.prefix * length_S).astype(jnp.int32)
        else:
            prefix_S = jax.random.randint(key, (S,), 1, length_S + 1)
        return jnp.maximum(prefix_S, 1)[segment_L]


def behind_prefix(batch, prefix_BL: Array, answers: int = 0) -> Example:
    """What follows each document's prefix is predicted, in its order; the prefix is seen in both directions.

    Args:
      prefix_BL: how many tokens the prefix of each token's document has; a document that is shorter has no predictions.
      answers: the most predictions that a row has; 0: any number.
    """
    segment_BL = batch['segment'][:, :-1]
    position_BL = position_in_segment(segment_BL)
    predicts_BL = (batch['segment'][:, 1:] > 0) & (position_BL >= prefix_BL - 1)
    return Example(
        inputs=batch['tokens'][:, :-1],
        targets=batch['tokens'][:, 1:],
        weights=predicts_BL.astype(jnp.float32),
        order=jnp.maximum(position_BL - prefix_BL + 1, 0),
        segment=segment_BL,
        position=position_BL,
        row=batch['row'],
        visibility='prefix',
        answers=answers,
    )
