"""Everything that a training step changes."""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.optimizers import averaging_state
from gpt2jax.sharding import shard, shardings


@struct.dataclass
class State:
    """Attributes:
    step: int32, steps done.
    params: float32 parameters, those that are trained (gpt2jax.optimizers.evaluation_params are read).
    opt_state: the optimizer's.
    carry: the model's memory of the rows before (init_memory): arrays [B, ...], a row for each of the next batch; None
      where it has none.
    key: uint32 key data, the root of the randomness of all steps.
    """

    step: Array
    params: dict
    opt_state: object
    carry: object
    key: Array


def make_init(model, optimizer, seed: int, batch_size: int):
    """() -> State, a pure function of the seed; `batch_size` is the rows of a step."""

    def init() -> State:
        params_key, step_key = jax.random.split(jax.random.key(seed))
        params = model.init(params_key)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            carry=model.init_memory(batch_size),
            key=jax.random.key_data(step_key),
        )

    return init


def abstract_state(init, mesh) -> State:
    """Shapes, dtypes and shardings of the state, without allocating it."""
    return shard(jax.eval_shape(init), mesh)


def initial_state(init, mesh) -> State:
    """The state, made in place on the devices that hold it."""
    return jax.jit(init, out_shardings=shardings(abstract_state(init, mesh)))()


def rest_of(state: State) -> dict:
    """Everything of a state that a checkpoint keeps beside the parameters to evaluate and sample by.

    Where these are an average, the parameters that are trained belong to it; where the model has a memory, its carry.
    """
    rest = {'step': state.step, 'opt_state': state.opt_state, 'key': state.key}
    carry = {} if state.carry is None else {'carry': state.carry}
    trained = {} if averaging_state(state.opt_state) is None else {'trained': state.params}
    return rest | carry | trained


def state_from(params, rest: dict) -> State:
    """The state of a checkpoint's two trees."""
    trained = rest.get('trained', params)
    carry = rest.get('carry')
    return State(step=rest['step'], params=trained, opt_state=rest['opt_state'], carry=carry, key=rest['key'])
