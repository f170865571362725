"""The Transformer stack that GPT-2 and BERT share: embedding, blocks, final norm, head.

Axes: B batch, L length, M cache slots, D width, V vocabulary.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.attention import Context, LayerCache
from gpt2jax.models.blocks import block_maps, init_blocks, run_blocks
from gpt2jax.models.embedding import Embedding, init_head, read_head
from gpt2jax.models.linear import dropout_rows
from gpt2jax.models.masks import Sight, distances, visible
from gpt2jax.models.norms import make_norm
from gpt2jax.models.relative import between, by_pair, is_relative
from gpt2jax.objectives import Example
from gpt2jax.placement import ALONE, Placement


@struct.dataclass
class Cache:
    """The carry of a decoder: what later tokens may read of earlier ones.

    Attributes:
      layers: keys and values, a tuple over the layers.
      order, segment: [B, M] of the tokens in the slots; empty slots have segment -1, which nobody sees.
      filled: how many slots are in use, the same for all rows.
    """

    layers: tuple[LayerCache, ...]
    order: Array
    segment: Array
    filled: Array


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Pure functions over a tree of parameters; `config` is `config.model`, resolved; `placement` is where they run.

    The tree: `embedding`, `blocks` (a tuple, one tree a layer), `norm_final` (not under post-norm), and `head` where it
    has parameters of its own.
    """

    config: object
    placement: Placement = ALONE

    rolling: ClassVar[bool] = False  # decoding ends where the slots do

    def init(self, key: Array):
        """Initial parameters, float32. They depend on the key and on the sizes alone."""
        config = self.config
        keys = dict(zip(('embedding', 'blocks', 'norm', 'head'), jax.random.split(key, 4), strict=True))
        index_11, x_11D = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.width))
        params = {
            'embedding': Embedding(config).init(keys['embedding'], index_11, None, index_11, index_11)['params'],
            'blocks': init_blocks(config, keys['blocks'], config.num_layers),
        }
        if config.norm.placement != 'post':
            params['norm_final'] = make_norm(config.norm).init(keys['norm'], x_11D)['params']
        head = init_head(config, keys['head'])
        return params | ({'head': head} if head else {})

    def gather(self, params):
        """The parameters with all but those of the blocks, which gather their own, whole on every device.

        `apply` and `head` take what this returns; without a mesh it is what they were.
        """
        blocks, rest = params['blocks'], {name: tree for name, tree in params.items() if name != 'blocks'}
        return self.placement.whole(rest, dtype=self.config.dtype) | {'blocks': blocks}

    def apply(self, params, example: Example, carry: Cache | None = None, *, dropout_key: Array | None = None):
        """Hidden states after the final norm, [B, L, D], and the carry.

        Args:
          params: as `init` makes them (and `gather`, on a mesh).
          example: inputs, token_type, order, segment, position and row are read.
          carry: keys and values of earlier calls (`init_carry`), to decode token by token.
          dropout_key: None turns dropout off.
        """
        config = self.config
        embed_key, block_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BLD, context, carry = self._begin(params, example, carry)
        x_BLD = self.placement.rows(x_BLD)
        x_BLD = dropout_rows(x_BLD, config.dropout, embed_key, example.row, self.placement)
        caches = None if carry is None else carry.layers
        x_BLD, caches, _ = run_blocks(config, params['blocks'], x_BLD, context, caches=caches, key=block_key)
        if config.norm.placement != 'post':
            x_BLD = make_norm(config.norm).apply({'params': params['norm_final']}, x_BLD)
        return x_BLD, None if carry is None else carry.replace(layers=caches)

    def attention_maps(self, params, example: Example) -> list[Array]:
        """The attention weights of every layer, [B, H, L, L] each, without dropout."""
        x_BLD, context, _ = self._begin(params, example, None)
        return block_maps(self.config, params['blocks'], x_BLD, context)

    def head(self, params):
        """(head_params, logits): `logits(head_params, hidden_ND)` is [N, V] in float32, -inf on padded ids.

        Split from `apply` so that the loss can make the logits chunk by chunk.
        """
        return read_head(self.config, params)

    def _begin(self, params, example: Example, carry: Cache | None):
        """Embeddings, what all layers are told, and the cache with this call's places taken."""
        config, L = self.config, example.inputs.shape[1]
        whole, slot, start = self.placement.whole_length, None, self.placement.start(L)
        order_BM, segment_BM = whole(example.order), whole(example.segment)
        if carry is not None:
            slot = start = carry.filled
            order_BM = jax.lax.dynamic_update_slice(carry.order, example.order, (0, slot))
            segment_BM = jax.lax.dynamic_update_slice(carry.segment, example.segment, (0, slot))
            carry = Cache(carry.layers, order_BM, segment_BM, slot + L)
        mask_BLM = visible(example.order, order_BM, example.segment, segment_BM)
        distance_LM = distances(L, order_BM.shape[1], start)
        x_BLD, rotation, bias = Embedding(config).apply(
            {'params': params['embedding']}, example.inputs, example.token_type, example.position, distance_LM
        )
        near_LM = jnp.abs(distance_LM) < config.attention.window if config.attention.window else None
        relative = None
        if is_relative(config):
            causal = example.visibility == 'causal'
            relative = between(config, L, 0, causal) if slot is None else by_pair(config, distance_LM)
        parts = (example.order, example.segment, segment_BM, start) if carry is None else ()
        sight = Sight(mask_BLM, *parts, visibility=example.visibility, window=config.attention.window)
        context = Context(sight, example.row, slot, near_LM, rotation, bias, relative, placement=self.placement)
        return x_BLD, context, carry

    def init_memory(self, batch_size: int) -> None:
        """No row remembers the one before it."""

    def init_carry(self, batch_size: int, slots: int) -> Cache:
        """An empty cache for `slots` tokens a row."""
        config = self.config
        shape = (batch_size, config.attention.num_kv_heads, slots, config.width // config.attention.num_heads)
        layers = tuple(
            LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.num_layers)
        )
        order_BM = jnp.zeros((batch_size, slots), jnp.int32)
        return Cache(layers, order_BM, order_BM - 1, jnp.zeros((), jnp.int32))
