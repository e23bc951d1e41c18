"""Sharpness at matched training loss: against statsmodels' least squares, and the jackknife by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from orchestrator.stats import Refused, match_loss


def example(rng, k=3, n=6, slope=1.0, seed_sd=0.0):
    """Log loss and log sharpness; settings reach other losses, and differ by 1 in log sharpness at equal loss."""
    own = rng.normal(size=(k, n)) + seed_sd * rng.normal(size=(1, n))
    x = own + 0.3 * np.arange(k)[:, None]
    y = slope * x + np.arange(k)[:, None] + 0.5 * rng.normal(size=(k, n)) + seed_sd * rng.normal(size=(1, n))
    return np.exp(y), np.exp(x)


def test_unpaired_is_statsmodels_analysis_of_covariance():
    sharpness, loss = example(np.random.default_rng(0))
    sharpness[1, 2] = np.nan
    found = match_loss(sharpness, loss, paired=False, reference=1)
    i, _ = np.indices(loss.shape)
    data = pd.DataFrame({"y": np.log(sharpness).ravel(), "x": np.log(loss).ravel(), "s": i.ravel()}).dropna()
    data["x"] -= np.log(found.loss)  # then each setting's coefficient is its adjusted mean
    fit = ols("y ~ 0 + C(s) + x", data).fit()
    bounds = fit.conf_int()
    for setting, name in zip(found.settings, ("C(s)[0]", "C(s)[1]", "C(s)[2]"), strict=True):
        assert (setting.adjusted, setting.low, setting.high) == pytest.approx((fit.params[name], *bounds.loc[name]))
    assert (found.slope, found.slope_low, found.slope_high) == pytest.approx((fit.params["x"], *bounds.loc["x"]))
    contrast = fit.t_test("C(s)[2] - C(s)[1] = 0")
    last = found.settings[2]
    assert last.difference == pytest.approx(contrast.effect[0])
    assert (last.difference_low, last.difference_high) == pytest.approx(tuple(contrast.conf_int()[0]))
    assert found.settings[1].difference == found.settings[1].difference_low == found.settings[1].difference_high == 0
    one_line = ols("y ~ x", data).fit()
    assert found.p == pytest.approx(anova_lm(one_line, fit).loc[1, "Pr(>F)"])
    assert found.missing == 1 and found.log and np.isnan(found.values[1][2])
    assert found.settings[0].n == 6 and found.settings[1].n == 5


def test_a_setting_that_only_trained_further_is_not_flatter_at_matched_loss():
    rng = np.random.default_rng(1)
    log_loss = rng.normal(size=(2, 40)) - [[0.0], [1.5]]
    log_sharpness = log_loss + 0.3 * rng.normal(size=(2, 40))
    found = match_loss(np.exp(log_sharpness), np.exp(log_loss), paired=False)
    assert found.settings[1].mean - found.settings[0].mean < -1
    assert found.settings[1].difference_low < 0 < found.settings[1].difference_high
    assert abs(found.settings[1].difference) < 0.3
    assert found.overlap[0] < found.loss < found.overlap[1]
    assert np.array(found.values).mean(axis=1) == pytest.approx([s.adjusted for s in found.settings])


def test_paired_intervals_cover_where_the_luck_of_a_seed_is_shared():
    rng = np.random.default_rng(2)
    covered = {True: [], False: []}
    for _ in range(400):
        sharpness, loss = example(rng, n=6, seed_sd=2.0)
        for paired in covered:
            try:
                found = match_loss(sharpness, loss, paired=paired)
            except Refused:
                continue
            covered[paired].append((found.slope_low <= 1 <= found.slope_high, found.settings[2].difference_low <= 2))
    assert 0.91 < np.mean([s for s, _ in covered[True]]) < 0.99
    assert 0.94 < np.mean([d for _, d in covered[True]]) <= 1
    assert np.mean([s for s, _ in covered[False]]) < 0.88  # why the design must be told


def test_values_that_are_not_positive_are_compared_as_they_are():
    sharpness, loss = example(np.random.default_rng(3))
    sharpness[0, 0] = -0.1
    found = match_loss(sharpness, loss, paired=True)
    assert not found.log and found.p is None and found.method == "jackknife over seeds"
    assert found.settings[0].mean == pytest.approx(sharpness[0].mean())
    loss[1, 1] = 0.0
    assert not match_loss(np.abs(sharpness), loss, paired=False).log


def test_losses_that_do_not_overlap_are_refused_and_so_is_too_little_data():
    sharpness, loss = example(np.random.default_rng(4))
    apart = loss * np.array([[1.0], [1e-4], [1.0]])
    with pytest.raises(Refused, match="extrapolated"):
        match_loss(sharpness, apart, paired=False)
    with pytest.raises(Refused, match="1 setting"):
        match_loss(sharpness[:1], loss[:1], paired=False)
    with pytest.raises(Refused, match="3 seeds are too few"):
        match_loss(sharpness[:, :3], np.tile(loss[:1, :3], (3, 1)), paired=True)
    with pytest.raises(Refused, match="no slope"):
        match_loss(sharpness, np.full_like(loss, 0.1), paired=False)
    with pytest.raises(Refused, match="share streams"):
        match_loss(sharpness, loss, paired=None)
    loss[2, 1:] = np.nan
    with pytest.raises(Refused, match="1 trials"):
        match_loss(sharpness, loss, paired=False)
