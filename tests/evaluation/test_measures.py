"""What is measured of a run, and at which rate tokens are hidden for it."""

import jax
import jax.numpy as jnp
import pytest
from helpers import random_batch, tiny_config

from gpt2jax.evaluation.measures import make_measures


def hidden(config):
    """How many tokens the masked measure of a config hides in one batch."""
    batch = jax.tree.map(jnp.asarray, random_batch(8, 64))
    (measure,) = make_measures(config, lossless=True)
    return float(measure.objective(batch, jax.random.key(0), 1.0).weights.sum())


@pytest.mark.parametrize(
    'objective', [{'objective__rate': 0.5}, {'objective__rate': 0.5, 'objective__start_rate': 0.3}]
)
def test_runs_with_other_rates_can_be_measured_at_one(objective):
    masked = {'objective__kind': 'masked', 'data__length': 64}
    standard = hidden(tiny_config(**masked))
    assert hidden(tiny_config(**masked, **objective, evaluation__rate=0.15)) == standard
    assert hidden(tiny_config(**masked, **objective)) > 2 * standard
