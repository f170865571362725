"""Beam search finds what an exhaustive search finds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config
from ml_collections import ConfigDict, FrozenConfigDict
from test_decode import Specials

from gpt2jax.generation.beam import BeamSearch
from gpt2jax.generation.decode import Generator
from gpt2jax.generation.sampling import Sampling
from gpt2jax.models import make_model
from gpt2jax.objectives.texts import text_example

SPECIALS = Specials(end_of_text=3, mask=4, pad=5, sep=6)  # three other tokens
PROMPTS = [[0, 1, 2, 1], [2], [1, 1, 0]]
READINGS = {'causal': 1, 'prefix': 0}
MODELS = [('transformer', 'causal'), ('transformer', 'prefix'), ('encoder_decoder', 'prefix')]


def tiny_model(architecture, seed=0):
    """A model of seven tokens with opinions of its own."""
    options = {'model__architecture': architecture, 'objective__kind': 'prefix', 'model__init__std': 0.5}
    config = ConfigDict(tiny_config(**options, model__num_layers=1, model__width=16).model)
    config.vocab_size = 7
    model = make_model(FrozenConfigDict(config))
    return model, jax.jit(model.init)(jax.random.key(seed))


def search(model, reading, beams, penalty=0.6, prompts=PROMPTS, count=4):
    return BeamSearch(*model, 16, beams, penalty, SPECIALS, reading)(prompts, count)


def all_texts(count):
    """Every text of the three tokens that ends within so many tokens, or is cut off there."""
    for length in range(count):
        yield from ((*text, 3) for text in itertools.product(range(3), repeat=length))
    yield from itertools.product(range(3), repeat=count)


def scores_of(model, reading, prompt, texts, penalty):
    """By the uncached model, one score a text."""
    model, params = model
    longest = max(map(len, texts))
    tokens_BL = np.array([[*prompt, *text, *[0] * (longest - len(text))] for text in texts], np.int32)
    prefix_B = np.full(len(texts), READINGS[reading] or len(prompt))
    given = text_example(tokens_BL, np.full(len(texts), tokens_BL.shape[1]), 'prefix', prefix_B)
    head_params, logits_fn = model.head(params)
    hidden_BLD = jax.jit(model.apply)(params, given)[0]
    logits_BLV = logits_fn(head_params, hidden_BLD.reshape(-1, 16)).reshape(*tokens_BL.shape, 7)
    log_BLV = np.asarray(jax.nn.log_softmax(logits_BLV.at[..., jnp.array([4, 5, 6])].set(-jnp.inf)))
    return [
        sum(log_BLV[row, len(prompt) - 1 + i, token] for i, token in enumerate(text)) / ((5 + len(text)) / 6) ** penalty
        for row, text in enumerate(texts)
    ]


@pytest.mark.parametrize(('architecture', 'reading'), MODELS)
@pytest.mark.parametrize('penalty', [0.0, 0.6, 3.0])
def test_with_beams_enough_it_finds_the_best_of_all_texts(architecture, reading, penalty):
    model, texts = tiny_model(architecture), list(all_texts(4))
    found_BN, score_B = search(model, reading, 128, penalty)
    for prompt, row, score in zip(PROMPTS, found_BN.tolist(), score_B, strict=True):
        scores = scores_of(model, reading, prompt, texts, penalty)
        best = texts[int(np.argmax(scores))]
        assert row == [*best, *[SPECIALS.pad] * (4 - len(best))]
        assert score == pytest.approx(max(scores), abs=1e-5)


@pytest.mark.parametrize(('architecture', 'reading'), MODELS)
def test_one_beam_is_the_greedy_text_and_more_find_likelier_ones(architecture, reading):
    found = {1: [], 2: [], 5: []}
    for seed in range(2):
        model = tiny_model(architecture, seed)
        greedy = Generator(*model, 16, Sampling(0.0, 0, 1.0), SPECIALS, True, reading=reading)(PROMPTS, 8, seed=0)
        assert search(model, reading, 1, 0.6, count=8)[0].tolist() == greedy.tolist()
        for beams, scores in found.items():
            texts_BN, score_B = search(model, reading, beams, 0.0, count=8)
            scores += score_B.tolist()
            for prompt, row, score in zip(PROMPTS, texts_BN.tolist(), score_B, strict=True):
                text = tuple(token for token in row if token != SPECIALS.pad)
                assert scores_of(model, reading, prompt, [text], 0.0) == pytest.approx([score], abs=1e-5)
    assert sum(found[1]) < sum(found[2]) <= sum(found[5]) + 1e-5


def test_a_prompt_does_not_change_with_those_beside_it():
    model = tiny_model('encoder_decoder')
    together = search(model, 'prefix', 3)
    for index, prompt in enumerate(PROMPTS):
        alone = search(model, 'prefix', 3, prompts=[prompt])
        assert alone[0][0].tolist() == together[0][index].tolist()
        assert alone[1][0] == pytest.approx(together[1][index], abs=1e-5)


def test_a_larger_penalty_finds_longer_texts():
    model = tiny_model('transformer')
    short, long = (np.sum(search(model, 'causal', 20, penalty, count=8)[0] != SPECIALS.pad) for penalty in (0.0, 4.0))
    assert short < long


def test_no_text_outgrows_the_context():
    texts_BN, _ = search(tiny_model('transformer'), 'causal', 2, 9.0, prompts=[list(range(3)) * 8], count=12)
    assert texts_BN.shape == (1, 12)
    assert (texts_BN[0, 8:] == SPECIALS.pad).all()
