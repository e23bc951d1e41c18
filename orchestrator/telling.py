"""What a run tells of itself as it goes on, so that whoever reads its events knows where it stands (see `standing`)."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tasks.task import Task

from .events import Events
from .graph import Graph, State
from .plan import Plan

WORKERS_TOLD = 100
"""Of how many workers the sign of life says what they are at; a cluster's thousand would make it too large."""


class Teller:
    """Puts what readers need into the events of a run.

    Args:
        slots: how many tasks can run at the same time.
    """

    def __init__(self, events: Events, plan: Plan, graph: Graph, slots: Callable[[], int]) -> None:
        self._events = events
        self._plan = plan
        self._graph = graph
        self._slots = slots
        self._slots_told = 0
        self._skipped_told = 0
        self._elsewhere = False  # whether a task has ever been left to another run
        self._at_work: dict[str, dict[str, Any]] = {}  # by bundle
        self._stored: list[dict[str, Any]] = []  # of trainings, to be told with the next event
        self._later: deque[tuple[str, dict[str, Any]]] = deque()  # from other threads

    def start(self, command: list[str]) -> None:
        """The run begins; what there is to do is known, and what is stored of it."""
        plan, graph = self._plan, self._graph
        sweep, self._slots_told = plan.sweep, max(self._slots(), 1)
        self._skipped_told = graph.counts[State.SKIPPED]
        search = {}
        if sweep.search is not None:
            name = type(sweep.search).__name__
            search = {"search": name, "samples": sweep.samples, "proposed": plan.proposals}
        self._events.emit(
            "run_started",
            command=command,
            tasks=len(plan.nodes),
            stored=len(plan.stored),
            slots=self._slots_told,
            kinds=graph.census(),
            expected=graph.expectations(),
            metric=sweep.metric,
            mode=sweep.mode,
            seeds=len(sweep.replicates),
            settings=len(plan.settings),
            **search,
        )
        self._tell_stored()

    def emit(self, event: str, **about: Any) -> None:
        """Record an event, and how many tasks are skipped if that has changed."""
        graph = self._graph
        if graph.counts[State.SKIPPED] != self._skipped_told:
            self._skipped_told = graph.counts[State.SKIPPED]
            about["skipped"] = {kind: n[State.SKIPPED] for kind, n in graph.by_kind.items() if n[State.SKIPPED]}
            if self._elsewhere:  # some of these may be skipped now
                about["elsewhere"] = {kind: n[State.ELSEWHERE] for kind, n in graph.by_kind.items()}
        self._elsewhere = self._elsewhere or event == "elsewhere"
        self._events.emit(event, **about)
        if self._slots_told:
            self._tell_stored()

    def later(self, event: str, **about: Any) -> None:
        """Record an event when the run next comes to it (may be called by any thread)."""
        self._later.append((event, about))

    def catch_up(self) -> None:
        """Record what has come from other threads."""
        while self._later:
            event, about = self._later.popleft()
            self.emit(event, **about)

    def of(self, key: str, event: str, results: Mapping[str, Any] | None = None, **about: Any) -> None:
        """Record an event of a task; of a training with its setting and seed, and its value if it has results.

        Listeners are told the results too.
        """
        node = self._plan.nodes[key]
        if node.kind == "train":
            trial = node.trials[0]
            about = {"setting": trial.setting.label, "seed": trial.replicate.label, **about}
            if results is not None:
                about["value"] = self._value(results) if about.get("status") != "diverged" else None
        self.emit(event, key=key, label=node.label, **about)
        if results is not None:
            self._events.tell("results", key=key, results=results, status=about.get("status"))

    def stored(self, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        """Take note of what earlier runs have left: the trainings are told of, setting by setting."""
        found: dict[str, dict[str, float | None]] = {}
        for key, manifest in manifests.items():
            node = self._plan.nodes[key]
            if node.kind == "train":
                value = None if manifest["status"] == "diverged" else self._value(manifest["results"])
                found.setdefault(node.trials[0].setting.label, {})[key] = value
        self._stored += [{"setting": setting, "values": values} for setting, values in found.items()]

    def _tell_stored(self) -> None:
        stored, self._stored = self._stored, []
        for about in stored:
            self._events.emit("stored", **about)

    def _value(self, results: Mapping[str, Any]) -> float | None:
        value = results.get(self._plan.sweep.metric)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
            return None
        return float(value)

    def slots_changed(self) -> None:
        """Nodes have come or gone."""
        slots = max(self._slots(), 1)
        if self._slots_told and slots != self._slots_told:
            self._slots_told = slots
            self.emit("slots", slots=slots)

    # What is true for a moment only goes to the listeners, and to the store with the next sign of life

    def at_work(
        self, bundle: str, worker: str, key: str | None = None, progress: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """A worker has been given a bundle, or reported which task of it it is at, and how far that is."""
        words = () if key is None else (progress_in_words(self._plan.nodes[key].task, p) for p in progress)
        doing = next((text for text in words if text), "")
        before = self._at_work.get(bundle, {})
        if not worker or (before.get("key") == (key or "") and before["doing"] == (doing or before["doing"])):
            return
        about = {"bundle": bundle, "worker": worker, "key": key or "", "doing": doing}
        self._at_work[bundle] = {"time": time.time(), **about}
        self._events.tell("at_work", **about)

    def heard(self, bundle: str, report: Mapping[str, Any]) -> None:
        """A worker has reported."""
        for key, progress in report.get("reports") or ():
            self._events.tell("reported", key=key, progress=progress)
        self.at_work(bundle, str(report.get("worker", "")), report.get("now"), report.get("progress") or ())

    def over(self, bundle: str) -> None:
        """A bundle has come to its end."""
        self._at_work.pop(bundle, None)

    def working(self) -> list[dict[str, Any]]:
        """What workers are at, for the sign of life (asked by its thread)."""
        return list(self._at_work.values())[:WORKERS_TOLD]


def progress_in_words(task: Task, progress: Mapping[str, Any]) -> str:
    """ "epoch 3 of 12": the first number reported of which the task has the plural as a field; "" if there is none."""
    for name, value in progress.items():
        total = getattr(task, f"{name}s", None)
        if type(value) is int and type(total) is int:
            return f"{name} {value} of {total}"
    return ""
