"""Verdicts in plain English, which never claim more than the numbers do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparisons import Comparison
    from .verdicts import Verdict

__all__ = ["explain"]

MINUS = "\N{MINUS SIGN}"


def explain(verdict: Verdict, needed: float, exact_needed: float) -> tuple[str, ...]:
    """The reasons of a verdict, one sentence each; the first one stands for itself.

    Args:
        verdict: all but its reasons.
        needed: the uncorrected p at which the contrast would have been the next that is rejected.
        exact_needed: the same, were the exact tests alone to decide over the whole family.
    """
    by = {
        "equivalent": _equivalent,
        "cannot decide": lambda v: _cannot_decide(v, needed),
        "no decision": _no_decision,
    }
    first = by.get(verdict.decision, _decided)(verdict)
    return (first, *_more(verdict), *_exact_beside(verdict, exact_needed))


def _decided(v: Verdict) -> str:
    head = v.decision.capitalize()
    if v.within_margin and v.equivalence is not None:
        head += f", but by less than the margin of {_number(v.equivalence.margin)},"
    if v.test == "t":
        return f"{head} {_seeds(v.comparison)}: the difference {_range(v)} ({_coverage(v)}; {_p(v.p_holm, v)})."
    return f"{head} {_seeds(v.comparison)}: {_why_exact(v.comparison)}; the exact test gives {_p(v.p_holm, v)}."


def _equivalent(v: Verdict) -> str:
    assert v.equivalence is not None
    e, margin = v.equivalence, _number(v.equivalence.margin)
    head = f"Equivalent {_seeds(v.comparison)}: the difference is shown to lie within ± {margin}"
    if v.p_equivalence is None or v.p_equivalence > 1 - v.level + 1e-12:
        return f"{head} (by its interval); it {_range(v)} ({_coverage(v)})."
    head += f" (two one-sided t tests, {_p(v.p_equivalence, v)})"
    if not _reaches_out(v) or e.low is None or e.high is None:
        return f"{head}; it {_range(v)} ({_coverage(v)})."
    alone = ", not corrected" if v.family > 1 else ""
    return f"{head}; their {100 * (2 * v.level - 1):g} % interval{alone} is {_to(e.low, e.high)}."


def _reaches_out(v: Verdict) -> bool:
    """Whether the interval of an equivalent contrast reaches beyond the margin."""
    assert v.equivalence is not None and v.low is not None and v.high is not None
    return not (-v.equivalence.margin < v.low and v.high < v.equivalence.margin)


def _no_decision(v: Verdict) -> str:
    if v.test == "t":
        return f"No decision {_seeds(v.comparison)}: the difference {_range(v)} ({_coverage(v)}; {_p(v.p_holm, v)})."
    return f"No decision {_seeds(v.comparison)}: {_why_exact(v.comparison)}; the exact test gives {_p(v.p_holm, v)}."


def _cannot_decide(v: Verdict, needed: float) -> str:
    c = v.comparison
    if not c.n_a or not c.n_b:
        return f"Cannot decide: {c.note}."
    if c.diverged_a == c.n_a and c.diverged_b == c.n_b:
        return f"Cannot decide {_seeds(c)}: every run of both settings diverged."
    if c.smallest_p == 1 and not c.diverged and max(c.n_a, c.n_b) > 1 and c.difference == 0:
        same = (
            "each seed gave the same value in both settings" if c.design == "paired" else "all runs gave the same value"
        )
        return f"Cannot decide {_seeds(c)}: {same}; perhaps what was varied has no effect on this metric at all."
    if c.smallest_p == 1:
        return f"Cannot decide {_seeds(c)}: {_why_exact(c)}, and no test can tell."
    smallest = f"the smallest p it can give here is {_number(c.smallest_p)}, where at most {_number(needed)} is needed"
    return f"Cannot decide {_seeds(c)}: {_why_exact(c)}; only the exact test is valid, and {smallest}."


def _more(v: Verdict) -> Iterator[str]:
    """What a reader must know besides."""
    c = v.comparison
    if v.decision == "equivalent" and _reaches_out(v):
        yield (
            f"The {_coverage(v)} is wider, {_to(*_bounds(v))}, and reaches beyond the margin: each of the two "
            f"one-sided tests may err with a probability of {100 * (1 - v.level):g} %, each end of this interval with "
            "half of that."
        )
    if v.decision == "no decision":
        if v.equivalence is not None and v.test == "t":
            yield f"The two are not shown to be equivalent within ± {_number(v.equivalence.margin)} either."
        else:
            yield "The two are not shown to be equal."
    if v.open_at_zero and v.family > 1 and c.low is not None and c.high is not None:
        yield f"Without correction for the family its {100 * c.level:g} % interval is {_to(c.low, c.high)}."
    if c.diverged and c.low is not None and c.high is not None:
        yield (
            f"Among the runs that survived, the difference has the {100 * c.level:g} % interval {_to(c.low, c.high)}, "
            "which says nothing of those that diverged."
        )
    if v.test == "t" and min(c.n_a, c.n_b) == 2:
        yield "From 2 seeds of a setting its spread is hardly known."
    if v.test == "t" and c.note:
        yield f"{c.note[0].upper()}{c.note[1:]}."


def _exact_beside(v: Verdict, needed: float) -> Iterator[str]:
    """Whether the exact test says the same as the t test that decides."""
    if v.test != "t" or v.comparison.smallest_p >= 1:  # nothing that such a test could say
        return
    c, alpha = v.comparison, 1 - v.level
    agrees = v.p_exact_holm <= alpha + 1e-12
    if v.decision in ("better", "worse") and not agrees:
        what = "The exact test beside it, which does not assume normal values,"
        if c.smallest_p > needed:
            smallest = f"the smallest p it can give here is {_number(c.smallest_p)}"
            yield f"{what} cannot confirm it: {smallest}, where at most {_number(needed)} is needed."
        else:
            yield f"{what} does not confirm it: {_p(v.p_exact_holm, v)}."
    elif v.decision == "no decision" and agrees:
        yield f"The exact test beside it would decide ({_p(v.p_exact_holm, v)}); the verdict is that of the t test."


def _why_exact(c: Comparison) -> str:
    """Why there is no t test."""
    if c.diverged:
        return (
            f"{c.diverged_a} of {c.n_a} runs of the first setting diverged, and {c.diverged_b} of {c.n_b} of the second"
        )
    if min(c.n_a, c.n_b) < 2:
        return "one run has no spread"
    if c.spread:
        return c.note or "no t test holds"
    if c.design == "paired":
        return f"all {c.used} differences are {_signed(c.difference or 0.0)}, without any spread"
    return f"all runs of a setting give the same value, {_number(c.mean_a or 0.0)} and {_number(c.mean_b or 0.0)}"


def _seeds(c: Comparison) -> str:
    if c.n_a != c.n_b:
        return f"at {c.n_a} and {c.n_b} seeds"
    return f"at {c.n_a} seed{'' if c.n_a == 1 else 's'}{'' if c.design == 'paired' else ' each'}"


def _range(v: Verdict) -> str:
    assert v.low is not None and v.high is not None
    unit = v.high - v.low
    if v.open_at_zero:
        if v.low == 0:
            return f"lies above 0 and up to {_signed(v.high, unit)}"
        return f"lies below 0 and down to {_signed(v.low, unit)}"
    return f"lies between {_signed(v.low, unit)} and {_signed(v.high, unit)}"


def _to(low: float, high: float) -> str:
    return f"{_signed(low, high - low)} to {_signed(high, high - low)}"


def _bounds(v: Verdict) -> tuple[float, float]:
    assert v.low is not None and v.high is not None
    return v.low, v.high


def _coverage(v: Verdict) -> str:
    together = f", simultaneous for all {v.family} contrasts" if v.family > 1 else ""
    return f"{100 * v.level:g} % interval{together}"


def p_value(p: float) -> str:
    """A p value as it is told everywhere: three digits where they may matter, and not below what is worth telling."""
    return "< 0.001" if p < 0.001 else f"{p:.3g}" if p < 0.1 else f"{p:.2f}"


def _p(p: float, v: Verdict) -> str:
    text = f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"
    return f"{text} after Holm's correction" if v.family > 1 else text


def _number(x: float) -> str:
    return f"{x:.3g}".replace("-", MINUS)


def _signed(x: float, unit: float = 0.0) -> str:
    """With its sign, to two digits of the unit (the width of the interval it bounds)."""
    if unit > 0 and math.isfinite(unit) and 1e-4 <= max(abs(x), unit) < 1e6:
        text = f"{x:+.{min(max(1 - math.floor(math.log10(unit)), 0), 9)}f}"
    else:
        text = f"{x:+.3g}"
    return "0" if float(text) == 0 else text.replace("-", MINUS)
