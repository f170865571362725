"""An imported run is a run like any other, except that it is not trained in place."""

import json

import numpy as np
import pytest
from foreign import read_folder
from helpers import largest_difference, one_device_setup, tiny_config

from gpt2jax import commands, interop
from gpt2jax.commands.runs import open_run, restore_params
from gpt2jax.config import default_config, overlay, recipe
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.errors import UserError
from gpt2jax.training.loop import check_same_text


@pytest.fixture(name='folder')
def write_gpt2(tmp_path):
    """A tiny GPT-2 as a Hugging Face folder; of the special ids only <|endoftext|> is in its vocabulary."""
    setup = one_device_setup(tiny_config(model__num_layers=1, model__vocab_multiple=128, model__vocab_size=257))
    config, params = setup.config, setup.initial_state().params
    family, hf_config = interop.express(config, vocabulary_of('bytes'))
    folder = tmp_path / 'gpt2'
    interop.write_folder(folder, family, hf_config, config.model, params, make_tokenizer('bytes'), 'float32')
    return folder


@pytest.fixture(name='run')
def import_gpt2(folder, tmp_path):
    commands.import_model(str(folder), str(tmp_path / 'run'), None, 'python launch.py import')
    return tmp_path / 'run'


def test_an_imported_run_holds_what_the_folder_held(folder, run):
    setup, workdir = open_run(str(run))
    step, params, metadata = restore_params(setup, workdir, 'best')
    assert (step, metadata['data']) == (0, None)
    assert largest_difference(params, read_folder(folder)[2]) == 0
    record = json.loads((run / 'run.json').read_text())['imported']
    assert record['from'] == str(folder)
    assert len(record['sha256']['model.safetensors']) == 64
    check_same_text(metadata, {'data': 'shakespeare-bytes-0123'})


def test_an_imported_run_samples(run):
    (sample,) = commands.sample(str(run), 'To be', 'best', 0, {'sampling.num_samples': 1, 'sampling.max_new_tokens': 8})
    assert '<|' not in sample['text']


def test_an_imported_run_exports_what_it_was(folder, run, tmp_path):
    commands.export_model(str(run), str(tmp_path / 'again'), 'best', 'float32')
    assert (tmp_path / 'again' / 'model.safetensors').read_bytes() == (folder / 'model.safetensors').read_bytes()


def test_imported_weights_are_not_trained_in_place(run):
    with pytest.raises(UserError, match=r'init_from='):
        commands.train(overlay(default_config(), {}), str(run), '')


def test_a_run_is_not_overwritten(folder, run):
    before = (run / 'config.json').read_bytes()
    with pytest.raises(UserError, match='holds a run already'):
        commands.import_model(str(folder), str(run), None, '')
    assert (run / 'config.json').read_bytes() == before


def test_a_folder_that_is_refused_leaves_no_run(folder, tmp_path):
    (folder / 'tokenizer.json').unlink()
    with pytest.raises(UserError, match='--tokenizer names another one'):
        commands.import_model(str(folder), str(tmp_path / 'run'), None, '')
    assert not (tmp_path / 'run').exists()


def test_training_goes_on_from_an_imported_run(run, tmp_path, capsys):
    (tmp_path / 'text.txt').write_text('\n\n'.join(f'a king of {i} ghosts and their queen' for i in range(60)))
    options = {
        'data.corpus': 'text',
        'data.path': str(tmp_path / 'text.txt'),
        'data.directory': str(tmp_path / 'data'),
        'data.tokenizer': f'file:{run}',
        'data.length': 16,
        'model.num_layers': 1,
        'model.width': 32,
        'model.vocab_size': 257,
        'model.attention.num_heads': 4,
        'training.steps': 2,
        'training.batch_size': 8,
        'training.init_from': str(run),
        'optimizer.warmup_steps': 0,
        'optimizer.learning_rate': 1e-6,
        'evaluation.num_rows': 8,
        'sampling.max_new_tokens': 4,
        'runtime.compilation_cache': '',
    }
    commands.train(recipe(options), str(tmp_path / 'tuned'), '')
    assert 'starting from' in capsys.readouterr().out
    setup, workdir = open_run(str(tmp_path / 'tuned'))
    _, params, _ = restore_params(setup, workdir, 'latest')
    _, before, _ = restore_params(*open_run(str(run)), 'latest')
    assert 0 < largest_difference(params['blocks'], before['blocks']) < 1e-4
    lines = [json.loads(line) for line in (tmp_path / 'tuned' / 'metrics.jsonl').read_text().splitlines()]
    assert all(np.isfinite(line['loss']) for line in lines if 'loss' in line)
