"""The encoder-decoder: against plain NumPy, and in every way it is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import example_of, largest_difference, random_batch, tiny_config
from numpy_encoder_decoder import hidden_states

from gpt2jax.data import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.evaluation.light_cone import check_light_cone, expected_cone
from gpt2jax.generation.decode import Generator, Reading
from gpt2jax.generation.sampling import Sampling
from gpt2jax.models import make_model
from gpt2jax.models.encoder_decoder import both_sides, compact, spread
from gpt2jax.objectives.texts import text_example

TOKENIZER = make_tokenizer('bytes')

PAPER = {
    'model__norm__placement': 'post',
    'model__position__kind': 'sinusoidal',
    'model__embedding__scale': True,
    'model__feedforward__kind': 'relu',
}
VARIANTS = {
    'plain': {},
    'paper': PAPER,
    'two tables, deep encoder': PAPER | {'model__embedding__shared': False, 'model__encoder_layers': 3},
    'sandwich, rmsnorm, alibi': {
        'model__norm__placement': 'sandwich',
        'model__norm__kind': 'rmsnorm',
        'model__position__kind': 'alibi',
    },
    't5, swiglu': {'model__position__kind': 't5', 'model__feedforward__kind': 'swiglu', 'model__encoder_layers': 1},
    'rotary, grouped': {'model__position__kind': 'rotary', 'model__attention__num_kv_heads': 2},
    'relative': {'model__position__kind': 'relative'},
    'window': {'model__attention__window': 3, 'model__position__kind': 'none'},
}
every_variant = pytest.mark.parametrize('name', VARIANTS)


def small_config(**changes):
    options = {'model__architecture': 'encoder_decoder', 'objective__kind': 'prefix', 'model__num_layers': 2}
    return tiny_config(**(options | changes))


@functools.cache
def variant(name, **more):
    """(config.model, parameters, jitted apply): no parameter at a value, such as 0, that would hide a mistake."""
    config = small_config(**(VARIANTS[name] | more)).model
    model, random = make_model(config), np.random.default_rng(1)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    params = jax.tree.map(lambda a: (a + 0.2 * random.standard_normal(a.shape)).astype(np.float32), params)
    return config, params, jax.jit(model.apply)


@functools.cache
def example(kind='prefix', rows=3):
    """Packed rows, with padding at the end of the last one."""
    options = {'objective__rate': 0.3, 'objective__mean_span': 2.0} if kind == 'span_corruption' else {}
    return jax.device_get(example_of(kind, random_batch(rows, 16), **options))


@every_variant
def test_it_is_what_numpy_says(name):
    config, params, apply = variant(name)
    if config.position.kind == 'relative':
        pytest.skip('its scores are those of Transformer-XL, which is compared with transformers')
    for kind in ('prefix', 'causal', 'span_corruption'):
        batch = example(kind).replace(answers=0)
        expected_BLD = hidden_states(config, params, batch)
        found_BLD = apply(params, batch)[0]
        np.testing.assert_allclose(found_BLD, expected_BLD, atol=2e-5 * np.abs(expected_BLD).max())
        assert (expected_BLD[np.asarray(batch.weights) > 0] != 0).any(-1).all()


@every_variant
def test_with_answers_alone_the_predictions_are_the_same(name):
    _, params, apply = variant(name)
    batch = example('span_corruption')
    assert 0 < batch.answers < 16
    predicted_BL = batch.weights > 0
    all_BLD, answers_BLD = (apply(params, e)[0] for e in (batch.replace(answers=0), batch))
    scale = np.abs(all_BLD).max()
    np.testing.assert_allclose(answers_BLD[predicted_BL], all_BLD[predicted_BL], atol=1e-5 * scale)
    assert not answers_BLD[~predicted_BL].any()


def test_every_decoder_token_has_a_slot_and_comes_back_from_it():
    index_BL = np.tile(np.arange(1, 17, dtype=np.int32), (3, 1))
    _, target = both_sides(example().replace(inputs=index_BL))
    predicted_BL = np.random.default_rng(0).random((3, 16)) < 0.4
    for answers, read_BL in ((0, target.segment > 0), (12, (target.segment > 0) & predicted_BL)):
        taken, slot_BL = compact(target.replace(answers=answers, weights=predicted_BL))
        assert taken.inputs.shape == (3, answers or 16)
        for row in range(3):
            count = int(read_BL[row].sum())
            assert taken.inputs[row, :count].tolist() == index_BL[row, read_BL[row]].tolist()
            assert not taken.segment[row, count:].any()
        np.testing.assert_array_equal(spread(taken.inputs[..., None], slot_BL)[..., 0], index_BL * read_BL)


def test_the_two_sides_meet_at_the_last_token_of_each_prefix():
    batch = example().replace(
        order=np.array([[0, 0, 1, 2, 7, 8, 0, 0, 0, 0, 0, 1]]), segment=np.array([[1, 1, 1, 1, 2, 2, 3, 3, 0, 0, 4, 4]])
    )
    source, target = both_sides(batch)
    np.testing.assert_array_equal(source.segment, [[1, 1, 0, 0, 2, 0, 3, 3, 0, 0, 4, 0]])
    np.testing.assert_array_equal(target.segment, [[0, 1, 1, 1, 2, 2, 0, 3, 0, 0, 4, 4]])
    np.testing.assert_array_equal(target.position * (target.segment > 0), [[0, 0, 1, 2, 0, 1, 0, 0, 0, 0, 0, 1]])


PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8]]


def by_hand(name, prompt, count, prefix):
    """The likeliest continuation, of the whole text read anew for every token."""
    config, params, apply = variant(name, model__position__max_length=24)
    model, text = make_model(config), list(prompt)
    head_params, logits_fn = model.head(params)
    while len(text) < len(prompt) + count:
        tokens_1L = np.pad(np.array([text], np.int32), ((0, 0), (0, 24 - len(text))))
        given = text_example(tokens_1L, np.array([len(text)]), 'prefix', np.array([prefix or len(prompt)]))
        logits_V = logits_fn(head_params, apply(params, given)[0][0, len(text) - 1 : len(text)])[0]
        text.append(int(jnp.argmax(logits_V[:257])))
    return text[len(prompt) :]


@every_variant
def test_cached_decoding_is_that_of_the_whole_text_read_anew(name):
    config, params, _ = variant(name, model__position__max_length=24)
    for reading, prefix in (('prefix', 0), ('causal', 1)):
        greedy = Generator(make_model(config), params, 24, Sampling(0.0, 0, 1.0), TOKENIZER, False, 4, reading)
        together = greedy(PROMPTS, 9, seed=0).tolist()
        for prompt, row in zip(PROMPTS, together, strict=True):
            assert row == by_hand(name, prompt, 9, prefix), reading


def test_the_encoder_reads_a_prompt_once():
    """What later tokens cost does not grow with the encoder: its keys and values are in the carry."""
    config, params, _ = variant('paper')
    model = make_model(config)
    reading = Reading(model, TOKENIZER, 'prefix')
    tokens_BP, length_B = reading.pad_left(PROMPTS)
    _, carry, prefix_B = reading.begin(params, tokens_BP, length_B, 16)
    assert [layer.cross.key.shape for layer in carry.cache.layers] == [(3, 4, 8, 8)] * 2
    without = params | {'encoder': None}
    token_B1 = np.ones((3, 1), np.int32)
    logits_BV, _ = reading.read(without, token_B1, length_B[:, None], prefix_B, carry)
    assert np.isfinite(logits_BV[:, :256]).all()


@pytest.mark.parametrize('name', ['paper', 'two tables, deep encoder', 'window'])
@pytest.mark.parametrize('kind', ['prefix', 'causal', 'span_corruption'])
def test_an_output_depends_on_all_that_is_visible_and_nothing_else(kind, name):
    model, batch = make_model(small_config(**VARIANTS[name]).model), example(kind)
    assert check_light_cone(model, batch).agrees
    cone_BLL = expected_cone(model.config, batch)
    assert cone_BLL.any(-1)[batch.weights > 0].all()
    assert not cone_BLL[batch.segment == 0].any()


@pytest.mark.parametrize('kind', ['causal', 'masked', 'hybrid', 'permutation'])
def test_objectives_without_a_prefix_are_refused(kind):
    with pytest.raises(UserError, match=rf"objective.kind = '{kind}'.*encoder_decoder.*prefix"):
        small_config(objective__kind=kind)
    with pytest.raises(UserError, match=r'objective.switch.*encoder_decoder'):
        small_config(objective__switch=f'{kind}@5')


@pytest.mark.parametrize('name', ['paper', 'sandwich, rmsnorm, alibi'])
def test_scanned_and_rematerialised_it_has_the_same_gradients_and_uses_every_parameter(name):
    batch = example('span_corruption')

    def gradient_of(**changes):
        dropout = {'model__dropout': 0.1, 'model__attention__dropout': 0.1}
        model = make_model(small_config(**VARIANTS[name] | dropout | changes).model)
        _, params, _ = variant(name)

        def loss(params):
            hidden_BLD, _ = model.apply(params, batch, dropout_key=jax.random.key(1))
            head_params, logits_fn = model.head(params)
            logits_ND = logits_fn(head_params, hidden_BLD[batch.weights > 0])
            return jnp.mean(jnp.sin(logits_ND))

        return jax.jit(jax.grad(loss))(params)

    expected, found = gradient_of(), gradient_of(model__scan_layers=True, model__remat='full')
    assert largest_difference(expected, found) < 2e-5 * max(
        float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)
    )
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected))


def test_dropout_of_a_row_does_not_depend_on_the_rows_beside_it():
    model = make_model(small_config(model__dropout=0.5, model__attention__dropout=0.5).model)
    _, params, _ = variant('plain')
    key, batch = jax.random.key(3), example('span_corruption')
    whole_BLD, _ = model.apply(params, batch, dropout_key=key)
    last = jax.tree.map(lambda a: a[1:], batch)
    np.testing.assert_allclose(model.apply(params, last, dropout_key=key)[0], whole_BLD[1:], atol=1e-5)
    assert np.abs(np.asarray(model.apply(params, batch)[0]) - whole_BLD).max() > 0.1


def test_in_bfloat16_it_stays_near_float32():
    _, params, apply = variant('paper')
    half = make_model(small_config(**PAPER, model__dtype='bfloat16').model)
    batch = example('span_corruption')
    expected_BLD, found_BLD = apply(params, batch)[0], jax.jit(half.apply)(params, batch)[0]
    assert found_BLD.dtype == jnp.bfloat16
    difference = np.abs(np.asarray(found_BLD, np.float32) - expected_BLD)
    assert 0 < difference.mean() < 0.03 * float(jnp.abs(expected_BLD).mean())


def test_what_a_text_embeds_is_its_encoders():
    config, params, _ = variant('plain')
    text = text_example(np.array([[5, 6, 7, 8]]), np.array([3]), 'full')
    model = make_model(config)
    encoder = {'embedding': params['embedding'], 'blocks': params['encoder'], 'norm_final': params['norm_encoder']}
    expected_BLD, _ = make_model(tiny_config(model__num_layers=2).model).apply(encoder, text)
    np.testing.assert_allclose(model.encode(params, text), expected_BLD, atol=1e-5)
    assert [map_BHLM.shape for map_BHLM in model.attention_maps(params, text)] == [(1, 4, 4, 4)] * 2
