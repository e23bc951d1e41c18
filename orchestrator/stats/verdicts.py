"""From the comparisons of a declared family to verdicts: Holm's correction, and intervals that agree with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .comparisons import Comparison, Equivalence, Mode, equivalence
from .intervals import t_quantile

__all__ = ["Decision", "Verdict", "decide"]

Decision = Literal["better", "worse", "equivalent", "no decision", "cannot decide"]


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of one contrast of a family: is setting a better than setting b?

    Attributes:
        comparison: the contrast.
        decision: "better" or "worse" (of a, in the sense of `mode`), "equivalent" (within ± margin), "no decision",
            or "cannot decide" (no test could have decided with these n).
        test: which test decides, "t" or "exact"; empty where there is none.
        p_holm: its p, corrected for the family.
        p_exact_holm: that of the exact test, corrected in the same way.
        low, high: simultaneous interval of the difference, in agreement with `p_holm`; None where the t method does
            not hold. A bound of 0 is itself outside the interval (`open_at_zero`).
        level: of the family: the chance that any interval or any better/worse is wrong is at most 1 − level.
        equivalence: the two one-sided tests, on their own; None without a margin.
        p_equivalence: their p, corrected for the family.
        within_margin: shown to lie within ± margin; may be so of a "better" or "worse" too.
        reasons: in words, one sentence each.
    """

    comparison: Comparison
    decision: Decision
    test: Literal["t", "exact", ""]
    p_holm: float
    p_exact_holm: float
    low: float | None
    high: float | None
    open_at_zero: bool
    level: float
    equivalence: Equivalence | None
    p_equivalence: float | None
    within_margin: bool
    reasons: tuple[str, ...]


def decide(
    comparisons: Sequence[Comparison], *, mode: Mode, margin: float | None = None, level: float = 0.95
) -> list[Verdict]:
    """One verdict a comparison, in their order; the comparisons given are the family that is corrected for."""
    m, alpha = len(comparisons), 1 - level
    found = []
    tests: list[Literal["t", "exact", ""]] = ["t" if c.p is not None else "exact" for c in comparisons]
    ps = [c.p if c.p is not None else c.p_exact for c in comparisons]
    signs = [
        c.direction if c.p is None else (0 if not c.difference else int(math.copysign(1, c.difference)))
        for c in comparisons
    ]
    holm, exact_holm = _holm(ps, signs), _holm([c.p_exact for c in comparisons], [c.direction for c in comparisons])
    rejected = {s: sum(p < alpha and sign == s for p, sign in zip(holm, signs, strict=True)) for s in (1, -1)}
    tost = [None if margin is None else equivalence(c, margin, level) for c in comparisons]
    p_tost = _stepwise([1.0 if e is None or e.p is None else e.p for e in tost])
    for i, c in enumerate(comparisons):
        sign = signs[i] if holm[i] < alpha else 0
        low = high = None
        if tests[i] == "t" and c.difference is not None and c.se is not None and c.degrees is not None:
            low = _bound(c.difference, c.se, c.degrees, m, rejected[1], sign == 1, alpha)
            high = -_bound(-c.difference, c.se, c.degrees, m, rejected[-1], sign == -1, alpha)
        one = tost[i]
        p_equivalence = p_tost[i] if one is not None and one.p is not None else None
        within = p_equivalence is not None and p_equivalence < alpha
        decision: Decision
        if sign:
            decision = "better" if (sign == 1) == (mode == "max") else "worse"
        elif within:
            decision = "equivalent"
        elif tests[i] == "exact" and c.smallest_p * (m - max(rejected.values())) > alpha:
            decision = "cannot decide"
        else:
            decision = "no decision"
        found.append(
            Verdict(
                c,
                decision,
                tests[i],
                holm[i],
                exact_holm[i],
                low,
                high,
                0.0 in (low, high),
                level,
                one,
                p_equivalence,
                within,
                (),
            )
        )
    return found


def _holm(ps: Sequence[float], signs: Sequence[int]) -> list[float]:
    sides = [_stepwise([p / 2 if s == side else 1.0 for p, s in zip(ps, signs, strict=True)]) for side in (1, -1)]
    return [min(1.0, 2 * min(pair)) for pair in zip(*sides, strict=True)]


def _stepwise(ps: Sequence[float]) -> list[float]:
    if not ps:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(ps), method="holm")[1]]


def _bound(difference: float, se: float, degrees: float, m: int, rejected: int, this: bool, alpha: float) -> float:
    """The lower bound of one side: 0 if rejected along with some, but not all, of the family."""
    left = m if rejected == m else m - rejected
    bound = difference - t_quantile(1 - alpha / left, degrees) * se
    return (max(0.0, bound) if rejected == m else 0.0) if this else bound
