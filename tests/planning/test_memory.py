"""The verdict on memory, and what takes it."""

import types

import pytest
from planning.programs_text import LOOP

from gpt2jax.planning.hlo import parse
from gpt2jax.planning.memory import Buffer, largest_buffers, read_out_of_memory
from gpt2jax.planning.reading import memory_of, out_of_memory
from gpt2jax.planning.topologies import read_topology

GIB = 2**30
TEMPORARIES = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (56.00G) exceeds '
    'available HBM (15.75G).'
)
LISTED = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded hbm capacity by 1.75G.

Total hbm usage >= 17.50G:
    reserved        258.00M
    program          12.50G
    arguments         5.00G

Largest program allocations in hbm:

  1. Size: 6.00G
     Operator: op_name="jit(train_step)/jvp(Block)/mul" source_file="a.py" source_line=3
     Shape: f32[8,12,512,1024]{3,2,1,0:T(8,128)}
     Unpadded size: 6.00G
     XLA label: fusion.1 = fusion(...)
     Allocation type: HLO temp
     ==========================

  2. Size: 96.50M
     Shape: bf16[768,768]{1,0}
     ==========================
"""  # noqa: E501

ASSIGNMENT = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 add.21 @0> (size=512,offset=0): f32[]{:T(256)}
allocation 1: size 100000, parameter 0, shape |bf16[128,256]| at ShapeIndex {}:
 value: <3 x @0> (size=65536,offset=0): bf16[128,256]{1,0}
allocation 2: size 900000, preallocated-temp:
 value: <4 fusion.1 @0> (size=131072,offset=0): bf16[128,512]{1,0:T(8,128)(2,1)}
 value: <5 fusion.1 @0> (size=131072,offset=131072): bf16[128,512]{1,0:T(8,128)(2,1)}
 value: <6 add.2 @0> (size=400000,offset=262144): bf16[128,512]{1,0}
 value: <7 while.1{3} (phi) @0> (size=400000,offset=262144): bf16[128,512]{1,0}
 value: <9 tuple.1 @0> (size=500000,offset=0): (bf16[128,512], s32[])
allocation 3: size 900000, color 1, preallocated-temp:
 value: <8 copy.1 @1> (size=800000,offset=0): bf16[128,512]{1,0:S(1)}
"""


@pytest.mark.parametrize(('text', 'used'), [(TEMPORARIES, 56 * GIB), (LISTED, 17.5 * GIB)])
def test_the_compilers_own_numbers_are_the_verdict(text, used):
    verdict = read_out_of_memory(text)
    assert (verdict.used, verdict.limit) == (used, 15.75 * GIB)
    assert verdict.text.startswith('RESOURCE_EXHAUSTED')


def test_what_the_error_lists_is_named(tmp_path):
    assert read_out_of_memory(LISTED).buffers == (
        Buffer(6 * GIB, 'f32[8,12,512,1024]', 'jit(train_step)/jvp(Block)/mul'),
        Buffer(int(96.5 * 2**20), 'bf16[768,768]', ''),
    )
    answer = out_of_memory(read_out_of_memory(LISTED), read_topology('v5e:2x4'), {'parameters': GIB}, tmp_path)
    assert answer['memory'] == {'kinds': {'parameters': GIB}, 'peak': 17.5 * GIB, 'limit': 15.75 * GIB}
    assert answer['buffers'][0]['source'] == 'mul'


def test_where_only_temporaries_are_counted_the_state_is_added_and_the_dump_names_the_buffers(tmp_path):
    (tmp_path / 'module_0001.jit_step.after_optimizations-buffer-assignment.txt').write_text(ASSIGNMENT)
    (tmp_path / 'module_0001.jit_step.after_optimizations.txt').write_text(LOOP)
    answer = out_of_memory(read_out_of_memory(TEMPORARIES), read_topology('v5e:2x4'), {'parameters': GIB}, tmp_path)
    assert answer['memory']['kinds'] == {'parameters': GIB, 'activations and temporaries': 56 * GIB}
    assert answer['memory']['peak'] == 57 * GIB
    assert answer['buffers'][0] == {
        'bytes': 400_000,
        'shape': 'bf16[128,512]',
        'name': 'jit(step)/while/body/add',
        'count': 1,
        'source': 'add',
    }


def test_other_errors_are_no_verdict():
    assert read_out_of_memory('INVALID_ARGUMENT: what is this') is None


def test_the_largest_temporaries_are_named_after_what_makes_them(tmp_path):
    (tmp_path / 'module_0001.jit_step.after_optimizations-buffer-assignment.txt').write_text(ASSIGNMENT)
    buffers = largest_buffers(tmp_path, parse(LOOP))
    assert [(b.bytes, b.count) for b in buffers] == [(400_000, 1), (131_072, 2)]
    assert buffers[0] == Buffer(400_000, 'bf16[128,512]', 'jit(step)/while/body/add', 1)
    assert buffers[1].name.endswith('query/dot_general')


def test_without_a_list_there_are_no_names(tmp_path):
    assert largest_buffers(tmp_path, parse(LOOP)) == []


def test_memory_adds_up_by_kind_and_donated_results_count_once():
    stats = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        alias_size_in_bytes=80,
        temp_size_in_bytes=1000,
        generated_code_size_in_bytes=7,
        peak_memory_in_bytes=900,
    )
    held = {'parameters': 60, 'optimizer': 30}
    expected = held | {'other arguments': 10, 'outputs': 10, 'activations and temporaries': 790, 'code': 7}
    memory = memory_of(stats, held, read_topology('v5e:2x4'))
    assert memory == {'kinds': expected, 'peak': 907, 'limit': int(15.75 * GIB), 'allotted': 1000}
    cpu = memory_of(stats, held, read_topology('cpu:1'))
    assert cpu['kinds'] == expected | {'activations and temporaries': 1000}
