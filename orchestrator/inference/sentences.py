"""What the numbers say, in plain English, and never more than they do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..records import Metric
from ..report.words import count, listed, with_sign
from ..stats import Comparison, Verdict

if TYPE_CHECKING:
    from ..study import Study

__all__ = ["answer", "exploratory", "left_out_words", "measure", "share", "verdict"]


def measure(metric: Metric) -> str:
    """A metric in a sentence: its words without what stands in brackets at their end."""
    return re.sub(r"\s*\([^()]*\)$", "", metric.words) or metric.words


def verdict(
    study: Study,
    pair: tuple[int, int],
    metric: Metric,
    found: Verdict,
    left_out: Mapping[str, int],
    contrasts: int,
    margin: float | None,
) -> str:
    """The verdict on one contrast."""
    a, b = (study.settings[i].label for i in pair)
    c = found.comparison
    what = measure(metric)
    seeds, difference = _seeds(c), _difference(found, contrasts)
    out = left_out_words(left_out)
    tail = f" Left out: {out}." if out else ""
    corrected = f" after Holm's correction for {contrasts} contrasts" if contrasts > 1 else ""
    if found.decision in ("better", "worse"):
        said = f"{a} is {found.decision} than {b} on {what}: {difference}{_by(found)}{corrected}; {seeds}."
        if found.within_margin and margin is not None:
            said += f" The difference lies within the margin of ±{margin:g} all the same."
        if found.test == "t" and 1 - found.level < c.smallest_p < 1:
            said += (
                f" That rests on noise being normal: with so few seeds the {c.exact_test}, which does without, cannot "
                f"give a p below {p_value(c.smallest_p)}."
            )
        return said + tail
    if found.decision == "equivalent" and margin is not None:
        p = "" if found.p_equivalence is None else f", p = {p_value(found.p_equivalence)}{corrected}"
        return f"{a} and {b} are equivalent on {what} within the margin of ±{margin:g}: {difference}{p}; {seeds}.{tail}"
    if found.decision == "no decision":
        return (
            f"No decision between {a} and {b} on {what}: {difference}{_by(found)}{corrected}; {seeds}. "
            f"That does not show that they are equal.{tail}"
        )
    return f"Cannot decide between {a} and {b} on {what} ({seeds}): {_why_not(c, contrasts)}.{tail}"


def exploratory(study: Study, pair: tuple[int, int], metric: Metric, c: Comparison, left_out: Mapping[str, int]) -> str:
    """One comparison that was not declared: the figures, and no word of a decision."""
    a, b = (study.settings[i].label for i in pair)
    what, out = measure(metric), left_out_words(left_out)
    tail = f" Left out: {out}." if out else ""
    if c.difference is None:
        why = c.note or "one of them has no value"
        return f"{what} of {a} and {b} cannot be compared: {why}.{tail}"
    how = f" ({c.note})" if c.note else ""
    if c.low is not None:
        how = f", 95 % interval {_interval(c.low, c.high)} uncorrected{how}"
    return f"Exploratory: {what} of {a} minus that of {b} is {with_sign(c.difference)}{how}; {_seeds(c)}.{tail}"


def answer(study: Study, metric: Metric, verdicts: Sequence[tuple[tuple[int, int], Verdict]]) -> str:
    """What the family says as a whole: which settings were found better, worse, equivalent, and which were not."""
    declared = study.declared
    against = {b for (_, b), _ in verdicts}
    one = next(iter(against)) if len(against) == 1 else None
    groups: dict[str, list[str]] = {}
    for (a, b), found in verdicts:
        name = study.settings[a].label
        groups.setdefault(found.decision, []).append(
            name if one is not None else f"{name} against {study.settings[b].label}"
        )
    parts = []
    for decision, words in _DECISIONS.items():
        names = groups.get(decision, [])
        if names:
            shown = "; ".join(names) if len(names) <= 4 else f"{'; '.join(names[:3])}; and {len(names) - 3} more"
            parts.append(f"{words} {len(names)} ({shown})")
    start = f"{len(verdicts)} declared {'contrast' if len(verdicts) == 1 else 'contrasts'} on {measure(metric)}"
    if one is not None:
        is_baseline = "the baseline " if one == declared.baseline else ""
        start += f" against {is_baseline}{study.settings[one].label}"
    return f"{start}: {', '.join(parts)}."


_DECISIONS = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "no decision": "no decision on",
    "cannot decide": "cannot decide on",
}


def share(k: int, n: int, low: float | None, high: float | None) -> str:
    """Diverged trainings: "2 of 5 (5 to 85 %)"."""
    if low is None or high is None:
        return f"{k} of {n}"
    return f"{k} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"


def left_out_words(left_out: Mapping[str, int]) -> str:
    """ "2 trials failed, 1 without a partner"; empty if nothing is."""
    return listed([f"{count(n, 'trial')} {reason}" for reason, n in sorted(left_out.items())])


def p_value(p: float) -> str:
    """To two digits; not below what is worth telling apart."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _p(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _by(found: Verdict) -> str:
    test = f" by the {found.comparison.exact_test}" if found.test == "exact" else ""
    return f", {_p(found.p_holm)}{test}"


def _difference(found: Verdict, contrasts: int) -> str:
    c = found.comparison
    if c.difference is None:
        return "no difference of means can be formed"
    survival = " among the runs that did not diverge" if c.diverged_a or c.diverged_b else ""
    if found.low is None or found.high is None:
        return f"difference {with_sign(c.difference)}{survival}"
    together = "simultaneous " if contrasts > 1 else ""
    return (
        f"difference {with_sign(c.difference)} ({together}95 % interval {_interval(found.low, found.high)}){survival}"
    )


def _interval(low: float | None, high: float | None) -> str:
    return f"{with_sign(low)} to {with_sign(high)}"


def _seeds(c: Comparison) -> str:
    lost = c.diverged_a + c.diverged_b
    diverged = f", of which {count(lost, 'run')} diverged" if lost else ""
    if c.design == "paired":
        return f"{count(c.n_a, 'paired seed')}{diverged}"
    return f"{c.n_a} and {c.n_b} seeds{diverged}"


def _why_not(c: Comparison, contrasts: int) -> str:
    if not c.n_a or not c.n_b:
        return c.note if c.note and "too few values" not in c.note else "nothing is left to compare"
    if c.design == "paired" and c.difference == 0 and not c.sd and not (c.diverged_a or c.diverged_b):
        return "both gave the same value" + (" with every seed" if c.n_a > 1 else "")
    if min(c.n_a, c.n_b) < 2:
        return "one seed says nothing about the noise between seeds"
    if c.smallest_p >= 1 and c.note:
        return c.note
    times = f", before Holm's correction for {contrasts} contrasts" if contrasts > 1 else ""
    note = f"{c.note}; " if c.note else ""
    return f"{note}the smallest p that the {c.exact_test} can give here is {p_value(c.smallest_p)}{times}"
