"""Bootstraps, medians and inter-quartile means: scipy, closed forms, coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from orchestrator.stats import (
    bootstrap_interval,
    interquartile_mean_interval,
    mean_interval,
    median_interval,
    share_interval,
    studentised_bootstrap,
)

# Shares


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (2, 7), (1, 1), (50, 1000)])
def test_share_interval_is_scipys(k, n):
    found = share_interval(k, n, 0.9)
    theirs = scipy_stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    assert (found.share, found.low, found.high) == pytest.approx((k / n, theirs.low, theirs.high))


def test_none_of_five_still_allows_for_half():
    assert share_interval(0, 5).high == pytest.approx(1 - 0.025 ** (1 / 5))
    assert share_interval(0, 0).note == "no run"
    with pytest.raises(ValueError, match="6 of 5"):
        share_interval(6, 5)


# The studentised bootstrap


def test_studentised_bootstrap_against_all_resamples():
    """At n = 5 the 5⁵ resamples can be counted: the bounds are the exact quantiles', within the error of the draws."""
    x = np.array([0.3, 1.1, 0.2, 2.0, 0.9])
    sample = x[np.stack(np.meshgrid(*[np.arange(5)] * 5), axis=-1).reshape(-1, 5)]
    shift = sample.mean(axis=1) - x.mean()
    sd = sample.std(axis=1, ddof=1)
    varied = np.ptp(sample, axis=1) > 0
    t = np.where(varied, shift / np.where(varied, sd, 1), np.copysign(np.inf, shift))
    found = studentised_bootstrap(x, draws=99_999)
    scale = x.std(ddof=1)
    upper_t, lower_t = (x.mean() - found.low) / scale, (x.mean() - found.high) / scale
    assert np.mean(t >= upper_t - 1e-9) == pytest.approx(0.025, abs=0.004)
    assert np.mean(t <= lower_t + 1e-9) == pytest.approx(0.025, abs=0.004)
    assert (found.mean, found.n) == (pytest.approx(x.mean()), 5)


def test_studentised_bootstrap_is_the_same_each_time_and_follows_skewness():
    x = np.random.default_rng(0).lognormal(size=10)
    one, two = studentised_bootstrap(x), studentised_bootstrap(x)
    assert one == two != studentised_bootstrap(x, seed=1)
    assert one.high - one.mean > one.mean - one.low
    assert mean_interval(x).high < one.high


def test_studentised_bootstrap_needs_five_values_and_some_spread():
    assert "at least 5 values, and there are 4" in studentised_bootstrap([1.0, 2, 3, 4]).note
    assert "too many equal values" in studentised_bootstrap([1.0, 1, 1, 1, 2]).note
    assert "same" in studentised_bootstrap([1.0] * 5).note
    for found in (studentised_bootstrap([1.0, 2, 3, 4]), studentised_bootstrap([1.0] * 5)):
        assert found.low is None and found.mean is not None
    with pytest.raises(ValueError, match="too few"):
        studentised_bootstrap(range(9), draws=30)


def test_studentised_bootstrap_covers_on_normal_values():
    draws = np.random.default_rng(5).normal(size=(1200, 5))
    hits = [(i := studentised_bootstrap(x, draws=599)).low < 0 < i.high for x in draws]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


# Percentile and BCa


@pytest.mark.parametrize("kind", ["percentile", "BCa"])
def test_plain_bootstraps_from_twenty_values(kind):
    x = np.random.default_rng(0).lognormal(size=20)
    found = bootstrap_interval(x, kind)
    rng = np.random.default_rng(0)
    theirs = scipy_stats.bootstrap((x,), np.mean, method=kind, random_state=rng).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    refused = bootstrap_interval(x[:19], kind)
    assert refused.low is None and f"a {kind} bootstrap needs at least 20 values, and there are 19" in refused.note
    with pytest.raises(ValueError, match="kind"):
        bootstrap_interval(x, "basic")


# The median


@pytest.mark.parametrize(("n", "k", "coverage"), [(8, 1, 0.9922), (9, 2, 0.9609), (10, 2, 0.9785), (20, 6, 0.9586)])
def test_median_lies_between_order_statistics_with_the_tabled_coverage(n, k, coverage):
    x = np.random.default_rng(n).permutation(n).astype(float)
    found = median_interval(x)
    assert (found.value, found.low, found.high) == (np.median(x), k - 1, n - k)
    assert found.coverage == pytest.approx(coverage, abs=5e-5)
    theirs = scipy_stats.quantile_test(x, p=0.5).confidence_interval(0.95)
    assert found.low <= theirs.low and theirs.high <= found.high  # theirs need not be symmetric in ranks


def test_median_covers_exactly_whatever_the_distribution():
    draws = np.random.default_rng(1).standard_cauchy((3000, 9))
    hits = [(i := median_interval(x)).low < 0 < i.high for x in draws]
    assert np.mean(hits) == pytest.approx(median_interval(draws[0]).coverage, abs=0.011)


def test_median_takes_censored_values_as_above_all_others():
    found = median_interval([1.0, 2, 3, 4, 5, 6, math.inf, math.inf])
    assert (found.value, found.low, found.high) == (4.5, 1, math.inf)
    assert median_interval([1.0, 2, 3] + [math.inf] * 6).value == math.inf
    assert median_interval([-math.inf] * 4 + [math.inf] * 4).value is None
    with pytest.raises(ValueError, match="nan"):
        median_interval([math.nan] * 8)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, math.inf])


def test_median_refuses_what_it_cannot_give():
    assert "at least 8 values, and there are 7" in median_interval(range(7)).note
    refused = median_interval(range(8), 0.999)
    assert (refused.value, refused.low) == (3.5, None) and "too few for a level of 0.999" in refused.note


# The inter-quartile mean


@pytest.mark.parametrize("n", [8, 11, 20])
def test_interquartile_mean_is_scipys_trimmed_t_test(n):
    x = np.random.default_rng(n).lognormal(size=n)
    found = interquartile_mean_interval(x)
    assert found.value == pytest.approx(scipy_stats.trim_mean(x, 0.25))
    for bound in (found.low, found.high):  # Yuen's test of a constant at the bound has p = 5 %
        theirs = scipy_stats.ttest_ind(x - bound, np.zeros(4000), trim=0.25, equal_var=False)
        assert theirs.pvalue == pytest.approx(0.05, rel=1e-6)


def test_interquartile_mean_refuses_what_it_cannot_give():
    assert "at least 8 values, and there is 1" in interquartile_mean_interval([1.0]).note
    flat = interquartile_mean_interval([0.0, 1, 1, 1, 1, 1, 1, 5])
    assert (flat.value, flat.low) == (1, None) and "no spread" in flat.note


@pytest.mark.parametrize(("n", "coverage"), [(8, 0.93), (20, 0.942)])
def test_interquartile_mean_covers_as_its_docstring_says(n, coverage):
    draws = np.random.default_rng(n).normal(size=(2500, n))
    hits = [(i := interquartile_mean_interval(x)).low < 0 < i.high for x in draws]
    assert np.mean(hits) == pytest.approx(coverage, abs=0.018)
