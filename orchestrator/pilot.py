"""A pilot: the smallest run of a sweep from which the durations of all its tasks can be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError

from .durations import Durations, Work
from .plan import Plan, make_plan
from .store import Store


@dataclass(frozen=True)
class Pilot:
    """What to run of a sweep first.

    Attributes:
        overrides: of the sweep, by path: each amount of the training (`Task.proportional_to`) is 1.
        seeds: how many.
        tasks: how many tasks are to run.
        lacking: the kinds of task that the sweep has and the pilot has not.
    """

    overrides: Mapping[str, Any]
    seeds: int
    tasks: int
    lacking: tuple[str, ...]


def pilot_of(plan: Plan, store: Store, durations: Durations) -> Pilot | None:
    """The pilot of a sweep; None if none is smaller than the sweep itself.

    It has trainings of every size that is to run, with as few seeds as give tasks of every kind: one, or two where
    pairs need them.
    """
    if plan.sweep.search is not None:
        return None  # its settings are not known before
    to_run = {group.name for group in durations.groups.values() if group.to_run}
    for overrides in _overrides(plan):
        found = []
        for seeds in range(1, min(2, len(plan.sweep.seeds)) + 1):
            try:
                small = make_plan(plan.sweep.override({**overrides, "seeds": plan.sweep.seeds[:seeds]}), store)
            except UserError:
                break  # `setting_when` admits nothing, or an optimizer wants more epochs
            if not _trainings(plan, durations.works) <= _trainings(small, durations.sizes.of_plan(small)):
                break
            todo = [node for node in small.nodes.values() if node.key not in small.stored]
            lacking = to_run - {node.name for node in small.nodes.values()}
            found.append(Pilot(overrides, seeds, len(todo), tuple(sorted(lacking))))
            if not lacking:
                break
        if found:
            best = min(found, key=lambda pilot: (len(pilot.lacking), pilot.seeds))
            whole = best.seeds == len(plan.sweep.seeds) and not overrides
            return None if whole or not best.tasks else best
    return None


def amounts(plan: Plan) -> list[str]:
    """Paths of the training's amounts that are above 1 in some setting: "train.epochs"."""
    names = type(plan.sweep.train).proportional_to
    trainings = [setting.train for setting in plan.settings]
    return [f"train.{name}" for name in names if any((getattr(task, name) or 1) > 1 for task in trainings)]


def _overrides(plan: Plan) -> Iterator[dict[str, Any]]:
    """What may make a sweep shorter, the best first."""
    shorter = dict.fromkeys(amounts(plan), 1)
    if shorter:
        yield shorter
        if plan.sweep.setting_when is not None:  # it may choose by the epochs
            yield {**shorter, "setting_when": None}
    yield {}


def _trainings(plan: Plan, works: Mapping[str, Work]) -> set[int]:
    """Sizes of a plan's trainings."""
    return {works[node.key].size for node in plan.nodes.values() if node.kind == "train"}
