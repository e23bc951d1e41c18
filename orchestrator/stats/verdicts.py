"""From the comparisons of a declared family to verdicts: Holm's correction, and intervals that agree with it.

"Better" and "worse" are claims about a direction, so each direction is a family of one-sided tests of its own, and
each takes half of α = 1 − level. Within a direction Holm's step-down procedure (Holm 1979) rejects, and the
simultaneous bounds are those that belong to it (Strassburger & Bretz 2008; Guilbaud 2008). With r of the m contrasts
rejected as above 0:

- a contrast that is not among them has the lower bound of the t interval of level 1 − α/(m − r), which lies below 0;
- one of them has the lower bound 0, itself excluded; if all m are rejected it has the larger of 0 and the lower bound
  of level 1 − α/m.

Upper bounds mirror this with the contrasts rejected as below 0. So an interval excludes 0 exactly if its contrast is
decided, and all intervals cover, and all directions are right, with a probability of at least `level`, whatever the
dependence between the contrasts. What Holm gains in power over Bonferroni is paid for here: of a contrast that is
decided while others are not, the interval does not say how far from 0 it stays. (Bonferroni's interval cut at 0, for
two contrasts of which one is far from 0, covers 92.6 % instead of 95.) The corrected p equals that of the ordinary
two-sided Holm procedure where all that is rejected points in one direction, and is never below it.

Where a run diverged, or the values have no spread, only the exact test is valid: its p takes the place of the t
test's in the family, and the contrast has no simultaneous interval.

Equivalence within ± margin is a second question with an error rate of its own: Holm over the two one-sided t tests of
the family. An interval that lies within ± margin shows it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .comparisons import Comparison, Equivalence, Mode, equivalence
from .intervals import t_quantile
from .sentences import explain

__all__ = ["Decision", "Verdict", "decide"]

Decision = Literal["better", "worse", "equivalent", "no decision", "cannot decide"]


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of one contrast of a family: is setting a better than setting b?

    Attributes:
        comparison: the contrast.
        decision: "better" or "worse" (of a, in the sense of `mode`), "equivalent" (not shown to differ, and shown to
            lie within ± margin), "no decision", or "cannot decide" (no test could have decided with these runs).
        test: which test decides: "t", or "exact" where a run diverged or the values have no spread.
        family: how many contrasts are corrected for.
        p_holm: the p of that test, corrected for the family.
        p_exact_holm: the p of the exact test beside it, corrected in the same way.
        low, high: simultaneous interval of the difference; None where `test` is "exact".
        open_at_zero: whether one of the two is 0 and not itself in the interval.
        level: of the family, see above.
        equivalence: the two one-sided tests without correction; None without a margin.
        p_equivalence: their p, corrected for the family; None where there is none.
        within_margin: shown to lie within ± margin; can be so of a "better" or "worse" as well.
        reasons: plain sentences; the first one stands for itself.
    """

    comparison: Comparison
    decision: Decision
    test: Literal["t", "exact"]
    family: int
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

    @property
    def p(self) -> float | None:
        """That of the test which gave the decision, corrected for the family; None where none could give one."""
        return {"cannot decide": None, "equivalent": self.p_equivalence}.get(self.decision, self.p_holm)


def decide(
    comparisons: Sequence[Comparison], *, mode: Mode, margin: float | None = None, level: float = 0.95
) -> list[Verdict]:
    """One verdict a comparison, in their order. The comparisons given are the family that is corrected for.

    Args:
        mode: which values are better; that of the comparisons.
        margin: differences up to this are of no interest; positive, in the units of the metric.

    Raises:
        ValueError: the mode is not that of a comparison, or level or margin make no sense.
    """
    if not 0.5 < level < 1:
        raise ValueError(f"level must be between 0.5 and 1, not {level!r}")
    for c in comparisons:
        if c.mode != mode:
            raise ValueError(f"a comparison was made with mode {c.mode!r}, and the verdict is asked for {mode!r}")
    alpha = round(1 - level, 12)  # 1 − 0.95 is more than 0.05
    m = len(comparisons)
    signs = [c.direction if c.p is None else _sign(c.difference) for c in comparisons]
    holm = _by_direction([c.p_exact if c.p is None else c.p for c in comparisons], signs)
    exact_holm = _by_direction([c.p_exact for c in comparisons], [c.direction for c in comparisons])
    rejected = _rejected(holm, signs, alpha)
    exact_rejected = _rejected(exact_holm, [c.direction for c in comparisons], alpha)
    tost = [None if margin is None else equivalence(c, margin, level) for c in comparisons]
    tost_holm = _holm([1.0 if e is None or e.p is None else e.p for e in tost])
    # The uncorrected p at which a contrast would be the next that is rejected: Holm's most lenient step so far.
    needed, exact_needed = (alpha / max(m - max(r.values()), 1) for r in (rejected, exact_rejected))
    verdicts = []
    for i, c in enumerate(comparisons):
        sign = signs[i] if holm[i] <= alpha else 0
        low = high = None
        if c.p is not None and c.difference is not None and c.se is not None and c.degrees is not None:
            low = _lower_bound(c.difference, c.se, c.degrees, alpha, m, rejected[1], sign == 1)
            high = -_lower_bound(-c.difference, c.se, c.degrees, alpha, m, rejected[-1], sign == -1)
        one = tost[i]
        p_equivalence = tost_holm[i] if one is not None and one.p is not None else None
        within = p_equivalence is not None and p_equivalence <= alpha
        if margin is not None and low is not None and high is not None:
            within = within or (-margin < low and high < margin)
        decision: Decision = "no decision"
        if sign:
            decision = "better" if (sign == 1) == (mode == "max") else "worse"
        elif within:
            decision = "equivalent"
        elif c.p is None and c.smallest_p > needed:
            decision = "cannot decide"
        verdict = Verdict(
            comparison=c,
            decision=decision,
            test="t" if c.p is not None else "exact",
            family=m,
            p_holm=holm[i],
            p_exact_holm=exact_holm[i],
            low=low,
            high=high,
            open_at_zero=sign != 0 and 0.0 in (low, high),
            level=level,
            equivalence=one,
            p_equivalence=p_equivalence,
            within_margin=within,
            reasons=(),
        )
        verdicts.append(replace(verdict, reasons=explain(verdict, needed, exact_needed)))
    return verdicts


def _sign(x: float | None) -> int:
    return int(math.copysign(1, x)) if x else 0


def _by_direction(ps: Sequence[float], signs: Sequence[int]) -> list[float]:
    """Two-sided p values from Holm's procedure in each direction: 2·min of the two corrected one-sided p.

    A one-sided p of the direction that the value does not point in is taken as 1.
    """
    up, down = (_holm([p / 2 if s == side else 1.0 for p, s in zip(ps, signs, strict=True)]) for side in (1, -1))
    return [min(1.0, 2 * min(pair)) for pair in zip(up, down, strict=True)]


def _holm(ps: Sequence[float]) -> list[float]:
    """Corrected p values: the largest of (m − k)·p₍ₖ₎ up to each rank k = 0, 1, … (Holm 1979).

    As statsmodels' multipletests gives them, which collects the garbage of the whole process at each call: 0.2 s.
    """
    m, largest = len(ps), 0.0
    found = [1.0] * m
    for k, i in enumerate(sorted(range(m), key=ps.__getitem__)):
        largest = max(largest, (m - k) * ps[i])
        found[i] = min(1.0, largest)
    return found


def _rejected(ps: Sequence[float], signs: Sequence[int], alpha: float) -> dict[int, int]:
    """How many contrasts are rejected in each direction."""
    return {side: sum(p <= alpha and s == side for p, s in zip(ps, signs, strict=True)) for side in (1, -1)}


def _lower_bound(
    difference: float, se: float, degrees: float, alpha: float, m: int, rejected: int, decided: bool
) -> float:
    """The simultaneous lower bound, where `rejected` of m contrasts are above 0, this one among them if `decided`."""
    if decided and rejected < m:
        return 0.0
    bound = difference - t_quantile(1 - alpha / (m if decided else m - rejected), degrees) * se
    return max(bound, 0.0) if decided else min(bound, 0.0)  # by itself, but for rounding
