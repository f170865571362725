"""From a resolved config to the parts of a run, before any step is taken."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt2jax.data.rows import batch_shapes
from gpt2jax.evaluation.lengths import evaluated_model
from gpt2jax.evaluation.measures import Measure, make_measures
from gpt2jax.hardware import peak_flops
from gpt2jax.models import make_model
from gpt2jax.models.cost import row_flops
from gpt2jax.objectives import Objective, kind_at, make_objective
from gpt2jax.optimizers import check_groups, make_optimizer, make_schedule
from gpt2jax.sharding import ROWS, make_mesh, make_placement, shard, shardings
from gpt2jax.training.state import State, abstract_state, initial_state, make_init
from gpt2jax.training.step import make_evaluation_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a config names, made; nothing here has touched data, and only `initial_state` allocates."""

    config: object
    mesh: Mesh

    @classmethod
    def from_config(cls, config) -> 'Setup':
        """Raises UserError when the devices cannot take the config's mesh or batch, or a group has no parameter."""
        setup = cls(config, make_mesh(config))
        if config.optimizer.groups:
            check_groups(config.optimizer.groups, setup.abstract.params)
        return setup

    @functools.cached_property
    def model(self):
        """Pure functions: init, gather, apply, head, init_carry."""
        return make_model(self.config.model)

    @functools.cached_property
    def _placed_model(self):
        """The same model, told of the mesh."""
        params = jax.eval_shape(self.model.init, jax.random.key(0))
        return make_model(self.config.model, make_placement(self.mesh, params))

    def objective(self, kind: str | None = None) -> Objective:
        """Rows -> Example; `kind` is another one than the config's, for a run that switches."""
        return make_objective(self.config, kind)

    def kind_at(self, step: int) -> str:
        """The kind of objective that step `step`, from 0, is trained with."""
        return kind_at(self.config, step)

    @functools.cached_property
    def abstract(self) -> State:
        """Shapes, dtypes and shardings of the state."""
        return abstract_state(self._init, self.mesh)

    @functools.cached_property
    def _optimizer(self):
        return make_optimizer(self.config)

    @functools.cached_property
    def _init(self):
        return make_init(self.model, self._optimizer, self.config.seed, self.config.training.batch_size)

    def initial_state(self) -> State:
        """The state of step 0, on its devices."""
        return initial_state(self._init, self.mesh)

    def with_params(self, state: State, params) -> State:
        """A state of step 0 with other parameters than the seed's; averages of them begin there as well."""
        begin = jax.jit(self._optimizer.init, out_shardings=shardings(self.abstract.opt_state))
        return state.replace(params=params, opt_state=begin(params))

    def train_step(self, kind: str | None = None):
        """(state, batch) -> (state, metrics), jitted; the state is donated. `kind` is as in `objective`."""
        config, steps, accumulation = self.config, self.config.training.steps, self.config.training.accumulation
        schedule = make_schedule(config.optimizer, steps)
        step = make_train_step(
            self._placed_model,
            self.objective(kind),
            self._optimizer,
            schedule,
            config.loss,
            steps,
            accumulation,
        )
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings(self.abstract), None))

    def evaluations(self, lossless: bool) -> list[tuple[Measure, Callable]]:
        """What is measured of the run's model, and the jitted step for each; `lossless` is the tokenizer's."""
        whole = NamedSharding(self.mesh, PartitionSpec())  # every process reads all of what it sums
        shardings = whole, NamedSharding(self.mesh, ROWS)
        return [
            (measure, jax.jit(self._evaluation_step(measure), donate_argnums=2, out_shardings=shardings))
            for measure in make_measures(self.config, lossless)
        ]

    def memory(self, measure: Measure):
        """What the first rows of an evaluation remember, which is nothing yet; None where no row ever does."""
        abstract = self.abstract_memory(measure)
        if abstract is None:
            return None
        return jax.jit(self._empty_memory, out_shardings=shardings(abstract))()

    def abstract_memory(self, measure: Measure):
        """Shapes, dtypes and shardings of `memory`."""
        if not measure.lengths.remembers:
            return None
        return shard({'carry': jax.eval_shape(self._empty_memory)}, self.mesh)['carry']

    def _empty_memory(self):
        return make_model(evaluated_model(self.config)).init_memory(self.config.evaluation.batch_size)

    def _evaluation_step(self, measure: Measure):
        """(params, batch, carry) -> (result, carry)."""
        model, lengths = self._placed_model, measure.lengths
        if lengths.remembers:
            model = make_model(evaluated_model(self.config), model.placement)
        most = None if lengths.remembers else lengths.target
        return make_evaluation_step(model, measure.objective, self.config.loss, measure.accuracy, most)

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch as gpt2jax.data.rows makes it and gpt2jax.sharding places it."""
        shapes, sharding = batch_shapes(batch_size, self.config.data.length), NamedSharding(self.mesh, ROWS)
        return {name: jax.ShapeDtypeStruct(*shape, sharding=sharding) for name, shape in shapes.items()}

    def abstract_walk(self, measure: Measure) -> dict[str, jax.ShapeDtypeStruct]:
        """The batches of an evaluation."""
        rows, sharding = self.config.evaluation.batch_size, NamedSharding(self.mesh, ROWS)
        shapes = measure.lengths.batch_shapes(rows)
        return {name: jax.ShapeDtypeStruct(*shape, sharding=sharding) for name, shape in shapes.items()}

    def step_flops(self, convention: str = 'full map', kind: str | None = None) -> float:
        """FLOPs of the matrix products of one training step (gpt2jax.models.cost). `kind` is as in `objective`."""
        length = self.config.data.length
        row = row_flops(self.config.model, length, self.objective(kind).num_predictions(length))
        return self.config.training.batch_size * row.training(convention)

    def peak_flops(self) -> float | None:
        """Peak of all devices together in FLOP/s, None where it is not known."""
        devices = self.mesh.devices.ravel()
        peak = peak_flops(devices[0].device_kind)
        return peak and peak * len(devices)
