"""The winner's curse against simulation; fewer seeds against every subset by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from orchestrator.stats import Refused, fewer_seeds, mean_interval, winner_coverage, winners_curse


@pytest.mark.parametrize(("settings", "n", "claimed"), [(5, 5, 0.90), (20, 5, 0.75), (20, 10, 0.68), (1, 7, 0.95)])
def test_the_winners_own_interval_covers_less(settings, n, claimed):
    rng = np.random.default_rng(settings)
    draws = 4000
    x = rng.normal(size=(draws, settings, n))
    best = x[np.arange(draws), x.mean(axis=2).argmax(axis=1)]
    intervals = [mean_interval(row) for row in best]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert winner_coverage(settings, n) == pytest.approx(covered, abs=0.02)
    assert winner_coverage(settings, n) == pytest.approx(claimed, abs=0.005)


def test_shared_seeds_make_the_winner_less_special():
    rng = np.random.default_rng(7)
    x = 2 * rng.normal(size=(4000, 1, 5)) + rng.normal(size=(4000, 8, 5))  # a correlation of 0.8
    best = x[np.arange(4000), x.mean(axis=2).argmax(axis=1)]
    intervals = [mean_interval(row) for row in best]
    assert winner_coverage(8, 5, correlation=0.8) == pytest.approx(
        np.mean([i.low <= 0 <= i.high for i in intervals]), abs=0.02
    )
    assert winner_coverage(8, 5) < winner_coverage(8, 5, correlation=0.8) < winner_coverage(8, 5, correlation=1) < 0.951
    many = 2 * rng.normal(size=400) + rng.normal(size=(8, 400))
    curse = winners_curse(many)
    assert curse.correlation == pytest.approx(0.8, abs=0.06)
    assert curse.coverage == winner_coverage(8, 400, correlation=curse.correlation)
    assert winners_curse(rng.normal(size=(8, 400))).correlation < 0.05


@pytest.mark.parametrize(
    ("means", "tolerance", "mode"),
    [
        ([0.0] * 5, (-0.05, 0.05), "max"),
        ([0.0] * 20, (-0.05, 0.05), "min"),
        ([0.0] * 4 + [1.0], (0.0, 0.18), "min"),  # one clear winner: more than there is
        ([0.0, 0.2, 0.4, 0.6, 0.8], (-0.05, 0.1), "max"),
    ],
)
def test_the_estimated_inflation_is_the_bias_on_average_or_more(means, tolerance, mode):
    rng = np.random.default_rng(len(means))
    sign = 1 if mode == "max" else -1
    true, estimated = [], []
    for _ in range(800):
        # What a seed adds to all settings (here more than all else) changes neither choice nor inflation.
        x = sign * np.array(means)[:, None] + rng.normal(size=(len(means), 5)) + 5 * rng.normal(size=5)
        shared = x.mean() - sign * np.mean(means)
        curse = winners_curse(x, mode=mode)
        true.append(sign * (curse.mean - shared) - means[curse.winner])
        estimated.append(curse.inflation)
        assert sign * (curse.mean - curse.corrected) == pytest.approx(curse.inflation)
    off = np.mean(estimated) - np.mean(true)
    assert tolerance[0] < off < tolerance[1]


def test_a_setting_with_a_missing_value_is_left_out_and_named():
    x = np.random.default_rng(0).normal(size=(4, 5))
    x[2] += 100
    x[2, 1] = np.nan
    curse = winners_curse(x)
    assert (curse.settings, curse.n, curse.left_out) == (3, 5, (2,))
    assert curse.winner == int(np.delete(x.mean(axis=1), 2).argmax()) + (np.delete(x.mean(axis=1), 2).argmax() >= 2)
    assert curse.mean == pytest.approx(x[curse.winner].mean())
    assert not curse.tied and winners_curse(np.ones((3, 5))).tied


def test_there_must_be_something_to_choose_from():
    with pytest.raises(Refused, match="1 setting"):
        winners_curse(np.ones((1, 5)))
    with pytest.raises(Refused, match="2 seeds"):
        winners_curse(np.ones((3, 2)))


def test_fewer_seeds_counts_every_subset():
    x = np.random.default_rng(1).normal(size=(4, 10)) + np.linspace(0, 0.5, 4)[:, None]
    found = fewer_seeds(x, (1, 3, 9), mode="min")
    winner = int(x.mean(axis=1).argmin())
    for m, share, count in zip(found.sizes, found.shares, found.subsets, strict=True):
        named = [int(x[:, list(s)].mean(axis=1).argmin()) for s in combinations(range(10), m)]
        assert share == pytest.approx(np.mean([other != winner for other in named]))
        assert count == len(named)
    assert found.winners == (winner,) and found.exact == (True, True, True)
    assert 0 < found.shares[0] < 1


def test_draws_stand_for_the_subsets_where_there_are_too_many():
    x = np.random.default_rng(2).normal(size=(3, 16))
    found = fewer_seeds(x, (8,))
    assert found.exact == (False,) and found.subsets == (10_000,)
    every = [int(x[:, list(s)].mean(axis=1).argmax()) for s in combinations(range(16), 8)]
    assert found.shares[0] == pytest.approx(np.mean(np.array(every) != found.winners[0]), abs=0.02)
    assert found == fewer_seeds(x, (8,))


def test_unpaired_seeds_are_drawn_for_each_setting_by_itself():
    shared = 10 * np.random.default_rng(3).normal(size=12)
    x = np.array([[0.0], [0.1]]) + shared
    assert fewer_seeds(x, (3,)).shares == (0.0,)  # the same seeds: the better is always ahead
    assert fewer_seeds(x, (3,), paired=False).shares[0] == pytest.approx(0.5, abs=0.03)


def test_tied_settings_name_no_other_winner():
    x = np.tile(np.arange(10.0), (2, 1)) * 0.1
    found = fewer_seeds(x)
    assert found.winners == (0, 1) and set(found.shares) == {0.0}
    assert found.sizes == (1, 2, 3, 5, 7)


def test_fewer_than_ten_seeds_are_refused():
    with pytest.raises(Refused, match="9 seeds are too few"):
        fewer_seeds(np.ones((3, 9)))
    with pytest.raises(ValueError, match="from 1 to 9"):
        fewer_seeds(np.ones((3, 10)), (10,))
    broken = np.ones((2, 10))
    broken[0, 0] = np.inf
    with pytest.raises(Refused, match="1 setting"):
        fewer_seeds(broken)
