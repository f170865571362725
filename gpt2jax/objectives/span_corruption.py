"""T5's objective, for a decoder with a prefix.

Axes: B rows, L length.
"""

import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.objectives.example import Example, Objective, position_in_segment
from gpt2jax.objectives.hiding import hide, most_hidden, ordinary, row_keys


class SpanCorruption(Objective):
    """Hidden spans are taken out of a document and predicted after it (Raffel et al. 2020, section 3.1.4).

    A document `a b c d e f` with b c and e hidden becomes

        a <|mask|> d <|mask|> f <|sep|>  b c <|sep|>  e <|sep|>

    whose text, up to the first <|sep|>, is a prefix seen in both directions (Tay et al. 2023, UL2, section 3.2); what
    follows is predicted from left to right. Spans answer the masks in their order, as in Donahue et al. (2020, section
    2), where T5 has numbered sentinels: so vocabulary and parameters are those of every other objective. Hidden tokens
    that stand side by side are one span. A document without hidden tokens is its text, without predictions.

    What a row becomes is longer than its text, so of every row as much text is used, from its left, as fits: nothing
    that is predicted is cut off.
    """

    answers = True

    def evaluations(self):
        return [('span', self)]

    def num_predictions(self, length: int) -> int:
        return min(length, 2 * most_hidden(self.config, length))  # spans of one token, each with its <|sep|>

    def __call__(self, batch, key, progress) -> Example:
        tokens_BL, segment_BL, begins_BL = (batch[name][:, :-1] for name in ('tokens', 'segment', 'begins'))

        def of_row(key, tokens_L, segment_L, begins_L):
            may_hide_L = ordinary(tokens_L, segment_L, self.vocabulary)
            hidden_L = hide(self.config, key, may_hide_L, begins_L, segment_L, progress)
            return rearrange(tokens_L, segment_L, hidden_L, self.vocabulary)

        keys_B = row_keys(key, batch['row'])
        inputs_BL, segment_BL, prefix_BL, predicted_BL = jax.vmap(of_row)(keys_B, tokens_BL, segment_BL, begins_BL)
        position_BL = position_in_segment(segment_BL)
        return Example(
            inputs=inputs_BL,
            targets=jnp.roll(inputs_BL, -1, axis=1),
            weights=jnp.roll(predicted_BL, -1, axis=1).astype(jnp.float32),  # the first token of a row never is
            order=jnp.maximum(position_BL - prefix_BL + 1, 0),
            segment=segment_BL,
            position=position_BL,
            row=batch['row'],
            visibility='prefix',
            answers=self.num_predictions(inputs_BL.shape[1]),
        )


def rearrange(tokens_L: Array, segment_L: Array, hidden_L: Array, vocabulary) -> tuple[Array, Array, Array, Array]:
    """Moves the hidden spans of every document behind it.

    A text token leaves up to four items: one in the text (itself, or <|mask|> where a span starts), and behind the
    text a <|sep|> where a span starts, itself if it is hidden, and the last <|sep|> where the document ends. Each
    item's place is a count of the items before it.

    Returns:
      [L] each: tokens; segments; tokens of the document's prefix, its <|sep|> included; whether a token is predicted.
    """
    L = len(tokens_L)
    starts_L = jnp.pad(segment_L[1:] != segment_L[:-1], (1, 0), constant_values=True)
    first_L = jax.lax.cummax(jnp.where(starts_L, jnp.arange(L), 0))
    opens_L = hidden_L & (starts_L | ~jnp.pad(hidden_L[:-1], (1, 0)))
    opened_L = jnp.cumsum(opens_L) - opens_L
    opens_first_L = opens_L & (opened_L == opened_L[first_L])
    in_text_L = ~hidden_L | opens_L

    used_L = (segment_L > 0) & (jnp.cumsum(count(in_text_L, opens_L, hidden_L, opens_first_L)) <= L)
    ends_L = used_L & jnp.pad(starts_L[1:] | ~used_L[1:], (0, 1), constant_values=True)
    closes_L = ends_L & (opened_L + opens_L > opened_L[first_L])
    last_L = jax.lax.cummin(jnp.where(ends_L, jnp.arange(L), L - 1), reverse=True)

    text_L, behind_L = used_L * count(in_text_L), used_L * count(opens_L, hidden_L, closes_L)
    texts_L, behinds_L = jnp.cumsum(text_L) - text_L, jnp.cumsum(behind_L) - behind_L
    text_place_L = texts_L + behinds_L[first_L]
    behind_place_L = (texts_L + text_L)[last_L] + behinds_L
    prefix_L = (texts_L + text_L)[last_L] - texts_L[first_L] + 1

    tokens, segments, prefixes = jnp.full(L, vocabulary.pad, tokens_L.dtype), jnp.zeros_like(segment_L), prefix_L * 0
    predicted = jnp.zeros(L, bool)
    for there_L, place_L, token, is_predicted in (
        (in_text_L, text_place_L, jnp.where(hidden_L, vocabulary.mask, tokens_L), False),
        (opens_L, behind_place_L, vocabulary.sep, ~opens_first_L),
        (hidden_L, behind_place_L + opens_L, tokens_L, True),
        (closes_L, behind_place_L + opens_L + hidden_L, vocabulary.sep, True),
    ):
        place_L = jnp.where(used_L & there_L, place_L, L)
        tokens = tokens.at[place_L].set(token, mode='drop')
        segments = segments.at[place_L].set(segment_L, mode='drop')
        prefixes = prefixes.at[place_L].set(prefix_L, mode='drop')
        predicted = predicted.at[place_L].set(is_predicted, mode='drop')
    return tokens, segments, prefixes, predicted


def count(*masks_L: Array) -> Array:
    """[L] int32, how many of the masks hold."""
    return sum(mask_L.astype(jnp.int32) for mask_L in masks_L)
