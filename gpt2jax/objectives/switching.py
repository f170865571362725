"""Runs whose objective changes on the way: 'masked@1000,causal@2000' behind `config.objective.kind`."""

from gpt2jax.errors import UserError


def phases(config) -> list[tuple[int, str]]:
    """[(first step, kind of objective), ...] of a run, the first one from step 0.

    Args:
      config: the whole config; `objective.kind` and `objective.switch` are read.

    Raises:
      UserError: `switch` is not a list of KIND@STEP with steps that grow and lie inside the run.
    """
    found = [(0, config.objective.kind)]
    for item in filter(None, config.objective.switch.split(',')):
        kind, _, step = item.strip().partition('@')
        if not step.isdigit():
            raise _wrong(config, f"{item.strip()!r} is not KIND@STEP, as in 'masked@1000'")
        if int(step) <= found[-1][0]:
            raise _wrong(config, f'{item.strip()!r} does not come after step {found[-1][0]}')
        if int(step) >= config.training.steps:
            raise _wrong(config, f'{item.strip()!r} is beyond config.training.steps = {config.training.steps}')
        found.append((int(step), kind))
    return found


def kind_at(config, step: int) -> str:
    """The kind of objective that step `step`, from 0, is trained with; also for steps after the last."""
    return [kind for first, kind in phases(config) if first <= step][-1]


def _wrong(config, problem: str) -> UserError:
    return UserError(f'config.objective.switch = {config.objective.switch!r}: {problem}')
