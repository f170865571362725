"""Schedules against their formulas in plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config
from optimizing import STEPS, formula

from gpt2jax.errors import UserError
from gpt2jax.optimizers import SCHEDULES, make_schedule


def settings(**changes):
    return tiny_config(training__steps=STEPS, **{f'optimizer__{name}': v for name, v in changes.items()}).optimizer


@pytest.mark.parametrize('warmup', [0, 1, 2, 7, STEPS - 1])
@pytest.mark.parametrize('kind', sorted(SCHEDULES))
def test_a_schedule_is_its_formula(kind, warmup):
    if kind == 'inverse_sqrt' and not warmup:
        pytest.skip('it falls from the end of its warmup')
    optimizer = settings(schedule=kind, learning_rate=3e-3, final_fraction=0.2, warmup_steps=warmup)
    assert optimizer.decay_steps == min(STEPS // 5, STEPS - warmup)
    schedule = jax.jit(jax.vmap(make_schedule(optimizer, STEPS)))
    expected = functools.partial(
        formula, kind, peak=3e-3, warmup=warmup, steps=STEPS, decay=optimizer.decay_steps, final=0.2
    )
    rates = [expected(step) for step in range(STEPS + 5)]
    np.testing.assert_allclose(schedule(jnp.arange(STEPS + 5)), rates, rtol=1e-5)


@pytest.mark.parametrize('kind', sorted(SCHEDULES))
def test_warmup_reaches_the_peak_in_its_last_step_and_not_before(kind):
    schedule = make_schedule(settings(schedule=kind, learning_rate=1.0, warmup_steps=5), STEPS)
    np.testing.assert_allclose([schedule(step) for step in range(5)], [0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6)
    assert 0.9 < schedule(5) <= 1


@pytest.mark.parametrize('kind', ['cosine', 'linear', 'wsd'])
@pytest.mark.parametrize('final', [0.0, 0.1, 1.0])
def test_a_schedule_ends_at_its_final_fraction(kind, final):
    schedule = make_schedule(settings(schedule=kind, learning_rate=2.0, warmup_steps=5, final_fraction=final), STEPS)
    assert float(schedule(STEPS)) == pytest.approx(2 * final, abs=1e-6)
    assert float(schedule(STEPS + 10)) == pytest.approx(2 * final, abs=1e-6)


def test_wsd_stays_at_the_peak_until_its_decay():
    schedule = make_schedule(settings(schedule='wsd', learning_rate=1.0, warmup_steps=5, decay_steps=10), STEPS)
    np.testing.assert_allclose([schedule(step) for step in range(4, STEPS - 9)], 1, rtol=1e-6)
    assert schedule(STEPS - 9) < 1


def test_inverse_sqrt_is_that_of_the_2017_transformer():
    """Vaswani et al. 2017, equation 3, with width 512 and 4,000 steps of warmup; it ignores the length of the run."""
    peak = (512 * 4000) ** -0.5
    optimizer = tiny_config(
        training__steps=100_000,
        optimizer__schedule='inverse_sqrt',
        optimizer__warmup_steps=4000,
        optimizer__learning_rate=peak,
    ).optimizer
    schedule = make_schedule(optimizer, 100_000)
    for number in (1, 2, 1000, 3999, 4000, 4001, 50_000):
        expected = 512**-0.5 * min(number**-0.5, number * 4000**-1.5)
        assert float(schedule(number - 1)) == pytest.approx(expected, rel=1e-3)


def test_inverse_sqrt_needs_a_warmup():
    with pytest.raises(UserError, match=r'warmup_steps = 0.*inverse_sqrt'):
        settings(schedule='inverse_sqrt', warmup_steps=0)
