"""Settings compared two by two: the declared family, and everything else as exploratory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..crossing import Crossing, crossed_comparison
from ..records import CENSORED, DIVERGED, Metric
from ..stats import (
    Comparison,
    Improvement,
    compare_paired,
    compare_unpaired,
    decide,
    probability_of_improvement,
)
from ..stats.comparisons import Design, Mode
from . import sentences
from .findings import Compared
from .values import STOPPED, Values, values_of

if TYPE_CHECKING:
    from ..study import Study

__all__ = ["MOST_EXPLORATORY", "Paired", "compare", "exploratory", "family"]

MOST_EXPLORATORY = 2000
"""Comparisons beyond the family, at most: with more, nobody reads them, and they take their time."""


@dataclass(frozen=True)
class Paired:
    """Two settings of which each value was given its place.

    Attributes:
        improvement: how often a run of the first is better; None where nobody has said what is, or nothing is compared.
        seeds: those that are paired; empty where the design is unpaired.
        left_out: how many trials are in no figure, by reason.
        refusal: why nothing is compared; empty if it is.
    """

    comparison: Comparison
    improvement: Improvement | None
    seeds: tuple[str, ...]
    left_out: dict[str, int]
    refusal: str = ""


def family(study: Study, metric: Metric | None, level: float, crossing: Crossing | None) -> list[Compared]:
    """The declared contrasts with their verdicts, all corrected together."""
    declared = study.declared
    if metric is None or not declared.contrasts:
        return []
    values = values_of(study, metric)
    mode: Mode = "max" if declared.mode == "max" else "min"
    found = [compare(values, a, b, mode, level, crossing) for a, b in declared.contrasts]
    verdicts = decide([p.comparison for p in found], mode=mode, margin=declared.margin, level=level)
    told = []
    for (a, b), p, verdict in zip(declared.contrasts, found, verdicts, strict=True):
        if p.refusal:
            verdict = replace(verdict, reasons=(f"Cannot decide: {p.refusal}.",))
        elif crossing is not None and crossing.shares:  # there is no exact test beside it to speak of
            verdict = replace(verdict, reasons=tuple(r for r in verdict.reasons if "exact test" not in r))
        said = sentences.verdict(study, (a, b), metric, p.comparison.difference, verdict.reasons, p.left_out)
        told.append(Compared(a, b, metric, p.comparison, verdict, p.seeds, p.left_out, said, p.improvement))
    return told


def exploratory(
    study: Study, metrics: Sequence[Metric], reference: int, level: float, crossing: Crossing | None
) -> tuple[list[Compared], int]:
    """Each setting against the reference on every metric, as far as the family does not hold it.

    Returns:
        the comparisons, and how many were left out because there are too many.
    """
    primary = study.declared.primary
    declared = {frozenset(pair) for pair in study.declared.contrasts}
    wanted = [
        (metric, s.index)
        for metric in metrics
        for s in study.settings
        if s.index != reference and not (metric.path == primary and frozenset((s.index, reference)) in declared)
    ]
    by_metric: dict[str, Values] = {}
    found = []
    for metric, setting in wanted[:MOST_EXPLORATORY]:
        if metric.path not in by_metric:
            by_metric[metric.path] = values_of(study, metric)
        p = compare(by_metric[metric.path], setting, reference, study.mode_of(metric), level, crossing)
        said = sentences.exploratory(study, (setting, reference), metric, p.comparison, p.left_out)
        found.append(Compared(setting, reference, metric, p.comparison, None, p.seeds, p.left_out, said, p.improvement))
    return found, max(len(wanted) - MOST_EXPLORATORY, 0)


def compare(
    values: Values, a: int, b: int, mode: Mode | None, level: float, crossing: Crossing | None = None
) -> Paired:
    """One setting against another. Whether it is paired follows from the seeds that were planned, not from values.

    Settings that were given the same seeds, or at least two in common, are paired by these. A seed of which one side
    has no value is left out, unless it diverged, which counts as the worst result where `mode` says what is
    worse. Where a scheduler stopped trainings early, what is left was selected by its own results: nothing is compared.
    Nor is it where values are censored: those that are known would be a selection too.
    """
    own, other = values.seeds[a], values.seeds[b]
    shared = tuple(s for s in own if s in set(other))
    paired = len(shared) >= 2 or own == other
    left_out: Counter[str] = Counter()
    if not paired:  # of a single seed in common one side has to do without, else the two were not independent
        other = tuple(s for s in other if s not in shared)
    elif len(shared) < max(len(own), len(other)):
        left_out["without a partner"] = len(own) + len(other) - 2 * len(shared)
    for why in (STOPPED, CENSORED):
        if values.has(why, a) or values.has(why, b):
            left_out[why] = sum(values.reason(i, s) == why for i in (a, b) for s in values.seeds[i])
            empty = (compare_paired if paired else compare_unpaired)([], [], mode=mode or "max", level=level)
            refusal = _NOT_COMPARED[why]
            return Paired(replace(empty, note=refusal), None, (), dict(left_out), refusal)

    def usable(setting: int, seed: str) -> bool:
        reason = values.reason(setting, seed)
        return not reason or (reason == DIVERGED and mode is not None)

    def value(setting: int, seed: str) -> float:
        return values.found.get((setting, seed), float("nan"))

    if not paired:
        sides = []
        for setting, seeds in ((a, own), (b, other)):
            left_out.update(values.reason(setting, s) for s in seeds if not usable(setting, s))
            sides.append([value(setting, s) for s in seeds if usable(setting, s)])
        unpaired = compare_unpaired(*sides, mode=mode or "max", level=level)
        return Paired(unpaired, _improvement(sides[0], sides[1], "unpaired", mode, level), (), dict(left_out))
    kept = []
    for seed in shared:
        lacking = [s for s in (a, b) if not usable(s, seed)]
        left_out.update(values.reason(s, seed) for s in lacking)
        if len(lacking) == 1:
            left_out["without a partner"] += 1
        if not lacking:
            kept.append(seed)
    x, y = ([value(s, seed) for seed in kept] for s in (a, b))
    comparison = compare_paired(x, y, mode=mode or "max", level=level)
    refusal = ""
    if crossing is not None:
        comparison, refusal = crossed_comparison(comparison, x, y, kept, crossing)
    improvement = None if crossing is not None and crossing.shares else _improvement(x, y, "paired", mode, level)
    return Paired(comparison, improvement, tuple(kept), dict(left_out), refusal)


def _improvement(
    x: Sequence[float], y: Sequence[float], design: Design, mode: Mode | None, level: float
) -> Improvement | None:
    if mode is None or not x or not y:
        return None
    return probability_of_improvement(x, y, design=design, mode=mode, level=level)


_NOT_COMPARED = {
    STOPPED: "a scheduler stopped trainings early, so those that are left were selected by their own results",
    CENSORED: "some values are only known to lie above the range that was looked at",
}
