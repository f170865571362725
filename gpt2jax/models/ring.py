"""Ring attention: keys and values travel from device to device, so that none ever holds those of a whole row.

Axes: B batch, L length of one device's part of a row (its queries, and the keys of a part), M keys of a row, H query
heads, N key-value heads, Q = H / N * L queries of one key-value head, K head width.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.einsum import Scoring, line_up, masked_scores
from gpt2jax.models.masks import Sight, distances, visible
from gpt2jax.placement import Placement


def ring_attention(query_BLHK, key_BNLK, value_BNLK, sight: Sight, scoring: Scoring, placement: Placement) -> Array:
    """softmax(Q K^T) V, part by part with a running maximum and sum (Liu et al. 2023, section 3).

    In every turn a device reads the keys that it holds while it hands them on. Parts that no query here can see, later
    ones under causal visibility and those beyond the window, are not read. The backward pass sends the keys around
    again, and their gradients with them. Weights cannot be dropped.
    """
    plan = Plan(placement.parts('context'), sight.visibility, sight.window, scoring.replace(bias=None))
    tokens = {'order': sight.order, 'segment': sight.segment, 'wide': jnp.asarray(sight.wide)}
    return _read_all(plan, query_BLHK, key_BNLK, value_BNLK, scoring.bias, tokens)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known beforehand of one use of the ring.

    Attributes:
      parts: devices of the ring.
      visibility, window: of the Sight.
      scoring: without its bias.
    """

    parts: int
    visibility: str
    window: int
    scoring: Scoring

    def around(self, read: Callable, total, travelling, come_home: bool):
        """`total, travelling = read(source, total, travelling)` on every device, of each part in turn.

        Args:
          travelling: what is handed on after each turn.
          come_home: whether it is needed after the last one, where it began.
        """
        pairs = [(i, (i + 1) % self.parts) for i in range(self.parts)]

        def hand_on(tree):
            return jax.tree.map(lambda a: jax.lax.ppermute(a, 'context', pairs), tree)

        def turn(carry, step):
            total, travelling = read((jax.lax.axis_index('context') - step) % self.parts, *carry)
            return (total, hand_on(travelling)), None

        carry, _ = jax.lax.scan(turn, (total, travelling), jnp.arange(self.parts - 1))
        total, travelling = read((jax.lax.axis_index('context') + 1) % self.parts, *carry)
        return total, hand_on(travelling) if come_home else travelling

    def is_seen(self, source: Array, length: int, wide: Array) -> Array:
        """Whether any query here may see a key of part `source`, as far as that is known beforehand."""
        here, seen = jax.lax.axis_index('context'), jnp.bool_(True)
        if self.visibility == 'causal':
            seen &= source <= here
        if self.window:
            seen &= wide | ((jnp.abs(source - here) - 1) * length + 1 < self.window)
        return seen

    def scores(self, query_BLHK, key_BNLK, bias_HLL, here: dict, there: dict, source: Array) -> Array:
        """Of the queries here and the keys of part `source`, [B, N, Q, L]; the lowest float where one is not seen."""
        L = query_BLHK.shape[1]
        mask_BLL = visible(here['order'], there['order'], here['segment'], there['segment'])
        if self.window:
            distance_LL = distances(L, L, (jax.lax.axis_index('context') - source) * L)
            mask_BLL &= here['wide'] | (jnp.abs(distance_LL) < self.window)
        scoring = self.scoring.replace(bias=bias_HLL)
        query_BNQK, mask_BNQL, bias_NQL = line_up(query_BLHK, key_BNLK.shape[1], mask_BLL, scoring)
        return masked_scores(query_BNQK, key_BNLK, mask_BNQL, bias_NQL, scoring.softcap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _read_all(plan: Plan, query_BLHK, key_BNLK, value_BNLK, bias_HLM, tokens: dict) -> Array:
    return _read_all_forward(plan, query_BLHK, key_BNLK, value_BNLK, bias_HLM, tokens)[0]


def _read_all_forward(plan: Plan, query_BLHK, key_BNLK, value_BNLK, bias_HLM, tokens: dict):
    B, L, H, K = query_BLHK.shape
    N = key_BNLK.shape[1]

    def read(source, total, travelling):
        def more():
            y_BNQK, sum_BNQ1, top_BNQ1 = total
            key, value, there = travelling
            scores_BNQL = plan.scores(query_BLHK, key, _bias_of(bias_HLM, source, L), tokens, there, source)
            new_top_BNQ1 = jnp.maximum(top_BNQ1, jnp.max(scores_BNQL, -1, keepdims=True))
            weights_BNQL, shrink_BNQ1 = jnp.exp(scores_BNQL - new_top_BNQ1), jnp.exp(top_BNQ1 - new_top_BNQ1)
            part_BNQK = jnp.einsum(
                'BNQL,BNLK->BNQK', weights_BNQL.astype(value.dtype), value, preferred_element_type=jnp.float32
            )
            new_sum_BNQ1 = shrink_BNQ1 * sum_BNQ1 + jnp.sum(weights_BNQL, -1, keepdims=True)
            return shrink_BNQ1 * y_BNQK + part_BNQK, new_sum_BNQ1, new_top_BNQ1

        return jax.lax.cond(plan.is_seen(source, L, tokens['wide']), more, lambda: total), travelling

    rows = (B, N, H // N * L)
    lowest = jnp.finfo(jnp.float32).min  # a query sees itself in the first turn, so that no sum stays empty
    start = jnp.zeros((*rows, K)), jnp.zeros((*rows, 1)), jnp.full((*rows, 1), lowest)
    there = {name: tokens[name] for name in ('order', 'segment')}
    total, _ = plan.around(read, start, (key_BNLK, value_BNLK, there), come_home=False)
    y_BNQK, sum_BNQ1, top_BNQ1 = total
    y_BLHK = (y_BNQK / sum_BNQ1).astype(value_BNLK.dtype).reshape(B, H, L, K).transpose(0, 2, 1, 3)
    log_sum_BNQ1 = top_BNQ1 + jnp.log(sum_BNQ1)
    return y_BLHK, (query_BLHK, key_BNLK, value_BNLK, bias_HLM, tokens, y_BLHK, log_sum_BNQ1)


def _read_all_backward(plan: Plan, kept, dy_BLHK):
    """With the log of each query's sum at hand, the gradient of a part needs that part alone (Dao et al. 2022, B.2)."""
    query_BLHK, key_BNLK, value_BNLK, bias_HLM, tokens, y_BLHK, log_sum_BNQ1 = kept
    B, L, _, K = query_BLHK.shape
    N = key_BNLK.shape[1]
    dy_BNQK, y_BNQK = (a.transpose(0, 2, 1, 3).reshape(B, N, -1, K) for a in (dy_BLHK, y_BLHK))
    inner_BNQ1 = jnp.sum(y_BNQK.astype(jnp.float32) * dy_BNQK, axis=-1, keepdims=True)

    def read(source, total, travelling):
        dquery_BLHK, dbias_HLM = total
        key, value, there, dkey, dvalue = travelling

        def part_of_loss(query_BLHK, key, value, bias_HLL):
            """Its gradient in the scores is w * (dw - inner), that of softmax."""
            weights_BNQL = jnp.exp(plan.scores(query_BLHK, key, bias_HLL, tokens, there, source) - log_sum_BNQ1)
            read_BNQK = jnp.einsum(
                'BNQL,BNLK->BNQK', weights_BNQL.astype(value.dtype), value, preferred_element_type=jnp.float32
            )
            return jnp.sum(dy_BNQK * read_BNQK) - jnp.sum(inner_BNQ1 * weights_BNQL)

        def more():
            arrays = query_BLHK, key, value, _bias_of(bias_HLM, source, L)
            dquery, dk, dv, dbias_HLL = jax.grad(part_of_loss, (0, 1, 2, 3))(*arrays)
            added = dquery_BLHK + dquery.astype(jnp.float32), _add_bias(dbias_HLM, dbias_HLL, source)
            return added, dkey + dk.astype(jnp.float32), dvalue + dv.astype(jnp.float32)

        seen = plan.is_seen(source, L, tokens['wide'])
        total, dkey, dvalue = jax.lax.cond(seen, more, lambda: (total, dkey, dvalue))
        return total, (key, value, there, dkey, dvalue)

    there = {name: tokens[name] for name in ('order', 'segment')}
    zeros = [jnp.zeros(a.shape, jnp.float32) for a in (query_BLHK, key_BNLK, value_BNLK)]
    total = zeros[0], None if bias_HLM is None else jnp.zeros_like(bias_HLM)
    travelling = key_BNLK, value_BNLK, there, *zeros[1:]
    (dquery, dbias_HLM), (*_, dkey, dvalue) = plan.around(read, total, travelling, come_home=True)
    back = (d.astype(a.dtype) for d, a in ((dquery, query_BLHK), (dkey, key_BNLK), (dvalue, value_BNLK)))
    return *back, dbias_HLM, None


_read_all.defvjp(_read_all_forward, _read_all_backward)


def _bias_of(bias_HLM, source: Array, length: int):
    """The part of a bias that belongs to the keys of `source`."""
    return None if bias_HLM is None else jax.lax.dynamic_slice_in_dim(bias_HLM, source * length, length, 2)


def _add_bias(bias_HLM, part_HLL, source: Array):
    """A bias with something added to that part."""
    if bias_HLM is None:
        return None
    length = part_HLL.shape[2]
    added_HLL = _bias_of(bias_HLM, source, length) + part_HLL
    return jax.lax.dynamic_update_slice_in_dim(bias_HLM, added_HLL, source * length, 2)
