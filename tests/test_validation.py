"""What `resolve` fills in, and that it refuses what cannot work before anything is touched."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import one_device_setup, random_batch
from ml_collections import ConfigDict

from gpt2jax.config import default_config, flatten, overlay
from gpt2jax.data.corpora import CORPORA
from gpt2jax.errors import UserError
from gpt2jax.objectives import OBJECTIVES
from gpt2jax.sharding import AXES
from gpt2jax.validation import AT_LEAST_ONE, AT_LEAST_ZERO, CHOICES, FRACTIONS, SHARES, resolve

REPOSITORY = Path(__file__).parents[1]
RECIPES = sorted((REPOSITORY / 'configs').glob('*.py'))


def resolved(changes):
    return resolve(overlay(default_config(), changes))


def load_recipe(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_blank_is_filled_in():
    config = resolved({'data.tokenizer': 'bytes', 'data.length': 64, 'training.accumulation': 4})
    assert config.model.vocab_size == 260
    assert config.model.position.max_length == 64
    assert config.model.attention.num_kv_heads == config.model.attention.num_heads == 12
    assert config.model.feedforward.width == 4 * 768
    assert config.optimizer.decay_steps == 200
    assert config.evaluation.batch_size == 4


def test_what_is_given_is_kept():
    given = {
        'model.vocab_size': 50304,
        'model.position.max_length': 2048,
        'model.attention.num_kv_heads': 3,
        'model.feedforward.width': 100,
        'optimizer.decay_steps': 7,
        'evaluation.batch_size': 5,
    }
    assert flatten(resolved(given)).items() >= given.items()


def test_resolving_twice_changes_nothing():
    once = resolve(default_config())
    assert resolve(ConfigDict(once)) == once


def test_the_decay_that_is_filled_in_fits_after_the_warmup():
    config = resolved({'optimizer.schedule': 'wsd', 'optimizer.warmup_steps': 950})
    assert config.optimizer.decay_steps == 50


def test_a_resolved_config_cannot_be_changed_and_its_source_is_not():
    source = default_config()
    before = source.to_dict()
    config = resolve(source)
    with pytest.raises(AttributeError):
        config.model.width = 3
    assert source.to_dict() == before


def test_every_checked_key_is_in_the_tree():
    keys = [*CHOICES, *AT_LEAST_ONE, *AT_LEAST_ZERO, *FRACTIONS, *SHARES]
    assert len(keys) == len(set(keys))
    assert set(keys) <= flatten(default_config()).keys()


def test_every_number_is_checked():
    elsewhere = {
        'optimizer.learning_rate',
        'optimizer.epsilon',
        'objective.rate',
        'model.norm.epsilon',
        'model.init.std',
        'sampling.top_p',
        *(f'sharding.{axis}' for axis in AXES),
    }
    numbers = {key for key, value in flatten(default_config()).items() if type(value) in (int, float)}
    assert numbers == {*AT_LEAST_ONE, *AT_LEAST_ZERO, *FRACTIONS, *SHARES} | elsewhere


def lowest_refused():
    """(key, value, what the message says) for each range."""
    yield from ((key, 0, 'must be at least 1') for key in AT_LEAST_ONE)
    yield from ((key, -1, 'must be at least 0') for key in AT_LEAST_ZERO)
    for key in FRACTIONS:
        yield key, -0.5, 'must be in [0, 1)'
        yield key, 1.0, 'must be in [0, 1)'
    for key in ('optimizer.learning_rate', 'optimizer.epsilon', 'model.norm.epsilon', 'model.init.std'):
        yield key, 0.0, 'must be a positive number'
    for key, value in flatten(default_config()).items():
        if isinstance(value, float):
            yield from ((key, bad, 'must be a finite number') for bad in (float('nan'), float('inf')))
    yield from ((key, bad, 'must be in [0, 1]') for key in SHARES for bad in (-0.1, 1.1))
    yield from ((key, bad, 'must be in (0, 1]') for key in ('objective.rate', 'sampling.top_p') for bad in (0.0, 1.1))
    yield from ((f'sharding.{axis}', bad, 'must be -1 or at least 1') for axis in AXES for bad in (0, -2))
    yield 'seed', 2**32, 'must be below 2**32'


@pytest.mark.parametrize(('key', 'value', 'message'), list(lowest_refused()))
def test_a_number_out_of_its_range_is_refused(key, value, message):
    default = flatten(default_config())[key]
    value = type(default)(value)
    with pytest.raises(UserError, match='^' + re.escape(f'config.{key} = {value}: {message}')):
        resolved({key: value})


@pytest.mark.parametrize('key', [*CHOICES, 'data.corpus'])
def test_an_unknown_name_is_refused_with_the_nearest_and_all_of_them(key):
    choices = sorted(CHOICES[key]) if key in CHOICES else sorted([*CORPORA, 'tfds:NAME'])
    wrong = choices[0] + 'x'
    with pytest.raises(UserError) as refusal:
        resolved({key: wrong})
    message = str(refusal.value)
    assert message.startswith(f'config.{key} = {wrong!r}: unknown; did you mean {choices[0]!r}? One of: ')
    assert message.endswith(', '.join(choices))


@pytest.mark.parametrize(
    ('changes', 'parts'),
    [
        (
            {'model.width': 770},
            ['config.model.width = 770', 'config.model.attention.num_heads = 12', 'widths that work: 768, 780'],
        ),
        ({'model.attention.num_kv_heads': 5}, ['config.model.attention.num_heads = 12', 'num_kv_heads = 5']),
        ({'model.attention.num_kv_heads': 24}, ['config.model.attention.num_heads = 12', 'num_kv_heads = 24']),
        (
            {'data.length': 512, 'model.position.max_length': 256},
            ['config.data.length = 512', 'config.model.position.max_length = 256'],
        ),
        ({'model.vocab_size': 50256}, ['config.model.vocab_size = 50256', 'gpt2', '50260 ids', '50256 is the highest']),
        (
            {'model.vocab_size': 50257, 'model.vocab_multiple': 1},
            ['config.model.vocab_size = 50257', '50260 ids', '50257 rows', 'config.model.vocab_multiple'],
        ),
        (
            {'model.vocab_size': 50257, 'objective.kind': 'span_corruption'},
            ['config.model.vocab_size = 50257', '50259 is the highest that is predicted'],
        ),
        ({'data.tokenizer': 'bpe:4096', 'model.vocab_size': 4096}, ['config.model.vocab_size = 4096', '4100']),
        ({'data.tokenizer': 'file:/no/such/folder'}, ["data.tokenizer = 'file:/no/such/folder'", 'no such folder']),
        (
            {'training.batch_size': 16, 'training.accumulation': 3},
            ['config.training.batch_size = 16', 'config.training.accumulation = 3'],
        ),
        (
            {'training.batch_size': 16, 'training.accumulation': 4, 'sharding.data': 4, 'sharding.fsdp': 2},
            ['a microbatch of 4 rows', '8 devices', 'config.sharding.data x fsdp'],
        ),
        ({'training.batch_size': 16, 'sharding.fsdp': 3}, ['a microbatch of 16 rows', '3 devices']),
        ({'sharding.tensor': 5}, ['config.sharding.tensor = 5', 'config.model.attention.num_kv_heads = 12']),
        (
            {'evaluation.batch_size': 3, 'sharding.data': 2},
            ['config.evaluation.batch_size = 3', '2 devices', 'config.sharding.data x fsdp'],
        ),
        (
            {'optimizer.warmup_steps': 1000},
            ['config.optimizer.warmup_steps = 1000', 'config.training.steps = 1000'],
        ),
        (
            {'optimizer.schedule': 'wsd', 'optimizer.decay_steps': 901},
            ['config.optimizer.decay_steps = 901', '900 steps', 'config.optimizer.warmup_steps = 100'],
        ),
        (
            {'model.attention.kernel': 'fused', 'model.attention.dropout': 0.1},
            ['config.model.attention.dropout = 0.1', 'config.model.attention.kernel', 'einsum'],
        ),
        (
            {'model.attention.kernel': 'ring', 'model.attention.dropout': 0.1},
            ['config.model.attention.dropout = 0.1', 'the ring kernel cannot drop attention weights'],
        ),
        (
            {'model.attention.kernel': 'splash', 'model.position.kind': 'alibi'},
            ["config.model.position.kind = 'alibi'", 'the splash kernel cannot add to the scores'],
        ),
        (
            {'model.attention.kernel': 'splash', 'model.position.kind': 'relative'},
            ["config.model.position.kind = 'relative'", 'the splash kernel cannot add to the scores'],
        ),
        (
            {
                'model.architecture': 'transformer_xl',
                'model.memory_length': 8,
                'model.position.kind': 'none',
                'model.attention.kernel': 'splash',
                'data.order': 'contiguous',
            },
            ['config.model.memory_length = 8', 'the splash kernel cannot read a memory'],
        ),
        (
            {'objective.kind': 'permutation'},
            ["config.objective.kind = 'permutation'", 'no other has a second stream', "architecture to 'xlnet'"],
        ),
        (
            {'objective.switch': 'permutation@10'},
            ["config.objective.switch = 'permutation@10'", 'no other has a second stream'],
        ),
        (
            {'model.architecture': 'xlnet', 'model.position.kind': 'relative', 'objective.switch': 'masked@10'},
            ["config.objective.switch = 'masked@10'", "'xlnet' cannot serve 'masked'", 'it can: permutation, causal'],
        ),
        (
            {'model.architecture': 'xlnet', 'model.position.kind': 'rotary'},
            ["config.model.position.kind = 'rotary'", "architecture = 'xlnet'", "set it to 'relative'"],
        ),
        (
            {'model.position.kind': 'relative', 'sharding.context': 2},
            ['config.sharding.context = 2', "config.model.position.kind = 'relative'", 'whole rows'],
        ),
        (
            {'model.attention.kernel': 'splash', 'objective.switch': 'prefix@10'},
            ["config.objective.kind = 'causal'", 'the splash kernel cannot mix both directions'],
        ),
        (
            {'model.attention.kernel': 'splash', 'sharding.context': 16},
            ['config.data.length = 1024', 'the splash kernel cannot cut 64 tokens of a device into blocks of 128'],
        ),
        ({'data.corpus': 'text'}, ["config.data.path = ''", '--config.data.path=PATH']),
        ({'data.tokenizer': 'gpt3'}, ["data.tokenizer = 'gpt3'", 'gpt2', 'bytes', 'bpe:N']),
        ({'data.tokenizer': 'bpe:10'}, ["data.tokenizer = 'bpe:10'"]),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(changes, parts):
    with pytest.raises(UserError) as refusal:
        resolved(changes)
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    'changes',
    [
        {'model.width': 780},
        {'model.vocab_size': 50257},  # special tokens that are never predicted stand in the padding
        {'model.attention.num_kv_heads': 1},
        {'data.length': 512, 'model.position.max_length': 256, 'model.position.kind': 'none'},
        {'optimizer.schedule': 'wsd', 'optimizer.decay_steps': 900},
        {'optimizer.schedule': 'cosine', 'optimizer.decay_steps': 5000},
        {'optimizer.warmup_steps': 999},
        {'training.accumulation': 2, 'sharding.data': 4, 'sharding.fsdp': 2},
        {'model.attention.kernel': 'fused', 'model.dropout': 0.1},
        {'data.corpus': 'text', 'data.path': 'no/such/file.txt'},
        {'data.corpus': 'tfds:lm1b'},
        {'seed': 2**32 - 1},
        {'checkpoint.every_minutes': 0.0, 'sampling.temperature': 0.0, 'sampling.top_p': 1.0},
    ],
)
def test_values_at_the_edge_are_taken(changes):
    assert flatten(resolved(changes)).items() >= changes.items()


TINY = {
    'data.tokenizer': 'bytes',
    'data.length': 8,
    'model.num_layers': 1,
    'model.width': 8,
    'model.parametrization.base_width': 8,
    'model.attention.num_heads': 2,
    'training.batch_size': 2,
    'training.steps': 10,
    'optimizer.warmup_steps': 2,
}


MEMORY = {'model.memory_length': 4, 'model.position.kind': 'relative', 'data.order': 'contiguous'}
OTHERS = {  # architectures that cannot be asked for everything
    'encoder_decoder': {'objective.kind': 'span_corruption'},
    'lstm': {'objective.kind': 'causal', 'data.order': 'contiguous'},
    'transformer_xl': {'objective.kind': 'causal', **MEMORY},
    'xlnet': {'objective.kind': 'permutation', **MEMORY},
}


def choices_in_few_configs():
    """Changes that between them name every value of CHOICES: each config compiles a training step."""
    assert OTHERS.keys() == CHOICES['model.architecture'].keys() - {'transformer'}
    yield from ({'model.architecture': name} | changes for name, changes in OTHERS.items())
    choices = CHOICES | {'model.architecture': ['transformer'], 'objective.kind': OBJECTIVES.keys() - {'permutation'}}
    for i in range(max(len(names) for names in choices.values())):
        # Optimizers in reverse, so that schedule_free meets the constant schedule, as it must.
        orders = {key: sorted(names, reverse=key == 'optimizer.kind') for key, names in choices.items()}
        changes = {key: names[i % len(names)] for key, names in orders.items()}
        if changes['objective.kind'] == 'seq2seq':
            changes |= {'data.whole_documents': True, 'data.order': 'shuffled'}
        if changes['model.attention.kernel'] == 'splash':  # which has its own ideas of length, mask and bias
            changes |= {'data.length': 128, 'objective.kind': 'causal', 'model.position.kind': 'rotary'}
        yield changes


@pytest.mark.parametrize('changes', list(choices_in_few_configs()))
def test_every_choice_trains(changes):
    setup = one_device_setup(resolved(TINY | changes))
    start = setup.initial_state()
    before = jax.device_get(start.params)
    step, batch = setup.train_step(), random_batch(2, setup.config.data.length)
    state, metrics = step(start, batch)
    assert np.isclose(metrics['loss'], np.log(260), rtol=0.05)
    state, _ = step(state, batch)  # branches that begin at zero move as a whole from the second step on
    same = jax.tree.map(np.array_equal, before, jax.device_get(state.params))
    assert not any(jax.tree.leaves([layer.get('feedforward', layer) for layer in same['blocks']]))


def test_resolve_touches_no_device_and_no_data(tmp_path):
    program = """
from gpt2jax.config import default_config, overlay
from gpt2jax.validation import resolve
import jax
resolve(default_config())
resolve(overlay(default_config(), {'data.corpus': 'text', 'data.path': '/no/such/file', 'sharding.data': 8}))
assert not jax._src.xla_bridge._backends, jax._src.xla_bridge._backends
"""
    environment = os.environ | {'PYTHONPATH': str(REPOSITORY), 'HOME': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', program], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob('*')) == []


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_every_recipe_resolves_and_says_what_it_is(path):
    module = load_recipe(path)
    assert module.__doc__
    assert module.__doc__.strip()
    resolve(module.get_config())
    assert resolve(module.get_config('length=32')).data.length == 32


def test_there_are_recipes():
    assert {'gpt2_small'} <= {path.stem for path in RECIPES}
