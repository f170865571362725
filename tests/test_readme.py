"""What the README shows must be true."""

import re
import runpy
import shlex
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import pytest
from helpers import tiny_config
from jax import Array

import launch
from gpt2jax.models import positions
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
    example = re.search(r'```python\n(class Sinusoidal.+?)\n\n\nPOSITIONS', README, re.S)[1]
    (tmp_path / 'example.py').write_text(example)
    scope = runpy.run_path(str(tmp_path / 'example.py'), {'nn': nn, 'jnp': jnp, 'Array': Array})
    monkeypatch.setitem(positions.POSITIONS, 'sinusoidal', scope['Sinusoidal'])
    config = tiny_config(model__position__kind='sinusoidal')
    encoding = positions.make_position(config.model.position, 0.02, 'position')
    x_BLD, position_BL = jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 2]])
    y_BLD = encoding.apply({}, x_BLD, position_BL)
    assert y_BLD.shape == (1, 3, 4)
    assert jnp.allclose(y_BLD[0, 1], jnp.array([jnp.sin(1.0), jnp.sin(0.01), jnp.cos(1.0), jnp.cos(0.01)]))
