"""Everything that a training step changes."""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gpt2jax.sharding import shard, shardings


@struct.dataclass
class State:
    """Attributes:
    step: int32, steps done.
    params: float32 parameters.
    opt_state: the optimizer's.
    carry: what a recurrent model hands to its next batch; None otherwise.
    key: uint32 key data, the root of the randomness of all steps.
    """

    step: Array
    params: dict
    opt_state: object
    carry: object
    key: Array


def make_init(model, optimizer, seed: int):
    """() -> State, a pure function of the seed."""

    def init() -> State:
        params_key, step_key = jax.random.split(jax.random.key(seed))
        params = model.init(params_key)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            carry=None,
            key=jax.random.key_data(step_key),
        )

    return init


def abstract_state(init, mesh) -> State:
    """Shapes, dtypes and shardings of the state, without allocating it."""
    return shard(jax.eval_shape(init), mesh)


def initial_state(init, mesh) -> State:
    """The state, made in place on the devices that hold it."""
    return jax.jit(init, out_shardings=shardings(abstract_state(init, mesh)))()
