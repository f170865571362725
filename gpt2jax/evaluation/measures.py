"""What is measured of a model: the figures that mean something for its objective, under names of their own."""

import dataclasses
import math

from gpt2jax.config import overlay
from gpt2jax.evaluation.lengths import Lengths, likelihood_lengths
from gpt2jax.objectives import Objective, make_objective, phases

# What the scores are called. All are lower where a model is better.
SCORES = {
    'bits_per_byte': 'bits per byte',
    'nats_per_token': 'nats per token',
    'masked_nats': 'nats per hidden token',
    'prefix_nats': 'nats per token after the prefix',
    'span_nats': 'nats per token of the spans',
    'permuted_nats': 'nats per token in a random order',
    'answer_nats': 'nats per token of the target',
}
HIGHER = ('accuracy', 'bleu', 'chrf')  # ends of the names of figures that are higher where a model is better
# The figure that compares with the training loss of an objective; a hybrid's loss is a mixture of two.
LIKE_THE_LOSS = {
    'causal': 'nats_per_token',
    'masked': 'masked_nats',
    'prefix': 'prefix_nats',
    'span_corruption': 'span_nats',
    'permutation': 'permuted_nats',
    'seq2seq': 'answer_nats',
}


@dataclasses.dataclass
class Sums:
    """Sums over a split; they do not depend on batch size or devices, beyond the rounding of a matrix product.

    Attributes:
      nats: cross-entropy summed over all predicted tokens.
      hits: how many of them had the highest logit; 0 where that is not measured.
      predicted: how many tokens are predicted, ends of documents among them.
      bytes: of text that these tokens stand for (an end of document stands for none).
    """

    nats: float = 0.0
    hits: int = 0
    predicted: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Measure:
    """One way to measure a model.

    Attributes:
      name: 'likelihood', where the predictions of a row make up its probability by the chain rule; else what is
        predicted: 'masked', 'prefix', 'span', 'permuted' or 'answer'.
      objective: makes the Examples.
      lossless: whether the bytes of a text are known from its tokens.
      lengths: how much text a prediction reads.
    """

    name: str
    objective: Objective
    lossless: bool
    lengths: Lengths

    @property
    def score(self) -> str:
        """The name of the figure that decides which checkpoint is the best."""
        if self.name != 'likelihood':
            return f'{self.name}_nats'
        return 'bits_per_byte' if self.lossless else 'nats_per_token'

    @property
    def accuracy(self) -> bool:
        """Whether hits are counted: not where every token is predicted, for which the nats say more at less cost."""
        return self.name != 'likelihood'

    def figures(self, sums: Sums) -> dict[str, float]:
        """What is reported. Bits per byte compares across tokenizers, nats per token does not."""
        nats_per_token = sums.nats / max(sums.predicted, 1)
        if self.name != 'likelihood':
            return {
                f'{self.name}_nats': nats_per_token,
                f'{self.name}_accuracy': sums.hits / max(sums.predicted, 1),
                f'{self.name}_predicted': sums.predicted,
            }
        by_byte = {'bits_per_byte': sums.nats / math.log(2) / max(sums.bytes, 1)} if self.lossless else {}
        return by_byte | {
            'nats_per_token': nats_per_token,
            'perplexity': math.exp(min(nats_per_token, 700)),
            'predicted': sums.predicted,
            **({'bytes': sums.bytes} if self.lossless else {}),
            **self.lengths.figures(),
        }


def make_measures(config, lossless: bool) -> list[Measure]:
    """The measures of a run; the first one's score decides which checkpoint is the best.

    Of a run that switches they are those of all its objectives, those of the last one first. Where two of them have the
    same name, the later objective's counts. Tokens are hidden at `evaluation.rate`.

    Args:
      config: the whole config, resolved.
      lossless: of the tokenizer.
    """
    found = {}
    measured = overlay(config, {'objective.rate': config.evaluation.rate, 'objective.start_rate': 0.0})
    for _, kind in reversed(phases(config)):
        for name, objective in make_objective(measured, kind).evaluations():
            row = Lengths(config.data.length, config.data.length)
            lengths = likelihood_lengths(config) if name == 'likelihood' else row
            found.setdefault(name, Measure(name, objective, lossless, lengths))
    return list(found.values())
