"""Pseudo-log-likelihood: what a masked model has in the place of a likelihood.

Axes: B batch, L length, R rows, N hidden tokens.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.batches import place_batch
from gpt2jax.data.rows import Rows
from gpt2jax.losses import token_nats
from gpt2jax.objectives import Example, Objective, position_in_segment


@dataclasses.dataclass(frozen=True)
class Hidden:
    """What was hidden in some rows of a split, and how well it was predicted.

    Attributes:
      row: [N], the number in its split of each hidden token's row.
      target: [N], the hidden tokens.
      nats: [N], -log p of each.
      rows: how many rows were read.
    """

    row: np.ndarray
    target: np.ndarray
    nats: np.ndarray
    rows: int

    def figures(self, tokenizer, name: str = 'pseudo') -> dict[str, float]:
        """{name}_nats_per_token; {name}_nats_per_byte, where the tokenizer knows bytes; {name}_predicted, how many
        tokens that is; {name}_rows, of how many rows."""
        total = float(np.sum(self.nats, dtype=np.float64))
        by_byte = {f'{name}_nats_per_byte': total / max(int(tokenizer.byte_lengths[self.target].sum()), 1)}
        return {
            f'{name}_nats_per_token': total / max(len(self.nats), 1),
            **(by_byte if tokenizer.lossless else {}),
            f'{name}_predicted': len(self.nats),
            f'{name}_rows': self.rows,
        }


def pseudo_likelihood(
    setup,
    params,
    objective: Objective,
    rows: Rows,
    tokenizer,
    num_rows: int,
    track: Callable,
    within_word: bool = False,
) -> Hidden:
    """Every token of some rows is hidden and predicted from all the others (Salazar et al. 2020, section 2).

    The sum is no likelihood: each token is told by those behind it, so it is lower than the likelihood of a causal
    model, and the two do not compare.

    Args:
      setup: its model, mesh and evaluation.batch_size are used.
      objective: with a `mask_offset`.
      rows: of a split.
      num_rows: how many of them, evenly spaced; 0: all.
      track: draws a bar.
      within_word: hide the later tokens of the same word as well, by which a token is told too easily (Kauf & Ivanova
        2023, section 3).
    """
    count = min(num_rows or len(rows), len(rows))
    chosen = rows.batch(np.arange(count) * len(rows) // count)
    tokens_RL, segment_RL, begins_RL = (chosen[name][:, :-1] for name in ('tokens', 'segment', 'begins'))
    place_N2 = hideable(tokens_RL, segment_RL, objective)
    last_RL = ends_of_words(segment_RL, begins_RL) if within_word else np.zeros_like(tokens_RL)
    step = jax.jit(make_pseudo_step(objective.asked(setup.model), objective.mask_offset))
    size = setup.config.evaluation.batch_size
    nats = []
    batches = one_hidden_each(tokens_RL, segment_RL, last_RL, place_N2, tokenizer.mask, size)
    for batch in track(batches, 'hiding one token at a time', -(-len(place_N2) // size)):
        nats.append(np.asarray(step(params, place_batch(batch, setup.mesh))[0]))
    nats_N = np.concatenate([[], *nats])[: len(place_N2)]
    return Hidden(chosen['row'][place_N2[:, 0]], tokens_RL[tuple(place_N2.T)], nats_N, count)


def hideable(tokens_RL: np.ndarray, segment_RL: np.ndarray, objective: Objective) -> np.ndarray:
    """[N, 2] rows and places of the tokens that can be hidden: text, and predicted at a place of its document."""
    vocabulary, offset = objective.vocabulary, objective.mask_offset
    special = (vocabulary.end_of_text, vocabulary.mask, vocabulary.pad, vocabulary.sep)
    may_RL = (segment_RL > 0) & ~np.isin(tokens_RL, special)
    if offset:
        may_RL[:, :offset] = False
        may_RL[:, offset:] &= segment_RL[:, offset:] == segment_RL[:, :-offset]
    return np.argwhere(may_RL)


def ends_of_words(segment_RL: np.ndarray, begins_RL: np.ndarray) -> np.ndarray:
    """[R, L] the place of the last token of each token's word, in its document."""
    L = segment_RL.shape[1]
    follows_RL = np.pad(begins_RL[:, 1:] | (segment_RL[:, 1:] != segment_RL[:, :-1]), ((0, 0), (0, 1)))
    follows_RL[:, -1] = True
    last_RL = np.where(follows_RL, np.arange(L), L)
    return np.minimum.accumulate(last_RL[:, ::-1], axis=1)[:, ::-1]


def one_hidden_each(
    tokens_RL, segment_RL, last_RL, place_N2: np.ndarray, mask: int, size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of rows with one token hidden in each, and those behind it as far as `last_RL` says.

    The last batch is filled up with repetitions.
    """
    index_L = np.arange(tokens_RL.shape[1])
    for start in range(0, len(place_N2), size):
        row_B, place_B = np.resize(place_N2[start : start + size], (size, 2)).T.astype(np.int32)
        tokens_BL = tokens_RL[row_B]
        target_B, last_B = (array_RL[row_B, place_B] for array_RL in (tokens_RL, last_RL))
        from_BL = index_L >= place_B[:, None]
        hidden_BL = from_BL & (index_L <= np.maximum(last_B, place_B)[:, None])
        tokens_BL[hidden_BL] = mask
        yield {'tokens': tokens_BL, 'segment': segment_RL[row_B], 'place': place_B, 'target': target_B}


def make_pseudo_step(model, mask_offset: int):
    """(params, batch) -> ([B] nats of the hidden tokens, [B] whether each has the highest logit).

    Logits are made for these tokens alone.

    Args:
      model: as its objective asks it.
    """

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
        logits_BV = logits_fn(head_params, hidden_BD)
        return token_nats(logits_BV, batch['target'])[0], jnp.argmax(logits_BV, axis=-1) == batch['target']

    return pseudo_step
