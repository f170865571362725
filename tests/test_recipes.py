"""Every recipe in configs/, made small, trains."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import in_pairs, one_device_setup, random_batch

from gpt2jax.config import flatten, overlay
from gpt2jax.models.adaptive import clusters
from gpt2jax.models.cost import count_parameters
from gpt2jax.training.setup import Setup
from gpt2jax.validation import resolve

RECIPES = sorted((Path(__file__).parents[1] / 'configs').glob('*.py'))
SMALL = {
    'data.tokenizer': 'bytes',
    'data.length': 16,
    'model.num_layers': 2,
    'model.width': 32,
    'model.attention.num_heads': 4,
    'training.batch_size': 8,
    'training.accumulation': 1,
    'training.steps': 50,
    'training.init_from': '',
    'optimizer.warmup_steps': 5,
    'optimizer.learning_rate': 1e-2,
}


def config_of(path, argument=''):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def know_nothing(model) -> float:
    """Nats of a token where every logit is the same: those of the vocabulary, or of a cluster and then of its ids."""
    first, *others = sizes = [min(each.end, model.vocab_size) - each.start for each in clusters(model)]
    nats = np.log(first + len(others)) + np.array([0, *map(np.log, others)])
    return float(np.average(nats, weights=sizes))


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_it_trains_for_fifty_steps(path):
    """On one batch, which a model that works learns by heart; everything but sizes and rates is the recipe's."""
    cutoffs = {'model.head.cutoffs': '60,150'} if config_of(path).model.head.cutoffs else {}
    config = resolve(overlay(config_of(path), SMALL | cutoffs))
    kept = {key for key, value in flatten(config).items() if value == flatten(config_of(path))[key]}
    assert {'model.norm.placement', 'model.feedforward.kind', 'objective.kind', 'optimizer.kind'} <= kept
    setup = one_device_setup(config)
    batch = in_pairs(random_batch(8, 16)) if config.objective.kind == 'seq2seq' else random_batch(8, 16)
    state, step = setup.initial_state(), setup.train_step()
    losses = []
    for _ in range(50):
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss']))
    assert np.isclose(np.mean(losses[:3]), know_nothing(config.model), rtol=0.1)
    assert np.mean(losses[-5:]) < 0.9 * losses[0]


def test_bert_base_with_its_own_vocabulary_has_the_published_number_of_parameters():
    """109,514,298: the masked language model in transformers, bert-base-uncased, without the pooler."""
    path = next(path for path in RECIPES if path.stem == 'bert_base')
    changes = {'data.tokenizer': 'bytes', 'model.vocab_size': 30522, 'model.vocab_multiple': 1}
    config = resolve(overlay(config_of(path), changes))
    setup = Setup(config, one_device_setup(config).mesh)
    assert count_parameters(setup.abstract.params) == 109_514_298


def test_transformer_xl_standard_has_the_published_number_of_parameters():
    """151M (Dai et al. 2019, table 1), of which 267,735 words and 4 special tokens of 410 are most."""
    path = next(path for path in RECIPES if path.stem == 'transformer_xl_wt103')
    setup = Setup(resolve(config_of(path)), None)
    params = jax.eval_shape(setup.model.init, jax.random.key(0))
    assert round(count_parameters(params), -6) == 151_000_000
