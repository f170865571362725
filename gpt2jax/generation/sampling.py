"""From logits to the next token.

Axes: B rows, V vocabulary, K candidates.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn.

    Attributes:
      temperature: logits are divided by it; 0 always takes the likeliest token.
      top_k: draw from the K likeliest tokens (Fan et al. 2018, section 5.4); 0: from all.
      top_p: draw from the smallest set of likeliest tokens that has this probability (Holtzman et al. 2020,
        section 3.1), after top_k; 1: from all.
    """

    temperature: float
    top_k: int
    top_p: float


def draw(logits_BV: Array, keys_B: Array, sampling: Sampling) -> Array:
    """The next token of each row, [B] int32; row b's randomness is `keys_B[b]` alone."""
    if not sampling.temperature:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BK, ids_BK = candidates(logits_BV, sampling)
    logits_BK = nucleus(logits_BK / sampling.temperature, sampling.top_p)
    chosen_B = jax.vmap(jax.random.categorical)(keys_B, logits_BK)
    if ids_BK is None:
        return chosen_B.astype(jnp.int32)
    return jnp.take_along_axis(ids_BK, chosen_B[:, None], axis=1)[:, 0].astype(jnp.int32)


def candidates(logits_BV: Array, sampling: Sampling) -> tuple[Array, Array | None]:
    """Logits and ids of the tokens that may be drawn, the likeliest first; ids None: all, in their own order."""
    V = logits_BV.shape[-1]
    if sampling.top_k and sampling.top_k < V:
        return jax.lax.top_k(logits_BV, sampling.top_k)
    if sampling.top_p < 1:
        return jax.lax.top_k(logits_BV, V)
    return logits_BV, None


def nucleus(logits_BK: Array, top_p: float) -> Array:
    """Leaves of sorted logits the first ones that together have probability `top_p`, and always the first."""
    if top_p >= 1:
        return logits_BK
    probability_BK = jax.nn.softmax(logits_BK, axis=-1)
    before_BK = jnp.cumsum(probability_BK, axis=-1) - probability_BK
    return jnp.where(before_BK < top_p, logits_BK, -jnp.inf)
