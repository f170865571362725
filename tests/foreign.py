"""Hugging Face folders in tests: read as `launch.py import` reads them, and compared with what transformers gave."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import one_device_setup

from gpt2jax import interop
from gpt2jax.config import default_config, overlay
from gpt2jax.interop.importing import entries_of
from gpt2jax.losses import token_nats
from gpt2jax.objectives import Example, Queries
from gpt2jax.optimizers import path_name
from gpt2jax.validation import resolve


def read_folder(folder, tokenizer='bytes'):
    """(source, setup, params) of a folder; the tokenizer decides nothing but whether the vocabulary is large enough."""
    source = interop.open_folder(folder)
    config = resolve(overlay(default_config(), source.changes | {'data.tokenizer': tokenizer}))
    setup = one_device_setup(config)
    interop.check(source, config.model, setup.abstract.params)
    return source, setup, interop.load(source, config.model, setup.abstract.params)


def example_of_ids(config, ids_BL, real_BL, token_type_BL=None) -> Example:
    """What transformers gets as input_ids, attention_mask and token_type_ids; real tokens come first."""
    ids_BL = jnp.asarray(ids_BL, jnp.int32)
    index_BL = jnp.broadcast_to(jnp.arange(ids_BL.shape[1], dtype=jnp.int32), ids_BL.shape)
    causal = config.objective.kind == 'causal'
    return Example(
        inputs=ids_BL,
        targets=ids_BL,
        weights=jnp.ones(ids_BL.shape),
        order=index_BL if causal else jnp.zeros_like(index_BL),
        segment=jnp.asarray(real_BL, jnp.int32),
        position=index_BL,
        row=jnp.arange(len(ids_BL), dtype=jnp.int32),
        visibility='causal' if causal else 'full',
        token_type=None if token_type_BL is None else jnp.asarray(token_type_BL, jnp.int32),
    )


def logits_of(setup, params, example, carry=None) -> jax.Array:
    """[B, L, V], or [B, P, V] of queries, over the ids that the vocabulary really has."""
    hidden_BLD, _ = setup.model.apply(params, example, carry)
    head_params, logits_fn = setup.model.head(params)
    logits_NV = logits_fn(head_params, hidden_BLD.reshape(-1, hidden_BLD.shape[-1]))
    vocab_size = setup.config.model.vocab_size
    return logits_NV[:, :vocab_size].reshape(*hidden_BLD.shape[:2], vocab_size)


def gradients_of(source, setup, params, example, targets_BL, weights_BL) -> dict[str, np.ndarray]:
    """Gradients of the weighted cross-entropy, summed, under the names and in the layout of the files."""

    def loss(params):
        logits_BLV = logits_of(setup, params, example)
        nats_N, _ = token_nats(logits_BLV.reshape(-1, logits_BLV.shape[-1]), jnp.asarray(targets_BL).reshape(-1))
        return jnp.sum(nats_N * jnp.asarray(weights_BL).reshape(-1))

    gradients = jax.grad(loss)(params)
    leaves = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    vocab_size = setup.config.model.vocab_size
    return {entry.name: entry.join(leaves, vocab_size) for entry in entries_of(source, setup.config.model)}


def relative_difference(ours, theirs) -> float:
    """The largest difference over the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30))


def permuted_example(ids_BL, place_BP, token_type_BL=None, continues: bool = False) -> Example:
    """What XLNet of transformers gets as `masks_of(place_BP)`: those places are predicted in that order, and read what
    comes before them, all other tokens first; without places there are no queries.
    """
    ids_BL, place_BP = jnp.asarray(ids_BL, jnp.int32), jnp.asarray(place_BP, jnp.int32)
    (B, L), P = ids_BL.shape, place_BP.shape[1]
    rank_BP = jnp.broadcast_to(1 + jnp.arange(P, dtype=jnp.int32), (B, P))
    token_type_BL = None if token_type_BL is None else jnp.asarray(token_type_BL, jnp.int32)
    type_BP = None if token_type_BL is None else jnp.take_along_axis(token_type_BL, place_BP, axis=1)
    return Example(
        inputs=ids_BL,
        targets=jnp.take_along_axis(ids_BL, place_BP, axis=1) if P else ids_BL,
        weights=jnp.ones((B, P or L)),
        order=jnp.zeros_like(ids_BL).at[jnp.arange(B)[:, None], place_BP].set(rank_BP),
        segment=jnp.ones_like(ids_BL),
        position=jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32), ids_BL.shape),
        row=jnp.arange(B, dtype=jnp.int32),
        visibility='permuted',
        token_type=token_type_BL,
        queries=Queries(place_BP, rank_BP, jnp.ones_like(place_BP), type_BP) if P else None,
        continues=jnp.full(B, continues),
    )
