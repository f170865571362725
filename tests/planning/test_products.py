"""FLOPs and bytes of instructions."""

import jax
import jax.numpy as jnp
import pytest
from planning.programs_text import LOOP

from gpt2jax.planning.hlo import parse
from gpt2jax.planning.products import all_flops, is_product, moved_bytes

# A product of a batch of 8, as a TPU writes it: the batch is a spatial dimension with one valid place an output.
BATCHED = """HloModule m

ENTRY %main (a: bf16[8,128,64], b: bf16[8,32,64]) -> bf16[8,128,32] {
  %a = bf16[8,128,64]{2,1,0} parameter(0)
  %b = bf16[8,32,64]{2,1,0} parameter(1)
  ROOT %c = bf16[8,128,32]{2,1,0} convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf
}
"""
# A sum over two dimensions: the window covers one of them.
CONTRACTED = BATCHED.replace('window={size=8 stride=7 lhs_dilate=8}', 'window={size=8}').replace(
    'bf16[8,128,32]', 'bf16[1,128,32]'
)

SLICED = """HloModule m

%slice (whole: f32[12,1000], index: s32[]) -> f32[1,1000] {
  %whole = f32[12,1000]{1,0} parameter(0)
  %index = s32[] parameter(1)
  ROOT %taken = f32[1,1000]{1,0} dynamic-slice(%whole, %index, %index), dynamic_slice_sizes={1,1000}
}

%update (whole.1: f32[12,1000], part: f32[1,1000], index.1: s32[]) -> f32[12,1000] {
  %whole.1 = f32[12,1000]{1,0} parameter(0)
  %part = f32[1,1000]{1,0} parameter(1)
  %index.1 = s32[] parameter(2)
  ROOT %written = f32[12,1000]{1,0} dynamic-update-slice(%whole.1, %part, %index.1, %index.1)
}

ENTRY %main (a: f32[12,1000], i: s32[]) -> f32[12,1000] {
  %a = f32[12,1000]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %fusion.1 = f32[1,1000]{1,0:S(1)} fusion(%a, %i), kind=kLoop, calls=%slice
  %fusion.2 = f32[12,1000]{1,0} fusion(%a, %fusion.1, %i), kind=kLoop, calls=%update
  ROOT %add.1 = f32[12,1000]{1,0} add(%a, %fusion.2)
}
"""


def flops_of(text: str) -> int:
    """Of the root of a program."""
    program = parse(text)
    main = program.computations[program.entry]
    return all_flops(program, main, main.root)


def test_flops_of_a_product_are_two_for_each_multiplication():
    program = parse(LOOP)
    body = program.computations['body']
    assert all_flops(program, body, body['fusion.1']) == 2 * 128 * 256 * 512
    assert is_product(program, body['fusion.1'])
    assert not is_product(program, body['add.2'])


def test_a_batch_that_is_written_as_a_window_is_not_counted_twice():
    assert flops_of(BATCHED) == 2 * 8 * 128 * 64 * 32
    assert flops_of(CONTRACTED) == 2 * 8 * 128 * 64 * 32


@pytest.mark.parametrize('spec', ['ab,bc->ac', 'xab,xbc->xac', 'xab,xcb->xac', 'xab,xac->bc'])
def test_flops_of_real_products_are_those_of_the_letters(spec):
    sizes = {'a': 16, 'b': 32, 'c': 64, 'x': 4}
    left, right = (tuple(sizes[letter] for letter in part) for part in spec.partition('->')[0].split(','))
    text = jax.jit(lambda l, r: jnp.einsum(spec, l, r)).lower(jnp.ones(left), jnp.ones(right)).compile().as_text()
    program = parse(text)
    total = sum(
        all_flops(program, c, i) for c in program.computations.values() for i in c.values() if i.opcode != 'fusion'
    )
    letters = set(spec) & set(sizes)
    expected = 2
    for letter in letters:
        expected *= sizes[letter]
    assert total == expected


def test_of_a_slice_and_of_an_update_only_the_part_moves():
    program = parse(SLICED)
    main = program.computations['main']
    assert moved_bytes(program, main, main['fusion.1']) == 4000 + 4  # the slice lies on the chip, the index is read
    assert moved_bytes(program, main, main['fusion.2']) == 4000 + 4
    assert moved_bytes(program, main, main['add.1']) == 3 * 48_000
    assert moved_bytes(program, main, main['fusion.1'], on_chip=0.5) == 4000 + 4 + 2000


CUDNN = """HloModule m

ENTRY %main (q: bf16[2,128,4,64], k: bf16[2,256,4,64]) -> bf16[2,128,4,64] {
  %q = bf16[2,128,4,64]{3,2,1,0} parameter(0)
  %k = bf16[2,256,4,64]{3,2,1,0} parameter(1)
  ROOT %c = (bf16[2,128,4,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax"
}
"""


def test_cudnn_attention_counts_its_two_products_and_five_backward():
    pairs = 2 * 4 * 128 * 256
    assert flops_of(CUDNN) == 2 * 2 * pairs * 64
    assert flops_of(CUDNN.replace('fmhaSoftmax', 'fmhaSoftmaxBackward')) == 2 * 5 * pairs * 64
