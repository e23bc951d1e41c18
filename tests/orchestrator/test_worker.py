"""What a worker does with a task, in this process. Ray is imported, not started."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from s3 import S3Server

from orchestrator import process
from orchestrator.process import Input
from orchestrator.shipping import own_modules
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep
from orchestrator.tasklog import salvage
from orchestrator.worker import Outcome, RunInfo, Work, carry_out, publish
from tasks.task import Artifact, Context, Task


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


@dataclass(frozen=True)
class Adds(Task):
    """Adds what its input holds, three times."""

    def run(self, ctx: Context, source: Artifact) -> Any:
        state = ctx.resume() or {"sums": []}
        for total in state["sums"]:
            yield {"sum": total}
        while len(state["sums"]) < 3:
            last = state["sums"][-1] if state["sums"] else 0
            state["sums"].append(last + int((source.dir / "number.txt").read_text()))
            ctx.snapshot(lambda: state)
            yield {"sum": state["sums"][-1]}
        return {"sum": state["sums"][-1]}


@pytest.mark.parametrize("other", [False, True])
def test_a_snapshot_holds_for_inputs_of_the_same_bytes_only(store: Store, other: bool) -> None:
    """An input that was damaged and made again on another machine may have other bytes under the same key."""

    def commit(number: int) -> None:
        folder = store.workspace()
        (folder / "number.txt").write_text(str(number))
        store.commit("Plain", "a" * 32, folder, {"status": "done", "results": {}})

    work = Work("b" * 32, Adds(), (Input("a" * 32, Plain(), {}),), {}, {"class": "", "kind": "data"}, watched=False)
    run = RunInfo(store.address, "runs/toy/r", {}, snapshot_seconds=0.0)
    commit(1)
    steps = carry_out(work, store, run, {"cpu": 1.0}, {})
    assert [next(steps)["sum"] for _ in range(2)] == [1, 2]
    steps.close()
    store.delete_artifact("Plain", "a" * 32)
    commit(2 if other else 1)
    steps = carry_out(work, store, run, {"cpu": 1.0}, {})
    assert [report["sum"] for report in steps] == ([2, 4, 6] if other else [1, 2, 3])
    log = (store.read(f"runs/toy/r/logs/{work.key}.txt") or b"").decode()
    assert ("inputs were made anew" in log) == other


def test_what_a_dead_process_has_printed_goes_to_the_store_it_worked_for(s3: S3Server) -> None:
    mine, other = Store(s3.uri("mine")), Store(s3.uri("other"))
    code = (
        "import os, sys; from orchestrator.store import Store; from orchestrator.tasklog import TaskLog\n"
        "print('last words', file=TaskLog(Store(sys.argv[1]), 'runs/toy/r', 'k', 1).file); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, mine.address], check=False)
    salvage(other)
    assert not other.names("runs")
    salvage(mine)
    assert mine.read("runs/toy/r/logs/k.txt") == b"last words\n"


MEMORY = """
import ctypes, resource
from orchestrator.process import forget
from tasks.task import Task

libc, size = ctypes.CDLL(None), ctypes.c_size_t(64 << 20)
libc.malloc.restype = ctypes.c_void_p

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = ctypes.c_void_p(libc.malloc(size))
        libc.memset(block, 1, size)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

left_alone = faults()
forget(Task(), {}, "0")
faults()
kept, held = faults(), resident()
forget(Task(), {}, "1")
print(left_alone, kept, held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_memory_that_a_task_frees_is_kept_for_it_and_given_back_after_it() -> None:
    """Pages that the system had to hand out for five blocks, one after the other; resident MiB given back."""
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    left_alone, kept, given_back = map(int, done.stdout.split())
    assert left_alone > 100  # where pages are of 2 MiB, 32 for each block
    assert kept < 20
    assert given_back > 50
