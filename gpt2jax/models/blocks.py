"""One residual block, and a stack of them.

Axes: B batch, L length, D width.
"""

import flax.linen as nn
import jax
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


def run_blocks(config, params, x_BLD: Array, context: Context, cache=None, key: Array | None = None):
    """Runs x through all layers.

    `params` is either one tree whose leaves are stacked over the layers [num_layers, ...], as a model stores them,
    or a tuple of trees, one a layer, as decoding prefers them (`unstack_layers`); `cache` is a tuple of LayerCache.

    Returns:
      x_BLD and the tuple of new caches (None without one).
    """
    block = Block(config)

    def run(x_BLD, params, cache, index):
        layer_key = None if key is None else jax.random.fold_in(key, index)
        return block.apply({'params': params}, x_BLD, context, cache, layer_key)

    if config.remat != 'none':
        run = jax.checkpoint(run, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    if config.scan_layers and cache is None:

        def body(x_BLD, layer):
            params, index = layer
            return run(x_BLD, params, None, index)

        x_BLD, _ = jax.lax.scan(body, x_BLD, (params, jax.numpy.arange(config.num_layers)))
        return x_BLD, None
    layers = params if isinstance(params, tuple) else unstack_layers(params, config.num_layers)
    caches = []
    for index, layer_params in enumerate(layers):
        x_BLD, layer_cache = run(x_BLD, layer_params, None if cache is None else cache[index], index)
        caches.append(layer_cache)
    return x_BLD, None if cache is None else tuple(caches)


def unstack_layers(params, num_layers: int) -> tuple:
    """[num_layers, ...] leaves -> a tuple of trees, one a layer.

    `lax.split` rather than indexing: its gradient is one concatenation, where indexing's is a sum of padded copies.
    """
    leaves, tree = jax.tree.flatten(params)
    split = [jax.lax.split(leaf, (1,) * num_layers, axis=0) for leaf in leaves]
    return tuple(tree.unflatten([parts[i][0] for parts in split]) for i in range(num_layers))
