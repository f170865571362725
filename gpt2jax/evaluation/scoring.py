"""How likely a model finds a stretch of text: the common currency of models that predict in different ways.

'causal': a model that predicts from left to right gives a text a probability, by the chain rule. A masked model does
not. Of it, 'pseudo' hides each token alone and predicts it from all the others (Salazar et al. 2020, section 2);
'pseudo_l2r' hides the later tokens of the same word with it, as a token is easily told by the rest of its word (Kauf &
Ivanova 2023, section 3). These sums are no probabilities of a text and do not compare in size with the first, but which
of two texts a model prefers does.
"""

import dataclasses
from collections.abc import Callable, Sequence

from gpt2jax.evaluation.engines import ChainRule, Engine, OneHidden, Request, Score
from gpt2jax.evaluation.subject import Subject
from gpt2jax.objectives import Objective, make_objective

BATCH_TOKENS = 8192  # of a batch, padding included
FILLING = {'masked', 'permuted'}  # the measures of models that fill what is hidden


@dataclasses.dataclass(frozen=True)
class Scorer:
    """One way to score.

    Attributes:
      mode: its name: 'causal', 'pseudo' or 'pseudo_l2r'.
      engine: what makes rows of requests, and runs them; modes that have rows in common share one.
    """

    mode: str
    engine: Engine

    @property
    def longest(self) -> int:
        """The most tokens that a target may have."""
        return self.engine.longest

    def score(self, requests: Sequence[Request], track: Callable) -> list[Score]:
        """A Score for each request, whatever stands beside it; equal requests have equal scores.

        Where a text does not fit, it keeps what is nearest to the target.

        Args:
          track: draws a bar (gpt2jax.training.progress).

        Raises:
          ValueError: a target without tokens or with more than `longest`, or an `after` that the mode cannot read.
        """
        return self.engine.score(requests, (self.mode,), track)[self.mode]

    def windows(self, ids: Sequence[int], overlap: int = 1) -> list[Request]:
        """Requests that score each token of a text of any length exactly once.

        The first window begins as a text does. Each later one has as its context the last `overlap` tokens of the one
        before it, and for the rest no memory: figures over windows depend on the length of the model.
        """
        first, step = self.engine.longest, self.engine.window - overlap
        if not 0 < overlap < self.engine.window:
            raise ValueError(f'overlap must lie in 1..{self.engine.window - 1}, not {overlap}')
        found = [Request((), tuple(ids[:first]))] if len(ids) else []
        for start in range(first, len(ids), step):
            found.append(Request(tuple(ids[start - overlap : start]), tuple(ids[start : start + step])))
        return found


def make_scorers(subject: Subject, batch_tokens: int = BATCH_TOKENS) -> dict[str, Scorer]:
    """The ways to score that are valid for a model, by their mode.

    That is what it was trained for: 'causal' where the predictions of its objective make up a likelihood, 'pseudo' and
    'pseudo_l2r' where it fills hidden tokens; a hybrid has all. Of a run that switched, all its objectives count, the
    later one first. A model of span corruption has none.
    """
    found: dict[str, Scorer] = {}
    for names, objective in objectives_of(subject):
        model = objective.asked(subject.setup.model)
        if 'likelihood' in names and 'causal' not in found:
            found['causal'] = Scorer('causal', ChainRule(subject, batch_tokens, model, prefix='prefix' in names))
        if names & FILLING and 'pseudo' not in found:
            engine = OneHidden(subject, batch_tokens, model, objective.mask_offset)
            found |= {mode: Scorer(mode, engine) for mode in ('pseudo', 'pseudo_l2r')}
    return found


def best_mode(subject: Subject) -> str | None:
    """The mode by which a model is compared with others: a likelihood where it has one, else 'pseudo_l2r'.

    Of a run that switched, by the objective that it ended with. None: the model has no mode.
    """
    for names, _ in objectives_of(subject):
        if 'likelihood' in names:
            return 'causal'
        if names & FILLING:
            return 'pseudo_l2r'
    return None


def objectives_of(subject: Subject) -> list[tuple[set[str], Objective]]:
    """Each objective of a run, the last one first, behind the names of its measures."""
    objectives = [make_objective(subject.setup.config, kind) for kind in subject.kinds]
    return [({name for name, _ in objective.evaluations()}, objective) for objective in objectives]


def score_all(scorers: dict[str, Scorer], requests: Sequence[Request], track: Callable) -> dict[str, list[Score]]:
    """The scores by every mode; modes that share rows run these once."""
    found = {}
    for engine in dict.fromkeys(scorer.engine for scorer in scorers.values()):
        modes = tuple(mode for mode, scorer in scorers.items() if scorer.engine is engine)
        found |= engine.score(requests, modes, track)
    return found


__all__ = ['BATCH_TOKENS', 'ChainRule', 'Request', 'Score', 'Scorer', 'best_mode', 'make_scorers', 'score_all']
