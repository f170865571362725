"""The coordinate check (Yang et al. 2022, appendix D.1): how far a few steps move activations, width by width.

Under muP what a step changes in a coordinate does not depend on the width; in the standard parametrization it grows.

Axes: B batch, L length, M keys, D width, V vocabulary, H heads, N key-value heads, K head width.
"""

import collections
import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2jax.batches import local_rows, place_batch
from gpt2jax.config import overlay
from gpt2jax.data.rows import Rows, train_batch
from gpt2jax.errors import UserError
from gpt2jax.models.attention import score_scale
from gpt2jax.training.setup import Setup
from gpt2jax.validation import resolve

PARAMETRIZATIONS = ('standard', 'mup')
TOLERANCE = 0.25  # of an exponent: few steps at small widths are not the limit of theory
PROBE_TOKENS = 2048  # of the first batch, whose activations are compared


def config_at(config, width: int, parametrization: str, widths: list[int], steps: int):
    """The resolved config of one model of the check.

    The number of heads stays, as in the paper, where it divides all widths; else the width of a head stays. A width of
    the feed-forward network that the config sets grows along. The learning rate is at its peak in every step.

    Args:
      config: as a recipe returns it.
      widths: all of the check.

    Raises:
      UserError: a width that cannot be cut into heads, or that the config refuses.
    """
    model = config.model
    heads, head_width = model.attention.num_heads, model.width // model.attention.num_heads
    if any(other % heads for other in widths):
        if any(other % head_width for other in widths):
            raise UserError(
                f'--widths={",".join(map(str, widths))}: neither all multiples of config.model.attention.num_heads = '
                f'{heads} nor all of the width of a head, {head_width}'
            )
        heads = width // head_width
    changes = {
        'model.width': width,
        'model.attention.num_heads': heads,
        'model.feedforward.width': round(model.feedforward.width * width / model.width),
        'model.parametrization.kind': parametrization,
        'model.scan_layers': False,
        'model.remat': 'none',
        'objective.switch': '',
        'optimizer.schedule': 'constant',
        'optimizer.warmup_steps': 0,
        'training.steps': steps,
    }
    return resolve(overlay(config, changes))


def activations(setup: Setup, params, batch) -> dict[str, Array]:
    """What the model computes on a batch, by name: each block's scores and output, the final hidden state, logits.

    The modules are watched from outside, so that a model needs no hooks. Scores are those of queries with keys before
    the position encoding, the cap and the mask.
    """
    config, found, seen = setup.config.model, {}, collections.Counter()
    projected = {}

    def watch(call, arguments, options, context):
        result = call(*arguments, **options)
        module, kind = context.module, type(context.module).__name__
        if context.method_name != '__call__':
            return result
        if module.name in ('query', 'key', 'norm_query', 'norm_key'):
            projected[module.name.removeprefix('norm_')] = result
        if kind in ('Attention', 'Block'):
            seen[kind] += 1
            name = {'Attention': 'scores', 'Block': 'block'}[kind] + f' {seen[kind]}'
            found[name] = result[0] if kind == 'Block' else _scores(config, projected['query'], projected['key'])
        return result

    example = setup.objective()(batch, jax.random.key(0), 0.0)
    with nn.intercept_methods(watch):
        hidden_BLD, _ = setup.model.apply(params, example)
    head_params, logits = setup.model.head(params)
    logits_NV = logits(head_params, hidden_BLD.reshape(-1, hidden_BLD.shape[-1]))
    return found | {'hidden': hidden_BLD, 'logits': logits_NV[:, : config.vocab_size]}


def _scores(config, query: Array, key: Array) -> Array:
    """The scaled products of queries and keys, both [B, L, heads, K]: [B, N, G * L, M]."""
    heads, groups = config.attention.num_heads, config.attention.num_kv_heads
    B, K = len(query), config.width // heads
    key_BNMK = key.transpose(0, 2, 1, 3)
    query_BNQK = query.reshape(B, -1, groups, heads // groups, K).transpose(0, 2, 3, 1, 4).reshape(B, groups, -1, K)
    return score_scale(config) * jnp.einsum('BNQK,BNMK->BNQM', query_BNQK, key_BNMK)


def measure(config, rows: Rows, steps: int) -> Iterator[dict[str, dict[str, float]]]:
    """Trains for a few steps; yields after each, and before the first, how large and how changed the activations are.

    Args:
      config: resolved.
      rows: of the training split.

    Yields:
      {'size': {name: mean |x|}, 'change': {name: mean |x - x of step 0|}} on the same rows each time.
    """
    setup, batch_size = Setup.from_config(config), config.training.batch_size
    shown = max(1, min(batch_size, PROBE_TOKENS // config.data.length))
    probe = jax.tree.map(lambda array: jnp.asarray(array[:shown]), train_batch(rows, config.seed, 0, batch_size))
    watch = jax.jit(lambda params: activations(setup, params, probe))
    compare = jax.jit(lambda now, start: jax.tree.map(lambda a, b: (_size(a), _size(a - b)), now, start))

    state, step = setup.initial_state(), setup.train_step()
    start = watch(state.params)
    for index in range(steps + 1):
        found = jax.device_get(compare(watch(state.params), start))
        yield {key: {name: float(pair[i]) for name, pair in found.items()} for i, key in enumerate(('size', 'change'))}
        if index < steps:
            batch = train_batch(rows, config.seed, index, batch_size, local_rows(batch_size, setup.mesh))
            state, _ = step(state, place_batch(batch, setup.mesh))


def _size(x: Array) -> Array:
    return jnp.mean(jnp.abs(x.astype(jnp.float32)))


def exponents(widths: list[int], runs: list[list[dict]]) -> dict[str, dict[str, float]]:
    """{'size': {name: the power of the width it grows with}, 'change': ...} after the last step.

    Args:
      runs: what `measure` yields, a list a width.
    """
    return {
        key: {name: _exponent(widths, [run[-1][key][name] for run in runs]) for name in runs[0][-1][key]}
        for key in ('size', 'change')
    }


def _exponent(widths: list[int], values: list[float]) -> float:
    """The slope in log-log coordinates; nan where there is none."""
    if not (min(values) > 0 and np.all(np.isfinite(values))):
        return float('nan')
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])


def faults(changes: dict[str, float]) -> dict[str, float]:
    """The exponents of changes that speak against muP.

    Nothing may grow with the width, and no block may come to rest. Scores and logits may fade: their initial values are
    random sums that shrink as 1 / sqrt(width), and the first steps change these values more than they add to them.
    """

    def holds(name, power):
        least = -math.inf if name.startswith(('scores', 'logits')) else -TOLERANCE
        return math.isfinite(power) and least <= power <= TOLERANCE

    return {name: power for name, power in changes.items() if not holds(name, power)}
