"""The LSTM language model of Merity et al. 2018 (AWD-LSTM): tied weights, and dropout wherever something is reused.

Axes: B batch, L length, D width, H hidden width, G = 4 H the gates, I inputs of a layer, N = L B, V vocabulary.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.models.embedding import init_head, padded_vocab, read_head
from gpt2jax.models.linear import Linear, dropout_rows, product
from gpt2jax.objectives import Example
from gpt2jax.placement import ALONE, Placement


@struct.dataclass
class Memory:
    """What the layers have made of the tokens before: the same size however many these were.

    Attributes:
      layers: ((h, c), ...), output and cell of every layer, [B, H] float32.
      same_text: whether the next tokens always go on with the same text (decoding); else `example.continues` says so.
    """

    layers: tuple[tuple[Array, Array], ...]
    same_text: bool = struct.field(pytree_node=False, default=False)


@dataclasses.dataclass(frozen=True)
class LSTM:
    """Pure functions over a tree of parameters; `config` is `config.model`, resolved; `placement` is where they run.

    The tree: `embedding`, `blocks` (a tuple, one tree a layer), and `head` where it has parameters of its own. There
    are no positions, attention, norms and feed-forwards, and their keys are not read.
    """

    config: object
    placement: Placement = ALONE

    rolling: ClassVar[bool] = True  # decoding never runs out of slots, as it has none

    def init(self, key: Array):
        """Initial parameters, float32. They depend on the key and on the sizes alone.

        Embeddings are normal, of width `init.std`; the layers' values do not depend on the config.
        """
        config = self.config
        embedding_key, blocks_key, head_key = jax.random.split(key, 3)
        table_VD = jax.random.normal(embedding_key, (padded_vocab(config), config.embedding.width))
        params = {
            'embedding': {'token': config.init.std * table_VD},
            'blocks': tuple(
                init_layer(jax.random.fold_in(blocks_key, index), *widths)
                for index, widths in enumerate(layer_widths(config))
            ),
        }
        head = init_head(config, head_key)
        return params | ({'head': head} if head else {})

    def gather(self, params):
        """The parameters whole on every device; `apply` and `head` take what this returns."""
        return self.placement.whole(params, dtype=self.config.dtype)

    def apply(self, params, example: Example, carry: Memory | None = None, *, dropout_key: Array | None = None):
        """Hidden states of the last layer, [B, L, D], and the carry behind the last token.

        A new document begins from nothing; padding leaves the state as it was, and has zeros for hidden states.

        Args:
          params: as `init` makes them (and `gather`, on a mesh).
          example: inputs, segment, row and continues are read. The order must be that of the places.
          carry: of the rows before (`init_memory`), or of the tokens before (`init_carry`); None: nothing was before.
          dropout_key: None turns dropout off.
        """
        config, drops = self.config, self.config.recurrent
        word_key, weight_key, row_key = (None,) * 3 if dropout_key is None else jax.random.split(dropout_key, 3)

        def locked(x_LBI, rate, use):
            return locked_dropout(x_LBI, rate, row_key, use, example.row, self.placement)

        real_LB = example.segment.T > 0
        fresh_LB = beginnings(example.segment, goes_on(example, carry)).T
        states = (carry or self.init_memory(len(example.inputs))).layers
        x_LBI = embed(params['embedding']['token'], example.inputs.T, drops.word_drop, word_key).astype(config.dtype)
        if config.embedding.scale:
            x_LBI *= config.width**0.5
        x_LBI, new_states = locked(x_LBI, drops.input_drop, 0), []
        for index, (layer, state) in enumerate(zip(params['blocks'], states, strict=True)):
            key = None if weight_key is None else jax.random.fold_in(weight_key, index)
            kernel_GH = dropout(layer['recurrent']['kernel'], drops.weight_drop, key)
            # The inputs of all steps are projected in one product: the recurrence has one small product a step.
            gates_LBG = Linear(len(kernel_GH), 0.0, True, config.dtype).apply({'params': layer['input']}, x_LBI)
            h_LBH, state = recur(gates_LBG, kernel_GH.astype(config.dtype), state, fresh_LB, real_LB)
            rate = drops.hidden_drop if index + 1 < config.num_layers else config.dropout
            x_LBI = locked(h_LBH.astype(config.dtype), rate, index + 1)
            new_states.append(state)
        x_BLD = jnp.where(real_LB[..., None], x_LBI, 0).swapaxes(0, 1)
        return x_BLD, None if carry is None else carry.replace(layers=tuple(new_states))

    def encode(self, params, example: Example, key: Array | None = None) -> Array:
        """What the model makes of a text, [B, L, D]; `key` seeds dropout."""
        return self.apply(params, example, dropout_key=key)[0]

    def head(self, params):
        """(head_params, logits): `logits(head_params, hidden_ND)` is [N, V] in float32, -inf on padded ids."""
        return read_head(self.config, params)

    def init_memory(self, batch_size: int) -> Memory:
        """Before the first row of training."""
        widths = layer_widths(self.config)
        return Memory(tuple((jnp.zeros((batch_size, H)), jnp.zeros((batch_size, H))) for _, H in widths))

    def init_carry(self, batch_size: int, slots: int) -> Memory:
        """Before the first token of texts that are decoded token by token; they may be of any length."""
        return self.init_memory(batch_size).replace(same_text=True)


def layer_widths(config) -> list[tuple[int, int]]:
    """(inputs, outputs) of every layer: the last is as wide as the model, so that weights can be tied."""
    hidden = [config.recurrent.width] * (config.num_layers - 1) + [config.width]
    return list(zip([config.embedding.width, *hidden], hidden, strict=False))


def init_layer(key: Array, inputs: int, hidden: int) -> dict:
    """Kernels [gates, in] and the bias of one layer; the gates are input, forget, candidate, output.

    Recurrent kernels are uniform within 1 / sqrt(H), as in the paper's code. There so are the others; here these keep
    the variance of what they read, and forget gates begin open (Jozefowicz et al. 2015, section 2.2), without which
    three layers under Adam stay at the frequencies of the words for hundreds of steps.
    """
    input_key, recurrent_key = jax.random.split(key)

    def uniform(key, columns, bound):
        return jax.random.uniform(key, (4 * hidden, columns), minval=-bound, maxval=bound)

    return {
        'input': {
            'kernel': uniform(input_key, inputs, (3 / inputs) ** 0.5),
            'bias': jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(1.0),
        },
        'recurrent': {'kernel': uniform(recurrent_key, hidden, hidden**-0.5)},
    }


def goes_on(example: Example, carry: Memory | None) -> Array:
    """[B] bool: whether a row's first document is the one that the carry has read the beginning of."""
    if carry is None or (not carry.same_text and example.continues is None):
        return jnp.zeros(len(example.inputs), bool)
    return jnp.ones(len(example.inputs), bool) if carry.same_text else example.continues


def beginnings(segment_BL: Array, goes_on_B: Array) -> Array:
    """[B, L] bool: where a document begins, whose state is to be empty."""
    real_BL = segment_BL > 0
    first_BL = real_BL & (jnp.cumsum(real_BL, axis=1) == 1)
    before_BL = jnp.pad(segment_BL[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(first_BL, ~goes_on_B[:, None], real_BL & (segment_BL != before_BL))


def embed(table_VD: Array, inputs_LB: Array, word_drop: float, key: Array | None) -> Array:
    """Embeddings, of which a share of the words is left out wherever these stand (Merity et al. 2018, section 4.3)."""
    x_LBD = table_VD[inputs_LB]
    if key is None or not word_drop:
        return x_LBD
    scale_V = jax.random.bernoulli(key, 1 - word_drop, table_VD.shape[:1]) / (1 - word_drop)
    return x_LBD * scale_V[inputs_LB][..., None]


def dropout(kernel_GH: Array, rate: float, key: Array | None) -> Array:
    """A recurrent matrix without a share of its weights, the same at every step (section 2).

    One draw serves all rows, and depends neither on devices nor on microbatches.
    """
    if key is None or not rate:
        return kernel_GH
    return jnp.where(jax.random.bernoulli(key, 1 - rate, kernel_GH.shape), kernel_GH / (1 - rate), 0.0)


def locked_dropout(x_LBI: Array, rate: float, key: Array | None, use: int, row_B: Array, placement: Placement) -> Array:
    """Variational dropout: a row loses the same numbers at each of its steps (section 4.2)."""
    if key is None or not rate:
        return x_LBI
    ones_B1I = jnp.ones((x_LBI.shape[1], 1, x_LBI.shape[2]), x_LBI.dtype)
    return x_LBI * dropout_rows(ones_B1I, rate, jax.random.fold_in(key, use), row_B, placement)[:, 0]


def cell(gates_BG: Array, c_BH: Array) -> tuple[Array, Array]:
    """Output and new cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""
    keep_in, forget, candidate, give_out = jnp.split(gates_BG, 4, axis=1)
    c_BH = jax.nn.sigmoid(forget) * c_BH + jax.nn.sigmoid(keep_in) * jnp.tanh(candidate)
    return jax.nn.sigmoid(give_out) * jnp.tanh(c_BH), c_BH


@jax.custom_vjp
def recur(x_LBG: Array, kernel_GH: Array, state: tuple[Array, Array], fresh_LB: Array, real_LB: Array):
    """Runs the cell over all steps: its outputs, [L, B, H], and the last state.

    Left to JAX, the backward pass would add up the kernel's gradient step by step; here it is one product over all
    steps, which takes a third off the time of a wide layer on a CPU.
    """
    return _recur_forward(x_LBG, kernel_GH, state, fresh_LB, real_LB)[0]


def _recur_forward(x_LBG: Array, kernel_GH: Array, state, fresh_LB: Array, real_LB: Array):
    def step(state, now):
        x_BG, fresh_B, real_B = now
        h_BH, c_BH = (jnp.where(fresh_B[:, None], 0.0, value) for value in state)
        h_BH = h_BH.astype(kernel_GH.dtype)
        gates_BG = x_BG + product(h_BH, kernel_GH, preferred_element_type=jnp.float32)
        new = cell(gates_BG, c_BH)
        state = tuple(jnp.where(real_B[:, None], now, before) for now, before in zip(new, state, strict=True))
        return state, (state[0], h_BH, gates_BG, c_BH)

    state, (out_LBH, *kept) = jax.lax.scan(step, state, (x_LBG, fresh_LB, real_LB))
    return (out_LBH, state), (*kept, kernel_GH, fresh_LB, real_LB)


def _recur_backward(kept, gradients):
    h_LBH, gates_LBG, c_LBH, kernel_GH, fresh_LB, real_LB = kept
    dout_LBH, dstate = gradients

    def step(dstate, now):
        dout_BH, gates_BG, c_BH, fresh_B, real_B = now
        dstate = dstate[0] + dout_BH, dstate[1]
        through = tuple(jnp.where(real_B[:, None], d, 0.0) for d in dstate)
        dgates_BG, dc_BH = jax.vjp(cell, gates_BG, c_BH)[1](through)
        dh_BH = product(dgates_BG.astype(kernel_GH.dtype), kernel_GH.T, preferred_element_type=jnp.float32)
        around = (d - t for d, t in zip(dstate, through, strict=True))
        dstate = tuple(jnp.where(fresh_B[:, None], 0.0, d) + a for d, a in zip((dh_BH, dc_BH), around, strict=True))
        return dstate, dgates_BG

    xs = dout_LBH, gates_LBG, c_LBH, fresh_LB, real_LB
    dstate, dgates_LBG = jax.lax.scan(step, dstate, xs, reverse=True)
    dgates, h = (a.reshape(-1, a.shape[-1]).astype(kernel_GH.dtype) for a in (dgates_LBG, h_LBH))
    dkernel_GH = jnp.einsum('NG,NH->GH', dgates, h, preferred_element_type=jnp.float32).astype(kernel_GH.dtype)
    return dgates_LBG.astype(kernel_GH.dtype), dkernel_GH, dstate, None, None


recur.defvjp(_recur_forward, _recur_backward)
