"""Every `plan` command of the documentation names a config that its topology can take."""

import re
import shlex
from pathlib import Path

import pytest

from gpt2jax.flags import Flags
from gpt2jax.planning.topologies import read_topology
from gpt2jax.sharding import mesh_shape
from gpt2jax.subcommands import COMMANDS
from gpt2jax.validation import resolve

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))
COMMAND = re.compile(r'^ +python launch\.py plan (.*--topology.*)$', re.MULTILINE)
DOCUMENTED = [command for page in PAGES for command in COMMAND.findall(page.read_text().replace('\\\n', ''))]


def test_there_are_some():
    assert len(DOCUMENTED) >= 5


@pytest.mark.parametrize('command', DOCUMENTED)
def test_a_documented_plan_fits_its_topology(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = Flags(shlex.split(command.replace('PRICE', '1.0')))
    COMMANDS['plan'].define(values)
    assert values(['launch.py', *values.arguments])[1:] == []
    topology = read_topology(values.topology, values.slices)
    assert mesh_shape(resolve(values.config), topology.device_count, topology.slices)
