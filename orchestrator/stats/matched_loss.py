"""Sharpness at matched training loss.

The curvature of a cross-entropy vanishes with the loss itself, so a setting may be flatter merely for having trained
further. An analysis of covariance asks what is left: the settings are categories, training loss is the covariate, with
one slope for all that is estimated from the variation between seeds inside settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .refusal import Refused

__all__ = ["Adjusted", "MatchedLoss", "match_loss"]


@dataclass(frozen=True)
class Adjusted:
    """One setting.

    Attributes:
        n: its trials.
        mean: of (log) sharpness as observed.
        adjusted: of (log) sharpness at the common loss.
        low, high: interval of `adjusted`.
        difference, difference_low, difference_high: to the reference setting's adjusted mean; 0 for itself.
    """

    n: int
    mean: float
    adjusted: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True)
class MatchedLoss:
    """Sharpness of settings compared at one training loss.

    Attributes:
        settings: in the order given.
        reference: index of the setting that differences are to.
        loss: the common training loss, in its own units.
        slope, slope_low, slope_high: of (log) sharpness on (log) loss inside settings.
        log: whether both are natural logarithms; they are not if any value is ≤ 0.
        p: F test that all adjusted means are equal (unpaired only, None if paired).
        overlap: the range of losses that all settings share.
        values: adjusted (log) sharpness of each trial, shape as given, nan where missing.
        missing: trials without both measures.
        method: in words.
    """

    settings: tuple[Adjusted, ...]
    reference: int
    loss: float
    slope: float
    slope_low: float
    slope_high: float
    log: bool
    p: float | None
    overlap: tuple[float, float]
    values: tuple[tuple[float, ...], ...]
    missing: int
    level: float
    method: str


def match_loss(sharpness: Any, loss: Any, *, paired: bool, reference: int = 0, level: float = 0.95) -> MatchedLoss:
    """Adjusted means by analysis of covariance (Fisher 1932; Cochran 1957).

    Args:
        sharpness, loss: shape (settings, seeds); nan where a trial has no value. Loss is that of the training data.
        paired: whether column j is the same seed, with the same streams, in every setting.
        reference: index of the setting that the others are compared with.

    Raises:
        Refused: fewer than 2 settings, a setting with fewer than 2 trials, equal losses inside every setting, or
            settings whose training losses do not overlap.
    """
    import numpy as np
    from scipy.special import fdtrc

    from .intervals import t_quantile

    y, x = np.asarray(sharpness, dtype=float), np.asarray(loss, dtype=float)
    if y.ndim != 2 or y.shape != x.shape:
        raise ValueError(f"both must have the same shape (settings, seeds), not {y.shape} and {x.shape}")
    there = np.isfinite(x) & np.isfinite(y)
    k = len(y)
    counts = there.sum(axis=1)
    if k < 2:
        raise Refused("one setting: there is no other to match its training loss with")
    if counts.min() < 2:
        raise Refused(f"setting {int(counts.argmin())} has {int(counts.min())} trials with both measures; 2 are needed")
    log = bool((x[there] > 0).all() and (y[there] > 0).all())
    if log:
        x, y = np.log(np.where(there, x, 1.0)), np.log(np.where(there, y, 1.0))
    low = max(float(u[t].min()) for u, t in zip(x, there, strict=True))
    high = min(float(u[t].max()) for u, t in zip(x, there, strict=True))
    if low > high:
        raise Refused(
            "no training loss was reached by all settings, so comparing their sharpness at the same loss would be "
            "extrapolation"
        )
    common = (low + high) / 2
    fit = _fit(x, y, there, common)
    slope, adjusted = fit
    degrees = int(there.sum()) - k - 1
    if degrees < 1:
        raise Refused("too few trials: none is left to judge the spread around the common slope")
    means_x = np.array([u[t].mean() for u, t in zip(x, there, strict=True)])
    means_y = np.array([v[t].mean() for v, t in zip(y, there, strict=True)])
    inside_x = np.where(there, x - means_x[:, None], 0.0)
    left = np.where(there, y - means_y[:, None] - slope * inside_x, 0.0)
    sxx = float((inside_x**2).sum())
    variance = float((left**2).sum()) / degrees
    t = t_quantile(level, degrees)
    away = means_x - common
    half = t * np.sqrt(variance * (1 / counts + away**2 / sxx))
    ref = reference
    half_difference = t * np.sqrt(variance * (1 / counts + 1 / counts[ref] + (means_x - means_x[ref]) ** 2 / sxx))
    half_slope = t * np.sqrt(variance / sxx)
    # The reduced model: one line through all trials.
    all_x, all_y = x[there] - x[there].mean(), y[there] - y[there].mean()
    one = all_y - (all_x @ all_y) / (all_x @ all_x) * all_x
    f = (float(one @ one) - variance * degrees) / (k - 1) / variance
    differences = adjusted - adjusted[ref]
    half_difference[ref] = 0.0
    bounds = zip(means_y, adjusted, half, differences, half_difference, strict=True)
    settings = tuple(
        Adjusted(int(n), *map(float, (mean, at, at - h, at + h, d, d - hd, d + hd)))
        for n, (mean, at, h, d, hd) in zip(counts, bounds, strict=True)
    )
    values = np.where(there, y - slope * (x - common), np.nan)
    back = np.exp if log else (lambda v: v)
    return MatchedLoss(
        tuple(settings), ref, float(back(common)), slope, slope - float(half_slope), slope + float(half_slope), log,
        float(fdtrc(k - 1, degrees, f)), (float(back(low)), float(back(high))),
        tuple(tuple(map(float, row)) for row in values), int((~there).sum()), level,
        "analysis of covariance, Student t",
    )  # fmt: skip


def _fit(x: Any, y: Any, there: Any, common: float) -> tuple[float, Any]:
    """The common slope inside settings, and each setting's mean at `common`."""
    import numpy as np

    means_x = np.array([u[t].mean() for u, t in zip(x, there, strict=True)])
    means_y = np.array([v[t].mean() for v, t in zip(y, there, strict=True)])
    inside_x = np.where(there, x - means_x[:, None], 0.0)
    inside_y = np.where(there, y - means_y[:, None], 0.0)
    sxx = float((inside_x**2).sum())
    if sxx == 0:
        raise Refused("the training loss is the same for all seeds of each setting: no slope can be estimated from it")
    slope = float((inside_x * inside_y).sum()) / sxx
    return slope, means_y - slope * (means_x - common)
