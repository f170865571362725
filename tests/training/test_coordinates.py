"""The coordinate check: what it measures, and that it tells muP from what is not."""

import json
import random

import jax
import numpy as np
import pytest
from helpers import causal_example, one_device_setup, random_batch, tiny_config

from gpt2jax.commands import coordinate_check
from gpt2jax.commands.checking import parse_widths
from gpt2jax.config import default_config, overlay
from gpt2jax.errors import UserError
from gpt2jax.training.coordinates import activations, config_at, exponents, faults

UNRESOLVED = {
    'data.tokenizer': 'bytes',
    'data.length': 16,
    'model.num_layers': 1,
    'model.width': 32,
    'model.vocab_multiple': 1,
    'model.attention.num_heads': 2,
    'model.parametrization.base_width': 32,
    'model.parametrization.base_head_width': 16,
    'training.batch_size': 8,
    'optimizer.learning_rate': 3e-3,
}


def recipe(**changes):
    return overlay(default_config(), UNRESOLVED | {name.replace('__', '.'): value for name, value in changes.items()})


@pytest.fixture(name='checked', scope='module')
def check_once(tmp_path_factory):
    """The result of a small check, and its folder."""
    folder, draw = tmp_path_factory.mktemp('check'), random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'and', 'the', 'of', 'a']
    (folder / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(60)))
    cache = {'runtime.compilation_cache': jax.config.jax_compilation_cache_dir or ''}
    data = {'data.corpus': 'text', 'data.path': str(folder / 'plays.txt'), 'data.directory': str(folder / 'cache')}
    return coordinate_check(overlay(recipe(), data | cache), '32,128', 2, str(folder / 'out')), folder / 'out'


def test_mup_keeps_what_a_step_changes_and_the_standard_does_not(checked):
    result, _ = checked
    for name in ('block 1', 'hidden'):
        assert abs(result['exponents']['mup']['change'][name]) < 0.2, name
    assert result['exponents']['standard']['change']['block 1'] > 0.8
    assert result['faults']['mup'] == {}
    assert {'block 1', 'scores 1', 'logits'} <= result['faults']['standard'].keys()


def test_at_the_base_width_both_parametrizations_are_one(checked):
    result, _ = checked
    standard, mup = (result['measured'][kind][0] for kind in ('standard', 'mup'))
    assert standard == mup


def test_a_check_leaves_its_figures_and_a_picture(checked):
    result, folder = checked
    saved = json.loads((folder / 'coordinate_check.json').read_text())
    assert saved['widths'] == [32, 128]
    assert [len(run) for run in saved['measured']['mup']] == [3, 3]
    assert saved['measured']['mup'][1][2]['change']['block 1'] == result['measured']['mup'][1][2]['change']['block 1']
    assert (folder / 'coordinate_check.png').read_bytes()[:4] == b'\x89PNG'


def test_the_watched_activations_are_those_of_the_model():
    """Scores and blocks against the attention maps and the stack cut short."""
    config = tiny_config(model__attention__num_kv_heads=2)
    setup = one_device_setup(config)
    params, example = setup.initial_state().params, causal_example(8, 16)
    found = activations(setup, params, random_batch(8, 16))
    assert set(found) == {f'{name} {i}' for name in ('block', 'scores') for i in (1, 2, 3)} | {'hidden', 'logits'}

    x_BLD = found['block 3']
    centred = x_BLD - np.mean(x_BLD, -1, keepdims=True)
    normed = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + config.model.norm.epsilon)
    np.testing.assert_allclose(found['hidden'], normed, atol=1e-5)
    np.testing.assert_allclose(found['hidden'], setup.model.apply(params, example)[0], atol=1e-6)

    order_BL, segment_BL = np.asarray(example.order), np.asarray(example.segment)
    sees = (order_BL[:, None] <= order_BL[:, :, None]) & (segment_BL[:, None] == segment_BL[:, :, None])
    scores = np.reshape(found['scores 2'], (8, 4, 16, 16))
    expected = jax.nn.softmax(np.where(sees[:, None], scores, -1e30), axis=-1)
    np.testing.assert_allclose(setup.model.attention_maps(params, example)[1], expected, atol=1e-6)


def test_an_exponent_is_the_power_of_the_width():
    widths = [64, 128, 256]
    runs = [[{}, {'size': {'a': 3 * w**0.5, 'b': 2.0}, 'change': {'a': 0.0, 'b': w**-1.0}}] for w in widths]
    found = exponents(widths, runs)
    assert found['size'] == pytest.approx({'a': 0.5, 'b': 0.0})
    assert found['change']['b'] == pytest.approx(-1)
    assert np.isnan(found['change']['a'])


def test_scores_and_logits_may_fade_but_nothing_may_grow():
    changes = {'block 1': 0.1, 'block 2': -0.4, 'hidden': 0.3, 'scores 1': -0.5, 'scores 2': 0.5, 'logits': -0.5}
    assert list(faults(changes)) == ['block 2', 'hidden', 'scores 2']
    assert list(faults({'block 1': float('nan'), 'logits': float('inf')})) == ['block 1', 'logits']


def test_heads_stay_as_many_or_else_as_wide():
    config = recipe(model__feedforward__width=96)
    wide = config_at(config, 64, 'mup', [32, 64], 2)
    assert (wide.model.attention.num_heads, wide.model.feedforward.width) == (2, 192)
    config = recipe(model__width=48, model__attention__num_heads=3)
    wide = config_at(config, 64, 'mup', [32, 64], 2)
    assert wide.model.attention.num_heads == 4
    assert wide.optimizer.warmup_steps == 0
    with pytest.raises(UserError, match=r'--widths=40,64: neither all multiples .*= 3 nor all of .* 16'):
        config_at(config, 64, 'mup', [40, 64], 2)


@pytest.mark.parametrize('text', ['', '64', '64,64', '64,wide', '0,64', '-64,64'])
def test_widths_that_cannot_be_compared_are_refused(text):
    with pytest.raises(UserError, match='--widths='):
        parse_widths(text)


def test_a_check_without_steps_is_refused():
    with pytest.raises(UserError, match='--steps=0'):
        coordinate_check(recipe(), '32,64', 0, 'nowhere')


def test_mup_and_a_factorised_embedding_are_refused():
    with pytest.raises(UserError, match=r'config.model.embedding.width = 16: .*mup'):
        tiny_config(model__parametrization__kind='mup', model__embedding__width=16)
