"""Scores of sentences against transformers and a plain loop in torch: pytest -m parity."""

import json

import jax
import numpy as np
import pytest
from helpers import one_device_setup, tiny_config

from gpt2jax import interop
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.evaluation.blimp import blimp
from gpt2jax.evaluation.subject import Subject

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

NOUNS, VERBS = ['king', 'queens', "ghost's friend", 'unicorns', 'Höhe'], ['sees', 'see', 'misunderstands', 'has been']
LIKE = {
    'gpt2': {'objective__kind': 'causal'},
    'bert': {
        'objective__kind': 'masked',
        'model__norm__placement': 'post',
        'model__embedding__norm': True,
        'model__embedding__token_types': 2,
        'model__head__transform': True,
        'model__head__bias': True,
        'model__feedforward__kind': 'gelu',
    },
}


@pytest.fixture(name='tokenizer', scope='module')
def train_tokenizer():
    random = np.random.default_rng(0)
    words = ['the', ' king', ' queen', ' ghost', ' sees', 'mis', 'under', ' friend', "'s", '.', ' uni', 'corn']
    return make_tokenizer('bpe:300', [''.join(random.choice(words, 500)) for _ in range(20)])


@pytest.fixture(name='pairs')
def write_pairs(tmp_path):
    folder = tmp_path / 'pairs'
    folder.mkdir()
    random = np.random.default_rng(1)
    for paradigm in ('agreement', 'islands'):
        lines = []
        for _ in range(8):
            a, b = random.choice(NOUNS, 2, replace=False)
            good, bad = random.choice(VERBS, 2, replace=False)
            lines.append({'sentence_good': f'The {a} {good} the {b}.', 'sentence_bad': f'The {a} {bad} the {b}.'})
        (folder / f'{paradigm}.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return folder


@torch.no_grad()
def causal_nats(model, reader, text, words):
    """Minus the sum of log p of every token behind <|endoftext|>."""
    ids = torch.tensor([[reader.bos_token_id, *reader(text)['input_ids']]])
    log_probs = torch.log_softmax(model(ids).logits[0].double(), -1)
    return -sum(log_probs[i - 1, ids[0, i]].item() for i in range(1, ids.shape[1]))


@torch.no_grad()
def masked_nats(model, reader, text, words):
    """A row for each token, the mask in its place; with `words` also in that of what follows in its word."""
    ids = reader(text)['input_ids']
    spelled = [reader.decode([i]) for i in ids]
    rows, inner = [], range(1, len(ids) - 1 if ids[-1] == reader.sep_token_id else len(ids))
    for place in inner:
        hidden, later = list(ids), place + 1
        hidden[place] = reader.mask_token_id
        while words and later in inner and is_letter(spelled[later][0]) and is_letter(spelled[later - 1][-1]):
            hidden[later] = reader.mask_token_id
            later += 1
        rows.append(hidden)
    log_probs = torch.log_softmax(model(torch.tensor(rows)).logits.double(), -1)
    return -sum(log_probs[row, place, ids[place]].item() for row, place in enumerate(inner))


def is_letter(character):
    """The bytes of a character beyond ASCII, which may be tokens of their own, count as letters."""
    return character.isalnum() or ord(character) > 127


@pytest.mark.parametrize(
    ('like', 'mode', 'theirs', 'words'),
    [
        ('gpt2', 'causal', causal_nats, False),
        ('bert', 'pseudo', masked_nats, False),
        ('bert', 'pseudo_l2r', masked_nats, True),
    ],
)
def test_every_sentence_has_the_score_that_transformers_gives_it(like, mode, theirs, words, tokenizer, pairs, tmp_path):
    tokenizer.save(tmp_path)
    setup = one_device_setup(tiny_config(data__tokenizer=f'file:{tmp_path}', data__length=64, **LIKE[like]))
    random = np.random.default_rng(0)
    initial = setup.initial_state().params
    params = jax.tree.map(lambda x: x + 0.2 * random.normal(size=x.shape).astype(np.float32), initial)
    family, hf_config = interop.express(setup.config, vocabulary_of(setup.config.data.tokenizer))
    interop.write_folder(tmp_path / 'out', family, hf_config, setup.config.model, params, tokenizer, 'float32')
    automatic = transformers.AutoModelForCausalLM if like == 'gpt2' else transformers.AutoModelForMaskedLM
    model = automatic.from_pretrained(tmp_path / 'out', attn_implementation='eager').eval()
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')

    subject = Subject(setup, params, tokenizer, 0, tmp_path, None)
    items = blimp(subject, str(pairs), lambda work, *_: work).items
    assert len(items) == 16
    largest = 0.0
    for item in items:
        good, bad = (theirs(model, reader, item[side], words) for side in ('good', 'bad'))
        ours = item[mode]
        largest = max(largest, abs(ours['good_nats'] - good), abs(ours['bad_nats'] - bad))
        assert ours['points'] == (0.5 if good == bad else float(good < bad))
    print(f'\n{like}, {mode}: {largest:.1e} nats')
    assert largest < 1e-4
    assert {item[mode]['points'] for item in items} == {0.0, 1.0}
    if mode == 'pseudo_l2r':
        assert any(abs(item['pseudo']['good_nats'] - item[mode]['good_nats']) > 0.1 for item in items)
