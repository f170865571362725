"""What a model's outputs really depend on, measured by gradient, against what its objective lets them see.

Axes: B rows, L length, P queries, C outputs of a chunk, D width, E width of the embedding, V rows of its table.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, FrozenConfigDict

from gpt2jax.models.adaptive import clusters, padded_vocab, tails
from gpt2jax.models.encoder_decoder import both_sides, compact
from gpt2jax.models.masks import distances, visible
from gpt2jax.objectives import Example

CHUNK = 32  # positions whose gradients are made at once


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Where a model and its objective disagree; both [N, 3]: row, place of the output, place of the input.

    Attributes:
      leaks: the output depends on an input that is hidden from it.
      blind: the output depends on none of the seeds on an input that it may see.
    """

    leaks: np.ndarray
    blind: np.ndarray

    @property
    def agrees(self) -> bool:
        return not len(self.leaks) and not len(self.blind)


def light_cone(model, params, example: Example, track: Callable[..., Iterable] = lambda items, *_: items) -> np.ndarray:
    """[B, L, L] bool: whether the output at a place depends on the token at another, by the gradient between them.

    Where there are queries the outputs are theirs, and it is [B, P, L].

    A row is copied as often as a chunk has places, and each copy has its gradient from the output at one of them, as in
    a training step. Every place of every copy reads an embedding of its own, so that equal tokens are told apart: the
    token table is made long enough for that, and its rows take the places' vectors.

    Args:
      model: of gpt2jax.models; its parameters hold the token table as ['embedding']['token'], and where a decoder has
        its own, that as ['decoder_embedding']['token'].
      params: of the model.
      example: dropout is off, and targets and weights are not read.
      track: draws a bar around the chunks (gpt2jax.training.progress).
    """
    B, L = example.inputs.shape
    outputs = example.targets.shape[1]
    C = min(CHUNK, outputs)
    model = dataclasses.replace(model, config=with_token_rows(model.config, C * L))
    ids_CL = jnp.arange(C * L, dtype=jnp.int32).reshape(C, L)

    @jax.jit
    def dependence(params, row: Example, places_C: Array) -> Array:
        table_VE = params['embedding']['token']
        rows = jax.tree.map(lambda a: jnp.repeat(a, C, axis=0), row)

        def probed(own_CLE):
            tables = {name: params[name] for name in ('embedding', 'decoder_embedding') if name in params}
            token = {'token': own_CLE.reshape(C * L, -1)}
            own = params | {name: table | token for name, table in tables.items()}
            hidden_CLD, _ = model.apply(own, rows.replace(inputs=ids_CL))
            output_CD = jnp.take_along_axis(hidden_CLD, places_C[:, None, None], axis=1)[:, 0].astype(jnp.float32)
            return jnp.sum(output_CD * jax.random.normal(jax.random.key(0), output_CD.shape[1:]))

        return jnp.any(jax.grad(probed)(table_VE[rows.inputs]) != 0, axis=-1)

    places = np.pad(np.arange(outputs), (0, -outputs % C)).reshape(-1, C)
    jobs = [(row, places_C) for row in range(B) for places_C in places]
    parts = [
        np.asarray(dependence(params, jax.tree.map(lambda a, row=row: a[row : row + 1], example), places_C))
        for row, places_C in track(jobs, 'light cone', len(jobs))
    ]
    return np.concatenate(parts).reshape(B, -1, L)[:, :outputs]


def expected_cone(config, example: Example) -> np.ndarray:
    """[B, L, L] bool: what the objective allows an output to depend on, and the model's windows reach.

    Of queries, [B, P, L], it is what comes strictly before them in the order: what a token that they see has seen comes
    no later.

    Args:
      config: `config.model`.
    """
    if example.queries is not None:
        return seen_by_queries(example)
    visible_BLL = np.asarray(visible(example.order, example.order, example.segment, example.segment))
    if config.architecture == 'lstm':  # which passes padding over, while attention sees it as a document of its own
        return visible_BLL & (np.asarray(example.segment) > 0)[:, None]
    if config.architecture == 'encoder_decoder':
        return seen_by_decoder(config, example, visible_BLL)
    return within_windows(config, visible_BLL)


def within_windows(config, visible_BLL: np.ndarray) -> np.ndarray:
    """[B, L, L] bool: what of it the windows of all layers reach together."""
    window, every = config.attention.window, config.attention.global_every
    if not window:
        return visible_BLL
    L = visible_BLL.shape[-1]
    near_LL = np.abs(np.asarray(distances(L, L, None))) < window
    reach_BLL = np.broadcast_to(np.eye(L, dtype=bool), visible_BLL.shape)
    for layer in range(1, config.num_layers + 1):  # an output reaches what its inputs of the layer below have reached
        layer_BLL = visible_BLL if every and layer % every == 0 else visible_BLL & near_LL
        reach_BLL = np.matmul((layer_BLL | np.eye(L, dtype=bool)).astype(np.float32), reach_BLL) > 0
    return reach_BLL


def seen_by_decoder(config, example: Example, visible_BLL: np.ndarray) -> np.ndarray:
    """[B, L, L] bool: all that the encoder has read of a document, and the decoder's tokens that its windows reach.

    A place that the decoder does not read has an output that depends on nothing.
    """
    source, target = both_sides(example)
    written_BL = np.asarray(compact(target)[1]) >= 0
    encoded_BLL = visible_BLL & (np.asarray(source.segment) > 0)[:, None]
    return written_BL[:, :, None] & (encoded_BLL | within_windows(config, visible_BLL))


def seen_by_queries(example: Example) -> np.ndarray:
    """[B, P, L] bool: which tokens come strictly before each query in the order."""
    queries = example.queries
    return np.asarray(visible(queries.order - 1, example.order, queries.segment, example.segment))


def check_light_cone(model, example: Example, seeds: Iterable[int] = (0, 1, 2), **options) -> Verdict:
    """Compares a model's light cone with its objective's: hidden inputs exactly without effect, visible ones with some.

    A gradient may vanish by accident, so that an input counts as seen when it has an effect for one of the seeds; the
    later seeds are tried only where one is missing. To every initial parameter noise is added, as some are zero.

    Args:
      options: of `light_cone`.
    """
    expected_BLL = expected_cone(model.config, example)
    seen_BLL = np.zeros_like(expected_BLL)
    for seed in seeds:
        seen_BLL |= light_cone(model, noisy_params(model, seed), example, **options)
        if not (expected_BLL & ~seen_BLL).any():
            break
    return Verdict(np.argwhere(seen_BLL & ~expected_BLL), np.argwhere(expected_BLL & ~seen_BLL))


def noisy_params(model, seed: int):
    """Initial parameters, each with noise of the width that initial matrices have."""
    init_key, noise_key = jax.random.split(jax.random.key(seed))
    params = jax.jit(model.init)(init_key)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(noise_key, len(leaves))
    std = model.config.init.std
    noisy = [leaf + std * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def with_token_rows(config, rows: int):
    """`config.model` with a token table (of the first cluster, where there are several) of so many rows."""
    config, cutoffs = ConfigDict(config), [cluster.start for cluster in clusters(config)][1:]
    longer = rows - (cutoffs[0] if tails(config) else padded_vocab(config))
    config.head.cutoffs = ','.join(str(cutoff + longer) for cutoff in cutoffs)
    config.vocab_size, config.vocab_multiple = padded_vocab(config) + longer, 1
    return FrozenConfigDict(config)
