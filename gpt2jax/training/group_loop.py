"""The training loop of a group: one program steps all its runs, and each keeps its own folder as if it were alone."""

import dataclasses
import json
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gpt2jax.config import to_dict
from gpt2jax.data.rows import Rows, train_batch
from gpt2jax.errors import UserError
from gpt2jax.evaluation.likelihood import add
from gpt2jax.evaluation.measures import Sums
from gpt2jax.optimizers import evaluation_params
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.group import GroupSetup
from gpt2jax.training.loop import Loop, check_same_text, is_finite, not_finite, shown
from gpt2jax.training.metrics import MetricWriter, SilentWriter
from gpt2jax.training.nonfinite import NAME, read_failure
from gpt2jax.training.setup import Setup
from gpt2jax.training.state import State, rest_of, state_from

LEAST_KEPT = 2  # checkpoints of each run: while one is being written, all must still have the one before


@dataclasses.dataclass
class Member:
    """One run of a group.

    Attributes:
      setup: of the run alone.
      checkpoints: its own; they keep at least LEAST_KEPT.
      metadata: JSON that each of them carries.
      on_failure: called with the error when the loss of this run is no longer a number.
      writer: of its metrics, once it trains.
      predicted, best: as of a Loop.
      error: why it ended before its last step; '' where it did not.
    """

    setup: Setup
    checkpoints: Checkpoints
    metadata: dict
    on_failure: Callable[[str], None] = lambda error: None
    writer: MetricWriter | SilentWriter = dataclasses.field(default_factory=SilentWriter)
    predicted: int = 0
    best: float | None = None
    error: str = ''

    def failed_before(self) -> str:
        """What an earlier start of this very config failed with; '' where none did."""
        folder = self.checkpoints.directory.parent
        if not (folder / NAME).exists():
            return ''
        record = read_failure(folder)
        if record['config'] != json.loads(json.dumps(to_dict(self.setup.config))):
            return ''
        return f'step {record["step"]}: the loss was no number in an earlier start ({folder / NAME})'


class GroupLoop(Loop):
    """Several runs from their states to their last step.

    A run whose loss is no number ends; it stays in the program, where its numbers touch no other's, so that the others
    come out the same, bit for bit. `seconds` of a run are its share: those of the group divided by its runs. Its tokens
    a second are so those of the whole group.

    Attributes:
      members: the runs, in the order of `setup.runs`.
    """

    def __init__(
        self, setup: GroupSetup, rows: dict[str, Rows], tokenizer, members: list[Member], before_save: Callable
    ):
        super().__init__(setup, rows, tokenizer, _All(members), {}, before_save=before_save)
        self.members = members
        self._own_tokens = self._tokens_per_step
        self._tokens_per_step *= len(members)

    @property
    def alive(self) -> dict[int, Member]:
        """The runs that have not failed, by their place in the group."""
        return {place: member for place, member in enumerate(self.members) if not member.error}

    def restore(self) -> int:
        """Takes the states from the newest checkpoints that all runs have, good ones; returns their step.

        Raises:
          UserError: all runs have failed before; checkpoints are of another model or another text.
        """
        for member in self.members:
            member.error = member.failed_before()
        self._check_any_alive()
        common = set.intersection(*(set(member.checkpoints.steps()) for member in self.alive.values()))
        found = self._restore_among(common)
        while found and len({step for step, *_ in found.values()}) > 1:  # one of them is damaged
            oldest = min(step for step, *_ in found.values())
            found = self._restore_among({step for step in common if step <= oldest})
        if not found:
            self.state = self.setup.initial_state()
            return 0
        states, step = {}, next(iter(found.values()))[0]
        for place, (_, params, rest, metadata) in found.items():
            member = self.members[place]
            check_same_text(metadata, member.metadata)
            member.predicted, member.best = metadata['predicted'], metadata['best']
            self.seconds = metadata['seconds'] * len(self.members)
            states[place] = state_from(params, rest)
        stand_in = next(iter(states.values()))  # of runs that have failed: any numbers will do
        self.state = self.setup.stack([states.get(place, stand_in) for place in range(len(self.members))])
        self._set_objective(self.setup.kind_at(step - 1))
        return step

    def evaluate(self, track) -> list[dict[str, float]]:
        """What is measured of the validation rows that the config names, of each run; {} of one that has failed."""
        config, params = self.config.evaluation, self.evaluation_params()
        rows, whole = self.rows['validation'], NamedSharding(self.setup.mesh, PartitionSpec())
        figures = [{} for _ in self.members]
        for measure, step in self._evaluations:
            walk = measure.lengths.batches(rows, config.batch_size, slice(None), config.num_rows)
            totals, carry = [Sums() for _ in self.members], self.setup.memory(measure)
            for batch in track(walk, 'evaluating', len(walk)):
                result, carry = step(params, jax.device_put(batch, whole), carry)
                result = jax.device_get(result)
                for place, total in enumerate(totals):
                    add(total, {name: array_SBP[place] for name, array_SBP in result.items()}, self._byte_lengths)
            for place in self.alive:
                figures[place] |= measure.figures(totals[place])
        return figures

    def evaluation_params(self):
        """The stacked parameters to evaluate, sample and save by."""
        return jax.vmap(evaluation_params)(self.state.opt_state, self.state.params)

    def states(self) -> list[State]:
        """The states of all runs, in order, in the memory of this process."""
        whole = jax.device_get(self.state)
        return [own_part(whole, place) for place in range(len(self.members))]

    def _restore_among(self, steps: set[int]) -> dict:
        """Place -> what `Checkpoints.restore` returns of each run that is alive; {} where there is nothing."""
        found = {}
        for place, member in self.alive.items():
            abstract = member.setup.abstract
            found[place] = member.checkpoints.restore(abstract.params, rest_of(abstract), steps)
        return {} if None in found.values() else found

    def _batch(self, step: int) -> dict[str, jax.Array]:
        batch_size, sharding = self.config.training.batch_size, self.setup.sharding
        rows = self.rows['train']
        batches = [train_batch(rows, run.config.seed, step, batch_size) for run in self.setup.runs]
        return {name: jax.device_put(np.stack([b[name] for b in batches]), sharding) for name in batches[0]}

    def _take(self, step: int, metrics: dict) -> None:
        alive = {}
        for place, member in self.alive.items():
            own = {name: float(value_S[place]) for name, value_S in metrics.items()}
            if is_finite(own):
                member.predicted += round(own['predicted'])
                alive[place] = own
            else:
                self._failed(place, step, own)
        self._check_any_alive()
        self._progress.update(step, loss=float(np.mean([own['loss'] for own in alive.values()])))
        if self._log_due(step):
            pace = self._pace(step) | self._share(step)
            for place, own in alive.items():
                member = self.members[place]
                member.writer.write('train', step, **pace, predicted=member.predicted, **shown(own))

    def _share(self, step: int) -> dict:
        """What a run has read, and its part of the seconds."""
        return {'tokens': step * self._own_tokens, 'seconds': self.seconds / len(self.members)}

    def _failed(self, place: int, step: int, metrics: dict[str, float]) -> None:
        member = self.members[place]
        data = member.metadata['data']
        member.error = str(not_finite(member.checkpoints, member.setup, self.rows['train'], step, metrics, data))
        member.on_failure(member.error)
        self._progress.message(f'{member.checkpoints.directory.parent}: {member.error}')

    def _check_any_alive(self) -> None:
        if not self.alive:
            raise UserError(f'all runs of the group have failed; the first one: {self.members[0].error}')

    def _evaluate(self, step: int, save_due: bool) -> None:
        """Evaluates all runs, and saves all of them where any is at its best, or a save is due."""
        results = self._measured(step)
        scores, best = {}, False
        for place, member in self.alive.items():
            score = results[place][self._score]
            about = {'objective': self._kind, 'split': 'validation', **self._share(step)}
            member.writer.write('evaluation', step, score=self._score, **about, **results[place])
            if not math.isfinite(score):
                continue  # its last update broke it, as the next loss will say; its checkpoint of before is a good one
            scores[place] = score
            if member.best is None or score < member.best:
                member.best, best = score, True
        if scores:
            self._progress.evaluated(**{self._score: float(np.mean(list(scores.values())))})
        if best or step == self.config.training.steps or save_due:
            self._save(step, scores)

    def _save(self, step: int, scores: dict[int, float] | None = None) -> None:
        """Saves all runs, or those that have a score."""
        self._pause()
        self._before_save()
        self._checkpoints.wait()  # all have the one before, before any drops what is older
        params, states = jax.device_get(self.evaluation_params()), self.states()
        for place, member in self.alive.items():
            if scores is not None and place not in scores:
                continue
            so_far = {'seconds': self.seconds / len(self.members), 'predicted': member.predicted, 'best': member.best}
            score = scores and scores[place]
            own = own_part(params, place)
            member.checkpoints.save(step, own, rest_of(states[place]), member.metadata | so_far, score)
        self._saved()


def own_part(stacked, place: int):
    """What belongs to one run, of a tree that is in the memory of this process."""
    return jax.tree.map(lambda leaf: leaf[place, ...], stacked)  # an array, where [place] alone may be a number


@dataclasses.dataclass(frozen=True)
class _All:
    """The checkpoints of all runs, for what a loop does with them at its end."""

    members: list[Member]

    def wait(self) -> None:
        for member in self.members:
            member.checkpoints.wait()
