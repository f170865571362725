"""From a resolved config to the parts of a run, before any step is taken."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from gpt2jax.hardware import peak_flops
from gpt2jax.models import make_model
from gpt2jax.models.cost import row_flops
from gpt2jax.objectives import make_objective
from gpt2jax.optimizers import make_optimizer, make_schedule
from gpt2jax.sharding import ROWS, make_mesh, shardings
from gpt2jax.training.state import State, abstract_state, initial_state, make_init
from gpt2jax.training.step import make_evaluation_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a config names, made; nothing here has touched data, and only `initial_state` allocates."""

    config: object
    mesh: Mesh

    @classmethod
    def from_config(cls, config) -> 'Setup':
        """Raises UserError when the devices cannot take the config's mesh or batch."""
        return cls(config, make_mesh(config))

    @functools.cached_property
    def model(self):
        """Pure functions: init, apply, head, init_carry."""
        return make_model(self.config.model)

    @functools.cached_property
    def objective(self):
        """Rows -> Example."""
        return make_objective(self.config.objective)

    @functools.cached_property
    def abstract(self) -> State:
        """Shapes, dtypes and shardings of the state."""
        return abstract_state(self._init, self.mesh)

    @functools.cached_property
    def _optimizer(self):
        return make_optimizer(self.config.optimizer, self.config.training.steps)

    @functools.cached_property
    def _init(self):
        return make_init(self.model, self._optimizer, self.config.seed)

    def initial_state(self) -> State:
        """The state of step 0, on its devices."""
        return initial_state(self._init, self.mesh)

    def train_step(self):
        """(state, batch) -> (state, metrics), jitted; the state is donated."""
        config = self.config
        schedule = make_schedule(config.optimizer, config.training.steps)
        accumulation = config.training.accumulation
        step = make_train_step(
            self.model, self.objective, self._optimizer, schedule, config.loss, accumulation, self.mesh
        )
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings(self.abstract), None))

    def evaluation_step(self):
        """(params, batch) -> (nats_BL, weights_BL, targets_BL), jitted."""
        return jax.jit(make_evaluation_step(self.model, self.objective, self.config.loss))

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch as gpt2jax.data.rows makes it and gpt2jax.sharding places it."""
        rows, sharding = (batch_size, self.config.data.length + 1), NamedSharding(self.mesh, ROWS)
        shapes = {'tokens': rows, 'segment': rows, 'row': (batch_size,)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding) for name, shape in shapes.items()}

    def step_flops(self, convention: str = 'full map') -> float:
        """FLOPs of the matrix products of one training step (gpt2jax.models.cost)."""
        length = self.config.data.length
        row = row_flops(self.config.model, length, self.objective.num_predictions(length))
        return self.config.training.batch_size * row.training(convention)

    def peak_flops(self) -> float | None:
        """Peak of all devices together in FLOP/s, None where it is not known."""
        devices = self.mesh.devices.ravel()
        peak = peak_flops(devices[0].device_kind)
        return peak and peak * len(devices)
