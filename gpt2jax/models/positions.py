"""Position encodings. A new one is a class here and its name in POSITIONS.

An encoding may do three things, each of which does nothing unless a class says so: add something to the token
embeddings, rotate queries and keys, and add something to the attention scores. What depends on the queries themselves
is a matter of each layer (relative.py).

Axes: B batch, L length (queries), M keys, D width, H heads, K head width.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class Position(nn.Module):
    """No encoding at all: a causal model can still count (Kazemnejad et al. 2023).

    Attributes:
      config: `config.model`.
      std: of the initial values of what is learned.
    """

    config: object
    std: float

    def add(self, x_BLD: Array, position_BL: Array) -> Array:
        """The embeddings with the encoding added; a position counts from 0 in its document."""
        return x_BLD

    def rotation(self, position_BL: Array) -> tuple[Array, Array] | None:
        """Cosine and sine [B, L, 1, K / 2] of the angles by which queries and keys are turned (`rotate`)."""
        return None

    def bias(self, distance_LM: Array) -> Array | None:
        """What is added to the scores, [H, L, M]; a distance is the key's position less the query's."""
        return None


class Learned(Position):
    """GPT-2's and BERT's: a vector a position, learned."""

    @nn.compact
    def add(self, x_BLD: Array, position_BL: Array) -> Array:
        shape = (self.config.position.max_length, x_BLD.shape[-1])
        table = self.param('embedding', nn.initializers.normal(self.std), shape)
        return x_BLD + table[position_BL].astype(x_BLD.dtype)


class Sinusoidal(Position):
    """Sines and cosines of wavelengths from 2 pi to 20,000 pi, in turns (Vaswani et al. 2017, section 3.5)."""

    def add(self, x_BLD: Array, position_BL: Array) -> Array:
        D = x_BLD.shape[-1]
        angle_BLK = position_BL[..., None] * wave_rates(D, 10_000.0)
        wave_BLD = jnp.stack([jnp.sin(angle_BLK), jnp.cos(angle_BLK)], -1).reshape(*position_BL.shape, -1)
        return x_BLD + wave_BLD[..., :D].astype(x_BLD.dtype)


class Rotary(Position):
    """Queries and keys are turned by angles that grow with the position (Su et al. 2021, section 3.2).

    A longer context than the angles were made for is squeezed into them: 'linear' shrinks all positions (Chen et al.
    2023, section 2.3), 'ntk' raises the base, so that short wavelengths stay as they are (Peng et al. 2023, section
    3.1).
    """

    def rotation(self, position_BL: Array) -> tuple[Array, Array]:
        config, K = self.config.position, self.config.width // self.config.attention.num_heads
        factor, base = max(1.0, config.max_length / config.trained_length), config.base
        if config.scaling == 'linear':
            position_BL = position_BL / factor
        elif config.scaling == 'ntk':
            base *= factor ** (K / (K - 2))
        angle_BL1K = position_BL[..., None, None] * wave_rates(K, base)
        return jnp.cos(angle_BL1K), jnp.sin(angle_BL1K)


class ALiBi(Position):
    """Scores fall off in a line with the distance, each head at its own slope (Press et al. 2022, section 3).

    Both directions fall off alike, which a causal model does not notice.
    """

    def bias(self, distance_LM: Array) -> Array:
        slopes_H = jnp.asarray(alibi_slopes(self.config.attention.num_heads))
        return -slopes_H[:, None, None] * jnp.abs(distance_LM)


class T5(Position):
    """A learned number for each bucket of distances and head, the same in all layers (Raffel et al. 2020, section 2.1).

    Half of the buckets are for keys behind the query and half for those before it, whatever the objective: a model must
    not change its meaning with who sees whom.
    """

    @nn.compact
    def bias(self, distance_LM: Array) -> Array:
        config, heads = self.config.position, self.config.attention.num_heads
        table_BH = self.param('bias', nn.initializers.normal(self.std), (config.buckets, heads))
        bucket_LM = t5_bucket(distance_LM, config.buckets, config.max_distance)
        return table_BH[bucket_LM].transpose(2, 0, 1)


class Relative(Position):
    """Transformer-XL's: each layer scores distances by itself (gpt2jax/models/relative.py), and nothing is added."""


def wave_rates(width: int, base: float) -> Array:
    """base^(-2i / width) for i = 0 ... width / 2 - 1: radians a position."""
    return base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


def rotate(x_BLHK: Array, rotation: tuple[Array, Array]) -> Array:
    """Turns the pairs (i, i + K / 2) of each head by the angles of `Position.rotation`, in float32."""
    cos_BL1K, sin_BL1K = rotation
    a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    turned_BLHK = jnp.concatenate([a * cos_BL1K - b * sin_BL1K, b * cos_BL1K + a * sin_BL1K], axis=-1)
    return turned_BLHK.astype(x_BLHK.dtype)


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8 i / n) for n heads, a power of two; others take every second slope of the next power as well."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * power, 2)]
    return slopes + between[: heads - power]


def t5_bucket(distance: Array, buckets: int, max_distance: int) -> Array:
    """Index of a distance's bucket: small ones have one each, larger ones share, wider and wider."""
    half = buckets // 2
    exact = half // 2
    size = jnp.abs(distance)
    ratio = jnp.log(jnp.maximum(size, 1) / exact) / math.log(max_distance / exact)
    shared = jnp.minimum(exact + (ratio * (half - exact)).astype(jnp.int32), half - 1)
    return jnp.where(distance > 0, half, 0) + jnp.where(size < exact, size, shared)


POSITIONS = {
    'learned': Learned,
    'sinusoidal': Sinusoidal,
    'rotary': Rotary,
    'alibi': ALiBi,
    't5': T5,
    'relative': Relative,
    'none': Position,
}


def make_position(config, std: float, name: str | None = None) -> Position:
    """The encoding that `config.model.position` names; `config` is `config.model`."""
    return POSITIONS[config.position.kind](config=config, std=std, name=name)
