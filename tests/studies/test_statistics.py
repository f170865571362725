"""The statistics of a study, against hand-made numbers and planted effects."""

import math

import numpy as np
import pytest
from scipy import stats

from gpt2jax.studies import statistics
from gpt2jax.studies.statistics import compare, holm, least_p, power, seeds_needed, summarize


def test_mean_deviation_and_t_interval_are_those_of_the_formula():
    summary = summarize([1.0, 2.0, 4.0])
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.sd == pytest.approx(math.sqrt(7 / 3))
    half = 4.302653 * summary.sd / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %, from a printed table
    assert summary.t == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-6)
    assert 1.0 <= summary.bootstrap[0] <= 7 / 3 <= summary.bootstrap[1] <= 4.0
    assert summarize([1.0, 2.0, 4.0]) == summary  # drawn with a seed


def test_one_value_has_no_error_bar():
    summary = summarize([2.5])
    assert (summary.n, summary.mean) == (1, 2.5)
    assert summary.sd is summary.t is summary.bootstrap is None
    found = compare({0: 2.5}, {0: 2.0})
    assert found.difference.mean == 0.5
    assert found.p is found.effect is found.needed is None


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(statistics, 'RESAMPLES', 9)  # of the bootstrap, which is not what this is about
    random = np.random.default_rng(0)
    intervals = [summarize(random.normal(3, 1, 4).tolist()).t for _ in range(1500)]
    assert np.mean([low <= 3 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.017)


def test_arms_are_compared_seed_by_seed():
    """Seeds that differ far more than the arms do: only pairs show the difference."""
    others = {0: 1.0, 1: 5.0, 2: 9.0, 3: 2.0}
    values = {seed: value - 0.1 + 0.001 * seed for seed, value in others.items()}
    found = compare(values, others)
    assert found.difference.mean == pytest.approx(-0.0985)
    assert found.p < 0.001
    assert stats.ttest_ind(list(values.values()), list(others.values())).pvalue > 0.9
    assert compare({seed: values[seed] for seed in (3, 1, 0, 2)}, others).p == found.p


def test_the_t_test_is_that_of_a_book():
    """Student's own ten patients (1908): mean difference 1.58, t = 4.06, p = 0.0028."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = compare(dict(enumerate(second)), dict(enumerate(first)))
    assert found.difference.mean == pytest.approx(1.58)
    assert found.p == pytest.approx(0.002833, abs=1e-6)


def test_the_permutation_test_counts_signs():
    """Five differences of one sign: 2 of the 32 signings are as far from 0."""
    values = {seed: 1.0 + 0.1 * seed for seed in range(5)}
    found = compare(values, dict.fromkeys(range(5), 0.0), 'permutation')
    assert found.p == pytest.approx(2 / 32) == least_p(5, 'permutation')
    assert least_p(3, 'permutation') > 0.05 > least_p(6, 'permutation')


def test_holm_is_that_of_the_paper_by_hand():
    assert holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005}) == pytest.approx(
        {'d': 0.02, 'a': 0.03, 'c': 0.06, 'b': 0.06}
    )
    assert holm({'a': 0.6, 'b': 0.5}) == {'b': 1.0, 'a': 1.0}
    assert holm({}) == {}


def test_power_and_seeds_needed_are_those_of_a_printed_table():
    """Cohen 1988, table 2.4.1 for one sample: d = 0.5 takes 34 pairs, d = 0.8 takes 15, d = 1 takes 10."""
    assert [seeds_needed(effect) for effect in (0.5, 0.8, 1.0)] == [34, 15, 10]
    assert seeds_needed(-0.8) == 15
    assert power(0.8, 14) < 0.8 <= power(0.8, 15)
    assert seeds_needed(0.0) is None
    assert seeds_needed(0.01) is None


def test_power_is_how_often_the_test_finds_it():
    random = np.random.default_rng(1)
    found = [stats.ttest_1samp(random.normal(1.2, 1, 6), 0).pvalue < 0.05 for _ in range(3000)]
    assert np.mean(found) == pytest.approx(power(1.2, 6), abs=0.03)


def test_an_arm_against_itself_is_no_difference_and_no_error():
    values = {0: 2.0, 1: 2.5, 2: 2.25}
    found = compare(values, dict(values))
    assert found.difference.mean == found.difference.sd == 0
    assert found.p == 1.0
    assert found.effect is found.needed is None


def test_the_effect_is_corrected_for_few_seeds():
    found = compare({0: 1.0, 1: 2.0, 2: 3.0}, dict.fromkeys(range(3), 0.0))
    assert found.effect == pytest.approx(2.0 * (1 - 3 / 7))
    assert compare({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0}).effect is None


def test_arms_without_a_common_seed_are_not_compared():
    assert compare({0: 1.0}, {1: 1.0}) is None
