"""A step that is no number: what is kept of it, and that the replay names the tensor, the layer and the rows."""

import json
import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import one_device_setup, random_batch, tiny_config

from gpt2jax import commands
from gpt2jax.data import Rows, Tokens, make_tokenizer
from gpt2jax.data.rows import train_batch, train_indices
from gpt2jax.errors import UserError
from gpt2jax.optimizers import path_name
from gpt2jax.training.replay import GRADIENT_NORM, examine, layer_of, run_to
from gpt2jax.training.statistics import measure, summary

SMALL = {'model__width': 16, 'model__attention__num_heads': 2, 'optimizer__warmup_steps': 0}


def quiet(work, *_):
    """A `track` that draws nothing."""
    return work


def planted(setup, pattern, change):
    """The initial state with the parameters changed whose path matches."""
    state = setup.initial_state()

    def plant(path, leaf):
        return change(leaf) if re.fullmatch(pattern, path_name(path)) else leaf

    return state.replace(params=jax.tree_util.tree_map_with_path(plant, state.params))


@pytest.mark.parametrize(
    ('pattern', 'size', 'kind', 'expected'),
    [
        ('blocks/1/feedforward/expand/kernel', 3e38, 'gelu_tanh', 'blocks/1/feedforward/expand'),
        ('blocks/1/feedforward/expand/kernel', 1e24, 'relu2', 'blocks/1/feedforward/hidden'),
        ('blocks/2/attention/value/kernel', 3e38, 'gelu_tanh', 'blocks/2/attention/value'),
        ('blocks/0/attention/(query|key)/kernel', 1e24, 'gelu_tanh', 'blocks/0/attention/read'),
        ('norm_final/scale', 3e38, 'gelu_tanh', 'norm_final'),
    ],
)
def test_a_planted_overflow_is_named(pattern, size, kind, expected):
    """Huge parameters, float32: the tensor that overflows, and no other before it."""
    setup = one_device_setup(tiny_config(**SMALL, model__feedforward__kind=kind))
    state = planted(setup, pattern, lambda leaf: jnp.copysign(jnp.full_like(leaf, size), leaf))
    findings = examine(setup, state, random_batch(8, 16), quiet)
    phase, name, found = findings.first()
    assert (phase, name) == ('forward', expected)
    assert found.rows.keys() == set(range(8))
    place = [other for other, _ in findings.forward].index(name)
    assert place > 0
    assert not any(s.nonfinite for _, s in findings.forward[:place] + findings.parameters)
    assert findings.backward == []


@pytest.mark.parametrize(
    ('pattern', 'expected'),
    [
        ('encoder/1/feedforward/expand/kernel', 'encoder/1/feedforward/expand'),
        ('norm_encoder/scale', 'norm_encoder'),
        ('blocks/0/cross/value/kernel', 'blocks/0/cross/value'),
        ('norm_final/scale', 'norm_final'),
    ],
)
def test_an_overflow_on_either_side_is_named(pattern, expected):
    sides = {'model__architecture': 'encoder_decoder', 'objective__kind': 'prefix', 'model__encoder_layers': 2}
    setup = one_device_setup(tiny_config(**SMALL | sides, model__num_layers=1))
    state = planted(setup, pattern, lambda leaf: jnp.copysign(jnp.full_like(leaf, 3e38), leaf))
    assert examine(setup, state, random_batch(8, 16), quiet).first()[:2] == ('forward', expected)


def test_an_embedding_that_is_nan_names_the_row_that_reads_it():
    setup = one_device_setup(tiny_config(**SMALL, training__accumulation=2, model__dropout=0.1))
    batch = random_batch(8, 16, vocab=200)
    batch['tokens'][5, 9] = 222
    findings = examine(
        setup, planted(setup, 'embedding/token', lambda leaf: leaf.at[222, 3].set(jnp.nan)), batch, quiet
    )
    phase, name, found = findings.first()
    assert (phase, name) == ('forward', 'embedding')
    assert found.rows == {5: [9]}
    assert found.nonfinite == 1
    assert [n for n, s in findings.parameters if s.nonfinite] == ['embedding/token']


def test_a_gradient_that_alone_overflows_is_named_from_the_end():
    """Values of 1e37 that a tiny matrix makes small again: their gradient overflows where that matrix is."""
    setup = one_device_setup(tiny_config(**SMALL))
    state = setup.initial_state()
    params = state.params
    attention = params['blocks'][1]['attention']
    attention['value']['kernel'] *= 3e38
    attention['out']['kernel'] *= 1e-36
    params['norm_final']['scale'] *= 1e4
    findings = examine(setup, state, random_batch(8, 16), quiet)
    phase, name, found = findings.first()
    assert (phase, name) == ('backward', 'blocks/1/attention/out/kernel')
    assert np.isfinite(findings.loss)
    assert found.rows.keys() <= set(range(8))
    *names, last = (name for name, _ in findings.backward)
    assert set(names[:2]) == {'norm_final/bias', 'norm_final/scale'}
    assert names.index('blocks/2/attention/query/kernel') < names.index('blocks/1/feedforward/contract/kernel')
    assert names[-1].startswith('embedding/')
    assert last == GRADIENT_NORM


@pytest.mark.parametrize(
    'changes',
    [
        {'training__accumulation': 4, 'model__vocab_multiple': 64, 'loss__chunk_tokens': 32},
        {'objective__kind': 'masked', 'model__scan_layers': True, 'loss__z_loss': 1e-3, 'loss__label_smoothing': 0.1},
        {'objective__kind': 'span_corruption', 'model__norm__placement': 'post', 'model__remat': 'full'},
        {'objective__switch': 'prefix@1,hybrid@2', 'optimizer__average': 0.9, 'model__head__tied': False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_step_that_is_finite_has_the_loss_and_the_gradient_of_training(changes):
    """With dropout: the replay draws what training drew."""
    setup = one_device_setup(tiny_config(**SMALL, model__dropout=0.2, model__attention__dropout=0.1, **changes))
    rows = some_rows()
    state, earlier = run_to(setup, setup.initial_state(), rows, 0, 2, quiet)
    assert (int(state.step), earlier) == (2, None)
    batch = train_batch(rows, setup.config.seed, 2, 8)
    findings = examine(setup, state, batch, quiet)
    assert findings.first() is None
    _, metrics = setup.train_step(setup.kind_at(2))(state, batch)
    np.testing.assert_allclose(findings.loss, metrics['loss'], rtol=1e-5)
    np.testing.assert_allclose(findings.gradient_norm, metrics['gradient_norm'], rtol=1e-4)


def some_rows():
    tokenizer = make_tokenizer('bytes')
    stream = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint16)
    stream[::50] = tokenizer.end_of_text
    return Rows(Tokens(stream, np.arange(0, 2001, 50), 1960), 16, False, tokenizer)


def test_a_step_before_that_breaks_here_ends_the_way_there():
    setup = one_device_setup(tiny_config(**SMALL))
    state = planted(setup, 'norm_final/scale', lambda leaf: leaf * jnp.nan)
    assert run_to(setup, state, some_rows(), 0, 5, quiet)[1] == 0


def test_statistics_of_parts_are_those_of_the_whole():
    x = np.random.default_rng(0).normal(2, 3, (7, 5)).astype(np.float32) * 1e30
    x[2, 3], x[6, 1] = np.nan, -np.inf
    whole, *parts = (summary(jax.device_get(measure(jnp.asarray(a)))) for a in (x, x[:2], x[2:]))
    joined, finite = parts[0] + parts[1], x[np.isfinite(x)].astype(np.float64)
    for found in (whole, joined):
        assert (found.count, found.nonfinite) == (33, 2)
        expected = np.abs(finite).max(), finite.mean(), finite.std()
        np.testing.assert_allclose((found.largest, found.mean, found.std), expected, rtol=1e-5)


@pytest.fixture(name='failed', scope='module')
def fail(tmp_path_factory):
    """A run whose parameters grow 10,000-fold a step until they overflow, and what it said."""
    folder, draw = tmp_path_factory.mktemp('failed'), random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost']
    (folder / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(60)))
    config = tiny_config(
        **SMALL,
        data__corpus='text',
        data__path=str(folder / 'plays.txt'),
        data__directory=str(folder / 'cache'),
        runtime__compilation_cache='',
        training__batch_size=8,
        evaluation__batch_size=8,
        evaluation__every=0,
        checkpoint__every_steps=2,
        checkpoint__every_minutes=0.0,
        checkpoint__keep=1,
        optimizer__weight_decay=1e7,
        optimizer__learning_rate=1e-3,
        optimizer__schedule='constant',
        model__dropout=0.1,
        sharding__cpu_devices=1,
    )
    workdir = folder / 'run'
    with pytest.raises(UserError) as caught:
        commands.train(config, str(workdir), 'a test')
    return workdir, str(caught.value)


def test_the_failure_names_what_was_kept_and_the_command(failed):
    workdir, message = failed
    record = json.loads((workdir / 'nonfinite.json').read_text())
    assert f'{workdir}/nonfinite.json' in message
    assert f'python launch.py replay --workdir={workdir}' in message
    assert f'step {record["step"]}: ' in message
    assert record['step'] > record['checkpoint'] >= 2
    assert (workdir / 'nonfinite' / str(record['checkpoint']) / 'manifest.json').exists()
    assert len(record['rows']) == 8
    assert not np.isfinite([float(record['loss']), float(record['gradient_norm'])]).all()


def test_a_failed_step_is_replayed_even_when_its_checkpoint_was_retired(failed, capsys):
    workdir, _ = failed
    shutil.rmtree(workdir / 'checkpoints')
    record = json.loads((workdir / 'nonfinite.json').read_text())
    findings = commands.replay(str(workdir))
    out = ' '.join(capsys.readouterr().out.split())
    report = json.loads((workdir / 'replay.json').read_text())
    assert report['step'] == record['step']
    assert {name: report['in_training'][name] for name in ('loss', 'gradient_norm')} == {
        name: record[name] for name in ('loss', 'gradient_norm')
    }
    phase, name, _ = findings.first()
    assert (phase, name) == ('backward', GRADIENT_NORM)  # each gradient is finite, their squares are not
    assert report['first'] == {'phase': phase, 'tensor': name, 'layer': layer_of(name)}
    for expected in (f'step {record["step"]}', name, 'hint: ', 'largest before it', f'{workdir.name}/replay.json'):
        assert expected in out, expected


def test_a_run_that_did_not_fail_has_nothing_to_replay(tmp_path):
    with pytest.raises(UserError, match='no step of this run'):
        commands.replay(str(tmp_path))


def test_the_rows_that_are_named_are_those_of_the_batch():
    rows = some_rows()
    indices, batch = train_indices(rows, 3, 40, 8), train_batch(rows, 3, 40, 8)
    np.testing.assert_array_equal(rows.batch(indices)['tokens'], batch['tokens'])
