"""What a study found: `findings(study)`, from its artifacts and from what the sweep declared beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..crossing import Crossing
from ..records import CENSORED, DIVERGED, Metric
from ..report.words import count, listed
from ..stats import Refused
from . import sentences
from .beforehand import undeclared_trainings
from .choice import confirm_command, fewer, power, ranking, winner
from .family import MOST_EXPLORATORY, exploratory, family
from .findings import (
    Compared,
    Diverged,
    FewerSeedsFinding,
    Findings,
    PowerFinding,
    SharpnessFinding,
    VarianceFinding,
    Winner,
)
from .origins import variance
from .sharpness import sharpness
from .values import STOPPED, Values, metric_of, values_of

if TYPE_CHECKING:
    from ..study import Study

__all__ = [
    "Compared",
    "Diverged",
    "FewerSeedsFinding",
    "Findings",
    "PowerFinding",
    "SharpnessFinding",
    "VarianceFinding",
    "Winner",
    "confirm_command",
    "findings",
]

T = TypeVar("T")


def findings(study: Study, level: float = 0.95) -> Findings:
    """Everything that the numbers of a study tell, each with its sentence, and what they cannot tell and why."""
    declared = study.declared
    omitted: dict[str, str] = {}

    def told(about: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except Refused as refusal:
            omitted[about] = _sentence(str(refusal))
            return None

    crossing = study.crossing
    metrics = study.headline("train", "probe")
    primary = metric_of(study, declared.primary)
    values = None if primary is None else values_of(study, primary)
    verdicts = family(study, primary, level, crossing)
    answer = _answer(study, primary, verdicts)
    if not verdicts:
        omitted["family"] = answer
    ranked = ranking(values, declared.mode) if values is not None else []
    reference = declared.baseline if declared.baseline is not None else ranked[0] if ranked else None
    others: list[Compared] = []
    too_many = 0
    if reference is None or len(study.settings) < 2:
        omitted["exploratory"] = "There are no two settings with values to compare."
    else:
        others, too_many = exploratory(study, metrics, reference, level, crossing)
    effect = declared.smallest_effect
    on_primary = verdicts or [c for c in others if primary is not None and c.metric.path == primary.path]
    if effect is None:
        omitted["power"] = (
            "How many seeds it takes can be told for a difference that matters to you: state it in the sweep file as "
            "smallest_effect, or as margin, in units of the primary metric."
        )
    shares = crossing is not None and crossing.shares
    if shares:
        crossed = _sentence("crossed seeds share streams, so that their trials are no sample of independent seeds")
        omitted |= {"fewer_seeds": crossed, "power": crossed}
    ask = values is not None and not shares
    found_sharpness = told("sharpness", lambda: sharpness(study, reference, level)) if study.settings else None
    return Findings(
        declared,
        primary,
        answer,
        tuple(verdicts),
        tuple(others),
        reference,
        tuple(_diverged(study)),
        told("winner", lambda: _winner(study, _there(values), level, not shares)) if values is not None else None,
        told("power", lambda: power(study, on_primary, len(verdicts), level)) if ask and effect is not None else None,
        told("fewer_seeds", lambda: fewer(study, _there(values))) if ask else None,
        tuple(told("variance", lambda: variance(study, _there(values), crossing, level)) or ()) if values else (),
        tuple(found_sharpness or ()),
        omitted,
        tuple(_notes(study, values, reference, crossing, too_many)),
        level,
    )


def _there(values: Values | None) -> Values:
    assert values is not None
    return values


def _winner(study: Study, values: Values, level: float, independent: bool) -> Winner:
    if study.declared.confirms:
        raise Refused(
            "the settings of this study were chosen on other seeds, so being chosen does not flatter them here"
        )
    return winner(study, values, level, independent=independent)


def _answer(study: Study, primary: Metric | None, verdicts: list[Compared]) -> str:
    declared = study.declared
    if verdicts and primary is not None:
        return sentences.answer(study, primary, [((c.a, c.b), c.verdict) for c in verdicts if c.verdict])
    if declared.contrasts:
        return f"There are no verdicts: no trial has a value of the primary metric {declared.primary}."
    if declared.notes:
        return f"There are no verdicts, and all comparisons are exploratory: {'; '.join(declared.notes)}."
    if len(study.settings) < 2:
        return "There is one setting, and so nothing to compare."
    config, names = study.settings[0].config, study.settings[0].names
    example = ", ".join(f"{names[p]!r}: {v!r}" for p, v in config.items()) or f"{study.settings[0].label!r}"
    return (
        "No comparison was declared beforehand, so there are no verdicts and all comparisons are exploratory; to get "
        "verdicts, say in the sweep file, before the seeds they rest on are run, what is to be compared, such as "
        f"baseline={{{example}}}, and what difference counts as none, such as margin=0.005."
    )


def _diverged(study: Study) -> list[Diverged]:
    trainings = Counter(t.trials[0][0] for c in study.columns_of("train") for t in study.of_column(c.name))
    found = []
    for setting, share in study.diverged.items():
        rest = trainings[setting] - share.n
        out = f"; {count(rest, 'training')} that failed, were stopped or did not run are not counted" if rest else ""
        what = sentences.share(share.k, share.n, share.low, share.high)
        found.append(Diverged(setting, share, f"{study.settings[setting].label}: {what} diverged{out}."))
    return found


def _notes(
    study: Study, values: Values | None, reference: int | None, crossing: Crossing | None, too_many: int
) -> list[str]:
    """What is left out of the figures, or holds for all of them."""
    notes = [_sentence(note) for note in study.declared.notes]
    if study.declared.contrasts:
        late, trainings = undeclared_trainings(study)
        if late:
            were = "was" if late == 1 else "were"
            notes.append(
                f"{late} of {count(trainings, 'training')} behind the verdicts {were} run before these comparisons "
                "were declared: corrected p values and intervals hold only if they were chosen without a look at those "
                "results; otherwise confirm them on fresh seeds."
            )
    if values is not None:
        for reason, why in (
            (
                DIVERGED,
                "diverged: means are of the others (given survival), and tests count diverging as the worst result",
            ),
            (STOPPED, "stopped early by the scheduler: settings with such trials enter no comparison"),
            (CENSORED, "known only to lie above the range: settings with such trials enter no comparison"),
        ):
            number = sum(r == reason for r in values.lost.values())
            if number:
                notes.append(f"{count(number, 'trial')} {why}.")
        other = [r for r in values.lost.values() if r not in (DIVERGED, STOPPED, CENSORED)]
        if other:
            reasons = listed([f"{other.count(r)} {r}" for r in sorted(set(other))])
            notes.append(f"{count(len(other), 'trial')} without a value of {values.metric.path} left out: {reasons}.")
    if crossing is not None and crossing.held and crossing.sizes:
        notes.append(
            f"The seeds vary {listed(list(crossing.names))} alone: what is found holds for the one seed of "
            f"{listed(list(crossing.held))} that all trials share."
        )
    if crossing is not None and crossing.shares:
        notes.append("Crossed seeds share streams: intervals heed that, and exact tests do not hold.")
    if reference is not None and study.declared.baseline is None and len(study.settings) > 1:
        notes.append(
            f"Exploratory comparisons are with {study.settings[reference].label}, the best by these same numbers, "
            "which makes the others look worse than they are."
        )
    if too_many:
        notes.append(f"{too_many} exploratory comparisons beyond {MOST_EXPLORATORY} are left out.")
    return notes


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."
