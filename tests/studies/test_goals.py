"""What it cost to reach a value for the first time."""

import pytest
from studies.making import draw_study, make_evidence, make_result

from gpt2jax.report.study_files import write_study_report
from gpt2jax.studies.findings import find
from gpt2jax.studies.goals import goal_figures
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.words import answer


def point(step, value, figure='bits_per_byte', **cost):
    """A point of a curve: every measure is 10 a step, but for those given."""
    return {'step': step} | dict.fromkeys(MEASURES, 10.0 * step) | cost | {figure: value}


def test_the_first_crossing_is_read_between_two_evaluations():
    curve = [point(10, 4.0), point(20, 3.0, seconds=70.0), point(30, 1.0, seconds=90.0), point(40, 2.6), point(50, 1.0)]
    found = goal_figures(curve, 'bits_per_byte', 2.5)
    assert found.keys() == {f'{measure}_to_goal' for measure in MEASURES}
    assert found['tokens_to_goal'] == pytest.approx(225.0)
    assert found['seconds_to_goal'] == pytest.approx(75.0)


def test_more_is_better_of_an_accuracy():
    curve = [point(10, 0.1, 'masked_accuracy'), point(20, 0.3, 'masked_accuracy')]
    assert goal_figures(curve, 'masked_accuracy', 0.2)['flops_to_goal'] == pytest.approx(150.0)


def test_what_was_not_seen_has_no_figure():
    curve = [point(10, 4.0), point(20, 3.0)]
    assert goal_figures(curve, 'bits_per_byte', 2.5) == {}
    assert goal_figures(curve, 'bits_per_byte', 4.5) == {}  # before the first evaluation
    assert goal_figures(curve, 'masked_nats', 2.5) == {}
    assert goal_figures([], 'bits_per_byte', 2.5) == {}


def with_goal(results, seconds):
    for result in results:
        if seconds(result):
            result.figures['seconds_to_goal'] = seconds(result)
    return results


def test_a_cost_has_a_winner_without_any_matching(tmp_path):
    base = {'A': 100.0, 'B': 80.0, 'C': 120.0}
    results = with_goal(draw_study([0.0, 0.0, 0.0], 4), lambda run: base[run.arm] + run.seed * (1 + 0.1 * ord(run.arm)))
    for result in results:  # what they spent in all is far apart, and says nothing
        result.totals['seconds'] *= {'A': 1, 'B': 2, 'C': 3}[result.arm]
    evidence = make_evidence(results, decide=('seconds_to_goal',))
    finding = find(evidence, 'seconds_to_goal')
    assert (finding.verdict, finding.winner, finding.matchings) == ('winner', 'B', [])
    said = answer(evidence, finding)
    assert 'It is a cost, and nothing is matched.' in said
    assert 'Every way of matching' not in said
    assert 'B is best: 91.4 seconds of training, as measured to the goal' in said
    write_study_report(evidence, tmp_path)
    assert 'to the goal' in (tmp_path / 'report.html').read_text()


def test_an_arm_of_which_a_run_did_not_get_there_has_no_mean():
    def seconds(run):
        return None if (run.arm, run.seed) == ('C', 1) else 100 + 10 * (run.arm == 'B') + run.seed

    evidence = make_evidence(with_goal(draw_study([0.0, 0.0, 0.0], 3), seconds), decide=('seconds_to_goal',))
    finding = find(evidence, 'seconds_to_goal')
    assert (finding.arm('C').summary, finding.arm('C').failed) == (None, 1)
    assert 'C did not reach the goal or failed in 1 of 3 runs' in answer(evidence, finding)
    nowhere = make_evidence([make_result('A', 0, 2.0), make_result('B', 0, 2.0)], decide=('seconds_to_goal',))
    assert find(nowhere, 'seconds_to_goal').verdict == 'failed'
