"""XLNet: a Transformer-XL with a second stream, which predicts tokens that it has not read (Yang et al. 2019).

Axes: B batch, L length, M keys, Q places of either stream, P queries, D width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.attention import Context
from gpt2jax.models.blocks import Block, run_block
from gpt2jax.models.linear import dropout_rows
from gpt2jax.models.masks import Sight, visible
from gpt2jax.models.norms import make_norm
from gpt2jax.models.relative import by_pair, by_query
from gpt2jax.models.transformer import Cache, slot_places
from gpt2jax.models.transformer_xl import Memory, TransformerXL, remembered
from gpt2jax.objectives import Example

QUERIES = 8  # folded into the key of a layer for the dropout of its second stream


@dataclasses.dataclass(frozen=True)
class XLNet(TransformerXL):
    """Two streams through the same blocks (section 2.3).

    The content stream is that of every other model: what it has at a place knows the token there. The query stream
    begins at every place of `example.queries` as one learned vector, and reads the content stream of those tokens alone
    that come before its own in the order: so it knows where that token stands, and not what it is. Without queries the
    content stream is all there is. Both read the memory, if there is one.

    The tree of parameters is that of `Transformer` with `embedding/query`, that vector.
    """

    def init(self, key: Array):
        params = super().init(key)
        query_D = self.config.init.std * jax.random.normal(jax.random.fold_in(key, 1), (self.config.width,))
        return params | {'embedding': params['embedding'] | {'query': query_D}}

    def apply(self, params, example: Example, carry=None, *, dropout_key: Array | None = None):
        """Hidden states of the queries, [B, P, D], or without them of the tokens, [B, L, D]; and the carry."""
        config, query_context = self.config, None
        *embed_keys, block_key = (None, None, None) if dropout_key is None else jax.random.split(dropout_key, 3)
        x_BLD, context, after = self._begin(params, example, carry)
        streams = (x_BLD,)
        if example.queries is not None:
            query_D = params['embedding']['query'].astype(x_BLD.dtype)
            streams += (jnp.broadcast_to(query_D, (*example.queries.place.shape, config.width)),)
            query_context = self._ask(example, carry, after)
        streams = tuple(
            dropout_rows(self.placement.rows(x_BQD), config.dropout, key, example.row, self.placement)
            for x_BQD, key in zip(streams, embed_keys, strict=False)
        )

        def block(config, params, streams, context, layer, memory_BMD, key):
            (x_BLD, *queries), source_BMD = streams, streams[0]
            if memory_BMD is not None:
                source_BMD = jnp.concatenate([memory_BMD, x_BLD], axis=1)
            x_BLD, layer, memory_BMD = run_block(config, params, x_BLD, context, layer, memory_BMD, key)
            if not queries:
                return (x_BLD,), layer, memory_BMD
            key = None if key is None else jax.random.fold_in(key, QUERIES)
            arguments = queries[0], query_context, layer, key, source_BMD
            x_BPD, _ = Block(config).apply({'params': params}, *arguments)
            return (x_BLD, x_BPD), layer, memory_BMD

        streams, after = self._run(params, streams, context, after, block_key, block=block)
        hidden_BQD = streams[-1]
        if config.norm.placement != 'post':
            hidden_BQD = make_norm(config.norm).apply({'params': params['norm_final']}, hidden_BQD)
        return hidden_BQD, after

    def _begin(self, params, example: Example, carry):
        x_BLD, context, carry = super()._begin(params, example, carry)
        return x_BLD, self._with_types(context, example.token_type, example), carry

    def _ask(self, example: Example, before, after) -> Context:
        """What the queries are told; `before` and `after` are the carry before and behind this call's tokens."""
        queries, memory = example.queries, 0
        if isinstance(after, Cache):
            place_P = before.filled + queries.place[0]  # rows of a cache are written side by side
            distances = by_pair(self.config, slot_places(after) - place_P[:, None])
            sees_BPM = visible(queries.order - 1, after.order, queries.segment, after.segment)
        else:
            sees_BPM = visible(queries.order - 1, example.order, queries.segment, example.segment)
            if isinstance(before, Memory):
                seen_BPM = remembered(before, queries.segment, example.continues)
                sees_BPM, memory = jnp.concatenate([seen_BPM, sees_BPM], axis=-1), seen_BPM.shape[-1]
            distances = by_query(self.config, queries.place, memory, example.inputs.shape[1])
        context = Context(Sight(sees_BPM), example.row, distances=distances, placement=self.placement)
        return self._with_types(context, queries.token_type, example)

    def _with_types(self, context: Context, token_type_BQ: Array | None, example: Example) -> Context:
        """Told which keys have the token type of each place; without types, and in a memory, all have the first."""
        if not self.config.position.segments:
            return context
        B, Q, M = context.sight.mask.shape
        L = example.inputs.shape[1]
        token_type_BQ = jnp.zeros((B, Q), jnp.int32) if token_type_BQ is None else token_type_BQ
        key_type_BM = jnp.zeros((B, M), jnp.int32)
        if example.token_type is not None:
            key_type_BM = key_type_BM.at[:, M - L :].set(example.token_type)
        same_BQM = token_type_BQ[:, :, None] == key_type_BM[:, None, :]
        return context.replace(distances=context.distances.replace(same=same_BQM))
