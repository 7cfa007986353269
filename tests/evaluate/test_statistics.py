"""Intervals and comparisons against textbook values and formulas written out."""

import math
import statistics

import pytest
import torch

from lightning_cifar.evaluate.statistics import (
    compare,
    count_seeds_needed,
    estimate_share_interval,
    measure_agreement,
    summarise,
)


def test_interval_of_five_values():
    values = [0.83, 0.84, 0.82, 0.85, 0.83]
    found = summarise(values)
    half = 2.7764451 * statistics.stdev(values) / math.sqrt(5)  # the t table at 4 degrees of freedom
    assert found["interval"] == pytest.approx([statistics.mean(values) - half, statistics.mean(values) + half])
    assert (found["n"], found["median"], found["min"], found["max"]) == (5, 0.83, 0.82, 0.85)
    assert found["std"] == statistics.stdev(values)


def test_one_value_has_no_spread():
    same = dict.fromkeys(("mean", "median", "min", "max"), 2.0)
    assert summarise([2.0]) == {"n": 1, "std": None, "interval": None, **same}


@pytest.mark.slow
def test_interval_covers_the_mean_with_its_confidence():
    samples = torch.randn(1000, 4, dtype=torch.float64).tolist()
    covered = sum(low <= 0 <= high for low, high in (summarise(sample)["interval"] for sample in samples))
    assert 0.93 < covered / 1000 < 0.97


def test_compare_is_welchs_t_test():
    """Unequal variances and sizes: the textbook's degrees of freedom."""
    first, second = [1.0, 2.0, 3.0], [4.0, 4.5, 5.0, 6.0, 5.5]
    found = compare(first, second)
    a, b = statistics.variance(first) / 3, statistics.variance(second) / 5
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 4)
    assert 3 < freedom < 4
    low, high = found["interval"]
    assert found["difference"] == pytest.approx(3.0)
    assert (low + high) / 2 == pytest.approx(3.0)
    assert 2.776 < (high - low) / 2 / math.sqrt(a + b) < 3.182  # t at 4 and at 3 degrees of freedom
    assert found["distinct"]


def test_values_of_one_group_may_be_equal():
    found = compare([0.5, 0.5], [0.5, 0.7])
    assert found["interval"] == pytest.approx([0.1 - 12.706 * 0.1, 0.1 + 12.706 * 0.1], abs=1e-3)  # t at 1 degree
    assert not found["distinct"]


def test_equal_samples_are_not_distinguishable():
    found = compare([1.0, 2.0, 3.0], [3.0, 1.0, 2.0])
    assert (found["difference"], found["distinct"], found["seeds_needed"]) == (0, False, None)


def test_values_without_spread_differ_if_their_means_do():
    assert compare([1.0, 1.0], [2.0, 2.0])["distinct"]
    assert not compare([1.0, 1.0], [1.0, 1.0])["distinct"]


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17)])  # Cohen 1988, table 2.4.1
def test_seeds_needed_equal_cohens_table(effect, seeds):
    assert count_seeds_needed(effect) == seeds


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10)])  # G*Power, one-sample t-test
def test_seeds_needed_against_values_without_spread_equal_those_of_one_sample(effect, seeds):
    assert count_seeds_needed(effect * math.sqrt(2), groups=1) == seeds
    assert compare([0.0, 0.0, 0.0], [effect - 1, effect, effect + 1])["seeds_needed"] == seeds


def test_interval_of_a_share_is_wilsons():
    low, high = estimate_share_interval(0.8, 10)  # Wilson 1927, z = 1.96: 0.4902 to 0.9433
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_agreement_is_the_mean_over_pairs():
    assert measure_agreement(["abcd", "abcx", "abxx"]) == pytest.approx((0.75 + 0.5 + 0.75) / 3)
    assert measure_agreement(["abcd"]) is None


@pytest.mark.parametrize("effect", [20.0, 170.0, 3500.0, 1e6])
def test_two_seeds_suffice_for_a_large_effect(effect):
    """Such as the times of two recipes, minutes apart."""
    assert count_seeds_needed(effect) == 2
    assert compare([60.0, 61.0], [60.0 + effect, 61.0 + effect])["seeds_needed"] == 2
