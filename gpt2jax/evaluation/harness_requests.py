"""What EleutherAI's lm-eval asks of a model, in ids: continuations and whole texts to score, prompts to continue.

It follows lm-eval 0.4.13, so that a model has the scores that lm-eval gives the same weights in transformers.
"""

from collections.abc import Callable, Sequence

import numpy as np

from gpt2jax.errors import UserError
from gpt2jax.evaluation.scoring import BATCH_TOKENS, ChainRule, Request, Scorer, best_mode, make_scorers
from gpt2jax.evaluation.subject import Subject
from gpt2jax.generation.text import until_end

PROMPTS = 16  # continued at a time
MULTIPLE = 32  # prompts are read in so many lengths: each one is compiled


class Continuation(ChainRule):
    """log p(target | context) with nothing before the context: lm-eval puts <|endoftext|> there itself, or nothing."""

    def rows(self, request, modes, length):
        first, *rest = request.context
        rows, uses_NM = super().rows(Request(tuple(rest), request.target), modes, length)
        if len(request.context) + len(request.target) <= self.window:
            rows['tokens'][0, 0] = first  # in the place of <|endoftext|>
        return rows, uses_NM


def make_scorer(subject: Subject) -> Scorer:
    """The scorer of the mode by which a model is compared.

    Raises:
      UserError: the model gives a text no score.
    """
    mode = best_mode(subject)
    if mode is None:
        raise UserError(f'--suite=harness: a model of the objective {subject.kinds[0]} gives a text no score')
    scorer = make_scorers(subject)[mode]
    if mode == 'causal':
        engine = scorer.engine
        return Scorer(mode, Continuation(subject, BATCH_TOKENS, engine.model, engine.prefix))
    return scorer


def make_request(scorer: Scorer, begin: int, context: Sequence[int], target: Sequence[int], text: str) -> Request:
    """A continuation to score.

    Args:
      begin: the id that stands for an empty context; a scorer of masked models has its own beginning of a text.
      text: of the target, for an error.

    Raises:
      UserError: the target has no token, or more than the model can score.
    """
    if not 0 < len(target) <= scorer.longest:
        raise UserError(
            f'--suite=harness: {text[:60]!r} is a continuation of {len(target)} tokens; this model can score 1 to '
            f'{scorer.longest}'
        )
    if scorer.mode != 'causal' and list(context) == [begin]:
        context = ()
    return Request(tuple(context), tuple(target))


def rolling_windows(scorer: Scorer, begin: int, ids: Sequence[int]) -> list[Request]:
    """Requests that score each token of a whole text once, of whatever length.

    The first window begins as a text does. Of the later ones each is full, so that the last one reads again as much as
    it has room for; another one begins with a single token that is not scored again.
    """
    first, full = scorer.longest, scorer.engine.window
    found = [make_request(scorer, begin, [begin], ids[:first], '')] if len(ids) else []
    for start in range(first, len(ids), full - 1):
        end = min(start + full - 1, len(ids))
        found.append(Request(tuple(ids[end - full : start]), tuple(ids[start:end])))
    return found


def until(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops; all of it where none comes."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text


def continue_prompts(
    generator,
    tokenizer,
    context: int,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[str],
    count: int,
    track: Callable,
) -> list[str]:
    """The continuation of each prompt, up to a stop or the end of a text.

    Args:
      generator: has `stream(prompts, max_new_tokens, seed)`.
      context: the most tokens that the model sees at once. Of a prompt that leaves no room there for `count` new
        tokens the end is read: what leaves room, or the half of it where nothing does.
      count: the most new tokens.
      track: draws a bar.
    """
    room = context - count if context > count else context // 2
    ends = [list(prompt[-room:]) or [tokenizer.end_of_text] for prompt in prompts]
    order, texts = sorted(range(len(ends)), key=lambda i: len(ends[i])), [''] * len(ends)
    starts = range(0, len(order), PROMPTS - 1)
    for start in track(starts, 'continuing prompts', len(starts)):
        chosen = order[start : start + PROMPTS - 1]
        longest = ends[chosen[-1]]
        length = max(len(longest), min(-(-len(longest) // MULTIPLE) * MULTIPLE, room))
        batch = [ends[i] for i in chosen] + [longest] * (PROMPTS - 1 - len(chosen))
        found = _continue(generator, tokenizer, [*batch, list(np.resize(longest, length))], stops, count, start)
        for i, text in zip(chosen, found, strict=False):  # what fills the batch up is dropped
            texts[i] = text
    return texts


def _continue(generator, tokenizer, prompts: list[list[int]], stops: Sequence[str], count: int, seed: int) -> list[str]:
    pieces, texts = [], []
    for piece_BN in generator.stream(prompts, count, seed):
        pieces.append(piece_BN)
        ids_BN = np.concatenate(pieces, axis=1)
        ended = [until_end(row, tokenizer, True) for row in ids_BN]
        whole = [tokenizer.decode(row) for row in ended]
        texts = [until(text, stops) for text in whole]
        if all(
            len(row) < ids_BN.shape[1] or text != all_of_it
            for row, text, all_of_it in zip(ended, texts, whole, strict=True)
        ):
            break
    return texts
