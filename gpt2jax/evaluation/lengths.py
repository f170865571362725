"""How much text the predictions of a measure read: the lengths that belong to every perplexity."""

import dataclasses

import jax

from gpt2jax.config import overlay
from gpt2jax.data.rows import Part, Rows, batch_shapes
from gpt2jax.data.walks import Walk, evaluation_batches, evaluation_streams
from gpt2jax.models import make_model


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How a split is cut into rows.

    Attributes:
      context: tokens in a row.
      target: how many of them, the last ones, predict a token that counts.
      remembers: whether rows are read in lanes, with a memory of those before (gpt2jax.data.walks).
      memory: hidden states of these that each layer reads; None: their number is not bounded.
      clamp: distance beyond which all are alike; 0: none is.
    """

    context: int
    target: int
    remembers: bool = False
    memory: int | None = 0
    clamp: int = 0

    def batches(self, rows: Rows, batch_size: int, part: Part, num_rows: int) -> Walk:
        """The walk through a split, which `rows` cuts in any way; takes what `evaluation_batches` takes."""
        walk = evaluation_streams if self.remembers else evaluation_batches
        return walk(rows.windows(self.context, self.target), batch_size, part, num_rows)

    def batch_shapes(self, batch_size: int) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of each array of its batches."""
        shapes = batch_shapes(batch_size, self.context)
        chosen = self.remembers or self.target < self.context
        return shapes | ({'counted': shapes['begins']} if chosen else {})

    def figures(self) -> dict[str, int]:
        """As records of an evaluation say it."""
        if not self.remembers:
            return {'context': self.context, 'stride': self.target}
        memory = {} if self.memory is None else {'memory': self.memory, 'clamp': self.clamp}
        return {'stride': self.target} | memory

    def __str__(self) -> str:
        if not self.remembers:
            return f'context {self.context}' + (f', stride {self.target}' if self.target < self.context else '')
        if self.memory is None:
            return f'stride {self.target}, memory unbounded'
        return f'stride {self.target}, memory {self.memory}, ' + (f'clamp {self.clamp}' if self.clamp else 'no clamp')


def likelihood_lengths(config) -> Lengths:
    """Of the measure that gives a text its probability: `evaluation.stride` and `evaluation.context`.

    A model with a memory reads rows of one stride, and what is left of the context is its memory's length; every other
    model reads windows of the whole context, each a stride behind the one before it (Dai et al. 2019, section 3.2).
    """
    stride, context, model = config.evaluation.stride, config.evaluation.context, evaluated_model(config)
    if not remembers(model):
        return Lengths(context, stride)
    if config.model.architecture == 'lstm':
        return Lengths(stride, stride, remembers=True, memory=None)
    clamp = config.model.position.clamp_length
    return Lengths(stride, stride, remembers=True, memory=context - stride, clamp=clamp)


def evaluated_model(config):
    """`config.model` with the memory that likelihoods are measured with, which training may have had shorter."""
    memory = config.evaluation.context - config.evaluation.stride
    return overlay(config, {'model.memory_length': memory}).model


def remembers(model) -> bool:
    """Whether the architecture of a `config.model` has a memory of earlier rows."""
    return jax.eval_shape(lambda: make_model(model).init_memory(1)) is not None
