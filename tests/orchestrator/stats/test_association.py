"""Kendall's τ between and within settings: against scipy, against every permutation, and by simulation."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from orchestrator.stats import Refused, associate


def score(x, y):
    return sum(
        np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])
        for a, b in zip(x, y, strict=True)
        for i in range(len(a))
        for j in range(i)
    )


@pytest.mark.parametrize("k", [3, 5, 12])
def test_between_settings_is_scipys_exact_test_of_the_means(k):
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(2, k, 4))
    found = associate(x, y, paired=True).between
    reference = scipy_stats.kendalltau(x.mean(axis=1), y.mean(axis=1), method="exact")
    assert (found.tau, found.p) == pytest.approx((reference.statistic, reference.pvalue))
    assert found.smallest_p == pytest.approx(2 / math.factorial(k))
    assert found.exact and found.n == k and found.low is None


def test_ties_are_counted_as_scipy_counts_them_and_the_p_is_over_all_orders():
    x, y = np.array([[1.0], [1], [2], [3], [4]]), np.array([[2.0], [1], [1], [5], [5]])
    found = associate(x, y, paired=False).between
    assert found.tau == pytest.approx(scipy_stats.kendalltau(x[:, 0], y[:, 0]).statistic)
    orders = [abs(score([x[:, 0]], [np.array(o)])) for o in permutations(y[:, 0])]
    observed = abs(score([x[:, 0]], [y[:, 0]]))
    assert found.p == pytest.approx(np.mean([s >= observed for s in orders]))


def test_within_settings_unpaired_is_over_all_permutations_of_each():
    rng = np.random.default_rng(0)
    x, y = np.full((2, 4), np.nan), np.full((2, 4), np.nan)
    x[0, :3], x[1], y[0, :3], y[1] = rng.normal(size=3), [1, 1, 2, 3], rng.normal(size=3), rng.normal(size=4)
    found = associate(x, y, paired=False).within
    observed = score([x[0, :3], x[1]], [y[0, :3], y[1]])
    every = [
        score([x[0, :3], x[1]], [np.array(a), np.array(b)])
        for a, b in product(permutations(y[0, :3]), permutations(y[1]))
    ]
    assert found.p == pytest.approx(np.mean(np.abs(every) >= abs(observed)))
    assert found.smallest_p == pytest.approx(np.mean(np.abs(every) >= np.max(np.abs(every))))
    assert found.concordant - found.discordant == observed and found.n == 7 and found.exact
    assert found.tau == pytest.approx(observed / math.sqrt((3 + 5) * (3 + 6)))


def test_within_settings_paired_permutes_the_seeds_of_all_together():
    x, y = np.random.default_rng(1).normal(size=(2, 3, 5))
    found = associate(x, y, paired=True).within
    every = [abs(score(x, y[:, list(order)])) for order in permutations(range(5))]
    assert found.p == pytest.approx(np.mean(np.array(every) >= abs(score(x, y))))
    assert found.smallest_p == pytest.approx(np.mean(np.array(every) == max(every)))


def test_many_seeds_are_drawn_reproducibly():
    x, y = np.random.default_rng(2).normal(size=(2, 2, 12))
    found = associate(x, y, paired=True)
    assert not found.within.exact and found == associate(x, y, paired=True)
    one = associate(x[:1], y[:1], paired=True).within
    assert one.p == pytest.approx(scipy_stats.kendalltau(x[0], y[0], method="exact").pvalue, abs=0.02)


def test_pooled_has_no_p_value():
    x, y = np.random.default_rng(3).normal(size=(2, 4, 5))
    found = associate(x, y, paired=True).pooled
    assert found.tau == pytest.approx(scipy_stats.kendalltau(x.ravel(), y.ravel()).statistic)
    assert found.p is None and found.low is None and "not independent" in found.note


def test_within_settings_keeps_its_level_where_seeds_are_shared():
    rng = np.random.default_rng(4)
    p = {True: [], False: []}
    for _ in range(400):
        x, y = rng.normal(size=(2, 5, 5)) + 3 * rng.normal(size=(2, 1, 5)) + 2 * rng.normal(size=(2, 5, 1))
        for paired in p:
            p[paired].append(associate(x, y, paired=paired).within.p)
    assert np.mean(np.array(p[True]) <= 0.05) < 0.08
    assert np.mean(np.array(p[False]) <= 0.05) > 0.15  # why the design must be told


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_the_interval_within_settings_covers(shared):
    rng = np.random.default_rng(5)
    truth, covered = 2 / math.pi * math.asin(0.5), 0
    for _ in range(500):
        z, e = rng.normal(size=(2, 4, 6)) + shared * rng.normal(size=(2, 1, 6))
        found = associate(z, 0.5 * z + math.sqrt(0.75) * e, paired=True).within
        covered += found.low <= truth <= found.high
    assert 0.92 < covered / 500 < 0.99


def test_what_is_missing_is_counted_and_what_cannot_be_told_is_said():
    x, y = np.random.default_rng(6).normal(size=(2, 3, 4))
    x[0, 0] = np.nan
    y[2] = np.inf
    found = associate(x, y, paired=True)
    assert (found.settings, found.trials, found.missing) == (2, 7, 5)
    assert found.between.p is None and "2 settings" in found.between.note
    assert found.within.n == 7 and "4 seeds" in found.within.note
    assert associate(x, y, paired=False).within.p is not None
    constant = associate(np.ones((3, 5)), np.tile(np.arange(5.0), (3, 1)), paired=True)
    assert constant.within.tau is None and constant.between.tau is None and constant.pooled.tau is None
    perfect = associate(np.arange(15.0).reshape(3, 5), np.arange(15.0).reshape(3, 5), paired=True).within
    assert perfect.tau == 1 and perfect.low is None and "changes nothing" in perfect.note
    with pytest.raises(Refused, match="2 trials"):
        associate([[1.0, 2.0]], [[1.0, 2.0]], paired=True)


def test_seeds_that_share_streams_have_a_tau_within_settings_but_no_p():
    x, y = np.random.default_rng(8).normal(size=(2, 3, 25))
    crossed, paired = associate(x, y, paired=None), associate(x, y, paired=True)
    assert crossed.within.tau == paired.within.tau and crossed.between == paired.between
    assert crossed.within.p is None and crossed.within.low is None and "share streams" in crossed.within.note
