"""What a model costs, counted by hand: FLOPs of matrix products, and parameters by module.

Two conventions are in use for attention, and every figure here names its own: the *full map* counts all L x L scores
of a row (nanoGPT, Levanter; what a dense kernel really computes), the *causal half* counts those that a causal query
may see (MaxText). A multiplication and an addition are two FLOPs; norms, activations and softmax are left out.
"""

import dataclasses
import math
import re

import jax

from gpt2jax.models.embedding import padded_vocab
from gpt2jax.models.feedforward import GATED


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of one row, forward: of the blocks' matrices, of the attention map in full, of the head."""

    matrices: int
    attention: int
    head: int

    def forward(self, convention: str = 'full map') -> float:
        """Under 'full map' or 'causal half'."""
        share = {'full map': 1.0, 'causal half': 0.5}[convention]
        return self.matrices + share * self.attention + self.head

    def training(self, convention: str = 'full map') -> float:
        """Forward and backward: the backward pass multiplies each matrix twice."""
        return 3 * self.forward(convention)


def row_flops(config, length: int, predictions: int) -> Flops:
    """FLOPs of one row of `length` tokens of which `predictions` are predicted. `config` is `config.model`."""
    attention, width = config.attention, config.width
    inner = width  # num_heads * head_dim
    kv = inner * attention.num_kv_heads // attention.num_heads
    feedforward = (3 if config.feedforward.kind in GATED else 2) * width * config.feedforward.width
    weights = width * (inner + 2 * kv) + inner * width + feedforward
    embedded = config.embedding.width
    widen = width * embedded if embedded != width else 0
    narrow = width * embedded if config.head.transform or embedded != width else 0
    return Flops(
        matrices=2 * (config.num_layers * weights + widen) * length,
        attention=4 * config.num_layers * inner * length**2,
        head=2 * (embedded * padded_vocab(config) + narrow) * predictions,
    )


def parameters_by_module(params) -> list[tuple[str, str, int]]:
    """(path, shape, count) of every parameter of a tree of arrays or shapes; equal layers are counted together."""
    rows = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = re.sub(r'^blocks/\d+/', 'blocks/*/', jax.tree_util.keystr(path, simple=True, separator='/'))
        rows.setdefault((name, 'x'.join(map(str, leaf.shape))), []).append(math.prod(leaf.shape))
    return [
        (name, f'{len(counts)} x [{shape}]' if len(counts) > 1 else f'[{shape}]', sum(counts))
        for (name, shape), counts in rows.items()
    ]


def count_parameters(params) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
