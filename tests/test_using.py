"""Trained models in use: fill, embed, attention, sample and evaluate on the folder of a run."""

import json
import random

import numpy as np
import pytest
from helpers import one_device_setup, silent, tiny_config

from gpt2jax import commands
from gpt2jax.commands import runs
from gpt2jax.config import to_dict
from gpt2jax.errors import UserError
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.state import rest_of
from gpt2jax.training.workdir import Workdir

CHOICE = {
    'order': 'certain',
    'top_k': 3,
    'num_samples': 1,
    'temperature': 0.0,
    'seed': 0,
    'scored': 6,
    'beams': 2,
}
KINDS = ['causal', 'masked', 'prefix', 'hybrid', 'span_corruption']


@pytest.fixture(name='text', scope='module')
def write_text(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('corpus'), random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost', 'and', 'the', 'of', 'a']
    (folder / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(60)))
    return folder


@pytest.fixture(name='run', scope='module', params=KINDS)
def make_run(request, text, tmp_path_factory):
    """The folder of a run at its initial parameters."""
    path = tmp_path_factory.mktemp(request.param) / 'run'
    config = tiny_config(
        data__corpus='text',
        data__path=str(text / 'plays.txt'),
        data__directory=str(text / 'cache'),
        data__length=32,
        objective__kind=request.param,
        model__num_layers=2,
        evaluation__pseudo_rows=2,
        evaluation__batch_size=8,
        sampling__max_new_tokens=4,
        runtime__compilation_cache='',
    )
    setup, workdir = one_device_setup(config), Workdir(path)
    prepared = runs.prepare_data(config)
    workdir.lock()
    prepared.tokenizer.save(path)
    workdir.save_config(to_dict(config))
    state = setup.initial_state()
    checkpoints = Checkpoints(path / 'checkpoints', 2, announce=silent)
    metadata = {'config': to_dict(config), 'data': prepared.folder.name}
    checkpoints.save(3, state.params, rest_of(state), metadata, 1.0)
    checkpoints.wait()
    checkpoints.close()
    workdir.unlock()
    return request.param, path


def test_blanks_are_filled_and_it_is_said_how(run, capsys):
    kind, path = run
    [filled] = commands.fill(str(path), 'to <mask>e, <mask>', 1, CHOICE, 'best')
    out = capsys.readouterr().out
    assert filled.startswith('to ')
    assert ', ' in filled
    assert 'blank 2' in out
    expected = {'masked': 'both sides', 'hybrid': 'both sides', 'span_corruption': 'behind the text'}
    assert expected.get(kind, 'likelihood of the whole text') in ' '.join(out.split())


def test_texts_become_vectors(run, tmp_path, capsys):
    _, path = run
    commands.embed(str(path), ['one', 'another', 'x' * 50], None, 'mean', True, 2, str(tmp_path / 'v.npz'), 'latest')
    assert '1 of 3 texts are longer' in ' '.join(capsys.readouterr().out.split())
    vectors_ND = np.load(tmp_path / 'v.npz')['embeddings']
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=-1), 1, atol=1e-5)
    for changes in ({'texts': [], 'file': None}, {'texts': ['a'], 'file': 'b'}):
        with pytest.raises(UserError, match='either'):
            commands.embed(str(path), **changes, pooling='mean', normalize=False, batch_size=1, out=None, which='best')


def test_attention_is_seen_as_the_objective_says(run, capsys):
    kind, path = run
    html, png = commands.attention(str(path), 'to be or not', None, '3')
    assert html.parent == png.parent == path
    out = capsys.readouterr().out
    assert 'entropy' in out
    assert ('sees all of them' in html.read_text()) == (kind != 'causal')
    commands.attention(str(path), 'x' * 99, None, 'best')
    assert 'has 100 tokens; the first 32 are shown' in capsys.readouterr().out


def test_samples_are_drawn(run, capsys):
    kind, path = run
    samples = commands.sample(str(path), 'to', 'best', 0, {'sampling.num_samples': 2})
    assert len(samples) == 2
    assert ('iterated infilling' in capsys.readouterr().out) == (kind == 'masked')


def test_evaluate_prints_what_means_something_and_says_what_does_not(run, capsys):
    kind, path = run
    result = commands.evaluate(str(path), 'validation', 'best')
    out = ' '.join(capsys.readouterr().out.split())
    exact = kind in ('causal', 'prefix', 'hybrid')
    assert ('bits_per_byte' in result) == exact
    assert ('no bits per byte' in out) == (not exact)
    hides = kind in ('masked', 'hybrid')
    assert ('hidden at the rate of 0.15' in out) == hides
    assert ('pseudo_nats_per_byte' in result) == ('not comparable with bits per byte' in out) == hides
    if hides:
        assert result['pseudo_rows'] == 2
    json.dumps(result)
