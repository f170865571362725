"""How much text a prediction reads: windows that slide, and memories of the rows before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import one_device_setup, tiny_config

from gpt2jax.data import Rows, Tokens, make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.evaluation.lengths import likelihood_lengths
from gpt2jax.training.loop import evaluate_rows

TOKENIZER = make_tokenizer('bytes')
LENGTH = 8
XL = {
    'model__architecture': 'transformer_xl',
    'model__position__kind': 'relative',
    'model__memory_length': 6,
    'data__order': 'contiguous',
}
LSTM = {'model__architecture': 'lstm', 'data__order': 'contiguous'}
ROTARY = {'model__position__kind': 'rotary'}
MODELS = {'transformer_xl': XL, 'lstm': LSTM, 'sliding': ROTARY | {'evaluation__stride': 3, 'evaluation__context': 14}}


def make_rows(length=LENGTH, cross_documents=False):
    """Documents of 0 to 70 bytes, 600 in all."""
    random = np.random.default_rng(0)
    documents = [
        random.integers(97, 123, size) for size in random.permutation([0, 1, 7, 8, 70, 20, 33, 60, 1, 50, 350])
    ]
    stream = np.concatenate([[256, *ids] for ids in documents] + [[256]]).astype(np.uint16)
    offsets = np.flatnonzero(stream == 256)
    return Rows(Tokens(stream, offsets, 600), length, cross_documents, TOKENIZER)


def tiny_run(batch_size=4, **changes):
    """A setup, and parameters far from the initial ones, so that far tokens matter."""
    options = {'data__length': LENGTH, 'evaluation__batch_size': batch_size, 'model__num_layers': 2} | changes
    setup, random = one_device_setup(tiny_config(**options)), np.random.default_rng(0)
    return setup, jax.tree.map(lambda x: np.float32(0.6 * random.normal(size=x.shape)), setup.abstract.params)


def figures(batch_size=4, num_rows=0, cross_documents=False, **changes):
    setup, params = tiny_run(batch_size, **changes)
    evaluations, rows = setup.evaluations(lossless=True), make_rows(cross_documents=cross_documents)
    return evaluate_rows(setup, evaluations, params, rows, TOKENIZER.byte_lengths, num_rows, lambda work, *_: work)


def make_nats(setup, params):
    """batch -> -log p of every target, [B, L], 0 for padding; plainly."""

    @jax.jit
    def nats(params, batch):
        example = setup.objective()(batch, jax.random.key(0), 1.0)
        hidden_BLD, _ = setup.model.apply(params, example)
        head_params, logits_fn = setup.model.head(params)
        log_BLV = jax.nn.log_softmax(jax.vmap(lambda hidden: logits_fn(head_params, hidden))(hidden_BLD))
        return -example.weights * jnp.take_along_axis(log_BLV, example.targets[..., None], axis=-1)[..., 0]

    return lambda batch: np.asarray(nats(params, batch), np.float64)


@pytest.mark.parametrize('model', MODELS)
def test_figures_do_not_depend_on_the_batch_size(model):
    first, *others = (figures(batch_size, **MODELS[model]) for batch_size in (1, 3, 8))
    assert first['predicted'] == 611
    assert first['bytes'] == 600
    for other in others:
        assert other == pytest.approx(first, rel=2e-6)


@pytest.mark.parametrize('model', [LSTM, XL | {'model__memory_length': 700}], ids=['lstm', 'transformer_xl'])
@pytest.mark.parametrize('cross_documents', [False, True])
def test_a_long_enough_memory_reads_the_split_as_one_row(model, cross_documents):
    setup, params = tiny_run(**model)
    expected = np.sum(make_nats(setup, params)(make_rows(700, cross_documents).batch([0]))) / 611
    for stride in (LENGTH, 5):
        options = {'batch_size': 1, 'cross_documents': cross_documents, 'evaluation__stride': stride}
        assert figures(**model, **options)['nats_per_token'] == pytest.approx(expected, rel=1e-5)


def test_a_memory_changes_what_is_measured():
    short, none = figures(**XL), figures(**XL, evaluation__stride=8, evaluation__context=8)
    assert (short['memory'], none['context']) == (6, 8)
    assert abs(short['nats_per_token'] - none['nats_per_token']) > 1e-3
    longer = figures(**XL, evaluation__stride=2, evaluation__context=14)
    assert longer['memory'] == 12
    assert abs(longer['nats_per_token'] - short['nats_per_token']) > 1e-3


@pytest.mark.parametrize(('context', 'stride'), [(14, 1), (14, 5), (700, 200)])
def test_windows_predict_each_token_from_the_context_before_it(context, stride):
    """Written as a loop over tokens, each read with its own part of the stream."""
    lengths = {'evaluation__stride': stride, 'evaluation__context': context}
    setup, params = tiny_run(**ROTARY, **lengths)
    tokens, total, nats = make_rows().tokens, 0.0, make_nats(setup, params)
    for target in range(1, tokens.num_tokens):
        window_end = -(-target // stride) * stride  # in the stream or behind it
        places = np.arange(max(0, window_end - context), target + 1)
        ids_L, segment_L = np.zeros((2, context + 1), np.int32)
        ids_L[: len(places)] = tokens.tokens[places]
        segment_L[: len(places)] = np.searchsorted(tokens.offsets, places, side='right')
        batch = {'tokens': ids_L[None], 'segment': segment_L[None], 'row': np.zeros(1, np.int32)}
        total += nats(batch)[0, len(places) - 2]
    assert figures(**ROTARY, **lengths)['nats_per_token'] == pytest.approx(total / 611, rel=1e-5)


def test_windows_of_one_row_are_the_rows():
    plain, same = figures(), figures(evaluation__stride=LENGTH, evaluation__context=LENGTH)
    assert plain == same
    assert (plain['context'], plain['stride']) == (LENGTH, LENGTH)


def test_every_perplexity_names_its_lengths():
    def named(**changes):
        return str(likelihood_lengths(tiny_config(data__length=64, **changes)))

    assert named() == 'context 64'
    assert named(**ROTARY, evaluation__stride=32, evaluation__context=256) == 'context 256, stride 32'
    assert named(**ROTARY, evaluation__stride=32) == 'context 32'
    assert named(**XL) == 'stride 64, memory 6, no clamp'
    clamped = {'model__position__clamp_length': 400, 'evaluation__context': 256}
    assert named(**XL, **clamped) == 'stride 64, memory 192, clamp 400'
    assert named(**LSTM) == 'stride 64, memory unbounded'


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            {'evaluation.context': 17},
            ['config.evaluation.context = 17', 'beyond the position table', 'max_length = 16'],
        ),
        ({'evaluation.stride': 8, 'evaluation.context': 4}, ['config.evaluation.context = 4', 'at least as long']),
        ({'evaluation.stride': -1}, ['config.evaluation.stride = -1', 'at least 0']),
        ({'data.order': 'sorted'}, ["config.data.order = 'sorted'", 'contiguous']),
        ({'model.memory_length': 8}, ['config.model.memory_length = 8', 'transformer_xl']),
        (
            {'model.architecture': 'transformer_xl', 'model.position.kind': 'relative', 'model.memory_length': 8},
            ['config.model.memory_length = 8', 'config.data.order=contiguous'],
        ),
        ({'data.order': 'contiguous', 'data.whole_documents': True}, ["config.data.order = 'contiguous'", 'shuffled']),
        (
            {'model.architecture': 'transformer_xl', 'evaluation.stride': 8, 'evaluation.context': 12},
            ['config.model.position.kind', 'relative'],
        ),
    ],
)
def test_lengths_that_no_model_can_read_are_refused(changes, words):
    with pytest.raises(UserError) as error:
        tiny_config(**{key.replace('.', '__'): value for key, value in changes.items()})
    for word in words:
        assert word in str(error.value)
