"""One residual block, and a stack of them.

Axes: B batch, L length, M memory and length, D width.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.attention import Attention, Context, Cross, Layer
from gpt2jax.models.einsum import no_drop
from gpt2jax.models.feedforward import FeedForward
from gpt2jax.models.linear import dropout_rows
from gpt2jax.models.masks import Sight
from gpt2jax.models.norms import make_norm
from gpt2jax.models.relative import between, is_relative
from gpt2jax.models.splash import SAVED


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual around it, and a norm in front of it ('pre', Radford et al.
    2019, section 2.3), behind the sum ('post', Vaswani et al. 2017, section 3.1) or on both sides of the branch
    ('sandwich', Ding et al. 2021, section 2.3).

    Attributes:
      config: `config.model`.
      cross: whether attention to an encoder stands between the two (Vaswani et al. 2017, section 3.1).
    """

    config: object
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BLD: Array,
        context: Context,
        layer: Layer,
        key: Array | None = None,
        source_BMD: Array | None = None,
    ) -> tuple[Array, Layer]:
        """What comes out of the block, and what the layer leaves behind.

        Args:
          key: seeds this layer's dropout; None turns dropout off.
          source_BMD: what attention reads, as it comes out of the layer before, where that is more or other than x.
        """
        config, placement, norms = self.config, self.config.norm.placement, {}
        std = matrix_std(config)
        residual_std = {'scaled': std / (2 * config.num_layers) ** 0.5, 'plain': std, 'zero': 0.0}[config.init.residual]

        def drop(rate, use):
            if key is None or not rate:
                return no_drop
            use_key = jax.random.fold_in(key, use)
            return lambda x, axis=1: dropout_rows(x, rate, use_key, context.row, context.placement, axis)

        def norm(name, where, x_BLD):
            if placement not in where:
                return x_BLD
            norms[name] = norms[name] if name in norms else make_norm(config.norm, name)
            return norms[name](x_BLD)

        before, after = ('pre', 'sandwich'), ('sandwich',)
        attention = Attention(config, std, residual_std, name='attention')
        feedforward = FeedForward(config.feedforward, config.width, std, residual_std, config.dtype, name='feedforward')

        z_BLD = norm('norm_attention', before, x_BLD)
        read_BMD = None if source_BMD is None else norm('norm_attention', before, source_BMD)
        y_BLD, layer = attention(z_BLD, context, layer, drop(config.attention.dropout, 0), read_BMD)
        y_BLD = drop(config.dropout, 1)(norm('norm_attention_out', after, y_BLD))
        if self.cross:
            x_BLD, y_BLD = norm('norm_attention', ('post',), x_BLD + y_BLD), 0
            z_BLD = norm('norm_cross', before, x_BLD)
            attention = Attention(config, std, residual_std, name='cross')
            y_BLD, layer = read_encoder(attention, z_BLD, context, layer, drop(config.attention.dropout, 3))
            y_BLD = drop(config.dropout, 4)(norm('norm_cross_out', after, y_BLD))
        if not config.parallel:
            x_BLD = norm('norm_cross' if self.cross else 'norm_attention', ('post',), x_BLD + y_BLD)
            z_BLD, y_BLD = norm('norm_feedforward', before, x_BLD), 0
        y_BLD += drop(config.dropout, 2)(norm('norm_feedforward_out', after, feedforward(z_BLD)))
        return norm('norm_feedforward', ('post',), x_BLD + y_BLD), layer


def read_encoder(attention: Attention, z_BLD: Array, context: Context, layer: Layer, drop) -> tuple[Array, Layer]:
    """Cross-attention of a decoder's layer; with a cache, the encoder's keys and values are made and kept once."""
    cross = context.cross
    slot = None if cross.encoded is None else 0
    own = Context(cross.sight, context.row, slot, placement=context.placement)
    cache = None if layer.cache is None else layer.cache.cross
    y_BLD, after = attention(z_BLD, own, Layer(layer.index, cache), drop, cross.encoded)
    return y_BLD, layer if cache is None else layer.replace(cache=layer.cache.replace(cross=after.cache))


def init_blocks(config, key: Array, num_layers: int, cross: bool = False) -> tuple:
    """Initial parameters of a stack, one tree a layer; they depend on the key and on the sizes alone."""
    x_11D, sight = jnp.zeros((1, 1, config.width)), Sight(jnp.ones((1, 1, 1), bool))
    distances = between(config, 1, 0, causal=True).replace(same=sight.mask) if is_relative(config) else None
    context = Context(sight, jnp.zeros(1, jnp.int32), distances=distances, cross=Cross(sight, x_11D))

    def init_block(key):
        return Block(config, cross).init(key, x_11D, context, Layer(0))['params']

    return tuple(map(init_block, jax.random.split(key, num_layers)))


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


def run_block(config, params, x_BLD: Array, context: Context, layer: Layer, memory_BMD, key, cross: bool = False):
    """One block; with a memory, it reads what the layer was given in earlier rows, and its memory moves on.

    No gradient flows into a memory (Dai et al. 2019, section 3.2).

    Returns:
      x_BLD, layer and memory_BMD.
    """
    source_BMD = None if memory_BMD is None else jnp.concatenate([memory_BMD, x_BLD], axis=1)
    y_BLD, layer = Block(config, cross).apply({'params': params}, x_BLD, context, layer, key, source_BMD)
    return y_BLD, layer, next_memory(memory_BMD, source_BMD)


def next_memory(memory_BMD: Array | None, source_BMD: Array | None) -> Array | None:
    """The newest of what a layer has read, as many as it could remember before."""
    return None if memory_BMD is None else jax.lax.stop_gradient(source_BMD[:, -memory_BMD.shape[1] :])


def run_blocks(
    config,
    layers,
    x,
    context: Context,
    *,
    caches: tuple | None = None,
    memories: tuple | None = None,
    key: Array | None = None,
    path: str = 'blocks',
    block: Callable = run_block,
):
    """Runs x through all layers.

    Args:
      config: `config.model`.
      layers: a tuple of parameter trees, one a layer.
      x: [B, L, D], or whatever `block` takes.
      caches: a tuple of LayerCache, one a layer; None: nothing is kept.
      memories: a tuple of [B, M, D], one a layer; None: there are none.
      key: seeds dropout; None turns it off.
      path: of the layers in the tree of parameters.
      block: what a layer does: takes and returns what `run_block` does.

    Returns:
      x, the tuple of new caches and that of new memories (None without them).
    """

    def run(x, params, layer, memory_BMD):
        layer_key = None if key is None else jax.random.fold_in(key, layer.index)
        params = context.placement.whole(params, f'{path}/0/', config.dtype)  # all layers are cut alike
        x, layer, memory_BMD = block(config, params, x, context, layer, memory_BMD, layer_key)
        return jax.tree.map(context.placement.rows, x), layer, memory_BMD

    if config.remat != 'none':
        run = jax.checkpoint(run, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    if config.scan_layers and caches is None:
        x, memories = _scan(config, run, layers, x, memories)
        return x, None, memories
    first_value, kept, moved = None, [], []
    for index, params in enumerate(layers):
        cache, memory_BMD = (None if each is None else each[index] for each in (caches, memories))
        x, layer, memory_BMD = run(x, params, Layer(index, cache, first_value), memory_BMD)
        first_value = layer.first_value
        kept.append(layer.cache)
        moved.append(memory_BMD)
    return x, None if caches is None else tuple(kept), None if memories is None else tuple(moved)


def block_maps(config, layers, x_BLD: Array, context: Context) -> list[Array]:
    """The attention weights of every layer of a stack, [B, H, L, L] each, without dropout."""
    first_value, maps = None, []
    for index, params in enumerate(layers):
        layer = Layer(index, None, first_value)
        (x_BLD, layer), kept = Block(config).apply({'params': params}, x_BLD, context, layer, mutable=['maps'])
        first_value = layer.first_value
        maps.append(kept['maps']['attention']['weights'][0])
    return maps


def _scan(config, run, layers, x, memories):
    """The layers as one compiled body in a loop; their parameters and memories are stacked here."""
    first_value = None
    if config.attention.value_residual:
        (B, L, D), heads = x.shape, config.attention.num_kv_heads
        length = L if memories is None else L + memories[0].shape[1]
        first_value = jnp.zeros((B, heads, length, D // config.attention.num_heads), config.dtype)

    def body(carry, layer):
        x, first_value = carry
        params, index, memory_BMD = layer
        x, after, memory_BMD = run(x, params, Layer(index, None, first_value), memory_BMD)
        return (x, after.first_value), memory_BMD

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    past = None if memories is None else jnp.stack(memories)
    (x, _), past = jax.lax.scan(body, (x, first_value), (stacked, jnp.arange(len(layers)), past))
    return x, None if memories is None else tuple(past)
