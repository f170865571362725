"""The LSTM: its equations, its state from row to row, and what its dropout draws.

Axes: B batch, L length, D width, H hidden width, G = 4 H the gates.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, largest_difference, tiny_config

from gpt2jax.errors import UserError
from gpt2jax.evaluation.light_cone import check_light_cone, light_cone
from gpt2jax.generation.decode import Generator
from gpt2jax.generation.sampling import Sampling
from gpt2jax.models import lstm as lstm_file
from gpt2jax.models import make_model

DROPS = {
    'model__dropout': 0.3,
    'model__recurrent__weight_drop': 0.5,
    'model__recurrent__input_drop': 0.3,
    'model__recurrent__hidden_drop': 0.3,
    'model__recurrent__word_drop': 0.2,
}


def lstm_config(**changes):
    """Layers of unequal widths, so that none is mistaken for another."""
    sizes = {'model__num_layers': 2, 'model__width': 24, 'model__recurrent__width': 40, 'model__embedding__width': 20}
    return tiny_config(model__architecture='lstm', **(sizes | changes))


def lstm(**changes):
    model = make_model(lstm_config(**changes).model)
    return model, model.init(jax.random.key(0))


def part(example, start, stop):
    """Some of the places of every row."""
    return jax.tree.map(lambda a: a[:, start:stop] if a.ndim == 2 else a, example)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(params, inputs_L, segment_L):
    """One row, number by number, from the equations of Merity et al. 2018, section 2."""
    x_LI = np.asarray(params['embedding']['token'], np.float64)[inputs_L]
    for layer in params['blocks']:
        W, b, U = (
            np.asarray(layer[side][name], np.float64)
            for side, name in (('input', 'kernel'), ('input', 'bias'), ('recurrent', 'kernel'))
        )
        h, c, out, document = np.zeros(U.shape[1]), np.zeros(U.shape[1]), [], 0
        for x, segment in zip(x_LI, segment_L, strict=True):
            if segment not in (0, document):
                h, c, document = np.zeros_like(h), np.zeros_like(c), segment
            if segment:
                i, f, u, o = np.split(W @ x + U @ h + b, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
                h = sigmoid(o) * np.tanh(c)
            out.append(h if segment else np.zeros_like(h))
        x_LI = np.stack(out)
    return x_LI


def test_it_computes_the_published_equations():
    """Documents begin from nothing, and padding on either side leaves the state as it was."""
    model, params = lstm()
    example = causal_example(3, 12)
    example = example.replace(segment=example.segment.at[0, :4].set(0))
    found_BLD, _ = jax.jit(model.apply)(params, example)
    for row in range(3):
        expected = numpy_lstm(params, np.asarray(example.inputs[row]), np.asarray(example.segment[row]))
        np.testing.assert_allclose(found_BLD[row], expected, atol=1e-5)


def test_it_equals_torch_over_two_segments_with_the_state_between():
    """Outputs, states and gradients of torch.nn.LSTM, whose two biases are added up (goldens/make_lstm.py)."""
    golden = np.load(Path(__file__).parents[1] / 'goldens' / 'lstm.npz')
    sizes = {'model__width': 16, 'model__recurrent__width': 20, 'model__embedding__width': 12}
    model = make_model(lstm_config(**sizes, model__dropout=0.0).model)

    def tree(kind, add):
        """Of values or of gradients: one of the two biases, or their sum."""

        def layer(index):
            get = {
                name: golden[f'{kind}/{index}/{name}_l0'] for name in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')
            }
            into = {'kernel': get['weight_ih'], 'bias': get['bias_ih'] + add * get['bias_hh']}
            return {'input': into, 'recurrent': {'kernel': get['weight_hh']}}

        return {'embedding': {'token': golden[f'{kind}/embedding']}, 'blocks': (layer(0), layer(1))}

    def read(params):
        """The two segments' outputs and states."""
        memory, found = model.init_memory(3), []
        for ids in golden['ids']:
            example = causal_example(3, 9, documents=1).replace(inputs=ids, segment=jnp.ones_like(ids))
            hidden_BLD, memory = model.apply(params, example.replace(continues=jnp.ones(3, bool)), memory)
            found.append((hidden_BLD, memory.layers))
        return found

    def summed(params):
        return sum(jnp.sum(jnp.sin(hidden_BLD)) for hidden_BLD, _ in read(params))

    params = jax.tree.map(jnp.asarray, tree('value', 1))
    expected = [
        (golden[f'output/{s}'], tuple(tuple(golden[f'{name}/{s}/{index}'] for name in 'hc') for index in range(2)))
        for s in range(2)
    ]
    assert largest_difference(jax.jit(read)(params), expected) < 1e-6
    assert largest_difference(jax.jit(jax.grad(summed))(params), tree('gradient', 0)) < 1e-5


def plain_recurrence(x_LBG, kernel_GH, state, fresh_LB, real_LB):
    """The recurrence as JAX would differentiate it by itself."""

    def step(state, now):
        x_BG, fresh_B, real_B = now
        h_BH, c_BH = (jnp.where(fresh_B[:, None], 0, value) for value in state)
        new = lstm_file.cell(x_BG + h_BH @ kernel_GH.T, c_BH)
        state = tuple(jnp.where(real_B[:, None], *pair) for pair in zip(new, state, strict=True))
        return state, state[0]

    state, out_LBH = jax.lax.scan(step, state, (x_LBG, fresh_LB, real_LB))
    return out_LBH, state


def test_its_own_gradient_is_that_of_the_plain_recurrence():
    keys = jax.random.split(jax.random.key(0), 4)
    example = causal_example(3, 12)
    fresh_LB = lstm_file.beginnings(example.segment, jnp.array([True, False, True])).T
    values = (
        jax.random.normal(keys[0], (12, 3, 32)),
        jax.random.normal(keys[1], (32, 8)),
        (jax.random.normal(keys[2], (3, 8)), jax.random.normal(keys[3], (3, 8))),
    )

    def value(recur):
        def summed(x_LBG, kernel_GH, state):
            out_LBH, (h_BH, c_BH) = recur(x_LBG, kernel_GH, state, fresh_LB, example.segment.T > 0)
            return jnp.sum(jnp.sin(out_LBH)) + jnp.sum(jnp.cos(h_BH) * c_BH)

        return jax.jit(jax.value_and_grad(summed, argnums=(0, 1, 2)))(*values)

    assert largest_difference(value(lstm_file.recur), value(plain_recurrence)) < 1e-4


def test_a_row_in_two_halves_is_the_row():
    """Where a row continues the one before it, its first document goes on from the memory; else it begins anew."""
    model, params = lstm()
    example = causal_example(3, 16)
    whole_BLD, _ = model.apply(params, example)
    first, second = part(example, 0, 7), part(example, 7, 16)
    second = second.replace(segment=jnp.where(second.segment > 0, second.segment - second.segment[:, :1] + 1, 0))
    first_BLD, memory = model.apply(params, first, model.init_memory(3))
    continued = example.segment[:, 6] == example.segment[:, 7]
    assert 0 < continued.sum() < 3
    second_BLD, _ = model.apply(params, second.replace(continues=continued), memory)
    np.testing.assert_allclose(jnp.concatenate([first_BLD, second_BLD], 1), whole_BLD, atol=1e-6)
    anew_BLD, _ = model.apply(params, second.replace(continues=jnp.zeros(3, bool)), memory)
    np.testing.assert_array_equal(anew_BLD, model.apply(params, second)[0])


def test_a_memory_reaches_the_document_that_goes_on_and_no_other():
    model, params = lstm()
    example = causal_example(2, 12).replace(continues=jnp.array([True, False]))

    def depends(place, row):
        def output(layers):
            memory = model.init_memory(2).replace(layers=layers)
            return jnp.sum(model.apply(params, example, memory)[0][row, place])

        return max(float(jnp.abs(g).max()) for g in jax.tree.leaves(jax.grad(output)(model.init_memory(2).layers))) > 0

    first_document = np.asarray(example.segment == 1)
    for place in range(0, 12, 2):
        assert depends(place, 0) == first_document[0, place]
        assert not depends(place, 1)


def test_an_output_depends_on_the_earlier_tokens_of_its_document_alone(monkeypatch):
    model, params = lstm(model__init__std=0.3)
    assert check_light_cone(model, causal_example(2, 12)).agrees
    monkeypatch.setattr(lstm_file, 'beginnings', lambda segment_BL, goes_on_B: jnp.zeros(segment_BL.shape, bool))
    assert light_cone(model, params, causal_example(2, 12))[0, -1, 0], 'the test does not see a missing border'


def test_dropout_is_locked_over_time():
    """A row loses the same numbers at all of its steps, other rows lose others, and the rest is scaled up."""
    x_LBI = jnp.ones((6, 4, 50))
    rows, placement = jnp.arange(4), make_model(lstm_config().model).placement
    out_LBI = np.asarray(lstm_file.locked_dropout(x_LBI, 0.5, jax.random.key(0), 1, rows, placement))
    assert set(np.unique(out_LBI)) == {0.0, 2.0}
    np.testing.assert_array_equal(out_LBI, np.broadcast_to(out_LBI[:1], out_LBI.shape))
    assert len({row.tobytes() for row in out_LBI[0]}) == 4
    again = lstm_file.locked_dropout(x_LBI[:, 2:], 0.5, jax.random.key(0), 1, rows[2:], placement)
    np.testing.assert_array_equal(again, out_LBI[:, 2:])
    other = lstm_file.locked_dropout(x_LBI, 0.5, jax.random.key(0), 2, rows, placement)
    assert (other != out_LBI).any()


def test_a_dropped_word_is_gone_wherever_it_stands():
    table_VD, inputs_LB = jnp.ones((300, 3)), jnp.arange(600).reshape(6, 100) % 300
    out_LBD = np.asarray(lstm_file.embed(table_VD, inputs_LB, 0.25, jax.random.key(0)))
    by_word = out_LBD.reshape(2, 300, 3)
    np.testing.assert_array_equal(by_word[0], by_word[1])
    np.testing.assert_allclose(out_LBD[out_LBD > 0], 1 / 0.75, rtol=1e-6)
    assert 0.1 < np.mean(out_LBD == 0) < 0.4


def test_weight_drop_acts_on_the_recurrent_matrices_alone():
    """Weights that are dropped have no gradient; of all others there is one."""
    model, params = lstm(model__recurrent__weight_drop=0.5)
    example = causal_example(3, 16)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, example, dropout_key=jax.random.key(1))[0])))(params)

    for layer in gradient(params)['blocks']:
        assert 0.4 < np.mean(np.asarray(layer['recurrent']['kernel']) == 0) < 0.6
        assert np.all(np.asarray(layer['input']['kernel']) != 0)
    used = np.unique(np.asarray(example.inputs)[np.asarray(example.segment) > 0])
    assert np.all(np.abs(gradient(params)['embedding']['token'][used]).max(-1) > 0)


@pytest.mark.parametrize('key', ['model.dropout', *(f'model.recurrent.{name}_drop' for name in ('input', 'hidden'))])
def test_every_dropout_is_at_work_in_training_alone(key):
    example, name = causal_example(3, 16), key.replace('.', '__')
    (plain, params), (model, _) = lstm(), lstm(**{name: 0.5})
    silent_BLD, _ = model.apply(params, example)
    np.testing.assert_array_equal(silent_BLD, plain.apply(params, example)[0])
    dropped_BLD, _ = model.apply(params, example, dropout_key=jax.random.key(0))
    assert largest_difference(dropped_BLD, silent_BLD) > 0
    assert np.isclose(np.mean(np.asarray(dropped_BLD) == 0), 0.5 if key == 'model.dropout' else 0, atol=0.2)


def test_what_is_dropped_depends_on_the_key_and_the_row_alone():
    """Rows one by one, as microbatches and devices have them, give what they give together."""
    model, params = lstm(**DROPS)
    example = causal_example(4, 12)
    apply = jax.jit(lambda example: model.apply(params, example, dropout_key=jax.random.key(5))[0])
    together = apply(example)
    for row in range(4):
        alone = apply(jax.tree.map(lambda a, row=row: a[row : row + 1], example))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_bfloat16_stays_near_float32():
    """Its products are in bfloat16; parameters, state and memory are float32."""
    example = causal_example(3, 16)
    (plain, params), (model, half_params) = lstm(), lstm(model__dtype='bfloat16')
    assert largest_difference(params, half_params) == 0
    hidden_BLD, memory = jax.jit(model.apply)(params, example, model.init_memory(3))
    assert hidden_BLD.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(memory)} == {jnp.dtype('float32')}
    np.testing.assert_allclose(hidden_BLD, plain.apply(params, example)[0], atol=0.02)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, example)[0].astype(jnp.float32))))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype('float32')}


def test_initial_layers_keep_the_variance_of_what_they_read_and_forget_little():
    _, params = lstm(model__recurrent__width=100)
    for layer, (inputs, hidden) in zip(params['blocks'], ((20, 100), (100, 24)), strict=True):
        kernel, recurrent = layer['input']['kernel'], layer['recurrent']['kernel']
        assert kernel.shape == (4 * hidden, inputs)
        assert np.isclose(np.std(kernel), inputs**-0.5, rtol=0.05)
        assert 0.9 < float(jnp.abs(recurrent).max()) * hidden**0.5 <= 1
        np.testing.assert_array_equal(layer['input']['bias'].reshape(4, hidden)[:, 0], [0, 1, 0, 0])


def test_embeddings_may_be_scaled_for_the_layers_but_not_for_the_head():
    (plain, params), (scaled, _) = lstm(), lstm(model__embedding__scale=True)
    example = causal_example(2, 8)
    larger = params | {'embedding': {'token': params['embedding']['token'] * 24**0.5}}
    np.testing.assert_allclose(scaled.apply(params, example)[0], plain.apply(larger, example)[0], atol=1e-6)
    assert scaled.head(params)[0]['kernel'] is params['embedding']['token']


class Specials:
    """What the generator asks of a tokenizer."""

    end_of_text, mask, pad, sep = 256, 257, 258, 259


def generator(model, params, temperature=0.0, **options):
    return Generator(model, params, 1 << 30, Sampling(temperature, 40, 1.0), Specials(), False, **options)


@pytest.mark.parametrize('length', [1, 5, 70])
def test_cached_text_is_that_of_reading_everything_anew(length):
    """Of prompts of any length, beside shorter ones, beyond the length of rows."""
    model, params = lstm(model__init__std=1.0)
    params = jax.tree.map(lambda a: 4 * a, params)  # large weights: every token has an opinion of its own
    prompt = np.random.default_rng(length).integers(0, 256, length).tolist()
    found = generator(model, params)([prompt, [7], prompt[:3]], 20, seed=0)[0].tolist()
    text = list(prompt)
    head_params, logits_fn = model.head(params)
    apply = jax.jit(model.apply)
    for token in found:
        example = causal_example(1, 96, documents=1)
        ids = jnp.zeros((1, 96), jnp.int32).at[0, : len(text)].set(jnp.array(text))
        hidden_BLD, _ = apply(params, example.replace(inputs=ids, segment=jnp.ones_like(ids)))
        assert token == int(jnp.argmax(logits_fn(head_params, hidden_BLD[0, len(text) - 1 : len(text)])[0, :257]))
        text.append(token)
    assert len(set(found)) > 3


def test_a_token_costs_the_same_however_long_the_text_is():
    """The step is one program, whose state has the same size behind any prompt."""
    model, params = lstm()
    generate = generator(model, params)
    generate([[1, 2, 3]], 40, seed=0)
    compiled = generate._draw._cache_size()
    generate([list(range(200))], 40, seed=0)
    assert generate._draw._cache_size() == compiled


@pytest.mark.parametrize('kind', ['masked', 'prefix', 'hybrid', 'span_corruption'])
def test_it_refuses_what_is_not_read_from_left_to_right(kind):
    with pytest.raises(UserError, match=r'lstm.*left to right'):
        lstm_config(objective__kind=kind)
    with pytest.raises(UserError, match=r'config.objective.switch = .*left to right'):
        lstm_config(objective__switch=f'{kind}@10')


def test_it_refuses_to_be_cut_over_the_length():
    with pytest.raises(UserError, match='only the architecture transformer can cut'):
        lstm_config(sharding__context=2)


def test_keys_of_parts_that_it_does_not_have_are_not_read():
    plain = lstm_config(model__width=25)
    other = lstm_config(model__width=25, model__attention__num_heads=4, model__position__kind='rotary')
    params = [make_model(config.model).init(jax.random.key(0)) for config in (plain, other)]
    assert largest_difference(*params) == 0
