"""Tasks go where their inputs lie, if that costs no waiting; where they go changes no byte."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli import TOY, counts, orchestrate
from cluster import RayCluster
from metered import metered
from s3 import S3Server

from orchestrator.decisions import Decisions
from orchestrator.events import Events
from orchestrator.locality import Locality
from orchestrator.plan import make_plan
from orchestrator.room import Room
from orchestrator.search import DagSearch
from orchestrator.slots import NodeOffer
from orchestrator.store import Store
from orchestrator.tamed import IdleWorkers

INPUTS = {"look-a": ("a", "data"), "look-b": ("b", "data"), "pair": ("a", "b", "data"), "data": ()}


def three_nodes(idle: list[str]) -> Locality:
    locality = Locality(INPUTS.__getitem__, lambda: idle)
    for node, here in {"x": {"data": 10, "a": 4}, "y": {"data": 10, "b": 5}, "z": {"nobody": 100}}.items():
        locality.hear(node, {"here": here}, lambda key: key != "nobody")
    return locality


def test_what_is_preferred_depends_on_who_is_idle() -> None:
    idle: list[str] = []
    locality = three_nodes(idle)
    assert locality.preference() is None
    idle.append("x")
    prefer = locality.preference()
    assert prefer is not None
    assert [prefer(task) for task in INPUTS] == [1.0, 10 / 15, 14 / 19, 0.0]
    locality.promise("bundle-1", ["look-a"])
    assert locality.preference() is None  # the only idle worker is as good as taken
    idle.append("z")
    assert locality.preference() is not None
    locality.begun("bundle-1")
    locality.hear("x", {"gone": ["a"]}, lambda key: True)
    prefer = locality.preference()
    assert prefer is not None and prefer("look-a") == 10 / 14


def test_a_bundle_gets_the_worker_nearest_to_its_inputs() -> None:
    locality = three_nodes(["x", "y"])
    nodes = [None, "z", "x", "y", "y"]
    assert locality.nearest("1", ["look-a"], nodes) == 2
    assert locality.nearest("2", ["look-b"], nodes) == 3
    assert locality.nearest("3", ["pair"], nodes) == 3
    assert locality.nearest("4", [], nodes) == 0  # whoever has waited longest
    assert locality.nearest("5", ["look-a"], ["z"]) == 0
    locality.promise("6", ["look-a"])
    assert locality.nearest("7", ["data"], ["x", "y"]) == 1  # the other was promised


@pytest.mark.slow
def test_of_equally_urgent_tasks_the_one_near_an_idle_worker_is_suggested(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(TOY)
    from orchestrator.sweep_file import load_sweep

    store = Store(s3.uri("suggest"))
    plan = make_plan(load_sweep(str(tmp_path / "study.py")), store)
    fits = [node for node in plan.nodes.values() if node.name == "Fit"]
    for node in fits:
        folder = store.workspace()
        (folder / "w.txt").write_text("0.5")
        store.commit(node.name, node.key, folder, {**node.spec(), "status": "done", "results": {"val_accuracy": 0.1}})
    plan.look_up(store, list(plan.nodes.values()))

    def search(idle: list[str]) -> Any:
        return DagSearch(
            plan,
            store,
            Events(store, "runs/toy/r"),
            room=Room([NodeOffer("node", "host", {"CPU": 4.0})]),
            run={},
            decisions=Decisions(plan.sweep, store),
            idle=lambda: idle,
        )

    def suggested(idle: list[str]) -> str:
        """Upon which fit the first bundle looks, when a worker has told that its node has the last of them."""
        one = search(idle)
        news = [{"here": {fits[-1].key: 1000, "unknown": 5}}]
        shape = one.graph.shapes()[0]
        one._hand_out("warm", [], shape, b"", one._room.take(shape, "warm"))
        one.on_trial_result("warm", {"outcomes": [], "node": "here", "cache": news})
        answer = one.suggest("trial")
        (key,) = answer["bundle"].keys
        assert plan.nodes[key].inputs[0] in {fit.key for fit in fits}
        return str(plan.nodes[key].inputs[0])

    assert suggested([]) == fits[0].key
    assert suggested(["elsewhere"]) == fits[0].key
    assert suggested(["elsewhere", "here"]) == fits[-1].key


@pytest.mark.usefixtures("ray_here")
@pytest.mark.slow
def test_tune_has_the_idle_workers_that_are_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    """The private parts of Tune that this rests on are there, in this version."""
    import ray

    (tmp_path / "study.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    asked: list[str | None] = []
    nearest = Locality.nearest

    def choose(self: Any, bundle: str, tasks: Any, nodes: Any) -> int:
        asked.extend(nodes)
        return nearest(self, bundle, tasks, nodes)

    monkeypatch.setattr(Locality, "nearest", choose)
    code, lines, _ = orchestrate(capsys, "sweep", "study.py")
    assert code == 0 and counts(lines)["failed"] == 0
    assert set(asked) == {ray.nodes()[0]["NodeID"]}


def test_tune_takes_the_idle_worker_that_was_chosen() -> None:
    """With Tune's own records."""
    from ray.air.execution._internal.tracked_actor import TrackedActor
    from ray.tune.utils.object_cache import _ObjectCache

    cache = _ObjectCache()
    cache.increase_max("slot", 3)
    actors = {node: TrackedActor(i) for i, node in enumerate("xyz")}
    controller = SimpleNamespace(_actor_cache=cache, _trial_to_actor={})
    idle = IdleWorkers()
    assert idle.nodes() == []
    for node, actor in actors.items():
        controller._trial_to_actor = defaultdict(lambda actor=actor: actor)  # whatever the trial
        idle.note(controller, Ended(node))
        cache.cache_object("slot", actor)
    assert sorted(idle.nodes()) == ["x", "y", "z"]
    idle.choose = lambda bundle, nodes: nodes.index(bundle)
    for node in "yzx":
        idle.put_first(controller, SimpleNamespace(placement_group_factory="slot", config={"bundle": node}))
        assert cache.pop_cached_object("slot") is actors[node]
    idle.put_first(controller, SimpleNamespace(placement_group_factory="slot", config={"bundle": "x"}))
    assert idle.nodes() == []


class Ended:
    """A Tune trial that has ended on a node."""

    def __init__(self, node: str) -> None:
        self.last_result = {"node": node}


def contents(store: Store) -> dict[str, Any]:
    return {
        m["key"]: (m["results"], {name: about["sha256"] for name, about in m["files"].items()})
        for m in store.manifests((name, key) for name in store.task_names() for key in store.committed([name]))
    }


DATA = """
@dataclass(frozen=True)
class Data(Task):
    def run(self, ctx):
        (ctx.dir / "data.bin").write_bytes(bytes(1000))
        return {}


@dataclass(frozen=True)
class Fit(Task):
    dataset: Data = Data()
    lr: float = 0.1
    streams = ("init",)

    def run(self, ctx, dataset):
        time.sleep(0.3)
        (ctx.dir / "w.txt").write_text(str(ctx.rng("init").random() + len((dataset.dir / "data.bin").read_bytes())))
        return {"val_accuracy": self.lr, "diverged": False}
"""


@pytest.mark.slow
def test_a_sweep_on_two_nodes_fetches_nothing_twice_and_gives_the_same_bytes(
    s3: S3Server, tmp_path: Path, monkeypatch
) -> None:
    head, tail = TOY.split("@dataclass(frozen=True)\nclass Fit(Task):")
    file = tmp_path / "study.py"
    file.write_text(
        head + DATA + "\n\n@dataclass(frozen=True)\nclass Look(Probe):" + tail.split("class Look(Probe):")[1]
    )
    command = [sys.executable, "-m", "orchestrator", "sweep", str(file), "--set", "probes=[Look(seconds=0.2), After()]"]
    with metered(s3.endpoint) as meter, RayCluster(0, env=s3.env) as cluster:
        for name in "ab":
            (tmp_path / name).mkdir()
            cluster.add({"ORCHESTRATOR_CACHE": str(tmp_path / name), "ORCHESTRATOR_CACHE_GB": "1"})
        store = meter.uri("two-nodes")
        done = subprocess.run(
            [*command, "--address", cluster.address, "--store", store], env={**cluster.env, **s3.env}, cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        made = contents(Store(s3.uri("two-nodes")))
        assert {p.name for p in (tmp_path / "a").iterdir()} == {f"orchestrator-{os.getuid()}"}
        fetched = {path: n for path, n in meter.gets.items() if path.endswith(("data.bin", "w.txt"))}
        assert fetched, "two nodes worked, and a pair is made of what both have made"
        assert set(fetched.values()) == {1}  # by the node that has not made it
    (tmp_path / "alone").mkdir()
    done = subprocess.run(
        [*command, "--store", "here"], cwd=tmp_path / "alone", capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "TMPDIR")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    alone = contents(Store(str(tmp_path / "alone/here")))
    assert made == alone
    assert len(alone) > 20 and any(files for _, files in alone.values())
    assert hashlib.sha256(bytes(1000)).hexdigest() in json.dumps(alone)
