"""Adaptive softmax and adaptive input: rare tokens get less of the model (Grave et al. 2017; Baevski & Auli 2019).

Ids are cut into clusters, from frequent to rare, which is about the order of a BPE's. The first is predicted directly,
and beside its ids stands one for each of the others, whose tokens have p(cluster) * p(token | cluster). Each cluster is
`head.divisor` times narrower than the one before it, in the output and in the embedding alike. The head gives
log-probabilities for logits, so that losses and samplers need not know. Tails are computed for all tokens, as an
accelerator wants static shapes: what is saved is their width.

Axes: B batch, L length, N tokens of any rows, D model width, E width of a table, V ids, C further clusters.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpt2jax.models.linear import Linear, output_product


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Ids from `start` to before `end`, padding included, whose vectors are `width` wide."""

    start: int
    end: int
    width: int


def padded_vocab(config) -> int:
    """Ids with padding: the vocabulary rounded up to `vocab_multiple`, which matrix units like."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


def clusters(config) -> list[Cluster]:
    """From frequent to rare; a single one without an adaptive softmax. `config` is `config.model`."""
    cutoffs = [int(cutoff) for cutoff in config.head.cutoffs.split(',')] if config.head.cutoffs else []
    bounds = [0, *cutoffs, padded_vocab(config)]
    widths = [int(config.embedding.width / config.head.divisor**index) for index in range(len(bounds) - 1)]
    return [Cluster(*cluster) for cluster in zip(bounds, bounds[1:], widths, strict=False)]


def tails(config) -> list[tuple[str, Cluster]]:
    """(name in the tree, cluster) of those that have tables of their own, as they are narrower than the first."""
    if config.head.divisor == 1:
        return []
    return [(f'tail_{index}', cluster) for index, cluster in enumerate(clusters(config)) if index]


def token_rows(config) -> int:
    """Rows of `embedding/token`: the first cluster's where the others have tables of their own, else all."""
    return clusters(config)[0].end if tails(config) else padded_vocab(config)


class TailEmbedding(nn.Module):
    """The embeddings of one cluster, projected to the model's width (Baevski & Auli 2019, section 3).

    Attributes:
      config: `config.model`.
      cluster: of `tails`.
    """

    config: object
    cluster: Cluster

    @nn.compact
    def __call__(self, inputs_BL: Array) -> tuple[Array, Array]:
        """[B, L, D], and which ids are the cluster's, [B, L, 1]."""
        config, cluster = self.config, self.cluster
        shape = (cluster.end - cluster.start, cluster.width)
        table_VE = self.param('token', nn.initializers.normal(config.init.std), shape)
        own_BL = (inputs_BL >= cluster.start) & (inputs_BL < cluster.end)
        x_BLE = table_VE[jnp.where(own_BL, inputs_BL - cluster.start, 0)].astype(config.dtype)
        x_BLD = Linear(config.width, config.init.std, False, config.dtype, name='widen')(x_BLE)
        return x_BLD, own_BL[..., None]


def init_clusters(config, key: Array) -> dict:
    """What the head has beside the first cluster's table: a row for each of the others, and their tables if untied."""

    def draw(index: int, *shape: int) -> dict:
        return {'kernel': config.init.std * jax.random.normal(jax.random.fold_in(key, index), shape)}

    count = len(clusters(config)) - 1
    params = {'clusters': draw(0, count, config.embedding.width)}
    if config.head.bias:
        params['clusters']['bias'] = jnp.zeros(count)
    if not config.head.tied:
        for index, (name, cluster) in enumerate(tails(config)):
            size = cluster.end - cluster.start
            narrow = draw(2 * index + 2, cluster.width, config.width)
            params[name] = draw(2 * index + 1, size, cluster.width) | {'narrow': narrow}
    return params


def tied_tails(config, embedding: dict) -> dict:
    """The tails of a head that shares the embedding's tables and their projections."""
    return {
        name: {'kernel': embedding[name]['token'], 'narrow': {'kernel': embedding[name]['widen']['kernel'].T}}
        for name, _ in tails(config)
    }


def log_probabilities(config, head_params: dict, hidden_ND: Array, hidden_NE: Array) -> Array:
    """[N, V] in float32, -inf on padded ids (Grave et al. 2017, section 4).

    Args:
      hidden_ND, hidden_NE: as the model gives it, and as the table of the first cluster takes it.
    """
    parts = [output_product(hidden_NE, head_params['kernel'])]
    for name, cluster in tails(config):
        narrow = Linear(cluster.width, config.init.std, False, config.dtype)
        narrow_NE = narrow.apply({'params': head_params[name]['narrow']}, hidden_ND)
        parts.append(output_product(narrow_NE, head_params[name]['kernel']))
    logits_NV = jnp.concatenate(parts, axis=-1)
    logits_NC = output_product(hidden_NE, head_params['clusters']['kernel'])
    if config.head.bias:
        logits_NV += head_params['bias']
        logits_NC += head_params['clusters']['bias']
    logits_NV = jnp.where(jnp.arange(padded_vocab(config)) < config.vocab_size, logits_NV, -jnp.inf)
    first, *others = clusters(config)
    first_NV = jax.nn.log_softmax(jnp.concatenate([logits_NV[:, : first.end], logits_NC], axis=-1))
    found = [first_NV[:, : first.end]]
    for index, cluster in enumerate(others):
        within_NV = jax.nn.log_softmax(logits_NV[:, cluster.start : cluster.end])
        found.append(first_NV[:, first.end + index, None] + within_NV)
    return jnp.concatenate(found, axis=-1)
