"""What holds for every objective, whatever it hides and predicts."""

import functools

import jax
import numpy as np
import pytest
from helpers import in_pairs, largest_difference, model_for, one_device_setup, random_batch, tiny_config

from gpt2jax.data import vocabulary_of
from gpt2jax.models import make_model
from gpt2jax.objectives import OBJECTIVES, make_objective
from gpt2jax.training.step import make_evaluation_step

LENGTH, ROWS = 24, 12
VARIANTS = {
    'causal': {'kind': 'causal'},
    'masked': {'kind': 'masked'},
    'masked spans': {'kind': 'masked', 'rate': 0.4, 'mean_span': 3.0, 'whole_words': True},
    'masked schedule': {'kind': 'masked', 'rate': 0.2, 'start_rate': 0.7},
    'prefix': {'kind': 'prefix'},
    'prefix of a half': {'kind': 'prefix', 'prefix': 0.5},
    'hybrid': {'kind': 'hybrid'},
    'hybrid words': {'kind': 'hybrid', 'whole_words': True, 'rate': 0.5, 'causal_share': 0.2},
    'span_corruption': {'kind': 'span_corruption'},
    'seq2seq': {'kind': 'seq2seq'},
    'permutation': {'kind': 'permutation'},
    'permutation of spans': {'kind': 'permutation', 'rate': 0.4, 'mean_span': 3.0},
    'span_corruption, most of it': {'kind': 'span_corruption', 'rate': 0.9, 'mean_span': 4.0},
}
QUERIED = 'place', 'order', 'segment'
each_variant = pytest.mark.parametrize('name', VARIANTS)


def config_of(name, **changes):
    options = {f'objective__{key}': value for key, value in VARIANTS[name].items()} | model_for(VARIANTS[name]['kind'])
    return tiny_config(data__length=LENGTH, **options, **changes)


@functools.cache
def compiled(name):
    return jax.jit(make_objective(config_of(name)))


def make(name, batch, seed=0, progress=0.5):
    return compiled(name)(batch, jax.random.key(seed), progress)


def batch_of(seed=0):
    """Rows with several documents, each behind its <|endoftext|>, and half of the last row padded."""
    batch = random_batch(ROWS, LENGTH, seed, documents=4)
    batch['segment'][-1, LENGTH // 2 :] = 0
    batch['tokens'][:, 1:][batch['segment'][:, 1:] != batch['segment'][:, :-1]] = 256
    batch['tokens'][batch['segment'] == 0] = 258
    return in_pairs(batch)


def test_every_objective_has_a_variant_here():
    assert {options['kind'] for options in VARIANTS.values()} == set(OBJECTIVES)


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_the_config_names_the_objective_and_a_switch_another(kind):
    assert type(make_objective(tiny_config(objective__kind=kind, **model_for(kind)))) is OBJECTIVES[kind]
    assert type(make_objective(tiny_config(), kind)) is OBJECTIVES[kind]


@each_variant
def test_every_field_is_of_one_row_each(name):
    example = make(name, batch_of())
    queries = {} if example.queries is None else {name: getattr(example.queries, name) for name in QUERIED}
    predictions = queries['place'].shape if queries else (ROWS, LENGTH)
    for field in ('inputs', 'order', 'segment', 'position'):
        array = getattr(example, field)
        assert (array.shape, array.dtype) == ((ROWS, LENGTH), 'int32'), field
    for array in (example.targets, *queries.values()):
        assert (array.shape, array.dtype) == (predictions, 'int32')
    assert (example.weights.shape, example.weights.dtype) == (predictions, 'float32')
    np.testing.assert_array_equal(example.row, np.arange(ROWS))


@each_variant
def test_a_row_does_not_depend_on_the_other_rows(name):
    """So neither devices nor microbatches change an example: any rows, in any order, give the same rows of it."""
    batch, some = batch_of(), np.array([7, 2, 11])
    whole = make(name, batch)
    part = make(name, jax.tree.map(lambda a: a[some], batch))
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(np.asarray(expected)[some], found)


@each_variant
def test_the_key_decides_what_is_drawn(name):
    first, again, other = (make(name, batch_of(), seed) for seed in (0, 0, 1))
    assert largest_difference(first, again) == 0
    drawn = name not in ('causal', 'prefix of a half', 'seq2seq')
    assert (largest_difference(first, other) > 0) == drawn


@each_variant
def test_rows_with_the_same_text_draw_apart(name):
    batch = {key: np.repeat(array[:1], ROWS, axis=0) for key, array in batch_of().items() if key != 'row'}
    example = make(name, batch | {'row': np.arange(ROWS, dtype=np.int32)})
    content = np.concatenate([np.asarray(a) for a in (example.inputs, example.order, example.weights)], axis=1)
    assert (len(np.unique(content, axis=0)) > 1) == (name not in ('causal', 'prefix of a half', 'seq2seq'))


@each_variant
@pytest.mark.parametrize('progress', [0.0, 1.0])
def test_no_row_predicts_more_than_the_objective_promises(name, progress):
    promised = make_objective(config_of(name)).num_predictions(LENGTH)
    assert 0 < promised <= LENGTH
    most = max(float(make(name, batch_of(seed), seed, progress).weights.sum(1).max()) for seed in range(5))
    assert 0 < most <= promised


@each_variant
def test_padding_is_seen_by_no_document_and_never_predicted(name):
    example = make(name, batch_of())
    padding_BL = np.asarray(example.segment) == 0
    assert padding_BL.any()
    assert (np.asarray(example.inputs)[padding_BL] == 258).all()
    if example.queries is None:
        assert (np.asarray(example.weights)[padding_BL] == 0).all()
    else:
        assert (np.asarray(example.weights)[np.asarray(example.queries.segment) == 0] == 0).all()
    assert (np.asarray(example.targets)[np.asarray(example.weights) > 0] != 258).all()


@each_variant
def test_segments_are_runs_so_that_positions_restart_in_each(name):
    example = make(name, batch_of(3))
    for segments, positions in zip(np.asarray(example.segment), np.asarray(example.position), strict=True):
        runs = [segments[0], *segments[1:][segments[1:] != segments[:-1]]]
        assert len(runs) == len(set(runs))
        for segment in runs:
            assert positions[segments == segment].tolist() == list(range((segments == segment).sum()))


@each_variant
def test_parameters_and_their_initial_values_are_those_of_every_other_objective(name):
    expected, found = (
        make_model(config.model).init(jax.random.key(3))
        for config in (config_of('causal', **model_for(VARIANTS[name]['kind'])), config_of(name))
    )
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    assert largest_difference(expected, found) == 0


@pytest.mark.parametrize('name', ['masked spans', 'prefix', 'hybrid', 'span_corruption', 'permutation of spans'])
def test_a_step_is_the_same_in_any_number_of_microbatches(name):
    results = []
    for accumulation in (1, 4):
        setup = one_device_setup(config_of(name, training__accumulation=accumulation))
        _, metrics = setup.train_step()(setup.initial_state(), random_batch(8, LENGTH))
        results.append({key: float(value) for key, value in metrics.items()})
    assert results[0]['predicted'] == results[1]['predicted'] > 0
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@each_variant
def test_the_loss_is_that_of_the_predicted_tokens(name):
    """Gathering the predicted positions first, as training does, loses none of them."""
    setup, batch = one_device_setup(config_of(name)), batch_of()
    batch = jax.tree.map(lambda a: a[:8], batch)
    state = setup.initial_state()
    example = setup.objective()(batch, jax.random.key(0), 1.0)
    step = make_evaluation_step(setup.model, setup.objective(), setup.config.loss)
    found, _ = step(state.params, batch, None)
    hidden_BLD, _ = setup.model.apply(state.params, example)
    head_params, logits_fn = setup.model.head(state.params)
    logits_BLV = jax.vmap(lambda hidden_LD: logits_fn(head_params, hidden_LD))(hidden_BLD)
    targets_BL = np.asarray(example.targets)
    nats_BL = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits_BLV)), targets_BL[..., None], -1)[..., 0]
    there_BP, expected_BL = np.asarray(found['weights']) > 0, np.asarray(example.weights) > 0
    np.testing.assert_array_equal(found['targets'][there_BP], targets_BL[expected_BL])
    np.testing.assert_allclose(found['nats'][there_BP], nats_BL[expected_BL], atol=1e-5)


def test_a_batch_without_predictions_changes_nothing_but_by_weight_decay():
    setup = one_device_setup(tiny_config(objective__kind='masked', optimizer__weight_decay=0.0))
    batch = random_batch(8, 16)
    batch['segment'][:] = 0
    state = setup.initial_state()
    before = jax.device_get(state.params)
    state, metrics = setup.train_step()(state, batch)
    assert (float(metrics['predicted']), float(metrics['loss']), float(metrics['gradient_norm'])) == (0, 0, 0)
    assert largest_difference(before, state.params) == 0


def test_special_tokens_of_the_config_are_those_of_its_tokenizer():
    vocabulary = make_objective(tiny_config()).vocabulary
    assert vocabulary == vocabulary_of('bytes')
    assert (vocabulary.size, vocabulary.ordinary) == (260, 256)
