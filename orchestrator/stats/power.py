"""How many seeds an effect takes: power of t tests and of equivalence, for an effect that the user states.

Never for the observed effect: power at the observed effect is a function of the p-value and says nothing new (Hoenig
and Heisey 2001). The standard deviation comes from a few seeds and is uncertain itself, so everything is
computed three times: at the estimate and at both ends of its chi-square interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from .comparisons import Design
from .quadrature import chi2_nodes
from .refusal import Refused

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "SIZES",
    "Curve",
    "Power",
    "detectable_effect",
    "equivalence_power",
    "needed_seeds",
    "plan_seeds",
    "sd_bounds",
    "t_test_power",
]

Question = Literal["difference", "equivalence"]

SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Curve:
    """Power at one value of the standard deviation.

    Attributes:
        sd: of the differences (paired) or of one setting (unpaired).
        power: at each of `Power.sizes`.
        present: at the n there is.
        needed_80, needed_90: seeds (of each setting) for a power of 80 and 90 %; None if more than 100,000.
        detectable: smallest effect, or smallest margin, with a power of 80 % at the n there is.
    """

    sd: float
    power: tuple[float, ...]
    present: float
    needed_80: int | None
    needed_90: int | None
    detectable: float


@dataclass(frozen=True)
class Power:
    """What n seeds can tell about an effect that was stated beforehand.

    Attributes:
        question: "difference" (two-sided t test) or "equivalence" (two one-sided t tests, true difference 0).
        design: "paired" (t test on the differences) or "unpaired" (Welch, equal n and spread).
        effect: the smallest difference of interest, or the margin; in the units of the metric, positive.
        n: seeds of each setting there are.
        family: contrasts that are decided together.
        level: 1 − the error allowed for the whole family.
        alpha: error allowed for one test: (1 − level) / family, Holm's worst case (Bonferroni).
        degrees: of freedom behind the estimate of the sd.
        sizes: the n of the curves.
        estimate, low, high: at the estimated sd and at both ends of its interval (of coverage 95 %, normal values).
    """

    question: Question
    design: Design
    effect: float
    n: int
    family: int
    level: float
    alpha: float
    degrees: int
    sizes: tuple[int, ...]
    estimate: Curve
    low: Curve
    high: Curve


def sd_bounds(sd: float, degrees: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a normal standard deviation: sd·√(ν/χ²ν) at both tails; 5 values give ×0.60 to ×2.87.

    Args:
        sd: the estimate, with `degrees` degrees of freedom (n − 1 for n values).
    """
    if degrees < 1:
        raise Refused(f"a spread needs at least 2 values; here {degrees} degrees of freedom are left")
    from scipy.special import chdtri

    tail = (1 - level) / 2
    return sd * math.sqrt(degrees / float(chdtri(degrees, tail))), sd * math.sqrt(
        degrees / float(chdtri(degrees, 1 - tail))
    )


def t_test_power(effect: float, sd: float, n: int, *, design: Design = "paired", alpha: float = 0.05) -> float:
    """Power of the two-sided t test: on the differences if paired, else Welch's with n values of equal spread each.

    The chance that a normal difference lies outside t times its estimated standard error, over the distribution of that
    estimate: paired this is the noncentral t distribution (Johnson and Welch 1940). Welch's test is weaker than the
    pooled t test that power tables are for, at 5 seeds by up to 0.03 and at 3 by up to 0.11.

    Args:
        effect: true difference of the means.
        sd: of the differences (paired), of either setting (unpaired).
        n: pairs, or values of each setting.
        alpha: error allowed, both sides together.
    """
    if n < 2:
        return 0.0
    import numpy as np
    from scipy.special import ndtr

    weights, critical = _critical(n, design, alpha / 2)
    shift = abs(effect) / _error(sd, n, design)
    return min(float(np.sum(weights * (ndtr(shift - critical) + ndtr(-shift - critical)))), 1.0)


def equivalence_power(
    margin: float, sd: float, n: int, *, design: Design = "paired", alpha: float = 0.05, difference: float = 0.0
) -> float:
    """Probability that both one-sided t tests place the difference within ±margin (Schuirmann 1987; Phillips 1990).

    They do if the estimate lies within the margin less t times its estimated standard error.

    Args:
        margin: positive; sd, n, design as in `t_test_power`.
        alpha: error allowed to each of the two tests.
        difference: the true one.
    """
    if n < 2:
        return 0.0
    import numpy as np
    from scipy.special import ndtr

    weights, critical = _critical(n, design, alpha)
    error = _error(sd, n, design)
    room, shift = margin / error - critical, difference / error
    return float(np.sum(weights * np.clip(ndtr(room - shift) - ndtr(-room - shift), 0, None)))


def needed_seeds(
    effect: float,
    sd: float,
    power: float,
    *,
    design: Design = "paired",
    alpha: float = 0.05,
    question: Question = "difference",
) -> int | None:
    """The fewest seeds (of each setting) with at least this power; None if more than 100,000."""
    test = _test(question)
    if test(effect, sd, MOST_SEEDS, design=design, alpha=alpha) < power:
        return None
    few, enough = 1, 2
    while test(effect, sd, enough, design=design, alpha=alpha) < power:
        few, enough = enough, min(2 * enough, MOST_SEEDS)
    while enough - few > 1:
        middle = (few + enough) // 2
        if test(effect, sd, middle, design=design, alpha=alpha) < power:
            few = middle
        else:
            enough = middle
    return enough


def detectable_effect(
    sd: float,
    n: int,
    power: float = 0.8,
    *,
    design: Design = "paired",
    alpha: float = 0.05,
    question: Question = "difference",
) -> float:
    """The smallest effect (for equivalence: margin) with this power at n seeds, by bisection."""
    if n < 2:
        raise Refused(f"{n} seed: no test, and so no effect it could detect; take at least 2")
    test = _test(question)
    low, high = 0.0, sd
    while test(high, sd, n, design=design, alpha=alpha) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        if test(middle, sd, n, design=design, alpha=alpha) < power:
            low = middle
        else:
            high = middle
    return high


def plan_seeds(
    effect: float,
    sd: float,
    n: int,
    *,
    design: Design = "paired",
    degrees: int | None = None,
    family: int = 1,
    level: float = 0.95,
    question: Question = "difference",
    sizes: Sequence[int] = SIZES,
) -> Power:
    """Power over n, the n needed and the effect detectable, at the estimated sd and at both ends of its interval.

    Args:
        effect: the smallest that matters (or the margin), stated by the user; not zero.
        sd: estimated: of the differences (paired), or pooled over settings, √mean(sdᵢ²) (unpaired).
        n: seeds of each setting there are.
        degrees: behind the sd; n − 1 (paired) or 2n − 2 (unpaired) if not given.
        family: contrasts decided together.

    Raises:
        Refused: fewer than 2 seeds, an effect of 0, or values that are all equal.
    """
    if n < 2:
        raise Refused(f"{n} seed: the spread between seeds is unknown, so power cannot be computed; run at least 2")
    if not math.isfinite(effect) or effect == 0:
        raise Refused(f"an effect of {effect} needs no seeds to be told from 0; state the smallest one that matters")
    if not math.isfinite(sd) or sd <= 0:
        raise Refused(f"the {n} values are all equal: their spread is unknown, so power cannot be computed")
    behind = degrees if degrees is not None else n - 1 if design == "paired" else 2 * n - 2
    low, high = sd_bounds(sd, behind)
    alpha = (1 - level) / family
    size = abs(effect)
    over = tuple(sizes)

    def curve(spread: float) -> Curve:
        test = _test(question)
        return Curve(
            spread,
            tuple(test(size, spread, m, design=design, alpha=alpha) for m in over),
            test(size, spread, n, design=design, alpha=alpha),
            needed_seeds(size, spread, 0.8, design=design, alpha=alpha, question=question),
            needed_seeds(size, spread, 0.9, design=design, alpha=alpha, question=question),
            detectable_effect(spread, n, design=design, alpha=alpha, question=question),
        )

    return Power(
        question, design, size, n, family, level, alpha, behind, over, curve(sd), curve(low), curve(high)
    )  # fmt: skip


def _test(question: Question) -> Callable[..., float]:
    return t_test_power if question == "difference" else equivalence_power


def _error(sd: float, n: int, design: Design) -> float:
    """True standard error of the difference."""
    return sd * math.sqrt((1 if design == "paired" else 2) / n)


@lru_cache(maxsize=512)
def _critical(n: int, design: Design, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and t times estimated over true standard error: what the estimate is held against, as a distribution."""
    import numpy as np
    from scipy.special import stdtrit

    if design == "paired":
        v, weights = chi2_nodes(n - 1, 400)
        return weights, float(stdtrit(n - 1, 1 - tail)) * np.sqrt(v / (n - 1))
    v, weights = chi2_nodes(n - 1, 64)
    a, b = np.meshgrid(v, v)
    degrees = (n - 1) * (a + b) ** 2 / (a**2 + b**2)  # Welch-Satterthwaite
    return np.outer(weights, weights), stdtrit(degrees, 1 - tail) * np.sqrt((a + b) / (2 * (n - 1)))
