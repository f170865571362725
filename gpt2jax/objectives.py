"""Objectives: rows of tokens -> what the model sees and what it must predict.

An objective is data plus one integer a token. `order` says who sees whom (gpt2jax/models/masks.py), so a model never
knows which objective it serves, and the loss of all of them is the same weighted cross-entropy. A new objective is one
class here and its name in OBJECTIVES.

Axes: B rows, L length.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Example:
    """A batch as a model and the loss take it. All are [B, L], but for the last two.

    Attributes:
      inputs: ids the model reads.
      targets: ids it must predict, position by position.
      weights: float32, what each prediction counts in the loss; 0 where there is none.
      order: who sees whom: a key is visible to a query when its order is no larger and the segment the same.
      segment: document of the row that a token belongs to, from 1; 0 is padding.
      position: index of a token in its segment, from 0.
      row: [B], index of the row in the global batch: the seed of what is random in it.
      visibility: what is known of `order` before any data is: 'causal' (it is the index in the row), 'full' (it is the
        same everywhere), 'prefix' or 'permuted'. A hint that lets a kernel skip what `order` hides anyway.
    """

    inputs: Array
    targets: Array
    weights: Array
    order: Array
    segment: Array
    position: Array
    row: Array
    visibility: str = struct.field(pytree_node=False)


class Causal:
    """GPT-2's: every token predicts the next one from itself and what came before (Radford et al. 2019, section 2).

    The order is the index in the row; documents are kept apart by their segments.
    """

    def num_predictions(self, length: int) -> int:
        """Positions of a row that can have a weight: a static bound, so that the loss can gather them."""
        return length

    def __call__(self, batch: dict[str, Array], key: Array) -> Example:
        """`batch` as gpt2jax.data.rows makes it; `key` is of the step (a causal objective draws nothing)."""
        del key
        inputs_BL, targets_BL = batch['tokens'][:, :-1], batch['tokens'][:, 1:]
        segment_BL = batch['segment'][:, :-1]
        index_L = jnp.arange(inputs_BL.shape[1], dtype=jnp.int32)
        return Example(
            inputs=inputs_BL,
            targets=targets_BL,
            weights=(batch['segment'][:, 1:] > 0).astype(jnp.float32),
            order=jnp.broadcast_to(index_L, inputs_BL.shape),
            segment=segment_BL,
            position=position_in_segment(segment_BL),
            row=batch['row'],
            visibility='causal',
        )


def position_in_segment(segment_BL: Array) -> Array:
    """Index of each token in its segment: restarts at 0 wherever the segment changes."""
    index_L = jnp.arange(segment_BL.shape[1], dtype=jnp.int32)
    starts_BL = jnp.pad(segment_BL[:, 1:] != segment_BL[:, :-1], ((0, 0), (1, 0)))
    start_BL = jax.lax.cummax(jnp.where(starts_BL, index_L, 0), axis=1)
    return index_L - start_BL


OBJECTIVES = {'causal': Causal}


def make_objective(config):
    """The objective that `config.objective` names; the section's other keys are its arguments."""
    arguments = {key: value for key, value in config.items() if key != 'kind'}
    return OBJECTIVES[config.kind](**arguments)
