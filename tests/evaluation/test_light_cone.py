"""The model sees what its objective shows it and nothing else, whatever the objective, the model and the documents."""

import jax
import numpy as np
import pytest
from helpers import example_of, random_batch, tiny_config

from gpt2jax.evaluation import light_cone as light_cone_file
from gpt2jax.evaluation.light_cone import check_light_cone, expected_cone, light_cone, noisy_params
from gpt2jax.models import make_model
from gpt2jax.models import transformer as transformer_file
from gpt2jax.models.masks import visible
from gpt2jax.objectives import OBJECTIVES

KINDS = [kind for kind in OBJECTIVES if kind != 'permutation']  # whose queries are XLNet's: test_xlnet.py
LENGTH = 20
SMALL = {'data__length': LENGTH, 'model__num_layers': 2, 'model__width': 16, 'model__attention__num_heads': 2}


def batch_of(rows, length=LENGTH):
    """Rows of three documents each, behind their <|endoftext|>, a <|sep|> in some; the last row ends in padding."""
    batch = random_batch(rows, length)
    batch['tokens'][:, length // 3] = 259
    batch['tokens'][:, 1:][batch['segment'][:, 1:] != batch['segment'][:, :-1]] = 256
    return batch


def example_and_model(kind, rows=3, **changes):
    changes = {**SMALL, 'objective__rate': 0.3, **changes}
    model = make_model(tiny_config(**changes).model)
    return example_of(kind, batch_of(rows, changes['data__length']), **changes), model


@pytest.mark.parametrize('kind', KINDS)
def test_every_visible_token_has_a_gradient_and_no_other_one_has(kind):
    example, model = example_and_model(kind)
    verdict = check_light_cone(model, example)
    assert verdict.agrees, verdict
    hidden_BLL = ~expected_cone(model.config, example)
    across_BLL = np.asarray(example.segment)[:, :, None] != np.asarray(example.segment)[:, None, :]
    assert hidden_BLL[across_BLL].all()
    assert hidden_BLL[~across_BLL].any() == (kind != 'masked')


@pytest.mark.parametrize(
    'changes',
    [
        {'data__cross_documents': True},
        {'model__init__residual': 'zero'},
        {'model__attention__window': 3},
        {'model__attention__window': 3, 'model__attention__global_every': 2},
        {'model__scan_layers': True, 'model__remat': 'full', 'model__dtype': 'bfloat16'},
    ],
    ids=str,
)
def test_it_holds_for_any_model(changes):
    example, model = example_and_model('hybrid', **changes)
    verdict = check_light_cone(model, example)
    assert verdict.agrees, verdict


def test_it_holds_for_rows_longer_than_the_vocabulary():
    example, model = example_and_model('causal', rows=1, data__length=270, model__num_layers=1)
    assert check_light_cone(model, example).agrees


def test_windows_of_a_stack_reach_as_far_as_they_can_together():
    example, model = example_and_model('masked', model__attention__window=3, data__length=16)
    reach_BLL = expected_cone(model.config, example.replace(segment=example.segment * 0 + 1))
    far_LL = np.abs(np.arange(16)[:, None] - np.arange(16))
    np.testing.assert_array_equal(reach_BLL, np.tile(far_LL <= 4, (3, 1, 1)))  # twice two places


@pytest.mark.parametrize('kind', KINDS)
def test_a_mask_that_shows_one_token_more_is_caught(kind, monkeypatch):
    """The real model, with a mask that lets each place see the document before its own."""

    def leaky(order_q, order_k, segment_q, segment_k):
        return (order_k[:, None] <= order_q[:, :, None]) & (segment_k[:, None] <= segment_q[:, :, None])

    monkeypatch.setattr(transformer_file, 'visible', leaky)
    example, model = example_and_model(kind, rows=2)
    verdict = check_light_cone(model, example)
    assert len(verdict.leaks)
    assert not len(verdict.blind)
    row, query, key = verdict.leaks[0]
    assert example.segment[row, query] > example.segment[row, key]


def test_a_mask_that_shows_too_little_is_caught(monkeypatch):
    def without_the_first(*arguments):
        return visible(*arguments).at[:, 1:, 0].set(False)

    monkeypatch.setattr(transformer_file, 'visible', without_the_first)
    example, model = example_and_model('masked', rows=1)
    verdict = check_light_cone(model, example, seeds=(0, 1))
    assert not len(verdict.leaks)
    together = np.flatnonzero(np.asarray(example.segment)[0] == example.segment[0, 0])[1:]
    assert verdict.blind.tolist() == [[0, place, 0] for place in together]


def test_the_gradients_are_those_of_a_model_with_one_place_after_the_other(monkeypatch):
    """The cone does not depend on how many places are looked at at once."""
    example, model = example_and_model('span_corruption', rows=2)
    params = noisy_params(model, 0)
    whole = light_cone(model, params, example)
    monkeypatch.setattr(light_cone_file, 'CHUNK', 7)
    np.testing.assert_array_equal(light_cone(model, params, example), whole)


def test_noise_reaches_every_parameter():
    model = make_model(tiny_config(**SMALL, model__init__residual='zero').model)
    plain, noisy = model.init(jax.random.key(0)), noisy_params(model, 0)
    assert all(not np.any(leaf == 0) for leaf in jax.tree.leaves(noisy))
    assert jax.tree.structure(plain) == jax.tree.structure(noisy)
