"""What is refused before anything is allocated, and what an imported run is."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign import read_folder
from helpers import largest_difference, one_device_setup, tiny_config
from safetensors.numpy import load_file, save_file

from gpt2jax import interop
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.errors import UserError
from gpt2jax.interop import importing, weight_files
from gpt2jax.optimizers import path_name

POST = {
    'model__init__residual': 'plain',
    'objective__kind': 'masked',
    'model__norm__placement': 'post',
    'model__embedding__norm': True,
    'model__embedding__token_types': 2,
    'model__head__transform': True,
    'model__head__bias': True,
    'model__head__pooler': True,
}


def spread(params):
    """No two numbers alike, so that a tensor in the wrong place shows."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def write(folder, dtype='float32', **changes):
    """A tiny model as a Hugging Face folder; returns (setup, params)."""
    setup = one_device_setup(tiny_config(model__num_layers=2, model__vocab_multiple=128, **changes))
    params = spread(setup.initial_state().params)
    family, hf_config = interop.express(setup.config, vocabulary_of('bytes'))
    interop.write_folder(folder, family, hf_config, setup.config.model, params, make_tokenizer('bytes'), dtype)
    return setup, params


@pytest.fixture(name='folder')
def write_gpt2(tmp_path):
    write(tmp_path / 'gpt2')
    return tmp_path / 'gpt2'


def change_config(folder, **changes):
    path = folder / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    save_file(tensors, folder / 'model.safetensors')


def refusal(folder):
    """The message of the refusal."""
    with pytest.raises(UserError) as refused:
        read_folder(folder)
    return str(refused.value)


@pytest.mark.parametrize('changes', [{}, {'model__head__tied': False}, POST, POST | {'model__head__tied': False}])
def test_import_is_the_inverse_of_export(tmp_path, changes):
    setup, params = write(tmp_path / 'out', **changes)
    _, again, params_again = read_folder(tmp_path / 'out')
    assert again.config.model == setup.config.model
    rows = setup.config.model.vocab_size
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        other = dict(jax.tree_util.tree_leaves_with_path(params_again))[path]
        if path_name(path) in ('embedding/token', 'head/kernel', 'head/bias'):
            assert not np.any(other[rows:])
            leaf, other = leaf[:rows], other[:rows]
        assert np.array_equal(leaf, other), path_name(path)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_narrow_weights_come_back_as_they_were_written(tmp_path, dtype):
    _, params = write(tmp_path / 'out', dtype=dtype)
    _, _, again = read_folder(tmp_path / 'out')
    expected = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params['blocks'])
    assert largest_difference(expected, again['blocks']) == 0


def test_weights_in_several_files_are_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, 'SHARD_BYTES', 20_000)
    _, params = write(tmp_path / 'out')
    assert len(list((tmp_path / 'out').glob('model-*.safetensors'))) > 2
    _, _, again = read_folder(tmp_path / 'out')
    assert largest_difference(params['blocks'], again['blocks']) == 0


def test_old_names_of_norms_and_buffers_are_known(tmp_path):
    _, params = write(tmp_path / 'out', **POST)

    def age(tensors):
        for name in [name for name in tensors if 'LayerNorm' in name]:
            old = name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')
            tensors[old] = tensors.pop(name)
        tensors['bert.embeddings.position_ids'] = np.arange(16)[None]
        tensors['cls.seq_relationship.weight'] = np.zeros((2, 32), np.float32)
        tensors['cls.predictions.decoder.weight'] = tensors['bert.embeddings.word_embeddings.weight'].copy()

    change_tensors(tmp_path / 'out', age)
    source, setup, again = read_folder(tmp_path / 'out')
    assert largest_difference(params['blocks'], again['blocks']) == 0
    left = interop.check(source, setup.config.model, setup.abstract.params)
    assert sorted(left) == ['bert.embeddings.position_ids', 'cls.seq_relationship.weight']


def test_a_second_copy_of_the_output_matrix_must_be_the_first(folder):
    def change(tensors):
        tensors['lm_head.weight'] = tensors['transformer.wte.weight'] + 1

    change_tensors(folder, change)
    assert 'lm_head.weight differs from transformer.wte.weight' in refusal(folder)


def test_missing_unknown_and_misshapen_tensors_are_named(folder):
    def change(tensors):
        del tensors['transformer.ln_f.bias']
        tensors['transformer.h.2.attn.c_attn.weight'] = np.zeros((4, 4), np.float32)
        tensors['transformer.wpe.weight'] = np.zeros((15, 32), np.float32)
        tensors['transformer.ln_f.weight'] = np.zeros(32, np.int32)

    change_tensors(folder, change)
    message = refusal(folder)
    for part in (
        'missing: ln_f.bias [32]',
        'unknown: transformer.h.2.attn.c_attn.weight [4, 4]',
        'transformer.wpe.weight is [15, 32], config.json asks for [16, 32]',
        'transformer.ln_f.weight is I32',
    ):
        assert part in message


def test_nothing_is_read_before_all_shapes_are_known_to_fit(folder, monkeypatch):
    change_config(folder, n_embd=1 << 20, n_inner=1 << 22)
    monkeypatch.setattr(importing, 'read_tensor', lambda *_: pytest.fail('a tensor was read'))
    assert 'config.json asks for [1048576]' in refusal(folder)


@pytest.mark.parametrize(
    ('changes', 'part'),
    [
        ({'model_type': 'llama'}, "model_type = 'llama' is not among gpt2, bert"),
        ({'model_type': ['gpt2']}, "model_type = ['gpt2']"),
        ({'activation_function': 'quick_gelu'}, "activation_function = 'quick_gelu'"),
        ({'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx = True (only False'),
        ({'reorder_and_upcast_attn': True}, 'reorder_and_upcast_attn = True'),
        ({'add_cross_attention': True}, 'add_cross_attention = True'),
        ({'n_layer': 10**9}, 'n_layer = 1000000000 is not a whole number in 1..1000'),
        ({'n_embd': '32'}, "n_embd = '32' is not a whole number"),
        ({'vocab_size': -1}, 'vocab_size = -1'),
        ({'layer_norm_epsilon': None}, 'layer_norm_epsilon = None is not a number'),
    ],
)
def test_a_model_that_cannot_be_expressed_is_refused_by_key_and_value(folder, changes, part):
    change_config(folder, **changes)
    assert part in refusal(folder)


def test_a_bert_that_cannot_be_expressed_is_refused_with_all_its_keys(tmp_path):
    write(tmp_path / 'out', **POST)
    change_config(tmp_path / 'out', position_embedding_type='relative_key', is_decoder=True, hidden_act='silu')
    message = refusal(tmp_path / 'out')
    for part in ("position_embedding_type = 'relative_key'", 'is_decoder = True', "hidden_act = 'silu'"):
        assert part in message


def test_pickles_are_refused_with_a_way_out(folder):
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    message = refusal(folder)
    assert 'pytorch_model.bin' in message
    assert 'save_pretrained' in message


@pytest.mark.parametrize('file', ['../other.safetensors', '/etc/passwd', 'a/b.safetensors', '..', 'model.bin', ''])
def test_an_index_cannot_lead_out_of_the_folder(folder, file):
    (folder / 'model.safetensors').rename(folder.parent / 'other.safetensors')
    index = {'weight_map': {'transformer.wte.weight': file}}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    assert f'{file!r} is not the name of a safetensors file in this folder' in refusal(folder)


@pytest.mark.parametrize('index', [[], {}, {'weight_map': {'a': 3}}, {'weight_map': [1]}])
def test_an_index_must_be_one(folder, index):
    (folder / 'model.safetensors').unlink()
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    assert 'no weight_map' in refusal(folder)


@pytest.mark.parametrize('keep', [0, 7, 100, -1])
def test_a_cut_file_is_refused(folder, keep):
    path = folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:keep])
    assert 'model.safetensors: damaged, or no safetensors file' in refusal(folder)


def test_a_header_that_claims_more_than_the_file_is_refused(folder):
    header = json.dumps({'a': {'dtype': 'F32', 'shape': [1 << 40], 'data_offsets': [0, 1 << 42]}}).encode()
    (folder / 'model.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + b'1234')
    assert 'damaged' in refusal(folder)


def test_json_that_is_too_large_is_not_read(folder):
    with (folder / 'config.json').open('ab') as file:
        file.truncate(weight_files.LARGEST_CONFIG + 1)
    assert 'larger than' in refusal(folder)


def test_a_folder_must_hold_something(tmp_path):
    with pytest.raises(UserError, match='there is no such folder'):
        interop.open_folder(tmp_path / 'nowhere')
    with pytest.raises(UserError, match=r'config\.json does not exist'):
        interop.open_folder(tmp_path)
    (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r'holds neither model\.safetensors nor'):
        interop.open_folder(tmp_path)
