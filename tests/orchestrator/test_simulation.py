"""Runs in simulated time: what holds for every schedule, and for the nodes, the driver and the failures around it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.graph import Graph, State
from orchestrator.simulation import Failures, Simulated, Times, drawn, longest_path, simulate
from orchestrator.slots import NodeKind, shape_of

CPU = shape_of({"cpu": 1.0})
QUARTER = shape_of({"cpu": 1.0, "gpu": 0.25})
NOTHING = Times(start=0.0, worker=0.0, bundle=0.0, step=0.0, end=0.0, boot=0.0, launch=1.0, idle=0.0, notice=0.0)
"""Nothing but tasks takes time."""

Tasks = list[tuple[str, list[str], str, float]]


def machine(cpus: int) -> list[NodeKind]:
    """One machine, this one."""
    return [NodeKind("head", {"CPU": cpus}, 1, 1, head=True, dollars=1.0)]


class Watched(Graph):
    """Counts what is begun, and checks that inputs stand when a task is taken."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def take(self, *args: Any, **options: Any) -> list[str]:
        keys = super().take(*args, **options)
        for key in keys:
            self.begun[key] += 1
            assert all(self.state(name) is State.DONE for name in self.vertices[key].inputs)
        return keys

    def committed(self, key: str, seconds: float, **options: Any) -> None:
        self.ended[key] += 1
        super().committed(key, seconds, **options)


def graph_of(tasks: Tasks, *, shape: Any = CPU, bundle_seconds: float = 0.0, max_losses: int = 3) -> Watched:
    graph = Watched(bundle_seconds=bundle_seconds, max_losses=max_losses, max_moves=10**6)
    for key, inputs, kind, _ in tasks:
        graph.add(key, inputs, kind=kind, shape=shape)
    return graph


def seconds_of(tasks: Tasks) -> dict[str, float]:
    return {key: seconds for key, _, _, seconds in tasks}


@st.composite
def dags(draw: st.DrawFn, most: int = 25) -> Tasks:
    """Any graph of tasks of three kinds, whose durations need not be those of their kind."""
    tasks: Tasks = []
    for number in range(draw(st.integers(1, most))):
        inputs = draw(st.lists(st.sampled_from([t[0] for t in tasks]), max_size=3)) if tasks else []
        seconds = draw(st.integers(1, 400)) / 8
        tasks.append((f"t{number}", inputs, draw(st.sampled_from("abc")), seconds))
    return tasks


@given(tasks=dags(), slots=st.integers(1, 6), bundle=st.sampled_from([0.0, 20.0, 1000.0]))
@settings(max_examples=150, deadline=None)
def test_every_task_is_done_once_and_the_work_is_what_the_tasks_take(tasks: Tasks, slots: int, bundle: float) -> None:
    graph = graph_of(tasks, bundle_seconds=bundle)
    found = simulate(graph, machine(slots), seconds_of(tasks))
    assert graph.begun == graph.ended == Counter(seconds_of(tasks).keys())
    assert found.busy == pytest.approx(found.work) == pytest.approx(sum(seconds_of(tasks).values()))
    assert found.seconds >= found.bound >= max(found.longest, found.work / slots) - 1e-9
    assert found.workers <= slots
    assert found.dollars == pytest.approx(found.seconds / 3600)


@given(tasks=dags(), slots=st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_the_schedule_is_a_list_schedule(tasks: Tasks, slots: int) -> None:
    """Graham's bound, for any order of priority: work/slots + longest path × (1 - 1/slots)."""
    found = simulate(graph_of(tasks), machine(slots), seconds_of(tasks), times=NOTHING)
    assert found.seconds <= found.work / slots + found.longest * (1 - 1 / slots) + 1e-6


@given(tasks=dags(), slots=st.integers(1, 5), more=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_more_slots_are_never_much_worse(tasks: Tasks, slots: int, more: int) -> None:
    """Graham's anomalies: with more machines a list schedule may be longer, but only by so much."""
    few = simulate(graph_of(tasks), machine(slots), seconds_of(tasks), times=NOTHING)
    many = simulate(graph_of(tasks), machine(slots + more), seconds_of(tasks), times=NOTHING)
    assert many.seconds <= few.seconds * (1 + (slots - 1) / (slots + more)) + 1e-6


@given(tasks=dags(most=6), slots=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_against_the_best_schedule_there_is(tasks: Tasks, slots: int) -> None:
    found = simulate(graph_of(tasks), machine(slots), seconds_of(tasks), times=NOTHING)
    best = best_schedule(tasks, slots)
    assert found.bound <= best + 1e-9
    assert best - 1e-9 <= found.seconds <= best * (2 - 1 / slots) + 1e-6


def best_schedule(tasks: Tasks, slots: int) -> float:
    """The least makespan, by trying every order: each task as early as its inputs and some slot permit."""
    about = {key: (inputs, seconds) for key, inputs, _, seconds in tasks}
    best = sum(seconds for _, seconds in about.values())
    for order in itertools.permutations(about):
        ends: dict[str, float] = {}
        free = [0.0] * slots
        for key in order:
            inputs, seconds = about[key]
            if any(name not in ends for name in inputs):
                break
            begin = max(free[0], max((ends[name] for name in inputs), default=0.0))
            ends[key] = begin + seconds
            free = sorted([*free[1:], ends[key]])
        else:
            best = min(best, max(ends.values()))
    return best


@given(tasks=dags(), slots=st.integers(1, 4), seed=st.integers(0, 5), snapshots=st.booleans())
@settings(max_examples=100, deadline=None)
def test_with_failures_every_task_is_still_done_once_and_no_work_is_saved(
    tasks: Tasks, slots: int, seed: int, snapshots: bool
) -> None:
    kinds = [
        NodeKind("head", {"CPU": 0}, 1, 1, head=True),
        NodeKind("node", {"CPU": 1}, slots, slots),
    ]
    failures = Failures(workers=30.0, nodes={"node": 10.0}, snapshots=dict.fromkeys("abc", 1.0) if snapshots else {})
    graph = graph_of(tasks, max_losses=10**6)
    seconds = seconds_of(tasks)
    found = simulate(graph, kinds, seconds, failures=failures, seed=seed)
    assert all(graph.state(key) is State.DONE for key in seconds)
    assert graph.ended == Counter(seconds.keys())
    assert found.busy == pytest.approx(found.work + found.lost)
    assert found.lost >= 0
    assert found.seconds >= found.bound
    again = simulate(graph_of(tasks, max_losses=10**6), kinds, seconds, failures=failures, seed=seed)
    assert again == found


def test_failures_only_lengthen() -> None:
    """A chain leaves the schedule no choice, so nothing but what is lost can make a difference."""
    tasks: Tasks = [(f"t{n}", [f"t{n - 1}"] if n else [], "a", 600.0) for n in range(12)]

    def run(per_hour: float, snapshots: float, seed: int) -> Simulated:
        failures = Failures(workers=per_hour, snapshots={"a": snapshots} if snapshots else {})
        return simulate(graph_of(tasks, max_losses=10**6), machine(1), seconds_of(tasks), failures=failures, seed=seed)

    undisturbed = run(0.0, 0.0, 0)
    assert undisturbed.lost == 0
    for seed in range(5):
        anew, saved = run(6.0, 0.0, seed), run(6.0, 60.0, seed)
        assert undisturbed.seconds < saved.seconds < anew.seconds
        assert anew.seconds - undisturbed.seconds >= anew.lost
        assert saved.tasks > 12 and saved.workers == 1 + saved.tasks - 12
        assert saved.lost <= 60.0 * (saved.tasks - 12)


def test_a_task_that_comes_no_further_three_times_has_failed() -> None:
    """As in a real run: a process that dies again and again at work on a task is the task's fault."""
    graph = graph_of([("a", [], "a", 1e6), ("b", ["a"], "a", 1.0)])
    simulate(graph, machine(1), {"a": 1e6, "b": 1.0}, failures=Failures(workers=60.0))
    assert graph.state("a") is State.FAILED
    assert graph.state("b") is State.SKIPPED


def test_a_slot_that_no_node_has_is_refused() -> None:
    graph = graph_of([("a", [], "a", 1.0)], shape=QUARTER)
    with pytest.raises(ValueError, match="gpu"):
        simulate(graph, machine(4), {"a": 1.0})


def test_shares_of_a_gpu_lie_on_one_device() -> None:
    tasks: Tasks = [(f"t{n}", [], "a", 100.0) for n in range(8)]
    shape = shape_of({"cpu": 0.0, "gpu": 0.4})
    found = simulate(graph_of(tasks, shape=shape), [NodeKind("n", {"GPU": 2}, 1, 1)], seconds_of(tasks), times=NOTHING)
    assert found.slots == 4
    assert found.seconds == 200.0


def test_tasks_of_two_shapes_share_what_there_is() -> None:
    """Idle workers of one shape end where another is wanted; a process of the other then has to start."""
    graph = Watched(bundle_seconds=0.0)
    wide = shape_of({"cpu": 2.0})
    for n in range(4):
        graph.add(f"w{n}", [], kind="wide", shape=wide)
    for n in range(4):
        graph.add(f"n{n}", [f"w{m}" for m in range(4)], kind="narrow", shape=CPU)
    seconds = dict.fromkeys(graph.vertices, 10.0)
    times = replace(NOTHING, worker=3.0)
    found = simulate(graph, machine(4), seconds, times=times)
    assert graph.ended == Counter(seconds.keys())
    assert found.seconds == pytest.approx(3 + 10 + 10 + 3 + 10)
    assert found.workers == 2 + 4


def test_the_driver_hands_out_one_bundle_after_the_other() -> None:
    tasks: Tasks = [(f"t{n}", [], "a", 1.0) for n in range(100)]
    times = replace(NOTHING, bundle=0.5)
    alone = simulate(graph_of(tasks), machine(100), seconds_of(tasks), times=times)
    assert alone.seconds == pytest.approx(100 * 0.5 + 1.0)
    assert alone.bundles == 100
    graph = graph_of(tasks, bundle_seconds=10.0)
    graph.expect("a", 1.0)
    bundled = simulate(graph, machine(5), seconds_of(tasks), times=times)
    assert bundled.bundles < 30
    assert bundled.seconds < 0.6 * 50


def test_where_there_are_many_slots_bundles_last_long_enough_for_the_driver() -> None:
    """A driver of 40 bundles a second cannot keep 300 slots busy with tasks of one second."""
    tasks: Tasks = [(f"t{n}", [], "a", 1.0) for n in range(30_000)]
    graph = graph_of(tasks, bundle_seconds=1.0)
    graph.expect("a", 1.0)
    found = simulate(graph, machine(300), seconds_of(tasks))
    assert found.bound == 100.0
    assert found.seconds < 1.3 * found.bound


GPUS = [
    NodeKind("head", {"CPU": 0}, 1, 1, head=True, dollars=0.2),
    NodeKind("gpu", {"CPU": 8, "GPU": 1}, 0, 4, dollars=3.0),
]


def test_nodes_are_booted_on_demand_and_let_go_when_idle() -> None:
    """Sixteen slots for the fan, one for the long tail: three of four nodes are let go meanwhile."""
    tasks: Tasks = [("data", [], "data", 30.0)]
    tasks += [(f"t{n}", ["data"], "train", 600.0) for n in range(16)]
    tasks += [("tail", [f"t{n}" for n in range(16)], "tail", 7200.0)]
    times = Times(boot=180.0, idle=300.0, launch=5.0)
    found = simulate(graph_of(tasks, shape=QUARTER), GPUS, seconds_of(tasks), times=times)
    assert found.peak_nodes == {"head": 1, "gpu": 4}
    assert found.node_hours["head"] == pytest.approx(found.seconds / 3600)
    # Nodes are asked for while the data set is made, one by one at first; each pays its boot, and its idle end.
    three = 3 * (180 + 600 + 300) / 3600
    one = (found.seconds + 300) / 3600
    assert found.node_hours["gpu"] == pytest.approx(three + one, rel=0.1)
    assert found.gpu_hours == pytest.approx(found.node_hours["gpu"])
    assert found.dollars == pytest.approx(0.2 * found.node_hours["head"] + 3 * found.node_hours["gpu"])
    assert 180 + 30 + 600 + 7200 <= found.seconds <= 180 + 30 + 600 + 7200 + 120


def test_no_more_nodes_than_are_wanted_or_allowed() -> None:
    tasks: Tasks = [("data", [], "data", 30.0), *((f"t{n}", ["data"], "train", 600.0) for n in range(7))]
    found = simulate(graph_of(tasks, shape=QUARTER), GPUS, seconds_of(tasks))
    assert found.peak_nodes["gpu"] == 2  # eight slots for eight tasks
    limited = simulate(graph_of(tasks, shape=QUARTER), GPUS, seconds_of(tasks), at_most=1)
    assert limited.peak_nodes["gpu"] == 1
    assert limited.seconds > found.seconds


def test_of_nodes_that_suit_equally_well_the_one_is_asked_for_whose_name_sorts_last() -> None:
    """As Ray does it: so cluster files name spot machines."""
    tasks: Tasks = [("data", [], "data", 30.0), *((f"t{n}", ["data"], "train", 600.0) for n in range(7))]
    kinds = [GPUS[0], *(replace(GPUS[1], name=name) for name in ("gpu-on-demand", "gpu-spot"))]
    found = simulate(graph_of(tasks, shape=QUARTER), kinds, seconds_of(tasks), at_most=4)
    assert found.peak_nodes == {"head": 1, "gpu-spot": 2}


def test_a_price_that_is_not_known_leaves_hours_only() -> None:
    kinds = [GPUS[0], replace(GPUS[1], dollars=None)]
    found = simulate(graph_of([("a", [], "a", 60.0)], shape=QUARTER), kinds, {"a": 60.0})
    assert found.dollars is None
    assert found.node_hours["gpu"] > 0


def test_durations_are_drawn_from_what_was_measured() -> None:
    graph = graph_of([(f"t{n}", [], "ab"[n % 2], 0.0) for n in range(100)])
    graph.add("old", [], kind="never measured", stored=True)
    samples = {"a": [1.0, 2.0], "b": [5.0]}
    first = drawn(graph, samples, 0)
    assert set(first) == set(graph.vertices) - {"old"}
    assert {first[k] for k in first if graph.vertices[k].kind == "a"} == {1.0, 2.0}
    assert {first[k] for k in first if graph.vertices[k].kind == "b"} == {5.0}
    assert drawn(graph, samples, 0) == first != drawn(graph, samples, 1)


def test_the_longest_path_counts_only_what_is_to_run() -> None:
    graph = Graph()
    graph.add("a", kind="a", stored=True)
    graph.add("b", ["a"], kind="a")
    graph.add("c", ["a", "b"], kind="a")
    assert longest_path(graph, {"b": 2.0, "c": 3.0}) == 5.0
