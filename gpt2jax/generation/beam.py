"""Beam search: the likeliest text, as far as it is found when a few texts are kept at every token.

The loop runs on the device.

Axes: B prompts, K beams, R = B * K rows of the cache, C texts to choose from, N tokens of a text, P slots of the
prompts, V vocabulary.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from gpt2jax.generation.decode import Reading


@struct.dataclass
class Beams:
    """The texts that are kept, each list in no particular order.

    Attributes:
      count: tokens written so far.
      carry: the model's cache, a row for each text that goes on.
      tokens: [B, K, N] of the texts that go on.
      log_prob: [B, K] of these; -inf where there are fewer.
      ended: [B, K, N] of the best texts that have ended.
      score: [B, K] of these; -inf where there are fewer.
    """

    count: Array
    carry: object
    tokens: Array
    log_prob: Array
    ended: Array
    score: Array


class BeamSearch:
    """Finds likely continuations with a model that has a cache.

    A text's score is its log-probability over ((5 + n) / 6)^length_penalty, with n its tokens and the one that ends it
    (Wu et al. 2016, section 7): without it short texts are the likeliest ones. A text that is cut off at the most
    tokens that were asked for is scored as it is. A text that ends leaves its beam (Sutskever et al. 2014, section
    3.2); the search is over when all have, or when none that goes on can become better than the best that has ended.
    """

    def __init__(
        self,
        model,
        params,
        context: int,
        beams: int,
        length_penalty: float,
        tokenizer,
        reading: str = 'causal',
    ):
        """
        Args:
          model: init_carry, apply, head (gpt2jax.models).
          params: as the model keeps them.
          context: the most tokens that the model may see at once.
          beams: texts that are kept; 1 takes the likeliest token at every step.
          length_penalty: from 0 on.
          tokenizer, reading: of gpt2jax.generation.decode.Reading.
        """
        self._reading, self._params = Reading(model, tokenizer, reading), params
        self._context, self._beams, self._length_penalty = context, beams, length_penalty
        self._search = jax.jit(self._search_texts, static_argnames=('slots', 'limit'))

    def __call__(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, prompt_slots: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best continuation of every prompt, [B, max_new_tokens] with `pad` behind its end, and its score, [B].

        Prompts and continuations share the context, unless the model is `rolling`: of a prompt that leaves less than
        half of it the end is read, and no text is longer than what is left.

        Args:
          prompt_slots: shorter prompts are padded to it, so that many calls have few shapes to compile.
        """
        texts, limit = [self._reading.ask(prompt) for prompt in prompts], max_new_tokens
        if not self._reading.model.rolling:
            room = min(max_new_tokens, max(1, self._context // 2))
            texts = [text[-(self._context - room) :] for text in texts]
            limit = min(max_new_tokens, self._context - max(map(len, texts)))
        tokens_BP, length_B = self._reading.pad_left(texts, prompt_slots)
        slots = -(-(tokens_BP.shape[1] + limit) // 16) * 16  # few sizes cost few compilations
        tokens_BN, score_B = self._search(tokens_BP, length_B, self._params, slots=slots, limit=limit)
        behind = ((0, 0), (0, max_new_tokens - limit))
        return np.pad(tokens_BN, behind, constant_values=self._reading.tokenizer.pad), np.asarray(score_B)

    def _search_texts(self, tokens_BP, length_B, params, slots: int, limit: int) -> tuple[Array, Array]:
        B, K = len(length_B), self._beams
        logits_BV, carry, prefix_B = self._reading.begin(params, tokens_BP, length_B, slots)
        logits_BKV, carry, prefix_R, length_R = _repeat((logits_BV, carry, prefix_B, length_B), K)
        nothing_BKN = jnp.full((B, K, limit), self._reading.tokenizer.pad, jnp.int32)
        none_BK = jnp.full((B, K), -jnp.inf)
        beams = Beams(jnp.int32(0), carry, nothing_BKN, none_BK.at[:, 0].set(0.0), nothing_BKN, none_BK)

        def more(beams):
            possible_B = jnp.max(beams.log_prob, axis=1) / self._penalty(limit)  # the most that it can still become
            return (beams.count < limit) & jnp.any(possible_B > jnp.max(beams.score, axis=1))

        def step(beams):
            token_R1 = beams.tokens[:, :, beams.count - 1].reshape(-1, 1)
            position_R1 = (length_R + beams.count - 1)[:, None]
            logits_RV, carry = self._reading.read(params, token_R1, position_R1, prefix_R, beams.carry)
            return self._grow(beams.replace(carry=carry), logits_RV.reshape(B, K, -1))

        beams = jax.lax.while_loop(more, step, self._grow(beams, logits_BKV.reshape(B, K, -1)))
        cut_BK = jnp.where(beams.count == limit, beams.log_prob / self._penalty(limit), -jnp.inf)
        tokens_BCN = jnp.concatenate([beams.ended, beams.tokens], axis=1)
        score_B1, tokens_B1N = _best(jnp.concatenate([beams.score, cut_BK], axis=1), tokens_BCN, 1)
        return tokens_B1N[:, 0], score_B1[:, 0]

    def _grow(self, beams: Beams, logits_BKV: Array) -> Beams:
        """All texts with one more token, of which the likeliest are kept, as many as have not ended before."""
        B, K, V = logits_BKV.shape
        log_BKV = beams.log_prob[..., None] + jax.nn.log_softmax(logits_BKV)
        log_BK, place_BK = jax.lax.top_k(log_BKV.reshape(B, -1), K)
        free_B1 = K - jnp.sum(jnp.isfinite(beams.score), axis=1, keepdims=True)
        log_BK = jnp.where(jnp.arange(K) < free_B1, log_BK, -jnp.inf)
        parent_BK, token_BK, count = place_BK // V, place_BK % V, beams.count + 1
        tokens_BKN = _take(beams.tokens, parent_BK).at[:, :, beams.count].set(token_BK)
        ends_BK = token_BK == self._reading.end
        score_BK, ended_BKN = _best(
            jnp.concatenate([beams.score, jnp.where(ends_BK, log_BK / self._penalty(count), -jnp.inf)], axis=1),
            jnp.concatenate([beams.ended, tokens_BKN], axis=1),
            K,
        )
        row_R = (parent_BK + K * jnp.arange(B)[:, None]).reshape(-1)
        carry = jax.tree.map(lambda a: a[row_R] if a.ndim else a, beams.carry)
        return Beams(count, carry, tokens_BKN, jnp.where(ends_BK, -jnp.inf, log_BK), ended_BKN, score_BK)

    def _penalty(self, count):
        return ((5 + count) / 6) ** self._length_penalty


def _repeat(tree, times: int):
    """Every row of every array so many times; scalars are of all rows."""
    return jax.tree.map(lambda a: jnp.repeat(a, times, axis=0) if a.ndim else a, tree)


def _take(x_BC: Array, index_BK: Array) -> Array:
    """[B, K, ...] of [B, C, ...]."""
    return jax.vmap(lambda x_C, index_K: x_C[index_K])(x_BC, index_BK)


def _best(score_BC: Array, tokens_BCN: Array, count: int) -> tuple[Array, Array]:
    """The best scores, [B, count], and their texts."""
    score_BK, index_BK = jax.lax.top_k(score_BC, count)
    return score_BK, _take(tokens_BCN, index_BK)
