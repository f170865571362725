"""Live against transformers' Marian, in the environment of requirements-peers.txt: pytest -m parity."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from foreign import relative_difference
from marian import as_ours, example_of, gradients_of, logits_of, model_of, tree_of

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

SCRIPT = Path(__file__).parents[1] / 'goldens' / 'make_encoder_decoder.py'
SHAPES = {'one': (1, 1, 1), 'uneven': (5, 3, 11), 'long': (2, 31, 25)}  # rows, tokens of a source, of a target


@pytest.fixture(name='script', scope='module')
def load():
    spec = importlib.util.spec_from_file_location('make_encoder_decoder', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('layers', [(1, 3), (3, 1)], ids=str)
def test_logits_and_gradients_agree(script, shape, layers):
    torch.manual_seed(1)
    theirs = script.make_model(encoder_layers=layers[0], decoder_layers=layers[1], d_model=48)
    batch = script.make_batch(2, *SHAPES[shape])
    expected_BTV, expected = script.run(theirs, *batch)
    model = model_of(width=48, heads=3, layers=layers, feedforward=40, vocabulary=263)
    arrays = {n: p.detach().numpy() for n, p in theirs.named_parameters() if n in expected}
    params = tree_of(model, as_ours(arrays))
    example, place_BT = example_of(*batch)
    found_BTV = np.take_along_axis(np.asarray(logits_of(model, params, example)), place_BT[..., None], axis=1)
    written_BT = batch[3]
    logits = relative_difference(found_BTV[written_BT], expected_BTV[written_BT])
    ours, reference = gradients_of(model, params, example), as_ours(expected)
    assert ours.keys() == reference.keys()
    scale = max(np.max(np.abs(gradient)) for gradient in reference.values())
    # What is rounding alone, as the gradient of a bias on the keys, is compared with the largest gradient.
    gradients = max(
        np.max(np.abs(ours[name] - reference[name])) / max(np.max(np.abs(reference[name])), 1e-3 * scale)
        for name in ours
    )
    print(f'\nlogits {logits:.1e}, gradients {gradients:.1e}')
    assert logits < 1e-5
    assert gradients < 1e-4
