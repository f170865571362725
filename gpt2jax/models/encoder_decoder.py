"""The encoder-decoder Transformer (Vaswani et al. 2017): a prefix LM whose prefix is read by an encoder of its own.

The encoder reads the places of a document that come first in its order. The decoder reads the last of these and all
that follow, and predicts what a prefix LM would there: so every objective that has a prefix trains this model, and its
hidden states stand at the places of the row where those of a prefix LM do.

Axes: B batch, L length, S source length, T decoder length, M cache slots, D width, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.attention import Cross
from gpt2jax.models.blocks import block_maps, init_blocks, run_block, run_blocks
from gpt2jax.models.embedding import Embedding, init_head, read_head
from gpt2jax.models.linear import dropout_rows
from gpt2jax.models.masks import Sight, visible
from gpt2jax.models.norms import make_norm
from gpt2jax.models.transformer import Cache, Transformer
from gpt2jax.objectives import Example, position_in_segment


@struct.dataclass
class Carry:
    """The carry of decoding: what later tokens may read of earlier ones.

    Attributes:
      cache: of the decoder; once a prompt is read, each layer holds what it makes of the encoder's output as well.
      source: [B, S] the segment of each token that the encoder has read; None before a prompt is read.
    """

    cache: Cache
    source: Array | None = None


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(Transformer):
    """Pure functions over a tree of parameters; `config` is `config.model`, resolved; `placement` is where they run.

    The tree: `embedding`, and `decoder_embedding` where the decoder has its own; `encoder` and `blocks`, those of the
    decoder, a tuple each, one tree a layer; `norm_encoder` and `norm_final` behind them (not under post-norm); `head`
    where it has parameters of its own. A position counts from 0 on either side. What a position encoding adds to the
    scores, and a window, is for tokens of one side: cross-attention has neither.
    """

    def init(self, key: Array):
        """Initial parameters, float32. They depend on the key and on the sizes alone."""
        config = self.config
        names = 'embedding', 'blocks', 'norm_final', 'head', 'decoder_embedding', 'encoder', 'norm_encoder'
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        index_11, x_11D = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.width))
        params = {
            'encoder': init_blocks(config, keys['encoder'], config.encoder_layers),
            'blocks': init_blocks(config, keys['blocks'], config.num_layers, cross=True),
        }
        for name in ('embedding',) if config.embedding.shared else ('embedding', 'decoder_embedding'):
            params[name] = Embedding(config).init(keys[name], index_11, None, index_11, index_11)['params']
        for name in ('norm_encoder', 'norm_final') if config.norm.placement != 'post' else ():
            params[name] = make_norm(config.norm).init(keys[name], x_11D)['params']
        head = init_head(config, keys['head'])
        return params | ({'head': head} if head else {})

    def gather(self, params):
        """The parameters with all but those of the blocks, which gather their own, whole on every device."""
        blocks = {name: params[name] for name in ('encoder', 'blocks')}
        rest = {name: tree for name, tree in params.items() if name not in blocks}
        return self.placement.whole(rest, dtype=self.config.dtype) | blocks

    def apply(self, params, example: Example, carry: Carry | None = None, *, dropout_key: Array | None = None):
        """Hidden states after the final norm, [B, L, D], and the carry. They are 0 where the decoder reads nothing.

        Args:
          params: as `init` makes them (and `gather`, on a mesh).
          example: inputs, token_type, order, segment, position, row and answers are read; with answers also weights.
          carry: of earlier calls (`init_carry`), to decode token by token. The first call reads a prompt, which is
            padded on the left; what the decoder reads of it, `answers` places or all, stands at its end.
          dropout_key: None turns dropout off.
        """
        if carry is not None and carry.source is not None:
            return self._decode(params, example.replace(position=example.order), None, carry)
        encoder_key, decoder_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        source, target = both_sides(example)
        encoded_BSD = self.encode(params, source, encoder_key)
        if carry is not None:
            return self._begin_text(params, target, encoded_BSD, Carry(carry.cache, source.segment))
        target, slot_BL = compact(target)
        hidden_BTD, _ = self._decode(params, target, encoded_BSD, Carry(None, source.segment), decoder_key)
        return spread(hidden_BTD, slot_BL), None

    def encode(self, params, example: Example, key: Array | None = None) -> Array:
        """What the encoder makes of a text, [B, L, D]; `key` seeds dropout."""
        embed_key, block_key = (None, None) if key is None else jax.random.split(key)
        x_BSD, context, _ = self._enter(params['embedding'], example, None, embed_key)
        x_BSD, *_ = run_blocks(self.config, params['encoder'], x_BSD, context, key=block_key, path='encoder')
        return self._leave(params, 'norm_encoder', x_BSD)

    def attention_maps(self, params, example: Example) -> list[Array]:
        """The attention weights of every layer of the encoder, [B, H, L, L] each, without dropout."""
        x_BSD, context, _ = self._enter(params['embedding'], example, None, None)
        return block_maps(self.config, params['encoder'], x_BSD, context)

    def head(self, params):
        """(head_params, logits): `logits(head_params, hidden_ND)` is [N, V] in float32, -inf on padded ids."""
        return read_head(self.config, params | {'embedding': self._decoder_embedding(params)})

    def init_carry(self, batch_size: int, slots: int) -> Carry:
        """An empty cache for `slots` tokens a row."""
        return Carry(super().init_carry(batch_size, slots))

    def _begin_text(self, params, target: Example, encoded_BSD: Array, carry: Carry):
        """Reads the end of a prompt. Every layer makes its keys and values of what the encoder has read, once."""
        L = target.inputs.shape[1]
        T = min(target.answers, L) or L
        empty = super().init_carry(*carry.source.shape).layers
        layers = tuple(layer.replace(cross=cross) for layer, cross in zip(carry.cache.layers, empty, strict=True))
        carry = carry.replace(cache=carry.cache.replace(layers=layers))
        end = jax.tree.map(lambda a: a[:, L - T :] if a.ndim == 2 else a, target)
        hidden_BTD, carry = self._decode(params, end, encoded_BSD, carry)
        return jnp.pad(hidden_BTD, ((0, 0), (L - T, 0), (0, 0))), carry

    def _decode(self, params, target: Example, encoded_BSD: Array | None, carry: Carry, key: Array | None = None):
        """Hidden states of the decoder's tokens, [B, T, D], and the carry with them in its cache, where it has one.

        Args:
          encoded_BSD: what the encoder has made of the source; None where the cache has its keys and values.
        """
        embed_key, block_key = (None, None) if key is None else jax.random.split(key)
        x_BTD, context, cache = self._enter(self._decoder_embedding(params), target, carry.cache, embed_key)
        first_BS = jnp.zeros_like(carry.source)
        sight = Sight(visible(target.order, first_BS, target.segment, carry.source))
        context = context.replace(cross=Cross(sight, encoded_BSD))
        block = functools.partial(run_block, cross=True)
        x_BTD, cache = self._run(params, x_BTD, context, cache, block_key, block=block)
        return self._leave(params, 'norm_final', x_BTD), carry.replace(cache=cache)

    def _decoder_embedding(self, params):
        return params['embedding' if self.config.embedding.shared else 'decoder_embedding']

    def _enter(self, embedding, example: Example, cache: Cache | None, key: Array | None):
        """Embeddings of one side, what its layers are told, and the cache with this call's places taken."""
        x_BLD, context, cache = self._begin({'embedding': embedding}, example, cache)
        x_BLD = self.placement.rows(x_BLD)
        return dropout_rows(x_BLD, self.config.dropout, key, example.row, self.placement), context, cache

    def _leave(self, params, name: str, x_BLD: Array) -> Array:
        """The norm behind a stack."""
        if self.config.norm.placement == 'post':
            return x_BLD
        return make_norm(self.config.norm).apply({'params': params[name]}, x_BLD)


def both_sides(example: Example) -> tuple[Example, Example]:
    """What the encoder reads and what the decoder reads, at the places of the row; the others are padding.

    Orders count from the first token of a document, as some objectives count them from that of the row.
    """
    segment_BL, index_BL = example.segment, position_in_segment(example.segment)
    first_BL = jnp.arange(segment_BL.shape[1]) - index_BL
    order_BL = example.order - jnp.take_along_axis(example.order, first_BL, axis=1)
    source_BL = (segment_BL > 0) & (order_BL == 0)
    goes_on_BL = source_BL[:, 1:] & (segment_BL[:, 1:] == segment_BL[:, :-1])
    target_BL = (segment_BL > 0) & ~(source_BL & jnp.pad(goes_on_BL, ((0, 0), (0, 1))))
    source = {'segment': jnp.where(source_BL, segment_BL, 0), 'order': jnp.zeros_like(order_BL), 'visibility': 'full'}
    target = {'segment': jnp.where(target_BL, segment_BL, 0), 'order': order_BL, 'visibility': 'causal'}
    return example.replace(**source), example.replace(**target, position=order_BL)


def compact(target: Example) -> tuple[Example, Array]:
    """The tokens of a side at the first of `answers` slots, in their order: [B, T]; and the slot of each place, [B, L].

    A side with `answers` is read at the places that have a weight: these do not depend on the others. Places that are
    not read have slot -1.
    """
    read_BL = target.segment > 0
    if target.answers:
        read_BL &= target.weights > 0
    T = min(target.answers, read_BL.shape[1]) or read_BL.shape[1]
    place_BT = jnp.argsort(~read_BL, axis=1, stable=True)[:, :T]
    read_BT = jnp.take_along_axis(read_BL, place_BT, axis=1)
    taken = jax.tree.map(lambda a: jnp.take_along_axis(a, place_BT, axis=1) if a.ndim == 2 else a, target)
    slot_BL = jnp.cumsum(read_BL, axis=1) - 1
    return taken.replace(segment=jnp.where(read_BT, taken.segment, 0)), jnp.where(read_BL & (slot_BL < T), slot_BL, -1)


def spread(hidden_BTD: Array, slot_BL: Array) -> Array:
    """The hidden states of slots at their places, [B, L, D]; 0 at places without one."""
    hidden_BLD = jnp.take_along_axis(hidden_BTD, jnp.maximum(slot_BL, 0)[..., None], axis=1)
    return jnp.where(slot_BL[..., None] >= 0, hidden_BLD, 0)
