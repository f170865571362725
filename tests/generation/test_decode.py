"""Cached generation equals reading the whole text anew for every token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config

from gpt2jax.generation.decode import Generator
from gpt2jax.generation.sampling import Sampling
from gpt2jax.models import make_model
from gpt2jax.objectives import Example

PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8]]


@dataclasses.dataclass
class Specials:
    """What the generator asks of a tokenizer."""

    end_of_text: int = 256
    mask: int = 257
    pad: int = 258
    sep: int = 259


@pytest.fixture(name='model', scope='module')
def make_tiny_model():
    config = tiny_config(model__init__std=0.3)  # large weights: every token has an opinion of its own
    model = make_model(config.model)
    return model, model.init(jax.random.key(0))


def generator(model, temperature=1.0, context=16, stop=False, **options):
    return Generator(*model, context, Sampling(temperature, 40, 1.0), Specials(), stop, **options)


def greedy_by_hand(model, prompt, count, context=16):
    """Argmax of the uncached model over the window that `Generator.stream` describes."""
    model, params = model
    window, out = list(prompt[-(context - 1) :]), []
    while len(out) < count:
        if len(window) == context:
            window = window[-(context // 2) :]
        index = jnp.arange(len(window))[None]
        ones = jnp.ones_like(index)
        example = Example(jnp.array([window]), index, ones * 1.0, index, ones, index, jnp.zeros(1, int), 'causal')
        head_params, logits_fn = model.head(params)
        logits_V = logits_fn(head_params, model.apply(params, example)[0][0])[-1]
        out.append(int(jnp.argmax(logits_V[:257])))
        window.append(out[-1])
    return out


@pytest.mark.parametrize('count', [1, 7, 40], ids=['one', 'within the context', 'sliding'])
def test_greedy_text_equals_that_of_the_uncached_model(model, count):
    found = generator(model, temperature=0.0)([PROMPTS[2]], count, seed=0)[0]
    assert found.tolist() == greedy_by_hand(model, PROMPTS[2], count)


def test_prompts_of_different_lengths_share_a_batch(model):
    generate = generator(model)
    together = generate(PROMPTS, 8, seed=3)
    greedy = generator(model, temperature=0.0)
    for prompt, row in zip(PROMPTS, greedy(PROMPTS, 8, seed=0), strict=True):
        assert row.tolist() == greedy([prompt], 8, seed=0)[0].tolist()
    assert together[0].tolist() == generate(PROMPTS[:1], 8, seed=3)[0].tolist()


def test_the_seed_is_the_text_however_it_is_cut(model):
    whole = generator(model, chunk=64)(PROMPTS, 30, seed=1)
    pieces = generator(model, chunk=3)(PROMPTS, 30, seed=1)
    other = generator(model, chunk=64)(PROMPTS, 30, seed=2)
    np.testing.assert_array_equal(whole, pieces)
    assert (whole != other).any()
    assert whole.shape == (3, 30)


def test_rows_with_one_prompt_differ(model):
    rows = generator(model)([PROMPTS[0]] * 4, 12, seed=0)
    assert len({tuple(row) for row in rows.tolist()}) == 4


def test_the_stop_token_ends_a_row_and_the_rest_is_padding(model):
    free = generator(model)(PROMPTS, 14, seed=0)
    specials = Specials(end_of_text=int(free[0, 5]))
    rows = Generator(*model, 16, Sampling(1.0, 40, 1.0), specials, True)(PROMPTS, 14, seed=0)
    for row, whole in zip(rows.tolist(), free.tolist(), strict=True):
        end = whole.index(specials.end_of_text) + 1 if specials.end_of_text in whole else 14
        assert row == whole[:end] + [Specials.pad] * (14 - end)
    assert rows[0, -1] == Specials.pad


def test_special_tokens_are_never_drawn(model):
    rows = generator(model, temperature=100.0)([PROMPTS[0]] * 200, 15, seed=0)
    assert not np.isin(rows, [Specials.mask, Specials.pad, Specials.sep]).any()
    assert rows.max() <= 256


def test_of_a_prompt_beyond_the_context_the_end_is_read(model):
    long = list(range(40))
    greedy = generator(model, temperature=0.0)
    assert greedy([long], 1, seed=0).tolist() == greedy([long[-15:]], 1, seed=0).tolist()
