"""Who sees whom: the one place where an objective meets a model.

Axes: B batch, Q query position, M key position.
"""

from jax import Array


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
