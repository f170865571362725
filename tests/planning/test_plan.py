"""`launch.py plan` as a user meets it, on the CPU; tests/planning/test_tpu.py has the TPU's compiler."""

import builtins
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_config

import launch
from gpt2jax.commands import planning
from gpt2jax.errors import UserError
from gpt2jax.planning import compiling, devices
from gpt2jax.planning.compiling import environment, plan_step
from gpt2jax.planning.topologies import read_topology

REPOSITORY = Path(__file__).parents[2]
TINY = [
    f'--config={REPOSITORY / "configs" / "laptop.py"}:tokenizer=bytes,length=32,num_layers=2,width=64,num_heads=4',
    '--config.training.batch_size=8',
    '--config.training.accumulation=2',
    '--config.model.scan_layers',
]


def run(capsys, *arguments):
    """(exit status, standard output, standard error) of `launch.py plan`."""
    status = launch.main(['plan', *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope='module')
def planned(tmp_path_factory):
    """The JSON, the page and the text of one plan: training on four devices, measured as well."""
    base = tmp_path_factory.mktemp('plan') / 'tiny'
    command = [sys.executable, str(REPOSITORY / 'launch.py'), 'plan', *TINY, '--topology=cpu:4', '--price=2']
    command += ['--config.sharding.fsdp=2', f'--out={base}', '--measure']
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(Path(f'{base}.json').read_text()), Path(f'{base}.html').read_text(), done.stdout


def test_a_plan_says_whether_it_fits_and_how_long_a_step_takes(planned):
    plan, _, text = planned
    assert (plan['devices'], plan['chips'], plan['name']) == (4, 4, 'laptop')
    assert (plan['mesh']['data'], plan['mesh']['fsdp']) == (2, 2)
    (step,) = plan['steps']
    assert step['fits']
    assert step['tokens'] == 8 * 32
    low, high = step['outlook']['step_seconds']
    assert 0 < low <= high
    assert step['outlook']['tokens_per_second'] == [pytest.approx(256 / low), pytest.approx(256 / high)]
    assert 'train: fits. ' in text
    assert 'not measured' in text


def test_memory_is_that_of_the_state(planned):
    kinds = planned[0]['steps'][0]['memory']['kinds']
    assert kinds['optimizer'] == pytest.approx(2 * kinds['parameters'], rel=0.01)
    assert kinds['activations and temporaries'] > 0


def test_the_compiled_program_does_the_work_of_the_model_and_talks_along_the_mesh(planned):
    step = planned[0]['steps'][0]
    compiled, model = step['time']['flops_per_device'] * 4, step['flops']['full map']
    assert model <= compiled <= 1.2 * model
    axes = {row['axes'] for row in step['time']['collectives']}
    assert 'fsdp' in axes
    assert axes <= {'data', 'fsdp', 'data x fsdp', 'data x fsdp x context'}
    assert step['time']['unknown_loops'] == 0


def test_days_chip_hours_and_cost_follow_from_the_steps_of_the_config(planned):
    plan = planned[0]
    outlook, steps = plan['steps'][0]['outlook'], plan['config']['training']['steps']
    assert outlook['tokens'] == steps * 256
    for (seconds, hours), (chip_hours, cost) in zip(
        zip(outlook['step_seconds'], outlook['hours'], strict=True),
        zip(outlook['chip_hours'], outlook['cost'], strict=True),
        strict=True,
    ):
        assert hours == pytest.approx(seconds * steps / 3600)
        assert chip_hours == pytest.approx(4 * hours)
        assert cost == pytest.approx(2 * chip_hours)


def test_what_was_measured_stands_beside_what_was_predicted(planned):
    plan, page, text = planned
    assert plan['measured']['seconds'] > 0
    assert plan['measured']['runs'] >= 3
    assert plan['calibration']['flops'] > 1e8
    assert 'measured here: ' in text
    assert 'Measured on this machine' in page


def test_the_page_is_whole_and_loads_nothing(planned):
    plan, page, _ = planned
    assert page.startswith('<!DOCTYPE html>')
    assert '$' not in page.replace('$ref', '')
    assert 'a prediction, not a measurement' in page
    assert not re.search(r'https?://|<script|<link|@import| src=', page)
    assert 'all-reduce' in page or 'reduce-scatter' in page
    assert plan['method'].split(',')[0] in page


@pytest.mark.parametrize(('mode', 'names'), [('evaluate', ['evaluate likelihood']), ('sample', ['prompt', 'token'])])
def test_evaluation_and_sampling_are_planned_as_well(mode, names):
    answer = plan_step(tiny_config(evaluation__batch_size=8, data__length=64), 'cpu:1', mode=mode)
    assert [step['name'] for step in answer['steps']] == names
    for step in answer['steps']:
        assert step['fits']
        assert 0 < step['time']['low'] <= step['time']['high']


def test_a_search_compiles_candidates_and_recommends_flags(capsys, tmp_path):
    arguments = [*TINY, '--topology=cpu:2', '--search', '--candidates=2', f'--out={tmp_path / "s"}']
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, '')
    search = json.loads((tmp_path / 's.json').read_text())['search']
    assert len(search['results']) == 2
    assert search['results'][0]['changes'] == {}
    assert search['recommended'] == search['front'][0]
    assert 'recommended: ' in out
    assert '<svg class="scatter"' in (tmp_path / 's.html').read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--topology is missing'),
        (['--topology=v9:4'], 'unknown. Known are'),
        (['--topology=cpu:2', '--mode=learn'], '--mode=learn: expected one of train, evaluate, sample'),
        (['--topology=cpu:2', '--mode=sample', '--search'], '--search and --measure are of training'),
        (['--topology=cpu:2', '--price=-1'], '--price=-1.0'),
        (['--topology=cpu:2', '--search', '--candidates=0'], '--candidates=0: expected 1 or more'),
        (['--topology=cpu:3'], 'cannot be divided'),
        (['--topology=cpu:2', '--config.model.width=65'], 'config.model.width = 65'),
    ],
)
def test_what_cannot_be_planned_is_refused_with_words(capsys, arguments, message):
    status, out, err = run(capsys, *TINY, *arguments)
    assert status == 2
    assert message in err
    assert 'Traceback' not in out + err


def test_a_missing_compiler_is_named_with_the_file_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == 'libtpu':
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UserError, match=r'needs libtpu.*pip install -r requirements-plan\.txt'):
        devices.make_devices(read_topology('v5e:2x4'))


@pytest.mark.skipif(importlib.util.find_spec('jax_plugins') is not None, reason='the compiler for GPUs is installed')
def test_a_missing_gpu_compiler_is_named_with_the_file_to_install():
    with pytest.raises(UserError, match=r'pip install --no-deps -r requirements-plan-gpu\.txt'):
        devices.make_devices(read_topology('h100:1'))


def test_a_worker_is_told_the_platform_and_nothing_of_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--kept')
    pod = environment(read_topology('v5e:16x16'), tmp_path)
    assert pod['JAX_PLATFORMS'] == 'cpu'
    assert pod['TPU_ACCELERATOR_TYPE'] == 'v5litepod-8'
    assert pod['JAX_ENABLE_COMPILATION_CACHE'] == 'false'
    cpu = environment(read_topology('cpu:8'), tmp_path)
    assert cpu['XLA_FLAGS'].startswith('--kept --xla_force_host_platform_device_count=8 ')
    assert 'TPU_ACCELERATOR_TYPE' not in cpu or cpu['TPU_ACCELERATOR_TYPE'] != 'v5litepod-8'


def test_a_compiler_that_dies_is_an_error_and_leaves_no_process(monkeypatch, tmp_path):
    script = tmp_path / 'dies'
    script.write_text('#!/bin/sh\necho the compiler fell over >&2\nkill -9 $$\n')
    script.chmod(0o755)
    monkeypatch.setattr(compiling.sys, 'executable', str(script))
    with pytest.raises(UserError, match='was killed, as a process is that asks for more memory'):
        plan_step(tiny_config(), 'cpu:1')
    script.write_text('#!/bin/sh\necho the compiler fell over >&2\nexit 3\n')
    with pytest.raises(UserError, match=r'(?s)status 3.*the compiler fell over'):
        plan_step(tiny_config(), 'cpu:1')


def test_a_compiler_that_takes_too_long_is_stopped(monkeypatch, tmp_path):
    script = tmp_path / 'sleeps'
    script.write_text('#!/bin/sh\nexec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setattr(compiling.sys, 'executable', str(script))
    with pytest.raises(UserError, match='the compiler was stopped after'):
        plan_step(tiny_config(), 'cpu:1', timeout=0.5)


def test_a_candidate_that_fails_does_not_end_the_search(monkeypatch):
    def fails(config, topology, **options):
        raise UserError('the compiler fell over\nin many lines')

    monkeypatch.setattr(planning, 'plan_step', fails)
    step = {'fits': True, 'outlook': {'step_seconds': [1.0, 3.0]}, 'memory': {'peak': 5}}
    config, place = tiny_config(training__batch_size=32), read_topology('cpu:2')
    board = planning.Board(planning.console, lambda: 0.0)
    found = planning.search(config, place, {'name': 'x', 'steps': [step]}, {'candidates': 3, 'jobs': 2}, board)
    assert found['front'] == [0]
    assert [result['why'] for result in found['results']] == ['', 'the compiler fell over', 'the compiler fell over']
