"""What a run of a plan would take on a cluster: the run in simulated time, with durations that are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .durations import Durations
from .events import read_events
from .graph import Graph, State
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
class Forecast:
    """Simulated runs, which differ in the durations drawn from those known."""

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


def forecast(
    plan: Plan,
    store: Store,
    kinds: Sequence[NodeKind],
    durations: Durations,
    *,
    times: Times,
    at_most: int | None = None,
    stopped: Container[str] = (),
) -> Forecast | None:
    """Simulate what is to run.

    Args:
        durations: of every kind of task that is to run.
        times: what else takes time, see `past_times`.
        at_most: nodes at a time besides the head.
        stopped: trainings that a scheduler stopped in an earlier run.

    Returns:
        None if something is to run, being damaged, of which nothing is known.

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
    samples: dict[Hashable, Sequence[float]] = {
        work: group.estimate.seconds for work, group in durations.groups.items() if group.estimate is not None
    }
    if any(durations.works[key] not in samples for key, v in graph.vertices.items() if not v.state.final):
        return None
    runs = []
    spread = any(len(seconds) > 1 for seconds in samples.values())
    for seed in range(SEEDS if spread and len(graph.vertices) < MANY else 1):
        own = again(graph)
        for name in durations.known():
            own.expect(name, durations.mean(name))
        seconds = drawn(own, samples, seed, durations.works)
        runs.append(simulate(own, kinds, seconds, times=times, seed=seed, at_most=at_most))
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
