"""The reader of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from planning.programs_text import KERNEL, LOOP

from gpt2jax.planning.hlo import Array, parse, read_arrays, trip_count


def test_computations_instructions_and_what_they_say_are_read():
    program = parse(LOOP)
    assert (program.entry, program.scheduled) == ('main', True)
    assert set(program.computations) == {'product', 'condition', 'body', 'main'}
    body = program.computations['body']
    product = body['fusion.1']
    assert (product.opcode, product.operands, product.cycles) == ('fusion', ('g1', 'g2'), 2000)
    assert product.op_name.endswith('query/dot_general')
    assert product.called == {'calls': 'product'}
    assert product.arrays == (Array('bf16', (128, 512)),)
    assert product.bytes == 128 * 512 * 2
    assert body.root.name == 'tuple.2'
    assert [i.name for i in program.computations['product'].parameters] == ['p0', 'p1']
    assert program.computations['main']['x'].op_name == "x['a']"


def test_an_estimate_that_gives_up_is_none():
    assert parse(LOOP).computations['body']['add.2'].cycles is None


def test_the_text_of_a_kernel_belongs_to_its_call():
    main = parse(KERNEL).computations['main']
    assert list(main) == ['q', 'k', 'v', 'splash_mha_fwd.1', 'out']
    call = main['splash_mha_fwd.1']
    assert call.target == 'tpu_custom_call'
    assert call.op_name.endswith('splash_mha_fwd_residuals/pallas_call')
    assert 'block_q' in call.rest


@pytest.mark.parametrize(
    ('text', 'arrays'),
    [
        ('f32[8,4]{1,0:T(8,128)S(1)}', [('f32', (8, 4), 1, 128)]),
        ('(s32[], /*index=1*/bf16[3]{0})', [('s32', (), 0, 4), ('bf16', (3,), 0, 6)]),
        ('pred[<=16]', [('pred', (16,), 0, 16)]),
        ('s4[3]', [('s4', (3,), 0, 2)]),
        ('f8e4m3fn[10]', [('f8e4m3fn', (10,), 0, 10)]),
    ],
)
def test_shapes_are_read_with_their_memory_and_size(text, arrays):
    assert [(a.dtype, a.sizes, a.space, a.bytes) for a in read_arrays(text)] == arrays


def test_a_loop_runs_from_its_first_count_to_the_limit_of_its_condition():
    program = parse(LOOP)
    main = program.computations['main']
    assert trip_count(program, main, main['while.1']) == 5
    unknown = parse(LOOP.replace('direction=LT', 'direction=NE'))
    main = unknown.computations['main']
    assert trip_count(unknown, main, main['while.1']) is None


def test_the_loops_of_a_real_program_have_their_counts():
    def step(x, weights):
        def outer(x, _):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    text = jax.jit(step).lower(jnp.ones((64, 64)), jnp.ones((7, 64, 64))).compile().as_text()
    program = parse(text)
    loops = [(c, i) for c in program.computations.values() for i in c.values() if i.opcode == 'while']
    assert sorted(trip_count(program, *loop) for loop in loops) == [3, 7]
