"""How long the tasks of a plan take: stated by hand, measured on tasks of equal work, or reckoned from shorter ones.

Tasks fall into groups of equal work: one class, equal fields but for fractional numbers, made from trainings of equal
work. How often a task does its work is told apart from what it does: the epochs of a training (`Task.proportional_to`),
the members of a group. A pilot that trains for one epoch thus tells of two hundred.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.task import Task, input_fields

from .keys import canonical, class_path
from .plan import Plan
from .store import Store

RUNS = 20
"""The newest runs of a sweep that are looked at."""

MOST = 2000
"""Manifests that are read of a kind of task at most."""

EACH = 100
"""Measurements of one size that are looked at, at most."""

ENOUGH = 3
"""Measurements of every size with which no further manifests are read."""


class Work(NamedTuple):
    """What a task has to do.

    Attributes:
        size: number of what it does (see `Sizes`), equal for tasks that differ in seeds or fractional numbers only.
        amount: how often: epochs, members of a group.
        lengths: amounts of the trainings it works on, without repetition.
    """

    size: int
    amount: float
    lengths: tuple[float, ...]


class Sizes:
    """Numbers what tasks do: equal for equal work, in whatever plan or manifest it stands."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.trainings: list[frozenset[int]] = []
        """By size: the sizes of the trainings that such tasks work on."""

    def of_plan(self, plan: Plan) -> dict[str, Work]:
        """The work of every task of a plan, by key. What a task has in its fields is looked at once for each object."""
        own: dict[int, tuple[str, list[Any]]] = {}
        found: dict[str, Work] = {}
        for node in plan.nodes.values():  # inputs come first
            if id(node.task) not in own:
                own[id(node.task)] = _own(class_path(type(node.task)), canonical(node.task), type(node.task))
            subjects = [found[key] for key in node.inputs if plan.nodes[key].kind == "train"]
            found[node.key] = self._work(*own[id(node.task)], node.kind, subjects)
        return found

    def of_manifest(self, manifest: Mapping[str, Any], cls: type[Task], subjects: Sequence[Work]) -> Work:
        """The work of which a manifest tells.

        Args:
            subjects: that of the trainings it was done on.
        """
        own = _own(str(manifest.get("class")), manifest.get("spec"), cls)
        return self._work(*own, str(manifest.get("kind")), subjects)

    def _work(self, own: str, amounts: list[Any], kind: str, subjects: Sequence[Work]) -> Work:
        trainings = frozenset(work.size for work in subjects)
        size = self._numbers.setdefault((own, trainings), len(self._numbers))
        if size == len(self.trainings):
            self.trainings.append(trainings)
        longest = max((work.amount for work in subjects), default=1.0)
        amount = math.prod(longest if value is None else value for value in amounts)
        if kind == "group":
            amount *= len(subjects)
        follows = None in amounts  # the lengths of the trainings count in the amount
        return Work(size, float(amount), () if follows else tuple(sorted({work.amount for work in subjects})))


def _own(name: str, spec: Any, cls: type[Task]) -> tuple[str, list[Any]]:
    """A canonical form without its fractional numbers and amounts, as text; and the amounts."""
    fields = dict(spec) if isinstance(spec, Mapping) else {"": spec}
    amounts = []
    for field in cls.proportional_to:
        value = fields.get(field, "missing")
        if value is None or _is_amount(value):
            amounts.append(fields.pop(field))
    return json.dumps([name, _without_fractions(fields)], sort_keys=True), amounts


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _without_fractions(value: Any) -> Any:
    """Zero stays apart from other numbers: it switches off, and with it work."""
    if isinstance(value, Mapping):
        return {k: _without_fractions(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_fractions(v) for v in value]
    if isinstance(value, float):
        return "a number" if value else "zero"
    return value


@dataclass(frozen=True)
class Measurement:
    """How long an earlier task took.

    Attributes:
        amount: how often it did its work in fact: a training that ended early has the epochs it came to.
        early: it diverged: what it came to is not known exactly, and it saved itself the end.
        process: in which it ran, and since when; the first of a kind there may have waited for imports and the device.
    """

    seconds: float
    amount: float
    lengths: tuple[float, ...]
    device: str
    early: bool = False
    process: tuple[str, float] | None = None


@dataclass(frozen=True)
class Estimate:
    """How long tasks of a group are expected to take.

    Attributes:
        seconds: possible durations, all equally likely.
        how: "stated" by hand; "measured" on tasks just like these; "scaled" in proportion to the amount; "line"
            through measurements of several amounts; "others": the mean over the nearest sizes that are known.
        measured: from how many artifacts.
        devices: these ran on.
        at: the amounts that these had.
        before: their seconds, on average.
        factor: what the amount of the task is of theirs, on average.
        fixed, each: of a line, the seconds once and those for every unit of the amount.
        elsewhere: they worked on trainings of other length.
        early: they are trainings that diverged.
    """

    seconds: tuple[float, ...]
    how: str
    measured: int = 0
    devices: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    before: float = 0.0
    factor: float = 1.0
    fixed: float = 0.0
    each: float = 0.0
    elsewhere: bool = False
    early: bool = False

    @property
    def mean(self) -> float:
        return sum(self.seconds) / len(self.seconds)


@dataclass(frozen=True)
class Group:
    """Tasks of a plan of equal work.

    Attributes:
        name: of their class.
        example: key of one of them.
        amount_name: what the amount counts, in words ("epochs"); empty if nothing.
        tasks: how many there are; `to_run`: how many of them are not stored, or lack the weights that others need.
    """

    name: str
    work: Work
    example: str
    amount_name: str
    tasks: int
    to_run: int
    estimate: Estimate | None


class Durations:
    """What is known of the durations of a plan's tasks.

    Attributes:
        sizes: what the works are made with.
        works: the work of every task, by key.
        groups: the tasks of equal work, by their work.
    """

    def __init__(self, sizes: Sizes, works: Mapping[str, Work], groups: Mapping[Work, Group]) -> None:
        self.sizes = sizes
        self.works = works
        self.groups = groups
        self._by_kind: dict[str, list[Group]] = {}
        for group in groups.values():
            self._by_kind.setdefault(group.name, []).append(group)

    def of(self, key: str) -> float | None:
        """Expected seconds of a task; None if nothing tells."""
        estimate = self.groups[self.works[key]].estimate
        return None if estimate is None else estimate.mean

    def known(self) -> list[str]:
        """The kinds of task of which something is known: then something is of each of their tasks."""
        return [name for name, groups in self._by_kind.items() if all(g.estimate is not None for g in groups)]

    def unknown(self) -> list[str]:
        """The kinds of task that are to run and of which nothing is known."""
        lacking = (g.name for g in self.groups.values() if g.to_run and g.estimate is None)
        return list(dict.fromkeys(lacking))

    def groups_of(self, name: str) -> list[Group]:
        """The groups of a kind of task of which some are to run, all if none is."""
        groups = self._by_kind[name]
        return [g for g in groups if g.to_run] or groups

    def mean(self, name: str) -> float:
        """Expected seconds of a task of a known kind, on average over those that are to run (all if none is)."""
        counted = [(g.to_run or g.tasks, g.estimate.mean) for g in self.groups_of(name) if g.estimate is not None]
        return sum(n * mean for n, mean in counted) / sum(n for n, _ in counted)


def known_durations(plan: Plan, store: Store, stated: Mapping[str, float]) -> Durations:
    """What is stated, and what earlier runs of this sweep tell.

    Fields that are fractional numbers (a learning rate, a radius) are taken not to change the amount of work, but for
    zero; all others are: probes of a small network tell nothing of those of a large one. What was measured at another
    amount (`Task.proportional_to`, members of a group) is scaled. A size that was not measured is expected to
    take what the nearest sizes of the same kind take, see `_Known.nearest`.

    Args:
        stated: seconds by name of the task's class; whatever was measured of them does not count.
    """
    sizes = Sizes()
    works = sizes.of_plan(plan)
    tasks = Counter(works.values())
    again = plan.wanting_weights()
    to_run = Counter(work for key, work in works.items() if key not in plan.stored or key in again)
    first: dict[Work, str] = {}
    for key, work in works.items():
        first.setdefault(work, key)
    names = {work: plan.nodes[key].name for work, key in first.items()}
    measured = _measured(plan, store, sizes, works, [n for n in dict.fromkeys(names.values()) if n not in stated])
    kinds = {name: _Known(sizes, found) for name, found in measured.items()}
    groups = {}
    for work, key in first.items():
        name = names[work]
        if name in stated:
            estimate: Estimate | None = Estimate((stated[name],), "stated")
        else:
            estimate = kinds[name].estimate(work)
        node = plan.nodes[key]
        counts = [*type(node.task).proportional_to, *(["members"] if node.kind == "group" else [])]
        groups[work] = Group(name, work, key, " × ".join(counts), tasks[work], to_run[work], estimate)
    return Durations(sizes, works, groups)


def _measured(
    plan: Plan, store: Store, sizes: Sizes, works: Mapping[str, Work], names: Iterable[str]
) -> dict[str, dict[int, list[Measurement]]]:
    """By kind of task and size."""
    reader = _Reader(plan, store, sizes, works)
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    for key, work in works.items():
        wanted[plan.nodes[key].name].add(work.size)
    found: dict[str, dict[int, list[Measurement]]] = {}
    for name in names:
        of_kind = found[name] = defaultdict(list)
        for chunk in reader.chunks(name, len(wanted[name])):
            for size, measurement in reader.measurements(name, chunk):
                if size in wanted[name] and len(of_kind[size]) < EACH:
                    of_kind[size].append(measurement)
            if all(len(of_kind[size]) >= ENOUGH for size in wanted[name]):
                break
    return found


class _Reader:
    """Reads what earlier runs of a sweep left: all that they were about, whichever run made it."""

    def __init__(self, plan: Plan, store: Store, sizes: Sizes, works: Mapping[str, Work]) -> None:
        self._plan = plan
        self._store = store
        self._sizes = sizes
        self._works = works
        self._classes: dict[str, type[Task]] = {}
        self._fields: dict[str, int] = {}
        for node in plan.nodes.values():
            path = class_path(type(node.task))
            if path not in self._classes:
                self._classes[path] = type(node.task)
                self._fields[path] = len(input_fields(node.task))
        self._trainings: dict[str, Work | None] = {k: works[k] for k, n in plan.nodes.items() if n.kind == "train"}
        self._names = sorted({plan.nodes[key].name for key in self._trainings})
        self._about = set(plan.stored)
        names = (name for name in store.names(f"runs/{plan.sweep.name}") if name != "latest")
        for run in sorted(names, reverse=True)[:RUNS]:
            self._about |= set(
                (store.read(f"runs/{plan.sweep.name}/{run}/keys") or b"").decode(errors="replace").split()
            )

        self._held = {name: store.committed([name]) for name in self._names} if self._about else {}

    def chunks(self, name: str, sizes: int) -> Iterator[list[str]]:
        """Keys of artifacts of a kind in the order in which to read them, those of the plan first."""
        if not self._about:
            return
        held = self._held[name] if name in self._held else self._store.committed([name])
        own: defaultdict[Work, list[str]] = defaultdict(list)
        rest = []
        for key in sorted(held & self._about):  # keys are hashes: an order that has nothing to do with what they are
            if key in self._works:
                own[self._works[key]].append(key)
            else:
                rest.append(key)
        each = min(EACH, max(ENOUGH, MOST // sizes))
        first = [key for keys in own.values() for key in keys[:each]][:MOST]
        if first:
            yield first
        for start in range(0, min(len(rest), MOST), EACH):
            yield rest[start : start + EACH]

    def measurements(self, name: str, keys: Sequence[str]) -> Iterator[tuple[int, Measurement]]:
        """Size and duration of each that tells."""
        manifests = [m for m in self._manifests((name, key) for key in keys) if not m.get("resumed")]
        self._read_trainings({key for m in manifests for key in m.get("inputs", ())})
        for m in manifests:
            cls = self._classes.get(str(m.get("class")))
            seconds = m.get("seconds", -1.0)
            if cls is None or not 0 <= seconds < math.inf:
                continue
            inputs = m.get("inputs", ())
            subjects = [work for key in inputs if (work := self._trainings.get(key)) is not None]
            if m.get("kind") != "data" and len(subjects) != len(inputs) - self._fields[str(m.get("class"))]:
                continue  # what it was made from is gone: what it is about cannot be told
            work = self._sizes.of_manifest(m, cls, subjects)
            yield (
                work.size,
                Measurement(
                    float(seconds),
                    round(work.amount * _share_done(m, cls), 6),  # so that equal ones are equal
                    work.lengths,
                    str(m.get("device", "unknown")),
                    m.get("status") == "diverged",
                    (f"{m.get('run')} {m['worker']}", m["started"]) if "worker" in m and "started" in m else None,
                ),
            )

    def _read_trainings(self, keys: set[str]) -> None:
        unread = keys - self._trainings.keys()
        pairs = [(name, key) for name in self._names for key in sorted(unread & self._held[name])]
        for m in self._manifests(pairs):
            cls = self._classes.get(str(m.get("class")))
            known = cls is not None and m.get("kind") == "train"
            self._trainings[m["key"]] = self._sizes.of_manifest(m, cls, ()) if cls is not None and known else None

    def _manifests(self, pairs: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        return self._store.manifests(pairs, [])  # what is damaged tells nothing


def _share_done(manifest: Mapping[str, Any], cls: type[Task]) -> float:
    """What share of its amount a task came to, by its results of the same names."""
    spec, share = manifest.get("spec"), 1.0
    for field in cls.proportional_to:
        wanted = spec.get(field) if isinstance(spec, Mapping) else None
        done = manifest.get("results", {}).get(field)
        if _is_amount(wanted) and _is_amount(done):
            share *= min(done / wanted, 1.0)
    return share


class _Known:
    """What was measured of a kind of task."""

    def __init__(self, sizes: Sizes, measured: Mapping[int, Sequence[Measurement]]) -> None:
        self._sizes = sizes
        self._measured = {size: found for size, found in measured.items() if found}
        first: dict[str, float] = {}
        for process, started in (m.process for found in measured.values() for m in found if m.process is not None):
            first[process] = min(started, first.get(process, started))
        self._first = set(first.items())
        self._on: defaultdict[int, list[int]] = defaultdict(list)
        for size in self._measured:
            for training in sizes.trainings[size]:
                self._on[training].append(size)
        self._nearest: dict[Any, Estimate | None] = {}

    def estimate(self, work: Work) -> Estimate | None:
        """How long tasks of this work take; None if nothing was measured of their kind."""
        found = self._measured.get(work.size)
        return self.nearest(work) if found is None else reckoned(work, found, self._first)

    def nearest(self, work: Work) -> Estimate | None:
        """The mean over the sizes that were measured, each taken at this amount.

        Over those that work on one of the same trainings if there are any (pairs within a setting take what those
        across settings take), else over all of the kind.
        """
        trainings = self._sizes.trainings[work.size]
        near = dict.fromkeys(size for t in sorted(trainings) for size in self._on.get(t, ())[:EACH])
        about = (tuple(near), work.amount, work.lengths)
        if about not in self._nearest:
            known = [reckoned(work, self._measured[size], self._first) for size in near or self._measured]
            self._nearest[about] = None if not known else Estimate(tuple(e.mean for e in known), "others")
        return self._nearest[about]


def reckoned(work: Work, found: Sequence[Measurement], first: Container[Any] = ()) -> Estimate:
    """What measurements of a size say of tasks of an amount.

    Those of just this amount speak for themselves. Else a straight line is laid through those of several amounts
    (least squares); or where there is one amount, or the line is impossible, the longest are scaled: what a task
    does once is then counted with what it does each time, so that it errs on the side of too long.

    Args:
        first: processes in which the measurement was the first. What is scaled leaves these out where there are others.
    """
    alike = [m for m in found if m.lengths == work.lengths]
    elsewhere = not alike
    whole = [m for m in alike or found if not m.early]
    early = not whole
    used = whole or list(alike or found)
    same = [m for m in used if math.isclose(m.amount, work.amount)]
    warm = used if same else [m for m in used if m.process not in first]
    line = None
    if same:
        used, how = same, "measured"
    elif (line := _line(warm) or _line(used)) is not None:
        used, how = (warm if _line(warm) else used), "line"
    else:
        longest = max(m.amount for m in used)
        used = [m for m in warm if m.amount == longest] or [m for m in used if m.amount == longest]
        how = "scaled"
    fixed, each = line or (0.0, 0.0)
    seconds = []
    for m in used:
        now, then = (fixed + each * work.amount, fixed + each * m.amount) if line else (work.amount, m.amount)
        seconds.append(m.seconds if same else m.seconds * now / then)
    return Estimate(
        tuple(seconds),
        how,
        len(used),
        tuple(sorted({m.device for m in used})),
        tuple(sorted({m.amount for m in used})),
        sum(m.seconds for m in used) / len(used),
        sum(work.amount / m.amount for m in used) / len(used),
        fixed,
        each,
        elsewhere,
        early,
    )


def _line(found: Sequence[Measurement]) -> tuple[float, float] | None:
    """Seconds once and for each unit of the amount, by least squares; None if no duration can have them."""
    n = len(found)
    if len({m.amount for m in found}) < 2:
        return None
    x, y = sum(m.amount for m in found) / n, sum(m.seconds for m in found) / n
    slope = sum((m.amount - x) * (m.seconds - y) for m in found) / sum((m.amount - x) ** 2 for m in found)
    fixed = y - slope * x
    return (fixed, slope) if slope > 0 and fixed >= 0 else None
