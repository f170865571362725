"""The steps that a plan compiles: of training, evaluation and sampling. Runs in the worker."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gpt2jax.errors import UserError
from gpt2jax.models.cost import row_flops
from gpt2jax.training.setup import Setup

MODES = ('train', 'evaluate', 'sample')


@dataclasses.dataclass(frozen=True)
class Step:
    """One program.

    Attributes:
      name: 'train', 'evaluate', 'prompt', 'token'.
      lower: () -> lowered.
      tokens: that one run reads, of all rows.
      flops: of its matrix products over all devices, convention -> FLOPs; {} where they are not counted.
      state: what it holds: name -> tree of ShapeDtypeStructs with shardings.
    """

    name: str
    lower: Callable
    tokens: int
    flops: dict[str, float]
    state: dict[str, object]


def make_steps(setup: Setup, mode: str) -> list[Step]:
    """The programs of a mode.

    Raises:
      UserError: the model does not sample, or an unknown mode.
    """
    if mode == 'train':
        return [_training(setup)]
    if mode == 'evaluate':
        return _evaluations(setup)
    if mode == 'sample':
        return _sampling(setup)
    raise UserError(f'--mode={mode}: expected one of {", ".join(MODES)}')


def _training(setup: Setup) -> Step:
    config = setup.config
    rows, kind = config.training.batch_size, setup.kind_at(0)
    batch = setup.abstract_batch(rows)
    state = {'parameters': setup.abstract.params, 'optimizer': setup.abstract.opt_state, 'batch': batch}
    state |= remembered(setup.abstract.carry)
    flops = {name: setup.step_flops(name, kind) for name in ('full map', 'causal half')}
    return Step(
        'train', lambda: setup.train_step(kind).lower(setup.abstract, batch), rows * config.data.length, flops, state
    )


def _evaluations(setup: Setup) -> list[Step]:
    config, steps = setup.config, []
    rows = config.evaluation.batch_size
    for measure, step in setup.evaluations(True):
        length, target = measure.lengths.context, measure.lengths.target
        batch, memory = setup.abstract_walk(measure), setup.abstract_memory(measure)
        state = {'parameters': setup.abstract.params, 'batch': batch} | remembered(memory)
        row = row_flops(config.model, length, min(target, measure.objective.num_predictions(length)))
        flops = {name: rows * row.forward(name) for name in ('full map', 'causal half')}
        lower = _lowering(step, setup.abstract.params, batch, memory)
        steps.append(Step(f'evaluate {measure.name}', lower, rows * target, flops, state))
    return steps


def remembered(carry) -> dict[str, object]:
    """What a program holds of the rows before; {} where the model has no memory."""
    return {} if carry is None else {'memory': carry}


def _lowering(step, *arguments) -> Callable:
    return lambda: step.lower(*arguments)


def _sampling(setup: Setup) -> list[Step]:
    """Reading the prompts, and drawing one token after them, as gpt2jax.generation.decode does it."""
    from gpt2jax.data import vocabulary_of
    from gpt2jax.generation.decode import Generator
    from gpt2jax.generation.sampling import Sampling

    config = setup.config
    rows, length = config.sampling.num_samples, config.data.length
    drawn = min(config.sampling.max_new_tokens, length // 2)
    sampling = Sampling(config.sampling.temperature, config.sampling.top_k, config.sampling.top_p)
    vocabulary = vocabulary_of(config.data.tokenizer)
    params = setup.abstract.params
    generator = Generator(setup.model, params, length, sampling, vocabulary, config.sampling.stop, chunk=1)
    everywhere = NamedSharding(setup.mesh, PartitionSpec())

    def shape(*sizes, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=everywhere)

    keys = jax.ShapeDtypeStruct((rows,), jax.eval_shape(lambda: jax.random.key(0)).dtype, sharding=everywhere)
    prompt = shape(rows, length - drawn), shape(rows), shape(rows, dtype=jnp.bool), shape()
    reading = (*prompt, keys, params)
    state = jax.eval_shape(lambda *arguments: generator._begin(*arguments, slots=length), *reading)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), state)
    held = {'parameters': params, 'cache': state.carry}
    return [
        Step('prompt', lambda: generator._begin.lower(*reading, slots=length), rows * (length - drawn), {}, held),
        Step('token', lambda: generator._draw.lower(state, keys, params, count=1), rows, {}, held),
    ]
