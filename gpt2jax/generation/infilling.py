"""Texts from a model that only fills in: new tokens are hidden and drawn, again and again, in ever smaller parts.

This is Gibbs sampling (Wang & Cho 2019, section 3) of blocks: the first round draws all new tokens at once, each for
itself, the last one a few of them, given all others. Which ones is drawn too: hiding the doubtful ones, as mask-predict
does (Ghazvininejad et al. 2019), leaves a text of the most frequent tokens. The conditionals need not belong to one
distribution, so what comes out is not a sample of a likelihood, as a causal model's text is.

Axes: B rows, L length, N new tokens, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2jax.generation.blanks import fillable
from gpt2jax.generation.sampling import Sampling, draw
from gpt2jax.models.embedding import padded_vocab
from gpt2jax.objectives.texts import text_example

ROUNDS = 64  # for the new tokens of one window
MULTIPLE = 16  # lengths are rounded up to it: few shapes are few compilations


class Infiller:
    """Continues texts by iterated infilling; `stream` is that of gpt2jax.generation.decode.Generator."""

    def __init__(self, model, params, context: int, sampling: Sampling, tokenizer, mask_offset: int):
        """
        Args:
          model: apply, head (gpt2jax.models).
          params: as the model keeps them.
          context: the most tokens that the model may see at once.
          sampling: how a token is drawn.
          tokenizer: wraps a text; its special tokens are never drawn.
          mask_offset: how many positions before a hidden token it is predicted.
        """
        self._model, self._params, self._sampling = model, params, sampling
        self._context, self._tokenizer, self._offset = context, tokenizer, mask_offset
        allowed_V = fillable(tokenizer)
        self._allowed = np.pad(allowed_V, (0, padded_vocab(model.config) - len(allowed_V)))
        self._fill = jax.jit(self._fill_window, static_argnames='count')

    def stream(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, seed: int) -> Iterator[np.ndarray]:
        """Yields [B, N] pieces of the continuations, one a window.

        What does not fit into the context with its prompt is written in further windows, which begin with the newest
        half of it. Row b draws from `seed` and b alone.

        Args:
          prompts: ids of each row; a leading <|endoftext|> is that of the wrapping.
        """
        end, rows = self._tokenizer.end_of_text, jnp.arange(len(prompts))
        texts = [list(prompt[1:] if list(prompt[:1]) == [end] else prompt) for prompt in prompts]
        keys_B = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(rows)
        room, drawn = self._context - len(self._tokenizer.wrap([])), 0
        while drawn < max_new_tokens:
            longest = max(map(len, texts))
            count = min(max_new_tokens - drawn, max(room - longest, room - room // 2))
            windows = [text[-(room - count) :] if room > count else [] for text in texts]
            new_BN = np.asarray(self._fill(*self._lay_out(windows, count), keys_B, drawn, self._params, count=count))
            for text, new in zip(texts, new_BN.tolist(), strict=True):
                text.extend(new)
            drawn += count
            yield new_BN

    def _lay_out(self, windows: list[list[int]], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Wrapped texts with hidden tokens behind them, [B, L]; their lengths and the first hidden places, [B] each."""
        mask = self._tokenizer.mask
        wrapped = [self._tokenizer.wrap(window + [mask] * count) for window in windows]
        longest = max(map(len, wrapped))
        tokens_BL = np.full((len(wrapped), min(-(-longest // MULTIPLE) * MULTIPLE, self._context)), mask, np.int32)
        for row, tokens in zip(tokens_BL, wrapped, strict=True):
            row[: len(tokens)] = tokens
        lengths = np.array([len(tokens) for tokens in wrapped], np.int32)
        return tokens_BL, lengths, np.array([tokens.index(mask) for tokens in wrapped], np.int32)

    def _fill_window(self, tokens_BL, length_B, start_B, keys_B, drawn, params, count: int) -> Array:
        """[B, N]: what stands in the `count` hidden places of each row after the last round."""
        rows_B1 = jnp.arange(len(tokens_BL))[:, None]
        place_BN = start_B[:, None] + jnp.arange(count)

        def fill_once(number, tokens_BL):
            keys_BN = self._keys(keys_B, drawn, number, count)
            priority_BN = jax.vmap(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1))))(keys_BN)
            hide = count - (count - 1) * number // ROUNDS
            hidden_BN = jnp.argsort(jnp.argsort(priority_BN, axis=1), axis=1) < hide
            kept_BN = tokens_BL[rows_B1, place_BN]
            tokens_BL = tokens_BL.at[rows_B1, place_BN].set(jnp.where(hidden_BN, self._tokenizer.mask, kept_BN))
            new_BN = self._draw(params, tokens_BL, length_B, place_BN, keys_BN)
            return tokens_BL.at[rows_B1, place_BN].set(jnp.where(hidden_BN, new_BN, kept_BN))

        return jax.lax.fori_loop(0, ROUNDS, fill_once, tokens_BL)[rows_B1, place_BN]

    def _keys(self, keys_B, drawn, number, count: int) -> Array:
        """[B, N] keys of a round: of the row, the tokens before its window, the round and the place."""

        def of_row(key):
            key = jax.random.fold_in(jax.random.fold_in(key, drawn), number)
            return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))

        return jax.vmap(of_row)(keys_B)

    def _draw(self, params, tokens_BL, length_B, place_BN, keys_BN) -> Array:
        """[B, N] tokens drawn at places, each for itself."""
        hidden_BLD, _ = self._model.apply(params, text_example(tokens_BL, length_B, 'full'))
        hidden_BND = jnp.take_along_axis(hidden_BLD, (place_BN - self._offset)[..., None], axis=1)
        head_params, logits_fn = self._model.head(params)
        logits_MV = logits_fn(head_params, hidden_BND.reshape(-1, hidden_BND.shape[-1]))
        logits_MV = jnp.where(self._allowed, logits_MV, -jnp.inf)
        return draw(logits_MV, keys_BN.reshape(-1), self._sampling).reshape(place_BN.shape)
