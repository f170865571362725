"""What a model costs, counted by hand: FLOPs of matrix products, and parameters by module.

Two conventions are in use for attention, and every figure here names its own: the *full map* counts all L x L scores
of a row (nanoGPT, Levanter; what a dense kernel really computes), the *causal half* counts those that a causal query
may see (MaxText). A multiplication and an addition are two FLOPs; norms, activations and softmax are left out.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp

from gpt2jax.models.adaptive import clusters, tails, token_rows
from gpt2jax.models.feedforward import GATED
from gpt2jax.models.lstm import layer_widths
from gpt2jax.models.relative import is_relative


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
    matrices, attention = BODIES[config.architecture](config, length, predictions)
    return Flops(matrices=matrices, attention=attention, head=2 * head_weights(config) * predictions)


def transformer_body(config, length: int, predictions: int) -> tuple[int, int]:
    """FLOPs of the matrices and of the attention maps of all layers, of one row.

    A memory's part of the map is seen whole under either convention, and counted with the matrices. Relative
    positions add a product for each score. That of their distances, which all rows of a batch share, is left out.
    """
    weights = config.num_layers * (attention_weights(config) + feedforward_weights(config)) + embedding_weights(config)
    of_memory = config.num_layers * (attention_weights(config) - 2 * config.width**2) * config.memory_length
    a_score = (6 if is_relative(config) else 4) * config.num_layers * config.width
    matrices = 2 * (weights * length + of_memory) + a_score * length * config.memory_length
    return matrices, a_score * length**2


def encoder_decoder_body(config, length: int, predictions: int) -> tuple[int, int]:
    """Of an encoder over the whole row, and a decoder over the places that are predicted."""
    block = attention_weights(config) + feedforward_weights(config)
    of_queries = config.num_layers * (block + 2 * config.width**2)  # cross-attention's queries, and its way out
    of_keys = config.num_layers * (attention_weights(config) - 2 * config.width**2)
    widen = embedding_weights(config)
    read = (config.encoder_layers * block + of_keys + widen) * length
    maps = config.encoder_layers * length**2 + config.num_layers * predictions * (predictions + length)
    return 2 * (read + (of_queries + widen) * predictions), 4 * config.width * maps


def xlnet_body(config, length: int, predictions: int) -> tuple[int, int]:
    """Of a Transformer-XL, and of its second stream where fewer tokens are predicted than there are.

    Queries have no keys and values of their own, and behind the last layer's nobody reads the tokens. Places in any
    order have twice as many distances to score, before and behind.
    """
    if predictions >= length:
        return transformer_body(config, length, predictions)
    kv, layers, memory = attention_weights(config) - 2 * config.width**2, config.num_layers, config.memory_length
    block = attention_weights(config) + feedforward_weights(config)
    read = (layers - 1) * block * length + kv * length + layers * kv * memory + embedding_weights(config) * length
    queries = (layers - 1) * length + layers * predictions  # of both streams, in all layers
    matrices = 2 * (read + layers * (block - kv) * predictions) + 6 * config.width * queries * memory
    return matrices, 8 * config.width * queries * length


def lstm_body(config, length: int, predictions: int) -> tuple[int, int]:
    """Of an LSTM: the four gates of every layer read its input and its own last output; there is no attention."""
    weights = sum(4 * hidden * (inputs + hidden) for inputs, hidden in layer_widths(config))
    return 2 * weights * length, 0


def attention_weights(config) -> int:
    """Numbers in the projections of one layer's attention."""
    kv = config.width * config.attention.num_kv_heads // config.attention.num_heads
    return config.width * (config.width + 2 * kv) + config.width**2


def feedforward_weights(config) -> int:
    """Numbers in the matrices of one layer's feed-forward."""
    return (3 if config.feedforward.kind in GATED else 2) * config.width * config.feedforward.width


def embedding_weights(config) -> int:
    """Numbers in the projections from the tables of tokens to the width of the model."""
    width, embedded = config.width, config.embedding.width
    return width * ((embedded if embedded != width else 0) + sum(cluster.width for _, cluster in tails(config)))


def head_weights(config) -> int:
    """Numbers in the matrices from hidden states to logits, those of an adaptive softmax included."""
    width, embedded, others = config.width, config.embedding.width, tails(config)
    narrow = width * embedded if config.head.transform or embedded != width else 0
    first = embedded * (token_rows(config) + len(clusters(config)) - 1)
    return narrow + first + sum(cluster.width * (cluster.end - cluster.start + width) for _, cluster in others)


# A new architecture: (config, length, predictions) -> FLOPs of one row's matrices, and of its attention maps in full.
BODIES = {
    'transformer': transformer_body,
    'encoder_decoder': encoder_decoder_body,
    'transformer_xl': transformer_body,
    'xlnet': xlnet_body,
    'lstm': lstm_body,
}


def state_bytes(config, tokens: int) -> int:
    """What one text of so many tokens keeps on the device for the token after them. `config` is `config.model`."""
    return STATES[config.architecture](config, tokens)


def transformer_state(config, tokens: int) -> int:
    """Keys and values of every token in every layer; an encoder-decoder's are its decoder's, of the source too."""
    kv = config.width * config.attention.num_kv_heads // config.attention.num_heads
    return 2 * config.num_layers * kv * jnp.dtype(config.dtype).itemsize * tokens


def lstm_state(config, tokens: int) -> int:
    """Output and cell of every layer, float32, however long the text is."""
    return 2 * 4 * sum(hidden for _, hidden in layer_widths(config))


# A new architecture: (config, tokens) -> bytes.
STATES = {
    'transformer': transformer_state,
    'encoder_decoder': transformer_state,
    'transformer_xl': transformer_state,
    'xlnet': transformer_state,
    'lstm': lstm_state,
}


def parameters_by_module(params) -> list[tuple[str, str, int]]:
    """(path, shape, count) of every parameter of a tree of arrays or shapes; equal layers are counted together."""
    rows = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = re.sub(r'^(blocks|encoder)/\d+/', r'\1/*/', jax.tree_util.keystr(path, simple=True, separator='/'))
        rows.setdefault((name, 'x'.join(map(str, leaf.shape))), []).append(math.prod(leaf.shape))
    return [
        (name, f'{len(counts)} x [{shape}]' if len(counts) > 1 else f'[{shape}]', sum(counts))
        for (name, shape), counts in rows.items()
    ]


def count_parameters(params) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
