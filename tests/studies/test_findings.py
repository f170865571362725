"""What is claimed of synthetic studies: a planted difference is found, a planted null is not, and nothing else."""

import dataclasses

import numpy as np
import pytest
from making import FIGURE, draw_study, make_evidence, make_result

from gpt2jax.studies import findings
from gpt2jax.studies.findings import find
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.words import answer


@pytest.fixture(autouse=True)
def _no_bootstrap(monkeypatch, request):
    """Thousands of resamples for an interval that decides nothing."""
    if 'many' in request.node.name:
        from gpt2jax.studies import statistics

        class Interval:
            low = high = 0.0
            confidence_interval = property(lambda self: self)

        monkeypatch.setattr(statistics.stats, 'bootstrap', lambda *args, **kwargs: Interval())


def test_a_planted_difference_is_found():
    evidence = make_evidence(draw_study([0.0, -0.1, 0.05], seeds=5))
    finding = find(evidence, FIGURE)
    assert (finding.verdict, finding.winner) == ('winner', 'B')
    text = answer(evidence, finding)
    assert text.startswith('B is best: 1.')
    assert '95 % interval' in text
    assert '5 seeds' in text


def test_a_planted_null_is_not():
    evidence = make_evidence(draw_study([0.0, 0.0, 0.0], seeds=5, seed=3))
    finding = find(evidence, FIGURE)
    assert (finding.verdict, finding.winner) == ('undecided', None)
    text = answer(evidence, finding)
    assert text.startswith('No winner.')
    assert 'may be chance' in text
    assert 'is best' not in text


def test_many_null_studies_find_a_winner_or_a_difference_in_at_most_five_per_cent():
    """Holm's correction holds the rate of any false claim, however many arms; one pair has it exactly."""
    rates = {}
    for arms, studies in ((2, 400), (4, 150)):
        found = [find(make_evidence(draw_study([0.0] * arms, seeds=4, seed=seed)), FIGURE) for seed in range(studies)]
        rates[arms] = np.mean([any(findings.is_decided(*pair) for pair in one.pairs.values()) for one in found])
    assert rates[2] == pytest.approx(0.05, abs=0.03)
    assert rates[4] <= 0.08


def test_many_uncorrected_studies_would_claim_too_much(monkeypatch):
    monkeypatch.setattr(findings, 'holm', dict)
    found = [find(make_evidence(draw_study([0.0] * 4, seeds=4, seed=seed)), FIGURE) for seed in range(100)]
    assert np.mean([any(findings.is_decided(*pair) for pair in one.pairs.values()) for one in found]) > 0.1


def test_with_one_seed_there_is_no_error_bar_and_no_claim():
    evidence = make_evidence(draw_study([0.0, -1.0], seeds=1))
    finding = find(evidence, FIGURE)
    assert (finding.verdict, finding.winner) == ('one seed', None)
    assert answer(evidence, finding).startswith('One seed an arm: there is no error bar, and so no answer.')
    assert all(one.summary.sd is None and one.p is None for one in finding.arms)


def test_matchings_that_disagree_have_no_winner_and_say_whom_each_favours():
    """B is better for the same tokens, but takes four times the seconds; by then A had more."""
    cheap = draw_study([0.1], seeds=4, slope=0.5, cost=1.0)
    costs = dict.fromkeys(MEASURES, 1.0) | {'seconds': 4.0}
    dear = [make_result('B', run.seed, run.figures[FIGURE] - 0.1, slope=0.5, cost=costs) for run in cheap]
    evidence = make_evidence(cheap + jitter(dear))
    finding = find(evidence, FIGURE)
    best = {matching.measure: (matching.best, matching.how) for matching in finding.matchings}
    assert best['tokens'] == ('B', 'run')
    assert best['flops'] == ('B', 'equal')
    assert best['seconds'] == ('A', 'read')
    assert (finding.verdict, finding.winner) == ('disagree', None)
    text = answer(evidence, finding)
    assert text.startswith('No winner: it depends on what is matched.')
    assert 'A is ahead as read off the curves at equal seconds of training, as measured.' in text
    assert 'B is ahead at equal tokens seen' in text


def jitter(results, size=0.001):
    """The same results with a little noise, so that differences have a spread."""
    random = np.random.default_rng(9)
    moved = [result.figures[FIGURE] + size * random.normal() for result in results]
    return [dataclasses.replace(r, figures={FIGURE: value}) for r, value in zip(results, moved, strict=True)]


def test_a_measure_that_is_run_counts_its_own_runs():
    """Of a second matching the scores are those of the runs made for it, not of the main ones."""
    main = draw_study([0.0, -0.1], seeds=3)
    others = draw_study([0.0, 0.2], seeds=3, seed=1, matches=('flops',), cost=2.0)
    finding = find(make_evidence(main + others, matches=('tokens', 'flops')), FIGURE)
    scores = {matching.measure: matching for matching in finding.matchings}
    assert scores['tokens'].best == 'B'
    assert (scores['flops'].best, scores['flops'].how, scores['flops'].budget) == ('A', 'run', 2000)
    assert finding.verdict == 'disagree'


def test_where_a_measure_cannot_be_read_no_winner_is_named():
    """One arm was done before the other was evaluated at all."""
    costs = dict.fromkeys(MEASURES, 1.0) | {'predicted': 8.0}
    cheap = draw_study([0.1], seeds=4)
    dear = jitter([make_result('B', run.seed, run.figures[FIGURE] - 0.1, cost=costs) for run in cheap])
    evidence = make_evidence(cheap + dear)
    finding = find(evidence, FIGURE)
    assert (finding.verdict, finding.winner) == ('unmatched', None)
    assert 'who is ahead at equal predicted tokens is not known' in answer(evidence, finding)


def test_seeds_that_took_longer_are_read_where_the_fastest_run_ended():
    results = [
        make_result(name, seed, 2.0 - 0.1 * (name == 'B') + 0.001 * seed * (name == 'B'), slope=0.01, cost=1 + seed)
        for name in 'AB'
        for seed in range(3)
    ]
    finding = find(make_evidence(results), FIGURE)
    seconds = next(matching for matching in finding.matchings if matching.measure == 'seconds')
    assert (seconds.how, seconds.best) == ('equal', 'B')
    results[3:] = [dataclasses.replace(r, totals=r.totals | {'seconds': 3 * r.totals['seconds']}) for r in results[3:]]
    finding = find(make_evidence(results), FIGURE)
    seconds = next(matching for matching in finding.matchings if matching.measure == 'seconds')
    assert (seconds.how, seconds.budget, len(seconds.scores)) == ('read', 1000, 2)


def test_a_curve_is_read_between_its_points_and_never_beyond():
    run = make_result('A', 0, 2.0, slope=0.5)
    assert run.at(FIGURE, 'tokens', 1000) == 2.0
    assert run.at(FIGURE, 'tokens', 500) == 2.5
    assert run.at(FIGURE, 'tokens', 1000 / 2**0.5) == pytest.approx(2.25)  # half way on a logarithm
    assert run.at(FIGURE, 'tokens', 1001) is None
    assert run.at(FIGURE, 'tokens', 249) is None
    assert run.at('masked_nats', 'tokens', 500) is None


def test_an_arm_that_failed_is_shown_and_never_averaged():
    results = draw_study([0.0, -0.2, 0.1], seeds=3)
    index = next(i for i, run in enumerate(results) if run.arm == 'B')
    results[index] = dataclasses.replace(results[index], status='failed', error='the loss is nan', figures={})
    evidence = make_evidence(results)
    finding = find(evidence, FIGURE)
    failed = finding.arm('B')
    assert (failed.failed, failed.planned, len(failed.values)) == (1, 3, 2)
    assert failed.summary is failed.versus is failed.p is None
    assert finding.winner != 'B'
    assert 'B failed in 1 of 3 runs, so it has no mean' in answer(evidence, finding)
    assert all('B' not in pair for pair in finding.pairs)


def test_a_study_that_is_not_finished_has_no_answer():
    results = draw_study([0.0, -0.2], seeds=3)
    results[-1] = dataclasses.replace(results[-1], status='begun', figures={})
    evidence = make_evidence(results)
    finding = find(evidence, FIGURE)
    assert (finding.verdict, finding.winner) == ('unfinished', None)
    assert answer(evidence, finding) == 'Not finished: 5 of 6 runs are done, so there is no answer yet.'


def test_an_arm_without_the_figure_is_named_and_left_out():
    results = draw_study([0.0, -0.2], seeds=3) + [make_result('M', seed, 0.0, figures={'x': 1.0}) for seed in range(3)]
    evidence = make_evidence(results, baseline='M')
    finding = find(evidence, FIGURE)
    assert finding.without == ['M']
    assert finding.baseline == 'A'
    assert (finding.verdict, finding.winner) == ('winner', 'B')
    assert answer(evidence, finding).endswith('M has no bits per byte.')


def test_of_accuracies_more_is_better():
    results = [dataclasses.replace(r, figures={'masked_accuracy': r.figures[FIGURE]}) for r in draw_study([0, -0.2], 4)]
    evidence = make_evidence(results, decide=('masked_accuracy',))
    finding = find(evidence, 'masked_accuracy')
    assert finding.winner == 'A'
    assert 'points' in answer(evidence, finding)


def test_a_permutation_test_with_three_seeds_says_that_it_can_find_nothing():
    evidence = make_evidence(draw_study([0.0, -0.5], seeds=3), test='permutation')
    finding = find(evidence, FIGURE)
    assert finding.verdict == 'undecided'
    assert 'With 3 seeds a permutation test can find nothing.' in answer(evidence, finding)
