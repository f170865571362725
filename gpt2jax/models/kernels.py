"""Attention kernels: from queries, keys and values to what is read. A new one is a function and its name in KERNELS.

All have the signature of `einsum_attention`, which is the reference.

Axes: B batch, L length (queries), M keys, H query heads, N key-value heads, K head width.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from gpt2jax.models.einsum import Scoring, einsum_attention, no_drop
from gpt2jax.models.masks import Sight
from gpt2jax.models.ring import ring_attention
from gpt2jax.models.splash import splash_attention, splash_blocks
from gpt2jax.placement import ALONE, HEADS, Placement


def fused_attention(
    query_BLHK, key_BNMK, value_BNMK, sight: Sight, scoring: Scoring, placement: Placement = ALONE
) -> Array:
    """jax.nn.dot_product_attention: one kernel on GPU, cuDNN's, in bfloat16; an einsum elsewhere."""
    cudnn = placement.platform == 'gpu' and query_BLHK.dtype == jnp.bfloat16
    causal = cudnn and sight.visibility == 'causal' and query_BLHK.shape[1] == key_BNMK.shape[2]
    bias_BHLM = None
    if scoring.bias is not None:
        bias_BHLM = scoring.bias.reshape(-1, *scoring.bias.shape[-3:]).astype(query_BLHK.dtype)

    def attend(query_BLHK, key_BNMK, value_BNMK, mask_B1LM, bias_BHLM):
        key_BMNK, value_BMNK = key_BNMK.transpose(0, 2, 1, 3), value_BNMK.transpose(0, 2, 1, 3)
        return jax.nn.dot_product_attention(
            query_BLHK,
            key_BMNK,
            value_BMNK,
            bias_BHLM,
            mask_B1LM,
            scale=scoring.scale,
            is_causal=causal,
            implementation='cudnn' if cudnn else 'xla',
        )

    queries, keys = PartitionSpec(None, None, HEADS), PartitionSpec(None, HEADS)
    specs = queries, keys, keys, PartitionSpec(), keys
    return placement.over_heads(attend, specs, queries)(
        query_BLHK, key_BNMK, value_BNMK, sight.mask[:, None], bias_BHLM
    )


def auto_attention(
    query_BLHK, key_BNMK, value_BNMK, sight: Sight, scoring: Scoring, placement: Placement = ALONE
) -> Array:
    """What is fastest on the platform, and can do it; on CPU that is the einsum (docs/performance.md)."""
    kernel = {'tpu': 'splash', 'gpu': 'fused'}.get(placement.platform, 'einsum')
    return KERNELS[kernel if can(kernel, query_BLHK, sight, scoring, placement) else 'einsum'](
        query_BLHK, key_BNMK, value_BNMK, sight, scoring, placement
    )


KERNELS = {
    'auto': auto_attention,
    'einsum': einsum_attention,
    'fused': fused_attention,
    'splash': splash_attention,
    'ring': ring_attention,
}


def attend(kernel: str, query_BLHK, key_BNMK, value_BNMK, sight: Sight, scoring: Scoring, placement: Placement):
    """What the queries read, [B, L, H, K], with the named kernel; with the einsum where it cannot.

    Where a row is cut over devices, queries and keys are those of this device's part of it.
    """
    if not can(kernel, query_BLHK, sight, scoring, placement):
        kernel = 'einsum'
    if kernel != 'ring':
        heads = PartitionSpec(None, HEADS)
        key_BNMK, value_BNMK = (placement.whole_length(x, 2, heads) for x in (key_BNMK, value_BNMK))
    return KERNELS[kernel](query_BLHK, key_BNMK, value_BNMK, sight, scoring, placement)


def can(kernel: str, query_BLHK, sight: Sight, scoring: Scoring, placement: Placement) -> bool:
    """Whether a kernel can do what is asked of it here.

    A config whose training asks it for more than it can do is refused (gpt2jax.consistency); what is left are lengths
    and caches of generation and evaluation.
    """
    if kernel == 'ring':
        return scoring.drop is no_drop and placement.parts('context') > 1
    if kernel == 'fused':
        return scoring.drop is no_drop and not scoring.softcap
    if kernel == 'splash':
        return (
            scoring.drop is no_drop
            and scoring.bias is None
            and sight.segment is not None
            and sight.visibility in ('causal', 'full')
            and splash_blocks(query_BLHK.shape[1], sight.mask.shape[2]) is not None
        )
    return True
