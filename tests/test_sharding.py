"""Where arrays live must not change what is computed, and large arrays must really be cut."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import tiny_config
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from gpt2jax import sharding
from gpt2jax.errors import UserError
from gpt2jax.models import make_model
from gpt2jax.optimizers import OPTIMIZERS, make_optimizer, path_name
from gpt2jax.placement import Placement
from gpt2jax.sharding import AXES, RULES, bytes_per_device, make_mesh, make_placement, num_slices, parameter_spec, shard
from gpt2jax.training.state import make_init

INWARD, OUTWARD = PartitionSpec('tensor', 'fsdp'), PartitionSpec('fsdp', 'tensor')
HEADS, WHOLE = PartitionSpec('tensor'), PartitionSpec()
TABLE = {
    'embedding/token': INWARD,
    'embedding/position/embedding': PartitionSpec(None, 'fsdp'),
    'head/kernel': INWARD,
    'blocks/*/attention/query/kernel': INWARD,
    'blocks/*/attention/key/kernel': INWARD,
    'blocks/*/attention/value/kernel': INWARD,
    'blocks/*/attention/out/kernel': OUTWARD,
    'blocks/*/feedforward/expand/kernel': INWARD,
    'blocks/*/feedforward/contract/kernel': OUTWARD,
    'blocks/*/attention/query/bias': HEADS,
    'blocks/*/attention/key/bias': HEADS,
    'blocks/*/attention/value/bias': HEADS,
    'blocks/*/attention/out/bias': WHOLE,
    'blocks/*/feedforward/expand/bias': HEADS,
    'blocks/*/feedforward/contract/bias': WHOLE,
    'blocks/*/norm_attention/scale': WHOLE,
    'blocks/*/norm_attention/bias': WHOLE,
    'blocks/*/norm_feedforward/scale': WHOLE,
    'blocks/*/norm_feedforward/bias': WHOLE,
    'norm_final/scale': WHOLE,
    'norm_final/bias': WHOLE,
}


def mesh_of(data, fsdp, context=1, tensor=1):
    """A mesh of devices that need not exist."""
    return AbstractMesh((data, fsdp, context, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_state(**changes):
    """Shapes of the state of a model, by default a GPT-2, with an untied head; its matrices divide by 8."""
    config = tiny_config(model__head__tied=False, model__vocab_multiple=8, **changes)
    optimizer = make_optimizer(config)
    return jax.eval_shape(make_init(make_model(config.model), optimizer, 0, 8))


def leaves(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_the_table_says_how_each_parameter_of_a_gpt2_is_cut():
    params = leaves(abstract_state().params)
    specs = {path: parameter_spec(path, leaf.shape, mesh_of(1, 8)) for path, leaf in params.items()}
    for layer in range(3):
        found = {re.sub(f'^blocks/{layer}/', 'blocks/*/', path): spec for path, spec in specs.items()}
        assert {path: spec for path, spec in found.items() if re.search(r'^blocks/\d', path) is None} == TABLE


def test_every_rule_is_the_first_to_match_some_parameter():
    """Of a GPT-2, an LSTM with its memory, and an XLNet with segments."""
    relative = {'model__position__kind': 'relative', 'model__position__segments': True}
    others = [
        {'model__architecture': 'lstm', 'data__order': 'contiguous'},
        {'model__architecture': 'xlnet', 'objective__kind': 'permutation', **relative},
    ]
    paths = [*TABLE, *(path for options in others for path in leaves(abstract_state(**options)))]
    first = {next(i for i, (pattern, _) in enumerate(RULES) if re.search(pattern, path)) for path in paths}
    assert first == set(range(len(RULES)))


def test_a_recurrent_model_is_cut_over_fsdp_alone():
    state = shard(abstract_state(model__architecture='lstm', data__order='contiguous'), mesh_of(1, 8))
    for path, leaf in leaves(state.params['blocks']).items():
        assert leaf.sharding.spec == (PartitionSpec('fsdp') if path.endswith('kernel') else WHOLE)
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(state.carry)} == {PartitionSpec(('data', 'fsdp'))}


def test_fsdp_cuts_every_large_array_of_parameters_and_optimizer():
    state = shard(abstract_state(), mesh_of(1, 8))
    large = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.size >= 512]
    assert len(large) == 3 * (3 * 6 + 3)
    for leaf in large:
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) * 8 == leaf.size


@pytest.mark.parametrize('kind', sorted(OPTIMIZERS))
def test_fsdp_cuts_every_large_matrix_of_every_optimizer_and_of_an_average(kind):
    """Adafactor's rows and columns are small, and whole."""
    average = 0.0 if kind == 'schedule_free' else 0.9
    options = {'optimizer__kind': kind, 'optimizer__average': average, 'optimizer__schedule': 'constant'}
    state = shard(abstract_state(**options), mesh_of(1, 8))
    matrices = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.size >= 512]
    copies = {'adamw': 3, 'lion': 2, 'muon': 2, 'adafactor': 1, 'schedule_free': 2}[kind]
    adam_only = 3 if kind == 'muon' else 0  # the second moments of embeddings and head
    assert len(matrices) == copies * (3 * 6 + 3) + adam_only
    for leaf in matrices:
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) * 8 == leaf.size


def test_the_optimizer_is_cut_like_its_parameters():
    state = shard(abstract_state(), mesh_of(2, 4))
    params, optimizer = leaves(state.params), leaves(state.opt_state)
    seen = 0
    for path, leaf in optimizer.items():
        match = re.search(r'/(?:mu|nu)/(.*)', path)
        if match:
            assert leaf.sharding == params[match[1]].sharding, path
            seen += 1
    assert seen == 2 * len(params)


def test_a_dimension_that_does_not_divide_stays_whole():
    kernel = 'blocks/0/attention/query/kernel', (16, 12)
    assert parameter_spec(*kernel, mesh_of(2, 4)) == INWARD
    assert parameter_spec(*kernel, mesh_of(1, 8)) == PartitionSpec('tensor', None)
    assert parameter_spec('embedding/token', (50257, 64), mesh_of(1, 2, 1, 4)) == PartitionSpec(None, 'fsdp')


def test_a_scalar_of_the_optimizer_is_whole_whatever_its_path():
    assert parameter_spec('0/factored/embedding/token', (), mesh_of(1, 8)) == WHOLE


def test_shard_keeps_shapes_and_dtypes():
    state = abstract_state()
    placed = shard(state, mesh_of(1, 8))
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    for leaf, wanted in zip(jax.tree.leaves(placed), jax.tree.leaves(state), strict=True):
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)


def test_bytes_per_device_count_the_part_that_a_device_holds():
    def array(spec):
        return jax.ShapeDtypeStruct((16, 4), np.float32, sharding=NamedSharding(mesh_of(2, 4), spec))

    assert bytes_per_device({'a': array(PartitionSpec('fsdp')), 'b': array(PartitionSpec())}) == 64 + 256


def test_a_model_is_told_which_parameters_are_cut_and_along_what():
    cuts = dict(make_placement(mesh_of(1, 2, 1, 4), abstract_state().params).cuts)
    assert cuts['blocks/0/attention/query/kernel'] == ('tensor', 'fsdp')
    assert cuts['blocks/0/feedforward/contract/kernel'] == ('fsdp', 'tensor')
    assert cuts['embedding/position/embedding'] == (None, 'fsdp')
    assert 'norm_final/scale' not in cuts


def test_without_a_mesh_a_placement_does_nothing():
    x = np.ones((2, 4))
    alone = Placement()
    assert alone.whole({'a': x})['a'] is alone.rows(x) is alone.own_length(x) is alone.whole_length(x) is x
    assert alone.start(4) is None


class Device:
    """One that is not there."""

    def __init__(self, number, platform='cpu', slice_index=0):
        self.id, self.platform, self.slice_index = number, platform, slice_index


def devices_of(count, platform='cpu', slices=1):
    return [Device(i, platform, i * slices // count) for i in range(count)]


@pytest.fixture
def eight(monkeypatch):
    """Pretends that there are eight devices."""
    monkeypatch.setattr(jax, 'devices', lambda: devices_of(8))
    monkeypatch.setattr(jax, 'make_mesh', lambda shape, names, **_: dict(zip(names, shape, strict=True)))


@pytest.mark.parametrize(
    ('given', 'taken'),
    [
        ((-1, 1, 1, 1), (8, 1, 1, 1)),
        ((-1, 4, 1, 1), (2, 4, 1, 1)),
        ((8, 1, 1, 1), (8, 1, 1, 1)),
        ((1, 8, 1, 1), (1, 8, 1, 1)),
        ((1, -1, 1, 1), (1, 8, 1, 1)),
        ((2, 4, 1, 1), (2, 4, 1, 1)),
        ((-1, 1, 1, 4), (2, 1, 1, 4)),
        ((2, 1, 1, -1), (2, 1, 1, 4)),
        ((-1, 2, 1, 4), (1, 2, 1, 4)),
        ((2, 1, -1, 2), (2, 1, 2, 2)),
        ((-1, 1, 8, 1), (1, 1, 8, 1)),
    ],
)
def test_a_mesh_takes_all_devices(eight, given, taken):
    changes = {f'sharding__{axis}': size for axis, size in zip(AXES, given, strict=True)}
    assert make_mesh(tiny_config(**changes)) == dict(zip(AXES, taken, strict=True))


@pytest.mark.parametrize(('data', 'fsdp'), [(4, 1), (-1, 3), (8, 2), (-1, 16)])
def test_a_mesh_that_cannot_take_the_devices_is_refused_with_those_that_can(eight, data, fsdp):
    options = {'training__batch_size': 48, 'data__length': 18}  # lengths that two devices can share, and no more
    config = tiny_config(sharding__data=data, sharding__fsdp=fsdp, **options)
    message = (
        rf'data x fsdp x context x tensor = {data} x {fsdp} x 1 x 1 does not fit 8 devices; what fits: '
        '8 x 1 x 1 x 1, 4 x 2 x 1 x 1, 2 x 4 x 1 x 1, 1 x 8 x 1 x 1, '
        '4 x 1 x 2 x 1, 2 x 2 x 2 x 1, 1 x 4 x 2 x 1, '
        '4 x 1 x 1 x 2, 2 x 2 x 1 x 2, 1 x 4 x 1 x 2, 2 x 1 x 2 x 2, 1 x 2 x 2 x 2, '
        '2 x 1 x 1 x 4, 1 x 2 x 1 x 4, 1 x 1 x 2 x 4$'
    )
    with pytest.raises(UserError, match=message):
        make_mesh(config)


def test_only_one_axis_takes_what_is_left():
    with pytest.raises(UserError, match=r'= -1 x -1 x 1 x 1: only one of them can take what is left'):
        tiny_config(sharding__fsdp=-1)


def test_a_context_that_does_not_divide_the_length_is_refused():
    with pytest.raises(UserError, match=r'config.sharding.context = 3 does not divide config.data.length = 16'):
        tiny_config(sharding__context=3)


def test_slices_are_joined_by_data_alone():
    """As on TPU pods: within a slice all axes, across slices whole copies."""
    devices = devices_of(16, 'tpu', slices=2)
    assert num_slices(devices) == 2
    config = tiny_config(sharding__data=1, sharding__fsdp=16, training__batch_size=16)
    fits = (
        r'16 devices in 2 slices, whose slow network data alone may cross; '
        'what fits: 16 x 1 x 1 x 1, 8 x 2 x 1 x 1, 4 x 4 x 1 x 1, 2 x 8 x 1 x 1, 8 x 1 x 2'
    )
    with pytest.raises(UserError, match=fits):
        make_mesh(config, devices)
    assert num_slices(devices_of(16, 'gpu', slices=2)) == 1


def test_a_hybrid_mesh_keeps_the_slices_apart(monkeypatch):
    asked = {}

    def create(within, across, devices, **options):
        asked.update(within=within, across=across, **options)
        return np.asarray(devices).reshape(np.multiply(within, across))

    monkeypatch.setattr(sharding.mesh_utils, 'create_hybrid_device_mesh', create)
    monkeypatch.setattr(sharding, 'Mesh', lambda devices, names, **_: dict(zip(names, devices.shape, strict=True)))
    config = tiny_config(sharding__data=-1, sharding__fsdp=4, training__batch_size=16)
    made = make_mesh(config, devices_of(16, 'tpu', slices=2))
    assert made == {'data': 4, 'fsdp': 4, 'context': 1, 'tensor': 1}
    assert asked == {'within': (2, 4, 1, 1), 'across': (2, 1, 1, 1), 'allow_split_physical_axes': True}


def test_a_batch_that_the_devices_cannot_divide_is_refused(eight):
    with pytest.raises(UserError, match=r'a microbatch of 4 rows .* cannot be divided over 8 devices'):
        make_mesh(tiny_config(training__batch_size=8, training__accumulation=2))
    with pytest.raises(UserError, match=r'config.evaluation.batch_size = 12 cannot be divided over 8 devices'):
        make_mesh(tiny_config(evaluation__batch_size=12))


@pytest.mark.parametrize(
    ('changes', 'cores', 'devices'),
    [
        ({}, 2, 2),
        ({}, 3, 2),  # three cores do not divide eight rows
        ({}, 64, 8),
        ({'training__accumulation': 8}, 4, 1),
        ({'evaluation__batch_size': 3}, 2, 1),
        ({'sharding__fsdp': 4}, 2, 4),
        ({'sharding__fsdp': 4}, 6, 4),
        ({'sharding__data': 4, 'sharding__fsdp': 2}, 2, 8),
        ({'sharding__data': 1}, 4, 1),
        ({'sharding__cpu_devices': 4}, 2, 4),
        ({'sharding__tensor': 2}, 2, 2),
        ({'sharding__tensor': 4, 'training__batch_size': 2}, 64, 8),
        ({'sharding__data': 1, 'sharding__tensor': 4}, 2, 4),
        ({'sharding__data': 1, 'sharding__fsdp': -1}, 4, 4),
        ({'sharding__data': 2, 'sharding__context': 4}, 64, 8),
    ],
)
def test_the_cpu_is_split_into_devices_that_divide_the_batch(monkeypatch, changes, cores, devices):
    updates = {}
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(sharding.jax.config, 'update', updates.__setitem__)
    monkeypatch.setattr(type(jax.config), 'jax_num_cpu_devices', -1, raising=False)
    sharding.start_devices(tiny_config(**changes))
    assert updates == {'jax_num_cpu_devices': devices}


def test_what_is_compiled_is_kept_where_the_config_says(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        sharding.keep_compiled(str(tmp_path))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        sharding.keep_compiled('')
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update('jax_compilation_cache_dir', before)


def test_the_environment_wins_over_the_config(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=3')
    monkeypatch.setattr(sharding.jax.config, 'update', refuse)
    sharding.start_devices(tiny_config(sharding__cpu_devices=4))


@pytest.fixture(scope='module')
def trained(tmp_path_factory, worker_id):
    """Five steps on several meshes of eight forced CPU devices; of the workers of a test run one trains."""
    folder = tmp_path_factory.getbasetemp()
    found = (folder if worker_id == 'master' else folder.parent) / 'sharded_training.json'
    with found.with_suffix('.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            found.write_text(train_on_eight_devices())
        return json.loads(found.read_text())


def train_on_eight_devices(*arguments) -> str:
    """What sharded_training.py prints, unless the compiler complained that it had to join what was cut."""
    program = Path(__file__).with_name('sharded_training.py')
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
    environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(program.parents[1])}
    command = [sys.executable, program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'rematerialization' not in done.stderr, done.stderr
    return done.stdout


def check_against_one_device(results: dict) -> int:
    """How many runs on a mesh gave the losses, the parameters and the measures of theirs on one device."""
    runs = {name: run for name, run in results.items() if ': ' in name and not name.endswith(': one device')}
    for name, run in runs.items():
        alone = results[f'{name.partition(": ")[0]}: one device']
        assert alone['spread'] > 5e-3, name  # so that a difference of 1e-5 means something
        np.testing.assert_allclose(run['losses'], alone['losses'], rtol=0, atol=1e-5, err_msg=name)
        assert run['difference'] < 1e-5, name
        assert run['evaluated'] < 1e-5, name
        assert (run['devices'], alone['devices']) == (8, 1), name
    return len(runs)


def test_every_mesh_objective_kernel_and_optimizer_trains_like_one_device(trained):
    """With dropout on: it is keyed by the row of the global batch and its place there, not by device or microbatch."""
    assert check_against_one_device(trained) == 22


@pytest.mark.slow
def test_every_mesh_with_every_objective_trains_like_one_device():
    assert check_against_one_device(json.loads(train_on_eight_devices('all'))) == 80


def exchanged(run, *kinds: str) -> list[tuple[str, int, str]]:
    """(dtype, size, where from) of a step's collectives of these kinds."""
    return [tuple(rest) for kind, *rest in run['collectives'] if kind in kinds]


GATHERS = 'all-gather', 'all-to-all', 'collective-permute'


def test_copies_of_the_model_exchange_one_sum_a_step(trained):
    assert len(trained['causal: data 8']['collectives']) == 1
    assert len(trained['hybrid: data 8']['collectives']) == 1  # with accumulation


def test_tensor_parallel_layers_and_vocabulary_are_never_gathered(trained):
    """Matrices, heads, feed-forward and logits stay cut: what devices exchange is sums of activations alone."""
    assert exchanged(trained['causal: data 2 x tensor 4'], *GATHERS) == []
    whole = 32 * 128  # the largest matrix of a block, of which each device has a quarter after gathering over fsdp
    sizes = [size for _, size, source in exchanged(trained['causal: fsdp 2 x tensor 4, accumulation 2'], *GATHERS)]
    assert max(sizes) == max(whole, 264 * 32) // 4


def test_fsdp_gathers_one_matrix_at_a_time_and_hands_back_its_sum(trained):
    matrices = 2 * 6 + 2  # of two layers, and two tables
    for name in ('causal: fsdp 8', 'causal: data 2 x fsdp 4, accumulation 2'):
        gathered, reduced = (exchanged(trained[name], kind) for kind in ('all-gather', 'reduce-scatter'))
        assert len(gathered) == len(reduced) == matrices, name
        assert max(size for _, size, _ in gathered) == 264 * 32, name  # the token embedding
        assert exchanged(trained[name], 'all-to-all', 'collective-permute') == []


def test_weights_travel_in_the_dtype_of_the_products_and_gradients_in_float32(trained):
    assert trained['bfloat16'] == [['all_gather', 'bf16'], ['reduce_scatter', 'f32']]


def test_context_parallelism_gathers_keys_and_values_alone(trained):
    """And what says who sees them: order and segment."""
    run, rows = trained['causal: data 2 x context 4'], 8
    gathered = exchanged(run, *GATHERS)
    numbers = [(size, source) for dtype, size, source in gathered if dtype == 'f32']
    assert [size for size, _ in numbers] == [rows * 16 * 32] * 4  # keys and values of two layers
    assert all('attention' in source for _, source in numbers)
    assert sum(dtype == 's32' for dtype, *_ in gathered) == 2
    assert len(gathered) == 6


def test_a_ring_hands_keys_and_values_on_and_gathers_nothing(trained):
    for name in ('ring: data 2 x context 4', 'ring, window: context 4 x tensor 2, scan'):
        assert exchanged(trained[name], 'collective-permute')
        assert all('attention' in source for *_, source in exchanged(trained[name], 'collective-permute')), name
        assert [a for a in exchanged(trained[name], 'all-gather', 'all-to-all') if a[0] == 'f32'] == [], name


def test_fsdp_really_cuts_what_the_devices_hold(trained):
    assert trained['causal: fsdp 8']['whole'] == []
    assert trained['causal: data 2 x fsdp 4, accumulation 2']['whole'] == []
    assert trained['muon: data 2 x fsdp 4']['whole'] == []
    assert trained['adafactor: data 2 x fsdp 4']['whole'] == []
    assert len(trained['causal: data 8']['whole']) == len(trained['causal: one device']['whole']) > 0
