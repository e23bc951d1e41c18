"""Power against statsmodels and against simulated tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from orchestrator.stats import (
    Refused,
    detectable_effect,
    equivalence_power,
    needed_seeds,
    plan_seeds,
    sd_bounds,
    t_test_power,
)

DRAWS = 20_000


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
@pytest.mark.parametrize("d", [0.01, 0.5, 1.0])
def test_t_test_power_is_statsmodels(n, alpha, d):
    paired = TTestPower().power(d, n, alpha)
    assert t_test_power(-2 * d, 2, n, design="paired", alpha=alpha) == pytest.approx(paired, abs=2e-5)
    pooled = TTestIndPower().power(d, n, alpha)  # Student's test: what Welch's comes to with many seeds
    assert t_test_power(2 * d, 2, n, design="unpaired", alpha=alpha) < pooled
    assert t_test_power(d, 2, 60, design="unpaired") == pytest.approx(TTestIndPower().power(d / 2, 60, 0.05), abs=1e-3)


def test_power_is_a_number_however_large_the_effect():
    for effect in (10.0, 100.0, 1e6):
        assert t_test_power(effect, 1, 3) == pytest.approx(1, abs=0.01)
        assert t_test_power(effect, 1, 50, design="unpaired") == 1
        assert equivalence_power(effect, 1, 50) == pytest.approx(1)
    assert t_test_power(1.0, 1, 1) == equivalence_power(1.0, 1, 1) == 0


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_power_is_how_often_the_tests_reject(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(1.5, 1, (DRAWS, n)), rng.normal(0, 1, (DRAWS, n))
    paired = np.mean(scipy_stats.ttest_rel(a, b, axis=1).pvalue < 0.05)
    assert t_test_power(1.5, math.sqrt(2), n, design="paired") == pytest.approx(paired, abs=0.012)
    welch = np.mean(scipy_stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05)
    assert t_test_power(1.5, 1, n, design="unpaired") == pytest.approx(welch, abs=0.012)


@pytest.mark.parametrize(("n", "margin", "difference"), [(2, 3.0, 0.0), (5, 1.5, 0.0), (5, 1.5, 0.5), (10, 0.8, 0.2)])
def test_equivalence_power_is_how_often_both_one_sided_tests_reject(n, margin, difference):
    rng = np.random.default_rng(n)
    d = rng.normal(difference, 1, (DRAWS, n))
    half = scipy_stats.t.ppf(0.95, n - 1) * d.std(axis=1, ddof=1) / math.sqrt(n)
    found = np.mean((d.mean(axis=1) - half > -margin) & (d.mean(axis=1) + half < margin))
    assert equivalence_power(margin, 1, n, difference=difference) == pytest.approx(found, abs=0.012)


def test_equivalence_at_the_margin_itself_is_claimed_no_more_often_than_alpha():
    for n in (2, 5, 50):
        assert equivalence_power(1, 0.3, n, difference=1) <= 0.05 + 1e-9
    assert equivalence_power(1, 0.3, 50, difference=1) == pytest.approx(0.05, abs=1e-5)
    assert 0.03 < equivalence_power(1, 0.3, 10, design="unpaired", difference=1) < 0.052  # Welch: about alpha


@pytest.mark.parametrize("question", ["difference", "equivalence"])
@pytest.mark.parametrize("design", ["paired", "unpaired"])
def test_the_n_needed_is_the_first_with_that_power_and_the_effect_detectable_the_smallest(question, design):
    power = t_test_power if question == "difference" else equivalence_power
    n = needed_seeds(0.7, 1.0, 0.9, design=design, question=question)
    assert power(0.7, 1, n - 1, design=design) < 0.9 <= power(0.7, 1, n, design=design)
    effect = detectable_effect(1.0, 6, design=design, question=question)
    assert power(effect, 1, 6, design=design) == pytest.approx(0.8, abs=1e-6)


def test_the_n_needed_is_statsmodels_and_none_where_nobody_could_run_as_many():
    solved = TTestPower().solve_power(0.5, power=0.8, alpha=0.05)
    assert needed_seeds(0.5, 1.0, 0.8) == math.ceil(solved)
    assert needed_seeds(0.001, 1.0, 0.8) is None


def test_the_spread_of_five_seeds_may_be_off_by_as_much_as_is_said():
    assert sd_bounds(1.0, 4) == pytest.approx((0.599, 2.874), abs=1e-3)
    draws = np.random.default_rng(0).normal(0, 2, (DRAWS, 5)).std(axis=1, ddof=1)
    factors = sd_bounds(1.0, 4)
    assert np.mean((draws * factors[0] <= 2) & (draws * factors[1] >= 2)) == pytest.approx(0.95, abs=0.006)


def test_a_plan_holds_both_ends_of_the_spread_and_the_family():
    plan = plan_seeds(-0.8, 1.0, 5, family=4, sizes=(5, 10))
    assert (plan.effect, plan.degrees, plan.alpha) == (0.8, 4, pytest.approx(0.0125))
    assert (plan.low.sd, plan.estimate.sd, plan.high.sd) == pytest.approx((0.599, 1, 2.874), abs=1e-3)
    assert plan.estimate.power[0] == plan.estimate.present == t_test_power(0.8, 1, 5, alpha=0.0125)
    assert plan.low.needed_80 < plan.estimate.needed_80 < plan.high.needed_80
    assert plan.low.detectable < plan.estimate.detectable < plan.high.detectable
    assert plan.estimate.needed_80 < plan.estimate.needed_90
    alone = plan_seeds(0.8, 1.0, 5)
    assert alone.estimate.needed_80 < plan.estimate.needed_80
    assert plan_seeds(0.8, 1.0, 5, design="unpaired").degrees == 8


@pytest.mark.parametrize(
    ("effect", "sd", "n", "said"),
    [(1.0, 1.0, 1, "1 seed"), (0.0, 1.0, 5, "effect of 0"), (1.0, 0.0, 5, "all equal"), (math.nan, 1.0, 5, "effect")],
)
def test_what_cannot_be_planned_is_refused(effect, sd, n, said):
    with pytest.raises(Refused, match=said):
        plan_seeds(effect, sd, n)
