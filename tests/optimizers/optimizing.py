"""What the tests of optimizers share: a small tree, gradients for it, and steps on them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import tiny_config

from gpt2jax.optimizers import make_optimizer, path_name

STEPS = 40
DECAYED = ('blocks/0/attention/query/kernel', 'blocks/0/feedforward/expand/kernel', 'embedding/token', 'head/kernel')


def formula(kind, step, *, peak, warmup, steps, decay, final):
    """The learning rate of a step, from its definition."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if kind == 'constant':
        return peak
    if kind == 'inverse_sqrt':
        return peak * math.sqrt(warmup / (step + 1))
    length = decay if kind == 'wsd' else steps - warmup
    done = min(max((step - (steps - length)) / length, 0), 1)
    share = (1 + math.cos(math.pi * done)) / 2 if kind == 'cosine' else 1 - done
    return peak * (final + (1 - final) * share)


def configured(model=None, **changes):
    """A config whose `optimizer` section is changed, and the dotted keys of `model`."""
    changes = {f'optimizer__{name}': value for name, value in changes.items()}
    return tiny_config(training__steps=STEPS, **changes, **(model or {}))


def example_params(random):
    """The least tree with every sort of parameter: matrices of both orientations, tables, vectors."""
    shapes = {
        'blocks': (
            {
                'attention': {'query': {'kernel': (3, 4), 'bias': (3,)}},
                'feedforward': {'expand': {'kernel': (6, 4)}},
                'norm_attention': {'scale': (4,)},
            },
        ),
        'embedding': {'token': (5, 4), 'position': {'embedding': (4, 4)}},
        'head': {'kernel': (5, 4)},
    }

    def is_shape(node):
        return isinstance(node, tuple) and all(isinstance(size, int) for size in node)

    return jax.tree.map(lambda shape: random.normal(size=shape), shapes, is_leaf=is_shape)


def example_gradients(random, params, sizes=(0.01, 10.0, 0.1, 1.0, 0.01, 5.0)):
    """One tree of gradients a step; the sizes make clipping at 1 act in some of them."""
    return [jax.tree.map(lambda leaf, s=s: random.normal(size=leaf.shape) * s, params) for s in sizes]


def by_path(tree):
    """{path: float64 array}"""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): np.array(leaf, np.float64) for path, leaf in leaves}


def take(config, params, gradients):
    """Parameters and optimizer state after a step on each of the gradients."""
    optimizer = make_optimizer(config)
    params = jax.tree.map(jnp.float32, params)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def clipped(gradients, clip_norm):
    """Gradients by path, scaled down to a global norm."""
    norm = math.sqrt(sum(np.sum(gradient**2) for gradient in gradients.values()))
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    return {path: scale * gradient for path, gradient in gradients.items()}


def assert_close(params, expected, rtol=2e-5, atol=1e-6):
    """A tree equals a dict by path."""
    found = by_path(params)
    assert found.keys() == expected.keys()
    for path, value in found.items():
        np.testing.assert_allclose(value, expected[path], rtol=rtol, atol=atol, err_msg=path)
