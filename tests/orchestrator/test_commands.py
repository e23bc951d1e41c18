"""The verbs that look after a store, through the command line's own entry, on a store that a real run made."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import s3

from orchestrator.__main__ import main
from orchestrator.commands.common import catalogue
from orchestrator.decisions import Decisions
from orchestrator.garbage import find_garbage
from orchestrator.identity import host
from orchestrator.plan import make_plan
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep
from tasks.snapshots import encode

SWEEP = '''\
"""Toy tasks of every kind, that need no torch."""

import time
from dataclasses import dataclass

import numpy as np
from beside import Square
from orchestrator import Sweep, same_setting
from tasks.spec import Spec
from tasks.task import GroupProbe, PairProbe, Probe, Task


@dataclass(frozen=True)
class Points(Task):
    n: int = 4

    def run(self, ctx):
        np.save(ctx.dir / "x.npy", np.arange(self.n))
        return {"examples": self.n}


@dataclass(frozen=True)
class Downhill(Spec):
    rates: tuple[float, ...] = (0.1, 0.2)
    bound: float = float("inf")


@dataclass(frozen=True)
class Fit(Task):
    dataset: Points = Points()
    lr: float = 0.1
    optimizer: Downhill = Downhill()
    streams = ("init", "order")

    def run(self, ctx, dataset):
        for epoch in (1, 2):
            ctx.log(f"epoch {epoch}")
            yield {"epoch": epoch}
        (ctx.dir / "w.txt").write_text(f"{ctx.rng('init').random()} {sum(self.optimizer.rates)}")
        return {"val_accuracy": self.lr * len(dataset.array("x")), "undefined": float("nan"), "diverged": False}


@dataclass(frozen=True)
class Look(Probe):
    square: Square = Square()

    def run(self, ctx, square, trained):
        return {"draw": ctx.rng("anything").random(), "nine": square.results["nine"]}


@dataclass(frozen=True)
class Clock(Probe):
    def run(self, ctx, trained):
        (ctx.dir / "now.txt").write_text(str(time.time_ns()))
        return {"now": time.time_ns(), "same": 1}


@dataclass(frozen=True)
class Breaks(Probe):
    def run(self, ctx, trained):
        print("about to break")
        if trained.seeds["init"] == 1:
            raise RuntimeError("no such thing")
        return {}


@dataclass(frozen=True)
class After(Probe):
    breaks: Breaks = Breaks()

    def run(self, ctx, breaks, trained):
        return {}


@dataclass(frozen=True)
class Both(PairProbe):
    def run(self, ctx, a, b):
        np.savez(ctx.dir / "path.npz", alpha=ctx.rng("path").random(3))
        return {"sum": float(ctx.rng("noise").random())}


@dataclass(frozen=True)
class All(GroupProbe):
    def run(self, ctx, *trained):
        return {"members": len(trained)}


sweep = Sweep(
    train=Fit(lr={"grid_search": [0.1, 0.2]}),
    seeds=range(2),
    probes=[Look(), Clock(), Breaks(), After()],
    pairs=[Both()],
    groups=[All()],
    pair_when=same_setting,
    smoke={"train.lr": 0.1},
)
'''

BESIDE = """\
from dataclasses import dataclass

from tasks.task import Probe


@dataclass(frozen=True)
class Square(Probe):
    side: int = 3

    def run(self, ctx, trained):
        return {"nine": self.side**2}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep file and the store that a run of it has left; tests work on copies."""
    home = tmp_path_factory.mktemp("made")
    (home / "study.py").write_text(SWEEP)
    (home / "beside.py").write_text(BESIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "argv", ["orchestrator", "sweep", "study.py"])
        assert main(["sweep", "study.py"]) == 1  # a task breaks
    _unload(home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, in which the test works."""
    shutil.copytree(made, tmp_path / "home")
    for path in Path(tmp_path, "home/artifacts/artifacts").glob("*/*/manifest.json"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "home")))  # where the sweep file is
    monkeypatch.chdir(tmp_path / "home")
    yield tmp_path / "home"
    _unload(tmp_path / "home")


def _unload(home: Path) -> None:
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(home))]:
        del sys.modules[name]
    sys.path[:] = [p for p in sys.path if not p.startswith(str(home))]


def orchestrate(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, and standard error of a command."""
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def key_of(task: str, label: str = "", store: str = "artifacts") -> str:
    """The key of the first artifact of a class whose label holds these words."""
    found = sorted(
        p.parent.name
        for p in Path(store, "artifacts", task).glob("*/manifest.json")
        if label in json.loads(p.read_text())["label"]
    )
    return found[0]


def manifest_path(task: str, key: str) -> Path:
    return Path("artifacts", "artifacts", task, key, "manifest.json")


def edit_manifest(task: str, key: str, **changes: Any) -> None:
    path = manifest_path(task, key)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# rerun


@pytest.mark.parametrize("task", ["Points", "Fit", "Look", "Square", "Both", "All"])
def test_rerun_gives_the_same_bytes_for_every_kind_of_task(home: Path, capsys, task: str) -> None:
    before = contents(home / "artifacts")
    code, lines, err = orchestrate(capsys, "rerun", key_of(task)[:12])
    assert code == 0, (lines, err)
    assert lines[-1].startswith("identical: ")
    assert not [line for line in lines if line.startswith("note:")]
    assert contents(home / "artifacts") == before
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("orchestrator-rerun-*"))


def test_rerun_names_what_differs(home: Path, capsys) -> None:
    code, lines, _ = orchestrate(capsys, "rerun", key_of("Clock"))
    assert code == 1
    told = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert "differs" in told["now"] and "was" in told["now"]
    assert "differs" in told["now.txt"]
    assert told["same"].endswith("identical")
    assert lines[-1] == "different: now, now.txt"


def test_rerun_says_which_code_has_changed_and_what_that_does(home: Path, capsys) -> None:
    text = Path("study.py").read_text()
    Path("study.py").write_text(text.replace("sum(self.optimizer.rates)}", "sum(self.optimizer.rates) + 1}"))
    code, lines, _ = orchestrate(capsys, "rerun", key_of("Fit"))
    assert code == 1
    assert "note: the code has changed since: sweep_study:Fit" in lines
    assert lines[-1] == "different: w.txt"
    Path("study.py").write_text("# a remark\n" + text)
    code, lines, _ = orchestrate(capsys, "rerun", key_of("Fit"))
    assert code == 0 and not [line for line in lines if "changed" in line]


def test_rerun_says_where_it_was_made_if_that_was_elsewhere(home: Path, capsys) -> None:
    key = key_of("Fit")
    manifest = json.loads(manifest_path("Fit", key).read_text())
    edit_manifest("Fit", key, host="another", versions={**manifest["versions"], "numpy": "1.0"})
    code, lines, _ = orchestrate(capsys, "rerun", key)
    assert code == 0
    assert f"note: host: it was another, here it is {socket.gethostname()}" in lines
    assert [line for line in lines if line.startswith("note: numpy: it was 1.0, here it is ")]


def test_rerun_has_the_threads_that_the_task_had(home: Path, capsys, monkeypatch) -> None:
    text = Path("study.py").read_text()
    told = 'import os\n        return {"members": len(trained), "threads": os.environ["OMP_NUM_THREADS"]}'
    Path("study.py").write_text(text.replace('return {"members": len(trained)}', told))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    key = key_of("All")
    edit_manifest("All", key, threads=3)
    _, lines, _ = orchestrate(capsys, "rerun", key)
    assert [line for line in lines if line.split() == ["threads", "new"]]
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert [line for line in lines if line.endswith("on cpu, 3 threads")]


def test_rerun_keeps_the_files_where_asked(home: Path, capsys) -> None:
    key = key_of("Fit")
    assert orchestrate(capsys, "rerun", key, "--to", "again")[0] == 0
    stored = {n: d for n, d in contents(Path("artifacts/artifacts/Fit", key)).items() if n != "manifest.json"}
    assert contents(Path("again")) == stored
    code, _, err = orchestrate(capsys, "rerun", key, "--to", "again")
    assert code == 2 and "not empty" in err


def test_rerun_without_an_input_is_one_sentence(home: Path, capsys) -> None:
    data = key_of("Points")
    Store("artifacts").delete_artifact("Points", data)
    code, _, err = orchestrate(capsys, "rerun", key_of("Look"))
    assert code == 2 and data in err and "no longer holds" in err and len(err.splitlines()) == 1


def test_rerun_on_weights_that_were_deleted_to_save_space(home: Path, capsys) -> None:
    key = key_of("Fit", "seed 0")
    folder = Path("artifacts/artifacts/Fit", key)
    (folder / "dropped.json").write_text('{"files": ["w.txt"]}')
    (folder / "w.txt").unlink()
    label = json.loads((folder / "manifest.json").read_text())["label"]
    code, _, err = orchestrate(capsys, "rerun", key_of("Clock", label.removeprefix("Fit")))
    assert code == 2 and "w.txt of Fit" in err and "deleted to save space" in err and len(err.splitlines()) == 1
    assert orchestrate(capsys, "rerun", key)[1][-1].startswith("identical: ")
    assert orchestrate(capsys, "verify")[0] == 0
    _, lines, _ = orchestrate(capsys, "show", key)
    assert [line for line in lines if line.strip().startswith("w.txt") and line.endswith("deleted to save space")]
    found = find_garbage(Store("artifacts"), catalogue(Store("artifacts")), set(), 0.0)
    left = [path.stat().st_size for path in Path("artifacts/artifacts/Fit").glob("*/w.txt")]
    assert len(left) == 3
    assert sorted(item.size for item in found.items if item.kind == "Fit") == sorted([0, *left])


def test_rerun_of_a_moved_sweep_file(home: Path, capsys) -> None:
    Path("new").mkdir()
    for name in ("study.py", "beside.py"):
        Path(name).rename(Path("new", name))
    _unload(home)
    code, _, err = orchestrate(capsys, "rerun", key_of("Look"))
    assert code == 2 and "'beside'" in err and "study.py is not there" in err and "--file" in err
    code, _, err = orchestrate(capsys, "rerun", key_of("Clock"))
    assert code == 2 and "study.py, which is not there: name it with --file" in err
    code, lines, err = orchestrate(capsys, "rerun", key_of("Look"), "--file", "new/study.py")
    assert code == 0, (lines, err)


def test_rerun_of_a_class_that_is_gone(home: Path, capsys) -> None:
    text = Path("study.py").read_text()
    Path("study.py").write_text(text.replace("class Downhill", "class Uphill").replace("Downhill", "Uphill"))
    code, _, err = orchestrate(capsys, "rerun", key_of("Fit"))
    assert code == 2 and "needs the class Downhill" in err and len(err.splitlines()) == 1
    Path("study.py").write_text(text.replace("bound: float", "limit: float"))
    code, _, err = orchestrate(capsys, "rerun", key_of("Fit"))
    assert code == 2 and "a field that Downhill no longer has" in err and len(err.splitlines()) == 1


def test_rerun_of_a_task_that_fails_shows_why(home: Path, capsys) -> None:
    text = Path("study.py").read_text()
    Path("study.py").write_text(
        text.replace("def run(self, ctx, *trained):", "def run(self, ctx, *trained):\n        1 / 0")
    )
    code, lines, _ = orchestrate(capsys, "rerun", key_of("All"))
    assert code == 1
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "failed: ZeroDivisionError: division by zero"


def test_rerun_takes_no_damaged_input(home: Path, capsys) -> None:
    weights = Path("artifacts/artifacts/Fit", key_of("Fit", "seed 0"), "w.txt")
    weights.write_bytes(b"?" * weights.stat().st_size)
    label = json.loads((weights.parent / "manifest.json").read_text())["label"]
    code, lines, err = orchestrate(capsys, "rerun", key_of("Clock", label.removeprefix("Fit")))
    assert code == 2 and weights.parent.name in err and not [line for line in lines if line.startswith("identical")]


@pytest.mark.parametrize("attack", ["module", "package", "source", "function"])
def test_no_manifest_makes_rerun_run_code_that_lies_in_the_store(home: Path, capsys, attack: str, monkeypatch) -> None:
    key = key_of("All")
    folder = Path("artifacts/artifacts/All", key)
    payload = "open('attacked', 'w').close()\nfrom tasks.task import Task\nclass Evil(Task): pass\n"
    source = json.loads(manifest_path("All", key).read_text())["source"]
    path = {
        "module": f"artifacts.artifacts.All.{key}.evil:Evil",
        "package": "artifacts.evil:Evil",
        "source": "sweep_evil:Evil",
        "function": "os:system",
    }[attack]
    (folder / "evil.py").write_text(payload)
    if attack == "package":
        Path("artifacts/__init__.py").write_text(payload)
    if attack == "source":
        source = {**source, "file": str((folder / "evil.py").resolve())}
    edit_manifest("All", key, spec={"class": path}, source=source)
    monkeypatch.syspath_prepend(str(home))
    code, _, err = orchestrate(capsys, "rerun", key)
    assert code == 2 and len(err.splitlines()) == 1, err
    assert not Path("attacked").exists()


# show


def test_show_tells_how_an_artifact_came_to_be(home: Path, capsys) -> None:
    key = key_of("Look", "seed 1")
    code, lines, _ = orchestrate(capsys, "show", key[:10])
    text = "\n".join(lines)
    assert code == 0
    data = json.loads(manifest_path("Points", key_of("Points")).read_text())
    assert data["files"]["x.npy"]["sha256"] in text  # up to the dataset's hash
    for task in ("Square", "Fit", "Points"):
        assert [line for line in lines if line.startswith("  ") and f"  {task}" in line]
    assert [line.split() for line in lines if ".init" in line] == [["0.init", "1"], ["1.init", "1"]]  # inherited
    assert [line for line in lines if line.strip().startswith("sweep file") and line.endswith("study.py")]
    assert [line for line in lines if line.strip().startswith("command") and " sweep study.py" in line]
    assert [line for line in lines if line.endswith("handed out")]
    assert [line for line in lines if "  committed" in line]
    assert [line for line in lines if line.split()[:1] == ["tasks.streams"]]
    assert [line for line in lines if line.split()[:1] == ["host"] and line.endswith(socket.gethostname())]
    assert lines[-1] == f"  python -m orchestrator rerun {key[:12]}"
    assert text.count(data["files"]["x.npy"]["sha256"]) == 1


def test_show_with_another_store_names_it_in_the_command(home: Path, capsys) -> None:
    key = key_of("Fit")
    Path("artifacts").rename("an other")
    code, lines, _ = orchestrate(capsys, "show", key, "--store", "an other")
    assert code == 0 and lines[-1] == f"  python -m orchestrator rerun {key[:12]} --store 'an other'"


def test_show_json_is_the_manifest(home: Path, capsys) -> None:
    key = key_of("Fit")
    code, lines, _ = orchestrate(capsys, "show", key, "--json")
    assert code == 0 and json.loads("\n".join(lines)) == json.loads(manifest_path("Fit", key).read_text())


def test_show_says_which_input_is_gone(home: Path, capsys) -> None:
    data = key_of("Points")
    Store("artifacts").delete_artifact("Points", data)
    code, lines, _ = orchestrate(capsys, "show", key_of("Fit"))
    assert code == 0 and f"  {data[:12]}  not in the store" in lines


STRANGE: list[Any] = [
    None,
    3,
    "text",
    [],
    ["x", 5, {}],
    {},
    {"x": {"class": "os:system"}},
    {"class": 5},
    {"cpu": "many"},
]


@pytest.mark.parametrize("verb", ["show", "rerun", "verify", "ls"])
def test_no_manifest_makes_a_verb_stumble(home: Path, capsys, verb: str) -> None:
    """Each field in turn holds something else: a sentence or an answer, never a traceback."""
    key = key_of("Both")
    whole = json.loads(manifest_path("Both", key).read_text())
    for name in whole:
        for value in STRANGE:
            manifest_path("Both", key).write_text(json.dumps({**whole, name: value}))
            code, lines, err = orchestrate(capsys, verb, *(["Both"] if verb == "ls" else [key]))
            assert code in (0, 1, 2) and "Traceback" not in err, (name, value)
            assert len(err.splitlines()) == (code == 2) and (lines or err), (name, value, lines, err)


# verify


def test_verify_of_a_sound_store(home: Path, capsys) -> None:
    number = len(list(Path("artifacts/artifacts").glob("*/*")))
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 0 and lines == [f"{number} artifacts: {number} intact, 0 damaged"]


def _damage(how: str) -> tuple[str, str]:
    """Damage an artifact; its class and key."""
    task, key = "Fit", key_of("Fit", "seed 0")
    folder = Path("artifacts/artifacts", task, key)
    if how == "a flipped bit":
        data = bytearray((folder / "w.txt").read_bytes())
        data[3] ^= 1
        (folder / "w.txt").write_bytes(bytes(data))
    elif how == "a file cut short":
        (folder / "w.txt").write_bytes((folder / "w.txt").read_bytes()[:-2])
    elif how == "a missing file":
        (folder / "w.txt").unlink()
    elif how == "a torn manifest":
        (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:100])
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "another's manifest":
        other = key_of("Fit", "seed 1")
        shutil.copy(Path("artifacts/artifacts/Fit", other, "manifest.json"), folder)
    elif how == "another folder":
        key = "0" * 32
        folder.rename(folder.parent / key)
    return task, key


DAMAGE = [
    "a flipped bit", "a file cut short", "a missing file", "a torn manifest", "no manifest", "another's manifest",
    "another folder",
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_verify_names_what_is_damaged_and_sets_it_aside(home: Path, capsys, how: str) -> None:
    number = len(list(Path("artifacts/artifacts").glob("*/*")))
    task, key = _damage(how)
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 1
    assert lines[-1] == f"{number} artifacts: {number - 1} intact, 1 damaged"
    (told,) = [line for line in lines if line.startswith("damaged: ")]
    assert f"{task} {key[:12]}" in told
    assert ("w.txt" in told) == (how in DAMAGE[:3])

    code, lines, _ = orchestrate(capsys, "verify", key, "--set-aside")
    assert code == 1 and lines[-1] == "1 artifact: 0 intact, 1 damaged"
    assert not Path("artifacts/artifacts", task, key).exists()
    assert list(Path("artifacts/damaged", task).iterdir())
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 0 and lines[-1] == f"{number - 1} artifacts: {number - 1} intact, 0 damaged"
    assert [line for line in lines if line.startswith("note: 1 artifact set aside")]
    _, lines, _ = orchestrate(capsys, "plan", "study.py", "--json")
    # What was set aside is to be made again; so is what broke, and what needs that.
    assert json.loads(lines[-1])["by_task"][task] == {"tasks": 4, "stored": 3, "to_run": 1}


def test_verify_of_some(home: Path, capsys) -> None:
    _damage("a flipped bit")
    code, lines, _ = orchestrate(capsys, "verify", "Look", "Both")
    assert code == 0 and lines[-1] == "6 artifacts: 6 intact, 0 damaged"
    code, lines, _ = orchestrate(capsys, "verify", key_of("Look"), "Fit")
    assert code == 1 and lines[-1] == "5 artifacts: 4 intact, 1 damaged"
    code, _, err = orchestrate(capsys, "verify", "Nothing")
    assert code == 2 and "'Nothing'" in err


def test_verify_looks_at_snapshots(home: Path, capsys) -> None:
    store = Store("artifacts")
    store.write_snapshot("a" * 32, encode({"epoch": 3}))
    assert orchestrate(capsys, "verify")[0] == 0
    store.write_snapshot("b" * 32, encode({"epoch": 3})[:-1])
    code, lines, _ = orchestrate(capsys, "verify", "--set-aside")
    assert code == 1 and [line for line in lines if line.startswith(f"damaged: snapshot of {'b' * 12}")]
    assert store.snapshot_keys() == ["a" * 32]
    assert orchestrate(capsys, "verify")[0] == 0


def test_verify_counts_damaged_lines_of_journals(home: Path, capsys) -> None:
    (events,) = Path("artifacts/runs/study").glob("*/events.jsonl")
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join([*lines[:3], b"\x00\xff rubbish\n", *lines[3:]]) + b'{"event": "comm')
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 0
    assert [line for line in lines if line.startswith("note: runs/study/") and "2 damaged lines" in line]
    assert orchestrate(capsys, "status")[0] == 0


def test_verify_notes_inputs_that_are_gone(home: Path, capsys) -> None:
    data = key_of("Points")
    Store("artifacts").delete_artifact("Points", data)
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 0
    assert [line for line in lines if line.startswith(f"note: the input {data[:12]}") and "and 3 more" in line]


# gc


def listed(lines: list[str]) -> dict[str, int]:
    """Number by kind of thing, from the table that gc prints."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    return {what: int(number) for what, number, _ in rows}


def test_gc_keeps_what_the_file_needs(home: Path, capsys) -> None:
    before = contents(home / "artifacts")
    code, lines, _ = orchestrate(capsys, "gc", "study.py", "--older-than", "0", "--yes")
    assert code == 0 and lines[-1] == "There is nothing to delete."
    assert contents(home / "artifacts") == before


def test_gc_deletes_what_the_file_no_longer_needs(home: Path, capsys, monkeypatch) -> None:
    text = Path("study.py").read_text()
    Path("study.py").write_text(text.replace('"grid_search": [0.1, 0.2]', '"grid_search": [0.2, 0.3]'))
    text = text.replace("probes=[Look(), ", "probes=[")
    before = contents(home / "artifacts/artifacts")
    # The smoke size is lr = 0.1, so nothing goes yet.
    assert orchestrate(capsys, "gc", "study.py", "--older-than", "0", "--yes")[1][-1] == "There is nothing to delete."

    Path("study.py").write_text(text)
    command = ["gc", "study.py", "--set", "train.lr=0.2", "--older-than", "0"]
    code, lines, _ = orchestrate(capsys, *command, "--dry-run")
    assert code == 0
    # --set applies to the smoke size too: all with lr = 0.1 goes, and Look and Square of all trials.
    expected = {"All": 1, "Both": 1, "Breaks": 1, "Clock": 2, "After": 1, "Fit": 2, "Look": 4, "Square": 4, "all": 16}
    assert listed(lines) == expected
    assert contents(home / "artifacts/artifacts") == before

    monkeypatch.setattr(builtins, "input", lambda prompt: "n")
    code, lines, _ = orchestrate(capsys, *command)
    assert code == 0 and lines[-1] == "Nothing was deleted."
    assert contents(home / "artifacts/artifacts") == before

    monkeypatch.setattr(builtins, "input", lambda prompt: "y")
    runs = contents(home / "artifacts/runs")
    code, lines, _ = orchestrate(capsys, *command)
    assert code == 0 and lines[-1].startswith("deleted: 16 artifacts, ")
    left = contents(home / "artifacts/artifacts")
    assert left.items() < before.items()
    assert contents(home / "artifacts/runs") == runs
    _, lines, _ = orchestrate(capsys, "plan", "study.py", "--set", "train.lr=0.2", "--json")
    assert json.loads(lines[-1])["by_task"]["Fit"]["to_run"] == 0
    assert orchestrate(capsys, "verify")[0] == 0


ADAPTIVE = """\
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from orchestrator import Sweep
from study import Fit, Look

sweep = Sweep(train=Fit(lr=tune.uniform(0.0, 1.0)), seeds=range(2), probes=[Look()], search=OptunaSearch(), samples=2)
"""


def test_gc_keeps_what_a_search_has_proposed(home: Path, capsys) -> None:
    """Of samples=2 the first two proposals, of samples=1 the first."""
    Path("adaptive.py").write_text(ADAPTIVE)
    sweep = load_sweep("adaptive.py")
    store = Store("artifacts")
    decisions = Decisions(sweep, store)
    for number, lr in enumerate((0.2, 0.1, 0.7)):
        decisions.proposed(number, {"train.lr": lr})
    decisions.close()
    for node in make_plan(sweep, None, [{"train.lr": 0.2}, {"train.lr": 0.1}]).nodes.values():
        store.commit(node.name, node.key, store.workspace(), {**node.spec(), "status": "done", "results": {}})
    Path("none.py").write_text(SWEEP.replace("n: int = 4", "n: int = 5"))
    before = listed(orchestrate(capsys, "gc", "none.py", "--older-than", "0", "--dry-run")[1])
    command = ["gc", "adaptive.py", "none.py", "--older-than", "0", "--dry-run"]
    both = listed(orchestrate(capsys, *command)[1])
    Path("adaptive.py").write_text(ADAPTIVE.replace("samples=2", "samples=1"))
    one = listed(orchestrate(capsys, *command)[1])
    assert [told["Fit"] for told in (before, both, one)] == [8, 4, 6]
    assert [told["Points"] for told in (before, both, one)] == [2, 1, 1]

    (journal,) = Path("artifacts/searches").iterdir()
    journal.write_text(journal.read_text().replace("0.7", "0.8"))
    code, lines, _ = orchestrate(capsys, *command)
    assert code == 0 and lines[0].startswith("1 line is damaged in ")
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 0 and [line for line in lines if line.startswith("note: searches/") and "1 damaged line," in line]


def test_gc_leaves_alone_what_is_young(home: Path, capsys) -> None:
    number = len(list(Path("artifacts/artifacts").glob("*/*")))
    Path("other.py").write_text(Path("study.py").read_text().replace("n: int = 4", "n: int = 5"))
    code, lines, _ = orchestrate(capsys, "gc", "other.py", "--yes")
    assert code == 0
    assert f"{number} artifacts younger than 1 h left alone (--older-than)" in lines
    assert lines[-1] == "There is nothing to delete."


def _live(run: str, **changes: Any) -> None:
    """A sign of life of a run."""
    from orchestrator.live import this_process

    record = {**this_process(), "time": time.time(), "run": run, "beat": 1, "running": {}, **changes}
    Path("artifacts/live").mkdir(exist_ok=True)
    Path("artifacts/live", f"{run.replace('/', '.')}.json").write_text(json.dumps(record))


def test_gc_touches_nothing_that_a_live_run_needs(home: Path, capsys) -> None:
    Path("other.py").write_text(Path("study.py").read_text().replace("n: int = 4", "n: int = 5"))
    keys = {key_of("Fit", "seed 0"), key_of("Points")}
    Path("artifacts/runs/busy/r1").mkdir(parents=True)
    Path("artifacts/runs/busy/r1/keys").write_text("\n".join(keys))
    store = Store("artifacts")
    busy, idle = "a" * 32, "b" * 32
    for key in (busy, idle):
        store.write_snapshot(key, encode({}))
    _live("runs/busy/r1", running={busy: time.time()})
    code, lines, _ = orchestrate(capsys, "gc", "other.py", "--older-than", "0", "--yes")
    assert code == 0 and "runs/busy/r1 is going on: all that it needs is left alone" in lines
    assert {p.name for p in Path("artifacts/artifacts").glob("*/*")} == keys
    assert store.snapshot_keys() == [busy]
    assert list(Path("artifacts/live").iterdir())

    _live("runs/busy/r1", pid=2**22 + 1, begun="0")  # its process is gone
    code, lines, _ = orchestrate(capsys, "gc", "other.py", "--older-than", "0", "--yes")
    assert code == 0 and not list(Path("artifacts/artifacts").glob("*/*"))
    assert not store.snapshot_keys() and not list(Path("artifacts/live").iterdir())


def test_gc_waits_until_a_run_has_said_what_it_needs(home: Path, capsys) -> None:
    _live("runs/new/r1")
    code, _, err = orchestrate(capsys, "gc", "study.py", "--yes")
    assert code == 2 and "runs/new/r1 has just begun" in err


def test_gc_notices_a_run_that_begins_while_it_asks(home: Path, capsys, monkeypatch) -> None:
    Path("other.py").write_text(Path("study.py").read_text().replace("n: int = 4", "n: int = 5"))
    key = key_of("Points")

    def begin(prompt: str) -> str:
        Path("artifacts/runs/busy/r1").mkdir(parents=True)
        Path("artifacts/runs/busy/r1/keys").write_text(key)
        _live("runs/busy/r1")
        return "y"

    monkeypatch.setattr(builtins, "input", begin)
    code, lines, _ = orchestrate(capsys, "gc", "other.py", "--older-than", "0")
    assert code == 0 and "kept for a run that has begun meanwhile: 1 thing" in lines
    assert [p.name for p in Path("artifacts/artifacts").glob("*/*")] == [key]


def test_gc_of_what_is_left_over(home: Path, capsys) -> None:
    store = Store("artifacts")
    _damage("a flipped bit")
    orchestrate(capsys, "verify", "--set-aside")
    done, wanted = key_of("Look"), key_of("Both")
    store.delete_artifact("Both", wanted)  # so it is still to be made
    for key in (done, wanted, "c" * 32):
        store.write_snapshot(key, encode({}))
    gone = Path("artifacts/tmp") / f"{host()}-{2**22 + 1}.0-left"
    gone.mkdir(parents=True)
    (gone / "half").write_bytes(b"x" * 1000)
    mine = store.workspace()
    code, lines, _ = orchestrate(capsys, "gc", "study.py", "--older-than", "0", "--yes")
    assert code == 0
    assert listed(lines) == {"snapshots": 2, "set aside as damaged": 1, "never committed": 1, "all": 4}
    assert store.snapshot_keys() == [wanted]
    assert not list(Path("artifacts/damaged").rglob("w.txt"))
    assert not gone.exists() and mine.exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gc"], "name those whose artifacts are to stay"),
        (["gc", "nothing.py"], "no sweep file 'nothing.py'"),
        (["gc", "study.py", "--older-than", "-1"], "--older-than must be"),
        (["gc", "study.py", "--older-than", "nan"], "--older-than must be"),
        (["gc", "study.py", "--set", "train.lrr=1"], "train.lr"),
    ],
)
def test_gc_refuses_in_one_sentence(home: Path, capsys, argv: list[str], words: str) -> None:
    before = contents(home / "artifacts")
    code, _, err = orchestrate(capsys, *argv)
    assert code == 2 and words in err and len(err.splitlines()) == 1
    assert contents(home / "artifacts") == before


# status, logs, ls


def _events() -> Path:
    (path,) = Path("artifacts/runs/study").glob("*/events.jsonl")
    return path


def test_status_of_a_run_that_ended(home: Path, capsys) -> None:
    code, lines, _ = orchestrate(capsys, "status")
    assert code == 0 and lines[0].endswith(": finished")
    failures = [line for line in lines if line.startswith("  failed: Breaks")]
    assert len(failures) == 2
    assert all("RuntimeError: no such thing (1 task that needs it skipped); logs " in line for line in failures)


def test_status_of_a_run_that_has_not_begun(home: Path, capsys) -> None:
    folder = Path("artifacts/runs/study")
    now = datetime.now(timezone.utc)
    for name in (f"{now:%Y-%m-%dT%H-%M-%S.%f}", f"{now - timedelta(hours=1):%Y-%m-%dT%H-%M-%S.%f}"):
        (folder / name).mkdir()
        (folder / name / "keys").touch()
        code, lines, _ = orchestrate(capsys, "status", "study", "--run", name)
        assert code == 0 and len(lines) == 1
        words = ": starting, for " if name == f"{now:%Y-%m-%dT%H-%M-%S.%f}" else ": ended before it began: run the same"
        assert words in lines[0]
    Path("artifacts/runs/refused").mkdir()  # as an object store keeps it of a run that was refused
    code, lines, _ = orchestrate(capsys, "status")
    assert code == 0 and not any("refused" in line for line in lines)
    code, _, err = orchestrate(capsys, "status", "refused")
    assert code == 2 and "no run of 'refused'" in err


def test_status_of_a_run_whose_driver_is_gone(home: Path, capsys) -> None:
    lines = _events().read_text().splitlines()
    _events().write_text("\n".join(lines[:-2]) + "\n")
    run = f"runs/study/{_events().parent.name}"
    _live(run)
    assert ": running, last sign of life 0 s ago, on " in orchestrate(capsys, "status")[1][0]
    _live(run, pid=2**22 + 1, begun="0")
    words = "stopped without ending 0 s ago (killed?): run the same command again to go on"
    assert orchestrate(capsys, "status", "study")[1][0] == f"{run}: {words}"
    Path("artifacts/live", f"{run.replace('/', '.')}.json").unlink()
    old = [json.dumps({**json.loads(line), "time": time.time() - 5 * 3600}) for line in lines[:-2]]
    _events().write_text("\n".join(old) + "\n")
    assert "stopped without ending 5 h ago (killed?)" in orchestrate(capsys, "status")[1][0]


def test_status_tells_of_losses_waiting_and_why_a_run_stopped(home: Path, capsys) -> None:
    lines = _events().read_text().splitlines()
    key = key_of("Fit")
    label = "Fit · lr=0.1 · seed 0"
    lost = {"time": time.time(), "event": "lost", "key": key, "label": label, "again": True, "why": "killed"}
    away = {"time": time.time(), "event": "store_away", "why": "The store does not answer."}
    strange = [
        "[]",
        "{}",
        "rubbish",
        '{"event": "lost"}',
        '{"time": "x", "event": "failed"}',
        '{"time": 1, "event": 5}',
    ]
    strange += ['{"time": 1, "event": "never heard of", "key": ["x"]}']
    more = [*lines[:-2], *strange, json.dumps(lost), json.dumps(lost), json.dumps(away)]
    _events().write_text("\n".join(more) + "\n")
    _live(f"runs/study/{_events().parent.name}")
    _, told, _ = orchestrate(capsys, "status")
    assert told[0].endswith(", waiting for the store: The store does not answer.")
    (loss,) = [line for line in told if line.startswith("  lost 2 times: Fit · ")]
    assert loss.endswith(f": killed; logs {key[:12]}")
    halted = {"time": time.time(), "event": "run_halted", "why": "The disk is full."}
    _events().write_text("\n".join([*more, json.dumps(halted)]) + "\n")
    assert orchestrate(capsys, "status")[1][0].endswith(
        ": halted: The disk is full. Run the same command again to go on."
    )


def test_logs_of_a_failed_task_end_with_its_traceback(home: Path, capsys) -> None:
    _, lines, _ = orchestrate(capsys, "status")
    key = next(line for line in lines if line.startswith("  failed: ")).rpartition(" ")[2]
    code, lines, _ = orchestrate(capsys, "logs", key)
    assert code == 0
    assert lines[1] == "about to break"
    assert lines[-1] == "RuntimeError: no such thing"


def test_logs_of_every_attempt(home: Path, capsys) -> None:
    key = key_of("Fit")
    (first,) = Path("artifacts/runs/study").glob(f"*/logs/{key}.txt")
    for attempt in (2, 10):
        first.with_name(f"{key}.{attempt}.txt").write_text(f"attempt {attempt}\n")
    later = Path("artifacts/runs/study/9999-later/logs")
    later.mkdir(parents=True)
    (later / f"{key}.txt").write_text("another run\n")
    code, lines, _ = orchestrate(capsys, "logs", key[:12])
    assert code == 0
    assert [line for line in lines if not line.startswith("── ")] == [
        "epoch 1", "epoch 2", "attempt 2", "attempt 10", "another run"
    ]  # fmt: skip
    _, lines, _ = orchestrate(capsys, "logs", key[:12], "--last")
    assert lines[1:] == ["another run"]


def test_logs_of_a_task_that_left_none(home: Path, capsys) -> None:
    assert orchestrate(capsys, "logs", key_of("Points"))[:2] == (0, ["The task printed nothing."])
    event = {"time": 5.0, "event": "failed", "key": "d" * 32, "label": "Gone", "error": "its worker died each time"}
    with open(_events(), "a") as file:
        file.write(json.dumps(event) + "\n")
    code, lines, _ = orchestrate(capsys, "logs", "d" * 12)
    assert code == 0 and lines == ["Gone printed nothing; its worker died each time"]
    code, _, err = orchestrate(capsys, "logs", "e" * 12)
    assert code == 2 and len(err.splitlines()) == 1


def test_ls_names_the_damaged(home: Path, capsys) -> None:
    _, key = _damage("a torn manifest")
    code, lines, _ = orchestrate(capsys, "ls", "Fit")
    assert code == 0 and lines[-1] == "4 artifacts, 1 of them damaged (see `orchestrator verify`)"
    assert [line for line in lines if line.startswith(f"{key[:12]}  damaged: ")]


@pytest.mark.parametrize("verb", ["rerun", "show", "verify", "gc", "status", "logs", "ls"])
def test_help_has_examples(verb: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert f"python -m orchestrator {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", [["rerun", "abc"], ["show", "abc"], ["verify"], ["gc", "study.py"], ["status"], ["ls"]]
)
def test_a_store_of_a_newer_version_is_refused(home: Path, capsys, verb: list[str]) -> None:
    Path("artifacts/store.json").write_text('{"format": 999}')
    code, _, err = orchestrate(capsys, *verb)
    assert code == 2 and "newer version" in err


def test_the_store_of_the_fixture_has_every_kind_of_task(home: Path) -> None:
    kinds = Counter(json.loads(p.read_text())["kind"] for p in Path("artifacts/artifacts").glob("*/*/manifest.json"))
    assert set(kinds) == {"data", "train", "probe", "pair", "group"}


# Object stores


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Iterator[tuple[s3.S3Server, str]]:
    """A real S3 server, and the URI of a store in it that a run of the sweep has left."""
    if s3.program() is None:
        pytest.skip("no S3 server here")
    with s3.running(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        patch.chdir(made)
        assert main(["sweep", "study.py", "--store", server.uri("study")]) == 1  # a task breaks
        _unload(made)
        yield server, server.uri("study")
        _unload(made)


def test_the_verbs_on_an_object_store(bucket: tuple[s3.S3Server, str], made: Path, capsys, monkeypatch) -> None:
    """From a sound store to an empty one, in one go: a run on an object store takes its time."""
    _, uri = bucket
    monkeypatch.chdir(made)
    monkeypatch.setenv("ORCHESTRATOR_STORE", uri)
    store = Store(uri)
    keys = {name: sorted(store.committed([name])) for name in store.task_names()}
    number = sum(map(len, keys.values()))

    code, lines, err = orchestrate(capsys, "verify")
    assert code == 0 and lines == [f"{number} artifacts: {number} intact, 0 damaged"], (lines, err)
    for name in ("Points", "Fit", "Look", "Both"):
        code, lines, err = orchestrate(capsys, "rerun", keys[name][0])
        assert code == 0 and lines[-1].startswith("identical: "), (lines, err)
    code, lines, _ = orchestrate(capsys, "show", keys["Look"][0])
    assert code == 0 and [line for line in lines if line.strip().startswith("x.npy")]
    assert lines[-1] == f"  python -m orchestrator rerun {keys['Look'][0][:12]}"
    assert [line for line in lines if line.endswith("handed out")]
    code, lines, _ = orchestrate(capsys, "status")
    assert code == 0 and lines[0].endswith(": finished")
    failed = next(line for line in lines if line.startswith("  failed: ")).rpartition(" ")[2]
    code, lines, _ = orchestrate(capsys, "logs", failed)
    assert code == 0 and lines[-1] == "RuntimeError: no such thing"
    code, lines, _ = orchestrate(capsys, "report", "study", "--to", "copied")
    assert code == 0 and lines[-1] == "report: copied/report.html"
    place = f"runs/study/{store.latest_run('study')}"
    assert Path("copied/report.html").read_bytes() == store.read(f"{place}/report.html")
    assert {p.name for p in Path("copied/plots").iterdir()} == set(store.names(f"{place}/plots")) != set()
    assert Path("copied/trials.parquet").stat().st_size > 0
    Path("file").touch()
    code, _, err = orchestrate(capsys, "report", "study", "--to", "file/below")
    assert code == 2 and err == "The report cannot be copied to 'file/below': Not a directory.\n"

    manifest = store.manifest("Fit", keys["Fit"][0])
    store.write(f"artifacts/Fit/{keys['Fit'][0]}/{manifest['folder']}/w.txt", b"rubbish")
    code, lines, _ = orchestrate(capsys, "verify", "--set-aside")
    assert code == 1 and lines[-1] == f"{number} artifacts: {number - 1} intact, 1 damaged"
    (told,) = [line for line in lines if line.startswith("damaged: ")]
    assert keys["Fit"][0][:12] in told and told.endswith("w.txt: size differs")
    code, lines, _ = orchestrate(capsys, "ls", "Fit")
    assert lines[-1] == f"{len(keys['Fit']) - 1} artifacts"

    store.write_snapshot("c" * 32, encode({"epoch": 1}))
    kept = ["gc", "study.py", "--set", "train.lr=0.2", "--older-than", "0"]
    code, lines, err = orchestrate(capsys, *kept, "--dry-run")
    told = listed(lines)
    assert (told["snapshots"], told["set aside as damaged"], told["Both"], told["All"]) == (1, 1, 1, 1), (lines, err)
    assert orchestrate(capsys, *kept, "--yes")[0] == 0
    assert len(store.committed(["Both"])) == 1
    assert not store.snapshot_keys() and not store.listing("damaged")
    code, lines, _ = orchestrate(capsys, "verify")
    assert code == 0
    Path("nothing.py").write_text(SWEEP.replace("n: int = 4", "n: int = 5"))
    code, lines, _ = orchestrate(capsys, "gc", "nothing.py", "--older-than", "0", "--yes")
    assert code == 0 and not store.listing("artifacts")
    assert store.listing("runs")


@pytest.mark.parametrize(
    "verb", [["verify"], ["gc", "study.py"], ["status"], ["ls"], ["show", "a"], ["rerun", "a"], ["logs", "a"]]
)
def test_a_wrong_secret_is_one_sentence_of_every_verb(
    bucket: tuple[s3.S3Server, str], made: Path, capsys, monkeypatch, verb: list[str]
) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    code, out, err = orchestrate(capsys, *verb, "--store", bucket[1])
    assert code == 2 and not out and len(err.splitlines()) == 1 and "a-wrong-secret" not in err
