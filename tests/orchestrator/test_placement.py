"""Where tasks run, on a real cluster of nodes with declared GPUs, labels and accelerators; and what has no place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import RayCluster
from driven import Driver
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from toys import Curvature, Fit, Points

from orchestrator import search
from orchestrator.errors import ClusterError
from orchestrator.plan import make_plan
from orchestrator.room import Room
from orchestrator.run import wanted_slots
from orchestrator.slots import (
    NodeKind,
    NodeOffer,
    check_feasible,
    checked_slot,
    label_selector,
    selects,
    shape_of,
    slot_of,
)
from orchestrator.store import Store
from orchestrator.sweep import Sweep

# What can be asked for


def test_a_slot_is_the_same_after_it_was_a_shape() -> None:
    slot = checked_slot({"gpu": 0.5, "accelerator": "H100", "labels": {"pool": "in(a, b)", "zone": "!c"}}, "slot")
    assert slot_of(shape_of(slot)) == slot
    assert hash(shape_of(slot)) == hash(shape_of(dict(reversed(slot.items()))))
    assert label_selector(slot, without=["b2", "a1"]) == {
        "pool": "in(a, b)", "zone": "!c", "ray.io/node-id": "!in(a1,b2)"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "labels", "admitted"),
    [
        ("a", {"x": "a"}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!a", {"x": "a"}, False),
        ("in(a, b)", {"x": "b"}, True),
        ("in(a,b)", {"x": "c"}, False),
        ("!in(a,b)", {"x": "b"}, False),
        ("!in(a,b)", {}, True),
    ],
)
def test_labels_select_as_ray_does(wanted: str, labels: dict[str, str], admitted: bool) -> None:
    assert selects({"x": wanted}, labels) is admitted


NODES = [
    NodeOffer("g", "g", {"CPU": 8.0, "GPU": 2.0, "memory": 1e9, "accelerator_type:A100": 1.0}, {"pool": "a"}),
    NodeOffer("c", "c", {"CPU": 64.0, "memory": 8e9}),
]


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ({"cpu": 100}, "A slot of Fit asks for 100 CPU, but no node has more than 64: lower it"),
        ({"gpu": 4}, "4 GPU, but no node has more than 2"),
        ({"gpu": 1, "accelerator": "A10"}, "accelerator A10 (did you mean 'A100'?), but nodes have A100"),
        ({"labels": {"pool": "b"}}, "label pool=b, but nodes have a: start nodes with it"),
        ({"labels": {"rack": "b"}}, "label rack=b, but no node has that label"),
        ({"gpu": 1, "cpu": 16}, "asks for cpu 16, gpu 1, which no single node has (the best has"),
    ],
)
def test_what_no_node_has_is_named(slot: dict[str, Any], words: str) -> None:
    wanted = {"Fit": checked_slot(slot, "slot")}
    with pytest.raises(ClusterError) as error:
        check_feasible(wanted, NODES)
    assert words in str(error.value)
    enough = {"CPU": 128.0, "GPU": 8.0, "memory": 1e12, "accelerator_type:A10": 1.0}
    check_feasible(wanted, NODES, [NodeKind("more", enough, 0, 1, {"pool": "b", "rack": "b"})])
    with pytest.raises(ClusterError, match="nor may one be added"):
        check_feasible(wanted, NODES, [NodeKind("more", enough, 0, 0)])


def test_slots_of_what_a_search_has_yet_to_propose_are_looked_at_too(tmp_path: Path) -> None:
    sweep = Sweep(
        train=Fit(rho=tune.uniform(0, 1)), seeds=[0], probes=[Curvature()], search=OptunaSearch(seed=0),
        slot={"cpu": 1}, slots={Curvature: {"gpu": 1}, Points: {"cpu": 4}},
    )  # fmt: skip
    assert wanted_slots(make_plan(sweep, Store(str(tmp_path)), [])) == {
        "Fit": {"cpu": 1.0}, "Curvature": {"cpu": 1.0, "gpu": 1.0}, "Points": {"cpu": 4.0},
    }  # fmt: skip


# The order in which it is had


def test_the_large_and_urgent_is_not_starved_and_nothing_waits_for_all_to_end(tmp_path: Path) -> None:
    """A probe on a whole GPU after each training; smaller ones go on beside."""
    room = Room([NodeOffer("g", "g", {"CPU": 8.0, "GPU": 2.0})])
    sweep = Sweep(
        train=Fit(), seeds=range(12), probes=[Curvature()],
        slot={"cpu": 1, "gpu": 0.5}, slots={Curvature: {"cpu": 1, "gpu": 1}},
    )  # fmt: skip
    driver = Driver(sweep, Store(str(tmp_path)), room=room)
    driver.search.graph.expect("Curvature", 100.0)  # so that each is more urgent than any training that is left
    order = []
    while not driver.fill():
        order += [driver.plan.nodes[k].name for t in driver.trials.values() for k in t.bundle.keys]
        busy = [place for place in room.places() if not place.idle]
        assert sum(slot_of(place.shape)["gpu"] for place in busy) <= 2
        driver.advance()
    assert set(driver.machines.committed.values()) == {1}
    first_probe = order.index("Curvature")
    assert "Fit" in order[first_probe:]  # no barrier between trainings and probes


def test_a_run_without_a_node_for_what_is_left_ends_with_a_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(search, "NOWHERE", 0.0)
    both = [NodeOffer("g", "g", {"CPU": 8.0, "GPU": 1.0}), NodeOffer("c", "c", {"CPU": 1.0})]
    room = Room(both)
    sweep = Sweep(train=Fit(), seeds=range(2), probes=[Curvature()], slots={Curvature: {"cpu": 1, "gpu": 1}})
    driver = Driver(sweep, Store(str(tmp_path)), room=room)
    assert room.slots(shape_of({"cpu": 1.0, "gpu": 1.0})) == 1
    room.update(both[1:])  # the only node with a GPU is gone
    driver.fill()
    for _ in range(3):  # the dataset and the trainings: what can run goes on first
        for trial in driver.trials.values():
            driver.search.on_trial_result(trial.trial_id, {"node": "c"})
        for _ in range(2):
            assert driver.search.suggest("more") is None
            assert driver.search.halted is None
        driver.advance()
        if driver.trials or len(driver.machines.committed) < 3:
            driver.fill()
    assert len(driver.machines.committed) == 3
    for _ in range(3):
        driver.search.suggest("more")
    assert driver.search.halted == (
        "No node is left that has the slot of 2 tasks (Curvature): cpu 1, gpu 1: "
        "start one that has it and run the same command again."
    )


# A real cluster

SWEEP = """
import time
from dataclasses import dataclass

import ray
from orchestrator import Sweep
from tasks.task import Probe, Task


def here(seconds):
    time.sleep(seconds)
    context = ray.get_runtime_context()
    (gpu, *_) = context.get_accelerator_ids().get("GPU") or ["-1"]
    return {"node": int(context.get_node_id()[:12], 16), "gpu": int(gpu)}


@dataclass(frozen=True)
class Fit(Task):
    streams = ("init",)

    def run(self, ctx):
        return here(1.0)


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, fit):
        return here(0.2)


@dataclass(frozen=True)
class Count(Probe):
    def run(self, ctx, fit):
        return here(0.2)


@dataclass(frozen=True)
class Dig(Probe):
    def run(self, ctx, fit):
        return here(0.2)


sweep = Sweep(
    train=Fit(), seeds=range(4), probes=[Look(), Count(), Dig()], metric="gpu",
    slot={"cpu": 1, "gpu": 0.5},
    slots={
        Look: {"cpu": 1, "gpu": 0.5, "labels": {"pool": "probes"}},
        Count: {"cpu": 1},
        Dig: {"cpu": 1, "gpu": 1, "accelerator": "H100"},
    },
)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_tasks_run_where_their_slots_are(tmp_path: Path) -> None:
    """Labels, an accelerator, shared GPUs, and what needs no GPU on the node without."""
    nodes = [
        {"cpus": 3, "gpus": 1, "labels": {"pool": "probes"}},
        {"cpus": 3, "gpus": 1, "resources": {"accelerator_type:H100": 1}},
        {"cpus": 4},
    ]
    (tmp_path / "mixed.py").write_text(SWEEP)
    with RayCluster(nodes) as cluster:
        probes, large, plain = (int(cluster.id(name)[:12], 16) for name in cluster.nodes)
        command = [sys.executable, "-m", "orchestrator", "sweep", "mixed.py", "--address", cluster.address]
        done = subprocess.run(
            [*command, "--store", "store"], cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        refused = subprocess.run(
            [*command, "--store", "other", "--set", 'slot={"gpu": 0.5, "accelerator": "H10"}'],
            cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert refused.returncode == 2
    assert "A slot of Fit asks for accelerator H10 (did you mean 'H100'?), but nodes have H100" in refused.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for path in (tmp_path / "store/artifacts").glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        found.setdefault(manifest["task"], []).append(manifest["results"])
    assert {name: len(results) for name, results in found.items()} == dict.fromkeys(("Fit", "Look", "Count", "Dig"), 4)
    assert {r["node"] for r in found["Fit"]} <= {probes, large}
    assert {r["node"] for r in found["Look"]} == {probes}
    assert {r["node"] for r in found["Dig"]} == {large}
    assert {r["node"] for r in found["Count"]} == {plain}
    assert {r["gpu"] for name in ("Fit", "Look", "Dig") for r in found[name]} == {0}
    assert {r["gpu"] for r in found["Count"]} == {-1}
