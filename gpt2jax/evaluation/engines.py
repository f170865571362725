"""Requests as rows: what a model reads and predicts in order to score a target, in batches of few shapes.

Axes: B batch, L length, W tokens of a text, N rows, M modes, R requests.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.batches import place_batch
from gpt2jax.evaluation.pseudo import make_pseudo_step
from gpt2jax.evaluation.subject import Subject
from gpt2jax.generation.text import context_of
from gpt2jax.losses import all_token_hits
from gpt2jax.objectives.texts import text_example

SHORTEST = 8  # a row is at least so long


@dataclasses.dataclass(frozen=True)
class Request:
    """Something to be scored, in ids of the text alone: what a model's texts begin and end with is the scorer's matter.

    Attributes:
      context: what stands before the target; empty at the beginning of a text.
      target: what is scored, at least one id.
      after: what stands behind it, which masked models alone can read.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    after: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Score:
    """What a model makes of a target.

    Attributes:
      nats: -log p, summed over its tokens: lower is likelier.
      greedy: whether every token of it was the likeliest one in its place.
      tokens: how many they are.
    """

    nats: float
    greedy: bool
    tokens: int


class Engine:
    """Rows of requests in batches of few shapes, through a jitted step.

    Attributes:
      longest: the most tokens of a target.
      window: the most tokens of a context that is not empty and a target together.
    """

    longest: int
    window: int

    def __init__(self, subject: Subject, batch_tokens: int, model):
        """`model` is that of the subject, as its objective asks it."""
        self.setup, self.params, self.model = subject.setup, subject.params, model
        self.tokenizer, self.context = subject.tokenizer, context_of(subject.setup.config)
        self.batch_tokens = batch_tokens

    def row_length(self, request: Request) -> int:
        """Places that the rows of a request need."""
        raise NotImplementedError

    def rows(self, request: Request, modes: tuple[str, ...], length: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The rows of a request, and [N, M] bool, which of them count for which mode."""
        raise NotImplementedError

    def step(self, params, batch):
        """(nats, hits) of every row, [N] or [N, L]; what is not of the target has 0 and True."""
        raise NotImplementedError

    def check(self, request: Request) -> None:
        """Raises ValueError for a request that cannot be scored."""
        if not request.target:
            raise ValueError('a target needs at least one token')
        if len(request.target) > self.longest:
            raise ValueError(
                f'a target of {len(request.target)} tokens: the model can score at most {self.longest} at once'
            )

    def score(self, requests: Sequence[Request], modes: tuple[str, ...], track: Callable) -> dict[str, list[Score]]:
        """The scores by several modes, of which rows that are the same are run once. Raises as `Scorer.score`."""
        places = {request: place for place, request in enumerate(dict.fromkeys(requests))}
        for request in places:
            self.check(request)
        nats_RM, greedy_RM = np.zeros((len(places), len(modes))), np.ones((len(places), len(modes)), bool)
        for owner_N, uses_NM, nats, hits in self._results(list(places), modes, track):
            nats_N = np.sum(nats.reshape(len(nats), -1), axis=1, dtype=np.float64)
            np.add.at(nats_RM, owner_N, np.where(uses_NM, nats_N[:, None], 0.0))
            right_N = np.all(hits.reshape(len(hits), -1), axis=1)
            np.logical_and.at(greedy_RM, owner_N, ~uses_NM | right_N[:, None])
        return {
            mode: [Score(float(nats_RM[places[r], m]), bool(greedy_RM[places[r], m]), len(r.target)) for r in requests]
            for m, mode in enumerate(modes)
        }

    @functools.cached_property
    def _compiled(self):
        return jax.jit(self.step)

    def _results(self, requests: list[Request], modes, track) -> Iterator[tuple]:
        """(owner [N], uses [N, M], nats, hits) of all rows; read one batch late, so that the device is never idle."""
        waiting = None
        for batch, owner_N, uses_NM in self._batches(requests, modes, track):
            running = self._compiled(self.params, place_batch(batch, self.setup.mesh)), owner_N, uses_NM
            if waiting is not None:
                yield self._read(*waiting)
            waiting = running
        if waiting is not None:
            yield self._read(*waiting)

    def _read(self, found, owner_N, uses_NM):
        nats, hits = (np.asarray(array)[: len(owner_N)] for array in found)
        return owner_N, uses_NM, nats, hits

    def _batches(self, requests: list[Request], modes, track) -> Iterator[tuple]:
        """Rows of like length together, short ones first; a batch that is not full repeats its rows."""
        lengths = [min(rounded(self.row_length(request)), self.context) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: lengths[i])
        waiting, count, length = [], 0, None
        for index in track(order, f'scoring ({", ".join(modes)})', len(order)):
            if lengths[index] != length:
                yield from self._cut(waiting, length, everything=True)
                waiting, count, length = [], 0, lengths[index]
            rows, uses_NM = self.rows(requests[index], modes, length)
            waiting.append((rows, np.full(len(uses_NM), index), uses_NM))
            count += len(uses_NM)
            if count >= self._size(length):
                yield from self._cut(waiting, length, everything=False)
                count = sum(len(owner_N) for _, owner_N, _ in waiting)
        yield from self._cut(waiting, length, everything=True)

    def _cut(self, waiting: list, length: int | None, everything: bool) -> Iterator[tuple]:
        """Takes full batches, or everything, out of `waiting`, and leaves the rest there."""
        if not waiting:
            return
        parts, owners, uses = zip(*waiting, strict=True)
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        owner_N, uses_NM, size, start = np.concatenate(owners), np.concatenate(uses), self._size(length), 0
        while len(owner_N) - start >= size or (everything and start < len(owner_N)):
            count = min(size, len(owner_N) - start)
            index_B = start + np.arange(self._padded(count, size)) % count
            batch = {name: array[index_B] for name, array in rows.items()}
            yield batch, owner_N[start : start + count], uses_NM[start : start + count]
            start += count
        rest = {name: array[start:] for name, array in rows.items()}, owner_N[start:], uses_NM[start:]
        waiting[:] = [rest] if len(rest[1]) else []

    def _size(self, length: int) -> int:
        """Rows of a full batch."""
        return self._multiple(max(1, self.batch_tokens // length))

    def _padded(self, count: int, size: int) -> int:
        """Rows of a batch that may not be full: all, a quarter or a sixteenth, since each size is compiled."""
        return next(rows for part in (16, 4, 1) if (rows := self._multiple(-(-size // part))) >= count)

    def _multiple(self, rows: int) -> int:
        return -(-rows // self.setup.mesh.size) * self.setup.mesh.size


class ChainRule(Engine):
    """log p(target | context), token by token from left to right.

    As in a stream (gpt2jax/data/tokens.py), <|endoftext|> begins a text. Where a text is too long, its row begins in
    the middle of it, as most rows of training do. A prefix model reads the context as its prefix, in both directions;
    without one its prefix is <|endoftext|> alone, so that it is causal.
    """

    def __init__(self, subject: Subject, batch_tokens: int, model, prefix: bool):
        super().__init__(subject, batch_tokens, model)
        self.prefix, self.longest, self.window = prefix, self.context, self.context + 1

    def check(self, request):
        super().check(request)
        if request.after:
            raise ValueError('a model that reads from left to right cannot read what stands behind a target')

    def row_length(self, request):
        return min(len(request.context) + len(request.target), self.context)

    def rows(self, request, modes, length):
        sequence = (self.tokenizer.end_of_text, *request.context, *request.target)[-self.context - 1 :]
        tokens_1L = np.full((1, length + 1), self.tokenizer.pad, np.int32)
        tokens_1L[0, : len(sequence)] = sequence
        count, read = len(request.target), len(sequence) - 1
        numbers = {'length': read, 'count': count, 'prefix': read + 1 - count}
        rows = {name: np.array([number], np.int32) for name, number in numbers.items()}
        return {'tokens': tokens_1L} | rows, np.ones((1, len(modes)), bool)

    def step(self, params, batch):
        inputs_BL, targets_BL = batch['tokens'][:, :-1], batch['tokens'][:, 1:]
        visibility, prefix_B = ('prefix', batch['prefix']) if self.prefix else ('causal', None)
        model, chunk_tokens = self.model, self.setup.config.loss.chunk_tokens
        hidden_BLD, _ = model.apply(params, text_example(inputs_BL, batch['length'], visibility, prefix_B))
        head_params, logits_fn = model.head(params)
        nats_BL, hits_BL = all_token_hits(logits_fn, head_params, hidden_BLD, targets_BL, chunk_tokens=chunk_tokens)
        end_B1, index_L = batch['length'][:, None], jnp.arange(inputs_BL.shape[1])
        target_BL = (index_L < end_B1) & (index_L >= end_B1 - batch['count'][:, None])
        return jnp.where(target_BL, nats_BL, 0.0), hits_BL | ~target_BL


class OneHidden(Engine):
    """A row for each token of the target, in which it is hidden, in 'pseudo_l2r' with the later ones of its word.

    A text is wrapped as the tokenizer says, for BERT in [CLS] and [SEP].
    """

    def __init__(self, subject: Subject, batch_tokens: int, model, mask_offset: int):
        super().__init__(subject, batch_tokens, model)
        self.longest = self.window = self.context - len(self.tokenizer.wrap([]))
        self.step = make_pseudo_step(self.model, mask_offset)

    def row_length(self, request):
        ids = len(request.context) + len(request.target) + len(request.after)
        return min(ids + len(self.tokenizer.wrap([])), self.context)

    def rows(self, request, modes, length):
        left, right = self._both_sides(request)
        text_W = np.array(self.tokenizer.wrap((*left, *request.target, *right)), np.int32)
        start, count = 1 + len(left), len(request.target)
        index_W, place_N = np.arange(len(text_W)), np.arange(start, start + count)
        alone_NW = index_W == place_N[:, None]
        word_W = words_of(text_W, self.tokenizer)
        later_NW = (index_W >= place_N[:, None]) & (word_W == word_W[place_N][:, None])
        same_N = np.all(alone_NW == later_NW, axis=1)
        hidden, places, uses = [], [], []
        for mask_NW, mode, other in ((alone_NW, 'pseudo', 'pseudo_l2r'), (later_NW, 'pseudo_l2r', 'pseudo')):
            if mode not in modes or (mode == 'pseudo_l2r' and other in modes and same_N.all()):
                continue
            run_N = ~same_N if mode == 'pseudo_l2r' and other in modes else np.ones(count, bool)
            hidden.append(mask_NW[run_N])
            places.append(place_N[run_N])
            uses.append(np.stack([(m == mode) | same_N[run_N] for m in modes], axis=1))
        hidden_NW, place_N = np.concatenate(hidden), np.concatenate(places).astype(np.int32)
        tokens_NL = np.full((len(place_N), length), self.tokenizer.pad, np.int32)
        tokens_NL[:, : len(text_W)] = np.where(hidden_NW, self.tokenizer.mask, text_W)
        segment_NL = np.broadcast_to((np.arange(length) < len(text_W)).astype(np.int32), tokens_NL.shape)
        rows = {'tokens': tokens_NL, 'segment': segment_NL, 'place': place_N, 'target': text_W[place_N]}
        return rows, np.concatenate(uses)

    def _both_sides(self, request: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As much of both sides as fits: half of the room each, or more where the other needs less."""
        room, left, right = self.longest - len(request.target), request.context, request.after
        keep = min(len(left), max(room - len(right), room - room // 2))
        return left[len(left) - keep :], right[: room - keep]


def words_of(ids_W: np.ndarray, tokenizer) -> np.ndarray:
    """[W] int, the number of each token's word, as in gpt2jax.data.rows: one begins with its first token or where the
    one before has ended."""
    begins_W = tokenizer.begins_word[ids_W]
    begins_W[1:] |= tokenizer.ends_word[ids_W[:-1]]
    return np.cumsum(begins_W)


def rounded(length: int) -> int:
    """A length of which there are about eight an octave: few shapes are few compilations."""
    step = max(4, 1 << max(length.bit_length() - 4, 0))
    return max(SHORTEST, -(-length // step) * step)
