"""Sweeps in which things go wrong for real: tasks that crash, full disks, damage, signals, a store without weights."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest
from cli import TOY, counts, orchestrate
from cluster import AGENTS, is_alive
from cluster import command as title
from s3 import SECRET_KEY, S3Server

from orchestrator.events import read_events
from orchestrator.signals import GRACE
from orchestrator.store import Store

pytestmark = pytest.mark.usefixtures("ray_here")

ROOT = Path(__file__).resolve().parents[2]

TROUBLE = '''\
"""Every way to fail for good, at one seed; all is well at the others. $HERE/healed is how a machine is repaired."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

from orchestrator import Sweep
from tasks.task import Probe, Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fit(Task):
    streams = ("init",)

    def run(self, ctx):
        return {"val_accuracy": ctx.rng("init").random()}


class Refused(Exception):
    """Ray cannot send it to another process."""

    def __init__(self, code, reason):
        super().__init__(f"{reason} ({code})")


@dataclass(frozen=True)
class Trouble(Probe):
    how: str = "none"

    def run(self, ctx, trained):
        if trained.seeds["init"] != 0:
            return {"well": 1}
        with open(HERE / "notes", "a") as notes:
            notes.write(self.how + "\\n")
        getattr(self, self.how)()
        return {}

    def segfault(self):
        print("about to read what is not there")
        if not (HERE / "healed").exists():
            ctypes.string_at(0)

    def error(self):
        raise RuntimeError("no such thing")

    def refused(self):
        raise Refused(13, "not today")

    def hunger(self):
        raise MemoryError("never enough")


@dataclass(frozen=True)
class After(Probe):
    trouble: Trouble = Trouble("error")

    def run(self, ctx, trouble, trained):
        return {"well": trouble.results["well"]}


sweep = Sweep(
    train=Fit(),
    seeds=range(2),
    probes=[*(Trouble(how) for how in ("segfault", "refused", "error", "hunger")), After()],
    slot={"cpu": 1},
)
'''

PASSING = '''\
"""Trouble with torch that another attempt heals, at one seed."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from orchestrator import Sweep
from tasks.task import Probe, Task
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fit(Task):
    streams = ("init",)

    def run(self, ctx):
        return {"val_accuracy": ctx.rng("init").random()}


@dataclass(frozen=True)
class Trouble(Probe):
    how: str = "none"

    def run(self, ctx, trained):
        if trained.seeds["init"] != 0:
            return {"well": 1}
        with open(HERE / "notes", "a") as notes:
            notes.write(self.how + "\\n")
        getattr(self, self.how)((HERE / "notes").read_text().split().count(self.how))
        beneath = {pool["num_threads"] for pool in threadpool_info()}
        return {"pid": os.getpid(), "threads": torch.get_num_threads(), "beneath": str(beneath)}

    def device(self, attempt):
        if attempt == 1:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    def memory(self, attempt):
        if attempt == 1:
            raise MemoryError("more than one CPU's share")

    def thread(self, attempt):
        threading.Thread(target=time.sleep, args=(600,)).start()


sweep = Sweep(
    train=Fit(), seeds=range(2), probes=[Trouble(how) for how in ("device", "memory", "thread")], slot={"cpu": 1}
)
'''

STUDY = """\
"Real trainings, and a probe that reads their weights."

from dataclasses import dataclass

from orchestrator import Sweep
from tasks.data import Digits
from tasks.models import MLP
from tasks.optimizers import SGD
from tasks.task import Probe
from tasks.train import Train
from tasks.trained import load_trained


@dataclass(frozen=True)
class Norm(Probe):
    scale: float = 1.0

    def run(self, ctx, trained):
        model = load_trained(ctx, trained).model
        return {"norm": self.scale * sum(float(p.detach().square().sum()) for p in model.parameters())}


sweep = Sweep(
    train=Train(
        dataset=Digits(), model=MLP(widths=(8,)), epochs=2, optimizer=SGD(lr={"grid_search": [0.01, 0.1]})
    ),
    seeds=range(2), probes=[Norm()], metric="val_accuracy", mode="max", slot={"cpu": 1}, snapshot_seconds=0.0,
)
"""

SLOW = """\
"Trainings that go on where they were left, an epoch every $HERE/pace seconds; $HERE/notes tells where they are."

import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator import Sweep
from tasks.task import Probe, Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fit(Task):
    epochs: int = 40
    streams = ("init",)

    def run(self, ctx):
        values = list((ctx.resume() or {"values": []})["values"])
        self.note(ctx, len(values))
        for epoch in range(1, self.epochs + 1):
            if epoch > len(values):
                time.sleep(float((HERE / "pace").read_text()))
                values.append(ctx.rng(f"init/{epoch}").random())
                self.note(ctx, epoch)
            ctx.snapshot(lambda: {"values": values[:epoch]})
            yield {"epoch": epoch}
        (ctx.dir / "values.txt").write_text(repr(values))
        return {"val_accuracy": values[-1]}

    def note(self, ctx, epoch):
        with open(HERE / "notes", "a") as notes:
            notes.write(f"{ctx.seeds['init']} {epoch}\\n")


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, trained):
        return {"length": len((trained.dir / "values.txt").read_text())}


sweep = Sweep(train=Fit(), seeds=range(4), probes=[Look()], slot={"cpu": 1}, snapshot_seconds=60.0)
"""

BIG = """\
"Much to write."

from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Fit(Task):
    streams = ("init",)

    def run(self, ctx):
        (ctx.dir / "weights.bin").write_bytes(ctx.rng("init").bytes(300_000))
        return {"val_accuracy": 1.0}


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, trained):
        return {"size": len((trained.dir / "weights.bin").read_bytes())}


sweep = Sweep(train=Fit(), seeds=range(16), probes=[Look()], slot={"cpu": 1})
"""

HUNGRY = """\
"The first attempt takes memory until it is stopped."

import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator import Sweep
from tasks.task import Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fit(Task):
    streams = ("init",)

    def run(self, ctx):
        if not (HERE / "eaten").exists():
            (HERE / "eaten").touch()
            eaten = []
            while len(eaten) < 60:
                eaten.append(b"x" * 100_000_000)
                time.sleep(0.1)
            time.sleep(30)
            raise AssertionError("nobody has stopped it")
        return {"val_accuracy": 1.0}


sweep = Sweep(train=Fit(), seeds=[0], slot={"cpu": 1})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with the sweep files; the store is ./artifacts."""
    texts = {
        "trouble": TROUBLE,
        "passing": PASSING,
        "toy": TOY,
        "study": STUDY,
        "slow": SLOW,
        "big": BIG,
        "hungry": HUNGRY,
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def runs(sweep: str, uri: str = "artifacts") -> list[str]:
    """Paths of the runs of a sweep, in order of time."""
    return [f"runs/{sweep}/{name}" for name in Store(uri).names(f"runs/{sweep}") if name != "latest"]


def told(run: str, *names: str, uri: str = "artifacts") -> list[dict[str, Any]]:
    """The events of a run with these names."""
    return [e for e in read_events(Store(uri), run) if e["event"] in names]


def manifests(*names: str, uri: str = "artifacts") -> list[dict[str, Any]]:
    """Of all artifacts of these tasks, or of all tasks."""
    store = Store(uri)
    return [
        manifest
        for name in names or store.task_names()
        for manifest in store.manifests((name, key) for key in sorted(store.committed([name])))
    ]


def contents(uri: str = "artifacts", *names: str) -> dict[str, Any]:
    """Files and results of every artifact, by key."""
    return {m["key"]: (m["task"], m["files"], m["results"]) for m in manifests(*names, uri=uri)}


def leftovers(uri: str = "artifacts") -> list[str]:
    """What lies in the store and should not when no run is going on."""
    store = Store(uri)
    return [f"{d}/{n}" for d in ("tmp", "live", "snapshots") for n in store.names(d) if not n.startswith(".")]


def verified(capsys, uri: str = "artifacts") -> list[str]:
    """The lines of `verify`, which finds all intact."""
    code, lines, _ = orchestrate(capsys, "verify", "--store", uri)
    assert code == 0, lines
    assert lines[-1].endswith("intact, 0 damaged")
    return lines


class Command:
    """A command in a process of its own, and every process that it starts.

    Args:
        env: changes of the environment.
    """

    def __init__(self, *argv: str, env: Mapping[str, str] | None = None) -> None:
        self._mark = f"ORCHESTRATOR_TEST_COMMAND={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *argv],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(env or {}), name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [*self.family(), *([self.process.pid] if self.process.poll() is None else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, code: int, seconds: float = 120) -> list[str]:
        """Its output, once it has ended with this exit code."""
        out, err = self.process.communicate(timeout=seconds)
        assert self.process.returncode == code, out + err
        assert "Traceback" not in out + err, out + err
        return out.splitlines()

    def family(self) -> list[int]:
        """The live processes that it has started, directly or not.

        But for two of Ray's own: they compute nothing, and notice the death of their node a minute later.
        """
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(folder.name)
                mine = self._mark.encode() in (folder / "environ").read_bytes()
                if mine and is_alive(pid) and not title(pid).startswith(AGENTS):
                    found.append(pid)
        return found


def wait(happens: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 100) -> Any:
    """What `happens` gives as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := happens()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)
    return found


# Tasks


@pytest.mark.slow
def test_every_way_to_fail_beside_healthy_tasks(folder, capsys):
    """Each fails alone and says why; what can be healed is; the healthy ones never notice, nor run again."""
    why = {
        "segfault": r"its worker died each time it ran \(\d attempts\): .*\(Fatal Python error: Segmentation fault\)",
        "refused": r"Refused: not today \(13\)",
        "error": r"RuntimeError: no such thing \(1 task that needs it was skipped\)",
        "hunger": r"out of memory with the largest slot that there is, cpu 2: MemoryError: never enough",
    }
    code, lines, err = orchestrate(capsys, "sweep", "trouble.py")
    assert code == 1
    assert counts(lines) == {"tasks": 12, "ran": 7, "stored": 0, "failed": 4, "skipped": 1}
    assert "Traceback" not in "\n".join(lines) + err
    failures = [line for line in lines if line.startswith("failed: ") and "; logs " in line]
    keys = {}
    for how, words in why.items():
        (line,) = [line for line in failures if f"how={how})" in line]
        assert "seed 0" in line
        assert re.search(words, line), line
        keys[how] = line.rpartition("; logs ")[2]
    assert len(failures) == len(why)

    # a log for every attempt, with what was printed and where it crashed
    _, log, _ = orchestrate(capsys, "logs", keys["segfault"])
    assert log.count("about to read what is not there") >= 3
    assert sum("in string_at" in line for line in log) >= 3
    _, log, _ = orchestrate(capsys, "logs", keys["error"], "--last")
    assert log[-1] == "RuntimeError: no such thing"

    assert not leftovers()

    # the same command again, on a repaired machine: what failed runs, nothing else does
    def tried(*argv: str) -> tuple[set[str], list[str]]:
        Path("notes").write_text("")
        code, lines, _ = orchestrate(capsys, "sweep", "trouble.py", *argv)
        assert code == 1
        return set(Path("notes").read_text().split()), lines

    Path("healed").touch()
    before = contents()
    again, lines = tried()
    assert again == set(why)
    assert counts(lines) == {"tasks": 12, "ran": 1, "stored": 7, "failed": 3, "skipped": 1}
    assert contents().items() > before.items()
    # and not even what is new
    again, lines = tried("--retry-failed", "--seeds", "3")
    assert again == {"refused", "error", "hunger"}
    assert counts(lines) == {"tasks": 12, "ran": 0, "stored": 8, "failed": 3, "skipped": 1}
    # the first failure ends the run, if it is to: of the new seeds much is left
    again, lines = tried("--fail-fast", "--seeds", "60")
    assert again & {"refused", "error", "hunger"}
    assert any("has failed, and --fail-fast was given." in line for line in lines)
    assert "run the same command again to go on" in lines[-1]
    kept, all_ = map(int, re.search(r"(\d+) of (\d+) tasks are in the store", lines[-1]).groups())
    assert 8 <= kept < all_ - 100
    assert len(contents()) == kept
    halted, ended = told(runs("trouble")[-1], "halted", "run_halted")
    assert ended["time"] - halted["time"] < GRACE  # it does not wait for workers that have ended
    assert not leftovers()


@pytest.mark.slow
def test_every_trouble_that_another_attempt_heals(folder, capsys):
    code, lines, _ = orchestrate(capsys, "sweep", "passing.py")
    assert code == 0
    assert counts(lines) == {"tasks": 8, "ran": 8, "stored": 0, "failed": 0, "skipped": 0}
    found = {m["fields"]["how"]: m for m in manifests("Trouble") if "pid" in m["results"]}
    assert set(found) == {"device", "memory", "thread"}

    # a device that has failed is good for nothing more in that process: another has made it
    device = found["device"]["key"]
    _, log, _ = orchestrate(capsys, "logs", device)
    assert "Traceback (most recent call last):" in log
    said = "Fatal device error: AcceleratorError: CUDA error: unspecified launch failure"
    assert said in log
    assert any(said in e["why"] for e in told(runs("passing")[0], "lost") if e["key"] == device)
    # what wanted more memory got it, computes as it would have in its own slot, and says so
    memory = found["memory"]
    assert memory["slot"] == {"cpu": 2.0}
    assert memory["attempt"] >= 2
    assert (memory["threads"], memory["results"]["threads"], memory["results"]["beneath"]) == (1, 1, "{1}")
    # a thread that a task has left behind does not keep its process, and the slot, for ever
    wait(lambda: not is_alive(found["thread"]["results"]["pid"]))
    assert not leftovers()


@pytest.mark.slow
def test_ray_ends_a_task_that_takes_too_much_memory(folder):
    """Ray's monitor kills the worker before the machine suffers; the task runs again with a larger slot."""
    about = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(about[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    if free < 9e9:
        pytest.skip("the machine has less than 9 GB of memory to spare")
    monitor = {
        "RAY_memory_usage_threshold": f"{1 - (free - 3e9) / total:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    with Command("sweep", "hungry.py", env=monitor) as command:
        lines = command.end(0)
    assert counts(lines) == {"tasks": 1, "ran": 1, "stored": 0, "failed": 0, "skipped": 0}
    (lost,) = told(runs("hungry")[0], "lost")
    assert "ran out of memory" in lost["why"]
    assert [m["slot"] for m in manifests("Fit")] == [{"cpu": 2.0}]
    assert not leftovers()


# Disks


def test_full_disk(tmp_path, folder, capsys):
    """The run ends with a sentence and nothing torn; with more space the same command goes on."""
    if os.geteuid() != 0:
        as_root_of_a_namespace("test_full_disk")
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        told = f"root may not mount a disk here: {mounted.stderr.strip()}"
        assert not os.environ.get("CI"), told
        pytest.skip(told)
    try:
        argv = ("sweep", "big.py", "--store", str(disk))
        code, lines, err = orchestrate(capsys, *argv)
        assert code == 1
        assert "Traceback" not in "\n".join(lines) + err
        (why,) = [line for line in lines if line.startswith("Stopped: ") and "full" in line.lower()]
        assert "make space" in why.lower(), why
        kept, tasks = map(int, re.search(r"(\d+) of (\d+) tasks are in the store; run the same", lines[-1]).groups())
        before = contents(str(disk))
        assert 0 < len(before) == kept < tasks == 32
        verified(capsys, str(disk))
        assert not leftovers(str(disk))
        assert not [line for line in lines if line.startswith("failed: ")]
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        code, lines, _ = orchestrate(capsys, *argv)
        assert code == 0
        assert counts(lines) == {"tasks": 32, "ran": 32 - kept, "stored": kept, "failed": 0, "skipped": 0}
        assert contents(str(disk)).items() > before.items()
        verified(capsys, str(disk))
        assert not leftovers(str(disk))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def as_root_of_a_namespace(test: str) -> None:
    """Run a test of this module as one who may mount."""
    words = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("only root may mount a disk here")
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::{test}"]
    done = subprocess.run([*words, *pytest_], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


# Damage


@pytest.mark.slow
def test_damage_is_found_and_made_good(folder, capsys):
    code, lines, _ = orchestrate(capsys, "sweep", "study.py")
    assert code == 0
    before = contents()
    trained = sorted(k for k, (name, *_) in before.items() if name == "Train")
    flipped, robbed, torn, spared = (Path("artifacts/artifacts/Train") / key for key in trained)
    weights = bytearray((flipped / "weights.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (flipped / "weights.safetensors").write_bytes(weights)
    next(p for p in robbed.iterdir() if p.suffix != ".json" and "weights" not in p.name).unlink()
    (torn / "manifest.json").write_bytes((torn / "manifest.json").read_bytes()[:100])
    record = Path("artifacts") / runs("study")[0] / "events.jsonl"
    events = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join([*events[:5], b'{"event": "comm\x00\xff\n', *events[5:]]))

    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 1
    damaged = {line.split("Train ")[-1][:12]: line for line in lines if line.startswith("damaged: ")}
    assert set(damaged) == {p.name[:12] for p in (flipped, robbed, torn)}
    assert "weights.safetensors: content differs" in damaged[flipped.name[:12]]
    assert "manifest" in damaged[torn.name[:12]]
    assert any("1 damaged line" in line for line in lines)
    code, lines, _ = orchestrate(capsys, "status", "study")
    assert code == 0 and any("9 of 9 tasks committed" in line for line in lines)

    more = ("--set", "probes=[Norm(), Norm(scale=2.0)]")
    code, lines, _ = orchestrate(capsys, "sweep", "study.py", *more)
    assert code == 0
    assert counts(lines) == {"tasks": 13, "ran": 3 + 4, "stored": 6, "failed": 0, "skipped": 0}
    assert sum("set aside, made again" in line and torn.name[:12] in line for line in lines) == 1
    assert {e["key"] for e in told(runs("study")[-1], "damaged")} == {flipped.name, robbed.name}
    aside = {p.name.rpartition("-")[0] for p in Path("artifacts/damaged/Train").iterdir()}
    assert aside == {flipped.name, robbed.name, torn.name}
    after = contents()
    assert {k: after[k] for k in before} == before  # the same bytes
    norms = Counter(m["results"]["norm"] / m["fields"].get("scale", 1.0) for m in manifests("Norm"))
    assert set(norms.values()) == {2}  # nothing was computed from what was damaged
    assert all(e["key"] != spared.name for e in told(runs("study")[-1], "submitted"))
    verified(capsys)
    code, lines, _ = orchestrate(capsys, "sweep", "study.py", *more)
    assert (code, counts(lines)["ran"]) == (0, 0)


# Weights


@pytest.mark.slow
def test_weights_that_are_not_kept(folder, capsys):
    """They are made again where something needs them, to the same bytes."""

    def with_weights() -> set[str]:
        return {p.parent.name for p in Path("artifacts/artifacts/Train").glob("*/weights.safetensors")}

    none = ("sweep", "study.py", "--keep-weights", "none")
    code, lines, _ = orchestrate(capsys, *none)
    assert (code, counts(lines)["ran"]) == (0, 9)
    trained = {m["key"] for m in manifests("Train")}
    assert not with_weights()
    before = contents()
    verified(capsys)
    code, lines, _ = orchestrate(capsys, *none)
    assert (code, counts(lines)["ran"]) == (0, 0)

    more = ("--set", "probes=[Norm(), Norm(scale=2.0)]")
    code, lines, _ = orchestrate(capsys, "sweep", "study.py", *more)
    assert code == 0
    assert counts(lines) == {"tasks": 13, "ran": 4 + 4, "stored": 5, "failed": 0, "skipped": 0}
    assert {e["label"].split()[0] for e in told(runs("study")[-1], "committed")} == {"Train", "Norm"}
    assert with_weights() == trained
    after = contents()
    assert {k: after[k] for k in before} == before
    assert set(Counter(m["results"]["norm"] / m["fields"].get("scale", 1.0) for m in manifests("Norm")).values()) == {2}
    verified(capsys)

    for _ in range(2):
        code, lines, _ = orchestrate(capsys, "sweep", "study.py", *more, "--keep-weights", "best")
        assert (code, counts(lines)["ran"]) == (0, 0)
        rows = pq.read_table(Path("artifacts") / runs("study")[-1] / "trials.parquet").to_pylist()
        scores: dict[float, list[float]] = {}
        for row in rows:
            scores.setdefault(row["config.train.optimizer.lr"], []).append(row["Train.val_accuracy"])
        best = max(scores, key=lambda lr: sum(scores[lr]))
        assert with_weights() == {r["key"] for r in rows if r["config.train.optimizer.lr"] == best}
        verified(capsys)
    assert contents() == after


# Signals


def where(notes: str = "notes") -> dict[str, int]:
    """The epoch that each training has come to."""
    lines = [line.split() for line in Path(notes).read_text().splitlines()] if Path(notes).exists() else []
    return {seed: int(epoch) for seed, epoch in lines}


@pytest.mark.slow
def test_interrupted_trainings_save_themselves(folder, capsys):
    """Ctrl-C, SIGTERM, Ctrl-C twice; what is left at the end is what an undisturbed run leaves."""
    import ray

    address = ray.get_runtime_context().gcs_address
    joined = {"RAY_AUTH_MODE": "token"}
    Path("pace").write_text("0.1")
    with Command("sweep", "slow.py") as command:  # with a Ray of its own
        wait(lambda: sum(e >= 3 for e in where().values()) == 2, command.process)
        command.signal(signal.SIGINT)
        lines = command.end(130)
        assert lines[-1].startswith("Interrupted: ") and "run the same command again to go on" in lines[-1]
        wait(lambda: not command.family())
    store = Store("artifacts")
    saved = where()
    assert len(store.snapshot_keys()) == 2  # though none was due before a minute had passed
    assert told(runs("slow")[-1], "run_interrupted")

    Path("notes").unlink()
    with Command("sweep", "slow.py", "--address", address, env=joined) as command:
        wait(lambda: all(where().get(s, 0) >= saved[s] + 3 for s in saved), command.process)
        first = dict(line.split() for line in reversed(Path("notes").read_text().splitlines()))
        assert {s: int(e) for s, e in first.items()} == saved  # not one epoch was computed twice
        command.signal(signal.SIGTERM)
        command.end(130)
    saved = where()
    assert len(store.snapshot_keys()) == 2

    Path("notes").unlink()
    Path("pace").write_text("600")
    with Command("sweep", "slow.py", "--address", address, env=joined) as command:
        wait(lambda: where() == saved, command.process)  # deep in an epoch, they cannot save themselves
        command.signal(signal.SIGINT)
        time.sleep(1)
        assert command.process.poll() is None
        command.signal(signal.SIGINT)
        command.end(130, seconds=GRACE - 3)  # else they would have had so long
    assert len(store.snapshot_keys()) == 2

    Path("pace").write_text("0")
    code, lines, _ = orchestrate(capsys, "sweep", "slow.py")
    assert code == 0
    assert counts(lines) == {"tasks": 8, "ran": 8, "stored": 0, "failed": 0, "skipped": 0}
    assert sorted(m["resumed"] for m in manifests("Fit")) == [False, False, True, True]
    assert not leftovers()
    orchestrate(capsys, "sweep", "slow.py", "--store", "calm")
    assert contents() == contents("calm")


@pytest.mark.slow
def test_killed_driver_leaves_no_worker_and_nothing_is_done_twice(folder, capsys):
    argv = ("sweep", "slow.py", "--set", "snapshot_seconds=0.0")
    store = Store("artifacts")
    Path("pace").write_text("0.03")

    def going() -> set[str]:
        """The trainings that are under way, once others have ended."""
        committed = store.committed(["Fit"])
        return set(store.snapshot_keys()) - committed if len(committed) >= 2 else set()

    with Command(*argv) as command:
        wait(going, command.process)
        assert len(command.family()) > 2
        command.signal(signal.SIGKILL)
        Path("pace").write_text("600")  # for as long as they live, orphans get no further
        command.process.communicate()
        wait(lambda: not command.family())
    code, lines, _ = orchestrate(capsys, "status", "slow")
    assert code == 0
    assert any("killed?" in line and "run the same command again to go on" in line for line in lines)
    before, left = contents(), going()
    assert 2 <= len(before) < 8
    assert left
    verified(capsys)

    Path("pace").write_text("0")
    code, lines, _ = orchestrate(capsys, *argv)
    assert code == 0
    assert counts(lines) == {"tasks": 8, "ran": 8 - len(before), "stored": len(before), "failed": 0, "skipped": 0}
    assert not {e["key"] for e in told(runs("slow")[-1], "submitted", "committed")} & set(before)
    after = contents()
    assert after.items() > before.items()
    assert {m["key"] for m in manifests("Fit") if m["resumed"]} == left
    assert not leftovers()
    code, lines, _ = orchestrate(capsys, "status", "slow")
    assert any(": finished" in line for line in lines)
    orchestrate(capsys, *argv, "--store", "calm")
    assert contents("calm") == after


# Others at the same time


def test_gc_beside_a_run(folder, capsys):
    """What no sweep needs goes, what the run that is going on needs stays."""
    assert orchestrate(capsys, "sweep", "big.py", "--seeds", "2")[0] == 0
    assert orchestrate(capsys, "sweep", "toy.py", "--set", "train.lr=[0.3]")[0] == 0
    old = set(contents())
    done: list[subprocess.CompletedProcess[str]] = []

    def collect() -> None:
        wait(lambda: Store("artifacts").committed(["Look"]) - old)
        words = ("gc", "big.py", "--seeds", "2", "--older-than", "0", "--yes")
        command = [sys.executable, "-m", "orchestrator", *words]
        done.append(
            subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        )

    collector = Thread(target=collect)
    collector.start()
    code, lines, _ = orchestrate(capsys, "sweep", "toy.py", "--set", "probes.Look.seconds=1.0")
    collector.join()
    assert code == 0
    assert counts(lines) == {"tasks": 32, "ran": 32, "stored": 0, "failed": 0, "skipped": 0}
    assert done[0].returncode == 0, done[0].stderr
    assert "toy" in done[0].stdout and "is going on: all that it needs is left alone" in done[0].stdout
    run = runs("toy")[-1]
    assert not told(run, "damaged", "lost", "failed")
    committed = Counter(e["key"] for e in told(run, "committed"))
    assert set(committed.values()) == {1}
    left = set(contents())
    assert left & old == {m["key"] for m in manifests("Fit", "Look") if m["label"] and "big" in m["source"]["file"]}
    assert left - old == set(committed)
    events = told(run, "run_started", "run_finished")
    gone = done[0].stdout
    assert re.search(r"deleted: \d+ artifacts", gone), gone
    assert events
    verified(capsys)


# Credentials


def test_a_machine_without_credentials_ends_the_run(folder, capsys, monkeypatch, s3: S3Server):
    """It would let one task after the other fail."""
    import ray

    ray.shutdown()
    with monkeypatch.context() as there:  # the workers inherit the environment in which Ray begins
        for name in (*s3.env, "TMPDIR"):  # of sockets' names only 107 letters count
            there.delenv(name)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    code, lines, err = orchestrate(capsys, "sweep", "toy.py", "--store", s3.uri("closed"))
    assert code == 1
    (why,) = [line for line in lines if line.startswith("Stopped: ")]
    assert socket.gethostname() in why and "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in why
    assert "0 of 26 tasks are in the store" in lines[-1]
    assert not any(line.startswith("failed: ") for line in lines)
    assert "Traceback" not in "".join(lines) + err


@pytest.mark.slow
def test_credentials_are_written_nowhere(folder, tmp_path, s3: S3Server):
    wrong = "a-secret-that-is-not-right"
    uri = s3.uri("credentials")
    short = Path(tempfile.mkdtemp(dir="/tmp"))  # sockets lie there, whose names may have 107 letters
    outputs = []
    try:
        for secret, code in ((SECRET_KEY, 1), (wrong, 2)):
            argv = ("sweep", "toy.py", "--set", "probes.Look.trouble=raise", "--store", uri)
            with Command(*argv, env={"AWS_SECRET_ACCESS_KEY": secret, "RAY_TMPDIR": str(short)}) as command:
                out, err = command.process.communicate(timeout=150)
            assert command.process.returncode == code, out + err
            outputs.append(out + err)
        assert "no such thing" in outputs[0]
        store = Store(uri)
        written = {f"{uri}/{listed.path}": store.read(listed.path) or b"" for listed in store.listing("")}
        assert any("/logs/" in name for name in written) and any("events.jsonl" in name for name in written)
        for tree in (short, tmp_path):
            written |= {str(p): p.read_bytes() for p in tree.rglob("*") if p.is_file() and not p.is_symlink()}
        assert any("session_" in name for name in written)
        written["what is printed"] = "".join(outputs).encode()
        for secret in (SECRET_KEY, wrong):
            assert [name for name, data in written.items() if secret.encode() in data] == []
    finally:
        shutil.rmtree(short, ignore_errors=True)
