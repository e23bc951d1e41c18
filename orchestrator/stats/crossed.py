"""The mean over crossed seeds: every seed of one stream was run with every seed of another.

Such trials are not independent: all that share an initialisation share its luck. A t interval that takes
them for independent covers 58 % instead of 95 % at 5 × 5 seeds where one stream makes nine tenths of the variance.
"""

from __future__ import annotations

import math
from typing import Any

from .intervals import Interval, t_quantile

__all__ = ["crossed_error", "crossed_interval"]


def crossed_error(values: Any) -> tuple[float, float]:
    """Standard error of the mean of a two-way table with random rows and columns, and its degrees of freedom.

    For y = μ + Aᵢ + Bⱼ + Eᵢⱼ the mean's variance is (MS_A + MS_B − MS_E) / ab in expectation. Neither MS_A nor MS_B
    exceeds that sum in expectation, so the larger of them is its lower bound here. Degrees of freedom by Satterthwaite
    (1946), at least those of the smaller stream: by simulation the t interval then covers 95 to 99 % from 3 × 3 on.

    Args:
        values: shape (a, b), finite, both at least 2.
    """
    import numpy as np

    y = np.asarray(values, dtype=float)
    a, b = y.shape
    if min(a, b) < 2 or not np.isfinite(y).all():
        raise ValueError(f"a crossed table needs 2 × 2 finite values or more, not shape {y.shape}")
    rows, columns = y.mean(axis=1), y.mean(axis=0)
    left = y - rows[:, None] - columns + y.mean()
    squares = b * float(np.var(rows, ddof=1)), a * float(np.var(columns, ddof=1))
    rest = float((left**2).sum()) / ((a - 1) * (b - 1))
    total = max(squares[0] + squares[1] - rest, *squares)
    if total <= 0:
        return 0.0, float(min(a, b) - 1)
    spread = squares[0] ** 2 / (a - 1) + squares[1] ** 2 / (b - 1) + rest**2 / ((a - 1) * (b - 1))
    degrees = min(max(total**2 / spread, min(a, b) - 1), a * b - 1)
    return math.sqrt(total / (a * b)), degrees


def crossed_interval(values: Any, level: float = 0.95) -> Interval:
    """Mean over a complete table of crossed seeds with its t interval (see `crossed_error`).

    Args:
        values: shape (a, b): a row for each seed of one stream, a column for each of the other.
    """
    import numpy as np

    y = np.asarray(values, dtype=float)
    error, degrees = crossed_error(y)
    mean, half = float(y.mean()), t_quantile(level, degrees) * error
    sd, smallest, largest = float(np.std(y, ddof=1)), float(y.min()), float(y.max())
    method = f"Student t interval over {y.shape[0]} × {y.shape[1]} crossed seeds"
    return Interval(y.size, min(y.shape), mean, sd, smallest, largest, mean - half, mean + half, level, method)
