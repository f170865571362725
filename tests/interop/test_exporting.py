"""What an export refuses, and that it leaves a whole folder or none."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import one_device_setup, tiny_config

from gpt2jax import interop
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.errors import UserError
from gpt2jax.interop.hf_tokenizers import merges_of


def refusal(**changes):
    config = tiny_config(**changes)
    with pytest.raises(UserError) as refused:
        interop.express(config, vocabulary_of(config.data.tokenizer))
    return str(refused.value)


def test_all_keys_in_the_way_are_listed_with_what_they_must_be():
    message = refusal(
        model__position__kind='rotary',
        model__norm__kind='rmsnorm',
        model__attention__num_kv_heads=2,
        model__attention__qk_norm=True,
        model__feedforward__kind='swiglu',
        model__head__softcap=30.0,
        model__embedding__width=16,
        model__parallel=True,
        objective__kind='prefix',
    )
    for line in (
        "config.model.position.kind = 'rotary': must be 'learned'",
        "config.model.norm.kind = 'rmsnorm': must be 'layernorm'",
        'config.model.attention.num_kv_heads = 2: must be num_heads = 4',
        'config.model.attention.qk_norm = True: must be False',
        "config.model.feedforward.kind = 'swiglu': must be one of gelu_tanh, gelu, relu",
        'config.model.head.softcap = 30.0: must be 0.0',
        'config.model.embedding.width = 16: must be model.width = 32',
        'config.model.parallel = True: must be False',
        "config.objective.kind = 'prefix': must be causal or hybrid at the end",
    ):
        assert line in message


def test_a_masked_model_is_bert_or_nothing():
    assert "config.objective.kind = 'masked': must be causal" in refusal(objective__kind='masked')
    message = refusal(objective__kind='masked', model__norm__placement='post')
    for line in (
        'config.model.embedding.norm = False: must be True',
        'config.model.embedding.token_types = 0: must be at least 1',
        'config.model.head.transform = False: must be True',
        'config.model.head.bias = False: must be True',
    ):
        assert line in message


def test_what_the_last_objective_of_a_run_sees_decides():
    config = tiny_config(objective__kind='masked', objective__switch='causal@5')
    assert interop.express(config, vocabulary_of('bytes'))[0] == 'gpt2'
    assert "config.objective.switch = 'masked@5'" in refusal(objective__switch='masked@5')


def written(folder, params=None, dtype='float32'):
    setup = one_device_setup(tiny_config(model__num_layers=1))
    params = setup.initial_state().params if params is None else params
    family, hf_config = interop.express(setup.config, vocabulary_of('bytes'))
    interop.write_folder(folder, family, hf_config, setup.config.model, params, make_tokenizer('bytes'), dtype)


def test_nothing_is_overwritten_and_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').write_text('years of work')
    with pytest.raises(UserError, match='is not empty'):
        written(tmp_path / 'full')
    with pytest.raises(UserError, match='--dtype=int8'):
        written(tmp_path / 'other', dtype='int8')
    (tmp_path / 'empty').mkdir()
    written(tmp_path / 'empty')
    names = {path.name for path in (tmp_path / 'empty').iterdir()}
    assert names >= {'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'}
    assert json.loads((tmp_path / 'empty' / 'config.json').read_text())['model_type'] == 'gpt2'


def test_a_number_that_does_not_fit_leaves_nothing_behind(tmp_path):
    setup = one_device_setup(tiny_config(model__num_layers=1))
    params = setup.initial_state().params
    params['norm_final']['scale'] = jnp.full(32, 1e30)
    with pytest.raises(UserError, match=r'ln_f\.weight holds numbers that are not finite in float16'):
        written(tmp_path / 'out', params, 'float16')
    assert list(tmp_path.iterdir()) == []


def test_merges_are_those_that_made_the_tokens():
    words = [' the', ' king', ' kings', ' queen', ' aaaa', ' aaaaaa']
    random = np.random.default_rng(0)
    tokenizer = make_tokenizer('bpe:290', [''.join(random.choice(words, 300))])
    merges = merges_of(tokenizer.tokens)
    assert [a + b for a, b in merges] == tokenizer.tokens[256:]
    known = set(tokenizer.tokens[:256])
    for a, b in merges:
        assert {a, b} <= known
        known.add(a + b)
