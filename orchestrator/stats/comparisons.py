"""Two settings compared over seeds: a difference with its t interval, an exact test beside it, an effect size.

Whether the comparison is paired follows from the design (do the two settings share their streams?), never from the
values, so the caller says it by the function it calls. A value that is not finite (nan, inf, −inf) stands for a run
that diverged: it has no part in a mean, and the exact tests treat it as worse than every run that survived. What is
missing for another reason (failed, not run, stopped early by a scheduler) must be left out before, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .exact import ExactTest, permutation_test, sign_flip_test
from .intervals import share_interval, t_quantile

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Comparison",
    "Design",
    "Effect",
    "Equivalence",
    "Improvement",
    "Mode",
    "compare_paired",
    "compare_unpaired",
    "equivalence",
    "probability_of_improvement",
]

Mode = Literal["max", "min"]
Design = Literal["paired", "unpaired"]


@dataclass(frozen=True)
class Effect:
    """A standardised difference.

    Attributes:
        name: which one, with its denominator in words.
        value: the difference in units of the denominator, corrected for the small sample.
        low, high: its interval; None where there is none.
        level: nominal coverage.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    level: float


@dataclass(frozen=True)
class Comparison:
    """Setting a against setting b on one metric.

    Attributes:
        design: "paired" (values of the same seed share their streams) or "unpaired".
        mode: which values are better, "max" or "min". Diverged runs are worst in that sense.
        n_a, n_b: runs compared, the diverged ones included; paired: both are the number of pairs.
        diverged_a, diverged_b: how many of them diverged.
        used: what the difference is over: pairs of which both runs survived, or surviving runs of both sides.
        mean_a, mean_b: means of the runs used.
        difference: mean_a − mean_b, given survival; None if there is nothing to take it over.
        sd: paired: of the differences; unpaired: pooled over both sides.
        se, degrees: standard error of the difference and its degrees of freedom (Welch–Satterthwaite if unpaired).
            None where the t method has nothing to go by: fewer than 2 values, or no spread in them.
        low, high: the contrast's own t interval at `level`, not corrected for the family; None where there is none.
        p: two-sided p of the t test; None where there is no test, or where a run diverged: the survivors alone do
            not make a fair contrast, and the exact test decides.
        p_exact: two-sided p of the exact test (sign-flip or permutation).
        direction: which way the exact test's statistic points: the sign of a − b, diverged runs counted worst.
        smallest_p: the smallest p the exact test can give with these n (and ties): it can decide nothing below.
        effect: Hedges' g, or d_z if paired; None where there is no spread.
        effect_av: paired only: the difference in units of the settings' own standard deviation (d_av).
        exact_test: the exact test in words.
        note: what a reader must know of these numbers; empty if there is nothing.
    """

    design: Design
    mode: Mode
    n_a: int
    n_b: int
    diverged_a: int
    diverged_b: int
    used: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    sd: float | None
    se: float | None
    degrees: float | None
    low: float | None
    high: float | None
    level: float
    p: float | None
    p_exact: float
    direction: int
    smallest_p: float
    effect: Effect | None
    effect_av: Effect | None
    exact_test: str
    note: str = ""


@dataclass(frozen=True)
class Improvement:
    """The probability that a run of setting a is better than a run of setting b.

    Attributes:
        share: unpaired: U / (n·m), ties counted half; paired: wins / pairs. None without runs.
        low, high: its interval; None where there is none.
        wins, ties, losses: of a over b, over all n·m combinations, or over the pairs.
        method: in words.
    """

    design: Design
    share: float | None
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int
    level: float
    method: str
    note: str = ""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests of whether a difference lies within ± margin (Schuirmann 1987).

    Attributes:
        p: the larger of the two; None where the difference has no t test, and `note` says why.
        low, high: the 1 − 2α interval: within ± margin exactly if p < α = 1 − level.
    """

    margin: float
    p: float | None
    low: float | None
    high: float | None
    level: float
    note: str = ""


def compare_paired(a: Any, b: Any, *, mode: Mode, level: float = 0.95) -> Comparison:
    """Two settings whose runs share their streams, seed by seed: t test on the differences, sign-flip test beside it.

    The sign-flip test takes the mean difference. Where a run diverged it takes Wilcoxon's signed ranks: a pair in which
    only one run diverged is the largest of all differences against it, a pair in which both did is a tie.

    Args:
        a, b: shape (n,), the same seeds in the same order.
    """
    import numpy as np

    x, y = _values(a, mode), _values(b, mode)
    if len(x) != len(y):
        raise ValueError(f"paired values must be of the same seeds, not {len(x)} and {len(y)} values")
    lost_a, lost_b = ~np.isfinite(x), ~np.isfinite(y)
    both = ~(lost_a | lost_b)
    resolution = _resolution(x[both], y[both])
    differences = np.where(lost_a & lost_b, 0.0, np.where(lost_a, x, np.where(lost_b, -y, 0.0)))
    differences[both] = x[both] - y[both]
    exact = sign_flip_test(differences, 2 * resolution)
    d = differences[both]
    n = len(d)
    sd = float(np.std(d, ddof=1)) if n > 1 else None
    flat = n > 1 and float(d.max() - d.min()) <= 2 * resolution
    degrees = float(n - 1) if n > 1 and not flat else None
    se = sd / math.sqrt(n) if degrees and sd else None
    effect = effect_av = None
    if se and sd:
        effect = _effect("d_z: difference / sd of the differences", float(d.mean()) / sd, n, n - 1, level)
        own = math.sqrt((float(np.var(x[both], ddof=1)) + float(np.var(y[both], ddof=1))) / 2)
        if own > resolution:
            k = sd / own
            name = "d_av: difference / root mean square of the two settings' sd"
            effect_av = Effect(name, effect.value * k, _times(effect.low, k), _times(effect.high, k), level)
    return _comparison(
        "paired",
        mode,
        x,
        y,
        x[both],
        y[both],
        n,
        sd,
        se,
        degrees,
        level,
        exact,
        effect,
        effect_av,
        _note(n, n, flat, bool(lost_a.any() or lost_b.any()), "paired"),
    )


def compare_unpaired(a: Any, b: Any, *, mode: Mode, level: float = 0.95) -> Comparison:
    """Two settings with runs of their own: Welch's t test, permutation test beside it.

    The permutation test takes the difference of means. Where a run diverged it takes the ranks of all runs, the
    diverged ones tied for the worst.

    Args:
        a, b: shapes (n,) and (m,).
    """
    import numpy as np

    x, y = _values(a, mode), _values(b, mode)
    kept_x, kept_y = x[np.isfinite(x)], y[np.isfinite(y)]
    n, m = len(kept_x), len(kept_y)
    resolution = _resolution(kept_x, kept_y)
    exact = permutation_test(x, y, resolution)
    sd = se = degrees = effect = None
    flat = False
    if n > 1 and m > 1:
        va, vb = float(np.var(kept_x, ddof=1)), float(np.var(kept_y, ddof=1))
        sd = math.sqrt(((n - 1) * va + (m - 1) * vb) / (n + m - 2))
        flat = max(float(np.ptp(kept_x)), float(np.ptp(kept_y))) <= resolution
        if not flat:
            se = math.sqrt(va / n + vb / m)
            degrees = (va / n + vb / m) ** 2 / ((va / n) ** 2 / (n - 1) + (vb / m) ** 2 / (m - 1))
            d = float(kept_x.mean() - kept_y.mean()) / sd
            effect = _effect("Hedges' g: difference / pooled sd", d, n * m / (n + m), n + m - 2, level)
    diverged = n < len(x) or m < len(y)
    return _comparison(
        "unpaired",
        mode,
        x,
        y,
        kept_x,
        kept_y,
        n + m,
        sd,
        se,
        degrees,
        level,
        exact,
        effect,
        None,
        _note(n, m, flat, diverged, "unpaired"),
    )


def probability_of_improvement(a: Any, b: Any, *, design: Design, mode: Mode, level: float = 0.95) -> Improvement:
    """How often a run of a is better than one of b, with an interval; diverged runs are worst, two of them tie.

    Unpaired: U/(n·m), where U counts the combinations that a wins, ties half. The interval is symmetric on the logit
    of p̃ = (U + ½)/(n·m + 1), with the standard error of the placements (Sen 1967; DeLong et al. 1988), at least
    √(p̃(1 − p̃)/(n·m)), and t with n + m − 2 degrees of freedom.
    Paired: the share of pairs that a wins, with its Clopper–Pearson interval; a tie is no win.
    """
    import numpy as np

    x, y = _values(a, mode), _values(b, mode)
    if mode == "min":
        x, y = -x, -y  # larger is better from here on
    if design == "paired":
        if len(x) != len(y):
            raise ValueError(f"paired values must be of the same seeds, not {len(x)} and {len(y)} values")
        wins, losses = int((x > y).sum()), int((x < y).sum())
        ties = len(x) - wins - losses
        share = share_interval(wins, len(x), level)
        note = f"{ties} of {len(x)} pairs tie, which counts as no win" if ties else share.note
        return Improvement(design, share.share, share.low, share.high, wins, ties, losses, level, share.method, note)
    method = "t interval on the logit of the shrunk U statistic"
    n, m = len(x), len(y)
    if not n or not m:
        return Improvement(design, None, None, None, 0, 0, 0, level, method, "no run on one side")
    above, equal = x[:, None] > y, x[:, None] == y
    wins, ties = int(above.sum()), int(equal.sum())
    losses = n * m - wins - ties
    u = wins + ties / 2
    if n < 2 or m < 2:
        note = "one run on one side: no interval"
        return Improvement(design, u / (n * m), None, None, wins, ties, losses, level, method, note)
    score = above + equal / 2
    p = (u + 0.5) / (n * m + 1)
    variance = float(np.var(score.mean(axis=1), ddof=1)) / n + float(np.var(score.mean(axis=0), ddof=1)) / m
    se = max(math.sqrt(variance), math.sqrt(p * (1 - p) / (n * m)))
    centre, half = math.log(p / (1 - p)), t_quantile(level, n + m - 2) * se / (p * (1 - p))
    low, high = (1 / (1 + math.exp(-(centre + side * half))) for side in (-1, 1))
    note = f"{ties} of {n * m} combinations tie, each counted half" if ties else ""
    return Improvement(design, u / (n * m), low, high, wins, ties, losses, level, method, note)


def equivalence(comparison: Comparison, margin: float, level: float = 0.95) -> Equivalence:
    """Whether the difference lies within ± margin: two one-sided t tests (Schuirmann 1987).

    Raises:
        ValueError: the margin is not a positive number.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"an equivalence margin must be a positive number, not {margin!r}")
    c = comparison
    if c.p is None or c.difference is None or c.se is None or c.degrees is None:
        note = (
            "a run diverged, so a difference of means cannot show equivalence"
            if c.diverged_a or c.diverged_b
            else c.note
        )
        return Equivalence(margin, None, None, None, level, note)
    from scipy.special import stdtr

    p = float(stdtr(c.degrees, (abs(c.difference) - margin) / c.se))  # the side nearer to the margin decides
    half = t_quantile(2 * level - 1, c.degrees) * c.se
    return Equivalence(margin, p, c.difference - half, c.difference + half, level)


def _comparison(
    design: Design,
    mode: Mode,
    x: np.ndarray,
    y: np.ndarray,
    kept_x: np.ndarray,
    kept_y: np.ndarray,
    used: int,
    sd: float | None,
    se: float | None,
    degrees: float | None,
    level: float,
    exact: ExactTest,
    effect: Effect | None,
    effect_av: Effect | None,
    note: str,
) -> Comparison:
    import numpy as np
    from scipy.special import stdtr

    mean_a, mean_b = (float(k.mean()) if len(k) else None for k in (kept_x, kept_y))
    difference = mean_a - mean_b if mean_a is not None and mean_b is not None else None
    lost_a, lost_b = int((~np.isfinite(x)).sum()), int((~np.isfinite(y)).sum())
    low = high = p = None
    if difference is not None and se is not None and degrees is not None:
        half = t_quantile(level, degrees) * se
        low, high = difference - half, difference + half
        p = None if lost_a or lost_b else 2 * float(stdtr(degrees, -abs(difference) / se))
    return Comparison(
        design,
        mode,
        len(x),
        len(y),
        lost_a,
        lost_b,
        used,
        mean_a,
        mean_b,
        difference,
        sd,
        se,
        degrees,
        low,
        high,
        level,
        p,
        exact.p,
        exact.direction,
        exact.smallest_p,
        effect,
        effect_av,
        exact.name,
        note,
    )


def _note(n: int, m: int, flat: bool, diverged: bool, design: Design) -> str:
    parts = []
    if diverged:
        parts.append("a run diverged: the difference is given survival, and only the exact test compares all runs")
    if min(n, m) < 2:
        parts.append("too few values for a t interval")
    elif flat:
        what = "all differences are the same" if design == "paired" else "all values of each side are the same"
        parts.append(f"{what}: without spread there is no t interval")
    return "; ".join(parts)


def _values(values: Any, mode: Mode) -> np.ndarray:
    """The values, what is not finite replaced by the worst infinity."""
    import numpy as np

    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
    x = np.asarray(values, dtype=float)
    if x.ndim != 1:
        raise ValueError(f"values must have 1 axis, not shape {x.shape}")
    return np.where(np.isfinite(x), x, -math.inf if mode == "max" else math.inf)


def _resolution(x: np.ndarray, y: np.ndarray) -> float:
    """How far apart two values may be by rounding alone: that of float32 if all of them are float32 numbers."""
    import numpy as np

    both = np.concatenate([x, y])
    if not len(both):
        return 0.0
    single = bool((both.astype(np.float32) == both).all())
    return float(np.finfo(np.float32 if single else np.float64).eps * np.abs(both).max())


def _effect(name: str, d: float, size: float, degrees: int, level: float) -> Effect:
    """A standardised difference d with t = d·√size, corrected by Hedges' exact factor (Hedges 1981).

    The interval is that of the population's standardised difference: the noncentralities under which t would be a
    tail value of (1 ± level)/2. Exact for normal values with the same variance on both sides.
    """
    from scipy.special import gammaln, nctdtrinc

    j = (
        math.exp(gammaln(degrees / 2) - gammaln((degrees - 1) / 2)) / math.sqrt(degrees / 2)
        if degrees > 1
        else math.nan
    )
    t = abs(d) * math.sqrt(size)
    bounds = [float(nctdtrinc(degrees, (1 + side * level) / 2, t)) / math.sqrt(size) for side in (1, -1)]
    low, high = bounds if d >= 0 else (-bounds[1], -bounds[0])
    return Effect(name, j * d, low, high, level)


def _times(x: float | None, k: float) -> float | None:
    return None if x is None else x * k
