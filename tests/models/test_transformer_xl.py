"""Transformer-XL against the reference (tests/goldens/make_transformer_xl.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference, tiny_config
from ml_collections import ConfigDict, FrozenConfigDict
from remembering import MEMORY, continuing, read

from gpt2jax.models import make_model
from gpt2jax.models.adaptive import tails

GOLDENS = Path(__file__).parents[1] / 'goldens'
REFERENCE = {
    'model__width': 24,
    'model__memory_length': 12,
    'model__attention__num_heads': 3,
    'model__attention__bias': False,
    'model__feedforward__kind': 'relu',
    'model__feedforward__width': 40,
    'model__norm__placement': 'post',
    'model__embedding__scale': True,
    'model__head__bias': True,
    'model__head__cutoffs': '40,71',
}
CASES = {
    'transformer_xl': {'model__head__divisor': 1.0},
    'transformer_xl_clusters': {
        'model__head__divisor': 2.0,
        'model__embedding__width': 20,
        'model__position__clamp_length': 14,
    },
    'transformer_xl_same_length': {'model__head__divisor': 1.0, 'model__attention__window': 12},
}


def reference(name: str):
    """The golden, and our model of the same sizes; the reference begins with a memory of zeros, and reads it."""
    config = ConfigDict(tiny_config(**MEMORY | REFERENCE | CASES[name]).model)
    config.vocab_size = 97  # fewer than any tokenizer has
    model = make_model(FrozenConfigDict(config))
    memory = model.init_memory(2)
    return np.load(GOLDENS / f'{name}.npz'), model, memory.replace(open=jnp.ones_like(memory.open))


def tree_of(golden, kind: str, model) -> dict:
    """Their parameters ('weight') or gradients ('gradient') as our tree."""
    config, others = model.config, [name for name, _ in tails(model.config)]

    def get(name: str):
        return golden[f'{kind} {name}']

    def linear(name: str) -> dict:
        return {'kernel': get(f'{name}.weight'), 'bias': get(f'{name}.bias')}

    def norm(name: str) -> dict:
        return {'scale': get(f'{name}.weight'), 'bias': get(f'{name}.bias')}

    def layer(path: str) -> dict:
        query, key, value = np.split(get(f'{path}.dec_attn.qkv_net.weight'), 3)
        relative = {
            'kernel': get(f'{path}.dec_attn.r_net.weight'),
            'content_bias': get(f'{path}.dec_attn.r_w_bias'),
            'position_bias': get(f'{path}.dec_attn.r_r_bias'),
        }
        return {
            'attention': {
                'query': {'kernel': query},
                'key': {'kernel': key},
                'value': {'kernel': value},
                'out': {'kernel': get(f'{path}.dec_attn.o_net.weight')},
                'relative': relative,
            },
            'norm_attention': norm(f'{path}.dec_attn.layer_norm'),
            'feedforward': {
                'expand': linear(f'{path}.pos_ff.CoreNet.0'),
                'contract': linear(f'{path}.pos_ff.CoreNet.3'),
            },
            'norm_feedforward': norm(f'{path}.pos_ff.layer_norm'),
        }

    table = 'transformer.word_emb'
    embedding = {'token': get(f'{table}.emb_layers.0.weight')}
    head = {'clusters': {'kernel': get('crit.cluster_weight'), 'bias': get('crit.cluster_bias')}}
    head['bias'] = np.concatenate([get(f'crit.out_layers.{index}.bias') for index in range(1 + len(others))])
    if others:
        embedding['widen'] = {'kernel': get(f'{table}.emb_projs.0')}
        head['narrow'] = {'kernel': get('crit.out_projs.0').T}
    for index, name in enumerate(others, 1):
        widen = {'kernel': get(f'{table}.emb_projs.{index}')}
        embedding[name] = {'token': get(f'{table}.emb_layers.{index}.weight'), 'widen': widen}
    layers = tuple(layer(f'transformer.layers.{index}') for index in range(config.num_layers))
    return jax.tree.map(jnp.asarray, {'embedding': embedding, 'blocks': layers, 'head': head})


@pytest.mark.parametrize('name', CASES)
def test_the_tree_of_the_reference_is_ours(name):
    golden, model, _ = reference(name)
    ours = jax.eval_shape(model.init, jax.random.key(0))
    theirs = tree_of(golden, 'weight', model)
    assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, ours)


@pytest.mark.parametrize('name', CASES)
def test_three_segments_are_those_of_the_reference(name):
    """Log-probabilities and memories to 1e-4, where the memory of each segment is the model's own."""
    golden, model, memory = reference(name)
    params = tree_of(golden, 'weight', model)
    for ids_BL, expected, kept in zip(golden['ids'], golden['log_probs'], golden['memory'], strict=True):
        hidden_BLD, memory = model.apply(params, continuing(ids_BL), memory)
        head_params, logits_fn = model.head(params)
        found = logits_fn(head_params, hidden_BLD.reshape(-1, 24)).reshape(expected.shape)
        assert largest_difference(found, expected) < 1e-4
        assert largest_difference(jnp.stack(memory.layers), kept) < 1e-4


def test_gradients_are_those_of_the_reference():
    """Through three segments; none flows into a memory, there or here."""
    golden, model, start = reference('transformer_xl')

    def loss(params):
        head_params, logits_fn = model.head(params)
        hidden, _ = read(model, params, map(continuing, golden['ids']), start)
        log_p = logits_fn(head_params, jnp.stack(hidden).reshape(-1, 24))
        targets = golden['targets'].reshape(-1)
        return -jnp.mean(log_p[jnp.arange(len(targets)), targets])

    found = jax.jit(jax.grad(loss))(tree_of(golden, 'weight', model))
    assert largest_difference(found, tree_of(golden, 'gradient', model)) < 1e-5
