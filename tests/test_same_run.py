"""A folder belongs to one config; what changes no value may differ."""

import pytest
from helpers import tiny_config

from gpt2jax.commands.training import check_same_run
from gpt2jax.config import to_dict
from gpt2jax.errors import UserError
from gpt2jax.training.workdir import Workdir


def run_of(tmp_path, saved):
    workdir = Workdir(tmp_path)
    workdir.save_config(saved)
    return workdir


def test_a_run_begun_before_a_key_was_there_continues(tmp_path):
    """The keys of later versions are at the defaults that change nothing."""
    config = tiny_config()
    saved = to_dict(config)
    del saved['objective']['rate'], saved['model']['embedding'], saved['model']['position']['trained_length']
    check_same_run(run_of(tmp_path, saved), config)
    with pytest.raises(UserError, match=r'objective\.rate: 0\.15 -> 0\.3'):
        check_same_run(run_of(tmp_path, saved), tiny_config(objective__rate=0.3))


def test_another_model_is_refused_and_another_length_of_training_is_shown(tmp_path, capsys):
    workdir = run_of(tmp_path, to_dict(tiny_config()))
    with pytest.raises(UserError, match=r'model\.width: 32 -> 64'):
        check_same_run(workdir, tiny_config(model__width=64))
    check_same_run(workdir, tiny_config(training__steps=30, model__remat='full'))
    assert 'training.steps: 20 -> 30' in capsys.readouterr().out
