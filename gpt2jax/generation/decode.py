"""Cached generation: the loop runs on the device, many samples at once.

Rows with prompts of different lengths share the slots of one cache: shorter prompts are padded on the left, and
padding is a segment of its own, which the mask of gpt2jax.models.masks hides like any other document.

Axes: B rows, P slots of the prompts, N tokens drawn in one call.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from gpt2jax.generation.sampling import Sampling, draw
from gpt2jax.objectives import Example


@struct.dataclass
class Decoding:
    """Where every row stands.

    Attributes:
      carry: the model's cache.
      token: [B] the newest token, which the model has not read yet.
      position: [B] its index in the window.
      done: [B] whether it ended the row.
      count: tokens drawn so far, over all windows: the seed of the next draw.
      prefix: [B] how many tokens at the beginning of the window are seen in both directions; 1: none.
    """

    carry: object
    token: Array
    position: Array
    done: Array
    count: Array
    prefix: Array


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a model with a cache reads prompts, and after them token by token.

    Attributes:
      model: init_carry, apply, head (gpt2jax.models).
      tokenizer: its special tokens (gpt2jax.data.tokenizers); all but the one that ends a text are never written.
      kind: 'causal'; 'prefix', the prompt is seen in both directions; 'answer', so is the prompt with a <|mask|> behind
        it, whose answer is written up to its <|sep|> (gpt2jax.objectives.span_corruption); 'target', the prompt is a
        source that is seen in both directions, and its target is written (gpt2jax.objectives.seq2seq).
    """

    model: object
    tokenizer: object
    kind: str = 'causal'

    def ask(self, prompt: Sequence[int]) -> list[int]:
        """A prompt as the model reads it."""
        if self.kind == 'target':
            return [self.tokenizer.end_of_text, *prompt, self.tokenizer.sep]
        return [*prompt, self.tokenizer.mask, self.tokenizer.sep] if self.kind == 'answer' else list(prompt)

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.sep if self.kind == 'answer' else self.tokenizer.end_of_text

    @property
    def never(self) -> np.ndarray:
        """The special tokens that are not written."""
        special = {self.tokenizer.mask, self.tokenizer.pad, self.tokenizer.sep, self.tokenizer.end_of_text}
        return np.array(sorted(special - {self.end}))

    def pad_left(self, texts: Sequence[Sequence[int]], least: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """[B, P] ids and [B] lengths, with P `least` or more."""
        slots = max(least, *map(len, texts))
        tokens_BP = np.full((len(texts), slots), self.tokenizer.pad, np.int32)
        for row, text in zip(tokens_BP, texts, strict=True):
            row[slots - len(text) :] = text
        return tokens_BP, np.array([len(text) for text in texts], np.int32)

    def begin(self, params, tokens_BP, length_B, slots: int) -> tuple[Array, object, Array]:
        """Fills a new cache with prompts: the logits after each, [B, V], the cache, and the prefix of each row, [B]."""
        B, P = tokens_BP.shape
        position_BP = jnp.arange(P, dtype=jnp.int32) - (P - length_B[:, None])
        prefix_B = jnp.ones_like(length_B) if self.kind == 'causal' else length_B
        return *self.read(params, tokens_BP, position_BP, prefix_B, self.model.init_carry(B, slots)), prefix_B

    def read(self, params, tokens_BP, position_BP, prefix_B, carry) -> tuple[Array, object]:
        """Logits after the last of the given tokens, [B, V], and the cache that now holds them."""
        padding_BP = position_BP < 0
        example = Example(
            inputs=tokens_BP,
            targets=tokens_BP,
            weights=jnp.zeros(tokens_BP.shape),
            order=jnp.maximum(position_BP - prefix_B[:, None] + 1, 0),
            segment=jnp.where(padding_BP, 0, 1),
            position=jnp.maximum(position_BP, 0),
            row=jnp.arange(len(tokens_BP)),
            visibility='permuted',  # padding on the left shifts the order against the index
            answers=0 if self.kind == 'causal' else 1,  # all but the last token of a prompt are its prefix
        )
        hidden_BPD, carry = self.model.apply(params, example, carry)
        head_params, logits_fn = self.model.head(params)
        return logits_fn(head_params, hidden_BPD[:, -1]).at[:, self.never].set(-jnp.inf), carry


class Generator:
    """Draws continuations from a model with a cache."""

    def __init__(
        self,
        model,
        params,
        context: int,
        sampling: Sampling,
        tokenizer,
        stop: bool,
        chunk: int = 16,
        reading: str = 'causal',
    ):
        """
        Args:
          model: init_carry, apply, head (gpt2jax.models).
          params: as the model keeps them.
          context: the most tokens that the model may see at once; where it is `rolling`, that its slots can hold.
          sampling: how a token is drawn.
          tokenizer: of `Reading`.
          stop: whether <|endoftext|> ends a row; the rest of it is <|pad|>.
          chunk: tokens drawn between two returns to the host.
          reading: the kind of `Reading`.
        """
        self._reading, self._sampling = Reading(model, tokenizer, reading), sampling
        self._context, self._chunk, self._pad = context, chunk, tokenizer.pad
        self._stop = self._reading.end if stop or reading == 'answer' else None
        self._params = params
        self._begin = jax.jit(self._read_prompt, static_argnames='slots')
        self._draw = jax.jit(self._draw_tokens, static_argnames='count', donate_argnames='state')

    def __call__(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, seed: int) -> np.ndarray:
        """[B, max_new_tokens] int32: the continuation of every prompt, with `pad` after its stop token."""
        tokens = np.concatenate(list(self.stream(prompts, max_new_tokens, seed)), axis=1)
        return np.pad(tokens, ((0, 0), (0, max_new_tokens - tokens.shape[1])), constant_values=self._pad)

    def stream(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, seed: int) -> Iterator[np.ndarray]:
        """Yields [B, N] pieces of the continuations as they are drawn; ends early when every row has.

        A text that outgrows the context slides: the newest half of the context is read again as the beginning of a
        new window, and what came before is forgotten. A rolling model never slides: it goes on with what it remembers.
        Row b draws from `seed` and b alone, so a text depends neither on the other rows nor on the pieces.

        Args:
          prompts: ids of each row, at least one; of a longer one than the context the end is read.
        """
        texts = [self._reading.ask(prompt) for prompt in prompts]
        keys_B = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(len(texts)))
        rolling, context = self._reading.model.rolling, self._context
        keep, drawn, done_B = context - (not rolling), 0, jnp.zeros(len(texts), bool)
        while drawn < max_new_tokens and not np.all(done_B):
            window = [text[-keep:] for text in texts]
            room = max_new_tokens - drawn
            room = room if rolling else min(room, context - max(map(len, window)))
            prompt = self._reading.pad_left(window)
            slots = -(-(prompt[0].shape[1] + room) // 16) * 16  # every slot costs time; few sizes cost few compilations
            slots = min(slots, context)
            state = self._begin(*prompt, done_B, jnp.int32(drawn), keys_B, self._params, slots=slots)
            pieces, left = [np.asarray(state.token)[:, None]], room - 1
            while True:
                for text, new in zip(texts, pieces[-1].tolist(), strict=True):
                    text.extend(new)
                yield pieces[-1]
                done_B = state.done
                if not left or np.all(done_B):
                    break
                count = min(self._chunk, left)
                tokens_BN, state = self._draw(state, keys_B, self._params, count=count)
                pieces, left = [np.asarray(tokens_BN)], left - count
            drawn, keep = drawn + room - left, max(1, context // 2)

    def _read_prompt(self, tokens_BP, length_B, done_B, count, keys_B, params, slots: int) -> Decoding:
        """Fills a new cache with the prompts and draws the token after each."""
        logits_BV, carry, prefix_B = self._reading.begin(params, tokens_BP, length_B, slots)
        return self._next(logits_BV, Decoding(carry, tokens_BP[:, -1], length_B - 1, done_B, count, prefix_B), keys_B)

    def _draw_tokens(self, state: Decoding, keys_B, params, count: int) -> tuple[Array, Decoding]:
        """[B, count] further tokens; stops computing when all rows are done."""

        def more(loop):
            i, _, state = loop
            return (i < count) & ~jnp.all(state.done)

        def step(loop):
            i, tokens_BN, state = loop
            token_B1, position_B1 = state.token[:, None], state.position[:, None]
            logits_BV, carry = self._reading.read(params, token_B1, position_B1, state.prefix, state.carry)
            state = self._next(logits_BV, state.replace(carry=carry), keys_B)
            return i + 1, tokens_BN.at[:, i].set(state.token), state

        tokens_BN = jnp.full((len(state.token), count), self._pad, jnp.int32)
        _, tokens_BN, state = jax.lax.while_loop(more, step, (0, tokens_BN, state))
        return tokens_BN, state

    def _next(self, logits_BV, state: Decoding, keys_B) -> Decoding:
        draw_keys_B = jax.vmap(lambda key: jax.random.fold_in(key, state.count))(keys_B)
        token_B = jnp.where(state.done, self._pad, draw(logits_BV, draw_keys_B, self._sampling))
        done_B = state.done if self._stop is None else state.done | (token_B == self._stop)
        return Decoding(state.carry, token_B, state.position + 1, done_B, state.count + 1, state.prefix)
