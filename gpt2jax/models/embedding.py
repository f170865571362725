"""The two ends of a model: from ids to vectors, and from vectors to logits.

Axes: B batch, L length, M keys, N tokens of any rows, D width, E embedding width, H heads, V vocabulary.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.adaptive import (
    TailEmbedding,
    init_clusters,
    log_probabilities,
    padded_vocab,
    tails,
    tied_tails,
    token_rows,
)
from gpt2jax.models.blocks import matrix_std
from gpt2jax.models.feedforward import ACTIVATIONS
from gpt2jax.models.linear import Linear, output_product
from gpt2jax.models.norms import make_norm
from gpt2jax.models.positions import make_position


class Embedding(nn.Module):
    """Token embedding plus position encoding (Radford et al. 2018, section 3.1), and what BERT and ALBERT add to it.

    Attributes:
      config: `config.model`.
    """

    config: object

    @nn.compact
    def __call__(self, inputs_BL: Array, token_type_BL: Array | None, position_BL: Array, distance_LM: Array):
        """x_BLD, and what the position encoding has for attention: its rotation and its bias (or None)."""
        config, embedding, normal = self.config, self.config.embedding, nn.initializers.normal(self.config.init.std)
        x_BLD = self._look_up(inputs_BL)
        if embedding.scale:
            x_BLD *= config.width**0.5
        position = make_position(config, config.init.std, 'position')
        x_BLD = position.add(x_BLD, position_BL)
        if embedding.token_types:
            table_TE = self.param('token_type', normal, (embedding.token_types, x_BLD.shape[-1]))
            x_BLD += table_TE[jnp.zeros_like(inputs_BL) if token_type_BL is None else token_type_BL].astype(x_BLD.dtype)
        if embedding.norm:
            x_BLD = make_norm(config.norm, 'norm')(x_BLD)
        if x_BLD.shape[-1] != config.width:
            x_BLD = self._widen(x_BLD, config.feedforward.bias)
        return x_BLD, position.rotation(position_BL), position.bias(distance_LM)

    def _look_up(self, inputs_BL: Array) -> Array:
        """Of the tables' width; with an adaptive input, where tables differ, of the model's."""
        config, width, others = self.config, self.config.embedding.width, tails(self.config)
        table_VE = self.param('token', nn.initializers.normal(config.init.std), (token_rows(config), width))
        x_BLE = table_VE[inputs_BL].astype(config.dtype)
        if not others:
            return x_BLE
        x_BLD = x_BLE if width == config.width else self._widen(x_BLE, bias=False)
        for name, cluster in others:
            tail_BLD, own_BL1 = TailEmbedding(config, cluster, name=name)(inputs_BL)
            x_BLD = jnp.where(own_BL1, tail_BLD, x_BLD)
        return x_BLD

    def _widen(self, x_BLE: Array, bias: bool) -> Array:
        config = self.config
        return Linear(config.width, config.init.std, bias, config.dtype, name='widen')(x_BLE)


class Head(nn.Module):
    """From hidden states to the width of the output matrix: nothing, a projection, or BERT's transform.

    The transform is a matrix, the activation and a norm (Devlin et al. 2019, in their code).
    """

    config: object

    @nn.compact
    def __call__(self, hidden_ND: Array) -> Array:
        config, width = self.config, self.config.embedding.width
        if config.head.transform:
            hidden_NE = Linear(width, matrix_std(config), True, config.dtype, name='transform')(hidden_ND)
            hidden_NE = ACTIVATIONS[config.feedforward.kind](hidden_NE)
            return make_norm(config.norm, 'norm')(hidden_NE)
        if width != config.width:
            return Linear(width, matrix_std(config), False, config.dtype, name='narrow')(hidden_ND)
        return hidden_ND


def init_head(config, key: Array) -> dict:
    """The head's own parameters; {} for a plain tied one."""
    keys = dict(zip(('kernel', 'rest', 'pooler'), (key, *jax.random.split(key)), strict=True))
    hidden_1D = jnp.zeros((1, config.width))
    params = dict(Head(config).init(keys['rest'], hidden_1D).get('params', {}))
    if not config.head.tied:
        shape = (token_rows(config), config.embedding.width)
        params['kernel'] = config.init.std * jax.random.normal(keys['kernel'], shape)
    if config.head.cutoffs:
        params |= init_clusters(config, jax.random.fold_in(key, 1))
    if config.head.bias:
        params['bias'] = jnp.zeros(padded_vocab(config))
    if config.head.pooler:
        params['pooler'] = _pooler(config).init(keys['pooler'], hidden_1D)['params']
    return params


def read_head(config, params):
    """(head_params, logits): `logits(head_params, hidden_ND)` is [N, V] in float32, -inf on padded ids.

    Args:
      params: the model's, of which head and tied tables are read.
    """
    head_params = {name: value for name, value in params.get('head', {}).items() if name != 'pooler'}
    if config.head.tied:
        head_params |= {'kernel': params['embedding']['token']} | tied_tails(config, params['embedding'])
    return head_params, functools.partial(make_logits, config)


def make_logits(config, head_params: dict, hidden_ND: Array) -> Array:
    """[N, V] in float32, -inf on padded ids. `head_params`: 'kernel' [V, E], and the rest of the head.

    Under muP they shrink as the width grows (Yang et al. 2022, table 8).
    """
    kernel_VE = head_params['kernel']
    rest = {name: head_params[name] for name in ('transform', 'norm', 'narrow') if name in head_params}
    hidden_NE = Head(config).apply({'params': rest}, hidden_ND).astype(config.dtype)
    if config.head.cutoffs:
        return log_probabilities(config, head_params, hidden_ND, hidden_NE)
    logits_NV = output_product(hidden_NE, kernel_VE)
    if config.parametrization.kind == 'mup':
        logits_NV *= config.parametrization.base_width / config.width
    if config.head.bias:
        logits_NV += head_params['bias']
    if config.head.softcap:
        logits_NV = config.head.softcap * jnp.tanh(logits_NV / config.head.softcap)
    if kernel_VE.shape[0] == config.vocab_size:
        return logits_NV
    return jnp.where(jnp.arange(kernel_VE.shape[0]) < config.vocab_size, logits_NV, -jnp.inf)


def pool(config, pooler_params: dict, hidden_BLD: Array) -> Array:
    """BERT's vector of a text, [B, D]: a matrix and tanh on its first token (Devlin et al. 2019, section 3)."""
    return jnp.tanh(_pooler(config).apply({'params': pooler_params}, hidden_BLD[:, 0]))


def _pooler(config) -> Linear:
    return Linear(config.width, config.init.std, True, config.dtype)
