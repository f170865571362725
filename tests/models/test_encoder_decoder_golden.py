"""Our encoder-decoder against what transformers' Marian computed (tests/goldens/make_encoder_decoder.py)."""

from pathlib import Path

import numpy as np
import pytest
from foreign import relative_difference
from marian import as_ours, example_of, gradients_of, logits_of, model_of, tree_of

GOLDEN = Path(__file__).parents[1] / 'goldens' / 'encoder_decoder.npz'


@pytest.fixture(name='golden', scope='module')
def unpack():
    """(arrays, model, params, example, place of each decoder token)."""
    golden = np.load(GOLDEN)
    named = {name: golden[name] for name in golden.files if name.startswith('parameter ')}
    params = as_ours({name.removeprefix('parameter '): array for name, array in named.items()})
    model = model_of(width=24, heads=3, layers=(2, 2), feedforward=40, vocabulary=263)
    batch = [golden[name] for name in ('ids', 'real', 'inputs', 'written', 'targets', 'weights')]
    return golden, model, tree_of(model, params), *example_of(*batch)


def test_logits_are_those_of_transformers(golden):
    golden, model, params, example, place_BT = golden
    ours_BTV = np.take_along_axis(np.asarray(logits_of(model, params, example)), place_BT[..., None], axis=1)
    assert relative_difference(ours_BTV[golden['written']], golden['logits'][golden['written']]) < 1e-5


@pytest.mark.parametrize('answers', [0, 7])
def test_gradients_are_those_of_transformers(golden, answers):
    golden, model, params, example, _ = golden
    ours = gradients_of(model, params, example.replace(answers=answers))
    named = {name: golden[name] for name in golden.files if name.startswith('gradient ')}
    theirs = as_ours({name.removeprefix('gradient '): array for name, array in named.items()})
    scale = max(np.max(np.abs(gradient)) for gradient in theirs.values())
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        # A bias on the keys changes no attention weight: its gradient is rounding alone.
        if np.max(np.abs(gradient)) > 1e-5 * scale:
            assert relative_difference(ours[name], gradient) < 1e-4, name
