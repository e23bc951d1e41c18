"""Effect sizes: scipy's noncentral t, unbiasedness and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.special import nctdtrinc

from orchestrator.stats import compare_paired, compare_unpaired
from orchestrator.stats.effects import average_effect, hedges_factor, hedges_g, paired_effect


def test_the_interval_holds_the_noncentralities_that_are_not_refuted():
    a, b = np.array([3.0, 4, 5, 7]), np.array([1.0, 2, 4, 2, 3])
    effect = compare_unpaired(a, b, mode="max").effect
    t = scipy_stats.ttest_ind(a, b).statistic
    root = math.sqrt(4 * 5 / 9)
    assert scipy_stats.nct.sf(t, 7, effect.low * root) == pytest.approx(0.025, rel=1e-6)
    assert scipy_stats.nct.cdf(t, 7, effect.high * root) == pytest.approx(0.025, rel=1e-6)
    assert effect.value == pytest.approx(hedges_factor(7) * t / root)
    assert "Hedges" in effect.name


def test_paired_effects_name_their_denominators():
    rng = np.random.default_rng(0)
    b = rng.normal(0, 1, 6)
    a = b + rng.normal(0.5, 0.2, 6)
    found = compare_paired(a, b, mode="max")
    t = scipy_stats.ttest_rel(a, b).statistic
    assert found.effect.value == pytest.approx(hedges_factor(5) * t / math.sqrt(6))
    assert scipy_stats.nct.sf(t, 5, found.effect.low * math.sqrt(6)) == pytest.approx(0.025, rel=1e-6)
    own = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    r = np.corrcoef(a, b)[0, 1]
    assert found.effect_av.value == pytest.approx(hedges_factor(10 / (1 + r**2)) * np.mean(a - b) / own)
    assert found.effect.value > found.effect_av.value  # the pairs are close, so d_z is the larger
    assert "sd of the differences" in found.effect.name and "own sd" in found.effect_av.name


@pytest.mark.parametrize(("degrees", "factor"), [(2, 1 / math.sqrt(math.pi)), (4, math.sqrt(2 / math.pi)), (1e4, 1)])
def test_hedges_factor(degrees, factor):
    assert hedges_factor(degrees) == pytest.approx(factor, abs=1e-4)


def test_no_effect_from_two_pairs():
    assert paired_effect(0.3, 0.1, 2, 0.95) is None
    assert compare_paired([1.0, 2.0], [0.5, 1.0], mode="max").effect is None


def test_huge_effects_are_quick_and_join_the_others():
    """Beyond t = 1000 another formula takes over, where they agree."""
    below, above = (hedges_g(t / math.sqrt(2.5), 1.0, 5, 5, 0.95) for t in (999.9, 1000.1))
    assert (above.low / below.low, above.high / below.high) == pytest.approx((1000.1 / 999.9,) * 2, rel=3e-4)
    huge = hedges_g(-1e12, 1.0, 5, 5, 0.95)
    assert (huge.low / 1e12, huge.high / 1e12) == pytest.approx(
        [-math.sqrt(scipy_stats.chi2.ppf(q, 8) / 8) for q in (0.975, 0.025)]
    )


@pytest.mark.parametrize("delta", [0.0, 1.5])
def test_hedges_g_is_unbiased_and_its_interval_covers(delta):
    rng = np.random.default_rng(3)
    draws = 3000
    x, y = rng.normal(delta, 1, (draws, 4)), rng.normal(0, 1, (draws, 5))
    sd = np.sqrt((3 * x.var(axis=1, ddof=1) + 4 * y.var(axis=1, ddof=1)) / 7)
    found = [hedges_g(d, s, 4, 5, 0.95) for d, s in zip(x.mean(axis=1) - y.mean(axis=1), sd, strict=True)]
    assert np.mean([e.value for e in found]) == pytest.approx(delta, abs=0.06)
    assert np.mean([e.low < delta < e.high for e in found]) == pytest.approx(0.95, abs=0.013)


@pytest.mark.parametrize(("rho", "delta"), [(0.0, 0.5), (0.8, 0.5), (0.8, 2.0)])
def test_d_av_covers_about_as_it_says(rho, delta):
    rng = np.random.default_rng(4)
    draws, n = 3000, 6
    y = rng.normal(size=(draws, n))
    x = delta + rho * y + math.sqrt(1 - rho**2) * rng.normal(size=(draws, n))
    d = x - y
    sds = [np.std(v, axis=1, ddof=1) for v in (d, x, y)]
    r = (sds[1] ** 2 + sds[2] ** 2 - sds[0] ** 2) / (2 * sds[1] * sds[2])
    found = [
        average_effect(mean, s, sa, sb, c, n, 0.95) for mean, s, sa, sb, c in zip(d.mean(axis=1), *sds, r, strict=True)
    ]
    assert 0.92 <= np.mean([e.low < delta < e.high for e in found]) <= 0.98
    assert np.mean([e.value for e in found]) == pytest.approx(delta, abs=0.06)


def test_scipy_special_inverts_the_noncentral_t():
    """What `effects` relies on: for negative noncentralities and large t as well."""
    for degrees, t, p in ((4, 2.0, 0.975), (8, 0.0, 0.025), (18, 40.0, 0.975), (4, 8.0, 0.025)):
        assert scipy_stats.nct.cdf(t, degrees, nctdtrinc(degrees, p, t)) == pytest.approx(p, rel=1e-5)
