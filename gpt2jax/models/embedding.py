"""The two ends of a model: from ids to vectors, and from vectors to logits.

Axes: B batch, L length, M keys, N tokens of any rows, D width, E embedding width, H heads, V vocabulary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.blocks import matrix_std
from gpt2jax.models.feedforward import ACTIVATIONS
from gpt2jax.models.linear import Linear, product
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
        table_VE = self.param('token', normal, (padded_vocab(config), embedding.width))
        x_BLD = table_VE[inputs_BL].astype(config.dtype)
        position = make_position(config, config.init.std, 'position')
        x_BLD = position.add(x_BLD, position_BL)
        if embedding.token_types:
            table_TE = self.param('token_type', normal, (embedding.token_types, embedding.width))
            x_BLD += table_TE[jnp.zeros_like(inputs_BL) if token_type_BL is None else token_type_BL].astype(x_BLD.dtype)
        if embedding.norm:
            x_BLD = make_norm(config.norm, 'norm')(x_BLD)
        if embedding.width != config.width:
            x_BLD = Linear(config.width, config.init.std, config.feedforward.bias, config.dtype, name='widen')(x_BLD)
        return x_BLD, position.rotation(position_BL), position.bias(distance_LM)


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
        shape = (padded_vocab(config), config.embedding.width)
        params['kernel'] = config.init.std * jax.random.normal(keys['kernel'], shape)
    if config.head.bias:
        params['bias'] = jnp.zeros(padded_vocab(config))
    if config.head.pooler:
        params['pooler'] = _pooler(config).init(keys['pooler'], hidden_1D)['params']
    return params


def make_logits(config, head_params: dict, hidden_ND: Array) -> Array:
    """[N, V] in float32, -inf on padded ids. `head_params`: 'kernel' [V, E], and the rest of the head.

    Under muP they shrink as the width grows (Yang et al. 2022, table 8).
    """
    kernel_VE = head_params['kernel']
    rest = {name: head_params[name] for name in ('transform', 'norm', 'narrow') if name in head_params}
    logits_NV = output_product(Head(config).apply({'params': rest}, hidden_ND).astype(config.dtype), kernel_VE)
    if config.parametrization.kind == 'mup':
        logits_NV *= config.parametrization.base_width / config.width
    if config.head.bias:
        logits_NV += head_params['bias']
    if config.head.softcap:
        logits_NV = config.head.softcap * jnp.tanh(logits_NV / config.head.softcap)
    if kernel_VE.shape[0] == config.vocab_size:
        return logits_NV
    return jnp.where(jnp.arange(kernel_VE.shape[0]) < config.vocab_size, logits_NV, -jnp.inf)


@jax.custom_vjp
def output_product(hidden_NE: Array, kernel_VE: Array) -> Array:
    """hidden @ kernel^T in float32, [N, V], of operands in the dtype of `hidden`, and so are those of its gradients.

    Left to JAX, both of these would be products with float32 gradients of the logits, which a backend may take by its
    word. The kernel's gradient stays in float32, as it is summed over chunks of tokens.
    """
    return product(hidden_NE, kernel_VE.astype(hidden_NE.dtype), preferred_element_type=jnp.float32)


def _output_forward(hidden_NE: Array, kernel_VE: Array):
    return output_product(hidden_NE, kernel_VE), (hidden_NE, kernel_VE)


def _output_backward(kept, dlogits_NV: Array):
    hidden_NE, kernel_VE = kept
    dlogits_NV, kernel = dlogits_NV.astype(hidden_NE.dtype), kernel_VE.astype(hidden_NE.dtype)
    dhidden_NE = jnp.einsum('NV,VE->NE', dlogits_NV, kernel)
    return dhidden_NE, jnp.einsum('NV,NE->VE', dlogits_NV, hidden_NE, preferred_element_type=jnp.float32)


output_product.defvjp(_output_forward, _output_backward)


def pool(config, pooler_params: dict, hidden_BLD: Array) -> Array:
    """BERT's vector of a text, [B, D]: a matrix and tanh on its first token (Devlin et al. 2019, section 3)."""
    return jnp.tanh(_pooler(config).apply({'params': pooler_params}, hidden_BLD[:, 0]))


def _pooler(config) -> Linear:
    return Linear(config.width, config.init.std, True, config.dtype)


def padded_vocab(config) -> int:
    """Rows of the embedding: the vocabulary rounded up to `vocab_multiple`, which matrix units like."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple
