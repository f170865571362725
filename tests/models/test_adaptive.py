"""Adaptive softmax and input: the same distribution as clusters written out by hand, in less width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, largest_difference, tiny_config

from gpt2jax.errors import UserError
from gpt2jax.evaluation.light_cone import check_light_cone
from gpt2jax.losses import cross_entropy
from gpt2jax.models import make_model
from gpt2jax.models.adaptive import clusters, tails
from gpt2jax.models.cost import count_parameters

CUTOFFS = {'model__head__cutoffs': '60,150'}
WAYS = [
    {'model__head__divisor': 1.0},
    {'model__head__divisor': 4.0},
    {'model__head__divisor': 2.0, 'model__head__tied': False, 'model__head__bias': True},
    {'model__head__divisor': 2.0, 'model__embedding__width': 24, 'model__vocab_multiple': 64},
]


def model_of(**changes):
    model = make_model(tiny_config(**CUTOFFS | {'model__num_layers': 1} | changes).model)
    params = jax.jit(model.init)(jax.random.key(0))
    return model, jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape), params)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize('changes', WAYS, ids=str)
def test_log_probabilities_are_those_of_the_clusters_one_by_one(changes):
    """In NumPy: p(cluster) from the first softmax, p(token | cluster) from the cluster's own."""
    model, params = model_of(**changes)
    config = model.config
    hidden_ND = np.asarray(jax.random.normal(jax.random.key(2), (5, config.width)), np.float64)
    table, head = jax.tree.map(np.float64, params['embedding']), jax.tree.map(np.float64, params['head'])
    bias_V = head.get('bias', np.zeros(clusters(config)[-1].end))
    kernel = table['token'] if config.head.tied else head['kernel']
    hidden_NE = hidden_ND @ head['narrow']['kernel'].T if 'narrow' in head else hidden_ND
    expected, first = [], clusters(config)[0].end
    for index, cluster in enumerate(clusters(config)):
        ids = slice(cluster.start, min(cluster.end, config.vocab_size))
        if index == 0 or config.head.divisor == 1:
            logits = hidden_NE @ kernel[ids].T
        elif config.head.tied:
            tail = table[f'tail_{index}']
            logits = hidden_ND @ tail['widen']['kernel'] @ tail['token'][: ids.stop - ids.start].T
        else:
            tail = head[f'tail_{index}']
            logits = hidden_ND @ tail['narrow']['kernel'].T @ tail['kernel'][: ids.stop - ids.start].T
        logits = logits + bias_V[ids]
        if index == 0:
            of_clusters = hidden_NE @ head['clusters']['kernel'].T + head['clusters'].get('bias', 0)
            both = log_softmax(np.concatenate([logits, of_clusters], 1))
            expected.append(both[:, :first])
        else:
            expected.append(both[:, first + index - 1, None] + log_softmax(logits))
    head_params, logits_fn = model.head(params)
    found = np.asarray(logits_fn(head_params, jnp.asarray(hidden_ND, jnp.float32)))
    np.testing.assert_allclose(found[:, : config.vocab_size], np.concatenate(expected, 1), atol=2e-4)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, atol=1e-5)
    assert np.all(found[:, config.vocab_size :] == -np.inf)


@pytest.mark.parametrize('changes', WAYS, ids=str)
def test_each_id_is_read_from_its_own_cluster(changes):
    """A row of a tail's table moves the embedding of its id and of no other one, at the borders too."""
    model, params = model_of(**changes)
    ids_1L = jnp.array([[0, 59, 60, 61, 149, 150, model.config.vocab_size - 1]])
    example = causal_example(1, 7, documents=1).replace(inputs=ids_1L, order=jnp.arange(7)[None])
    alone = example.replace(segment=1 + jnp.arange(7)[None])  # no token sees another

    def hidden(params):
        return model.apply(params, alone)[0][0]

    for place, token in enumerate(ids_1L[0].tolist()):
        cluster = next(c for c in clusters(model.config) if c.start <= token < c.end)
        name = dict((c, n) for n, c in tails(model.config)).get(cluster)
        embedding = params['embedding']
        if name is None:
            moved = embedding | {'token': embedding['token'].at[token].add(1.0)}
        else:
            tail = embedding[name]
            moved = embedding | {name: tail | {'token': tail['token'].at[token - cluster.start].add(1.0)}}
        changed = np.any(np.asarray(hidden(params) != hidden(params | {'embedding': moved})), axis=-1)
        assert np.flatnonzero(changed).tolist() == [place]


def test_tails_are_so_much_narrower():
    model, params = model_of(model__head__divisor=4.0)
    shapes = jax.tree.map(jnp.shape, params['embedding'])
    assert shapes['token'] == (60, 32)
    assert shapes['tail_1'] == {'token': (90, 8), 'widen': {'kernel': (32, 8)}}
    assert shapes['tail_2'] == {'token': (model.config.vocab_size - 150, 2), 'widen': {'kernel': (32, 2)}}
    assert count_parameters(params['head']) == 2 * 32


def test_a_divisor_of_one_keeps_one_table():
    model, params = model_of(model__head__divisor=1.0)
    assert params['embedding']['token'].shape == (model.config.vocab_size, 32)
    assert tails(model.config) == []


@pytest.mark.parametrize('changes', WAYS, ids=str)
def test_the_chunked_loss_and_its_gradients_are_those_of_all_logits_at_once(changes):
    model, params = model_of(**changes)
    example = causal_example(3, 10)

    def loss(params, chunk_tokens):
        head_params, logits_fn = model.head(params)
        hidden_BLD, _ = model.apply(params, example)
        options = {'chunk_tokens': chunk_tokens, 'z_loss': 0.0, 'label_smoothing': 0.0, 'predictions': 10}
        return cross_entropy(logits_fn, head_params, hidden_BLD, example.targets, example.weights, **options)[0]

    def plain(params):
        head_params, logits_fn = model.head(params)
        hidden_BLD, _ = model.apply(params, example)
        log_p = logits_fn(head_params, hidden_BLD.reshape(30, -1))
        return -jnp.sum(example.weights.reshape(-1) * log_p[jnp.arange(30), example.targets.reshape(-1)])

    (chunked, chunked_grad), (whole, whole_grad) = (
        jax.jit(jax.value_and_grad(f))(params) for f in (lambda p: loss(p, 8), plain)
    )
    np.testing.assert_allclose(chunked, whole, rtol=1e-5)
    assert largest_difference(chunked_grad, whole_grad) < 1e-4
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(chunked_grad['embedding']))


@pytest.mark.parametrize('changes', WAYS, ids=str)
def test_the_light_cone_is_found_through_any_tables(changes):
    model, _ = model_of(**changes)
    assert check_light_cone(model, causal_example(2, 8)).agrees


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model__head__cutoffs': '60,x'}, 'whole numbers'),
        ({'model__head__cutoffs': '60,,150'}, 'whole numbers'),
        ({'model__head__cutoffs': '150,60'}, 'must rise'),
        ({'model__head__cutoffs': '0,60'}, 'must rise'),
        ({'model__head__cutoffs': '60,260'}, r'vocab_size = 260'),
        ({'model__head__divisor': 0.5}, 'at least 1'),
        ({'model__head__divisor': 6.0}, 'narrower than 1'),
        ({'model__head__softcap': 5.0}, 'softcap'),
        ({'model__head__transform': True}, 'transform'),
        ({'loss__z_loss': 1e-4}, 'z_loss'),
        ({'model__parametrization__kind': 'mup'}, 'mup'),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**CUTOFFS | changes)
