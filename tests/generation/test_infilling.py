"""Texts by iterated infilling, and that every objective draws in the way it has learnt."""

import io

import jax
import numpy as np
import pytest
from helpers import model_for, tiny_config
from rich.console import Console

from gpt2jax.data import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.generation.decode import Generator
from gpt2jax.generation.infilling import Infiller
from gpt2jax.generation.sampling import Sampling
from gpt2jax.generation.text import METHODS, choose_method, sample_texts
from gpt2jax.models import make_model
from gpt2jax.objectives import OBJECTIVES
from gpt2jax.objectives.texts import text_example

TOKENIZER = make_tokenizer('bytes')
CONTEXT = 16


@pytest.fixture(name='model', scope='module')
def make_tiny_model():
    model = make_model(tiny_config(model__init__std=0.3).model)
    return model, model.init(jax.random.key(0))


def infill(model, prompts, count, seed=0, temperature=1.0, offset=0):
    infiller = Infiller(*model, CONTEXT, Sampling(temperature, 0, 1.0), TOKENIZER, offset)
    pieces = list(infiller.stream(prompts, count, seed))
    return np.concatenate(pieces, axis=1), len(pieces)


def test_a_text_depends_on_its_seed_and_its_row_alone(model):
    prompts = [[97, 98], [99, 100, 101], [256]]
    together, _ = infill(model, prompts, 6)
    again, _ = infill(model, prompts, 6)
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(together[0], infill(model, prompts[:1], 6)[0][0])
    assert (together != infill(model, prompts, 6, seed=1)[0]).any()
    assert (infill(model, [[97], [97]], 6)[0][0] != infill(model, [[97], [97]], 6)[0][1]).any()


@pytest.mark.parametrize('offset', [0, 1])
def test_the_last_round_draws_one_token_from_all_the_others(model, offset):
    """At temperature 0 the text is a fixed point for the tokens drawn last: at least one of them fits its context."""
    [new], _ = infill(model, [[97, 98, 99]], 8, temperature=0.0, offset=offset)
    tokens = [256, 97, 98, 99, *new.tolist()]
    head_params, logits_fn = model[0].head(model[1])
    fits = []
    for place in range(4, 12):
        hidden = [*tokens[:place], TOKENIZER.mask, *tokens[place + 1 :]]
        example = text_example(np.array([hidden]), np.array([12]), 'full')
        logits_V = logits_fn(head_params, model[0].apply(model[1], example)[0][0])[place - offset]
        fits.append(int(np.argmax(logits_V[:256])) == tokens[place])
    assert any(fits)


def test_only_text_is_drawn_and_all_of_it(model):
    new_BN, windows = infill(model, [[256]] * 4, 40, temperature=5.0)
    assert new_BN.shape == (4, 40)
    assert windows > 2  # beyond the context of 16: the newest half is read again
    assert new_BN.max() < 256


@pytest.mark.parametrize(
    ('kind', 'method', 'others'),
    [
        ('causal', 'causal', []),
        ('masked', 'infilling', []),
        ('prefix', 'prefix', ['causal']),
        ('hybrid', 'causal', ['infilling']),
        ('span_corruption', 'answer', []),
        ('permutation', 'causal', ['infilling']),
    ],
)
def test_texts_are_drawn_in_the_way_that_was_learnt(kind, method, others):
    config = tiny_config(objective__kind=kind, **model_for(kind))
    assert choose_method(config, 'auto') == method
    for other in METHODS:
        if other in (method, *others):
            assert choose_method(config, other) == other
        else:
            with pytest.raises(UserError, match=method):
                choose_method(config, other)


def test_a_run_that_switches_draws_as_its_last_objective():
    assert choose_method(tiny_config(objective__switch='masked@5'), 'auto') == 'infilling'


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_every_objective_has_samples_that_say_what_they_are(kind):
    settings = {'sampling__max_new_tokens': 6, 'sampling__num_samples': 2}
    config = tiny_config(objective__kind=kind, **settings, **model_for(kind))
    model, out = make_model(config.model), io.StringIO()
    params = model.init(jax.random.key(0))
    samples = sample_texts(model, params, TOKENIZER, config, 'to', 0, Console(file=out, width=200))
    assert [set(entry) for entry in samples] == [{'prompt', 'text', 'method'}] * 2
    label = METHODS[samples[0]['method']]
    assert label in out.getvalue()
    assert ('not samples of a likelihood' in out.getvalue()) == (kind == 'masked')


@pytest.mark.parametrize('reading', ['causal', 'prefix', 'answer', 'target'])
def test_what_is_drawn_sees_the_prompt_as_its_objective_does(model, reading):
    """Cached, with prompts of two lengths, against reading the whole text anew."""
    model, params = model
    generator = Generator(model, params, CONTEXT, Sampling(0.0, 0, 1.0), TOKENIZER, False, reading=reading)
    prompts = [[97, 98, 99, 100, 101], [102, 103]]
    found = generator(prompts, 6, 0)
    head_params, logits_fn = model.head(params)
    opening = [TOKENIZER.end_of_text] if reading == 'target' else []
    question = {'answer': [TOKENIZER.mask, TOKENIZER.sep], 'target': [TOKENIZER.sep]}.get(reading, [])
    never = [TOKENIZER.mask, TOKENIZER.pad, TOKENIZER.end_of_text if reading == 'answer' else TOKENIZER.sep]
    for prompt, new in zip(prompts, found.tolist(), strict=True):
        text = opening + prompt + question
        prefix = np.array([1 if reading == 'causal' else len(text)])
        for token in new:
            example = text_example(np.array([text]), np.array([len(text)]), 'prefix', prefix)
            logits_V = np.array(logits_fn(head_params, model.apply(params, example)[0][0])[-1])
            logits_V[never] = -np.inf
            if token == TOKENIZER.pad:
                assert text[-1] == TOKENIZER.sep  # an answer ends with it
                break
            assert int(np.argmax(logits_V)) == token
            text.append(token)
