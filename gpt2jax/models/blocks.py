"""One residual block, and a stack of them.

Axes: B batch, L length, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.attention import Attention, Context, Layer
from gpt2jax.models.einsum import no_drop
from gpt2jax.models.feedforward import FeedForward
from gpt2jax.models.linear import dropout_rows
from gpt2jax.models.norms import make_norm
from gpt2jax.models.splash import SAVED


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual around it, and a norm in front of it ('pre', Radford et al.
    2019, section 2.3), behind the sum ('post', Vaswani et al. 2017, section 3.1) or on both sides of the branch
    ('sandwich', Ding et al. 2021, section 2.3).

    Attributes:
      config: `config.model`.
    """

    config: object

    @nn.compact
    def __call__(self, x_BLD: Array, context: Context, layer: Layer, key: Array | None = None) -> tuple[Array, Layer]:
        """`key` seeds this layer's dropout; None turns dropout off."""
        config, placement = self.config, self.config.norm.placement
        std = matrix_std(config)
        residual_std = {'scaled': std / (2 * config.num_layers) ** 0.5, 'plain': std, 'zero': 0.0}[config.init.residual]

        def drop(rate, use):
            if key is None or not rate:
                return no_drop
            use_key = jax.random.fold_in(key, use)
            return lambda x, axis=1: dropout_rows(x, rate, use_key, context.row, context.placement, axis)

        def norm(name, where, x_BLD):
            return make_norm(config.norm, name)(x_BLD) if placement in where else x_BLD

        attention = Attention(config, std, residual_std, name='attention')
        feedforward = FeedForward(config.feedforward, config.width, std, residual_std, config.dtype, name='feedforward')

        z_BLD = norm('norm_attention', ('pre', 'sandwich'), x_BLD)
        y_BLD, layer = attention(z_BLD, context, layer, drop(config.attention.dropout, 0))
        y_BLD = drop(config.dropout, 1)(norm('norm_attention_out', ('sandwich',), y_BLD))
        if not config.parallel:
            x_BLD = norm('norm_attention', ('post',), x_BLD + y_BLD)
            z_BLD, y_BLD = norm('norm_feedforward', ('pre', 'sandwich'), x_BLD), 0
        y_BLD += drop(config.dropout, 2)(norm('norm_feedforward_out', ('sandwich',), feedforward(z_BLD)))
        return norm('norm_feedforward', ('post',), x_BLD + y_BLD), layer


def matrix_std(config) -> float:
    """Of the initial values of a matrix whose inputs are as many as the width; `config` is `config.model`.

    Under muP it falls with the root of the width (Yang et al. 2022, table 8).
    """
    if config.parametrization.kind == 'mup':
        return config.init.std * (config.parametrization.base_width / config.width) ** 0.5
    return config.init.std


# What the backward pass finds kept. Attention is no product of two matrices for `dots`, but costs as much.
REMAT_POLICIES = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED),
    ),
    'offload': jax.checkpoint_policies.offload_dot_with_no_batch_dims('device', 'pinned_host'),
}


def run_blocks(config, layers, x_BLD: Array, context: Context, caches=None, key: Array | None = None):
    """Runs x through all layers.

    Args:
      config: `config.model`.
      layers: a tuple of parameter trees, one a layer.
      caches: a tuple of LayerCache, one a layer; None: nothing is kept.
      key: seeds dropout; None turns it off.

    Returns:
      x_BLD and the tuple of new caches (None without one).
    """
    block = Block(config)

    def run(x_BLD, params, layer):
        layer_key = None if key is None else jax.random.fold_in(key, layer.index)
        params = context.placement.whole(params, 'blocks/0/', config.dtype)  # all layers are cut alike
        x_BLD, layer = block.apply({'params': params}, x_BLD, context, layer, layer_key)
        return context.placement.rows(x_BLD), layer

    if config.remat != 'none':
        run = jax.checkpoint(run, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    if config.scan_layers and caches is None:
        return _scan(config, run, layers, x_BLD), None
    first_value, kept = None, []
    for index, params in enumerate(layers):
        cache = None if caches is None else caches[index]
        x_BLD, layer = run(x_BLD, params, Layer(index, cache, first_value))
        first_value = layer.first_value
        kept.append(layer.cache)
    return x_BLD, None if caches is None else tuple(kept)


def _scan(config, run, layers, x_BLD: Array) -> Array:
    """The layers as one compiled body in a loop; their parameters are stacked here."""
    first_value = None
    if config.attention.value_residual:
        (B, L, D), heads = x_BLD.shape, config.attention.num_kv_heads
        first_value = jnp.zeros((B, heads, L, D // config.attention.num_heads), config.dtype)

    def body(carry, layer):
        x_BLD, first_value = carry
        params, index = layer
        x_BLD, after = run(x_BLD, params, Layer(index, None, first_value))
        return (x_BLD, after.first_value), None

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    (x_BLD, _), _ = jax.lax.scan(body, (x_BLD, first_value), (stacked, jnp.arange(len(layers))))
    return x_BLD
