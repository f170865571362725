"""Sequence to sequence: a target is predicted behind its source.

Axes: B rows, L length.
"""

import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.objectives.example import Example, Objective, position_in_segment
from gpt2jax.objectives.prefix import behind_prefix


class Seq2Seq(Objective):
    """Of a pair `source <|sep|> target` the target is predicted, and the end of it (Sutskever et al. 2014).

    A document's prefix is all up to its first <|sep|>, which predicts the first token of the target: seen in both
    directions, by a decoder with a prefix (Raffel et al. 2020, section 3.2.1) or by an encoder. The row holds whole
    documents (`data.whole_documents`), whose targets take at most half of it, so that a decoder which reads the
    predicted places alone is half as long as the row. A document without <|sep|> has no predictions.
    """

    pairs = True

    def evaluations(self):
        return [('answer', self)]

    def num_predictions(self, length: int) -> int:
        return max(1, length // 2)

    def __call__(self, batch, key, progress) -> Example:
        tokens_BL, segment_BL = batch['tokens'][:, :-1], batch['segment'][:, :-1]
        prefix_BL = jax.vmap(self._prefix)(tokens_BL, segment_BL)
        return behind_prefix(batch, prefix_BL, self.num_predictions(tokens_BL.shape[1]))

    def _prefix(self, tokens_L: Array, segment_L: Array) -> Array:
        """[L] int32: how many tokens each document has up to its <|sep|>, that included; without one: more than L."""
        L = len(tokens_L)
        sep_L = jnp.where(tokens_L == self.vocabulary.sep, position_in_segment(segment_L[None])[0], L)
        first_S = jnp.full(L + 2, L, jnp.int32).at[segment_L].min(sep_L)
        return first_S[segment_L] + 1
