"""Fine-tuning on labelled texts: one linear head on the final hidden states, all of the model trained, and measured.

Every model gets the same budget: the same steps at each of the same learning rates, the best of which is chosen on the
validation texts, and then several seeds at that rate, whose accuracy on the test texts is told.

Axes: B rows, L length, P labelled parts of a row, D width, C labels.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import FrozenConfigDict

from gpt2jax.batches import place_batch
from gpt2jax.config import overlay
from gpt2jax.data.labelled import Labelled
from gpt2jax.errors import UserError
from gpt2jax.evaluation.labelling import Texts, items_of, load, shared_lines
from gpt2jax.evaluation.parts import example_of, in_order, mean_of_parts, training_batches
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.optimizers import make_optimizer
from gpt2jax.sharding import shard, shardings

HEAD_STD = 0.02  # of the head's initial values
RATES = (1e-4, 3e-4, 1e-3)
SEARCH_SEED = 0  # of the runs that choose a learning rate; those that are told of begin behind it
OPTIMIZER = {
    'optimizer.kind': 'adamw',
    'optimizer.learning_rate': 1.0,  # updates are multiplied by the rate, which is thus no part of the program
    'optimizer.schedule': 'linear',
    'optimizer.final_fraction': 0.0,
    'optimizer.b1': 0.9,
    'optimizer.b2': 0.999,
    'optimizer.epsilon': 1e-8,
    'optimizer.weight_decay': 0.01,
    'optimizer.clip_norm': 1.0,
    'optimizer.groups': '',
    'optimizer.average': 0.0,
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every model is given.

    Attributes:
      steps: of each training.
      batch_size: texts a step.
      seeds: trainings at the chosen learning rate: each with its own head and order of the texts.
      rates: the learning rates that are tried.
    """

    steps: int = 100
    batch_size: int = 32
    seeds: int = 3
    rates: tuple[float, ...] = RATES

    def check(self) -> None:
        """Raises UserError for a budget of nothing."""
        for name in ('steps', 'batch_size', 'seeds'):
            if getattr(self, name) < 1:
                raise UserError(f'{name} = {getattr(self, name)}: must be at least 1')
        if not self.rates or not all(0 < rate < 10 for rate in self.rates):
            raise UserError(f'rates = {self.rates}: learning rates between 0 and 10 are needed')


class Trainer:
    """Trains copies of a model with a new head; one compiled step for all learning rates and seeds."""

    def __init__(self, subject: Subject, texts: Texts, budget: Budget):
        setup = subject.setup
        self._params, self._mesh, self._texts, self._budget = subject.params, setup.mesh, texts, budget
        self._size = -(-budget.batch_size // setup.mesh.size) * setup.mesh.size
        changes = OPTIMIZER | {'optimizer.warmup_steps': budget.steps // 10, 'training.steps': budget.steps}
        optimizer = make_optimizer(FrozenConfigDict(overlay(setup.config, changes)))
        model, visibility, labels = setup.model, texts.visibility, len(texts.labelled.labels)

        def logits(params, batch, key=None):
            hidden_BLD = model.encode(params, example_of(batch, visibility), key)
            parts_BPD = mean_of_parts(hidden_BLD.astype(jnp.float32), batch)
            return parts_BPD @ params['task']['kernel'].T + params['task']['bias']

        def loss(params, batch, key):
            known_BP = batch['label'] >= 0
            labels_BP = jnp.maximum(batch['label'], 0)
            nats_BP = optax.softmax_cross_entropy_with_integer_labels(logits(params, batch, key), labels_BP)
            return jnp.sum(nats_BP * known_BP) / jnp.maximum(jnp.sum(known_BP), 1)

        def step(params, opt_state, batch, key, rate):
            gradients = jax.grad(loss)(params, batch, key)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, jax.tree.map(lambda update: rate * update, updates))
            return params, opt_state

        def begin(params, seed_key):
            draw = jax.random.normal(seed_key, (labels, setup.config.model.width))
            params = jax.tree.map(jnp.copy, params) | {'task': {'kernel': HEAD_STD * draw, 'bias': jnp.zeros(labels)}}
            return params, optimizer.init(params)

        shapes = jax.eval_shape(begin, subject.params, jax.random.key(0))
        places = shardings(shard(shapes, setup.mesh))  # said, so that the first step is compiled as all others are
        self._begin = jax.jit(begin, out_shardings=places)
        self._step = jax.jit(step, donate_argnums=(0, 1), out_shardings=places)
        self._predict = jax.jit(lambda params, batch: jnp.argmax(logits(params, batch), axis=-1))

    def train(self, rate: float, seed: int, track: Callable):
        """Parameters after the budget's steps; those that were given stay as they are.

        Args:
          seed: of the head's initial values, the order of the texts and dropout.
        """
        head_key, dropout_key = jax.random.split(jax.random.key(seed))
        params, opt_state = self._begin(self._params, head_key)
        rows, size, steps = self._texts.rows['train'], self._budget.batch_size, self._budget.steps
        batches = training_batches(rows, size, steps, seed)
        for index, chosen in enumerate(track(batches, f'learning rate {rate:g}, seed {seed}', steps)):
            batch = self._texts.batch([rows[i] for i in chosen], self._size)
            key = jax.random.fold_in(dropout_key, index)
            params, opt_state = self._step(params, opt_state, place_batch(batch, self._mesh), key, rate)
        return params

    def answers(self, params, split: str) -> list[list[str]]:
        """The labels that a trained model gives the parts of each text of a split."""
        rows, numbers = self._texts.rows[split], [None] * len(self._texts.rows[split])
        for chosen in in_order(rows, self._size):
            batch = self._texts.batch([rows[i] for i in chosen], self._size)
            found_BP = np.asarray(self._predict(params, place_batch(batch, self._mesh)))
            for index, row in enumerate(chosen):
                numbers[row] = found_BP[index, : len(rows[row].labels)]
        return self._texts.answers(split, numbers)


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """What came of it.

    Attributes:
      rate: the learning rate that was chosen.
      validation: rate -> accuracy on the validation texts.
      test: accuracy on the test texts, one a seed.
      answers: seed -> the labels of the parts of each test text.
    """

    rate: float
    validation: dict[float, float]
    test: list[float]
    answers: dict[int, list[list[str]]]

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds; None of one."""
        return float(np.std(self.test, ddof=1)) if len(self.test) > 1 else None


def finetune(subject: Subject, texts: Texts, budget: Budget, track: Callable) -> Finetuned:
    """Chooses the learning rate on the validation texts, then trains the seeds and reads the test texts.

    Of rates that are equally good the lowest is taken.
    """
    budget.check()
    trainer = Trainer(subject, texts, budget)
    validation = {}
    for rate in sorted(budget.rates):
        params = trainer.train(rate, SEARCH_SEED, track)
        validation[rate] = texts.accuracy('validation', trainer.answers(params, 'validation'))
    rate = max(validation, key=validation.__getitem__)
    answers = {}
    for seed in range(SEARCH_SEED + 1, SEARCH_SEED + 1 + budget.seeds):
        params = trainer.train(rate, seed, track)
        answers[seed] = trainer.answers(params, 'test')
    return Finetuned(rate, validation, [texts.accuracy('test', found) for found in answers.values()], answers)


def finetune_suite(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """'polarity', or 'my.tsv,steps=300,rates=1e-4+1e-3': the suite of `launch.py evaluate`."""
    data, options = split_argument('finetune', argument, dataclasses.asdict(Budget()))
    return measure_finetuning(subject, load(subject, data, None), Budget(**options), track)


def measure_finetuning(subject: Subject, labelled: Labelled, budget: Budget, track: Callable) -> SuiteResult:
    """Fine-tunes, and tells the figures finetune_NAME_accuracy (the mean over seeds), _sd, _majority, _rate, _cut."""
    texts = Texts(subject, labelled)
    found = finetune(subject, texts, budget, track)
    name = f'finetune_{labelled.name}'
    figures = {
        f'{name}_accuracy': float(np.mean(found.test)),
        **({} if found.sd is None else {f'{name}_sd': found.sd}),
        f'{name}_validation_accuracy': found.validation[found.rate],
        f'{name}_majority': texts.majority(),
        f'{name}_rate': found.rate,
        f'{name}_cut': texts.cut,
    }
    about = {
        'task': labelled.task,
        'labels': len(labelled.labels),
        'texts': {split: len(found) for split, found in labelled.splits.items()},
        'reads': texts.visibility,
        'budget': dataclasses.asdict(budget),
        'validation_accuracy': {f'{rate:g}': accuracy for rate, accuracy in found.validation.items()},
        'test_accuracy': found.test,
    }
    return SuiteResult(figures, items_of(labelled, found.answers), lines_of(texts, found, budget), about)


def lines_of(texts: Texts, found: Finetuned, budget: Budget) -> list[str]:
    """What is printed."""
    labelled, rates = texts.labelled, found.validation
    tried = ', '.join(f'{rate:g} {accuracy:.1%}' for rate, accuracy in rates.items())
    sd = 'one seed alone' if found.sd is None else f'standard deviation {found.sd:.1%} over {len(found.test)} seeds'
    lines = [
        f'{labelled.name}: test accuracy {np.mean(found.test):.1%}, {sd} (always "{labelled.most_frequent}": '
        f'{texts.majority():.1%}; {len(labelled.splits["test"])} texts)',
        f'learning rate {found.rate:g}, the best on validation of: {tried}; {budget.steps} steps of '
        f'{budget.batch_size} texts each',
        *shared_lines(texts),
    ]
    edge = {min(rates): 'lowest', max(rates): 'highest'}.get(found.rate)
    if len(rates) > 1 and edge:
        lines.append(f'the best learning rate is the {edge} that was tried: there may be better ones beyond it')
    return lines
