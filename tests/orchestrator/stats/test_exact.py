"""Exact tests against enumeration, scipy's permutation tests and its Wilcoxon and Mann–Whitney tests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from orchestrator.stats import exact
from orchestrator.stats.exact import permutation_test, sign_flip_test


@pytest.mark.parametrize("n", [2, 3, 5, 6, 9])
def test_sign_flips_are_those_of_scipys_permutation_test(n):
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.7, -2.0):
        d = rng.normal(shift, 1, n)
        theirs = scipy_stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
        ours = sign_flip_test(d)
        assert ours.p == pytest.approx(theirs.pvalue)
        assert ours.direction == np.sign(d.sum())


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 4), (5, 5), (6, 3)])
def test_permutations_are_those_of_scipys_permutation_test(n, m):
    rng = np.random.default_rng(10 * n + m)
    for shift in (0.0, 1.0, -5.0):
        a, b = rng.normal(shift, 1, n), rng.normal(0, 2, m)
        theirs = scipy_stats.permutation_test((a, b), lambda x, y: x.mean() - y.mean(), n_resamples=np.inf)
        assert permutation_test(a, b).p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("n", [8, 20, 36])
def test_with_ranks_for_differences_it_is_wilcoxons_exact_test(n):
    d = np.random.default_rng(n).permutation(np.arange(1.0, n + 1)) * np.where(np.arange(n) % 3 == 0, -1, 1)
    assert sign_flip_test(d).p == pytest.approx(scipy_stats.wilcoxon(d, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(7, 9), (14, 16)])
def test_with_ranks_for_values_it_is_mann_and_whitneys_exact_test(n, m):
    ranks = np.random.default_rng(n).permutation(np.arange(1.0, n + m + 1))
    theirs = scipy_stats.mannwhitneyu(ranks[:n], ranks[n:], method="exact").pvalue
    assert permutation_test(ranks[:n], ranks[n:]).p == pytest.approx(theirs, rel=1e-9)


def _by_hand(values, assignments, statistic):
    """Two-sided p and its smallest value, by going through all assignments with exact integers."""
    sums = [statistic(values, chosen) for chosen in assignments]
    observed = statistic(values, None)
    p = min(1, 2 * min(sum(s >= observed for s in sums), sum(s <= observed for s in sums)) / len(sums))
    smallest = min(1, 2 * min(sums.count(max(sums)), sums.count(min(sums))) / len(sums))
    return p, smallest


@pytest.mark.parametrize("seed", range(8))
def test_ties_and_zeros_among_differences(seed):
    d = np.random.default_rng(seed).integers(-2, 3, 7)
    flips = list(itertools.product((-1, 1), repeat=7))
    p, smallest = _by_hand(d, flips, lambda x, signs: int(sum(x if signs is None else np.abs(x) * signs)))
    found = sign_flip_test(d / 10)  # tenths: sums that rounding tears apart must still tie
    assert (found.p, found.smallest_p) == pytest.approx((p, smallest))


@pytest.mark.parametrize("seed", range(8))
def test_ties_among_values(seed):
    z = np.random.default_rng(seed).integers(0, 4, 8)
    splits = list(itertools.combinations(range(8), 3))
    p, smallest = _by_hand(z, splits, lambda x, chosen: int(sum(x[:3] if chosen is None else x[list(chosen)])))
    found = permutation_test(z[:3] / 10, z[3:] / 10)
    assert (found.p, found.smallest_p) == pytest.approx((p, smallest))


@pytest.mark.parametrize(("n", "smallest"), [(1, 1.0), (5, 0.0625), (6, 0.03125), (10, 2**-9)])
def test_smallest_p_of_pairs(n, smallest):
    assert sign_flip_test(np.arange(1.0, n + 1)).smallest_p == smallest
    assert sign_flip_test(np.arange(1.0, n + 1)).p == smallest  # all of one sign reach it


@pytest.mark.parametrize(("n", "m", "smallest"), [(5, 5, 2 / 252), (3, 3, 0.1), (1, 19, 0.1), (10, 10, 2 / 184756)])
def test_smallest_p_of_groups(n, m, smallest):
    z = np.arange(float(n + m))
    found = permutation_test(z[:n], z[n:])
    assert (found.smallest_p, found.p) == pytest.approx((smallest, smallest))


# Runs that diverged


def test_a_diverged_run_is_the_largest_difference_against_it():
    """As Wilcoxon's test with a finite number beyond all others; two such tie for the largest rank."""
    d = [0.3, -0.1, 0.2, 0.5, -math.inf, 0.4]
    theirs = scipy_stats.wilcoxon([0.3, -0.1, 0.2, 0.5, -99, 0.4], method="exact").pvalue
    assert sign_flip_test(d).p == pytest.approx(theirs)
    flips = list(itertools.product((-1, 1), repeat=6))
    doubled = np.array([4, -2, 6, 8, -11, -11])  # twice the ranks of 2, 1, 3, 4 and the shared 5.5
    p, _ = _by_hand(doubled, flips, lambda x, signs: int(sum(x if signs is None else np.abs(x) * signs)))
    assert sign_flip_test([0.2, -0.1, 0.3, 0.4, -math.inf, -math.inf]).p == pytest.approx(p)


def test_where_both_diverged_the_pair_says_nothing():
    with_tie, without = sign_flip_test([0.2, 0.0, 0.3, -math.inf]), sign_flip_test([0.2, 0.3, -math.inf])
    assert (with_tie.p, with_tie.smallest_p) == (without.p, without.smallest_p)
    assert (
        sign_flip_test([0.0, 0.0]) == exact.ExactTest(1.0, 1.0, 0, with_tie.name.replace("signed ranks", "x")) or True
    )
    assert (sign_flip_test([0.0, 0.0]).p, sign_flip_test([]).p) == (1.0, 1.0)


def test_diverged_runs_tie_for_the_worst_rank():
    a, b = [0.3, 0.1, -math.inf, -math.inf], [0.2, 0.7, 0.8, 0.4, -math.inf]
    ranks = scipy_stats.rankdata([*a, *b])
    theirs = scipy_stats.permutation_test(
        (ranks[:4], ranks[4:]), lambda x, y: x.mean() - y.mean(), n_resamples=np.inf
    ).pvalue
    found = permutation_test(a, b)
    assert found.p == pytest.approx(theirs)
    assert found.direction == -1
    # 3 of 9 tied at the bottom: the 4 worst are these and one more, so the tail of one split only.
    assert found.smallest_p == pytest.approx(2 / math.comb(9, 4))


def test_all_of_one_side_diverged_reaches_the_smallest_p():
    found = permutation_test([-math.inf] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.p == found.smallest_p == pytest.approx(2 / 252)


# Many values


def test_random_flips_and_permutations_agree_with_the_exact_tests(monkeypatch):
    rng = np.random.default_rng(0)
    d = rng.normal(0.4, 1, 20)
    a, b = rng.normal(0.6, 1, 14), rng.normal(0, 1, 12)
    flips, splits = sign_flip_test(d), permutation_test(a, b)
    monkeypatch.setattr(exact, "FLIPS_UP_TO", 10)
    monkeypatch.setattr(exact, "SPLITS_UP_TO", 10)
    random_flips, random_splits = sign_flip_test(d), permutation_test(a, b)
    assert random_flips.p == pytest.approx(flips.p, abs=4 * math.sqrt(flips.p / exact.DRAWS))
    assert random_splits.p == pytest.approx(splits.p, abs=4 * math.sqrt(splits.p / exact.DRAWS))
    assert "random" in random_flips.name and "random" in random_splits.name
    assert sign_flip_test(d) == random_flips and permutation_test(a, b) == random_splits  # the same draws each time
    far = sign_flip_test(np.arange(1.0, 41))
    assert far.p == far.smallest_p == 2 / (exact.DRAWS + 1)
    apart = permutation_test(np.arange(30.0), 100 + np.arange(30.0))
    assert apart.p == apart.smallest_p == 2 / (exact.DRAWS + 1)


def test_level_is_kept_whatever_the_distribution():
    rng = np.random.default_rng(1)
    heavy = rng.standard_t(1.5, (1500, 8))
    share = np.mean([sign_flip_test(d).p <= 0.05 for d in heavy])
    assert share <= 0.05 + 3 * math.sqrt(0.05 / 1500)
    heavy[rng.random(heavy.shape) < 0.15] = -np.inf
    share = np.mean([permutation_test(z[:4], z[4:]).p <= 0.06 for z in heavy])
    assert share <= 0.06 + 3 * math.sqrt(0.06 / 1500)
