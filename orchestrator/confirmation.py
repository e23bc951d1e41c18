"""The best of many settings, confirmed: it and its rival alone, on seeds that had no part in its choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .declared import Declared, primary_task, unique_labels
from .errors import InvalidValue, StoreError, UserError
from .inference.choice import choose, power_between
from .plan import Plan
from .records import Outcome
from .runs import find_run, runs_of
from .stats import Refused
from .store import Store
from .study import BEGUN, FILE, Study
from .sweep import Seeds, Sweep

__all__ = ["SUFFIX", "Confirmation", "confirmation", "fresh_seeds"]

SUFFIX = "-confirm"


@dataclass(frozen=True)
class Confirmation:
    """What is to run.

    Attributes:
        sweep: the two settings on fresh seeds, with the one contrast declared.
        words: what is confirmed, on which seeds, and how many it would take, in sentences.
    """

    sweep: Sweep
    words: tuple[str, ...]


def confirmation(plan: Plan, store: Store, seeds: int | None) -> Confirmation:
    """The confirmation of what the newest run of a sweep found best.

    Args:
        plan: of the sweep as its file declares it.
        seeds: how many fresh ones; None for as many as that run had.

    Raises:
        UserError: there is nothing to confirm, in a sentence that says why.
    """
    sweep = plan.sweep
    if seeds is not None and seeds < 1:
        raise InvalidValue(f"--seeds must be at least 1, not {seeds}.")
    run = find_run(store, sweep.name)
    study = Study.load(store, run)
    declared = Study.from_plan(plan, store, Outcome({})).declared
    labels = unique_labels(plan.settings)
    known = {s.label: s.index for s in study.settings}
    baseline = None if declared.baseline is None else labels[declared.baseline]
    try:
        choice = choose(study, declared.primary, declared.mode)
    except Refused as refusal:
        raise UserError(f"There is nothing to confirm of {run}: {refusal}.") from None
    best = study.settings[choice.best].label
    if best == baseline:
        raise UserError(
            f"There is nothing to confirm of {run}: the baseline {best} itself has the best mean {choice.words}."
        )
    other = baseline if baseline is not None else study.settings[choice.second].label
    for label in (best, other):
        if label not in labels or not _same_trainings(plan, study, label, labels.index(label)):
            raise UserError(
                f"{sweep.file or sweep.name} does not declare the trainings of {label} as {run} had them: give "
                "the --set of that run, or run the sweep again before its best setting is confirmed."
            )
    n = len(study.replicates) if seeds is None else seeds
    fresh, shown = fresh_seeds(sweep, store, n)
    what = f"{best}, with the best mean {choice.words} of {len(study.settings)} settings in {run}"
    against = f"the {'baseline' if baseline is not None else 'runner-up'} {other}"
    words = [f"To be confirmed: {what}, against {against}, on {shown}, which no run of {sweep.name} has used."]
    words.append(_needed(study, declared, choice.best, known.get(other), n))
    measured_by, _ = primary_task(sweep)
    chosen = tuple(plan.settings[labels.index(label)].config for label in (best, other))
    settings = replace(sweep, chosen=chosen, search=None, setting_when=None, baseline=None, contrasts=None).settings()
    return Confirmation(
        replace(
            sweep,
            chosen=chosen,
            seeds=fresh,
            probes=[p for p in sweep.probes if p is measured_by],
            pairs=(),
            groups=(),
            search=None,
            scheduler=None,
            setting_when=None,
            baseline=unique_labels(settings)[-1],
            contrasts=None,
            name=f"{sweep.name}{SUFFIX}",
            question=f"{sweep.question}\n\nConfirmed here: {what}, against {against}, on {shown}.".strip(),
            confirms=run,
            inherited=(),
        ),
        tuple(words),
    )


def _same_trainings(plan: Plan, study: Study, label: str, index: int) -> bool:
    """Whether a training of this setting in the run is one of the plan."""
    keys = {n.key for n in plan.trainings(plan.settings[index])}
    setting = next((s.index for s in study.settings if s.label == label), None)
    return setting is not None and any(
        t.key in keys for t in study.tasks.values() if t.kind == "train" and t.trials[0][0] == setting
    )


def _needed(study: Study, declared: Declared, best: int, other: int | None, n: int) -> str:
    """How many seeds the smallest effect that matters takes, by the spread that the run has found."""
    if declared.smallest_effect is None:
        return "How many seeds that takes can be told once the sweep file states smallest_effect, or margin."
    try:
        if other is None:
            raise Refused("the run has no such setting to tell the spread by")
        return power_between(study, declared.primary, declared.smallest_effect, best, other, n)
    except Refused as refusal:
        return f"How many seeds a difference of {declared.smallest_effect:g} takes cannot be told: {refusal}."


def fresh_seeds(sweep: Sweep, store: Store, n: int) -> tuple[list[int | Seeds], str]:
    """Seeds that no run of the sweep has used, nor its file declares; streams that it holds stay as they are.

    Returns:
        the seeds, and what they are called.
    """
    used = {v for r in sweep.replicates for v in r.seeds.values()}
    for name in runs_of(store, sweep.name):
        used |= _used(store, f"runs/{sweep.name}/{name}")
    first = max(used) + 1
    numbers = range(first, first + n)
    shown = f"seed {first}" if n == 1 else f"seeds {first} to {first + n - 1}"
    if all(isinstance(s, int) for s in sweep.seeds):
        return list(numbers), shown
    streams = {s: {r.seeds[s] for r in sweep.replicates} for s in sweep.train.streams}
    held = {s: next(iter(v)) for s, v in streams.items() if len(v) == 1 and len(sweep.replicates) > 1}
    varied = [s for s in streams if s not in held]
    return [{**held, **dict.fromkeys(varied, i)} for i in numbers], f"{shown} of {', '.join(varied)}"


def _used(store: Store, path: str) -> set[int]:
    """The seeds of a run's trainings."""
    data = store.read(f"{path}/{FILE}") or store.read(f"{path}/{BEGUN}")
    if data is None:
        return set()  # it was refused before it began
    try:
        record = json.loads(data)
        seeds: Sequence[dict[str, int]] | None = record.get("seeds")
        if seeds is None:  # of an older version: labels of whole seeds are numbers
            return {int(label) for label in record["replicates"] if str(label).isdecimal()}
        return {int(v) for by_stream in seeds for v in by_stream.values()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise StoreError(
            f"{path} in {store} is damaged, so that nobody can say which seeds it used: delete that folder first."
        ) from None
