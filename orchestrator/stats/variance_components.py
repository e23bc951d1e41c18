"""Where the variance between seeds comes from: two streams of randomness that were crossed.

Every seed of stream A (say, initialisation) was run with every seed of stream B (say, order of the data): a two-way
table with one value a cell, read as a random-effects model y = μ + Aᵢ + Bⱼ + Eᵢⱼ. With one value a cell the interaction
of the two streams cannot be told from what neither explains: E is both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .refusal import Refused

__all__ = ["FEWEST", "Component", "Components", "split_variance"]

FEWEST = 5  # seeds of each stream; with fewer, the intervals of the components say next to nothing


@dataclass(frozen=True)
class Component:
    """One stream's part.

    Attributes:
        seeds: of this stream.
        mean_square: n_other · sample variance of this stream's marginal means.
        variance: (mean_square − residual) / n_other, 0 if that is negative.
        truncated: whether it was negative.
        f, p: F test of variance = 0; exact for normal effects.
        ratio, ratio_low, ratio_high: variance over the residual variance; exact F interval, its bounds 0 if negative.
        share, share_low, share_high: variance / (variance + residual variance) = ratio / (1 + ratio): of what varies
            when the other stream is held, the part that this stream explains by itself; same interval.
        of_total: variance over the sum of all three, without interval (there is no exact one).
    """

    seeds: int
    mean_square: float
    variance: float
    truncated: bool
    f: float
    p: float
    ratio: float
    ratio_low: float
    ratio_high: float
    share: float
    share_low: float
    share_high: float
    of_total: float


@dataclass(frozen=True)
class Components:
    """Variance by stream.

    Attributes:
        a, b: the stream of the rows, and of the columns.
        residual: variance of what neither explains: interaction of the two and everything else.
        residual_low, residual_high: its χ² interval.
        residual_of_total: its share of the sum of all three.
        total: that sum.
        mean: over the table.
        level: of all intervals.
    """

    a: Component
    b: Component
    residual: float
    residual_low: float
    residual_high: float
    residual_of_total: float
    total: float
    mean: float
    level: float


def split_variance(values: Any, *, level: float = 0.95) -> Components:
    """ANOVA estimates and exact F intervals (Scheffé 1959, §7.4; Searle, Casella and McCulloch 1992, §4.5).

    MS_A / MS_E over 1 + b σ²_A/σ²_E has the F distribution with a − 1 and (a − 1)(b − 1) degrees of freedom; that gives
    the interval of σ²_A/σ²_E.

    Args:
        values: shape (a, b): a row for each seed of the first stream, a column for each of the second; nan for a
            trial that has no value.

    Raises:
        Refused: fewer than 5 seeds of a stream, a cell without a value, or values that are all equal.
    """
    import numpy as np
    from scipy.special import chdtri, fdtrc, fdtri

    y = np.asarray(values, dtype=float)
    if y.ndim != 2:
        raise ValueError(f"values must have shape (a, b), not {y.shape}")
    n_a, n_b = y.shape
    if min(n_a, n_b) < FEWEST:
        raise Refused(
            f"{n_a} × {n_b} seeds are too few to tell where the variance comes from: cross at least {FEWEST} × {FEWEST}"
        )
    missing = int((~np.isfinite(y)).sum())
    if missing:
        raise Refused(
            f"{missing} of the {n_a * n_b} crossed trials have no value (diverged or failed), and the exact intervals "
            "need them all"
        )
    mean = float(y.mean())
    rows, columns = y.mean(axis=1), y.mean(axis=0)
    degrees = (n_a - 1) * (n_b - 1)
    left = y - rows[:, None] - columns[None, :] + mean
    residual = float((left**2).sum()) / degrees
    if residual <= 1e-24 * max(float((y**2).max()), 1e-300):
        what = "are all equal" if np.ptp(y) == 0 else "are explained by the two streams exactly"
        raise Refused(f"the {n_a * n_b} values {what}: nothing is left to compare the streams' parts with")
    tail = (1 - level) / 2
    squares = [n_b * float(np.var(rows, ddof=1)), n_a * float(np.var(columns, ddof=1))]
    raw = [(squares[0] - residual) / n_b, (squares[1] - residual) / n_a]
    total = sum(max(v, 0.0) for v in raw) + residual

    def component(square: float, variance: float, own: int, other: int) -> Component:
        f = square / residual
        low, high = (max((f / float(fdtri(own - 1, degrees, q)) - 1) / other, 0.0) for q in (1 - tail, tail))
        ratio = max(variance, 0.0) / residual
        return Component(
            own,
            square,
            max(variance, 0.0),
            variance < 0,
            f,
            float(fdtrc(own - 1, degrees, f)),
            ratio,
            low,
            high,
            ratio / (1 + ratio),
            low / (1 + low),
            high / (1 + high),
            max(variance, 0.0) / total,
        )

    return Components(
        component(squares[0], raw[0], n_a, n_b),
        component(squares[1], raw[1], n_b, n_a),
        residual,
        residual * degrees / float(chdtri(degrees, tail)),
        residual * degrees / float(chdtri(degrees, 1 - tail)),
        residual / total,
        total,
        mean,
        level,
    )
