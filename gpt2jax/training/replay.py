"""One training step, taken apart: which tensor is the first that is not finite, and which rows made it so.

Axes: B rows, L length, P predicted tokens of a row, N tokens of a chunk, V vocabulary.
"""

import collections
import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2jax.batches import place_batch
from gpt2jax.config import overlay
from gpt2jax.data.rows import Rows, train_batch
from gpt2jax.losses import each_token, gather_predicted, token_loss
from gpt2jax.models import make_model
from gpt2jax.optimizers import path_name
from gpt2jax.training.setup import Setup
from gpt2jax.training.state import State
from gpt2jax.training.statistics import Statistics, measure, measure_rows, summary
from gpt2jax.training.step import make_example, make_loss

LOSS_SUM, GRADIENT_NORM = 'sum of the loss', 'norm of all gradients'
# What a module reads, where no module made it: what attention read, and the activation of the feed-forward network.
INPUTS = {
    'attention/out': 'attention/read',
    'cross/out': 'cross/read',
    'feedforward/contract': 'feedforward/hidden',
}


@dataclasses.dataclass
class Findings:
    """Tables of (name, Statistics), in the order of computation. The forward pass is whole; gradients are only taken
    where it is finite.

    Attributes:
      parameters: before the step.
      forward: activations, logits, the loss of each token, and the sum of these.
      backward: gradients, those of the last layer first, and their norm.
      loss, gradient_norm: of the whole batch, as in the metrics of training; None where no gradient was taken.
    """

    parameters: list[tuple[str, Statistics]]
    forward: list[tuple[str, Statistics]]
    backward: list[tuple[str, Statistics]]
    loss: float
    gradient_norm: float | None

    def first(self) -> tuple[str, str, Statistics] | None:
        """(phase, name, Statistics) of the first activation, or else gradient, or else parameter, that is not finite.

        A broken parameter shows in the first activation that reads it, with the rows that read it.
        """
        for phase in ('forward', 'backward', 'parameters'):
            for name, found in getattr(self, phase):
                if found.nonfinite:
                    return phase, name, found
        return None


def run_to(setup: Setup, state: State, rows: Rows, start: int, stop: int, track) -> tuple[State, int | None]:
    """Trains the steps `start` to `stop` - 1 (from 0) once more, as the run did.

    Args:
      state: before step `start`; it is donated.
      track: draws a bar.

    Returns:
      The state before step `stop`, and None; or any state, and the step before `stop` that is not finite here.
    """
    config, kind = setup.config, None
    for step in track(range(start, stop), 'running the steps before it again'):
        if kind != setup.kind_at(step):
            kind = setup.kind_at(step)
            train_step = setup.train_step(kind)
        batch = train_batch(rows, config.seed, step, config.training.batch_size)
        state, metrics = train_step(state, place_batch(batch, setup.mesh))
        if not all(np.isfinite(metrics[name]) for name in ('loss', 'gradient_norm')):
            return state, step
    return state, None


def examine(setup: Setup, state: State, batch: dict[str, np.ndarray], track) -> Findings:
    """Takes the next step of `state` apart on one device; the state stays as it is.

    The batch is cut into as many parts as devices and microbatches had, so that one device has room for each. Dropout
    and objectives draw by row, so the cut changes no value but the order of sums.

    Args:
      batch: of the step, whole.
      track: draws a bar.
    """
    step, device = int(state.step), jax.local_devices()[0]
    params, key_data = jax.device_put(jax.device_get((state.params, state.key)), device)
    carry = jax.device_get(state.carry)
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), step)
    progress = jnp.float32(step) / setup.config.training.steps
    objective = setup.objective(setup.kind_at(step))
    mesh = setup.mesh.shape
    count = setup.config.training.accumulation * mesh['data'] * mesh['fsdp']
    parts = split((batch, carry), count)

    parameters = [(name, _all_of(leaf)) for name, leaf in named(params)]
    forward, sums = {}, np.zeros(3)
    watch = jax.jit(make_watch(setup.config, objective))
    for part in track(parts, 'looking into the forward pass'):
        measured, loss_sums = jax.device_get(watch(params, *part, key, progress))
        for name, found in measured.items():
            found = summary(found, part[0]['row'], places=found['broken'].shape[1] == setup.config.data.length)
            forward[name] = forward[name] + found if name in forward else found
        sums += loss_sums
    with np.errstate(over='ignore'):
        forward[LOSS_SUM] = _all_of(sums[:2].astype(np.float32))
    weight = max(sums[2], 1)
    findings = Findings(parameters, list(forward.items()), [], float(sums[1] / weight), None)
    if not any(found.nonfinite for found in forward.values()):
        make = jax.jit(jax.grad(make_loss(setup.model, objective, setup.config.loss), has_aux=True))
        alone = split((batch, carry), len(batch['row']))
        _look_back(findings, lambda part: make(params, *part, key, progress)[0], parts, alone, weight, track)
    return findings


def split(tree, parts: int) -> list:
    """Arrays [B, ...] in `parts` equal parts of their rows, one after the other."""
    size = len(jax.tree.leaves(tree)[0]) // parts
    return [jax.tree.map(lambda a, i=i: a[i : i + size], tree) for i in range(0, size * parts, size)]


def named(tree) -> list[tuple[str, Array]]:
    """(path, leaf) of a tree of parameters."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def make_watch(config, objective):
    """(params, batch, carry, key, progress) -> ({name: what `measure_rows` takes}, [loss, nats, weight]), as they run.

    The modules are watched from outside, so that a model needs no hooks; all layers are unrolled for it.
    """
    model = make_model(overlay(config, {'model.scan_layers': False, 'model.remat': 'none'}).model)

    def watch(params, batch, carry, key, progress):
        objective_key, dropout_key = jax.random.split(key)
        example, _ = make_example(model, objective, batch, objective_key, progress)
        found = collections.OrderedDict()  # a plain dict would come back sorted
        with nn.intercept_methods(_recorder(found, config.model.architecture == 'encoder_decoder')):
            hidden_BLD, _ = model.apply(params, example, carry, dropout_key=dropout_key)
        logits, *losses = _logits_and_loss(config, model, objective, params, example, hidden_BLD)
        found['logits'], found['loss'] = logits, measure_rows(losses[0])
        return found, jnp.stack([jnp.sum(a) for a in (*losses, example.weights)])

    return watch


def _recorder(found, two_sides: bool):
    """Keeps what each module makes: 'embedding', 'blocks/0/attention/query', ..., 'blocks/0', ..., 'norm_final'.

    Of an LSTM these are the products 'blocks/0/input', ... alone.

    Args:
      two_sides: an encoder, 'encoder/0', ..., 'norm_encoder', comes before the blocks of a decoder.
    """
    root, stack, done = '', 'encoder' if two_sides else 'blocks', collections.Counter()

    def record(call, arguments, options, context):
        nonlocal root, stack
        module, path = context.module, '/'.join(context.module.path)
        if context.method_name != '__call__':
            return call(*arguments, **options)
        if not path:
            kind = type(module).__name__
            if kind == 'Embedding' and done['encoder']:
                stack = 'blocks'
            embedding = 'decoder_embedding' if two_sides and stack == 'blocks' else 'embedding'
            block, norm = f'{stack}/{done[stack]}', 'norm_encoder' if stack == 'encoder' else 'norm_final'
            root = {'Block': block, 'Linear': f'{block}/input', 'Embedding': embedding}.get(kind, norm)
        if path in INPUTS:
            found[f'{root}/{INPUTS[path]}'] = measure_rows(arguments[0])
        result = call(*arguments, **options)
        output = result[0] if isinstance(result, tuple) else result
        output = output.swapaxes(0, 1) if root.endswith('/input') else output  # an LSTM's: its steps come first
        found[f'{root}/{path}'.rstrip('/')] = measure_rows(output)
        done[stack] += not path and root.startswith(f'{stack}/')
        return result

    return record


def _logits_and_loss(config, model, objective, params, example, hidden_BLD):
    """`measure_rows` of the logits, without holding all of them, and loss and nats of each token, weighted, [B, P]."""
    predictions = objective.num_predictions(example.inputs.shape[1])
    gathered = gather_predicted(hidden_BLD, example.targets, example.weights, predictions)
    hidden_BPD, targets_BP, weights_BP = gathered
    head_params, logits_fn = model.head(params)

    def look(logits_NV, targets_N):
        loss_N, nats_N = token_loss(logits_NV, targets_N, config.loss.z_loss, config.loss.label_smoothing)
        # Ids that pad the vocabulary have a logit of -inf by design.
        measured = jax.vmap(measure)(logits_NV[:, : config.model.vocab_size])
        return loss_N, nats_N, measured

    loss_BP, nats_BP, of_token = each_token(
        look, logits_fn, head_params, hidden_BPD, targets_BP, chunk_tokens=config.loss.chunk_tokens
    )
    largest = jnp.max(of_token['largest'])
    scale = jnp.where(largest > 0, largest, 1)  # the square of a large logit may be no float32
    mean_BP, std_BP = (of_token[name] / scale for name in ('mean', 'std'))
    share_BP = of_token['count'] / jnp.maximum(jnp.sum(of_token['count'].astype(jnp.float32)), 1)
    mean = jnp.sum(share_BP * mean_BP)
    variance = jnp.sum(share_BP * (jnp.square(std_BP) + jnp.square(mean_BP - mean)))
    logits = {
        'count': jnp.sum(of_token['count']),
        'largest': largest,
        'mean': mean * scale,
        'std': jnp.sqrt(variance) * scale,
        'nonfinite': jnp.sum(of_token['nonfinite']),
        'broken': of_token['nonfinite'] > 0,
    }
    return logits, *(jnp.where(weights_BP > 0, weights_BP * a, 0.0) for a in (loss_BP, nats_BP))


def _look_back(findings: Findings, gradient, parts: list, alone: list, weight: float, track) -> None:
    """Adds gradients and their norm to `findings`; of the first that is not finite also the rows that make it so.

    Args:
      gradient: part of a batch, and what is carried to it -> gradients of its summed loss.
      parts, alone: the whole batch in parts, and row by row.
      weight: of the whole batch.
    """
    total = None
    for part in track(parts, 'looking into the backward pass'):
        more = gradient(part)
        total = more if total is None else jax.tree.map(jnp.add, total, more)
    total = jax.tree.map(lambda leaf: leaf / weight, total)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(total)))
    findings.gradient_norm = float(norm)
    ranks = {name: place for place, (name, _) in enumerate(findings.forward)}
    leaves = sorted(named(total), key=lambda pair: _rank(pair[0], ranks), reverse=True)
    findings.backward = [(name, _all_of(leaf)) for name, leaf in leaves]
    first, broken = next(((name, found) for name, found in findings.backward if found.nonfinite), (None, None))
    findings.backward.append((GRADIENT_NORM, _all_of(norm)))
    if first is None:
        return
    for row in track(alone, 'looking for the rows'):
        leaf = dict(named(gradient(row)))[first]
        if not jnp.isfinite(leaf).all():
            broken.rows[int(row[0]['row'][0])] = None


def _all_of(x) -> Statistics:
    return summary(jax.device_get(jax.jit(measure)(x)))


def _rank(parameter: str, ranks: dict[str, int]) -> int:
    """When the module of a parameter ran; what no module is seen to read, as the head, came last."""
    while parameter:
        if parameter in ranks:
            return ranks[parameter]
        parameter = parameter.rpartition('/')[0]
    return len(ranks)


def layer_of(name: str) -> int | None:
    """'blocks/3/attention' -> 3; None outside of the layers."""
    found = re.match(r'blocks/(\d+)', name)
    return int(found[1]) if found else None
