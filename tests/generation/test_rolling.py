"""Decoding that forgets: keys and values of the newest tokens, however long a text is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import largest_difference
from remembering import continuing, read, xl

from gpt2jax.generation.decode import Generator
from gpt2jax.generation.sampling import Sampling


@dataclasses.dataclass
class Specials:
    """What the generator asks of a tokenizer."""

    end_of_text: int = 256
    mask: int = 257
    pad: int = 258
    sep: int = 259


@pytest.mark.parametrize(('slots', 'kind'), [(5, 'relative'), (16, 'relative'), (5, 'alibi'), (5, 't5')])
def test_decoding_with_a_cache_is_reading_with_a_memory_of_one_token_less(slots, kind):
    """Token by token, also when the slots have been written anew several times; and after a prompt read at once."""
    model, params = xl(model__memory_length=slots - 1, model__position__kind=kind)
    ids = np.random.default_rng(5).integers(0, 256, (2, 24))
    singles = [continuing(ids[:, i : i + 1]) for i in range(24)]
    expected, _ = read(model, params, singles, model.init_memory(2))

    def decode(prompt: int):
        index_BL = jnp.broadcast_to(jnp.arange(24), ids.shape)
        parts = [continuing(ids[:, :prompt]), *singles[prompt:]] if prompt else singles
        starts = np.cumsum([0] + [part.inputs.shape[1] for part in parts])
        parts = [
            part.replace(order=index_BL[:, start : start + part.inputs.shape[1]], visibility='permuted')
            for part, start in zip(parts, starts, strict=False)
        ]
        return jnp.concatenate(read(model, params, parts, model.init_carry(2, slots))[0], axis=1)

    assert largest_difference(decode(0), jnp.concatenate(expected, axis=1)) < 2e-5
    assert largest_difference(decode(4), jnp.concatenate(expected, axis=1)) < 2e-5


def test_a_token_costs_the_same_however_long_the_history_is():
    """One compiled step serves a text for ever, and asks for the products of its slots and no more."""
    model, params = xl()
    carry, example = model.init_carry(1, 8), continuing([[3]])
    step = jax.jit(lambda carry, example: model.apply(params, example, carry))
    for i in range(20):
        _, carry = step(carry, example.replace(order=jnp.full((1, 1), i)))
    assert step._cache_size() == 1
    assert int(carry.filled) == 20
    assert carry.layers[0].key.shape[2] == 8


def test_a_text_goes_on_beyond_the_slots_as_with_a_memory():
    """The generator's greedy text, alone and beside others, against the model read token by token with a memory."""
    model, params = xl(model__memory_length=7)
    prompts, count, generate = (
        [[5, 6, 7], [9]],
        30,
        Generator(model, params, 8, Sampling(0.0, 0, 1.0), Specials(), False),
    )
    texts = generate(prompts, count, seed=0)
    head_params, logits_fn = model.head(params)
    for prompt, text in zip(prompts, texts, strict=True):
        memory, token, expected = model.init_memory(1), None, []
        for index in range(len(prompt) + count - 1):
            token = prompt[index] if index < len(prompt) else expected[-1]
            (hidden_BLD,), memory = read(model, params, [continuing([[token]])], memory)
            if index >= len(prompt) - 1:
                expected.append(int(jnp.argmax(logits_fn(head_params, hidden_BLD[0])[0, :257])))
        assert text.tolist() == expected
        assert generate([prompt], count, seed=0)[0].tolist() == expected
