"""One residual block, and a stack of them.

Axes: B batch, L length, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.attention import Attention, Context, LayerCache, no_drop
from gpt2jax.models.feedforward import FeedForward
from gpt2jax.models.linear import dropout_rows
from gpt2jax.models.norms import make_norm


class Block(nn.Module):
    """A pre-norm residual block: attention, then feed-forward (Radford et al. 2019, section 2.3).

    Attributes:
      config: `config.model`.
    """

    config: object

    @nn.compact
    def __call__(
        self, x_BLD: Array, context: Context, cache: LayerCache | None = None, key: Array | None = None
    ) -> tuple[Array, LayerCache | None]:
        """`key` seeds this layer's dropout; None turns dropout off."""
        config = self.config
        std, dtype = config.init.std, config.dtype
        residual_std = std / (2 * config.num_layers) ** 0.5 if config.init.residual == 'scaled' else std

        def drop(rate, use):
            if key is None or not rate:
                return no_drop
            return lambda x: dropout_rows(x, rate, jax.random.fold_in(key, use), context.row)

        drop_weights = drop(config.attention.dropout, 0)
        attention = Attention(config.attention, std, residual_std, dtype, name='attention')
        feedforward = FeedForward(config.feedforward, config.width, std, residual_std, dtype, name='feedforward')

        y_BLD, cache = attention(make_norm(config.norm, 'norm_attention')(x_BLD), context, cache, drop_weights)
        x_BLD += drop(config.dropout, 1)(y_BLD)
        y_BLD = feedforward(make_norm(config.norm, 'norm_feedforward')(x_BLD))
        x_BLD += drop(config.dropout, 2)(y_BLD)
        return x_BLD, cache


REMAT_POLICIES = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
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

    def run(x_BLD, params, cache, index):
        layer_key = None if key is None else jax.random.fold_in(key, index)
        return block.apply({'params': params}, x_BLD, context, cache, layer_key)

    if config.remat != 'none':
        run = jax.checkpoint(run, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    if config.scan_layers and caches is None:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        indices = jnp.arange(config.num_layers)
        x_BLD, _ = jax.lax.scan(lambda x_BLD, layer: run(x_BLD, layer[0], None, layer[1]), x_BLD, (stacked, indices))
        return x_BLD, None
    kept = []
    for index, params in enumerate(layers):
        x_BLD, cache = run(x_BLD, params, None if caches is None else caches[index], index)
        kept.append(cache)
    return x_BLD, None if caches is None else tuple(kept)
