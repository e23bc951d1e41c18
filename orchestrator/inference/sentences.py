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
    difference: float | None,
    reasons: Sequence[str],
    left_out: Mapping[str, int],
) -> str:
    """The verdict on one contrast: which, what the numbers say, and what is in none of them."""
    a, b = (study.settings[i].label for i in pair)
    out = left_out_words(left_out)
    observed = "" if difference is None else f", observed difference {with_sign(difference)}"
    return " ".join(
        [f"{a} against {b} on {measure(metric)}{observed}.", *reasons, *([f"Left out: {out}."] if out else [])]
    )


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


def _interval(low: float | None, high: float | None) -> str:
    return f"{with_sign(low)} to {with_sign(high)}"


def _seeds(c: Comparison) -> str:
    lost = c.diverged_a + c.diverged_b
    diverged = f", of which {count(lost, 'run')} diverged" if lost else ""
    if c.design == "paired":
        return f"{count(c.n_a, 'paired seed')}{diverged}"
    return f"{c.n_a} and {c.n_b} seeds{diverged}"
