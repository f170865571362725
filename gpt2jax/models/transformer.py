"""The Transformer stack that GPT-2 and BERT share: embedding, blocks, final norm, head.

Axes: B batch, L length, M cache slots, D width, V vocabulary.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.attention import Context, LayerCache
from gpt2jax.models.blocks import Block, run_blocks
from gpt2jax.models.linear import dropout_rows, product
from gpt2jax.models.masks import visible
from gpt2jax.models.norms import make_norm
from gpt2jax.models.positions import make_position
from gpt2jax.objectives import Example


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


class Embedding(nn.Module):
    """Token embedding plus position encoding (Radford et al. 2018, section 3.1)."""

    config: object

    @nn.compact
    def __call__(self, inputs_BL: Array, position_BL: Array) -> Array:
        config = self.config
        shape = (padded_vocab(config), config.width)
        table_VD = self.param('token', nn.initializers.normal(config.init.std), shape)
        x_BLD = table_VD[inputs_BL].astype(config.dtype)
        return make_position(config.position, config.init.std, 'position')(x_BLD, position_BL)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Pure functions over a tree of parameters; `config` is `config.model`, resolved.

    The tree: `embedding`, `blocks` (a tuple, one tree a layer), `norm_final`, and `head` when it is untied.
    """

    config: object

    def init(self, key: Array):
        """Initial parameters, float32. They depend on the key and on the sizes alone."""
        config = self.config
        keys = dict(zip(('embedding', 'blocks', 'norm', 'head'), jax.random.split(key, 4), strict=True))
        index_11, x_11D = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.width))
        context = Context(mask=jnp.ones((1, 1, 1), bool), row=jnp.zeros(1, jnp.int32), visibility='full')

        def init_block(key):
            return Block(config).init(key, x_11D, context)['params']

        params = {
            'embedding': Embedding(config).init(keys['embedding'], index_11, index_11)['params'],
            'blocks': tuple(map(init_block, jax.random.split(keys['blocks'], config.num_layers))),
            'norm_final': make_norm(config.norm).init(keys['norm'], x_11D)['params'],
        }
        if not config.head.tied:
            shape = (padded_vocab(config), config.width)
            params['head'] = {'kernel': config.init.std * jax.random.normal(keys['head'], shape)}
        return params

    def apply(self, params, example: Example, carry: Cache | None = None, *, dropout_key: Array | None = None):
        """Hidden states after the final norm, [B, L, D], and the carry.

        Args:
          params: as `init` makes them.
          example: inputs, order, segment, position and row are read.
          carry: keys and values of earlier calls (`init_carry`), to decode token by token.
          dropout_key: None turns dropout off.
        """
        config = self.config
        embed_key, block_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        if carry is None:
            order_BM, segment_BM, slot, layers = example.order, example.segment, None, None
        else:
            slot, layers = carry.filled, carry.layers
            order_BM = jax.lax.dynamic_update_slice(carry.order, example.order, (0, slot))
            segment_BM = jax.lax.dynamic_update_slice(carry.segment, example.segment, (0, slot))
            carry = Cache(layers, order_BM, segment_BM, slot + example.inputs.shape[1])
        mask_BLM = visible(example.order, order_BM, example.segment, segment_BM)
        context = Context(mask_BLM, example.row, example.visibility, slot)

        x_BLD = Embedding(config).apply({'params': params['embedding']}, example.inputs, example.position)
        x_BLD = dropout_rows(x_BLD, config.dropout, embed_key, example.row)
        x_BLD, layers = run_blocks(config, params['blocks'], x_BLD, context, layers, block_key)
        x_BLD = make_norm(config.norm).apply({'params': params['norm_final']}, x_BLD)
        return x_BLD, None if carry is None else carry.replace(layers=layers)

    def head(self, params):
        """(head_params, logits): `logits(head_params, hidden_ND)` is [N, V] in float32, -inf on padded ids.

        Split from `apply` so that the loss can make the logits chunk by chunk.
        """
        head_params = params['embedding']['token'] if self.config.head.tied else params['head']['kernel']
        return head_params, functools.partial(_logits, self.config)

    def init_carry(self, batch_size: int, slots: int) -> Cache:
        """An empty cache for `slots` tokens a row."""
        config = self.config
        shape = (batch_size, config.attention.num_kv_heads, slots, config.width // config.attention.num_heads)
        layers = tuple(
            LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.num_layers)
        )
        order_BM = jnp.zeros((batch_size, slots), jnp.int32)
        return Cache(layers, order_BM, order_BM - 1, jnp.zeros((), jnp.int32))


def _logits(config, table_VD: Array, hidden_ND: Array) -> Array:
    hidden_ND, kernel_VD = hidden_ND.astype(config.dtype), table_VD.astype(config.dtype)
    logits_NV = product(hidden_ND, kernel_VD, preferred_element_type=jnp.float32)
    if table_VD.shape[0] == config.vocab_size:
        return logits_NV
    return jnp.where(jnp.arange(table_VD.shape[0]) < config.vocab_size, logits_NV, -jnp.inf)


def padded_vocab(config) -> int:
    """Rows of the embedding: the vocabulary rounded up to `vocab_multiple`, which matrix units like."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple
