"""Intervals: closed forms, and coverage by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from orchestrator import stats


@pytest.mark.parametrize(("level", "degrees"), [(0.95, 1), (0.95, 4), (0.9, 9), (0.99, 30)])
def test_t_quantile_is_scipys(level, degrees):
    assert stats.t_quantile(level, degrees) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, degrees), rel=1e-9)


def test_t_quantile_refuses_what_has_no_interval():
    with pytest.raises(ValueError, match="degree"):
        stats.t_quantile(0.95, 0)
    with pytest.raises(ValueError, match="level"):
        stats.t_quantile(95, 3)


def test_mean_interval_of_known_numbers():
    interval = stats.mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    low, high = scipy_stats.t.interval(0.95, 4, loc=3, scale=math.sqrt(2.5 / 5))
    assert (interval.n, interval.units, interval.mean, interval.min, interval.max) == (5, 5, 3, 1, 5)
    assert interval.sd == pytest.approx(math.sqrt(2.5))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.half == pytest.approx((high - low) / 2)
    assert interval.note == ""


def test_one_seed_has_a_mean_but_no_interval_and_says_so():
    interval = stats.mean_interval([0.5])
    assert (interval.mean, interval.sd, interval.low, interval.high, interval.half) == (0.5, None, None, None, None)
    assert "one seed" in interval.note


def test_no_value_is_an_answer():
    assert stats.mean_interval([]).note == "no value"
    assert stats.pair_interval([], []).note == "no value"


@pytest.mark.parametrize("bad", [[1.0, float("nan")], [float("inf")]])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        stats.mean_interval(bad)
    with pytest.raises(ValueError, match="finite"):
        stats.pair_interval(bad, [(0, 1)] * len(bad))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_covers_95_percent_on_normal_values(n):
    rng = np.random.default_rng(n)
    draws = rng.normal(2.0, 3.0, (10_000, n)).T
    low, high = stats.mean_bounds(draws)
    assert np.mean((low < 2) & (high > 2)) == pytest.approx(0.95, abs=0.01)


def test_curve_bounds_are_the_intervals_point_by_point():
    x = np.random.default_rng(0).normal(size=(4, 3))
    low, high = stats.mean_bounds(x)
    for i in range(3):
        one = stats.mean_interval(x[:, i])
        assert (low[i], high[i]) == pytest.approx((one.low, one.high))
    assert stats.mean_bounds(x[:1]) is None


# The jackknife over seeds


def test_pairs_of_a_seed_with_itself_give_the_ordinary_t_interval():
    x = [0.3, 0.1, 0.7, 0.2]
    paired = stats.pair_interval(x, [(s, s) for s in "abcd"])
    plain = stats.mean_interval(x)
    assert (paired.low, paired.high) == pytest.approx((plain.low, plain.high))
    assert paired.units == 4


def test_an_additive_quantity_gives_twice_the_interval_of_the_seeds():
    """For h(i, j) = xᵢ + xⱼ the pseudo-values are 2xᵢ exactly."""
    x = np.random.default_rng(1).normal(size=6)
    pairs = list(itertools.combinations(range(6), 2))
    interval = stats.pair_interval([x[i] + x[j] for i, j in pairs], pairs)
    plain = stats.mean_interval(2 * x)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((plain.mean, plain.low, plain.high))
    assert (interval.n, interval.units) == (15, 6)


@pytest.mark.parametrize("pairs", [[(0, 1)], [(0, 0)], [(0, 1), (0, 2)]])
def test_where_no_seed_can_be_left_out_there_is_no_interval(pairs):
    interval = stats.pair_interval([1.0] * len(pairs), pairs)
    assert interval.mean == 1.0
    assert interval.low is None
    assert "too few seeds" in interval.note


def test_pairs_and_values_must_match():
    with pytest.raises(ValueError, match="2 values for 1 pairs"):
        stats.pair_interval([1.0, 2.0], [(0, 1)])


def _coverage(make_values, pairs, truth, draws=3000, seed=0):
    rng = np.random.default_rng(seed)
    values = np.stack([make_values(rng) for _ in range(draws)], axis=1)
    low, high = stats.jackknife_bounds(values, pairs)
    naive_low, naive_high = stats.mean_bounds(values)
    return np.mean((low < truth) & (truth < high)), np.mean((naive_low < truth) & (truth < naive_high))


def test_jackknife_covers_where_a_t_interval_over_pairs_does_not():
    """Seed effects plus noise of the pair, all pairs of 5 seeds: the naive interval covers about 75 %."""
    pairs = list(itertools.combinations(range(5), 2))

    def barrier(rng):
        x = rng.normal(size=5)
        return np.array([x[i] + x[j] + 0.3 * rng.normal() for i, j in pairs])

    jackknife, naive = _coverage(barrier, pairs, 0.0)
    assert 0.94 <= jackknife <= 0.975
    assert naive < 0.85


def test_jackknife_covers_for_pairs_across_two_settings_with_common_seeds():
    pairs = list(itertools.product(range(5), range(5)))

    def barrier(rng):
        common, a, b = rng.normal(size=5), rng.normal(size=5), rng.normal(size=5)
        return np.array([2 * common[i] + a[i] + common[j] + b[j] for i, j in pairs])

    jackknife, naive = _coverage(barrier, pairs, 0.0, seed=1)
    assert 0.93 <= jackknife <= 0.97
    assert naive < 0.6
