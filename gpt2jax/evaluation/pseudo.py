"""Pseudo-log-likelihood: what a masked model has in the place of a likelihood.

Axes: B batch, L length, R rows.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.batches import place_batch
from gpt2jax.data.rows import Rows
from gpt2jax.losses import token_nats
from gpt2jax.objectives import Example, Objective, position_in_segment


def pseudo_likelihood(
    setup, params, objective: Objective, rows: Rows, tokenizer, num_rows: int, track: Callable
) -> dict[str, float]:
    """Every token of some rows is hidden alone and predicted from all the others (Salazar et al. 2020, section 2).

    The sum is no likelihood: each token is told by those behind it, so it is lower than the likelihood of a causal
    model, and the two do not compare.

    Args:
      setup: its model, mesh and evaluation.batch_size are used.
      objective: with a `mask_offset`.
      rows: of a split.
      num_rows: how many of them, evenly spaced; 0: all.
      track: draws a bar.

    Returns:
      pseudo_nats_per_token; pseudo_nats_per_byte, where the tokenizer knows bytes; pseudo_predicted, how many tokens
      that is; pseudo_rows, of how many rows.
    """
    count = min(num_rows or len(rows), len(rows))
    chosen = rows.batch(np.arange(count) * len(rows) // count)
    tokens_RL, segment_RL = chosen['tokens'][:, :-1], chosen['segment'][:, :-1]
    places = hideable(tokens_RL, segment_RL, objective)
    step, size = jax.jit(make_pseudo_step(setup.model, objective.mask_offset)), setup.config.evaluation.batch_size
    nats = []
    batches = one_hidden_each(tokens_RL, segment_RL, places, tokenizer.mask, size)
    for batch in track(batches, 'hiding one token at a time', -(-len(places) // size)):
        nats.append(np.asarray(step(params, place_batch(batch, setup.mesh))))
    total = float(np.sum(np.concatenate([[], *nats])[: len(places)], dtype=np.float64))
    hidden = tokens_RL[tuple(places.T)]
    by_byte = {'pseudo_nats_per_byte': total / max(int(tokenizer.byte_lengths[hidden].sum()), 1)}
    return {
        'pseudo_nats_per_token': total / max(len(places), 1),
        **(by_byte if tokenizer.lossless else {}),
        'pseudo_predicted': len(places),
        'pseudo_rows': count,
    }


def hideable(tokens_RL: np.ndarray, segment_RL: np.ndarray, objective: Objective) -> np.ndarray:
    """[n, 2] rows and places of the tokens that can be hidden: text, and predicted at a place of its document."""
    vocabulary, offset = objective.vocabulary, objective.mask_offset
    special = (vocabulary.end_of_text, vocabulary.mask, vocabulary.pad, vocabulary.sep)
    may_RL = (segment_RL > 0) & ~np.isin(tokens_RL, special)
    if offset:
        may_RL[:, :offset] = False
        may_RL[:, offset:] &= segment_RL[:, offset:] == segment_RL[:, :-offset]
    return np.argwhere(may_RL)


def one_hidden_each(tokens_RL, segment_RL, places: np.ndarray, mask: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of rows with one token hidden in each; the last one is filled up with repetitions."""
    for start in range(0, len(places), size):
        row_B, place_B = np.resize(places[start : start + size], (size, 2)).T.astype(np.int32)
        tokens_BL = tokens_RL[row_B]
        target_B = tokens_BL[np.arange(size), place_B]
        tokens_BL[np.arange(size), place_B] = mask
        yield {'tokens': tokens_BL, 'segment': segment_RL[row_B], 'place': place_B, 'target': target_B}


def make_pseudo_step(model, mask_offset: int):
    """(params, batch) -> [B] nats of the hidden tokens; logits are made for these alone."""

    def pseudo_step(params, batch):
        tokens_BL, segment_BL = batch['tokens'], batch['segment']
        example = Example(
            inputs=tokens_BL,
            targets=tokens_BL,
            weights=jnp.zeros(tokens_BL.shape),
            order=jnp.zeros_like(tokens_BL),
            segment=segment_BL,
            position=position_in_segment(segment_BL),
            row=jnp.arange(len(tokens_BL)),
            visibility='full',
        )
        hidden_BLD, _ = model.apply(params, example)
        place_B11 = (batch['place'] - mask_offset)[:, None, None]
        hidden_BD = jnp.take_along_axis(hidden_BLD, place_B11, axis=1)[:, 0]
        head_params, logits_fn = model.head(params)
        return token_nats(logits_fn(head_params, hidden_BD), batch['target'])[0]

    return pseudo_step
