"""Learning-rate schedules by name. A new one is one function and its name in SCHEDULES."""

import jax.numpy as jnp
import optax


def constant(optimizer, steps: int) -> optax.Schedule:
    """The peak, after the warmup."""
    return optax.constant_schedule(optimizer.learning_rate)


def cosine(optimizer, steps: int) -> optax.Schedule:
    """Half a cosine from the peak to its final fraction (Loshchilov & Hutter 2017)."""
    decay = max(1, steps - optimizer.warmup_steps)
    return optax.cosine_decay_schedule(optimizer.learning_rate, decay, optimizer.final_fraction)


def linear(optimizer, steps: int) -> optax.Schedule:
    """A line from the peak to its final fraction."""
    final = optimizer.learning_rate * optimizer.final_fraction
    return optax.linear_schedule(optimizer.learning_rate, final, max(1, steps - optimizer.warmup_steps))


def warmup_stable_decay(optimizer, steps: int) -> optax.Schedule:
    """The peak, then a line over the last `decay_steps` (Hu et al. 2024, section 4)."""
    final = optimizer.learning_rate * optimizer.final_fraction
    stable = max(0, steps - optimizer.warmup_steps - optimizer.decay_steps)
    return optax.linear_schedule(optimizer.learning_rate, final, optimizer.decay_steps, stable)


def inverse_sqrt(optimizer, steps: int) -> optax.Schedule:
    """Falls with the root of the step's number, whatever the length of the run (Vaswani et al. 2017, section 5.3).

    There the peak is (width * warmup_steps)^-0.5; here it is `learning_rate`, and `final_fraction` is not used.
    """

    def falling(step):
        return optimizer.learning_rate * jnp.sqrt(optimizer.warmup_steps / (optimizer.warmup_steps + step + 1))

    return falling


SCHEDULES = {
    'constant': constant,
    'cosine': cosine,
    'linear': linear,
    'inverse_sqrt': inverse_sqrt,
    'wsd': warmup_stable_decay,
}


def make_schedule(optimizer, steps: int) -> optax.Schedule:
    """Step -> learning rate: linear warmup from lr / warmup_steps, then the schedule that the config names.

    Args:
      optimizer: `config.optimizer`.
      steps: of the whole run.
    """
    after = SCHEDULES[optimizer.schedule](optimizer, steps)
    if not optimizer.warmup_steps:
        return after
    peak, warmup = optimizer.learning_rate, optimizer.warmup_steps
    rise = optax.linear_schedule(peak / warmup, peak, warmup - 1) if warmup > 1 else optax.constant_schedule(peak)
    return optax.join_schedules([rise, after], [warmup])
