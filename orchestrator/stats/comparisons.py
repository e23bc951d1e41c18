"""Two settings compared over seeds: a difference with its t interval, an exact test beside it, an effect size.

Whether the comparison is paired follows from the design (do the two settings share their streams?), never from the
values, so the caller says it by the function it calls. A value that is not finite (nan, inf, −inf) stands for a run
that diverged: it has no part in a mean, and the exact tests count it as worse than every run that survived. What is
missing for another reason (failed, not run, stopped early by a scheduler) must be left out before, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .effects import Effect, average_effect, hedges_g, paired_effect
from .exact import ExactTest, permutation_test, sign_flip_test
from .intervals import t_quantile

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Comparison",
    "Design",
    "Equivalence",
    "Mode",
    "compare_paired",
    "compare_unpaired",
    "equivalence",
    "worst_if_diverged",
]

Mode = Literal["max", "min"]
Design = Literal["paired", "unpaired"]
_LARGEST, _SMALLEST = 1e150, 1e-150  # beyond these a square is infinite, or 0


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
        sd: paired: of the differences; unpaired: pooled over both sides. None from fewer than 2 values.
        se, degrees: standard error of the difference and its degrees of freedom (unpaired: Welch–Satterthwaite).
            None where the t method has nothing to go by: fewer than 2 values, or no spread in them.
        low, high: the contrast's own t interval, not corrected for a family and given survival; None without `se`.
        level: nominal coverage of the intervals.
        p: two-sided p of the t test; None without `se`, and where a run diverged: the survivors alone make no fair
            contrast, so the exact test decides.
        p_exact: two-sided p of the exact test, over all runs.
        direction: the sign of a − b that the exact test sees, diverged runs counted worst; 0 if it sees none.
        smallest_p: the smallest p that the exact test could give with these n and ties.
        effect: Hedges' g, or d_z if paired; None where there is no spread, or too few values.
        effect_av: d_av, if paired: comparable with the Hedges' g of unpaired runs.
        exact_test: the exact test in words.
        spread: whether the values the t method would use differ at all (beyond rounding).
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
    spread: bool
    note: str = ""

    @property
    def diverged(self) -> bool:
        """Whether any run did."""
        return self.diverged_a + self.diverged_b > 0


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests of whether a difference lies within ± margin (Schuirmann 1987).

    Attributes:
        margin: in the units of the metric.
        p: the larger of the two; None where the difference has no t test, and `note` says why.
        low, high: the interval of coverage 1 − 2α with α = 1 − level: within ± margin exactly if p < α.
        level: 1 − α.
    """

    margin: float
    p: float | None
    low: float | None
    high: float | None
    level: float
    note: str = ""


def compare_paired(a: Any, b: Any, *, mode: Mode, level: float = 0.95) -> Comparison:
    """Two settings whose runs share their streams, seed by seed: t test on the differences, sign-flip test beside it.

    The sign-flip test takes the mean difference. Where a run diverged it takes Wilcoxon's signed ranks instead: a pair
    of which one run diverged is the largest difference there is, against that run; a pair of which both did is a tie.

    Args:
        a, b: shape (n,), the same seeds in the same order. Not finite: the run diverged.
    """
    import numpy as np

    x, y = worst_if_diverged(a, mode), worst_if_diverged(b, mode)
    n = len(x)
    if n != len(y):
        raise ValueError(f"paired values must be of the same seeds, not {n} and {len(y)} values")
    both = np.isfinite(x) & np.isfinite(y)
    kept_x, kept_y = x[both], y[both]
    d = kept_x - kept_y
    largest = np.maximum(np.abs(kept_x), np.abs(kept_y))
    differences = np.zeros(n)  # where both diverged
    apart = x != y
    differences[apart] = x[apart] - y[apart]
    exact = sign_flip_test(differences, float(np.finfo(float).eps * largest.sum()))
    used = len(d)
    sd = float(np.std(d, ddof=1)) if used > 1 else None
    rounding = _epsilon(kept_x, kept_y) * largest
    spread = sd is not None and sd > _SMALLEST and bool((d - rounding).max() > (d + rounding).min())
    se = degrees = effect = effect_av = None
    if spread and sd is not None:
        se, degrees, mean = sd / math.sqrt(used), float(used - 1), float(d.mean())
        effect = paired_effect(mean, sd, used, level)
        sd_a, sd_b = float(np.std(kept_x, ddof=1)), float(np.std(kept_y, ddof=1))
        covariance = (sd_a**2 + sd_b**2 - sd**2) / 2
        correlation = covariance / (sd_a * sd_b) if sd_a and sd_b else 0.0
        effect_av = average_effect(mean, sd, sd_a, sd_b, correlation, used, level)
    note = []
    if used == 1:
        note.append("one pair: no interval")
    elif used > 1 and not spread:
        note.append(f"all {used} differences are the same: no spread to take an interval from")
    return _comparison("paired", mode, x, y, kept_x, kept_y, sd, se, degrees, level, exact, effect, effect_av, note)


def compare_unpaired(a: Any, b: Any, *, mode: Mode, level: float = 0.95) -> Comparison:
    """Two settings with runs of their own: Welch's t test, permutation test beside it.

    The permutation test takes the difference of means. Where a run diverged it takes the ranks of all runs instead,
    the diverged ones tied for the worst.

    Args:
        a, b: shapes (n,) and (m,). Not finite: the run diverged.
    """
    import numpy as np

    x, y = worst_if_diverged(a, mode), worst_if_diverged(b, mode)
    kept_x, kept_y = x[np.isfinite(x)], y[np.isfinite(y)]
    n, m = len(kept_x), len(kept_y)
    exact = permutation_test(x, y)
    sd = se = degrees = effect = None
    note = []
    if n > 1 and m > 1:
        epsilon = _epsilon(kept_x, kept_y)
        varied = [
            float(np.ptp(kept)) > max(epsilon * float(np.abs(kept).max()), _SMALLEST) for kept in (kept_x, kept_y)
        ]
        va, vb = float(np.var(kept_x, ddof=1)), float(np.var(kept_y, ddof=1))
        sd = math.sqrt(((n - 1) * va + (m - 1) * vb) / (n + m - 2))
        if any(varied):
            variance = va / n + vb / m
            part = va / n / variance
            se, degrees = math.sqrt(variance), 1 / (part**2 / (n - 1) + (1 - part) ** 2 / (m - 1))
            effect = hedges_g(float(kept_x.mean() - kept_y.mean()), sd, n, m, level)
        if not all(varied):
            sides = [s for s, v in zip((f"{n} of the first", f"{m} of the second"), varied, strict=True) if not v]
            why = "" if any(varied) else ": no spread to take an interval from"
            note.append(f"all values of a setting are the same ({' and '.join(sides)}){why}")
    elif n and m:
        note.append("one run on one side: no interval")
    return _comparison("unpaired", mode, x, y, kept_x, kept_y, sd, se, degrees, level, exact, effect, None, note)


def equivalence(comparison: Comparison, margin: float, level: float = 0.95) -> Equivalence:
    """Whether the difference lies within ± margin: two one-sided t tests (Schuirmann 1987).

    Raises:
        ValueError: the margin is not a positive number.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"an equivalence margin must be a positive number, not {margin!r}")
    c = comparison
    if c.p is None or c.difference is None or c.se is None or c.degrees is None:
        note = "a run diverged, so a difference of means cannot show equivalence" if c.diverged else c.note
        return Equivalence(margin, None, None, None, level, note)
    from scipy.special import stdtr

    p = float(stdtr(c.degrees, (abs(c.difference) - margin) / c.se))  # the end nearer to the margin decides
    half = t_quantile(2 * level - 1, c.degrees) * c.se
    return Equivalence(margin, p, c.difference - half, c.difference + half, level)


def worst_if_diverged(values: Any, mode: Mode) -> np.ndarray:
    """The values, those that are not finite (or of which no square is) replaced by the worst infinity.

    Args:
        values: shape (n,).
    """
    import numpy as np

    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
    x = np.asarray(values, dtype=float)
    if x.ndim != 1:
        raise ValueError(f"values must have 1 axis, not shape {x.shape}")
    return np.where(np.abs(x) < _LARGEST, x, -math.inf if mode == "max" else math.inf)


def _epsilon(x: np.ndarray, y: np.ndarray) -> float:
    """How far apart rounding alone may put two values, relative to them: as in float32 if all are float32 numbers.

    A constant difference of accuracies in float32 has a standard deviation of 1e-8 instead of 0, and would otherwise
    have a t statistic of a million.
    """
    import numpy as np

    values = np.concatenate([x, y])
    single = bool((np.abs(values) < 1e38).all()) and bool((values.astype(np.float32) == values).all())
    return float(np.finfo(np.float32 if single else np.float64).eps)


def _comparison(
    design: Design,
    mode: Mode,
    x: np.ndarray,
    y: np.ndarray,
    kept_x: np.ndarray,
    kept_y: np.ndarray,
    sd: float | None,
    se: float | None,
    degrees: float | None,
    level: float,
    exact: ExactTest,
    effect: Effect | None,
    effect_av: Effect | None,
    note: list[str],
) -> Comparison:
    """What both designs have in common: the t interval and test of a difference with a standard error."""
    import numpy as np
    from scipy.special import stdtr

    lost_a, lost_b = int((~np.isfinite(x)).sum()), int((~np.isfinite(y)).sum())
    mean_a, mean_b = (float(kept.mean()) if len(kept) else None for kept in (kept_x, kept_y))
    difference = mean_a - mean_b if mean_a is not None and mean_b is not None else None
    low = high = p = None
    if difference is not None and se is not None and degrees is not None:
        half = t_quantile(level, degrees) * se
        low, high = difference - half, difference + half
        if not lost_a and not lost_b:
            p = 2 * float(stdtr(degrees, -abs(difference) / se))
    if not len(x) or not len(y):
        note.append("there are no runs to compare")
    elif difference is None:
        note.append("no pair has two runs that survived" if design == "paired" else "one side has no run that survived")
    if lost_a or lost_b:
        note.append("runs diverged: the difference is given survival, and only the exact test compares all runs")
    return Comparison(
        design=design,
        mode=mode,
        n_a=len(x),
        n_b=len(y),
        diverged_a=lost_a,
        diverged_b=lost_b,
        used=len(kept_x) if design == "paired" else len(kept_x) + len(kept_y),
        mean_a=mean_a,
        mean_b=mean_b,
        difference=difference,
        sd=sd,
        se=se,
        degrees=degrees,
        low=low,
        high=high,
        level=level,
        p=p,
        p_exact=exact.p,
        direction=exact.direction,
        smallest_p=exact.smallest_p,
        effect=effect,
        effect_av=effect_av,
        exact_test=exact.name,
        spread=se is not None,
        note="; ".join(note),
    )
