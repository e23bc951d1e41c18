"""What a worker does with a task, in this process. Ray is imported, not started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator import process
from orchestrator.run import own_modules
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep
from orchestrator.worker import Outcome, RunInfo, Work, carry_out, publish
from tasks.task import Context, Task


@dataclass(frozen=True)
class Wanders(Task):
    def run(self, ctx: Context) -> Any:
        os.chdir(ctx.dir)
        return {}


@dataclass(frozen=True)
class Stays(Task):
    def run(self, ctx: Context) -> Any:
        return {"at": str(Path.cwd())}


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    process._home.cache_clear()
    yield Store(str(tmp_path / "store"))
    process._home.cache_clear()


def done(task: Task, store: Store) -> Outcome:
    """The task carried out and committed."""
    key = f"{len(type(task).__name__):032x}"
    work = Work(key, task, (), {}, {"class": "", "kind": "data"}, watched=False)
    steps = carry_out(work, store, RunInfo(store.address, "runs/toy/r", {}), {"cpu": 1.0}, {})
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return publish([end.value], store)[0]


@dataclass(frozen=True)
class Rounds(Task):
    def run(self, ctx: Context) -> Any:
        import torch

        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_float32_matmul_precision("medium")
        torch.set_grad_enabled(False)
        return {}


@dataclass(frozen=True)
class Plain(Task):
    def run(self, ctx: Context) -> Any:
        import torch

        one = torch.ones(1)
        return {
            "device": str(one.device),
            "dtype": str(one.dtype),
            "precision": torch.get_float32_matmul_precision(),
            "grad": torch.is_grad_enabled(),
        }


def test_what_a_task_sets_in_torch_ends_with_it(store: Store) -> None:
    assert done(Rounds(), store).status == "done"
    plain = {"device": "cpu", "dtype": "torch.float32", "precision": "highest", "grad": True}
    assert done(Plain(), store).results == plain


def test_a_task_that_changes_the_working_folder_changes_it_for_itself_only(store: Store) -> None:
    home = str(Path.cwd())
    assert done(Wanders(), store).status == "done"
    assert done(Stays(), store).results == {"at": home}


def test_only_modules_that_lie_beside_a_sweep_travel_by_value(tmp_path, monkeypatch) -> None:
    """torch.ops names a file that would lie in the working folder, were it there."""
    import torch.ops  # noqa: F401

    (tmp_path / "beside.py").write_text("")
    (tmp_path / "study.py").write_text(
        "import beside\nfrom orchestrator import Sweep\nfrom toys import Fit\nsweep = Sweep(train=Fit(), seeds=[0])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_sweep("study.py")
    names = {module.__name__ for module in own_modules()}
    assert {"sweep_study", "beside"} <= names
    assert not {n for n in names if n.startswith("torch")}
    for name in ("sweep_study", "beside"):
        monkeypatch.delitem(sys.modules, name)
