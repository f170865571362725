"""What a step, a run and a checkpoint of a config cost, before any of them is made.

FLOPs are those of gpt2jax.models.cost, the one analytic count of this program, averaged over the objectives of a run.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gpt2jax.batches import rows_of
from gpt2jax.data import Prepared
from gpt2jax.data.rows import train_batch
from gpt2jax.describe import tree_bytes
from gpt2jax.models import make_model
from gpt2jax.models.cost import parameters_by_module
from gpt2jax.objectives import make_objective, phases
from gpt2jax.optimizers import make_optimizer
from gpt2jax.studies.matching import StepCost
from gpt2jax.training.setup import Setup

CONVENTIONS = {'flops': 'full map', 'causal_flops': 'causal half'}
# Paths of such parameters, or their beginnings.
EMBEDDINGS = ('embedding/token', 'embedding/tail', 'embedding/position', 'head/kernel', 'head/tail')
COUNTED_BATCHES = 8  # in which predicted tokens are counted, of each objective of a run


def phase_lengths(config, steps: int | None = None) -> list[tuple[str, int]]:
    """[(kind of objective, how many of the first `steps` steps it trains), ...]; `steps` None: of all."""
    found = phases(config)
    last = config.training.steps if steps is None else steps
    ends = [first for first, _ in found[1:]] + [config.training.steps]
    return [(kind, max(0, min(end, last) - first)) for (first, kind), end in zip(found, ends, strict=True)]


def flops_until(config, steps: int, measure: str) -> float:
    """FLOPs of the first `steps` steps of a resolved config; `measure` is 'flops' or 'causal_flops'."""
    setup = Setup(config, None)  # a count needs no devices
    convention = CONVENTIONS[measure]
    return sum(count * setup.step_flops(convention, kind) for kind, count in phase_lengths(config, steps) if count)


def count_predicted(config, prepared: Prepared) -> float:
    """Predicted tokens of a step, on average: counted in batches of the real text, evenly over the run.

    Args:
      config: resolved.
      prepared: of its corpus and tokenizer.
    """
    rows = rows_of(config, prepared.splits['train'], prepared.tokenizer)
    total, steps = 0.0, config.training.steps
    first = 0
    for kind, count in phase_lengths(config):
        objective = make_objective(config, kind)
        weigh = jax.jit(lambda batch, key, progress, make=objective: jnp.sum(make(batch, key, progress).weights))
        chosen = first + np.unique(np.arange(COUNTED_BATCHES) * count // COUNTED_BATCHES)
        counts = []
        for step in chosen.tolist():
            batch = train_batch(rows, 0, step, config.training.batch_size)
            counts.append(float(weigh(batch, jax.random.fold_in(jax.random.key(0), step), (step + 0.5) / steps)))
        total += count * float(np.mean(counts))
        first += count
    return total / steps


def step_cost(config, prepared: Prepared, seconds: float | None = None) -> StepCost:
    """What a step of a resolved config costs; `seconds` is what was measured of it."""
    steps = config.training.steps
    return StepCost(
        tokens=config.training.batch_size * config.data.length,
        predicted=count_predicted(config, prepared),
        flops=flops_until(config, steps, 'flops') / steps,
        causal_flops=flops_until(config, steps, 'causal_flops') / steps,
        seconds=seconds,
    )


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """Parameters of a model.

    Attributes:
      parameters: without those below, as Kaplan et al. 2020 count: what a law of scaling takes.
      embeddings: of tokens and positions, and an untied output matrix. Hoffmann et al. 2022 count them in.
    """

    parameters: int
    embeddings: int

    @property
    def total(self) -> int:
        return self.parameters + self.embeddings


def model_size(config) -> ModelSize:
    """Of the model of a resolved config."""
    rows = parameters_by_module(jax.eval_shape(make_model(config.model).init, jax.random.key(0)))
    embeddings = sum(count for name, _, count in rows if name.startswith(EMBEDDINGS))
    return ModelSize(sum(count for _, _, count in rows) - embeddings, embeddings)


def run_bytes(config) -> int:
    """What the checkpoints of a run take on disk at most: those that are kept, the best, and one being written."""
    params = jax.eval_shape(make_model(config.model).init, jax.random.key(0))
    state = jax.eval_shape(make_optimizer(config).init, params)
    return (config.checkpoint.keep + 2) * tree_bytes((params, state))
