"""Does sharpness go with generalisation here? Over settings, within settings, and at matched training loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..records import Metric
from ..report.words import number
from ..stats import Association, Concordance, MatchedLoss, Refused, associate, match_loss, p_value
from .findings import SharpnessFinding
from .sentences import measure
from .values import values_of

if TYPE_CHECKING:
    from ..study import Study

__all__ = ["MEASURES", "generalisation_of", "sharpness", "sharpness_measures"]

MEASURES = ("sharpness", "lambda_max", "trace", "norm", "rise_eigen", "rise_random")
"""Results of probes that measure sharpness, by name; of each probe the first that is a headline of it counts."""


def sharpness_measures(study: Study) -> list[Metric]:
    """The measure of sharpness of each probe that has one."""
    found: dict[str, Metric] = {}
    for metric in study.headline("probe"):
        if metric.name in MEASURES:
            found.setdefault(metric.column.name, metric)
    return list(found.values())


def generalisation_of(study: Study) -> Metric | None:
    """The generalisation gap where the training tells it, else the study's metric."""
    own = {m.name: m for m in study.headline("train")}
    return own.get("generalisation_gap") or own.get(study.metric)


def sharpness(study: Study, reference: int | None, level: float) -> list[SharpnessFinding]:
    """One finding for each measure of sharpness.

    Raises:
        Refused: there is none, nothing to compare it with, or too few trials.
    """
    measures, gap = sharpness_measures(study), generalisation_of(study)
    if not measures:
        raise Refused(f"no probe measures sharpness (a headline named {', '.join(MEASURES[:-1])} or {MEASURES[-1]})")
    if gap is None:
        raise Refused("the training tells neither a generalisation gap nor the study's metric")
    other = values_of(study, gap)
    loss = next((m for m in study.headline("train") if m.name == "train_loss"), None)
    settings, seeds = [s.index for s in study.settings], study.replicates
    given = [seed for s in settings for seed in other.seeds[s]]
    # Also settings that have only some seeds in common are not independent.
    paired: bool | None = len(given) > len(set(given))
    if study.crossing is not None and study.crossing.shares:
        paired = None
    y = other.matrix(settings, seeds)
    found: list[SharpnessFinding] = []
    refused: dict[str, str] = {}
    for metric in measures:
        values = values_of(study, metric)
        x = values.matrix(settings, seeds)
        try:
            result = associate(x, y, paired=paired, level=level)
        except Refused as refusal:
            refused[metric.path] = str(refusal)
            continue
        matched, why_not = None, "the training tells no training loss"
        if loss is not None:
            at = settings.index(reference) if reference in settings else 0
            try:
                matched = match_loss(x, values_of(study, loss).matrix(settings, seeds), paired=paired, reference=at)
            except Refused as refusal:
                why_not = str(refusal)
        points = tuple(
            (s, r, values.found[s, r], other.found[s, r])
            for s in settings
            for r in seeds
            if (s, r) in values.found and (s, r) in other.found
        )
        said = _said(study, metric, gap, result, matched, why_not)
        found.append(SharpnessFinding(metric, gap, result, matched, points, said))
    if not found:
        raise Refused("; ".join(dict.fromkeys(refused.values())))
    if refused:
        why = "; ".join(f"{path}, since {reason}" for path, reason in refused.items())
        found[-1] = replace(found[-1], sentence=f"{found[-1].sentence} Nothing can be told of {why}.")
    return found


def _said(
    study: Study, metric: Metric, gap: Metric, result: Association, matched: MatchedLoss | None, why_not: str
) -> str:
    missing = f" {result.missing} trials lack one of the two." if result.missing else ""
    said = (
        f"Exploratory: {metric.path} and {measure(gap)}, Kendall's τ. Between the means of {result.between.n} "
        f"settings: {_tau(result.between)}. Between seeds within settings: {_tau(result.within)}. Over all "
        f"{result.trials} trials together: {_number(result.pooled.tau)}, without a p-value, since trials of one "
        f"setting are alike.{missing}"
    )
    if matched is None:
        return f"{said} At matched training loss: cannot be told, since {why_not}."
    scale = "ratios of" if matched.log else "differences in"
    away = [s for i, s in enumerate(matched.settings) if i != matched.reference]
    apart = sum(s.difference_low > 0 or s.difference_high < 0 for s in away)
    label = study.settings[matched.reference].label
    return (
        f"{said} At matched training loss ({number(matched.loss, 3)}), {apart} of {len(away)} {scale} {metric.path} to "
        f"{label} have an uncorrected 95 % interval without {1 if matched.log else 0}."
    )


def _tau(c: Concordance) -> str:
    if c.tau is None:
        return f"cannot be told ({c.note})"
    if c.p is None:
        return f"{_number(c.tau)} ({c.note})" if c.note else _number(c.tau)
    p = p_value(c.p)
    return f"{_number(c.tau)} (p {p if p.startswith('<') else f'= {p}'}, n = {c.n})"


def _number(tau: float | None) -> str:
    return "none" if tau is None else f"{tau:+.2f}".replace("-", "\N{MINUS SIGN}")
