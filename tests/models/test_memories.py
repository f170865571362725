"""What a memory of earlier rows is, and what it never is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, largest_difference, tiny_config
from remembering import MEMORY, continuing, read, stream, xl

from gpt2jax.errors import UserError
from gpt2jax.models import make_model
from gpt2jax.objectives import Example


def documents(*segments):
    """Rows whose tokens belong to these documents."""
    segment_BL = np.array(segments)
    return continuing(np.random.default_rng(1).integers(0, 256, segment_BL.shape), segment_BL)


def influence(model, params, first: Example, second: Example) -> np.ndarray:
    """[L, L] bool: which tokens of a row change what the next one gives at each of its places."""
    L = first.inputs.shape[1]

    @jax.jit
    def hidden(inputs_BL):
        _, memory = model.apply(params, first.replace(inputs=inputs_BL), model.init_memory(1))
        return model.apply(params, second, memory)[0][0]

    plain = hidden(first.inputs)
    changed = [hidden(first.inputs.at[0, i].add(1)) for i in range(L)]
    return np.stack([np.any(np.asarray(plain != other), axis=-1) for other in changed], axis=1)


def test_a_row_reads_the_memory_of_its_own_document_alone():
    """One layer, so that a token's reach is what it sees: the document open at the end, while it goes on."""
    model, params = xl(model__num_layers=1, model__memory_length=5)
    seen = influence(model, params, documents([1, 1, 2, 2, 2, 2]), documents([1, 1, 1, 2, 2, 2]))
    expected = np.zeros((6, 6), bool)
    expected[:3, 2:] = True
    np.testing.assert_array_equal(seen, expected)
    longer = influence(model, params, documents([1, 1, 1, 1, 1, 1]), documents([1, 1, 1, 2, 2, 2]))
    expected[:3, 1:] = True  # five slots
    np.testing.assert_array_equal(longer, expected)


@pytest.mark.parametrize('cut', ['continues', 'padding'])
def test_a_document_that_ended_is_never_seen_again(cut):
    model, params = xl(model__num_layers=1)
    first, second = documents([1, 1, 1, 1, 1, 1 if cut == 'continues' else 0]), documents([1] * 6)
    second = second.replace(continues=jnp.full(1, cut != 'continues'))
    assert not influence(model, params, first, second).any()


def test_what_was_closed_stays_closed_when_the_next_row_goes_on():
    """Memory longer than a row: of two rows ago it holds a document that has ended since."""
    model, params = xl(model__num_layers=1, model__memory_length=12)
    rows = documents([1, 1, 1, 1]), documents([1, 1, 2, 2]), documents([1, 1, 1, 1])
    memory, opened = model.init_memory(1), []
    for row in rows:
        _, memory = read(model, params, [row], memory)
        opened.append(np.asarray(memory.open[0], int).tolist())
    assert opened == [[0] * 8 + [1] * 4, [0] * 10 + [1, 1], [0] * 6 + [1] * 6]


def test_rows_that_differ_keep_memories_of_their_own():
    model, params = xl(model__num_layers=1)
    both = documents([1] * 4, [1] * 4)
    first, second = (jax.tree.map(lambda a, i=i: a[i : i + 1], both) for i in range(2))
    hidden, memory = read(model, params, [both, both], model.init_memory(2))
    for i, alone in enumerate((first, second)):
        expected, kept = read(model, params, [alone, alone], model.init_memory(1))
        assert largest_difference(hidden[1][i : i + 1], expected[1]) < 1e-5
        assert largest_difference([a[i : i + 1] for a in memory.layers], kept.layers) < 1e-5


def test_every_layer_reaches_one_memory_further_back():
    """Two layers and a memory of a row: a token depends on the row before the last, which no layer sees directly."""
    model, params = xl(model__num_layers=2, model__memory_length=4)
    first, second, third = stream(1, 4, 3)

    def last(inputs_BL):
        rows = first.replace(inputs=inputs_BL), second, third
        return read(model, params, rows, model.init_memory(1))[0][-1]

    assert np.any(np.asarray(last(first.inputs) != last(first.inputs.at[0, 3].add(1))))
    shallow, shallow_params = xl(model__num_layers=1, model__memory_length=4)
    assert not influence(shallow, shallow_params, first, third.replace(continues=jnp.zeros(1, bool))).any()


def test_no_gradient_flows_into_a_memory():
    """The row's own gradient is as if the memory were a constant, and a memory's is zero."""
    model, params = xl()
    first, second = stream(2, 6, 2)

    def losses(params, other):
        _, memory = model.apply(other, first, model.init_memory(2))
        hidden_BLD, memory = model.apply(params, second, memory)
        return jnp.sum(jnp.sin(hidden_BLD)), sum(map(jnp.sum, memory.layers))

    through, alone, kept = (
        jax.jit(jax.grad(f))(params)
        for f in (lambda p: losses(p, p)[0], lambda p: losses(p, params)[0], lambda p: losses(p, p)[1])
    )
    assert largest_difference(through, alone) < 1e-5
    assert not any(np.any(np.asarray(gradient)) for gradient in jax.tree.leaves(kept))


def test_no_token_sees_a_later_one_or_another_document_with_a_memory():
    """By gradient: from each output to the embedding of every token of its row."""
    model, params = xl(model__num_layers=2)
    first, second = documents([1, 1, 2, 2, 2, 2]), documents([1, 1, 1, 2, 2, 2])
    _, memory = read(model, params, [first], model.init_memory(1))
    second = second.replace(inputs=jnp.arange(6)[None])  # every place reads a row of the table of its own

    def outputs(table_VE):
        own = params | {'embedding': params['embedding'] | {'token': table_VE}}
        return model.apply(own, second, memory)[0][0]

    gradient_LDVE = jax.jit(jax.jacobian(outputs))(params['embedding']['token'])
    seen_LL = np.any(np.asarray(gradient_LDVE) != 0, axis=(1, 3))[:, :6]
    segment = np.asarray(second.segment[0])
    np.testing.assert_array_equal(seen_LL, np.tril(segment[:, None] == segment))


def test_one_long_row_gives_what_its_pieces_give_one_layer_deep():
    """A memory of the whole past: pieces read as one row."""
    for kind in ('relative', 't5'):
        model, params = xl(model__num_layers=1, model__memory_length=20, model__position__kind=kind)
        ids = np.random.default_rng(3).integers(0, 256, (2, 20))
        (whole,), _ = read(model, params, [continuing(ids)], None)
        pieces = [continuing(ids[:, begin:end]) for begin, end in ((0, 8), (8, 16), (16, 20))]
        hidden, _ = read(model, params, pieces, model.init_memory(2))
        assert largest_difference(jnp.concatenate(hidden, axis=1), whole) < 2e-5, kind


@pytest.mark.parametrize(
    'changes',
    [
        {'model__scan_layers': True},
        {'model__remat': 'full'},
        {'model__scan_layers': True, 'model__remat': 'dots'},
        {'model__attention__kernel': 'fused'},
        {'model__scan_layers': True, 'model__attention__value_residual': True},
    ],
    ids=str,
)
def test_every_way_to_compute_it_gives_the_same_values_gradients_and_memories(changes):
    shared = {k: v for k, v in changes.items() if 'value_residual' in k} | {'model__attention__num_kv_heads': 2}
    (plain, params), (other, _) = xl(**shared), xl(**changes | shared)
    first, second = stream(2, 8, 2)
    _, memory = read(plain, params, [first], plain.init_memory(2))

    def loss(model):
        def of(params):
            hidden_BLD, after = model.apply(params, second, memory, dropout_key=jax.random.key(4))
            return jnp.mean(jnp.sin(3 * hidden_BLD)), after.layers

        return jax.jit(jax.value_and_grad(of, has_aux=True))(params)

    assert largest_difference(loss(plain), loss(other)) < 1e-5


def test_a_memory_is_kept_in_the_dtype_of_the_products():
    model, params = xl(model__dtype='bfloat16', model__norm__placement='post')
    (hidden, _), memory = read(model, params, stream(2, 8, 2), model.init_memory(2))
    assert {a.dtype for a in memory.layers} == {jnp.bfloat16.dtype}
    assert np.all(np.isfinite(np.asarray(hidden, np.float32)))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), memory) == jax.tree.map(
        lambda a: (a.shape, a.dtype), model.init_memory(2)
    )


def test_without_a_memory_and_with_learned_positions_it_is_gpt2():
    """Bit for bit: hidden states and gradients of the same parameters."""
    config = {'model__position__kind': 'learned', 'model__memory_length': 0, 'data__order': 'shuffled'}
    model, gpt2 = make_model(tiny_config(**MEMORY | config).model), make_model(tiny_config(model__num_layers=2).model)
    assert model.init_memory(2) is None
    assert not model.rolling
    params, example = gpt2.init(jax.random.key(0)), causal_example(4, 16)
    assert largest_difference(params, model.init(jax.random.key(0))) == 0

    def loss(model):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply(p, example)[0]))))(params)

    assert largest_difference(loss(model), loss(gpt2)) == 0


@pytest.mark.parametrize('kind', ['learned', 'sinusoidal', 'rotary'])
def test_positions_that_would_be_wrong_in_a_memory_are_refused(kind):
    with pytest.raises(UserError, match=f"position.kind = '{kind}'.*relative"):
        tiny_config(**MEMORY | {'model__position__kind': kind})
