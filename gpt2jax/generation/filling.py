"""Filling the blanks of a text, in the way that a model has learnt.

A model that hides tokens predicts a blank from both sides. A causal one cannot, but it can tell how likely a text is:
each candidate is put in, and the whole text scored. A model of span corruption writes what is missing behind the text.

Axes: B rows, K candidates, L length, P places, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.errors import UserError
from gpt2jax.generation.blanks import Blanks
from gpt2jax.losses import all_token_nats
from gpt2jax.objectives.texts import text_example

CHUNK_TOKENS = 1024  # tokens whose logits exist at once
LONGEST_ANSWER = 16  # tokens of one span


@dataclasses.dataclass(frozen=True)
class Choice:
    """How blanks are filled.

    Attributes:
      order: 'certain' fills the blank whose best candidate is the likeliest first, 'left' from left to right.
      top_k: candidates to tell of.
      num_samples, temperature, seed: how many texts, and how they are drawn; temperature 0 takes the likeliest.
      scored: candidates of a blank whose whole text a causal model scores.
      beams: partly filled texts that it keeps.
    """

    order: str = 'certain'
    top_k: int = 5
    num_samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    scored: int = 50
    beams: int = 4


@dataclasses.dataclass(frozen=True)
class Filled:
    """What came out.

    Attributes:
      candidates: for each blank its likeliest tokens, [(id, probability), ...].
      texts: ids of each filled text, with those that wrap it.
      filled: for each text the indices that were filled.
    """

    candidates: list[list[tuple[int, float]]]
    texts: list[list[int]]
    filled: list[list[int]]


class Reader:
    """What a model makes of texts, as NumPy arrays."""

    def __init__(self, model, params):
        def log_probs(params, tokens_BL, length_B, places_BP, prefix_B, visibility):
            example = text_example(tokens_BL, length_B, visibility, prefix_B)
            hidden_BLD, _ = model.apply(params, example)
            hidden_BPD = jnp.take_along_axis(hidden_BLD, places_BP[..., None], axis=1)
            head_params, logits_fn = model.head(params)
            logits_NV = logits_fn(head_params, hidden_BPD.reshape(-1, hidden_BPD.shape[-1]))
            return jax.nn.log_softmax(logits_NV).reshape(*places_BP.shape, -1)

        def nats(params, tokens_BL):
            example = text_example(tokens_BL, jnp.full(len(tokens_BL), tokens_BL.shape[1]), 'causal')
            hidden_BLD, _ = model.apply(params, example)
            head_params, logits_fn = model.head(params)
            targets_BL = tokens_BL[:, 1:]
            return all_token_nats(logits_fn, head_params, hidden_BLD[:, :-1], targets_BL, chunk_tokens=CHUNK_TOKENS)

        self._params = params
        self._log_probs = jax.jit(log_probs, static_argnames='visibility')
        self._nats = jax.jit(nats)

    def log_probs(self, tokens_BL, places_BP, visibility: str, length_B=None, prefix_B=None) -> np.ndarray:
        """[B, P, V]: log-probabilities that the model gives at those places."""
        tokens_BL, places_BP = np.asarray(tokens_BL, np.int32), np.asarray(places_BP, np.int32)
        length_B = np.full(len(tokens_BL), tokens_BL.shape[1]) if length_B is None else np.asarray(length_B)
        prefix_B = length_B if prefix_B is None else np.asarray(prefix_B)
        given_B = prefix_B if visibility == 'prefix' else None
        return np.asarray(self._log_probs(self._params, tokens_BL, length_B, places_BP, given_B, visibility=visibility))

    def causal_nats(self, tokens_BL) -> np.ndarray:
        """[B, L-1]: -log p of every token but the first, given those before it."""
        return np.asarray(self._nats(self._params, np.asarray(tokens_BL, np.int32)), np.float64)


def fill_masked(reader: Reader, blanks: Blanks, mask_offset: int, choice: Choice) -> Filled:
    """Fills one blank after another with a model that predicts hidden tokens; the others are then seen again.

    Args:
      mask_offset: how many positions before a hidden token it is predicted.
    """
    B, n, places = choice.num_samples, len(blanks.places), np.array(blanks.places)
    tokens_BL = np.tile(np.array(blanks.tokens, np.int32), (B, 1))
    open_BP, randoms = np.ones((B, n), bool), generators(choice)
    found = None
    for _ in range(n):
        log_BPV = reader.log_probs(tokens_BL, np.tile(places - mask_offset, (B, 1)), 'full')
        log_BPV = np.stack([restricted(log_BPV[:, p], blanks.allowed[p]) for p in range(n)], axis=1)
        found = found or [candidates(log_BPV[0, p], choice.top_k) for p in range(n)]
        for b in range(B):
            certainty_P = np.where(open_BP[b], log_BPV[b].max(-1), -np.inf)
            p = int(np.argmax(open_BP[b] if choice.order == 'left' else certainty_P))
            tokens_BL[b, places[p]] = pick(log_BPV[b, p], choice.temperature, randoms[b])
            open_BP[b, p] = False
    return Filled(found, tokens_BL.tolist(), [blanks.places] * B)


def fill_by_likelihood(reader: Reader, blanks: Blanks, choice: Choice) -> Filled:
    """Fills from left to right with a causal model, and keeps the likeliest texts as far as the next blank.

    The likeliest next tokens of a blank are its candidates. With each of them in place the text is scored up to the
    next blank, and in the end as a whole, so what stands behind a blank decides about it too. The candidates that are
    told of are scored by the whole text, with the other blanks as they were filled: over all tokens this is the exact
    conditional probability of the causal model.
    """
    ends = [*blanks.places[1:], len(blanks.tokens)]
    texts, randoms = [blanks.tokens] * (choice.num_samples if choice.temperature else 1), generators(choice)
    for place, allowed_V, end in zip(blanks.places, blanks.allowed, ends, strict=True):
        grown = []
        for text in texts:
            rows_KL, _ = with_candidates(reader, text, place, allowed_V, choice.scored)
            score_K = -reader.causal_nats(rows_KL)[:, : end - 1].sum(-1)
            grown.append((rows_KL, score_K))
        if choice.temperature:
            chosen = [
                pick(log_softmax(score_K), choice.temperature, r)
                for (_, score_K), r in zip(grown, randoms, strict=True)
            ]
            texts = [rows_KL[k].tolist() for (rows_KL, _), k in zip(grown, chosen, strict=True)]
        else:
            rows, scores = (np.concatenate(parts) for parts in zip(*grown, strict=True))
            texts = rows[np.argsort(-scores, kind='stable')[: choice.beams]].tolist()
    texts = texts[: choice.num_samples]
    found = []
    for place, allowed_V in zip(blanks.places, blanks.allowed, strict=True):
        rows_KL, ids_K = with_candidates(reader, texts[0], place, allowed_V, choice.scored)
        log_K = log_softmax(-reader.causal_nats(rows_KL).sum(-1))
        best = np.argsort(-log_K, kind='stable')[: choice.top_k]
        found.append([(int(ids_K[k]), float(np.exp(log_K[k]))) for k in best])
    return Filled(found, texts, [blanks.places] * len(texts))


def with_candidates(reader: Reader, text: list[int], place: int, allowed_V: np.ndarray, count: int):
    """([K, L] texts, [K] ids): the text with each of the `count` likeliest next tokens at a place."""
    log_V = reader.log_probs([text], [[place - 1]], 'causal')[0, 0]
    log_V = restricted(log_V, allowed_V)
    ids_K = np.argsort(-log_V, kind='stable')[: min(count, int(allowed_V.sum()))]
    rows_KL = np.tile(np.array(text, np.int32), (len(ids_K), 1))
    rows_KL[:, place] = ids_K
    return rows_KL, ids_K


def fill_answers(reader: Reader, blanks: Blanks, sep: int, context: int, choice: Choice) -> Filled:
    """Writes behind the text what belongs into each blank, as in gpt2jax.objectives.span_corruption.

    Here a blank stands for as many tokens as the model likes. The candidates are those of an answer's first token, with
    the answers before it as they were given.

    Args:
      sep: id of <|sep|>, which ends every answer.
      context: the most tokens a model may see.

    Raises:
      UserError: the context has no room for the answers.
    """
    question = [*blanks.tokens, sep]
    room = context - len(question) - len(blanks.places)
    if room < len(blanks.places):
        raise UserError(f'--text: with its {len(blanks.places)} answers longer than the context of {context} tokens')
    longest = min(LONGEST_ANSWER, room // len(blanks.places))
    found, texts, filled = [], [], []
    for random in generators(choice):
        tokens, answers = list(question), []
        for allowed_V in blanks.allowed:
            answer = []
            while len(answer) < longest:
                row = tokens + answer
                padded = row + [sep] * (context - len(row))
                given = {'length_B': [len(row)], 'prefix_B': [len(question)]}
                log_V = reader.log_probs([padded], [[len(row) - 1]], 'prefix', **given)[0, 0]
                may_V = np.concatenate([allowed_V, np.zeros(len(log_V) - len(allowed_V), bool)])
                if answer:
                    may_V = may_V | (np.arange(len(log_V)) == sep)
                log_V = restricted(log_V, may_V)
                if not answer and not texts:
                    found.append(candidates(log_V, choice.top_k))
                token = pick(log_V, choice.temperature, random)
                if token == sep:
                    break
                answer.append(token)
            tokens += [*answer, sep]
            answers.append(answer)
        text, places = put_answers(blanks, answers)
        texts.append(text)
        filled.append(places)
    return Filled(found, texts, filled)


def put_answers(blanks: Blanks, answers: list[list[int]]) -> tuple[list[int], list[int]]:
    """The text with every answer in its blank, and the indices of the answers' tokens."""
    text, places, start = [], [], 0
    for place, answer in zip(blanks.places, answers, strict=True):
        text += blanks.tokens[start:place]
        places += range(len(text), len(text) + len(answer))
        text += answer
        start = place + 1
    return text + blanks.tokens[start:], places


def restricted(log_V: np.ndarray, allowed_V: np.ndarray) -> np.ndarray:
    """Log-probabilities [..., V] among the allowed tokens alone; padded ids are not allowed."""
    allowed_V = np.pad(allowed_V, (0, log_V.shape[-1] - len(allowed_V)))
    return log_softmax(np.where(allowed_V, log_V.astype(np.float64), -np.inf))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def candidates(log_V: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The likeliest ids with their probabilities."""
    best = np.argsort(-log_V, kind='stable')[:count]
    return [(int(i), float(np.exp(log_V[i]))) for i in best if np.isfinite(log_V[i])]


def pick(log_V: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    """The likeliest id, or one drawn by adding Gumbel noise."""
    if not temperature:
        return int(np.argmax(log_V))
    return int(np.argmax(log_V / temperature + random.gumbel(size=log_V.shape)))


def generators(choice: Choice) -> list[np.random.Generator]:
    """One for each text, of the seed and its number alone."""
    return [np.random.default_rng([choice.seed, number]) for number in range(choice.num_samples)]
