"""`describe` tells what a config would run, without allocating or compiling it."""

import io
import re
import time

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny_config
from rich.console import Console

from gpt2jax.config import default_config
from gpt2jax.describe import activation_bytes, print_description, tree_bytes
from gpt2jax.files import describe_bytes
from gpt2jax.models import make_model
from gpt2jax.models.cost import row_flops
from gpt2jax.objectives import make_objective

GPT2_XL = {
    'data__tokenizer': 'gpt2',
    'data__length': 1024,
    'model__num_layers': 48,
    'model__width': 1600,
    'model__attention__num_heads': 25,
    'model__vocab_multiple': 128,
    'training__batch_size': 16,
    'training__accumulation': 4,
    'training__steps': 1000,
}


def described(config):
    console = Console(width=200, record=True, file=io.StringIO(), markup=False, highlight=False)
    print_description(config, default_config(), console)
    return console.export_text()


def cell(text, name):
    """The value beside a name in the table of costs."""
    return re.search(rf'^│ {re.escape(name)} +│ +(.*?) +│', text, re.MULTILINE)[1]


def test_gpt2_xl_is_described_in_seconds_without_allocating_it():
    alive = {id(array) for array in jax.live_arrays()}
    began = time.monotonic()
    text = described(tiny_config(**GPT2_XL))
    assert time.monotonic() - began < 60
    assert sum(array.nbytes for array in jax.live_arrays() if id(array) not in alive) < 1e6

    vocabulary = 50304  # 50260 ids, padded to a multiple of 128
    parameters = 1557611200 + (vocabulary - 50257) * 1600
    assert f'{parameters:,}' in text
    assert '│ 48 x [1600x1600] │' in text
    assert cell(text, 'tokens a step') == f'{16 * 1024:,}'
    assert cell(text, 'tokens of the run') == f'{16 * 1024 * 1000:,}'
    assert cell(text, 'parameters') == cell(text, 'gradients') == describe_bytes(4 * parameters)
    assert cell(text, 'optimizer state') == describe_bytes(2 * 4 * parameters + 8)
    # 6 FLOPs a token for each weight of a matrix, 12 * L * D a layer for the map.
    matrices = 48 * 12 * 1600**2 + vocabulary * 1600
    step = 16 * 1024 * (6 * matrices + 12 * 48 * 1024 * 1600)
    assert cell(text, 'FLOPs a step') == f'{step:.4g}'
    assert cell(text, 'FLOPs of the run') == f'{1000 * step:.4g}'


def test_every_parameter_is_listed_with_the_total():
    text = described(tiny_config())
    for name, shape, count in (
        ('embedding/token', '[260x32]', '8,320'),
        ('blocks/*/attention/query/kernel', '3 x [32x32]', '3,072'),
        ('norm_final/bias', '[32]', '32'),
    ):
        assert re.search(rf'│ {re.escape(name)} +│ {re.escape(shape)} +│ +{count} │', text), name
    total = 260 * 32 + 16 * 32 + 3 * (12 * 32 * 32 + 13 * 32) + 2 * 32
    assert re.search(rf'│ total +│ +│ +{total:,} │', text)


def test_keys_that_differ_from_the_defaults_are_shown_beside_them():
    text = described(tiny_config(data__path='[bold]x'))
    assert re.search(r'│ model\.width +│ 32 +│ 768 ', text)
    assert re.search(r"│ data\.tokenizer +│ 'bytes' +│ 'gpt2' ", text)
    assert 'model.norm.kind' not in text
    assert "'[bold]x'" in text


@pytest.mark.parametrize(('remat', 'scan'), [('none', False), ('full', False), ('full', True)])
def test_rematerialising_keeps_less(remat, scan):
    def kept(config):
        model, objective = make_model(config.model), make_objective(config)
        params = jax.eval_shape(model.init, jax.random.key(0))
        return activation_bytes(config, model, objective, params)

    plain = kept(tiny_config())
    config = tiny_config(model__remat=remat, model__scan_layers=scan)
    layer_inputs = 3 * 8 * 16 * 32 * 4
    assert kept(config) >= layer_inputs
    assert kept(config) < plain / 2 if remat == 'full' else kept(config) == plain
    assert kept(tiny_config(training__accumulation=4)) < plain / 3


def test_bytes_of_a_tree():
    tree = {'a': jnp.zeros((3, 4), jnp.bfloat16), 'b': jax.ShapeDtypeStruct((5,), jnp.float32)}
    assert tree_bytes(tree) == 24 + 20


def test_each_phase_of_a_run_has_its_own_cost():
    text = described(tiny_config(objective__switch='masked@5'))
    causal, masked = (3 * 8 * row_flops(tiny_config().model, 16, count).forward() for count in (16, 2))
    assert cell(text, 'FLOPs a step, causal from step 0') == f'{causal:.4g}'
    assert cell(text, 'FLOPs a step, masked from step 5') == f'{masked:.4g}'
    assert cell(text, 'FLOPs of the run') == f'{5 * causal + 15 * masked:.4g}'


def test_the_step_costs_three_forward_passes():
    config = tiny_config()
    forward = row_flops(config.model, 16, 16).forward()
    assert cell(described(config), 'FLOPs a step') == f'{3 * 8 * forward:.4g}'
