"""What a study found, as plain data: the declared family's verdicts, and what else the numbers tell.

Every part has a sentence in plain English that never claims more than its numbers, and the numbers as
`orchestrator.stats` computed them. What cannot be told is in `Findings.omitted`, with the reason.
Settings are indices into `Study.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..declared import Declared
from ..records import Metric

if TYPE_CHECKING:
    from ..stats import (
        Association,
        Comparison,
        Components,
        FewerSeeds,
        Improvement,
        MatchedLoss,
        Power,
        Share,
        Verdict,
        WinnersCurse,
    )

__all__ = [
    "Compared",
    "Diverged",
    "FewerSeedsFinding",
    "Findings",
    "PowerFinding",
    "SharpnessFinding",
    "VarianceFinding",
    "Winner",
]


@dataclass(frozen=True)
class Compared:
    """Two settings compared on one metric; differences are a − b.

    Attributes:
        a, b: the settings.
        metric: what is compared.
        comparison: `stats.Comparison`: design, difference, interval, p-values, effect size; its interval is one of a
            single comparison, not of a family.
        verdict: `stats.Verdict`, with simultaneous interval and Holm's p; None for an exploratory comparison.
        seeds: labels of the seeds that are paired; empty where the design is unpaired.
        left_out: how many trials are in no figure here, by reason ("failed", "without a value", …).
        sentence: what it says.
        improvement: `stats.Improvement`: the probability that a run of a is better than one of b; None where nobody has
            said which values are better, nothing is compared, or crossed seeds are not independent.
    """

    a: int
    b: int
    metric: Metric
    comparison: Comparison
    verdict: Verdict | None
    seeds: tuple[str, ...]
    left_out: Mapping[str, int]
    sentence: str
    improvement: Improvement | None = None


@dataclass(frozen=True)
class Diverged:
    """How many of a setting's trainings diverged.

    Attributes:
        share: `stats.Share`: k of n, with its exact interval. Trainings that failed, were stopped or did not run are
            not in n.
    """

    setting: int
    share: Share
    sentence: str


@dataclass(frozen=True)
class Winner:
    """The best of several settings, and why its mean flatters it.

    Attributes:
        setting: with the best mean of the primary metric, among those that lost no seed.
        runner_up: with the second best.
        curse: `stats.WinnersCurse`, or None where there are too few seeds.
        command: what confirms it on fresh seeds, as one would type it; empty where that cannot be.
    """

    setting: int
    runner_up: int
    curse: WinnersCurse | None
    command: str
    sentence: str


@dataclass(frozen=True)
class PowerFinding:
    """How many seeds the smallest effect that matters takes.

    Attributes:
        power: `stats.Power` at the estimated sd and at both ends of its interval, of a test of a difference.
        equivalence: the same for showing that a difference lies within the margin; None where none was declared.
        settings: whose spread it is reckoned with.
    """

    power: Power
    equivalence: Power | None
    settings: tuple[int, ...]
    sentence: str


@dataclass(frozen=True)
class FewerSeedsFinding:
    """How often fewer seeds would have named another winner.

    Attributes:
        result: `stats.FewerSeeds`; its winners and left-out are positions in `settings`.
        settings: those that were compared.
    """

    result: FewerSeeds
    settings: tuple[int, ...]
    sentence: str


@dataclass(frozen=True)
class VarianceFinding:
    """Where a setting's variance between seeds comes from.

    Attributes:
        streams: the two that are crossed, in the order of `result.a` and `result.b`.
        result: `stats.Components`.
    """

    setting: int
    metric: Metric
    streams: tuple[str, str]
    result: Components
    sentence: str


@dataclass(frozen=True)
class SharpnessFinding:
    """Whether a measure of sharpness goes with generalisation.

    Attributes:
        sharpness, generalisation: the two metrics.
        result: the three numbers: over setting means, within settings, pooled.
        matched: the same at matched training loss, or None.
        points: (setting, seed's label, sharpness, generalisation) of each trial that is in it.
    """

    sharpness: Metric
    generalisation: Metric
    result: Association
    matched: MatchedLoss | None
    points: tuple[tuple[int, str, float, float], ...]
    sentence: str


@dataclass(frozen=True)
class Findings:
    """All that a study found.

    Attributes:
        declared: what was declared beforehand; its notes say what of it does not hold here.
        primary: the metric that the family is about; None if nothing has measured it.
        answer: what the family says, in one sentence or two; or how to declare one.
        family: the declared contrasts, in their order, each with a verdict.
        exploratory: each setting against `reference`, for every headline metric; no verdicts.
        reference: the baseline, or the best setting where none was declared; None if there is neither.
        diverged: one a setting, in order.
        winner, power, fewer_seeds: None if they cannot be told.
        variance: one a setting with crossed seeds.
        sharpness: one for each measure of sharpness.
        omitted: what cannot be told and why: by "family", "exploratory", "winner", "power", "fewer_seeds", "variance"
            or "sharpness" a sentence.
        notes: what is left out of the figures above and why, in sentences.
        level: of all intervals.
    """

    declared: Declared
    primary: Metric | None
    answer: str
    family: tuple[Compared, ...] = ()
    exploratory: tuple[Compared, ...] = ()
    reference: int | None = None
    diverged: tuple[Diverged, ...] = ()
    winner: Winner | None = None
    power: PowerFinding | None = None
    fewer_seeds: FewerSeedsFinding | None = None
    variance: tuple[VarianceFinding, ...] = ()
    sharpness: tuple[SharpnessFinding, ...] = ()
    omitted: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    level: float = 0.95
