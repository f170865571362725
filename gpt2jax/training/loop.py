"""The training loop: dispatch a step, read the metrics of the one before, now and then evaluate and save."""

import functools
import math
import time
from collections.abc import Callable

import jax

from gpt2jax.batches import local_rows, place_batch
from gpt2jax.data.prefetch import prefetch
from gpt2jax.data.rows import Rows, train_batch
from gpt2jax.errors import Stopped, UserError
from gpt2jax.evaluation.likelihood import evaluate
from gpt2jax.optimizers import evaluation_params
from gpt2jax.processes import ALONE, Peers
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.metrics import MetricWriter
from gpt2jax.training.nonfinite import keep_failure
from gpt2jax.training.progress import Progress
from gpt2jax.training.setup import Setup
from gpt2jax.training.signals import stop_on_signals
from gpt2jax.training.state import rest_of, state_from
from gpt2jax.training.votes import Votes


class Loop:
    """One run from its state to its last step.

    Attributes:
      state: of the newest step that was dispatched.
      seconds: spent in training steps, over all restarts; evaluation, compiling and saving do not count.
    """

    def __init__(
        self,
        setup: Setup,
        rows: dict[str, Rows],
        tokenizer,
        checkpoints: Checkpoints,
        metadata: dict,
        peers: Peers = ALONE,
        before_save: Callable[[], None] = lambda: None,
    ):
        """
        Args:
          rows: 'train' and 'validation'.
          metadata: JSON that every checkpoint carries.
          peers: the processes that train together.
          before_save: called before each save, to bring the rest of the run where the checkpoint goes.
        """
        self._peers, self._before_save = peers, before_save
        self.setup, self.config, self.rows = setup, setup.config, rows
        self._byte_lengths, self._checkpoints, self._metadata = tokenizer.byte_lengths, checkpoints, metadata
        self._tokens_per_step = self.config.training.batch_size * self.config.data.length
        self._peak = setup.peak_flops()
        self._evaluations = setup.evaluations(tokenizer.lossless)
        self._score = self._evaluations[0][0].score  # the figure that decides which checkpoint is the best
        self._set_objective(setup.kind_at(0))
        self._waiting: tuple[int, dict] | None = None  # metrics of the newest step, still on the device
        self._best: float | None = None  # lowest score of an evaluation so far
        self.seconds, self.predicted, self.compile_seconds = 0.0, 0, 0.0

    def restore(self) -> int:
        """Takes the state from the newest good checkpoint, or from the seed; returns its step.

        Raises:
          UserError: the checkpoints are damaged, or of another model or another text.
        """
        abstract = self.setup.abstract
        restored = self._checkpoints.restore(abstract.params, rest_of(abstract))
        if restored is None:
            self.state = self.setup.initial_state()
            return 0
        step, params, rest, metadata = restored
        check_same_text(metadata, self._metadata)
        self.state = state_from(params, rest)
        self.seconds, self.predicted = metadata['seconds'], metadata['predicted']
        self._best = metadata['best']
        self._set_objective(self.setup.kind_at(step - 1))
        return step

    def run(self, start: int, writer: MetricWriter) -> dict[str, float]:
        """Trains from step `start` to the last; returns the evaluation after it.

        Raises:
          Stopped: SIGINT or SIGTERM came; the state is saved.
          UserError: the loss is no longer a number, or a checkpoint could not be written.
        """
        total = self.config.training.steps
        self._writer, self._logged = writer, (start, self.seconds)
        self._since_save = time.monotonic()
        votes = Votes(self.setup.mesh)
        bar = Progress(total, start, self._tokens_per_step, self._flops, self._peak)
        with bar as progress, stop_on_signals() as stop:
            self._progress = progress
            self._show_last_evaluation()
            self._peers.at(f'making the batch of step {start + 1}')
            for step, batch in prefetch(self._batch, start, total, self.config.data.prefetch):
                if step == start or self.setup.kind_at(step) != self._kind:
                    step_function = self._begin_phase(step)
                self.state, metrics = step_function(self.state, batch)
                self._peers.at(f'step {step + 1}')
                self._read()
                self._waiting = step + 1, metrics
                wishes = votes.cast(stop=bool(stop), save=self._save_late())
                self._after_step(step + 1, wishes['save'])
                self._peers.at(f'making the batch of step {step + 2}')
                if wishes['stop'] and step + 1 < total:
                    self._save(step + 1)
                    self._checkpoints.wait()
                    asked = stop.name or 'another process was asked to stop'
                    raise Stopped(f'{asked}: saved step {step + 1} of {total}; the same command continues')
            self._peers.at('writing the last checkpoint', unhurried=True)
            with progress.stage('writing the last checkpoint'):
                self._checkpoints.wait()
        return self._evaluation

    def evaluate(self, track) -> dict[str, float]:
        """What is measured of the validation rows that the config names; `track` draws a bar."""
        rows, num_rows = self.rows['validation'], self.config.evaluation.num_rows
        params, byte_lengths = self.evaluation_params(), self._byte_lengths
        return evaluate_rows(self.setup, self._evaluations, params, rows, byte_lengths, num_rows, track)

    def evaluation_params(self):
        """The parameters to evaluate, sample and save by: those that are trained, or their average."""
        return evaluation_params(self.state.opt_state, self.state.params)

    def _batch(self, step: int) -> dict[str, jax.Array]:
        batch_size = self.config.training.batch_size
        rows = train_batch(
            self.rows['train'], self.config.seed, step, batch_size, local_rows(batch_size, self.setup.mesh)
        )
        return place_batch(rows, self.setup.mesh)

    def _set_objective(self, kind: str) -> None:
        self._kind, self._flops = kind, self.setup.step_flops(kind=kind)

    def _begin_phase(self, step: int):
        """The compiled training step of the objective that step `step` is trained with."""
        self._read()
        self._set_objective(self.setup.kind_at(step))
        self._progress.set_flops(self._flops, self._peak)
        began = time.monotonic()
        self._peers.at(f'compiling the training step ({self._kind})', unhurried=True)
        with self._progress.stage(f'compiling the training step ({self._kind})'):
            abstract_batch = self.setup.abstract_batch(self.config.training.batch_size)
            compiled = self.setup.train_step(self._kind).lower(self.setup.abstract, abstract_batch).compile()
        self._clock = time.monotonic()
        self.compile_seconds += self._clock - began
        self._logged = step, self.seconds
        return compiled

    def _after_step(self, step: int, late: bool) -> None:
        every, save_every = self.config.evaluation.every, self.config.checkpoint.every_steps
        save_due = late or bool(save_every and step % save_every == 0)
        if step == self.config.training.steps or (every and step % every == 0):
            self._evaluate(step, save_due)
        elif save_due:
            self._save(step)

    def _save_late(self) -> bool:
        """Whether the last save is too long ago, by the clock of this process."""
        minutes = self.config.checkpoint.every_minutes
        return bool(minutes) and time.monotonic() - self._since_save >= 60 * minutes

    def _evaluate(self, step: int, save_due: bool) -> None:
        """Evaluates, and saves when this is the best so far, the last step, or a save is due anyway.

        The score is one of the objective that the run ends with, from the beginning on, so that scores compare.
        """
        result = self._measured(step)
        tokens, score = step * self._tokens_per_step, result[self._score]
        about = {'objective': self._kind, 'split': 'validation', 'tokens': tokens, 'seconds': self.seconds}
        self._writer.write('evaluation', step, score=self._score, **about, **result)
        self._progress.evaluated(**{self._score: score})
        best = self._best is None or score < self._best
        self._best = score if best else self._best
        if best or step == self.config.training.steps or save_due:
            self._save(step, score)

    def _measured(self, step: int):
        self._pause()
        self._peers.at(f'evaluating after step {step}', unhurried=True)
        self._evaluation = self.evaluate(self._progress.track)
        self._clock = time.monotonic()
        return self._evaluation

    def _save(self, step: int, score: float | None = None) -> None:
        self._pause()
        self._peers.at(f'saving step {step}', unhurried=True)
        self._before_save()
        metadata = self._metadata | {'seconds': self.seconds, 'predicted': self.predicted, 'best': self._best}
        self._checkpoints.save(step, self.evaluation_params(), rest_of(self.state), metadata, score)
        self._saved()

    def _saved(self) -> None:
        self._since_save = self._clock = time.monotonic()

    def _pause(self) -> None:
        """Reads the newest metrics, which waits for the device, and stops the clock of training."""
        self._read()
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def _read(self) -> None:
        """Reports the step whose metrics are waiting."""
        if self._waiting is None:
            return
        (step, metrics), self._waiting = self._waiting, None
        metrics = jax.device_get(metrics)
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        self._take(step, metrics)

    def _take(self, step: int, metrics: dict) -> None:
        metrics = {name: float(value) for name, value in metrics.items()}
        self.predicted += round(metrics['predicted'])
        if not is_finite(metrics):
            data = self._metadata['data']
            raise not_finite(self._checkpoints, self.setup, self.rows['train'], step, metrics, data)
        self._progress.update(step, loss=metrics['loss'])
        if self._log_due(step):
            self._writer.write('train', step, **self._pace(step), predicted=self.predicted, **shown(metrics))

    def _log_due(self, step: int) -> bool:
        return step % self.config.training.log_every == 0 or step == self.config.training.steps

    def _pace(self, step: int) -> dict:
        """Where a line of training stands, and how fast the steps since the last one were."""
        (last_step, last_seconds), self._logged = self._logged, (step, self.seconds)
        steps_per_second = (step - last_step) / max(self.seconds - last_seconds, 1e-9)
        return {
            'objective': self._kind,
            'tokens': step * self._tokens_per_step,
            'seconds': self.seconds,
            'tokens_per_second': steps_per_second * self._tokens_per_step,
            'mfu': steps_per_second * self._flops / self._peak if self._peak else None,
        }

    def _show_last_evaluation(self) -> None:
        last = self._writer.history.last_evaluation
        if last is not None and self._score in last:
            self._progress.evaluated(**{self._score: last[self._score]})


def is_finite(metrics: dict[str, float]) -> bool:
    """Whether a step went well."""
    return math.isfinite(metrics['loss']) and math.isfinite(metrics['gradient_norm'])


def shown(metrics: dict[str, float]) -> dict[str, float]:
    """What a line of training says of a step."""
    return {name: metrics[name] for name in ('loss', 'learning_rate', 'gradient_norm')}


def not_finite(
    checkpoints: Checkpoints, setup: Setup, rows: Rows, step: int, metrics: dict[str, float], data: str
) -> UserError:
    """Keeps what a replay of the step needs, and says what happened; takes what `keep_failure` takes."""
    checkpoints.wait()
    steps = checkpoints.steps()
    good = f'the last good checkpoint is step {steps[-1]}' if steps else 'there is no checkpoint yet'
    return UserError(
        f'step {step}: the loss is {metrics["loss"]} and the gradient norm {metrics["gradient_norm"]}; training '
        f'stopped, nothing was overwritten, and {good} in {checkpoints.directory}. Try a lower '
        'config.optimizer.learning_rate, a longer warmup_steps, clip_norm = 1.0, or float32. '
        + keep_failure(checkpoints, setup, rows, step, metrics, data)
    )


def check_same_text(saved: dict, present: dict) -> None:
    """Refuses a checkpoint of a corpus or tokenizer whose contents have changed since; imported ones have none."""
    if saved['data'] is not None and saved['data'] != present['data']:
        raise UserError(
            'the checkpoint was trained on other text or with another tokenizer than what is prepared now '
            f'(fingerprint {saved["data"]}, now {present["data"]}); restore the source, or use a new --workdir'
        )


def evaluate_rows(setup, evaluations, params, rows: Rows, byte_lengths, num_rows: int, track) -> dict[str, float]:
    """What `Setup.evaluations` measures of `rows`, or of `num_rows` evenly spaced ones.

    Args:
      track: draws a bar around the batches.
    """
    batch_size, figures = setup.config.evaluation.batch_size, {}
    part, place = local_rows(batch_size, setup.mesh), functools.partial(place_batch, mesh=setup.mesh)
    for measure, step in evaluations:
        walk = measure.lengths.batches(rows, batch_size, part, num_rows)
        batches = track(walk, 'evaluating', len(walk))
        total = evaluate(step, params, setup.memory(measure), batches, place, byte_lengths)
        figures |= measure.figures(total)
    return figures
