"""Synthetic evidence for tests: runs that never were, with known effects."""

import numpy as np

from gpt2jax.studies.evidence import Evidence
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.results import Result

FIGURE = 'bits_per_byte'


def make_result(arm, seed, value, *, cost=1.0, slope=0.0, role='run', matches=('tokens',), status='finished', **more):
    """A run that ended at `value` and had `value + slope` at half of what it spent.

    Args:
      cost: times 1000 of every measure, or a dict of them.
    """
    spent = {measure: 1000.0 * (cost[measure] if isinstance(cost, dict) else cost) for measure in MEASURES}
    curve = [
        {'step': 100.0 * share} | {m: share * total for m, total in spent.items()} | {FIGURE: value + lift}
        for share, lift in ((0.25, 3 * slope), (0.5, slope), (1.0, 0.0))
    ]
    fields = {
        'steps': 100,
        'step': 100,
        'figures': {FIGURE: value} if status == 'finished' else {},
        'totals': spent,
        'curve': curve,
        'info': {'device': '1 x cpu', 'versions': {'jax': '1.0'}},
        'error': '',
        'folder': f'cells/{arm}/seed{seed}',
        'command': f'python launch.py train --config.seed={seed}',
        'changes': {},
        'setting': '',
    }
    return Result(arm=arm, seed=seed, role=role, matches=matches, status=status, **fields | more)


def make_evidence(results, **changes):
    """Evidence over these runs; the first arm is the baseline."""
    arms = {result.arm: f'arm {result.arm}' for result in results}
    fields = {
        'name': 'synthetic',
        'question': 'Is one better?',
        'reading': 'Read the differences.',
        'arms': arms,
        'baseline': next(iter(arms)),
        'seeds': tuple(sorted({result.seed for result in results})),
        'matches': ('tokens',),
        'decide': (FIGURE,),
        'show': (),
        'test': 't',
        'results': results,
        'notices': (),
        'about': (('command', 'python launch.py study'),),
    }
    return Evidence(**fields | changes)


def draw_study(effects, seeds, *, noise=0.01, seed=0, **options):
    """Runs of arms 'A', 'B', ...: 2 + effect + what a seed does to all arms alike + what it does to this one."""
    random = np.random.default_rng(seed)
    shared = random.normal(0, 5 * noise, seeds)
    return [
        make_result(name, number, 2 + effect + shared[number] + random.normal(0, noise), **options)
        for name, effect in zip('ABCDEFG', effects, strict=False)
        for number in range(seeds)
    ]
