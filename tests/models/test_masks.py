"""Who sees whom."""

import numpy as np
import pytest

from gpt2jax.models.masks import visible


def triple_loop(order_q, order_k, segment_q, segment_k):
    """The definition of the design, one pair at a time."""
    B, Q = order_q.shape
    M = order_k.shape[1]
    mask = np.zeros((B, Q, M), bool)
    for b in range(B):
        for q in range(Q):
            for k in range(M):
                mask[b, q, k] = order_k[b, k] <= order_q[b, q] and segment_k[b, k] == segment_q[b, q]
    return mask


@pytest.mark.parametrize('kind', ['causal', 'full', 'prefix', 'permuted'])
def test_the_mask_is_the_triple_loop(kind):
    random, (B, L) = np.random.default_rng(0), (3, 11)
    order = {
        'causal': np.broadcast_to(np.arange(L), (B, L)),
        'full': np.zeros((B, L), int),
        'prefix': np.maximum(np.arange(L) - np.array([[2], [5], [11]]) + 1, 0),
        'permuted': np.stack([random.permutation(L) for _ in range(B)]),
    }[kind]
    segment = np.sort(random.integers(0, 3, (B, L)), axis=1)
    np.testing.assert_array_equal(visible(order, order, segment, segment), triple_loop(order, order, segment, segment))


def test_queries_and_keys_may_be_different_places():
    random = np.random.default_rng(1)
    order_q, order_k = random.integers(0, 5, (2, 3)), random.integers(0, 5, (2, 7))
    segment_q, segment_k = random.integers(0, 2, (2, 3)), random.integers(-1, 2, (2, 7))
    mask = visible(order_q, order_k, segment_q, segment_k)
    np.testing.assert_array_equal(mask, triple_loop(order_q, order_k, segment_q, segment_k))
