"""Our GPT-2, BERT and RoBERTa against what transformers computed (tests/goldens/make_goldens.py)."""

from pathlib import Path

import numpy as np
import pytest
from foreign import example_of_ids, gradients_of, logits_of, read_folder, relative_difference

from gpt2jax.interop.layouts import plain_name

GOLDENS = Path(__file__).parents[1] / 'goldens'
CASES = ('gpt2', 'bert', 'roberta')


@pytest.fixture(name='golden', params=CASES)
def unpack(request, tmp_path):
    """(arrays, source, setup, params) of a golden, imported."""
    golden = np.load(GOLDENS / f'{request.param}.npz')
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / name).write_bytes(golden[name].tobytes())
    return golden, *read_folder(tmp_path)


def example(golden, setup):
    token_type_BL = golden['token_type'] if setup.config.model.embedding.token_types else None
    return example_of_ids(setup.config, golden['ids'], golden['real'], token_type_BL)


def test_logits_are_those_of_transformers(golden):
    golden, _, setup, params = golden
    logits_BLV, real_BL = np.asarray(logits_of(setup, params, example(golden, setup))), golden['real']
    assert relative_difference(logits_BLV[real_BL], golden['logits'][real_BL]) < 1e-5


def test_gradients_are_those_of_transformers(golden):
    golden, source, setup, params = golden
    inputs = example(golden, setup)
    ours = gradients_of(source, setup, params, inputs, golden['targets'], golden['weights'])
    names = [name for name in golden.files if name.startswith('gradient ')]
    theirs = {plain_name(source.family, name.removeprefix('gradient ')): golden[name] for name in names}
    scale = max(np.max(np.abs(gradient)) for gradient in theirs.values())
    trained = {name for name in ours if not name.startswith('pooler.')}
    assert trained == theirs.keys()
    for name in trained:
        size = np.max(np.abs(theirs[name]))
        # A bias on the keys changes no attention weight: its gradient is rounding alone.
        if size > 1e-5 * scale:
            assert relative_difference(ours[name], theirs[name]) < 1e-4, name
