"""One step of training, and one of evaluation, as pure functions.

Axes: A microbatches, B batch, L length.
"""

import jax
import jax.numpy as jnp
import optax

from gpt2jax.losses import all_token_hits, all_token_nats, cross_entropy, gather_predicted
from gpt2jax.training.spread import on_every_device, sum_over_devices
from gpt2jax.training.state import State


def make_loss(model, objective, loss):
    """(params, batch, carry, key, progress) -> (loss, ((nats, weight), carry)), all summed over the batch.

    On a mesh these are the sums of one device: over its rows, and its part of their length.

    Args:
      objective: of gpt2jax.objectives.
      loss: `config.loss`.
    """

    def summed_loss(params, batch, carry, key, progress):
        objective_key, dropout_key = jax.random.split(key)
        example, predictions = make_example(model, objective, batch, objective_key, progress)
        params = model.gather(params)
        hidden_BLD, carry = model.apply(params, example, carry, dropout_key=dropout_key)
        head_params, logits_fn = model.head(params)
        total, nats = cross_entropy(
            logits_fn,
            head_params,
            hidden_BLD,
            example.targets,
            example.weights,
            chunk_tokens=loss.chunk_tokens,
            z_loss=loss.z_loss,
            label_smoothing=loss.label_smoothing,
            predictions=predictions,
        )
        return total, ((nats, jnp.sum(example.weights)), jax.lax.stop_gradient(carry))

    return summed_loss


def make_example(model, objective, batch, key, progress):
    """The Example of whole rows, of which a device keeps its part; and how many positions of a row may be predicted."""
    example = objective(batch, key, progress)
    predictions = objective.num_predictions(example.inputs.shape[1])
    example = example.replace(continues=batch['continues'])
    own = model.placement.own_length
    return jax.tree.map(lambda a: own(a) if a.ndim == 2 else a, example), predictions


def make_train_step(model, objective, optimizer, schedule, loss, steps: int, accumulation: int):
    """(state, batch) -> (state, metrics).

    Args:
      loss: `config.loss`.
      steps: of the whole run, which the objective's progress is measured by.
      accumulation: microbatches that the batch is cut into, and what is carried with it. Gradients are those of the
        summed loss, divided once by the weight of the whole batch, so the cut changes nothing but the memory.

    Every device of the model's mesh works on its own part of the batch. What all of them hold is summed once, after the
    last microbatch; of what is cut over `fsdp` each device keeps the sum of its part in every microbatch.

    The metrics are float32 scalars on the device: loss (nats a predicted token), gradient_norm (before clipping),
    learning_rate, predicted (weights of the batch).
    """

    gradient = jax.grad(make_loss(model, objective, loss), has_aux=True)

    def accumulate(params, batch, carry, key, progress):
        if accumulation == 1:
            gradients, (sums, carry) = gradient(params, batch, carry, key, progress)
            return (gradients, sums), carry
        zeros = jax.tree.map(jnp.zeros_like, params), (jnp.zeros(()), jnp.zeros(()))

        def add(total, part):
            gradients, (sums, carry) = gradient(params, *part, key, progress)
            return jax.tree.map(jnp.add, total, (gradients, sums)), carry

        total, carry = jax.lax.scan(add, zeros, deal((batch, carry), accumulation))
        return total, join(carry)

    def local(params, batch, carry, key, progress):
        total, carry = accumulate(params, batch, carry, key, progress)
        return sum_over_devices(model.placement, *total), carry

    summed = on_every_device(local, model.placement, sums=True)

    def train_step(state: State, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        progress = state.step.astype(jnp.float32) / steps
        (gradients, (nats, weight)), carry = summed(state.params, batch, state.carry, key, progress)
        divisor = jnp.maximum(weight, 1)  # a batch without predictions has no gradient, rather than an undefined one
        gradients = jax.tree.map(lambda g: g / divisor, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {
            'loss': nats / divisor,
            'gradient_norm': optax.global_norm(gradients),
            'learning_rate': schedule(state.step),
            'predicted': weight,
        }
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, carry=carry), metrics

    return train_step


def deal(tree, parts: int):
    """Arrays [B, ...] -> [A, B / A, ...]: row i goes to part i mod A, so that every part lies on all devices."""
    return jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), tree)


def join(tree):
    """What `deal` has dealt, with every row in its old place."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


def make_evaluation_step(model, objective, loss, accuracy: bool = False, most: int | None = None):
    """(params, batch, carry) -> (result, carry); result is {'nats', 'weights', 'targets'}, [B, P] each.

    P are the tokens of a row that may be predicted. Dropout is off, and what the objective draws for a row depends on
    the row's number in its split alone. Without a carry (None) no row remembers the one before it.

    Args:
      loss: `config.loss`.
      accuracy: also 'hits', whether a token has the highest logit.
      most: how many tokens of a row count at most, where the batch says which ('counted'); None: all may.
    """

    def evaluation_step(params, batch, carry):
        example, predictions = make_example(model, objective, batch, jax.random.key(0), 1.0)
        params = model.gather(params)
        if 'counted' in batch:
            example = example.replace(weights=example.weights * counted_targets(batch['counted'], example))
            predictions = min(predictions, most or predictions)
        hidden_BLD, after = model.apply(params, example, carry)
        carry = None if carry is None else after
        hidden_BPD, *rest = gather_predicted(hidden_BLD, example.targets, example.weights, predictions)
        targets_BP, weights_BP = rest
        result = {'weights': weights_BP, 'targets': targets_BP}
        head_params, logits_fn = model.head(params)
        arguments = logits_fn, head_params, hidden_BPD, targets_BP
        if not accuracy:
            return result | {'nats': all_token_nats(*arguments, chunk_tokens=loss.chunk_tokens)}, carry
        nats_BP, hits_BP = all_token_hits(*arguments, chunk_tokens=loss.chunk_tokens)
        return result | {'nats': nats_BP, 'hits': hits_BP}, carry

    return on_every_device(evaluation_step, model.placement, sums=False)


def counted_targets(counted_BL, example):
    """Of the tokens [B, L+1] that count, those that are targets, in their places."""
    if example.queries is not None:
        return jnp.take_along_axis(counted_BL, example.queries.place, axis=1)
    return counted_BL[:, 1:]
