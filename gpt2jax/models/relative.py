"""Transformer-XL's relative positions: scores that know how far behind a query each key stands.

They are added to the products of queries and keys as a bias that depends on the row, so that every kernel which can add
one can have them. No array is larger than the map of scores itself.

Axes: B batch, L length (queries), M keys, R distances, D width, H heads, K head width, S kinds of pairs of token types.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.positions import wave_rates


@struct.dataclass
class Distances:
    """The distances of a call, and which pair of query and key has which.

    Attributes:
      table: [R, D], the waves of the distances first, first - 1, first - 2, ...: the query's place less the key's.
      index: [L, M], row of the table for every pair; None where queries stand at consecutive places and the first of
        them and the first key are L - 1 rows from the top.
      start: [B, L], row of the table for each query and the first key, where queries stand anywhere; else None.
      same: [B, L, M] bool, whether query and key have the same token type; None where scores do not depend on it.
    """

    table: Array
    index: Array | None = None
    start: Array | None = None
    same: Array | None = None


def is_relative(config) -> bool:
    """Whether attention scores distances by itself; `config` is `config.model`."""
    return config.position.kind == 'relative'


def waves(config, distance_R: Array) -> Array:
    """[R, D]: sines, then cosines, of wavelengths from 2 pi to 20,000 pi (Dai et al. 2019, appendix B).

    Args:
      config: `config.model`; distances beyond `position.clamp_length` are as this one.
    """
    clamp = config.position.clamp_length
    if clamp:
        distance_R = jnp.clip(distance_R, -clamp, clamp)
    angle_RK = distance_R[:, None] * wave_rates(config.width, 10_000.0)
    return jnp.concatenate([jnp.sin(angle_RK), jnp.cos(angle_RK)], axis=-1)[:, : config.width].astype(config.dtype)


def between(config, queries: int, memory: int, causal: bool) -> Distances:
    """Of `queries` tokens that read themselves and `memory` slots before them.

    Args:
      causal: whether no query reads what stands behind it: then there are half as many distances.
    """
    first, last = memory + queries - 1, 0 if causal else 1 - queries
    return Distances(waves(config, jnp.arange(first, last - 1, -1)))


def by_pair(config, distance_LM: Array) -> Distances:
    """Of any pairs: `distance_LM` is as in gpt2jax.models.masks, the key's place less the query's.

    For the cache of decoding, whose slots are in no order.
    """
    L, M = distance_LM.shape
    first = M  # of a query one place behind the newest of M tokens
    index_LM = jnp.clip(first + distance_LM, 0, first + L - 1)
    return Distances(waves(config, jnp.arange(first, -L, -1)), index=index_LM)


def by_query(config, place_BL: Array, memory: int, tokens: int) -> Distances:
    """Of queries at any places of a row, up to one behind its end, that read its tokens and the memory before it."""
    first = memory + tokens
    return Distances(waves(config, jnp.arange(first, -tokens, -1)), start=tokens - place_BL)


class RelativeScores(nn.Module):
    """What is added to the scores: products of queries and distances (Dai et al. 2019, section 3.3).

    (q + u) k + (q + v) r, where r is a projection of the waves, and u and v are learned. With token types also
    (q + s) g, where g is one of two learned vectors, for the same type and for another (Yang et al. 2019, section 2.5).

    Attributes:
      config: `config.model`.
      std: of the initial values.
    """

    config: object
    std: float

    @nn.compact
    def __call__(self, query_BLHK: Array, distances: Distances, keys: int, scale: float) -> tuple[Array, Array]:
        """q + u, and the bias [B, H, L, M] for so many keys; `scale` is that of all scores."""
        H, K = query_BLHK.shape[2:]
        init, dtype = nn.initializers.normal(self.std), query_BLHK.dtype
        kernel = self.param('kernel', init, (H * K, self.config.width)).astype(dtype)
        distance_RHK = jnp.einsum('ED,RD->RE', kernel, distances.table).reshape(-1, H, K)

        def added(name: str) -> Array:
            return query_BLHK + self.param(name, init, (H, K)).astype(dtype)

        def scores(query_BLHK, equation: str, other) -> Array:
            return jnp.einsum(equation, query_BLHK * scale, other, preferred_element_type=jnp.float32)

        bias_BHLM = spread(scores(added('position_bias'), 'BLHK,RHK->BHLR', distance_RHK), distances, keys)
        if self.config.position.segments:
            kinds_SHK = self.param('segment_embedding', init, (2, H, K)).astype(dtype)
            same_BHLS = scores(added('segment_bias'), 'BLHK,SHK->BHLS', kinds_SHK)
            same_B1LM = distances.same[:, None]
            bias_BHLM += jnp.where(same_B1LM, same_BHLS[..., :1], same_BHLS[..., 1:])
        return added('content_bias'), bias_BHLM


def spread(scores_BHLR: Array, distances: Distances, keys: int) -> Array:
    """From scores by distance to scores by key, [B, H, L, M]."""
    if distances.index is not None:
        index_11LM = jnp.broadcast_to(distances.index, (1, 1, *distances.index.shape))
        return jnp.take_along_axis(scores_BHLR, index_11LM, axis=-1)
    if distances.start is not None:
        return _slices(scores_BHLR, distances.start, keys)
    return shift(scores_BHLR, keys)


def shift(scores_BHLR: Array, keys: int) -> Array:
    """Row l of the result begins at place L - 1 - l of row l of the scores; what lies beyond these is anything.

    Read as one long line, the wanted part of each row begins one less than a row's length behind that of the row before
    it. So it is enough to cut the line anew, into rows that are one shorter (Dai et al. 2019, appendix B).
    """
    B, H, L, R = scores_BHLR.shape
    wide = max(R, keys + 1)
    line = jnp.pad(scores_BHLR, ((0, 0), (0, 0), (0, 0), (0, wide - R))).reshape(B, H, -1)
    return line[..., L - 1 : L - 1 + L * (wide - 1)].reshape(B, H, L, wide - 1)[..., :keys]


def _slices(scores_BHLR: Array, start_BL: Array, keys: int) -> Array:
    """As `shift`, but that each query's part begins where `start_BL` says."""

    def cut(scores_HR, start):
        return jax.lax.dynamic_slice_in_dim(scores_HR, start, keys, axis=1)

    return jax.vmap(jax.vmap(cut, in_axes=(1, 0), out_axes=1))(scores_BHLR, start_BL)
