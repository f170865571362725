"""XLNet live against transformers, in the environment of requirements-peers.txt: pytest -m parity."""

import sys
from pathlib import Path

import numpy as np
import pytest
from foreign import gradients_of, logits_of, permuted_example, read_folder, relative_difference

from gpt2jax import interop
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.interop.layouts import plain_name

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
sys.path.append(str(Path(__file__).parents[1] / 'goldens'))

SIZES = {'d_model': 36, 'n_layer': 3, 'n_head': 4, 'd_inner': 50, 'vocab_size': 311}
CASES = {
    'no memory, no clamp': {'mem_len': None},
    'memory longer than a row, clamp': {'mem_len': 17, 'clamp_len': 5},
    'memory shorter than a row, tanh GELU': {'mem_len': 3, 'ff_activation': 'gelu_new', 'layer_norm_eps': 1e-6},
    'untied': {'mem_len': None, 'tie_word_embeddings': False, 'clamp_len': 40},
}


@pytest.fixture(name='theirs', params=CASES)
def make_theirs(request):
    """A random model of transformers, its biases and norms moved off their initial values."""
    torch.manual_seed(0)
    model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**SIZES, **CASES[request.param]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def drawn(seed: int, rows: int, length: int, predicted: int):
    """ids, places in their order, token types that differ, and some that are all the same."""
    random = np.random.default_rng(seed)
    ids_BL = random.integers(0, SIZES['vocab_size'], (rows, length))
    place_BP = np.argsort(random.random((rows, length)), axis=1)[:, :predicted]
    return ids_BL, place_BP, random.integers(0, 2, (rows, length)), np.ones((rows, length), int)


def run_theirs(model, ids_BL, place_BP, token_type_BL=None, mems=None):
    from make_xlnet import masks_of

    inputs = {} if token_type_BL is None else {'token_type_ids': torch.tensor(token_type_BL)}
    masks = masks_of(place_BP, ids_BL.shape[1]) if place_BP.shape[1] else {}
    return model(torch.tensor(ids_BL), **inputs, **masks, mems=mems, use_mems=True)


@pytest.mark.parametrize(('rows', 'length', 'predicted'), [(1, 2, 1), (3, 11, 5), (2, 24, 24)])
def test_logits_of_both_streams_and_gradients_agree(theirs, rows, length, predicted, tmp_path):
    theirs.save_pretrained(tmp_path)
    source, setup, params = read_folder(tmp_path)
    ids_BL, place_BP, differ_BL, same_BL = drawn(length, rows, length, predicted)
    nowhere = place_BP[:, :0]
    for types_BL in (None, same_BL, differ_BL):
        for places in (nowhere, place_BP[:, : length - 1]):
            expected = run_theirs(theirs, ids_BL, places, types_BL).logits.detach().numpy()
            ours = logits_of(setup, params, permuted_example(ids_BL, places, types_BL))
            difference = relative_difference(ours, expected)
            print(f'{"queries" if places.size else "content"} {difference:.1e}')
            assert difference < 1e-5

    place_BP = place_BP[:, : length - 1]
    random = np.random.default_rng(1)
    targets_BP, weights_BP = random.integers(0, SIZES['vocab_size'], place_BP.shape), random.random(place_BP.shape)
    logits_BPV = run_theirs(theirs, ids_BL, place_BP, differ_BL).logits
    nats_BP = torch.nn.functional.cross_entropy(logits_BPV.transpose(1, 2), torch.tensor(targets_BP), reduction='none')
    (nats_BP * torch.tensor(weights_BP.astype(np.float32))).sum().backward()
    reference = {plain_name('xlnet', n): p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None}
    example = permuted_example(ids_BL, place_BP, differ_BL)
    ours = gradients_of(source, setup, params, example, targets_BP, weights_BP.astype(np.float32))
    assert ours.keys() == reference.keys()
    scale = max(np.max(np.abs(gradient)) for gradient in reference.values())
    worst = max(np.max(np.abs(ours[name] - reference[name])) for name in ours) / scale
    print(f'gradients {worst:.1e}')
    assert worst < 1e-4


def test_segments_with_memory_agree(theirs, tmp_path):
    if not theirs.config.mem_len:
        pytest.skip('without a memory')
    theirs.save_pretrained(tmp_path)
    _, setup, params = read_folder(tmp_path)
    carry, mems = setup.model.init_memory(3), None
    for number in range(4):
        ids_BL, place_BP, differ_BL, _ = drawn(number, 3, 11, 5)
        out = run_theirs(theirs, ids_BL, place_BP, differ_BL, mems)
        example = permuted_example(ids_BL, place_BP, differ_BL, continues=number > 0)
        difference = relative_difference(logits_of(setup, params, example, carry), out.logits.detach().numpy())
        print(f'segment {number}: {difference:.1e}')
        assert difference < 1e-5
        _, carry = setup.model.apply(params, example, carry)
        mems = out.mems


def test_transformers_runs_what_we_export(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / 'theirs')
    _, setup, params = read_folder(tmp_path / 'theirs')
    family, hf_config = interop.express(setup.config, vocabulary_of('bytes'))
    interop.write_folder(
        tmp_path / 'ours', family, hf_config, setup.config.model, params, make_tokenizer('bytes'), 'float32'
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'ours').eval()
    assert isinstance(model, transformers.XLNetLMHeadModel)
    ids_BL, place_BP, differ_BL, _ = drawn(0, 2, 9, 4)
    with torch.no_grad():
        logits, again = (run_theirs(m, ids_BL, place_BP, differ_BL).logits for m in (theirs, model))
    assert torch.equal(logits, again)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / 'ours')('a b')['input_ids'] == [97, 32, 98]
