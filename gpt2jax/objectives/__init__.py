"""Objectives: rows of tokens -> what the model sees and what it must predict.

An objective is data plus one integer a token. `order` says who sees whom (gpt2jax/models/masks.py), so a model never
knows which objective it serves, and the loss of all of them is the same weighted cross-entropy. A new objective is one
class in a file here and its name in OBJECTIVES.
"""

from gpt2jax.data.tokenizers import vocabulary_of
from gpt2jax.objectives.causal import Causal
from gpt2jax.objectives.example import Example, Objective, Queries, position_in_segment
from gpt2jax.objectives.hybrid import Hybrid
from gpt2jax.objectives.masked import Masked
from gpt2jax.objectives.permutation import Permutation
from gpt2jax.objectives.prefix import Prefix
from gpt2jax.objectives.seq2seq import Seq2Seq
from gpt2jax.objectives.span_corruption import SpanCorruption
from gpt2jax.objectives.switching import kind_at, phases

OBJECTIVES = {
    'causal': Causal,
    'masked': Masked,
    'prefix': Prefix,
    'hybrid': Hybrid,
    'span_corruption': SpanCorruption,
    'permutation': Permutation,
    'seq2seq': Seq2Seq,
}


def make_objective(config, kind: str | None = None) -> Objective:
    """The objective of a resolved config.

    Args:
      config: the whole config; `config.objective` and the vocabulary of `config.data.tokenizer` are read.
      kind: another one than `config.objective.kind`, for a run that switches.
    """
    return OBJECTIVES[kind or config.objective.kind](config.objective, vocabulary_of(config.data.tokenizer))


__all__ = [
    'OBJECTIVES',
    'Causal',
    'Example',
    'Hybrid',
    'Masked',
    'Objective',
    'Permutation',
    'Prefix',
    'Queries',
    'Seq2Seq',
    'SpanCorruption',
    'kind_at',
    'make_objective',
    'phases',
    'position_in_segment',
]
