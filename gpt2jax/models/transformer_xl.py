"""Transformer-XL: a Transformer whose layers also read what they were given in the rows before (Dai et al. 2019).

Axes: B batch, L length, Q queries, M memory slots, D width.
"""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.attention import Context
from gpt2jax.models.blocks import run_blocks
from gpt2jax.models.masks import Sight, distances, visible
from gpt2jax.models.transformer import Transformer
from gpt2jax.objectives import Example


@struct.dataclass
class Memory:
    """The carry from a row to the one that goes on where it ended.

    Attributes:
      layers: what each layer was given for the newest tokens, [B, M, D] each, the oldest first. No gradient flows into
        them (section 3.2).
      open: [B, M] bool, whether a token belongs to the document that the row ended in. All others are never seen again.
    """

    layers: tuple[Array, ...]
    open: Array


@dataclasses.dataclass(frozen=True)
class TransformerXL(Transformer):
    """The same blocks over [memory, row], where positions are told by distance alone (section 3.3).

    So each layer adds the memory's length to what a token can depend on. The tree of parameters is that of
    `Transformer`. Without a memory it is one.
    """

    @property
    def rolling(self) -> bool:
        """Decoding keeps keys and values of as many tokens as there are slots, and forgets older ones one by one."""
        return self.config.memory_length > 0

    def init_memory(self, batch_size: int) -> Memory | None:
        """Nothing is remembered yet."""
        config = self.config
        if not config.memory_length:
            return None
        shape = batch_size, config.memory_length, config.width
        layers = tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers))
        return Memory(layers, jnp.zeros(shape[:2], bool))

    def _begin(self, params, example: Example, carry):
        """The row's tokens see each other as ever, and the memory too where their document is the one it has of it."""
        if not isinstance(carry, Memory):
            return super()._begin(params, example, carry)
        L, M, segment_BL = example.inputs.shape[1], carry.open.shape[1], example.segment
        row_BLL = visible(example.order, example.order, segment_BL, segment_BL)
        seen_BLM = remembered(carry, segment_BL, example.continues)
        sight = Sight(jnp.concatenate([seen_BLM, row_BLL], axis=-1), window=self.config.attention.window)
        told = self._tell(params, example, sight, distances(L, M + L, M), memory=M)
        last_B1 = segment_BL[:, -1:]  # 0 is padding, behind which nothing goes on
        still_BM = remembered(carry, last_B1, example.continues)[:, 0]
        open_BM = jnp.concatenate([still_BM, (segment_BL == last_B1) & (last_B1 > 0)], axis=1)[:, -M:]
        return *told, carry.replace(open=open_BM)

    def _run(self, params, x, context: Context, carry, key: Array | None, **options):
        if not isinstance(carry, Memory):
            return super()._run(params, x, context, carry, key, **options)
        blocks, layers = params['blocks'], carry.layers
        x, _, layers = run_blocks(self.config, blocks, x, context, memories=layers, key=key, **options)
        return x, carry.replace(layers=layers)


def remembered(memory: Memory, segment_BQ: Array, continues_B: Array | None) -> Array:
    """[B, Q, M] bool, which slots are seen: those of the document that goes on in the row's first segment, if one does.

    They come before every token of the row in its order.

    Args:
      segment_BQ: of the queries.
      continues_B: of the Example.
    """
    continues_B = jnp.zeros(len(segment_BQ), bool) if continues_B is None else continues_B
    return (memory.open & continues_B[:, None])[:, None, :] & (segment_BQ == 1)[:, :, None]
