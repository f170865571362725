"""Attention: the only place where one position reads another. The kernels are in kernels.py.

Axes: B batch, L length (queries), M keys, D width, H query heads, N key-value heads, G query heads that share one
key-value head (H = N * G), Q = G * L queries of one key-value head, K head width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.einsum import Scoring, attention_weights
from gpt2jax.models.kernels import attend
from gpt2jax.models.linear import Linear
from gpt2jax.models.masks import Sight
from gpt2jax.models.norms import RMSNorm
from gpt2jax.models.positions import rotate
from gpt2jax.models.relative import Distances, RelativeScores
from gpt2jax.placement import ALONE, Placement


@struct.dataclass
class Cross:
    """What a decoder's layers read of the encoder's.

    Attributes:
      sight: who sees whom, decoder tokens for queries and encoder tokens for keys.
      encoded: [B, S, D] of the encoder's last layer; None once its keys and values are in every layer's cache.
    """

    sight: Sight
    encoded: Array | None


@struct.dataclass
class Context:
    """What every layer of a stack is told beside its input.

    Attributes:
      sight: who sees whom, but for the window.
      row: [B] index of each row in the global batch, for per-row randomness.
      slot: index of the first cache slot that this call fills; None without a cache.
      near: [L, M] bool, which keys are within the window; None without a window.
      rotation, bias: of the position encoding (gpt2jax.models.positions).
      distances: of relative positions, else None.
      cross: of a decoder, else None.
      placement: where the model runs.
    """

    sight: Sight
    row: Array
    slot: Array | None = None
    near: Array | None = None
    rotation: tuple[Array, Array] | None = None
    bias: Array | None = None
    distances: Distances | None = None
    cross: Cross | None = None
    placement: Placement = struct.field(pytree_node=False, default=ALONE)


@struct.dataclass
class LayerCache:
    """Keys and values that one layer has computed so far: [B, N, M, K] each; `cross`: those of its cross-attention."""

    key: Array
    value: Array
    cross: 'LayerCache | None' = None


class Attention(nn.Module):
    """Multi-head attention with heads of keys and values that may be shared (Ainslie et al. 2023).

    Attributes:
      config: `config.model`.
      std, residual_std: of the projections in and of the projection out.
    """

    config: object
    std: float
    residual_std: float

    @nn.compact
    def __call__(
        self, x_BLD: Array, context: Context, layer: 'Layer', drop, source_BMD: Array | None = None
    ) -> tuple[Array, 'Layer']:
        """What x reads, and what the layer leaves behind.

        With a cache, this call's keys and values are written into it from `context.slot` on, and the queries see the
        whole cache through the mask. Without a slot the cache is whole already, and nothing is written.

        Args:
          layer: index, cache and first values.
          drop: dropout on the attention weights.
          source_BMD: what keys and values are made of; None: x itself.
        """
        config, D = self.config.attention, x_BLD.shape[-1]
        flat = context.placement.platform != 'tpu'
        query_BLHK = self._project('query', config.num_heads, flat, x_BLD)
        if config.qk_norm:
            query_BLHK = RMSNorm(self.config.norm.epsilon, bias=False, name='norm_query')(query_BLHK)
        if context.rotation is not None:
            query_BLHK = rotate(query_BLHK, context.rotation)
        if layer.cache is not None and context.slot is None:
            key_BNMK, value_BNMK = layer.cache.key, layer.cache.value
        else:
            source_BMD = x_BLD if source_BMD is None else source_BMD
            key_BNMK, value_BNMK, layer = self._keys_and_values(source_BMD, context, layer, flat)
        scale, bias = score_scale(self.config), context.bias
        if context.distances is not None:
            relative = RelativeScores(self.config, self.std, name='relative')
            query_BLHK, bias = relative(query_BLHK, context.distances, key_BNMK.shape[2], scale)
        scoring = Scoring(bias, scale, config.softcap, drop)
        sight = self._see(context, layer.index)
        if self.is_mutable_collection('maps'):
            self.sow('maps', 'weights', attention_weights(query_BLHK, key_BNMK, sight.mask, scoring))
        y_BLHK = attend(config.kernel, query_BLHK, key_BNMK, value_BNMK, sight, scoring, context.placement)
        options = {'heads_in': config.num_heads, 'flat': flat, 'name': 'out'}
        return Linear(D, self.residual_std, config.bias, self.config.dtype, **options)(y_BLHK), layer

    def _project(self, name: str, heads: int, flat: bool, x_BLD: Array) -> Array:
        config = self.config.attention
        width = heads * (self.config.width // config.num_heads)
        options = {'heads_out': heads, 'flat': flat, 'name': name}
        return Linear(width, self.std, config.bias, self.config.dtype, **options)(x_BLD)

    def _keys_and_values(self, source_BMD: Array, context: Context, layer: 'Layer', flat: bool):
        """[B, N, M, K] each, those of earlier calls included, and the layer with its new cache."""
        config = self.config.attention
        key_BMNK = self._project('key', config.num_kv_heads, flat, source_BMD)
        value_BNMK = self._project('value', config.num_kv_heads, flat, source_BMD).transpose(0, 2, 1, 3)
        if config.qk_norm:
            key_BMNK = RMSNorm(self.config.norm.epsilon, bias=False, name='norm_key')(key_BMNK)
        if context.rotation is not None:
            key_BMNK = rotate(key_BMNK, context.rotation)
        key_BNMK = key_BMNK.transpose(0, 2, 1, 3)
        if config.value_residual:
            value_BNMK, layer = self._mix_values(value_BNMK, layer)
        if layer.cache is not None:
            at, cache = (0, 0, context.slot, 0), layer.cache
            key_BNMK = jax.lax.dynamic_update_slice(cache.key, key_BNMK.astype(cache.key.dtype), at)
            value_BNMK = jax.lax.dynamic_update_slice(cache.value, value_BNMK.astype(cache.value.dtype), at)
            layer = layer.replace(cache=cache.replace(key=key_BNMK, value=value_BNMK))
        return key_BNMK, value_BNMK, layer

    def _see(self, context: Context, index) -> Sight:
        """Within the window, or everything in every n-th layer."""
        if context.near is None:
            return context.sight
        every = self.config.attention.global_every
        wide = every > 0 and (index + 1) % every == 0
        return context.sight.replace(mask=context.sight.mask & (context.near | wide), wide=wide)

    def _mix_values(self, value_BNMK: Array, layer: 'Layer') -> tuple[Array, 'Layer']:
        """Learned parts of a layer's own values and of the first layer's, half of each at the start.

        Zhou et al. 2024 (Value Residual Learning), section 3.3. The first layer keeps its own.
        """
        share_2 = self.param('value_mix', nn.initializers.constant(0.5), (2,)).astype(value_BNMK.dtype)
        first_BNMK = value_BNMK if layer.first_value is None else layer.first_value
        first_BNMK = jnp.where(layer.index == 0, value_BNMK, first_BNMK)
        mixed_BNMK = jnp.where(layer.index == 0, value_BNMK, share_2[0] * value_BNMK + share_2[1] * first_BNMK)
        return mixed_BNMK, layer.replace(first_value=first_BNMK)


@struct.dataclass
class Layer:
    """What a layer knows of its place in the stack.

    Attributes:
      index: from 0.
      cache: keys and values of earlier calls, or None.
      first_value: the first layer's values [B, N, L, K]; None before it, and where no value residual is asked for.
    """

    index: int | Array
    cache: LayerCache | None = None
    first_value: Array | None = None


def score_scale(config) -> float:
    """1 / sqrt(K); under muP sqrt(base K) / K, since there keys and queries grow alike (Yang et al. 2022, section 4).

    `config` is `config.model`.
    """
    K = config.width // config.attention.num_heads
    if config.parametrization.kind == 'mup':
        return config.parametrization.base_head_width**0.5 / K
    return K**-0.5
