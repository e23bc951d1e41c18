"""Variance by stream: against statsmodels' analysis of variance and REML, and the intervals by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import anova_lm

from orchestrator.stats import Refused, split_variance


def table(a, b, sd_a, sd_b, sd, rng):
    return 3 + sd_a * rng.normal(size=(a, 1)) + sd_b * rng.normal(size=(1, b)) + sd * rng.normal(size=(a, b))


def long(y):
    i, j = np.indices(y.shape)
    return pd.DataFrame({"y": y.ravel(), "a": i.ravel(), "b": j.ravel(), "one": 1})


def test_mean_squares_and_tests_are_statsmodels():
    y = table(6, 5, 2, 1, 1, np.random.default_rng(0))
    found = split_variance(y)
    anova = anova_lm(ols("y ~ C(a) + C(b)", long(y)).fit())
    for part, name in ((found.a, "C(a)"), (found.b, "C(b)")):
        assert part.mean_square == pytest.approx(anova.loc[name, "mean_sq"])
        assert part.f == pytest.approx(anova.loc[name, "F"])
        assert part.p == pytest.approx(anova.loc[name, "PR(>F)"])
    assert found.residual == pytest.approx(anova.loc["Residual", "mean_sq"])
    assert found.total == pytest.approx(found.a.variance + found.b.variance + found.residual)
    assert found.a.of_total + found.b.of_total + found.residual_of_total == pytest.approx(1)
    assert (found.a.seeds, found.b.seeds) == (6, 5)


def test_positive_estimates_are_those_of_reml():
    y = table(6, 7, 2, 1.5, 1, np.random.default_rng(1))
    found = split_variance(y)
    parts = {"a": "0 + C(a)", "b": "0 + C(b)"}
    fit = mixedlm("y ~ 1", long(y), groups="one", vc_formula=parts, re_formula="0").fit(reml=True)
    assert (found.a.variance, found.b.variance) == pytest.approx(tuple(fit.vcomp), rel=1e-3)
    assert found.residual == pytest.approx(fit.scale, rel=1e-3)


def test_the_interval_contains_the_ratios_that_the_f_test_does_not_reject():
    found = split_variance(table(5, 8, 1, 0, 1, np.random.default_rng(2)))
    for end, tail in ((found.a.ratio_low, 0.975), (found.a.ratio_high, 0.025)):
        assert found.a.f / (1 + 8 * end) == pytest.approx(scipy_stats.f.ppf(tail, 4, 28))
    assert found.a.share_high == pytest.approx(found.a.ratio_high / (1 + found.a.ratio_high))


@pytest.mark.parametrize(("a", "b", "sd_a"), [(5, 5, 1.0), (5, 5, 0.0), (5, 10, 3.0)])
def test_the_intervals_cover(a, b, sd_a):
    rng = np.random.default_rng(3)
    found = [split_variance(table(a, b, sd_a, 0.5, 1, rng)) for _ in range(3000)]
    covered = np.mean([c.a.ratio_low <= sd_a**2 <= c.a.ratio_high for c in found])
    # At zero the lower bound is never above it by more than it may be: only the upper tail is left.
    assert covered == pytest.approx(0.975 if sd_a == 0 else 0.95, abs=0.013)
    assert np.mean([c.residual_low <= 1 <= c.residual_high for c in found]) == pytest.approx(0.95, abs=0.013)
    assert np.mean([c.residual for c in found]) == pytest.approx(1, rel=0.03)


def test_a_negative_estimate_is_zero_and_told():
    rng = np.random.default_rng(4)
    found = next(c for c in (split_variance(table(5, 5, 0, 3, 1, rng)) for _ in range(100)) if c.a.truncated)
    assert (found.a.variance, found.a.ratio, found.a.ratio_low, found.a.of_total) == (0, 0, 0, 0)
    assert found.a.f < 1 and found.a.ratio_high >= 0 and not found.b.truncated


def test_too_small_incomplete_or_constant_tables_are_refused():
    with pytest.raises(Refused, match="4 × 9 seeds are too few"):
        split_variance(np.ones((4, 9)))
    broken = table(5, 5, 1, 1, 1, np.random.default_rng(5))
    broken[0, 0] = broken[3, 2] = np.nan
    with pytest.raises(Refused, match="2 of the 25 crossed trials"):
        split_variance(broken)
    with pytest.raises(Refused, match="all equal"):
        split_variance(np.full((5, 5), 0.97))
    with pytest.raises(Refused, match="explained"):
        split_variance(np.add.outer(np.arange(5.0), np.arange(5.0) ** 2))
