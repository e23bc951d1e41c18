"""The best of several settings: what its mean is worth, what fewer seeds would have chosen, how many it takes."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..report.words import count, number
from ..stats import Comparison, Power, Refused, fewer_seeds, plan_seeds, winners_curse
from ..stats.comparisons import Design, Mode
from .family import compare
from .findings import Compared, FewerSeedsFinding, PowerFinding, Winner
from .sentences import measure
from .values import Values, metric_of, values_of

if TYPE_CHECKING:
    from ..study import Study

__all__ = ["Choice", "choose", "confirm_command", "fewer", "power", "power_between", "ranking", "winner"]


@dataclass(frozen=True)
class Choice:
    """The best and the second best setting on a metric, and the metric in words."""

    best: int
    second: int
    words: str


def choose(study: Study, primary: str, mode: str) -> Choice:
    """The best setting on a metric.

    Raises:
        Refused: no trial has a value of it, or there are not two settings to choose from.
    """
    metric = metric_of(study, primary)
    if metric is None:
        raise Refused(f"no trial has a value of {primary}")
    ranked = ranking(values_of(study, metric), mode)
    if len(ranked) < 2:
        raise Refused(f"{count(len(ranked), 'setting')} without a lost seed: there is nothing to choose from")
    return Choice(ranked[0], ranked[1], measure(metric))


def ranking(values: Values, mode: str) -> list[int]:
    """The settings that lost no seed, the best mean first; the mean of what others have left would flatter them."""
    whole = [s for s in values.seeds if values.complete(s)]
    sign = -1 if mode == "max" else 1
    return sorted(whole, key=lambda s: (sign * values.mean(s), s))


def winner(study: Study, values: Values, level: float, *, independent: bool) -> Winner:
    """The best setting, and how much being chosen flatters it.

    Args:
        independent: whether no two seeds share a stream.

    Raises:
        Refused: there are not two settings to choose from.
    """
    mode: Mode = "max" if study.declared.mode == "max" else "min"
    ranked = ranking(values, mode)
    if len(ranked) < 2:
        raise Refused(f"{count(len(ranked), 'setting')} without a lost seed: there is nothing to choose from")
    best, second = ranked[:2]
    seeds = values.seeds[best]
    alike = sorted(s for s in ranked if values.seeds[s] == seeds)
    command = confirm_command(study)
    label, what = study.settings[best].label, measure(values.metric)
    said = f"{label} has the best mean {what} ({number(values.mean(best))}) of {len(ranked)} settings. "
    if values.mean(best) == values.mean(second):
        said += f"{study.settings[second].label} has the same. "
    said += "The best of several looks better than it is"
    curse = None
    if not independent:
        said += "; by how much cannot be told from crossed seeds, whose trials are not independent."
    else:
        try:
            curse = winners_curse(values.matrix(alike, seeds), mode=mode, level=level)
        except Refused as refusal:
            said += f"; by how much cannot be told: {refusal}."
    if curse is not None:
        flattery = curse.inflation if curse.inflation > 1e-9 * abs(curse.mean) else 0.0
        said += (
            f": were all settings the same, its own 95 % interval would hold the truth in {100 * curse.coverage:.0f} % "
            f"of cases. Chosen on just over half of the seeds and judged on the others, it is found flattered by "
            f"{number(flattery, 2)}."
        )
    if command:
        said += f" To confirm it on fresh seeds: {command}"
    return Winner(best, second, curse, command, said)


def confirm_command(study: Study) -> str:
    """What confirms the winner, from the command that made the run; empty if that says nothing of a sweep file."""
    try:
        words = shlex.split(str(study.run.get("command", "")))
    except ValueError:
        return ""
    if "sweep" not in words or study.declared.confirms:
        return ""
    at = words.index("sweep")
    kept = [*words[:at], "confirm"]
    rest = iter(words[at + 1 :])
    for word in rest:
        name = word.partition("=")[0]
        if name in ("--seeds", "--keep-weights"):
            if "=" not in word:
                next(rest, None)
        elif name not in ("--retry-failed", "--fail-fast", "--dry-run"):
            kept.append(word)
    return shlex.join(kept)


def fewer(study: Study, values: Values) -> FewerSeedsFinding:
    """How often fewer seeds would have named another winner.

    Raises:
        Refused: fewer than 10 seeds, or not two settings to choose from.
    """
    ranked = ranking(values, study.declared.mode)
    if len(ranked) < 2:
        raise Refused(f"{count(len(ranked), 'setting')} without a lost seed: there is nothing to choose from")
    seeds = values.seeds[ranked[0]]
    alike = tuple(sorted(s for s in ranked if values.seeds[s] == seeds))
    mode: Mode = "max" if study.declared.mode == "max" else "min"
    result = fewer_seeds(values.matrix(alike, seeds), mode=mode)
    shares = ", ".join(f"{m} seeds {100 * x:.0f} %" for m, x in zip(result.sizes, result.shares, strict=True) if m > 1)
    said = (
        f"How often fewer of the {result.n} seeds would have named another best setting on {measure(values.metric)}: "
        f"{shares}. That is how stable the choice is, not how likely it is to be right."
    )
    return FewerSeedsFinding(result, alike, said)


def power(study: Study, compared: Sequence[Compared], family: int, level: float) -> PowerFinding:
    """How many seeds the smallest effect that matters takes, by the spread of these comparisons.

    The spreads are averaged over the comparisons. As they share a setting, they are not independent, so their
    average is taken to be as uncertain as that of one.

    Raises:
        Refused: there is no spread to go by.
    """
    effect = study.declared.smallest_effect
    assert effect is not None
    metric = compared[0].metric if compared else None
    usable = [c for c in compared if c.comparison.sd and c.comparison.degrees is not None]
    if metric is None or not usable:
        raise Refused("no two settings have a spread between seeds to go by: it takes at least 2 seeds of each")
    design: Design = "paired" if all(c.comparison.design == "paired" for c in usable) else "unpaired"
    usable = [c for c in usable if c.comparison.design == design]
    sd = math.sqrt(sum(_variance(c.comparison) for c in usable) / len(usable))
    n = min(_seeds(c.comparison) for c in usable)
    degrees = min(int(c.comparison.degrees or 1) for c in usable)
    found = plan_seeds(effect, sd, n, design=design, degrees=degrees, family=max(family, 1), level=level)
    margin = study.declared.margin
    same = None
    if margin is not None:
        same = plan_seeds(
            margin, sd, n, design=design, degrees=degrees, family=max(family, 1), level=level, question="equivalence"
        )
    settings = tuple(sorted({s for c in usable for s in (c.a, c.b)}))
    of = f" in a family of {family}" if family > 1 else ""
    said = f"To find a difference of {effect:g} in {measure(metric)}{of} {_needs(found)}; "
    return PowerFinding(found, same, settings, f"{said}{_present(found, 'there are')}. {_spread(found)}")


def power_between(study: Study, primary: str, effect: float, a: int, b: int, n: int) -> str:
    """How many seeds an effect takes, told by the spread between two settings; and what n fresh seeds can do.

    Raises:
        Refused: there is no spread to go by.
    """
    metric = metric_of(study, primary)
    if metric is None or (study.crossing is not None and study.crossing.shares):
        raise Refused("the run has no independent seeds with a value of it")
    c = compare(values_of(study, metric), a, b, None, 0.95).comparison
    if not c.sd or c.degrees is None:
        raise Refused("the run has no spread between seeds to go by: it takes at least 2 seeds of each")
    found = plan_seeds(effect, c.sd, max(n, 2), design="paired", degrees=int(c.degrees))
    present = _present(found, "to be run") if n > 1 else "one seed decides nothing"
    return f"To find a difference of {effect:g} in {measure(metric)} {_needs(found)}; {present}. {_spread(found)}"


def _needs(found: Power) -> str:
    few, middle, many = (
        f"{n:,}" if n is not None else "more than 100,000"
        for n in (found.low.needed_80, found.estimate.needed_80, found.high.needed_80)
    )
    return f"with a power of 80 % takes about {middle} ({few} to {many}) seeds"


def _present(found: Power, which: str) -> str:
    low, middle, high = (f"{100 * c.present:.0f} %" for c in (found.high, found.estimate, found.low))
    return f"the {found.n} {which} have a power of {middle} ({low} to {high})"


def _spread(found: Power) -> str:
    low, middle, high = (number(c.sd, 2) for c in (found.low, found.estimate, found.high))
    return (
        f"The range is that of the standard deviation between seeds, {middle}, which is only known to lie between "
        f"{low} and {high}."
    )


def _variance(c: Comparison) -> float:
    return float(c.sd or 0.0) ** 2


def _seeds(c: Comparison) -> int:
    return int(c.used) if c.design == "paired" else int(min(c.n_a - c.diverged_a, c.n_b - c.diverged_b))
