"""Compiled for TPUs that are not here. Needs libtpu (requirements-plan.txt): `pytest -m plan`."""

import math

import pytest
from helpers import tiny_config

from gpt2jax.errors import UserError
from gpt2jax.planning.compiling import plan_step

pytestmark = pytest.mark.plan

SMALL = {
    'model__width': 256,
    'model__num_layers': 2,
    'model__attention__num_heads': 4,
    'model__vocab_multiple': 128,
    'model__dtype': 'bfloat16',
    'data__length': 256,
    'training__batch_size': 64,
    'evaluation__batch_size': 64,
}


@pytest.mark.parametrize('scan', [False, True])
def test_a_step_fits_and_computes_what_the_model_costs(scan):
    answer = plan_step(tiny_config(**SMALL, model__scan_layers=scan, model__attention__kernel='einsum'), 'v5e:2x4')
    (step,) = answer['steps']
    assert (answer['devices'], answer['device']) == (8, 'TPU v5 lite')
    assert step['fits']
    time = step['time']
    assert time['unknown_loops'] == 0
    assert 0 < time['low'] <= time['high']
    # The einsum leaves out a quarter of the map, and the backward pass may compute some again.
    assert 0.85 < time['flops_per_device'] * 8 / step['flops']['full map'] < 1.25


def test_data_parallel_sums_the_gradients_once_over_all_devices():
    (step,) = plan_step(tiny_config(**SMALL, training__accumulation=2), 'v5e:2x4')['steps']
    parameters = step['memory']['kinds']['parameters']
    summed = [row for row in step['time']['collectives'] if row['kind'] == 'all-reduce']
    assert {row['axes'] for row in step['time']['collectives']} == {'data'}
    sent = sum(row['sent_bytes'] for row in summed)
    assert sent == pytest.approx(2 * 7 / 8 * parameters, rel=0.1)


def test_fsdp_gathers_and_scatters_along_its_own_axis_and_cuts_the_state():
    whole = plan_step(tiny_config(**SMALL), 'v5e:2x4')['steps'][0]
    cut = plan_step(tiny_config(**SMALL, sharding__fsdp=4), 'v5e:2x4')['steps'][0]
    assert cut['memory']['kinds']['parameters'] < 0.3 * whole['memory']['kinds']['parameters']
    axes = {row['axes'] for row in cut['time']['collectives']}
    assert 'fsdp' in axes
    assert 'tensor' not in ' '.join(axes)


def test_attention_kernels_are_timed_by_what_they_see():
    long = {'data__length': 2048, 'training__batch_size': 8, 'evaluation__batch_size': 8}
    causal = tiny_config(**SMALL | long, model__attention__kernel='splash')
    full = tiny_config(**SMALL | long, model__attention__kernel='splash', objective__kind='masked')
    times = []
    for config in (causal, full):
        time = plan_step(config, 'v5e:2x4')['steps'][0]['time']
        assert time['kernels']
        times.append(sum(row['low'] for row in time['ranking'] if row['kind'] == 'kernel'))
    assert 0.5 < times[0] / times[1] < 0.9


def test_what_does_not_fit_is_said_with_the_compilers_number():
    (step,) = plan_step(tiny_config(**SMALL | {'training__batch_size': 1 << 19}), 'v5e:2x4')['steps']
    assert not step['fits']
    assert step['memory']['peak'] > step['memory']['limit'] == pytest.approx(15.75 * 2**30)
    assert step['buffers']
    assert 'time' not in step


@pytest.mark.parametrize(('topology', 'slices', 'count'), [('v5p:2x2x1', 1, 4), ('v5e:1x1', 1, 1), ('v5e:2x4', 2, 16)])
def test_other_pods_work_and_slices_talk_along_data(topology, slices, count):
    config = tiny_config(**SMALL, sharding__data=slices, sharding__fsdp=count // slices)
    answer = plan_step(config, topology, slices=slices)
    assert answer['devices'] == count == math.prod(answer['mesh'].values())
    (step,) = answer['steps']
    assert step['fits']
    if slices > 1:
        across = [row for row in step['time']['collectives'] if 'data' in row['axes']]
        assert across


def test_sampling_is_planned_too():
    answer = plan_step(tiny_config(**SMALL), 'v5e:1x1', mode='sample')
    assert [step['name'] for step in answer['steps']] == ['prompt', 'token']


def test_a_pod_that_libtpu_does_not_know_is_an_error():
    with pytest.raises(UserError, match='v5p:3x5x7'):
        plan_step(tiny_config(**SMALL), 'v5p:3x5x7')
