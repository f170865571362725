"""XLNet's objective.

Axes: B rows, L length, P predicted tokens of a row.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.objectives.causal import Causal
from gpt2jax.objectives.example import Example, Objective, Queries, position_in_segment
from gpt2jax.objectives.hiding import hide, most_hidden, ordinary, row_keys


class Permutation(Objective):
    """Some tokens are predicted one after the other in a random order, each from all that come before it in that order,
    wherever they stand (Yang et al. 2019, section 2.2).

    The predicted ones are the last in the order (partial prediction, section 2.3): round(rate * ordinary tokens) of a
    row, in spans when the config says so. The others have the order 0 and see each other, as in the authors' code, and
    the r-th predicted one, from 0, has the order 1 + r. A document's first token is never predicted, so that every
    query has something to read.
    """

    mask_offset = 0

    def evaluations(self):
        return [('permuted', self), ('likelihood', IdentityOrder(self.config, self.vocabulary))]

    def num_predictions(self, length: int) -> int:
        return most_hidden(self.config, length)

    def asked(self, model):
        return AskedByQueries(model, self.vocabulary.mask)

    def __call__(self, batch, key, progress) -> Example:
        tokens_BL, segment_BL, begins_BL = (batch[name][:, :-1] for name in ('tokens', 'segment', 'begins'))
        P = self.num_predictions(tokens_BL.shape[1])

        def of_row(key, tokens_L, segment_L, begins_L):
            hide_key, order_key = jax.random.split(key)
            inside_L = jnp.pad(segment_L[1:] == segment_L[:-1], (1, 0))
            may_hide_L = inside_L & ordinary(tokens_L, segment_L, self.vocabulary)
            return draw_order(order_key, hide(self.config, hide_key, may_hide_L, begins_L, segment_L, progress), P)

        keys_B = row_keys(key, batch['row'])
        order_BL, place_BP, real_BP = jax.vmap(of_row)(keys_B, tokens_BL, segment_BL, begins_BL)
        targets_BP, order_BP, segment_BP = (
            jnp.take_along_axis(array_BL, place_BP, axis=1) for array_BL in (tokens_BL, order_BL, segment_BL)
        )
        return Example(
            inputs=tokens_BL,
            targets=targets_BP,
            weights=real_BP.astype(jnp.float32),
            order=order_BL,
            segment=segment_BL,
            position=position_in_segment(segment_BL),
            row=batch['row'],
            visibility='permuted',
            queries=Queries(place_BP, jnp.maximum(order_BP, 1), segment_BP),  # those that are not real see something
        )


def draw_order(key: Array, predicted_L: Array, most: int) -> tuple[Array, Array, Array]:
    """Puts the predicted tokens of a row, at most `most`, into a random order behind all others.

    Returns:
      order [L]; place [P] of the predicted tokens in that order, and behind them of others; real [P], which are which.
    """
    draws_L = jax.random.uniform(key, predicted_L.shape)
    place_P = jnp.argsort(jnp.where(predicted_L, draws_L, 2.0))[:most].astype(jnp.int32)
    real_P = jnp.arange(most) < jnp.sum(predicted_L)
    rank_P = jnp.where(real_P, 1 + jnp.arange(most, dtype=jnp.int32), 0)
    return jnp.zeros(predicted_L.shape, jnp.int32).at[place_P].set(rank_P), place_P, real_P


class IdentityOrder(Causal):
    """The order in which the text is written: then XLNet's predictions make up the probability of the whole text."""

    def asked(self, model):
        return AskedByQueries(model, self.vocabulary.mask)

    def __call__(self, batch, key, progress) -> Example:
        example = super().__call__(batch, key, progress)
        return example.replace(queries=next_queries(example))


def next_queries(example: Example) -> Queries:
    """A query behind every token, [B, L], which sees what the token sees, and the token itself."""
    place_L = 1 + jnp.arange(example.inputs.shape[1], dtype=jnp.int32)
    place_BL = jnp.broadcast_to(place_L, example.inputs.shape)
    return Queries(place_BL, example.order + 1, example.segment, example.token_type)


def hidden_queries(example: Example, mask: int) -> Example:
    """The same texts with a query for every place, [B, L], that sees all tokens but those that are `mask`."""
    order_BL = (example.inputs == mask).astype(jnp.int32)
    place_BL = jnp.broadcast_to(jnp.arange(order_BL.shape[1], dtype=jnp.int32), order_BL.shape)
    queries = Queries(place_BL, jnp.ones_like(order_BL), example.segment, example.token_type)
    return example.replace(order=order_BL, visibility='permuted', queries=queries)


@dataclasses.dataclass(frozen=True)
class AskedByQueries:
    """A model of two streams with the outputs where those of other models are.

    Of a text that is seen in full, the output at a hidden place predicts it, as BERT's does; of every other text the
    output at a token predicts the next one, as GPT-2's does.

    Attributes:
      model: of gpt2jax.models; all that is not here is its own.
      mask: id of <|mask|>, which stands where a token is hidden.
    """

    model: object
    mask: int

    def apply(self, params, example: Example, carry=None, *, dropout_key: Array | None = None):
        """As the model's."""
        if example.visibility == 'full':
            example = hidden_queries(example, self.mask)
        else:
            example = example.replace(queries=next_queries(example))
        return self.model.apply(params, example, carry, dropout_key=dropout_key)

    def __getattr__(self, name: str):
        return getattr(self.model, name)
