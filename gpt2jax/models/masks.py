"""Who sees whom: the one place where an objective meets a model.

Axes: B batch, Q query position, M key position.
"""

import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Sight:
    """Who sees whom in one call of a layer: the mask, and what it is made of, for kernels that can do without it.

    Attributes:
      mask: [B, Q, M] bool, all that follows in one: the reference.
      order, segment: [B, Q] of the queries; None with a cache.
      key_segment: [B, M] of the keys; None with a cache.
      start: place of the first query among the keys; None: they are the same tokens, or there is a cache.
      wide: whether this layer sees beyond the window.
      visibility: what is known of `order` beforehand (gpt2jax.objectives).
      window: a token sees others less than this many places away; 0: all.
    """

    mask: Array
    order: Array | None = None
    segment: Array | None = None
    key_segment: Array | None = None
    start: Array | None = None
    wide: Array | bool = True
    visibility: str = struct.field(pytree_node=False, default='permuted')
    window: int = struct.field(pytree_node=False, default=0)


def visible(order_q: Array, order_k: Array, segment_q: Array, segment_k: Array) -> Array:
    """The reference that every attention kernel is tested against.

    A key is visible to a query when it comes no later in the objective's order and belongs to the same document.
    Consecutive orders give GPT-2's causal mask, equal orders BERT's, a permutation XLNet's content stream
    (Yang et al. 2019, section 2.3).

    Args:
      order_q, segment_q: [B, Q] int32.
      order_k, segment_k: [B, M] int32.

    Returns:
      [B, Q, M] bool.
    """
    earlier_BQM = order_k[:, None, :] <= order_q[:, :, None]
    together_BQM = segment_k[:, None, :] == segment_q[:, :, None]
    return earlier_BQM & together_BQM


def distances(queries: int, keys: int, slot: Array | None) -> Array:
    """How far behind each query a key stands, [Q, M] int32 (negative: before it).

    Positions count on by one within a segment, so the distance of two tokens that can see each other is that of their
    places in the row, the same for all rows.

    Args:
      slot: place of the first query among the keys; None: queries and keys are the same tokens.
    """
    query_Q = jnp.arange(queries) + (0 if slot is None else slot)
    return jnp.arange(keys) - query_Q[:, None]
