"""Other configs for the same pod: which to try, in what order, and which of them are worth having."""

import dataclasses
import math
from collections.abc import Iterator

from gpt2jax.config import overlay
from gpt2jax.errors import UserError
from gpt2jax.planning.topologies import Topology
from gpt2jax.sharding import mesh_shape
from gpt2jax.validation import resolve

REMAT_COST = {'none': 1.0, 'dots': 1.08, 'offload': 1.2, 'full': 1.3}  # of a step, as a first guess
REMAT_KEEPS = {'none': 34.0, 'dots': 14.0, 'offload': 3.0, 'full': 2.0}  # bytes a token, layer and unit of width
UNROLLED_AT_MOST = 24  # layers; more compile for too long
SCAN_COST, TENSOR_COST, FSDP_COST, ACCUMULATION_COST = 1.05, 1.25, 1.05, 1.01


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Attributes: changes over the config; bytes and cost, first guesses that order the candidates."""

    changes: dict
    bytes: float
    cost: float


def candidates(config, topology: Topology, most: int) -> list[dict]:
    """Changes over a config, at most `most`, the promising first. The config itself comes first of all.

    Args:
      config: not resolved: what follows from a key follows from its change.
    """
    asked, config = config, resolve(config)
    own = {key: _value(config, key) for key in _KEYS}
    limit = topology.chip.memory or math.inf
    found = []
    for changes in _product(config, topology):
        if changes == own:
            continue
        found.append(Candidate(changes, guessed_bytes(config, changes, topology), guessed_cost(changes)))
    # What may fit, the fastest first; then the rest, those first that exceed the memory least.
    found.sort(key=lambda c: (c.bytes > 0.95 * limit, c.cost if c.bytes <= 0.95 * limit else c.bytes, c.cost))
    kept = []
    for candidate in found:
        if len(kept) == most - 1:
            break
        if allowed(asked, candidate.changes, topology):
            kept.append(candidate.changes)
    return [{}, *({key: value for key, value in changes.items() if value != own[key]} for changes in kept)]


_KEYS = (
    'sharding.data',
    'sharding.fsdp',
    'sharding.tensor',
    'model.remat',
    'model.scan_layers',
    'training.accumulation',
    'model.attention.kernel',
    'loss.chunk_tokens',
)


def _value(config, key: str):
    section, _, leaf = key.rpartition('.')
    for part in section.split('.'):
        config = config[part]
    return config[leaf]


def _product(config, topology: Topology) -> Iterator[dict]:
    """All combinations that are worth a thought."""
    layers, kernel = config.model.num_layers, config.model.attention.kernel
    chunks = {config.loss.chunk_tokens, 0}
    for mesh in meshes(config, topology):
        parts = topology.device_count // mesh['sharding.tensor']
        for accumulation in _accumulations(config, parts):
            for remat in REMAT_COST:
                for scan in (True,) if layers > UNROLLED_AT_MOST else (False, True):
                    for chunk in chunks:
                        yield mesh | {
                            'model.remat': remat,
                            'model.scan_layers': scan,
                            'training.accumulation': accumulation,
                            'model.attention.kernel': kernel,
                            'loss.chunk_tokens': chunk,
                        }
    for other in {'auto', 'einsum'} - {kernel}:
        yield {key: _value(config, key) for key in _KEYS} | {'model.attention.kernel': other}


def meshes(config, topology: Topology) -> list[dict]:
    """Ways to use the devices: copies, one sharded copy, a sharded copy in each row of the pod, and tensors."""
    count, slices = topology.device_count, topology.slices
    heads = config.model.attention.num_kv_heads
    inside = count // slices
    rows = {inside, math.gcd(inside, 16), math.gcd(inside, 8)}
    found = [(-1, 1, 1), *((-1, fsdp, 1) for fsdp in sorted(rows, reverse=True) if fsdp > 1)]
    for tensor in (2, 4):
        if heads % tensor == 0 and inside % tensor == 0 and inside > tensor:
            found.append((-1, inside // tensor, tensor))
    return [dict(zip(_KEYS[:3], mesh, strict=True)) for mesh in dict.fromkeys(found)]


def _accumulations(config, parts: int) -> list[int]:
    """Numbers of microbatches that leave every device whole rows: the config's own, and the fewest ones."""
    rows = config.training.batch_size
    legal = [n for n in range(1, rows + 1) if rows % n == 0 and rows // n % parts == 0]
    return sorted({n for n in legal if n <= 8 and n & (n - 1) == 0} | ({config.training.accumulation} & set(legal)))


def guessed_bytes(config, changes: dict, topology: Topology) -> float:
    """Memory of one device, roughly: state, gradients, kept activations, logits."""
    model = config.model
    devices = topology.device_count
    tensor, fsdp = changes['sharding.tensor'], changes['sharding.fsdp']
    parameters = 12 * model.num_layers * model.width**2 + model.vocab_size * model.width
    rows = config.training.batch_size * tensor / devices / changes['training.accumulation']
    tokens = rows * config.data.length
    width = REMAT_KEEPS[changes['model.remat']] * model.width * (2 if model.dtype == 'float32' else 1)
    chunk = changes['loss.chunk_tokens'] or tokens
    logits = 3 * 4 * min(chunk, tokens) * model.vocab_size / tensor
    return 16 * parameters / (fsdp * tensor) + tokens * model.num_layers * width / tensor + logits


def guessed_cost(changes: dict) -> float:
    """Time of a step, roughly, against the best one."""
    cost = REMAT_COST[changes['model.remat']]
    cost *= SCAN_COST if changes['model.scan_layers'] else 1.0
    cost *= FSDP_COST if changes['sharding.fsdp'] > 1 else 1.0
    cost *= TENSOR_COST if changes['sharding.tensor'] > 1 else 1.0
    return cost * ACCUMULATION_COST ** (changes['training.accumulation'] - 1)


def allowed(config, changes: dict, topology: Topology) -> bool:
    """Whether the config takes the changes, and the devices the mesh."""
    try:
        mesh_shape(resolve(overlay(config, changes)), topology.device_count, topology.slices)
    except UserError:
        return False
    return True


def front(results: list[dict]) -> list[int]:
    """The indices of the results that no other one beats in both, fastest first.

    Args:
      results: with seconds (the middle of the bracket) and bytes of one device each; None where one does not fit.
    """
    fit = [i for i, result in enumerate(results) if result['seconds'] is not None]
    fit.sort(key=lambda i: (results[i]['seconds'], results[i]['bytes']))
    kept, least = [], math.inf
    for index in fit:
        if results[index]['bytes'] < least:
            kept.append(index)
            least = results[index]['bytes']
    return kept


def as_flags(changes: dict) -> str:
    """{'model.remat': 'none'} -> --config.model.remat=none."""
    return ' '.join(f'--config.{key}={value}' for key, value in changes.items())
