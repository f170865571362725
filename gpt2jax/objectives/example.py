"""What an objective makes of a batch, and what a model and the loss take.

Axes: B rows, L length.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.data.tokenizers import Vocabulary


@struct.dataclass
class Queries:
    """Places that are predicted without being read: XLNet's second stream. All are [B, P].

    A query sees a key when its own order is strictly larger and the segment the same, so that it never sees the token
    that it predicts (Yang et al. 2019, section 2.3).

    Attributes:
      place: index in the row of the token that is predicted; one behind the row's last token is possible.
      order: as in Example.
      segment: the document that the token belongs to.
      token_type: as in Example.
    """

    place: Array
    order: Array
    segment: Array
    token_type: Array | None = None


@struct.dataclass
class Example:
    """A batch as a model and the loss take it. All are [B, L], but for what is said of the others.

    With `queries`, targets and weights are [B, P]: those of the queries.

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
      token_type: ids of BERT's segments A and B (Devlin et al. 2019, section 3); None: all 0.
      queries: the second stream, or None: then the output at a token's own place predicts its target.
      continues: [B] bool, whether the first document of a row goes on from the row that came before it in its place, so
        that it may read a memory of it; None: it never does.
      answers: what the decoder of an encoder-decoder reads: of a prompt so many places at its end; in training so many
        places, at most, that have a weight, which need no other ones to be read; 0: all that follow a prefix.
    """

    inputs: Array
    targets: Array
    weights: Array
    order: Array
    segment: Array
    position: Array
    row: Array
    visibility: str = struct.field(pytree_node=False)
    token_type: Array | None = None
    queries: Queries | None = None
    continues: Array | None = None
    answers: int = struct.field(pytree_node=False, default=0)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What all objectives have: a batch becomes an Example, and the key and the row decide what is random in it.

    Attributes:
      config: `config.objective`.
      vocabulary: ids of the special tokens, and of those that random ones are drawn from.
      reads: 'causal' or 'full', how a model of this objective sees a whole text that it is given.
      mask_offset: how many positions before a hidden token it is predicted; None: hidden tokens have no place of their
        own.
      answers: whether what stands in the place of <|mask|> is written behind the text.
      pairs: whether a document must be a source and its target, with <|sep|> between.
    """

    config: object
    vocabulary: Vocabulary

    reads: ClassVar[str] = 'full'
    mask_offset: ClassVar[int | None] = None
    answers: ClassVar[bool] = False
    pairs: ClassVar[bool] = False

    def num_predictions(self, length: int) -> int:
        """Positions of a row that can have a weight: a static bound, so that the loss can gather them."""
        return length

    def evaluations(self) -> list[tuple[str, 'Objective']]:
        """(name of a measure, what makes its Examples): what a model of this objective is measured by.

        gpt2jax.evaluation.measures knows the names. The first decides which checkpoint is the best.
        """
        raise NotImplementedError

    def asked(self, model):
        """The model as one asks it about texts (gpt2jax.objectives.texts): itself, or what has its outputs in place."""
        return model

    def __call__(self, batch: dict[str, Array], key: Array, progress: Array | float) -> Example:
        """Makes the Example of a batch.

        Args:
          batch: as gpt2jax.data.rows makes it.
          key: of the step. What is drawn depends on it and on `row` alone, so that neither devices nor microbatches
            change it.
          progress: share of the training steps that are done; 1 in evaluation.
        """
        raise NotImplementedError


def position_in_segment(segment_BL: Array) -> Array:
    """Index of each token in its segment: restarts at 0 wherever the segment changes."""
    index_L = jnp.arange(segment_BL.shape[1], dtype=jnp.int32)
    starts_BL = jnp.pad(segment_BL[:, 1:] != segment_BL[:, :-1], ((0, 0), (1, 0)))
    start_BL = jax.lax.cummax(jnp.where(starts_BL, index_L, 0), axis=1)
    return index_L - start_BL
