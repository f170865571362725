"""What the README shows must be true."""

import re
import runpy
import shlex
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import causal_example, tiny_config
from jax import Array

import launch
from gpt2jax.models import make_model, positions
from gpt2jax.validation import resolve

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
COMMANDS = re.findall(r'^    python launch\.py (.+)$', README, re.M)


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *arguments = shlex.split(command)
    values = launch.Flags(arguments)
    launch.COMMANDS[name].define(values)
    launch.parse(values)
    assert 'config' not in values or resolve(values.config).model.vocab_size > 0


def test_every_subcommand_is_in_the_table():
    for name in launch.COMMANDS:
        assert f'| `python launch.py {name} ' in README, name


def test_every_file_that_is_named_exists():
    for name in re.findall(r'\]\(([\w/.]+)\)|`((?:configs|tests|gpt2jax|docs)/[\w/.]+)`', README):
        assert (ROOT / (name[0] or name[1])).exists(), name


def test_a_position_encoding_is_one_class_and_one_name(monkeypatch, tmp_path):
    """The README's own example, run."""
    example = re.search(r'```python\n(class Kerple.+?)\n\n\nPOSITIONS', README, re.S)[1]
    (tmp_path / 'example.py').write_text(example)
    names = {'nn': nn, 'jnp': jnp, 'Array': Array, 'Position': positions.Position}
    scope = runpy.run_path(str(tmp_path / 'example.py'), names)
    monkeypatch.setitem(positions.POSITIONS, 'kerple', scope['Kerple'])
    config = tiny_config(model__position__kind='kerple').model
    model = make_model(config)
    params = model.init(jax.random.key(0))
    assert params['embedding']['position']['rates'].shape == (2, 4, 1, 1)
    encoding = positions.make_position(config, 0.02)
    bias_HLM = encoding.apply({'params': params['embedding']['position']}, jnp.array([[0, 5]]), method='bias')
    softplus = np.log(2)  # of 0
    np.testing.assert_allclose(bias_HLM[0, 0], [0, -softplus * np.log1p(5 * softplus)], rtol=1e-5)
    hidden_BLD, _ = model.apply(params, causal_example(2, 16))
    assert np.isfinite(hidden_BLD).all()
