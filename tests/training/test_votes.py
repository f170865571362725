"""Votes of one process; several are in tests/processes."""

import jax
import numpy as np
from jax.sharding import Mesh

from gpt2jax.training import votes
from gpt2jax.training.votes import Votes


def test_one_process_has_its_answer_at_once():
    mesh = Mesh(np.array(jax.devices()[:1]), ('data',))
    assert Votes(mesh).cast(stop=False, save=True) == {'stop': False, 'save': True}


def test_with_others_the_answer_comes_one_step_late(monkeypatch):
    """So that all processes have it after the same step."""
    monkeypatch.setattr(votes.jax, 'process_count', lambda: 2)
    box = Votes(Mesh(np.array(jax.devices()[:1]), ('data',)))
    assert box.cast(stop=False, save=True) == {'stop': False, 'save': False}
    assert box.cast(stop=True, save=False) == {'stop': False, 'save': True}
    assert box.cast(stop=False, save=False) == {'stop': True, 'save': False}
    assert box.cast(stop=False, save=False) == {'stop': False, 'save': False}
