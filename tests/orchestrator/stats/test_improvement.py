"""The probability of improvement: counts by hand, scipy, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from orchestrator.stats import probability_of_improvement

NAN = math.nan


def test_unpaired_is_the_u_statistic():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 6), rng.integers(2, 12, 7)
    found = probability_of_improvement(a, b, design="unpaired", mode="max")
    assert found.share == pytest.approx(scipy_stats.mannwhitneyu(a, b).statistic / 42)
    assert found.wins + found.ties + found.losses == 42
    assert found.low < found.share < found.high
    assert f"{found.ties} of 42" in found.note


def test_paired_is_the_binomial_interval_of_the_wins():
    found = probability_of_improvement([1, 2, 3, 4, 5], [0, 1, 3, 5, 2], design="paired", mode="max")
    assert (found.wins, found.ties, found.losses, found.share) == (3, 1, 1, 0.6)
    theirs = scipy_stats.binomtest(3, 5).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert "1 of 5 pairs tie" in found.note


@pytest.mark.parametrize("design", ["paired", "unpaired"])
def test_diverged_runs_are_worst_and_tie_with_each_other(design):
    found = probability_of_improvement([NAN, 1.0, math.inf], [-math.inf, NAN, 0.5], design=design, mode="max")
    assert (found.wins, found.ties, found.losses) == {"paired": (1, 1, 1), "unpaired": (3, 4, 2)}[design]
    less = probability_of_improvement([NAN, 1.0, math.inf], [-math.inf, NAN, 2.5], design=design, mode="min")
    assert (less.wins, less.ties, less.losses) == (found.wins, found.ties, found.losses)


def test_winning_every_time_is_not_certainty():
    for n in (2, 5, 20):
        found = probability_of_improvement(np.arange(n) + 100.0, np.arange(n), design="unpaired", mode="max")
        assert found.share == 1
        assert 0 < found.low < found.high < 1


def test_too_few_runs():
    assert probability_of_improvement([1.0], [0.0, 2.0], design="unpaired", mode="max").low is None
    none = probability_of_improvement([], [1.0], design="unpaired", mode="max")
    assert (none.share, none.note) == (None, "no run on one side")
    assert probability_of_improvement([], [], design="paired", mode="max").share is None
    with pytest.raises(ValueError, match="design"):
        probability_of_improvement([1.0], [1.0], design="both", mode="max")


@settings(max_examples=50, deadline=None)
@given(*[st.lists(st.integers(-5, 5), min_size=2, max_size=6)] * 2)
def test_swapping_the_sides_gives_one_minus_it(a, b):
    one, other = (probability_of_improvement(*ab, design="unpaired", mode="max") for ab in ((a, b), (b, a)))
    assert (other.share, other.low, other.high) == pytest.approx((1 - one.share, 1 - one.high, 1 - one.low))


@pytest.mark.parametrize(("n", "shift", "scale"), [(5, 0.0, 1.0), (5, 1.5, 1.0), (10, 1.0, 3.0)])
def test_coverage_unpaired(n, shift, scale):
    rng = np.random.default_rng(n)
    truth = scipy_stats.norm.cdf(shift / math.hypot(1, scale))
    hit = 0
    for a, b in zip(rng.normal(shift, 1, (1500, n)), rng.normal(0, scale, (1500, n)), strict=True):
        found = probability_of_improvement(a, b, design="unpaired", mode="max")
        hit += found.low < truth < found.high
    assert hit / 1500 >= 0.935  # it errs on the side of too long
