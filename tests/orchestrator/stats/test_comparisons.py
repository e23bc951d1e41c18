"""Comparisons against scipy and statsmodels, their edges, and what must not depend on order, place or direction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats import weightstats

from orchestrator.stats import compare_paired, compare_unpaired, equivalence

NAN = math.nan


def _draw(seed, n, m=None):
    rng = np.random.default_rng(seed)
    return rng.normal(0.9, 0.02, n), rng.normal(0.88, 0.05, m or n)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_paired_is_scipys_t_test(n):
    a, b = _draw(n, n)
    theirs = scipy_stats.ttest_rel(a, b)
    found = compare_paired(a, b, mode="max", level=0.9)
    bounds = theirs.confidence_interval(0.9)
    assert (found.difference, found.p) == pytest.approx((np.mean(a - b), theirs.pvalue))
    assert (found.low, found.high, found.degrees) == pytest.approx((bounds.low, bounds.high, theirs.df))
    assert (found.n_a, found.n_b, found.used, found.sd) == (n, n, n, pytest.approx(np.std(a - b, ddof=1)))
    assert (found.diverged_a, found.diverged_b, found.note) == (0, 0, "")


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 5), (5, 12)])
def test_unpaired_is_welchs_test_in_scipy(n, m):
    a, b = _draw(n, n, m)
    theirs = scipy_stats.ttest_ind(a, b, equal_var=False)
    found = compare_unpaired(a, b, mode="max")
    bounds = theirs.confidence_interval(0.95)
    assert (found.difference, found.p) == pytest.approx((np.mean(a) - np.mean(b), theirs.pvalue))
    assert (found.low, found.high, found.degrees) == pytest.approx((bounds.low, bounds.high, theirs.df))


@pytest.mark.parametrize("margin", [0.005, 0.03, 0.2])
def test_equivalence_is_statsmodels_tost(margin):
    a, b = _draw(3, 8)
    paired = equivalence(compare_paired(a, b, mode="max"), margin)
    unpaired = equivalence(compare_unpaired(a, b, mode="max"), margin)
    assert paired.p == pytest.approx(weightstats.ttost_paired(a, b, -margin, margin)[0])
    assert unpaired.p == pytest.approx(weightstats.ttost_ind(a, b, -margin, margin, usevar="unequal")[0])
    bounds = scipy_stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (paired.low, paired.high) == pytest.approx((bounds.low, bounds.high))
    for found in (paired, unpaired):
        assert (found.p < 0.05) == (-margin < found.low and found.high < margin)


def test_equivalence_is_not_shown_where_there_is_no_t_test():
    diverged = equivalence(compare_paired([1.0, 2.0, NAN], [1.0, 2.1, 3.0], mode="max"), 5.0)
    assert diverged.p is None and "diverged" in diverged.note
    same = equivalence(compare_paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], mode="max"), 5.0)
    assert same.p is None and "no spread" in same.note
    for margin in (0.0, -1.0, NAN, math.inf):
        with pytest.raises(ValueError, match="margin"):
            equivalence(compare_paired([1.0, 2.0], [0.0, 3.0], mode="max"), margin)


# Runs that diverged


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_is_not_finite_diverged_and_is_worst(bad, mode):
    sign = 1 if mode == "max" else -1
    a, b = [0.1, 0.2, 0.3, 0.4, 0.5], [0.11, 0.18, bad, bad, bad]
    found = compare_unpaired(a, b, mode=mode)
    assert (found.n_b, found.diverged_a, found.diverged_b, found.used) == (5, 0, 3, 7)
    assert found.p is None
    assert found.direction == sign
    assert found.difference == pytest.approx(0.3 - 0.145)
    assert "given survival" in found.note
    paired = compare_paired(a, b, mode=mode)
    assert (paired.used, paired.difference, paired.direction) == (2, pytest.approx(0.005), sign)
    signed = np.array([-1, 2, 4 * sign, 4 * sign, 4 * sign])  # ranks of 0.01, 0.02 and of three that tie
    theirs = scipy_stats.permutation_test((signed,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert paired.p_exact == pytest.approx(theirs.pvalue)


def test_one_side_all_diverged_has_no_difference_but_an_exact_test():
    for compare, p in ((compare_paired, 0.0625), (compare_unpaired, 2 / 252)):
        found = compare([NAN] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], mode="max")
        assert (found.difference, found.low, found.p, found.effect) == (None, None, None, None)
        assert found.p_exact == pytest.approx(p)
        assert found.direction == -1
        assert "survived" in found.note


def test_both_sides_all_diverged():
    for compare in (compare_paired, compare_unpaired):
        found = compare([NAN] * 5, [NAN] * 5, mode="min")
        assert (found.difference, found.p_exact, found.smallest_p, found.direction) == (None, 1.0, 1.0, 0)


# No spread


def test_identical_runs_have_no_p_of_zero():
    x = [0.1, 0.2, 0.3]
    found = compare_paired(x, x, mode="max")
    assert (found.difference, found.p, found.low, found.p_exact, found.smallest_p) == (0, None, None, 1, 1)
    assert "all 3 differences are the same" in found.note


def test_a_constant_difference_leaves_the_exact_test_only():
    x = np.array([0.1, 0.3, 0.9])  # of three binades, so that rounding differs
    for values in (x, x.astype(np.float32)):
        found = compare_paired(values + values.dtype.type(0.01), values, mode="max")
        assert 0 < found.sd < 1e-7  # what rounding leaves of 0
        assert (found.p, found.low, found.effect, found.p_exact) == (None, None, None, 0.25)
    flat = compare_unpaired([0.1] * 3, [0.3] * 3, mode="max")
    assert (flat.p, flat.low, flat.effect) == (None, None, None)
    assert flat.p_exact == pytest.approx(0.1)
    assert "no spread" in flat.note


def test_one_side_without_spread_is_said():
    found = compare_unpaired([0.1] * 3, [0.3, 0.4, 0.5], mode="max")
    assert found.p == pytest.approx(scipy_stats.ttest_1samp([0.3, 0.4, 0.5], 0.1).pvalue)
    assert "3 of the first" in found.note and "second" not in found.note


def test_a_small_true_spread_is_not_rounding():
    a, b = np.array([1000.0, 1001.0, 1002.5]), np.array([1000.0, 1001.5, 1002.0])
    assert compare_paired(a, b, mode="max").p is not None
    assert compare_paired(a / 1e6, b / 1e6, mode="max").p is not None
    assert compare_paired(0.1 + a / 1e12, 0.1 + b / 1e12, mode="max").p is not None  # 1e-9 beside 0.1, in float64


def test_rounding_is_that_of_each_pair():
    """One loss of millions in float32 must not make the differences of the others look like rounding."""
    a = np.array([0.5, 0.25, 0.75, 4_194_304.0])
    b = np.array([0.25, 0.5, 0.125, 4_194_304.0])
    assert compare_paired(a, b, mode="min").smallest_p == 0.25  # three differences, and a tie
    assert compare_unpaired(a, b, mode="min").p is not None


@pytest.mark.parametrize("compare", [compare_paired, compare_unpaired])
def test_too_few_values(compare):
    none = compare([], [], mode="max")
    assert (none.difference, none.low, none.p, none.p_exact) == (None, None, None, 1.0)
    one = compare([1.0], [2.0], mode="max")
    assert (one.difference, one.low, one.p, one.p_exact) == (-1.0, None, None, 1.0)
    assert "no interval" in one.note


def test_bad_input():
    with pytest.raises(ValueError, match="same seeds, not 2 and 3"):
        compare_paired([1.0, 2.0], [1.0, 2.0, 3.0], mode="max")
    with pytest.raises(ValueError, match="mode"):
        compare_unpaired([1.0], [2.0], mode="best")
    with pytest.raises(ValueError, match="1 axis"):
        compare_unpaired([[1.0]], [2.0], mode="max")


# Symmetries

eighths = st.integers(-64, 64).map(lambda k: k / 8)  # sums of them are exact
runs = st.lists(st.one_of(eighths, st.just(NAN)), min_size=1, max_size=7)
pairs = st.lists(st.tuples(st.one_of(eighths, st.just(NAN)), st.one_of(eighths, st.just(NAN))), min_size=1, max_size=8)


def _mirrored(one, other):
    """Whether two comparisons say the same, but for the sign of the difference."""
    minus = lambda x: None if x is None else -x  # noqa: E731
    assert (other.difference, other.low, other.high) == pytest.approx(
        (minus(one.difference), minus(one.high), minus(one.low))
    )
    assert other.direction == -one.direction
    _same_size(one, other)


def _same_size(one, other):
    assert (other.p_exact, other.smallest_p) == pytest.approx((one.p_exact, one.smallest_p))
    assert other.p == pytest.approx(one.p)
    assert other.degrees == pytest.approx(one.degrees)
    if one.effect is None:
        assert other.effect is None
    else:
        assert abs(other.effect.value) == pytest.approx(abs(one.effect.value))


@settings(max_examples=60, deadline=None)
@given(pairs, runs, runs)
def test_swapping_the_sides_mirrors(both, a, b):
    x, y = zip(*both, strict=True)
    _mirrored(compare_paired(x, y, mode="max"), compare_paired(y, x, mode="max"))
    _mirrored(compare_unpaired(a, b, mode="max"), compare_unpaired(b, a, mode="max"))


@settings(max_examples=60, deadline=None)
@given(pairs, runs, runs)
def test_negated_values_in_the_other_mode_mirror(both, a, b):
    x, y = np.array(both).T
    _mirrored(compare_paired(x, y, mode="max"), compare_paired(-x, -y, mode="min"))
    _mirrored(compare_unpaired(a, b, mode="max"), compare_unpaired([-v for v in a], [-v for v in b], mode="min"))


@settings(max_examples=60, deadline=None)
@given(pairs, runs, runs, st.integers(-100, 100), st.sampled_from([0.25, 4.0]))
def test_shift_and_scale_change_nothing_but_the_unit(both, a, b, shift, scale):
    x, y = np.array(both).T
    a, b = np.array(a), np.array(b)
    for one, other in (
        (compare_paired(x, y, mode="max"), compare_paired(scale * (x + shift), scale * (y + shift), mode="max")),
        (compare_unpaired(a, b, mode="max"), compare_unpaired(scale * (a + shift), scale * (b + shift), mode="max")),
    ):
        _same_size(one, other)
        assert other.direction == one.direction
        assert other.difference == (None if one.difference is None else pytest.approx(scale * one.difference))


@settings(max_examples=40, deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_seeds_is_of_no_account(both, random):
    one = compare_paired(*zip(*both, strict=True), mode="max")
    random.shuffle(both)
    other = compare_paired(*zip(*both, strict=True), mode="max")
    _same_size(one, other)
    assert other.direction == one.direction
