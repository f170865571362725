"""Runs that change their objective on the way."""

import pytest
from helpers import tiny_config

from gpt2jax.errors import UserError
from gpt2jax.objectives import kind_at, phases


def config_of(switch, **changes):
    return tiny_config(objective__switch=switch, **changes)


def test_without_a_switch_there_is_one_phase():
    assert phases(tiny_config(objective__kind='prefix')) == [(0, 'prefix')]


def test_phases_begin_at_their_steps():
    config = config_of('masked@5, causal@12')
    assert phases(config) == [(0, 'causal'), (5, 'masked'), (12, 'causal')]
    kinds = [kind_at(config, step) for step in range(21)]
    assert kinds == ['causal'] * 5 + ['masked'] * 7 + ['causal'] * 9


@pytest.mark.parametrize(
    ('switch', 'message'),
    [
        ('masked', "'masked' is not KIND@STEP, as in 'masked@1000'"),
        ('masked@', "'masked@' is not KIND@STEP"),
        ('masked@-3', "'masked@-3' is not KIND@STEP"),
        ('5@masked', "'5@masked' is not KIND@STEP"),
        ('masked@0', "'masked@0' does not come after step 0"),
        ('masked@9,causal@9', "'causal@9' does not come after step 9"),
        ('masked@20', "'masked@20' is beyond config.training.steps = 20"),
        ('maskt@5', "unknown; did you mean 'masked'? One of: causal, "),
    ],
)
def test_a_switch_that_makes_no_sense_is_refused(switch, message):
    with pytest.raises(UserError) as refusal:
        config_of(switch)
    assert str(refusal.value).startswith('config.objective.switch = ')
    assert message in str(refusal.value)
