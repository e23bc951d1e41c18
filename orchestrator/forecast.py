"""What a run of a plan would take on a cluster: how long its tasks took before, and the run in simulated time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .events import read_events
from .graph import Graph, State
from .keys import canonical
from .plan import Plan
from .simulation import USUAL, Simulated, Times, drawn, simulate
from .slots import NodeKind, NodeOffer, check_feasible, default_slot
from .store import Store

SEEDS = 5
"""Runs that are simulated, each with durations drawn anew; of very large plans only one."""

MANY = 20_000

WORKER_SECONDS = {True: 6.0, False: 2.5}
"""Start of a worker process, if tasks import torch and if not."""


@dataclass(frozen=True)
class Measured:
    """How long tasks of a kind took.

    Attributes:
        seconds: of each that was looked at.
        devices: they ran on; empty if the durations were stated by hand.
    """

    seconds: tuple[float, ...]
    devices: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        return sum(self.seconds) / len(self.seconds)


@dataclass(frozen=True)
class Forecast:
    """Simulated runs, which differ in the durations drawn from those measured."""

    runs: tuple[Simulated, ...]

    def range_of(self, what: str) -> dict[str, float] | None:
        """Mean, least and greatest of a figure; None if it is not known."""
        found = [getattr(run, what) for run in self.runs]
        if any(value is None for value in found):
            return None
        return {"mean": sum(found) / len(found), "low": min(found), "high": max(found)}

    def node_hours(self) -> dict[str, float]:
        """By kind of node, on average."""
        kinds = {kind: None for run in self.runs for kind in run.node_hours}
        return {kind: sum(run.node_hours.get(kind, 0.0) for run in self.runs) / len(self.runs) for kind in kinds}

    def peak_nodes(self) -> dict[str, int]:
        """The most nodes at a time, by kind."""
        kinds = {kind: None for run in self.runs for kind in run.peak_nodes}
        return {kind: max(run.peak_nodes.get(kind, 0) for run in self.runs) for kind in kinds}


def measured(plan: Plan, store: Store, stated: Mapping[str, float], sample: int = 100) -> dict[str, Measured]:
    """Durations by kind of task: stated, or of earlier runs of this sweep that did work of the same size.

    Fields that are fractional numbers (a learning rate, a radius) are taken not to change the amount of work, all
    others are: three epochs tell nothing of twelve, nor probes of a small network of those of a large one.
    """
    tasks: dict[str, dict[int, Any]] = {}
    for node in plan.nodes.values():
        tasks.setdefault(node.name, {})[id(node.task)] = node.task
    sizes = {name: {_size(canonical(task)) for task in of.values()} for name, of in tasks.items()}
    trainings = {node.name for node in plan.nodes.values() if node.kind == "train"}
    found = {}
    for name in tasks:
        if name in stated:
            found[name] = Measured((stated[name],))
            continue
        manifests = [m for m in _past(plan, store, name, sample) if _size(m.get("spec")) in sizes[name]]
        if name not in trainings:
            manifests = list(_on_alike(manifests, store, trainings, sizes))
        if manifests:
            seconds = tuple(float(m["seconds"]) for m in manifests)
            found[name] = Measured(seconds, tuple(sorted({str(m.get("device", "unknown")) for m in manifests})))
    return found


def _past(plan: Plan, store: Store, name: str, sample: int) -> Iterator[Mapping[str, Any]]:
    runs = f"runs/{plan.sweep.name}/"
    keys = sorted(store.committed([name]))[:sample]
    for m in store.manifests(((name, key) for key in keys), []):  # what is damaged tells nothing
        if "seconds" in m and str(m.get("run")).startswith(runs) and not m.get("resumed"):
            yield m


def _on_alike(
    manifests: Sequence[Mapping[str, Any]], store: Store, trainings: set[str], sizes: Mapping[str, set[str]]
) -> Iterator[Mapping[str, Any]]:
    """Those of the artifacts that were made from trainings of the same size as the plan's."""
    held = {name: store.committed([name]) for name in trainings}
    wanted = {(name, key) for m in manifests for key in m.get("inputs", ()) for name in trainings if key in held[name]}
    pairs = sorted(wanted)
    others = {m["key"] for m in store.manifests(pairs, []) if _size(m.get("spec")) not in sizes[m.get("task", "")]}
    for m in manifests:
        if not others & set(m.get("inputs", ())):
            yield m


def _size(spec: Any) -> str:
    """A canonical form without its fractional numbers."""

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: without(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [without(v) for v in value]
        return "a number" if isinstance(value, float) else value

    return json.dumps(without(spec), sort_keys=True)


def past_times(plan: Plan, store: Store) -> Times:
    """What takes time besides tasks; start-up and worker start as they were in the newest run of the sweep that tells.

    Without one, what was measured of small sweeps.
    """
    usual = dataclasses.replace(USUAL, worker=WORKER_SECONDS[plan.imports("torch")])
    for run in sorted(store.names(f"runs/{plan.sweep.name}"), reverse=True)[:5]:
        events = list(read_events(store, f"runs/{plan.sweep.name}/{run}"))
        startup = next((e.get("startup") for e in events if e["event"] == "run_finished"), None)
        handed_out = [e["time"] for e in events if e["event"] == "submitted"]
        begun = [e["time"] - e["seconds"] for e in events if e["event"] == "committed"]
        if isinstance(startup, (int, float)) and startup > 0 and handed_out and begun:
            return dataclasses.replace(usual, start=float(startup), worker=max(min(begun) - min(handed_out), 0.0))
    return usual


def unknown_kinds(plan: Plan, durations: Mapping[str, Measured]) -> list[str]:
    """Names of the tasks that are to run but of which no duration is known."""
    todo = {node.name: None for node in plan.nodes.values() if node.key not in plan.stored}
    return [name for name in todo if name not in durations]


def forecast(
    plan: Plan,
    store: Store,
    kinds: Sequence[NodeKind],
    durations: Mapping[str, Measured],
    *,
    times: Times,
    at_most: int | None = None,
    stopped: Container[str] = (),
) -> Forecast:
    """Simulate what is to run.

    Args:
        durations: of every kind of task that is to run.
        times: what else takes time, see `past_times`.
        at_most: nodes at a time besides the head.
        stopped: trainings that a scheduler stopped in an earlier run.

    Raises:
        ClusterError: no kind of node has a slot that is asked for.
    """
    usual = plan.sweep.slot or default_slot(gpus=any(kind.resources.get("GPU") for kind in kinds))
    plan.sweep = dataclasses.replace(plan.sweep, slot=usual)
    wanted: dict[str, Mapping[str, Any]] = {}
    for node in plan.nodes.values():
        if node.key not in plan.stored:
            wanted.setdefault(node.name, plan.slot(node))
    heads = [NodeOffer(k.name, k.name, k.resources, k.labels) for k in kinds if k.head]
    check_feasible(wanted, heads, [k for k in kinds if not k.head])
    graph = Graph()
    watched = plan.sweep.search is not None or plan.sweep.scheduler is not None
    plan.add_to(graph, plan.nodes.values(), store, stopped=stopped, watched=watched, set_aside=False)
    samples: dict[Hashable, Sequence[float]] = {name: found.seconds for name, found in durations.items()}
    runs = []
    spread = any(len(seconds) > 1 for seconds in samples.values())
    for seed in range(SEEDS if spread and len(graph.vertices) < MANY else 1):
        own = again(graph)
        for name, found in durations.items():
            own.expect(name, found.mean)
        runs.append(simulate(own, kinds, drawn(own, samples, seed), times=times, seed=seed, at_most=at_most))
    return Forecast(tuple(runs))


def again(graph: Graph) -> Graph:
    """The same graph, of which nothing has run."""
    new = Graph()
    for vertex in graph.vertices.values():
        new.add(
            vertex.key,
            vertex.inputs,
            kind=vertex.kind,
            shape=vertex.shape,
            alone=vertex.alone,
            stored=vertex.state is State.STORED,
            barren=vertex.barren,
            stopped=vertex.state is State.SKIPPED,
        )
    return new
