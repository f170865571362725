"""How many steps an arm gets, and what a step costs."""

import jax
import numpy as np
import pytest
from helpers import tiny_config

from gpt2jax.config import overlay
from gpt2jax.optimizers import make_schedule
from gpt2jax.studies.costs import count_predicted, flops_until, phase_lengths
from gpt2jax.studies.matching import MEASURES, StepCost, matched_steps, with_steps
from gpt2jax.training.setup import Setup
from gpt2jax.validation import resolve

BASE = StepCost(tokens=1000, predicted=1000, flops=6e6, causal_flops=5e6, seconds=0.10)
ARM = StepCost(tokens=2000, predicted=150, flops=3e6, causal_flops=5e6, seconds=0.025)


def test_steps_solve_the_equation_of_each_measure():
    steps = {measure: matched_steps(measure, BASE, 300, ARM) for measure in MEASURES}
    assert steps == {'tokens': 150, 'predicted': 2000, 'flops': 600, 'causal_flops': 300, 'seconds': 1200}
    for measure, count in steps.items():
        assert count * ARM.of(measure) == pytest.approx(300 * BASE.of(measure))
        assert matched_steps(measure, BASE, 300, BASE) == 300


def test_steps_are_whole_and_as_near_as_they_can_be():
    arm = StepCost(tokens=700, predicted=1, flops=1, causal_flops=1)
    assert matched_steps('tokens', BASE, 300, arm) == 429  # 428.57
    huge = StepCost(tokens=1e9, predicted=1, flops=1, causal_flops=1)
    assert matched_steps('tokens', BASE, 300, huge) == 1


def test_the_schedule_moves_with_the_steps():
    config = tiny_config(
        training__steps=200,
        optimizer__schedule='wsd',
        optimizer__warmup_steps=20,
        optimizer__decay_steps=50,
        evaluation__every=25,
        objective__switch='masked@100,causal@150',
    )
    changes = with_steps(config, 500)
    assert changes == {
        'training.steps': 500,
        'optimizer.warmup_steps': 50,
        'optimizer.decay_steps': 125,
        'evaluation.every': 62,
        'objective.switch': 'masked@250,causal@375',
    }
    longer = resolve(overlay(config, changes))
    short, long = (make_schedule(c.optimizer, c.training.steps) for c in (config, longer))
    for share in (0.3, 0.5, 0.8, 0.95, 1.0):
        assert float(long(round(500 * share))) == pytest.approx(float(short(round(200 * share))), rel=0.05)


def test_what_is_off_stays_off():
    config = tiny_config(training__steps=200, optimizer__warmup_steps=0, evaluation__every=0)
    changes = with_steps(config, 100)
    assert changes.keys() == {'training.steps', 'optimizer.decay_steps'}
    assert with_steps(tiny_config(training__steps=200), 1)['optimizer.warmup_steps'] == 1


def test_flops_of_a_run_that_switches_are_those_of_its_phases():
    config = tiny_config(training__steps=100, objective__switch='masked@60')
    assert phase_lengths(config) == [('causal', 60), ('masked', 40)]
    assert phase_lengths(config, 70) == [('causal', 60), ('masked', 10)]
    assert phase_lengths(config, 10) == [('causal', 10), ('masked', 0)]
    causal, masked = (Setup(config, None).step_flops('full map', kind) for kind in ('causal', 'masked'))
    assert masked < causal
    assert flops_until(config, 100, 'flops') == 60 * causal + 40 * masked
    assert flops_until(config, 100, 'causal_flops') < flops_until(config, 100, 'flops')


class FakeTokens:
    """A stream of letters in documents of 37 tokens."""

    def __init__(self, tokenizer):
        stream = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.int32)
        stream[::37] = tokenizer.end_of_text
        self.tokens, self.num_tokens = stream, len(stream)


@pytest.fixture(name='prepared', scope='module')
def make_prepared():
    """What gpt2jax.data.prepare gives, as far as counting reads it."""
    import types

    from gpt2jax.data.tokenizers import make_tokenizer

    tokenizer = make_tokenizer('bytes')
    return types.SimpleNamespace(splits={'train': FakeTokens(tokenizer)}, tokenizer=tokenizer)


@pytest.mark.parametrize('kind', ['masked', 'hybrid'])
def test_predicted_tokens_are_those_that_training_counts(prepared, kind):
    """The same number as the metric `predicted` of real training steps, on average."""
    from gpt2jax.data.rows import Rows, train_batch

    config = tiny_config(data__length=64, objective__kind=kind, training__steps=8)
    setup = Setup.from_config(tiny_config(data__length=64, objective__kind=kind, training__steps=8))
    counted = count_predicted(config, prepared)
    rows = Rows(prepared.splits['train'], 64, False, prepared.tokenizer)
    state, step = setup.initial_state(), setup.train_step()
    seen = []
    for index in range(8):
        state, metrics = step(state, train_batch(rows, 0, index, 8))
        seen.append(float(metrics['predicted']))
    assert counted == pytest.approx(np.mean(seen), rel={'masked': 0.02, 'hybrid': 0.2}[kind])
    assert counted <= 8 * 64


WIDE = {
    'data__length': 64,
    'model__num_layers': 2,
    'model__width': 512,
    'model__attention__num_heads': 4,
    'model__vocab_multiple': 128,
    'loss__chunk_tokens': 0,
    'optimizer__clip_norm': 0.0,
    'training__batch_size': 16,
    'sharding__cpu_devices': 1,
}
MODELS = {
    'causal': {'objective__kind': 'causal'},
    'masked': {'objective__kind': 'masked'},
    'prefix': {'objective__kind': 'prefix'},
    'hybrid': {'objective__kind': 'hybrid'},
    'span_corruption': {'objective__kind': 'span_corruption'},
    'swiglu': {'model__feedforward__kind': 'swiglu', 'model__norm__kind': 'rmsnorm'},
    'rotary, shared heads': {'model__position__kind': 'rotary', 'model__attention__num_kv_heads': 2},
    'bert': {'objective__kind': 'masked', 'model__head__transform': True, 'model__norm__placement': 'post'},
}


@pytest.mark.parametrize('changes', MODELS.values(), ids=MODELS)
def test_the_flops_of_a_step_are_within_two_percent_of_xla(changes):
    """Of the compiled, unrolled training step: forward, backward and optimizer.

    XLA counts elementwise work too: 16 rows of 64 tokens make it small against the matrices, and the optimizer's, which
    is a count of parameters and not of tokens, smaller still.
    """
    setup = Setup.from_config(tiny_config(**WIDE | changes))
    batch = setup.abstract_batch(setup.config.training.batch_size)
    analysis = setup.train_step().lower(setup.abstract, batch).compile().cost_analysis()
    devices = len(jax.tree.leaves(setup.abstract.params)[0].sharding.device_set)
    assert setup.step_flops('full map') == pytest.approx(devices * analysis['flops'], rel=0.02)
