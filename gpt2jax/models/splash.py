"""Attention on TPU that never has its map in memory, and skips the blocks of it that nobody sees.

The kernel is JAX's (jax.experimental.pallas.ops.tpu.splash_attention). Elsewhere it is interpreted, which is slow: for
tests.

Axes: B batch, L length (queries), M keys, H query heads, N key-value heads, K head width.
"""

import functools

import jax
import numpy as np
from jax import Array
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import PartitionSpec

from gpt2jax.models.einsum import Scoring
from gpt2jax.models.masks import Sight
from gpt2jax.placement import ALONE, HEADS, Placement

SIZES = (1024, 512, 256, 128)  # of blocks, the fastest first; larger ones do not compile (docs/performance.md)
BLOCKS = ('data_next', 'mask_next', 'block_mask')  # what the kernel knows of each block
SAVED = 'splash'  # the name under which a checkpoint policy may keep what the backward pass needs


def splash_attention(
    query_BLHK, key_BNMK, value_BNMK, sight: Sight, scoring: Scoring, placement: Placement = ALONE
) -> Array:
    """softmax(Q K^T) V block by block. Segments are compared in the kernel; what `visibility` and the window say is
    known beforehand, so that blocks outside of it cost nothing.
    """

    def read(window: int) -> Array:
        shape = query_BLHK.shape[1], key_BNMK.shape[2]
        interpret = placement.platform != 'tpu'
        of_all = make_kernel(*shape, sight.visibility, window, scoring.softcap, interpret)

        def attend(query_BHLK, key_BNMK, value_BNMK, segment_BL, segment_BM):
            of_row = _own_part(of_all, placement, shape)
            return jax.vmap(lambda q, k, v, *ids: of_row(q, k, v, splash.SegmentIds(*ids)))(
                query_BHLK, key_BNMK, value_BNMK, segment_BL, segment_BM
            )

        heads, rest = PartitionSpec(None, HEADS), PartitionSpec()
        query_BHLK = (query_BLHK * scoring.scale).transpose(0, 2, 1, 3)
        y_BHLK = placement.over_heads(attend, (heads, heads, heads, rest, rest), heads)(
            query_BHLK, key_BNMK, value_BNMK, sight.segment, sight.key_segment
        )
        return y_BHLK.transpose(0, 2, 1, 3)

    if not sight.window or sight.wide is True:
        return read(0)
    if sight.wide is False:
        return read(sight.window)
    return jax.lax.cond(sight.wide, lambda: read(0), lambda: read(sight.window))


def splash_blocks(queries: int, keys: int) -> tuple[int, int] | None:
    """Sizes of the blocks of queries and keys; None where no size divides a length."""
    sizes = [next((size for size in SIZES if length % size == 0), None) for length in (queries, keys)]
    return None if None in sizes else tuple(sizes)


@functools.cache
def make_kernel(queries: int, keys: int, visibility: str, window: int, softcap: float, interpret: bool):
    """JAX's kernel for one row; of `queries` fewer than `keys` each device has its own part.

    What it knows of the mask is kept as NumPy arrays, which are constants of whatever program uses them.
    """
    shape, parts, (block_q, block_k) = (keys, keys), keys // queries, splash_blocks(queries, keys)
    if window:
        mask = splash.LocalMask(shape, (window - 1, 0 if visibility == 'causal' else window - 1), 0, parts)
    else:
        mask = splash.CausalMask(shape, 0, parts) if visibility == 'causal' else splash.FullMask(shape)
    sizes = splash.BlockSizes(
        block_q=block_q,
        block_kv=block_k,
        block_q_dkv=block_q,
        block_kv_dkv=block_k,
        use_fused_bwd_kernel=True,
    )
    with jax.ensure_compile_time_eval():
        kernel = splash.make_splash_mha(
            splash.MultiHeadMask([mask]),
            block_sizes=sizes,
            attn_logits_soft_cap=softcap or None,
            residual_checkpoint_name=SAVED,
            interpret=interpret,
            head_shards=1,
            q_seq_shards=parts,
        )
        return jax.tree.map(np.asarray, kernel)


def _own_part(kernel, placement: Placement, shape: tuple[int, int]):
    """The kernel of this device's queries, of those of all rows."""
    queries, keys = shape
    if queries == keys:
        return kernel

    def part(info):
        """What is kept of each block has an axis of heads before that of the queries."""
        own = {name: placement.own_length(getattr(info, name), 1) for name in BLOCKS if getattr(info, name) is not None}
        if info.q_sequence is not None:
            own['q_sequence'] = placement.own_length(info.q_sequence, 0)
        return info._replace(**own)

    return jax.tree.map(part, kernel, is_leaf=lambda node: hasattr(node, 'q_sequence'))
