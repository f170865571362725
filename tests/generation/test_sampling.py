"""The distribution that tokens are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax.generation.sampling import Sampling, draw

LOGITS_V = jnp.log(jnp.array([0.1, 0.4, 0.02, 0.3, 0.18]))


def frequencies(temperature=1.0, top_k=0, top_p=1.0, draws=20000):
    keys_B = jax.random.split(jax.random.key(0), draws)
    logits_BV = jnp.broadcast_to(LOGITS_V, (draws, 5))
    return np.bincount(draw(logits_BV, keys_B, Sampling(temperature, top_k, top_p)), minlength=5) / draws


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        ({}, [0.1, 0.4, 0.02, 0.3, 0.18]),
        ({'temperature': 0.0}, [0, 1, 0, 0, 0]),
        ({'top_k': 2}, [0, 0.4 / 0.7, 0, 0.3 / 0.7, 0]),
        ({'top_k': 100}, [0.1, 0.4, 0.02, 0.3, 0.18]),
        ({'top_p': 0.65}, [0, 0.4 / 0.7, 0, 0.3 / 0.7, 0]),
        ({'top_p': 0.75}, [0, 0.4 / 0.88, 0, 0.3 / 0.88, 0.18 / 0.88]),
        ({'top_p': 0.01}, [0, 1, 0, 0, 0]),
        ({'top_k': 3, 'top_p': 0.5}, [0, 0.4 / 0.7, 0, 0.3 / 0.7, 0]),
        ({'temperature': 0.5}, np.array([0.1, 0.4, 0.02, 0.3, 0.18]) ** 2 / 0.2928),
    ],
    ids=str,
)
def test_tokens_come_at_the_rates_that_the_settings_ask_for(settings, expected):
    np.testing.assert_allclose(frequencies(**settings), expected, atol=0.015)


def test_a_row_draws_from_its_own_key():
    keys_B, logits_BV = jax.random.split(jax.random.key(1), 6), jnp.broadcast_to(LOGITS_V, (6, 5))
    settings = Sampling(1.0, 0, 1.0)
    together = draw(logits_BV, keys_B, settings)
    alone = [draw(logits_BV[:1], keys_B[b : b + 1], settings)[0] for b in range(6)]
    np.testing.assert_array_equal(together, alone)
