"""What goes to the nodes, what is checked there, what becomes of tasks handed to a bad one."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import toy_sweep
from ray import cloudpickle

import tasks
from orchestrator import node_check
from orchestrator.cluster import node_offers, possible_kinds
from orchestrator.decisions import Decisions
from orchestrator.errors import ClusterError
from orchestrator.events import Events, read_events
from orchestrator.graph import State
from orchestrator.node_watch import NodeWatch, allows, expectations
from orchestrator.plan import make_plan
from orchestrator.room import Room
from orchestrator.search import DagSearch
from orchestrator.shipping import local_code, shipment
from orchestrator.slots import NodeOffer
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep

ROOT = Path(__file__).resolve().parents[2]

SWEEP = """\
import numpy
from orchestrator import Sweep
from parcel_a.tools import Fit

sweep = Sweep(train=Fit(), seeds=[0])
"""

FIT = """\
from dataclasses import dataclass
from tasks.task import Task

@dataclass(frozen=True)
class Fit(Task):
    def run(self, ctx):
        import parcel_b
        from parcel_c.inner import leaf
        return {}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A sweep with packages, and beside their source what must never be sent anywhere."""
    files = {
        "study.py": SWEEP,
        "unrelated.py": "raise ImportError",
        ".env": "SECRET=1",
        "parcel_a/__init__.py": "",
        "parcel_a/tools.py": FIT,
        "parcel_a/sub/other.py": "import parcel_d",
        "parcel_a/template.py": "def {{ name }}(): ...",
        "parcel_a/credentials.json": "{}",
        "parcel_a/data/images.npz": "1",
        "parcel_a/.git/hook.py": "1",
        "parcel_a/venv/pyvenv.cfg": "",
        "parcel_a/venv/lib.py": "1",
        "parcel_b.py": "raise RuntimeError('only when the task runs')",
        "parcel_c/inner/leaf.py": "1",
        "parcel_c/inner/fruit.py": "1",
        "parcel_d/__init__.py": "raise RuntimeError('never imported here')",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path, modules = list(sys.path), dict(sys.modules)
    for name in [n for n in sys.modules if n.startswith("sweep_")]:
        del sys.modules[name]
    yield tmp_path
    sys.path[:] = path
    for name in [n for n in sys.modules if n not in modules]:
        del sys.modules[name]
    sys.modules.update(modules)


def test_all_source_that_the_sweep_imports_is_sent_and_nothing_else(site: Path) -> None:
    load_sweep(site / "study.py")
    sent = shipment().files
    own = {name for name in sent if not name.startswith(("orchestrator/", "tasks/"))}
    assert own == {
        "parcel_a/__init__.py", "parcel_a/tools.py", "parcel_a/sub/other.py", "parcel_b.py", "parcel_c/inner/leaf.py",
        "parcel_d/__init__.py", "parcel_a/template.py",
    }  # fmt: skip
    assert {"orchestrator/worker.py", "tasks/train.py", "tasks/probes/lanczos.py"} <= set(sent)
    assert all(name.endswith(".py") for name in sent)


def test_what_is_too_much_for_source_is_refused(site: Path) -> None:
    (site / "parcel_b.py").write_text("#" * 21_000_000)
    load_sweep(site / "study.py")
    with pytest.raises(ClusterError, match=r"has 2\d MB \(parcel_b.py alone 21 MB\), too much"):
        shipment()


def test_a_digest_is_of_source_and_tells_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here/parcel_x", tmp_path / "there/parcel_x"
    for folder in (here, there):
        (folder / "sub").mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "sub/a.py").write_text("1")
    (there / "data.csv").write_text("1,2")
    (there / "__pycache__").mkdir()
    (there / "__pycache__/a.py").write_text("2")
    wanted = {"parcel_x": node_check.tree_digest(here)}
    monkeypatch.syspath_prepend(str(there.parent))
    assert node_check.code_fault(wanted) is None
    (there / "sub/a.py").write_text("2")
    assert f"'parcel_x' is imported there from {there} in version" in str(node_check.code_fault(wanted))
    (there / "sub/a.py").rename(there / "sub/b.py")
    assert node_check.code_fault(wanted) is not None
    assert "has no module 'parcel_y'" in str(node_check.code_fault({"parcel_y": "0"}))


def test_builds_of_one_version_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    here = node_check.versions()
    monkeypatch.setattr(node_check, "version", lambda name: f"{here.get(name, '1')}+cu130")
    assert node_check.version_fault(here) is None
    monkeypatch.setattr(node_check, "version", lambda name: "0.1+cu130" if name == "torch" else here.get(name, "1"))
    assert node_check.version_fault(here) == (
        f"it has torch 0.1, the driver has torch {here['torch']}: install the same versions on all nodes"
    )


@pytest.mark.parametrize(
    ("clock", "words"),
    [(1000.0, None), (941.0, None), (1089.0, None), (930.0, "70 s behind"), (1100.0, "70 s ahead of")],
)
def test_clocks(clock: float, words: str | None) -> None:
    """A node reads its clock between the driver's asking, at 1000, and hearing, at 1030."""
    fault = node_check.clock_fault(clock, 1000.0, 1030.0)
    assert fault is None if words is None else words in str(fault)


def test_a_gpu_that_is_only_declared_is_found_out() -> None:
    import torch

    if torch.cuda.is_available():
        assert node_check.gpu_fault(torch.cuda.device_count()) is None
    words = node_check.gpu_fault(torch.cuda.device_count() + 1)
    assert f"torch finds {torch.cuda.device_count()} of its" in str(words)


def test_a_bundle_comes_back_from_a_bad_node_as_if_it_had_never_been_handed_out(tmp_path: Path) -> None:
    sweep, store = toy_sweep(), Store(str(tmp_path))
    nodes = [NodeOffer("bad" * 10, "one", {"CPU": 4.0}), NodeOffer("good" * 10, "two", {"CPU": 4.0})]
    watch = NodeWatch({}, lambda: nodes, [], gpus=False)  # of no concern, so that nobody is asked
    search = DagSearch(
        make_plan(sweep, store),
        store,
        Events(store, "runs/toy/r"),
        room=Room(nodes),
        run={},
        decisions=Decisions(sweep, store),
        watch=watch,
    )
    config = search.suggest("a")
    assert isinstance(config, dict)
    assert not allows(config["checked"], nodes[0].id)
    (key,) = config["bundle"].keys
    search.on_trial_result("a", {"outcomes": [], "unchecked": True, "node": nodes[0].id})
    assert search.graph.state(key) is State.RUNNING
    search.on_trial_complete("a", {"outcomes": [], "refused": "it is out of order", "node": nodes[0].id})
    assert search.graph.state(key) is State.READY
    assert (search.graph.vertices[key].losses, search.graph.vertices[key].moves) == (0, 0)

    again = search.suggest("b")
    assert isinstance(again, dict)
    assert again["bundle"].keys == (key,)
    assert search.halted is None
    assert watch.hopeless({"cpu": 1.0}) is None
    watch.refuse(nodes[1].id, "so is this")
    search.suggest("c")
    assert "No node is left" in str(search.halted)
    search._events.close()
    told = [e for e in read_events(store, "runs/toy/r") if e["event"] in ("left_out", "returned")]
    assert [e["event"] for e in told] == ["returned", "left_out", "left_out"]
    assert "is left out: it is out of order." in told[1]["why"]


def test_a_node_of_no_concern_is_checked_once_a_worker_is_there_after_all(ray_here: None) -> None:
    """Such as for a training that was stored when the run began, and turned out to be damaged."""
    watch = NodeWatch(expectations(None, "", local_code()), node_offers, [{"cpu": 1000.0}], gpus=False)
    watch.first()
    (node,) = node_offers()
    assert watch.verdict(node.id) is None
    watch.first()
    assert watch.verdict(node.id) is True
    assert allows(watch.checked, node.id)


def test_nothing_is_added_to_a_ray_of_this_process_alone(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where `ray up` has left a file: on a cluster's head, joined by nobody."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copyfile(ROOT / "cluster.yaml", tmp_path / "ray_bootstrap_config.yaml")
    assert possible_kinds() is None


def test_a_worker_does_nothing_where_it_should_not(ray_here: None, tmp_path: Path) -> None:
    import ray

    from orchestrator.worker import Bundle, RunInfo, Worker

    def config(checked: str | None, code: dict[str, str]) -> dict[str, Any]:
        run = dataclasses.asdict(RunInfo(str(tmp_path), "runs/toy/r", {}, code=code))
        bundle = Bundle("b", {"cpu": 1.0}, ("key",), cloudpickle.dumps([]))
        return {"bundle": bundle, "run": run, "checked": checked}

    def first_report(actor: Any) -> dict[str, Any]:
        return ray.get(actor.train.remote())

    (node,) = (n["NodeID"] for n in ray.nodes())
    kind = ray.remote(num_cpus=0)(Worker)
    other = kind.remote(config=config(node[:12], {"tasks": "0" * 12}))
    told = first_report(other)
    assert (told["done"], told["node"], told["outcomes"]) == (True, node, [])
    assert told["refused"].startswith("'tasks' is imported there from ")
    assert ray.get(other.reset.remote(config(node[:12], {})))
    assert first_report(other)["refused"] == told["refused"]  # whatever it is given next

    same = {"tasks": node_check.tree_digest(Path(tasks.__file__).parent)}
    waiting = kind.remote(config=config("", same))
    told = first_report(waiting)
    assert (told["done"], told["unchecked"]) == (False, True)
    assert ray.get(waiting.reset.remote(config(f"0123456789ab {node[:12]}", same)))
    told = [first_report(waiting) for _ in range(2)]  # first it says where it is
    assert [t["done"] for t in told] == [False, True]
    assert not any("unchecked" in t for t in told)

    broken = config("", {})
    broken["run"]["imports"] = ("no_such_library",)
    assert "no_such_library" in first_report(kind.remote(config=broken))["refused"]
