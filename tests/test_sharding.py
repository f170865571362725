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
from gpt2jax.sharding import AXES, RULES, bytes_per_device, local_rows, make_mesh, parameter_spec, shard
from gpt2jax.training.state import make_init

VOCABULARY = PartitionSpec(('tensor', 'fsdp'), None)
INWARD, OUTWARD = PartitionSpec('tensor', 'fsdp'), PartitionSpec('fsdp', 'tensor')
HEADS, WHOLE = PartitionSpec('tensor'), PartitionSpec()
TABLE = {
    'embedding/token': VOCABULARY,
    'embedding/position/embedding': PartitionSpec(None, 'fsdp'),
    'head/kernel': VOCABULARY,
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


def mesh_of(data, fsdp, tensor=1):
    """A mesh of devices that need not exist."""
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def abstract_gpt2(**changes):
    """Shapes of the state of a GPT-2 with an untied head, whose matrices divide by 8."""
    config = tiny_config(model__head__tied=False, model__vocab_multiple=8, **changes)
    optimizer = make_optimizer(config)
    return jax.eval_shape(make_init(make_model(config.model), optimizer, 0))


def leaves(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_the_table_says_how_each_parameter_of_a_gpt2_is_cut():
    params = leaves(abstract_gpt2().params)
    specs = {path: parameter_spec(path, leaf.shape, mesh_of(1, 8)) for path, leaf in params.items()}
    for layer in range(3):
        found = {re.sub(f'^blocks/{layer}/', 'blocks/*/', path): spec for path, spec in specs.items()}
        assert {path: spec for path, spec in found.items() if re.search(r'^blocks/\d', path) is None} == TABLE


def test_every_rule_is_the_first_to_match_some_parameter():
    first = {next(i for i, (pattern, _) in enumerate(RULES) if re.search(pattern, path)) for path in TABLE}
    assert first == set(range(len(RULES)))


def test_fsdp_cuts_every_large_array_of_parameters_and_optimizer():
    state = shard(abstract_gpt2(), mesh_of(1, 8))
    large = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.size >= 512]
    assert len(large) == 3 * (3 * 6 + 3)
    for leaf in large:
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) * 8 == leaf.size


@pytest.mark.parametrize('kind', sorted(OPTIMIZERS))
def test_fsdp_cuts_every_large_matrix_of_every_optimizer_and_of_an_average(kind):
    """Adafactor's rows and columns are small, and whole."""
    average = 0.0 if kind == 'schedule_free' else 0.9
    options = {'optimizer__kind': kind, 'optimizer__average': average, 'optimizer__schedule': 'constant'}
    state = shard(abstract_gpt2(**options), mesh_of(1, 8))
    matrices = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.size >= 512]
    copies = {'adamw': 3, 'lion': 2, 'muon': 2, 'adafactor': 1, 'schedule_free': 2}[kind]
    adam_only = 3 if kind == 'muon' else 0  # the second moments of embeddings and head
    assert len(matrices) == copies * (3 * 6 + 3) + adam_only
    for leaf in matrices:
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) * 8 == leaf.size


def test_the_optimizer_is_cut_like_its_parameters():
    state = shard(abstract_gpt2(), mesh_of(2, 4))
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
    assert parameter_spec('embedding/token', (50257, 64), mesh_of(1, 8)) == PartitionSpec(None, None)


def test_a_scalar_of_the_optimizer_is_whole_whatever_its_path():
    assert parameter_spec('0/factored/embedding/token', (), mesh_of(1, 8)) == WHOLE


def test_shard_keeps_shapes_and_dtypes():
    state = abstract_gpt2()
    placed = shard(state, mesh_of(1, 8))
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    for leaf, wanted in zip(jax.tree.leaves(placed), jax.tree.leaves(state), strict=True):
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)


def test_bytes_per_device_count_the_part_that_a_device_holds():
    def array(spec):
        return jax.ShapeDtypeStruct((16, 4), np.float32, sharding=NamedSharding(mesh_of(2, 4), spec))

    assert bytes_per_device({'a': array(PartitionSpec('fsdp')), 'b': array(PartitionSpec())}) == 64 + 256


@pytest.fixture
def eight(monkeypatch):
    """Pretends that there are eight devices."""
    monkeypatch.setattr(jax, 'device_count', lambda: 8)
    monkeypatch.setattr(jax, 'make_mesh', lambda shape, names, axis_types: dict(zip(names, shape, strict=True)))


@pytest.mark.parametrize(
    ('given', 'taken'),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 4, 1), (2, 4, 1)),
        ((8, 1, 1), (8, 1, 1)),
        ((1, 8, 1), (1, 8, 1)),
        ((2, 4, 1), (2, 4, 1)),
        ((-1, 1, 4), (2, 1, 4)),
        ((-1, 2, 4), (1, 2, 4)),
        ((2, 2, 2), (2, 2, 2)),
    ],
)
def test_a_mesh_takes_all_devices(eight, given, taken):
    changes = {f'sharding__{axis}': size for axis, size in zip(AXES, given, strict=True)}
    assert make_mesh(tiny_config(**changes)) == dict(zip(AXES, taken, strict=True))


@pytest.mark.parametrize(('data', 'fsdp'), [(4, 1), (-1, 3), (8, 2), (-1, 16)])
def test_a_mesh_that_cannot_take_the_devices_is_refused_with_those_that_can(eight, data, fsdp):
    config = tiny_config(training__batch_size=48, sharding__data=data, sharding__fsdp=fsdp)
    message = (
        rf'data x fsdp x tensor = {data} x {fsdp} x 1 does not fit 8 devices; what fits: '
        '8 x 1 x 1, 4 x 2 x 1, 2 x 4 x 1, 1 x 8 x 1, 4 x 1 x 2, 2 x 2 x 2, 1 x 4 x 2, 2 x 1 x 4, 1 x 2 x 4$'
    )
    with pytest.raises(UserError, match=message):
        make_mesh(config)


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


def test_the_parts_of_all_processes_make_the_batch(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 4)
    rows = []
    for index in range(4):
        monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
        rows += range(32)[local_rows(32)]
    assert rows == list(range(32))


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


def train_on_eight_devices() -> str:
    """What sharded_training.py prints."""
    program = Path(__file__).with_name('sharded_training.py')
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
    environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(program.parents[1])}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_mesh_and_accumulation_trains_like_one_device(trained):
    """With dropout on: it is keyed by the row of the global batch, not by the device or the microbatch."""
    reference = trained['one device']
    assert reference['spread'] > 5e-3  # so that a difference of 1e-5 means something
    runs = {name: run for name, run in trained.items() if ':' not in name}
    assert len(runs) == 6
    for name, run in runs.items():
        np.testing.assert_allclose(run['losses'], reference['losses'], rtol=0, atol=1e-5, err_msg=name)
        assert run['difference'] < 1e-5, name
        assert run['devices'] == (1 if run is reference else 8)


def test_tensor_parallel_layers_and_vocabulary_are_never_gathered(trained):
    """Matrices, heads, feed-forward and logits stay cut: what devices exchange is sums of activations alone."""
    assert trained['data 2 x tensor 4']['gathered'] == []
    assert trained['fsdp 8']['gathered']  # that gathering is seen where there is some


def test_fsdp_never_gathers_several_matrices_in_one_piece(trained):
    largest = 264 * 32  # the token embedding
    for name in ('fsdp 8', 'data 2 x fsdp 4, accumulation 2'):
        assert max(trained[name]['gathered']) <= largest, name


def test_fsdp_really_cuts_what_the_devices_hold(trained):
    assert trained['fsdp 8']['whole'] == []
    assert trained['data 2 x fsdp 4, accumulation 2']['whole'] == []
    assert len(trained['data 8']['whole']) == len(trained['one device']['whole']) > 0


@pytest.mark.parametrize('kind', ['muon', 'adafactor'])
def test_optimizers_of_whole_matrices_and_averages_train_on_a_mesh_like_on_one_device(trained, kind):
    alone, cut = trained[f'{kind}: one device'], trained[f'{kind}: data 2 x fsdp 4']
    assert alone['spread'] > 5e-3
    np.testing.assert_allclose(cut['losses'], alone['losses'], rtol=0, atol=1e-5)
    assert cut['difference'] < 1e-5
    assert cut['devices'] == 8
    assert cut['whole'] == []


def test_what_an_objective_draws_does_not_depend_on_devices_and_microbatches(trained):
    alone, cut = trained['hybrid: one device'], trained['hybrid: data 8']
    assert alone['spread'] > 5e-3
    np.testing.assert_allclose(cut['losses'], alone['losses'], rtol=0, atol=1e-5)
    assert cut['difference'] < 1e-5
    assert cut['devices'] == 8
