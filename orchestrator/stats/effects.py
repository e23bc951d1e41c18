"""Standardised differences: how large a difference is in units of a standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Effect", "average_effect", "hedges_g", "paired_effect"]


@dataclass(frozen=True)
class Effect:
    """A standardised difference.

    Attributes:
        name: which one, with its denominator in words.
        value: the difference in units of the denominator, times Hedges' factor against the bias of small samples.
        low, high: interval of the population's standardised difference; not symmetric around `value`, and not
            multiplied by Hedges' factor.
        level: nominal coverage.
    """

    name: str
    value: float
    low: float
    high: float
    level: float


def hedges_g(difference: float, sd: float, n: int, m: int, level: float) -> Effect:
    """Hedges' g: the difference in units of the pooled standard deviation of two groups (Hedges 1981).

    The interval is exact for normal values with the same spread on both sides.
    """
    d = difference / sd
    low, high = _noncentral(d, n * m / (n + m), n + m - 2, level)
    return Effect("Hedges' g (in units of the pooled sd)", hedges_factor(n + m - 2) * d, low, high, level)


def paired_effect(difference: float, sd: float, n: int, level: float) -> Effect | None:
    """d_z: the mean difference in units of the differences' own standard deviation; None for fewer than 3.

    It grows with the correlation of the pairs, so it tells how easily the difference is seen, not how large it is
    beside the spread of one setting: that is `average_effect`. The interval is exact for normal differences.
    """
    if n < 3:
        return None
    d = difference / sd
    low, high = _noncentral(d, n, n - 1, level)
    return Effect("d_z (in units of the sd of the differences)", hedges_factor(n - 1) * d, low, high, level)


def average_effect(
    difference: float, sd: float, sd_a: float, sd_b: float, correlation: float, n: int, level: float
) -> Effect | None:
    """d_av: the mean difference of pairs in units of √((sd_a² + sd_b²)/2); None for fewer than 3.

    Comparable with Hedges' g of unpaired runs. The interval is that of d_z times the ratio of the two denominators
    (Algina & Keselman 2003), Hedges' factor has 2(n − 1)/(1 + r²) degrees of freedom (Cousineau 2020). Simulated
    coverage of the 95 % interval: 93 to 97 % at n = 3 to 20, correlations −0.3 to 0.9 and effects up to 2.

    Args:
        sd: of the differences.
        correlation: of the pairs.
    """
    unit = math.sqrt((sd_a**2 + sd_b**2) / 2)
    if n < 3 or unit == 0:
        return None
    low, high = (x * sd / unit for x in _noncentral(difference / sd, n, n - 1, level))
    factor = hedges_factor(2 * (n - 1) / (1 + correlation**2))
    return Effect("d_av (in units of the settings' own sd)", factor * difference / unit, low, high, level)


def hedges_factor(degrees: float) -> float:
    """J = Γ(ν/2) / (√(ν/2)·Γ((ν − 1)/2)), by which a standardised difference is too large on average; ν > 1."""
    from scipy.special import gammaln

    return math.exp(gammaln(degrees / 2) - gammaln((degrees - 1) / 2)) / math.sqrt(degrees / 2)


def _noncentral(d: float, size: float, degrees: int, level: float) -> tuple[float, float]:
    """The standardised differences under which t = d·√size would be a tail value of (1 ± level)/2."""
    from scipy.special import chdtri, nctdtrinc

    root, tails = math.sqrt(size), ((1 + level) / 2, (1 - level) / 2)
    t = abs(d) * root
    if t > 1000:  # nctdtrinc becomes slow and inexact; the normal part of t is nothing beside its chi part
        low, high = (abs(d) * math.sqrt(float(chdtri(degrees, tail)) / degrees) for tail in tails)
    else:
        low, high = (float(nctdtrinc(degrees, tail, t)) / root for tail in tails)
    return (low, high) if d >= 0 else (-high, -low)
