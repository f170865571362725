"""XLNet in Hugging Face's format: what it computes is what transformers did (tests/goldens/make_xlnet.py), and a folder
survives the way in and out."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from foreign import gradients_of, logits_of, permuted_example, read_folder, relative_difference
from helpers import XLNET, largest_difference, one_device_setup, tiny_config

from gpt2jax import interop
from gpt2jax.data import make_tokenizer, vocabulary_of
from gpt2jax.data.hf_tokenizer import make
from gpt2jax.errors import UserError
from gpt2jax.interop.layouts import plain_name

GOLDEN = Path(__file__).parents[1] / 'goldens' / 'xlnet.npz'


@pytest.fixture(name='golden')
def unpack(tmp_path):
    """(arrays, source, setup, params), imported."""
    golden = np.load(GOLDEN)
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / name).write_bytes(golden[name].tobytes())
    return golden, *read_folder(tmp_path)


def test_the_content_stream_alone_is_that_of_transformers(golden):
    """Without queries and with all orders equal it is a bidirectional encoder."""
    golden, _, setup, params = golden
    example = permuted_example(golden['ids'][0], np.zeros((2, 0), int), golden['token_type'][0])
    assert relative_difference(logits_of(setup, params, example), golden['content']) < 1e-5


def test_queries_over_three_segments_with_memory_are_those_of_transformers(golden):
    golden, _, setup, params = golden
    assert (setup.config.model.memory_length, setup.config.model.position.clamp_length) == (7, 12)
    carry = setup.model.init_memory(2)
    for number, expected_BPV in enumerate(golden['logits']):
        arrays = (golden[name][number] for name in ('ids', 'place', 'token_type'))
        example = permuted_example(*arrays, continues=number > 0)
        assert relative_difference(logits_of(setup, params, example, carry), expected_BPV) < 1e-5, number
        _, carry = setup.model.apply(params, example, carry)


def test_gradients_through_both_streams_are_those_of_transformers(golden):
    golden, source, setup, params = golden
    example = permuted_example(*(golden[name][0] for name in ('ids', 'place', 'token_type')))
    ours = gradients_of(source, setup, params, example, golden['targets'], golden['weights'])
    names = [name for name in golden.files if name.startswith('gradient ')]
    theirs = {plain_name('xlnet', name.removeprefix('gradient ')): golden[name] for name in names}
    assert ours.keys() == theirs.keys()
    assert {'mask_emb', 'layer.1.rel_attn.seg_embed', 'layer.0.rel_attn.r'} <= theirs.keys()
    scale = max(np.max(np.abs(gradient)) for gradient in theirs.values())
    for name in ours:
        assert np.max(np.abs(ours[name] - theirs[name])) < 1e-5 * scale, name


def write(folder, setup, params):
    family, hf_config = interop.express(setup.config, vocabulary_of('bytes'))
    interop.write_folder(folder, family, hf_config, setup.config.model, params, make_tokenizer('bytes'), 'float32')


def test_a_folder_comes_out_as_it_came_in(golden, tmp_path):
    golden, source, setup, params = golden
    write(tmp_path / 'out', setup, params)
    again = interop.open_folder(tmp_path / 'out')
    assert again.headers.keys() == source.headers.keys()
    for name, header in source.headers.items():
        written = again.headers[name]
        assert (written.shape, written.dtype) == (header.shape, header.dtype)
        theirs, ours = (interop.importing.read_tensor(name, h) for h in (header, written))
        np.testing.assert_array_equal(ours, theirs)
    theirs, ours = (json.loads((tmp_path / path / 'config.json').read_text()) for path in ('', 'out'))
    for key in ('d_model', 'n_layer', 'n_head', 'd_head', 'd_inner', 'vocab_size', 'mem_len', 'clamp_len', 'attn_type'):
        assert ours[key] == theirs[key], key
    assert again.changes == source.changes


@pytest.mark.parametrize(
    ('changes', 'part'),
    [
        ({'attn_type': 'uni'}, "attn_type = 'uni' (only 'bi' can be expressed)"),
        ({'bi_data': True}, 'bi_data = True'),
        ({'reuse_len': 3}, 'reuse_len = 3'),
        ({'untie_r': False}, 'untie_r = False'),
        ({'d_head': 9}, 'd_head = 9 (only d_model / n_head can be expressed)'),
        ({'ff_activation': 'silu'}, "ff_activation = 'silu' (there are gelu_new"),
        ({'clamp_len': '12'}, "clamp_len = '12' is not a whole number"),
        ({'mem_len': -1}, 'mem_len = -1 is not a whole number'),
        ({'mem_len': 1 << 40}, 'mem_len = '),
        ({'n_layer': 10**6}, 'n_layer = 1000000 is not a whole number in 1..1000'),
        ({'dropout': 'much'}, "dropout = 'much' is not a number"),
    ],
)
def test_what_ours_cannot_be_is_refused_by_name(golden, tmp_path, changes, part):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as refused:
        interop.open_folder(tmp_path)
    assert part in str(refused.value)


def test_an_encoder_without_a_head_is_read_as_one(tmp_path):
    """XLNetModel: its names have no prefix, and there is no bias to predict with."""
    config = tiny_config(
        **XLNET | {'model__head__bias': False, 'model__vocab_multiple': 128}, objective__kind='permutation'
    )
    setup = one_device_setup(config)
    params = setup.initial_state().params
    family, hf_config = interop.express(config, vocabulary_of('bytes'), encoder_only=True)
    interop.write_folder(tmp_path, family, hf_config, config.model, params, make_tokenizer('bytes'), 'float32')
    source, again, params_again = read_folder(tmp_path)
    assert (source.hf_config['architectures'], source.predicts) == (['XLNetModel'], False)
    assert 'layer.2.rel_attn.r' in source.headers
    assert again.config.model.head.bias is False
    for tree in (params, params_again):  # rows that pad the vocabulary come in as zeros
        tree['embedding']['token'] = tree['embedding']['token'][:260]
    assert largest_difference(params, params_again) == 0


def test_a_model_that_xlnet_of_transformers_is_not_is_refused_with_all_that_is_in_the_way():
    config = tiny_config(**XLNET | {'model__position__segments': False, 'model__norm__placement': 'pre'})
    with pytest.raises(UserError) as refused:
        interop.express(config, vocabulary_of('bytes'))
    for part in (
        'XLNet of transformers, which comes nearest, is another function',
        'config.model.position.segments = False: must be True',
        "config.model.norm.placement = 'pre': must be 'post'",
        "config.objective.kind = 'causal': must be permutation at the end",
    ):
        assert part in str(refused.value)


def test_xlnets_own_special_tokens_are_found_in_its_tokenizer():
    """A document begins behind the <eod> of the one before it; <s> and </s> were never trained."""
    names = ['<unk>', '<s>', '</s>', '<cls>', '<sep>', '<pad>', '<mask>', '<eod>', '<eop>']
    pieces = [*names, '\N{LOWER ONE EIGHTH BLOCK}a', '\N{LOWER ONE EIGHTH BLOCK}', 'king']
    library = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.add_special_tokens(names)
    tokenizer = make(json.loads(library.to_str()), Path('tokenizer.json'))
    assert (tokenizer.end_of_text, tokenizer.sep, tokenizer.pad, tokenizer.mask) == (7, 4, 5, 6)
    assert tokenizer.wrap(tokenizer.encode('a king')) == [7, 9, 10, 11, 4]


def test_a_tokenizer_of_sentencepiece_alone_is_refused_with_the_way_out(golden, tmp_path):
    (tmp_path / 'spiece.model').write_bytes(b'\n\x0e')
    with pytest.raises(UserError, match=r'spiece\.model, which is not read here.*makes a tokenizer\.json'):
        make_tokenizer(f'file:{tmp_path}')
