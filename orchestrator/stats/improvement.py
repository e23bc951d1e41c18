"""The probability that a run of one setting is better than a run of another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .comparisons import Design, Mode, worst_if_diverged
from .intervals import share_interval, t_quantile

__all__ = ["Improvement", "probability_of_improvement"]


@dataclass(frozen=True)
class Improvement:
    """The probability that a run of setting a is better than a run of setting b.

    Attributes:
        share: unpaired: U/(n·m), ties counted half; paired: wins of all pairs. None without runs.
        low, high: its interval; None where there is none.
        wins, ties, losses: of a over b, of all n·m combinations, or of the pairs.
        level: nominal coverage.
        method: in words.
        note: what a reader must know; empty if there is nothing.
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


def probability_of_improvement(a: Any, b: Any, *, design: Design, mode: Mode, level: float = 0.95) -> Improvement:
    """How often a run of a is better than one of b, with an interval; diverged runs are worst, two of them tie.

    Unpaired: U/(n·m), where U counts the combinations that a wins, and half of those that tie. The interval is
    symmetric on the logit of p̃ = (U + ½)/(n·m + 1), with the standard error of the placements (Sen 1967; DeLong et al.
    1988), at least √(p̃(1 − p̃)/(n·m)), and t with n + m − 2 degrees of freedom: p̃ and the floor keep an interval
    where one side wins every time.
    Paired: the share of pairs that a wins, with its Clopper–Pearson interval. A tie is no win, so the shares of wins
    of a and of b need not add up to 1.

    Args:
        a, b: shapes (n,) and (m,); paired: the same seeds in the same order. Not finite: the run diverged.
    """
    import numpy as np

    x, y = worst_if_diverged(a, mode), worst_if_diverged(b, mode)
    if mode == "min":
        x, y = -x, -y  # larger is better from here on
    n, m = len(x), len(y)
    if design == "paired":
        if n != m:
            raise ValueError(f"paired values must be of the same seeds, not {n} and {m} values")
        wins, losses = int((x > y).sum()), int((x < y).sum())
        ties = n - wins - losses
        share = share_interval(wins, n, level)
        note = f"{ties} of {n} pairs tie, which is no win" if ties else share.note
        return Improvement(design, share.share, share.low, share.high, wins, ties, losses, level, share.method, note)
    if design != "unpaired":
        raise ValueError(f"design must be 'paired' or 'unpaired', not {design!r}")
    method = "t interval on the logit of the shrunk U statistic"
    if not n or not m:
        return Improvement(design, None, None, None, 0, 0, 0, level, method, "no run on one side")
    score = (x[:, None] > y) + (x[:, None] == y) / 2
    wins, ties = int((score == 1).sum()), int((score == 0.5).sum())
    losses = n * m - wins - ties
    u = wins + ties / 2
    if n < 2 or m < 2:
        note = "one run on one side: no interval"
        return Improvement(design, u / (n * m), None, None, wins, ties, losses, level, method, note)
    p = (u + 0.5) / (n * m + 1)
    variance = float(np.var(score.mean(axis=1), ddof=1)) / n + float(np.var(score.mean(axis=0), ddof=1)) / m
    se = math.sqrt(max(variance, p * (1 - p) / (n * m)))
    centre, half = math.log(p / (1 - p)), t_quantile(level, n + m - 2) * se / (p * (1 - p))
    low, high = _expit(centre - half), _expit(centre + half)
    note = f"{ties} of {n * m} combinations tie, each counted half" if ties else ""
    return Improvement(design, u / (n * m), low, high, wins, ties, losses, level, method, note)


def _expit(x: float) -> float:
    from scipy.special import expit

    return float(expit(x))
