"""A small store as a finished run leaves it, made in this process by the real parts without Ray, to be spoilt."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import carry_out
from rich.console import Console

from orchestrator.commands.sweep import conclude
from orchestrator.decisions import Decisions
from orchestrator.events import Events
from orchestrator.plan import make_plan
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep_file import load_sweep
from tasks.snapshots import encode

STUDY = '''\
"""Toy tasks of every kind, that need no torch."""

from dataclasses import dataclass

import numpy as np
from orchestrator import Sweep, same_setting
from tasks.task import Curve, GroupProbe, PairProbe, Probe, Task


@dataclass(frozen=True)
class Points(Task):
    n: int = 4

    def run(self, ctx):
        np.save(ctx.dir / "x.npy", np.arange(self.n))
        return {"examples": self.n}


@dataclass(frozen=True)
class Fit(Task):
    dataset: Points = Points()
    lr: float = 0.1
    streams = ("init",)
    metrics = {"val_accuracy": "validation accuracy"}
    curves = (Curve("history", "epoch", ("loss",), "Loss during training", "epoch", "loss"),)

    def run(self, ctx, dataset):
        ctx.save_arrays("history", epoch=np.arange(3), loss=ctx.rng("init").random(3) + dataset.array("x")[:3])
        return {"val_accuracy": self.lr + ctx.rng("init").random() / 100}


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, trained):
        return {"last": float(trained.arrays("history")["loss"][-1])}


@dataclass(frozen=True)
class Both(PairProbe):
    def run(self, ctx, a, b):
        return {"sum": a.results["val_accuracy"] + b.results["val_accuracy"]}


@dataclass(frozen=True)
class All(GroupProbe):
    def run(self, ctx, *trained):
        return {"members": len(trained)}


sweep = Sweep(
    train=Fit(lr={"grid_search": [0.1, 0.2]}),
    seeds=range(2),
    probes=[Look()],
    pairs=[Both()],
    groups=[All()],
    pair_when=same_setting,
)
'''

SEARCH = '''\
"""The same, with a search algorithm."""

from ray import tune
from ray.tune.search import Searcher
from study import Fit
from orchestrator import Sweep


class Halves(Searcher):
    def suggest(self, trial_id):
        return {"train.lr": 0.5}

    def on_trial_complete(self, trial_id, result=None, error=False):
        pass


sweep = Sweep(train=Fit(lr=tune.uniform(0, 1)), seeds=range(2), search=Halves(), samples=3)
'''

RUN = "runs/study/2025-01-01T00-00-00.000000"
SNAPSHOT = "5" * 40


def make(home: Path) -> None:
    """A folder with study.py, search.py and the store `artifacts` of a finished run."""
    (home / "study.py").write_text(STUDY)
    (home / "search.py").write_text(SEARCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "path", list(sys.path))
        store = Store("artifacts")
        store.check_writable()
        plan = make_plan(load_sweep("study.py"), store)
        events = Events(store, RUN)
        events.emit("run_started", command=["sweep"], tasks=len(plan.nodes), stored=0, slots=2)
        outcome = carry_out(plan, store)
        source = {"file": str(home / "study.py"), "command": "python -m orchestrator sweep study.py"}
        for node in plan.nodes.values():
            edit_manifest(node.name, node.key, run=RUN, source=source)
            events.emit("submitted", key=node.key, label=node.label, bundle=1)
            events.emit("committed", key=node.key, label=node.label, seconds=0.1, worker="w", status="done")
        events.emit("run_finished", seconds=1.0, startup=0.1)
        events.close()
        store.write(f"{RUN}/keys", "\n".join(plan.nodes).encode())
        log = next(n.key for n in plan.nodes.values() if n.name == "Fit")
        store.write(f"{RUN}/logs/{log}.txt", b"epoch 1\n")
        store.write_snapshot(SNAPSHOT, encode({"epoch": 1}))
        with open(os.devnull, "w") as nowhere:
            console = Console(file=nowhere)
            assert conclude(Study.from_plan(make_plan(plan.sweep, store), store, outcome), store, RUN, "", console) == 0
        decisions = Decisions(load_sweep("search.py"), store)
        decisions.proposed(0, {"train.lr": 0.5})
        decisions.close()
        unload(home)


def live(**changes: Any) -> bytes:
    """A run's sign of life on another host."""
    record = {"time": time.time(), "host": "elsewhere", "boot": "", "pid": 1, "run": RUN, "beat": 1, "running": {}}
    return json.dumps({**record, **changes}).encode()


def copied(made: Path, home: Path, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what `make` made, as the working folder."""
    shutil.copytree(made, home)
    for path in home.glob("artifacts/artifacts/*/*/manifest.json"):
        path.write_text(path.read_text().replace(str(made), str(home)))  # where the sweep file is
    patch.chdir(home)
    patch.setattr(sys, "path", list(sys.path))
    yield home
    unload(home)


def unload(home: Path) -> None:
    """Every command is a process of its own, as far as modules beside the sweep file matter."""
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(home))]:
        del sys.modules[name]


def key_of(task: str) -> str:
    """The key of the first artifact of a class."""
    return min(path.parent.name for path in Path("artifacts/artifacts", task).glob("*/manifest.json"))


def manifest_path(task: str, key: str = "") -> Path:
    return Path("artifacts/artifacts", task, key or key_of(task), "manifest.json")


def edit_manifest(task: str, key: str = "", /, **changes: Any) -> None:
    path = manifest_path(task, key)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def contents(folder: Path) -> dict[str, Any]:
    """What a folder holds: the bytes of files; of links and pipes what they are."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            found[str(path)] = path.read_bytes()
        elif not path.is_dir():
            found[str(path)] = "neither file nor folder"
    return found
