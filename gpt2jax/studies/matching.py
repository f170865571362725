"""Equal cost: how many steps an arm gets, so that all arms get the same of what is matched.

No measure is the right one. Tokens and predicted tokens compare what is learned from the same text, FLOPs from the same
arithmetic, seconds from the same time on this machine. A study runs one of them, or several, and its report shows all.
"""

import dataclasses

MEASURES = {
    'tokens': 'tokens seen',
    'predicted': 'predicted tokens',
    'flops': 'FLOPs (full attention map)',
    'causal_flops': 'FLOPs (causal half)',
    'seconds': 'seconds of training, as measured',
}
SCALED = ('optimizer.warmup_steps', 'optimizer.decay_steps', 'evaluation.every')


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What one training step of an arm costs, on average over its run.

    Attributes:
      tokens: that are read, padding included.
      predicted: tokens that have a weight in the loss.
      flops, causal_flops: of the matrix products (gpt2jax.models.cost), under its two conventions.
      seconds: as measured on this machine; None: not measured.
    """

    tokens: float
    predicted: float
    flops: float
    causal_flops: float
    seconds: float | None = None

    def of(self, measure: str) -> float | None:
        """One of MEASURES."""
        return getattr(self, measure)


def matched_steps(measure: str, baseline: StepCost, baseline_steps: int, arm: StepCost) -> int:
    """As many steps of `arm` as cost what `baseline_steps` of the baseline cost; at least 1, to the nearest step."""
    return max(1, round(baseline_steps * baseline.of(measure) / arm.of(measure)))


def with_steps(config, steps: int) -> dict:
    """The overlay that gives a config another length, its schedule with it.

    Warmup, decay, the steps between evaluations and those at which the objective switches keep their share of the run.

    Args:
      config: the whole config, resolved or not.
    """
    share = steps / config.training.steps
    changes = {'training.steps': steps}
    for key in SCALED:
        section, leaf = key.split('.')
        if config[section][leaf]:
            changes[key] = max(1, round(config[section][leaf] * share))
    phases = [item.strip().partition('@') for item in config.objective.switch.split(',') if item]
    if phases:
        switch = ','.join(f'{kind}@{max(1, round(int(step) * share))}' for kind, _, step in phases)
        changes['objective.switch'] = switch
    return changes
