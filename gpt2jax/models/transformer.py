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
      filled: how many tokens were written, the same for all rows. Beyond the last slot the first is written again.
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
        x_BLD, carry = self._run(params, x_BLD, context, carry, block_key)
        if config.norm.placement != 'post':
            x_BLD = make_norm(config.norm).apply({'params': params['norm_final']}, x_BLD)
        return x_BLD, carry

    def encode(self, params, example: Example, key: Array | None = None) -> Array:
        """What the model makes of a text, [B, L, D]; `key` seeds dropout."""
        return self.apply(params, example, dropout_key=key)[0]

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
        L, visibility, window = example.inputs.shape[1], example.visibility, self.config.attention.window
        if carry is None:
            whole, start = self.placement.whole_length, self.placement.start(L)
            order_BM, segment_BM = whole(example.order), whole(example.segment)
            mask_BLM = visible(example.order, order_BM, example.segment, segment_BM)
            parts = example.order, example.segment, segment_BM, start
            sight = Sight(mask_BLM, *parts, visibility=visibility, window=window)
            return *self._tell(params, example, sight, distances(L, order_BM.shape[1], start)), None
        slots = carry.order.shape[1]
        slot = carry.filled % slots
        order_BM = jax.lax.dynamic_update_slice(carry.order, example.order, (0, slot))
        segment_BM = jax.lax.dynamic_update_slice(carry.segment, example.segment, (0, slot))
        carry = Cache(carry.layers, order_BM, segment_BM, carry.filled + L)
        mask_BLM = visible(example.order, order_BM, example.segment, segment_BM)
        distance_LM = slot_places(carry) - (carry.filled - L + jnp.arange(L))[:, None]
        sight = Sight(mask_BLM, visibility=visibility, window=window)
        return *self._tell(params, example, sight, distance_LM, slot=slot), carry

    def _tell(self, params, example: Example, sight: Sight, distance_LM: Array, memory: int = 0, slot=None):
        """Embeddings, and what all layers are told.

        Args:
          distance_LM: of the keys (gpt2jax.models.masks), of which the first `memory` stand before the row.
          slot: of the cache, where keys are in no order; None without one.
        """
        config, L = self.config, example.inputs.shape[1]
        x_BLD, rotation, bias = Embedding(config).apply(
            {'params': params['embedding']}, example.inputs, example.token_type, example.position, distance_LM
        )
        near_LM = jnp.abs(distance_LM) < config.attention.window if config.attention.window else None
        relative = None
        if is_relative(config):
            causal = example.visibility == 'causal'
            relative = between(config, L, memory, causal) if slot is None else by_pair(config, distance_LM)
        return x_BLD, Context(sight, example.row, slot, near_LM, rotation, bias, relative, placement=self.placement)

    def _run(self, params, x, context: Context, carry, key: Array | None, **options):
        """x through all layers, and the carry with what these leave behind; `options` are of `run_blocks`."""
        caches = None if carry is None else carry.layers
        x, caches, _ = run_blocks(self.config, params['blocks'], x, context, caches=caches, key=key, **options)
        return x, None if carry is None else carry.replace(layers=caches)

    def init_memory(self, batch_size: int) -> None:
        """No row remembers the one before it."""

    def init_carry(self, batch_size: int, slots: int) -> Cache:
        """An empty cache for the newest `slots` tokens a row. Tokens of one call must not go beyond the last slot."""
        config = self.config
        shape = (batch_size, config.attention.num_kv_heads, slots, config.width // config.attention.num_heads)
        layers = tuple(
            LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.num_layers)
        )
        order_BM = jnp.zeros((batch_size, slots), jnp.int32)
        return Cache(layers, order_BM, order_BM - 1, jnp.zeros((), jnp.int32))


def slot_places(cache: Cache) -> Array:
    """[M] int32: of the newest token in each slot, how many were written before it."""
    slots, newest = cache.order.shape[1], cache.filled - 1
    return newest - (newest - jnp.arange(slots)) % slots
