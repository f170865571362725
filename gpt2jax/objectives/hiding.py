"""Which tokens of a row are hidden, and what stands in their place: shared by all objectives that hide.

Axes: B rows, L length. Functions on [L] are of one row; `jax.vmap` makes them ones of a batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2jax.data.tokenizers import Vocabulary


def row_keys(key: Array, row_B: Array) -> Array:
    """[B] keys: what is drawn for a row depends on the step's key and the row's number alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def ordinary(tokens: Array, segment: Array, vocabulary: Vocabulary) -> Array:
    """Tokens that may be hidden, and that a rate counts: no padding, no special token."""
    special = jnp.array([vocabulary.end_of_text, vocabulary.mask, vocabulary.pad, vocabulary.sep])
    return (segment > 0) & ~jnp.isin(tokens, special)


def count_hidden(config, num_tokens: Array, progress: Array | float) -> Array:
    """How many of so many tokens are hidden: round(rate * num_tokens), int32.

    The rate moves in a line from `start_rate`, if there is one, to `rate`.

    Args:
      config: `config.objective`.
      progress: share of the training steps that are done.
    """
    rate = jnp.float32(config.rate)
    if config.start_rate:
        rate = config.start_rate + (rate - config.start_rate) * progress
    return jnp.round(rate * num_tokens).astype(jnp.int32)


def most_hidden(config, length: int) -> int:
    """The largest count of hidden tokens that `hide` gives for a row of that length; at least 1."""
    rate = np.float32(max(config.rate, config.start_rate))
    return max(1, min(length, int(np.round(rate * np.float32(length)))))


def hide(config, key: Array, may_hide_L: Array, begins_L: Array, segment_L: Array, progress) -> Array:
    """Draws the hidden tokens of a row: exactly as many as `count_hidden` says, in whole spans but for the last one.

    Every span draws a priority, and the spans are hidden in that order until the count is reached: the one that goes
    over it is hidden from its left as far as the count goes. So spans of all lengths have the same chance.

    Args:
      config: `config.objective`.
      key: of the row.
      may_hide_L: bool, the tokens that may be hidden, and that the rate counts.
      begins_L: bool, where a word begins.
      segment_L: documents.
      progress: share of the training steps that are done.

    Returns:
      [L] bool.
    """
    L = len(may_hide_L)
    span_key, priority_key = jax.random.split(key)
    span_L = draw_spans(config, span_key, may_hide_L, begins_L, segment_L)
    priority_L = jax.random.uniform(priority_key, (L,))[span_L]
    places_L = jnp.argsort(jnp.where(may_hide_L, priority_L, 2.0), stable=True)
    count = jnp.minimum(count_hidden(config, jnp.sum(may_hide_L), progress), most_hidden(config, L))
    return jnp.zeros(L, bool).at[places_L].set(jnp.arange(L) < count)


def draw_spans(config, key: Array, may_hide_L: Array, begins_L: Array, segment_L: Array) -> Array:
    """Cuts a row into spans of units, which are words or tokens; [L] int32, the number of each token's span.

    Spans end at the borders of documents, and a token that may not be hidden is one of its own.
    """
    L = len(may_hide_L)
    joined_L = (segment_L[1:] == segment_L[:-1]) & may_hide_L[1:] & may_hide_L[:-1]
    breaks_L = jnp.pad(~joined_L, (1, 0), constant_values=True)
    units_L = breaks_L | begins_L if config.whole_words else jnp.ones(L, bool)
    if config.mean_span == 1:
        return jnp.cumsum(units_L) - 1
    starts_L = span_starts(key, config, L)[jnp.cumsum(units_L) - 1]
    return jnp.cumsum(breaks_L | (units_L & starts_L)) - 1


def span_starts(key: Array, config, num_units: int) -> Array:
    """Lays spans of drawn lengths end to end; [num_units] bool, the units that begin one.

    Lengths are geometric with p = 1 / mean_span, cut off at max_span (Joshi et al. 2020, SpanBERT, section 3.1).
    """
    cumulative = np.cumsum(span_length_shares(config.mean_span, config.max_span))
    draws_L = jax.random.uniform(key, (num_units,))
    lengths_L = 1 + jnp.searchsorted(jnp.float32(cumulative[:-1]), draws_L, side='right')
    starts_L = jnp.zeros(num_units, bool).at[0].set(True)
    return starts_L.at[jnp.cumsum(lengths_L)].set(True, mode='drop')


def span_length_shares(mean_span: float, max_span: int) -> np.ndarray:
    """Probability of each length 1 ... max_span."""
    shares = (1 - 1 / mean_span) ** np.arange(max_span)
    return shares / shares.sum()


def corrupt(config, vocabulary: Vocabulary, key: Array, tokens_L: Array, hidden_L: Array) -> Array:
    """What the model reads in place of the hidden tokens (Devlin et al. 2019, section 3.1).

    Each becomes <|mask|> with probability `mask_share`, a random ordinary token with `random_share`, and stays as it is
    otherwise, independently of the others: these shares hold in expectation, the count of hidden tokens exactly.
    """
    action_key, token_key = jax.random.split(key)
    action_L = jax.random.uniform(action_key, tokens_L.shape)
    random_L = jax.random.randint(token_key, tokens_L.shape, 0, vocabulary.ordinary, tokens_L.dtype)
    replaced_L = jnp.where(action_L < config.mask_share + config.random_share, random_L, tokens_L)
    replaced_L = jnp.where(action_L < config.mask_share, vocabulary.mask, replaced_L)
    return jnp.where(hidden_L, replaced_L, tokens_L)
