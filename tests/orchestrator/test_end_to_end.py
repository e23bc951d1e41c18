"""The behaviours that users rely on, with real Ray, through the command line's own entry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli import TOY, artifacts, counts, orchestrate

from orchestrator.__main__ import main
from orchestrator.store import Store

pytestmark = pytest.mark.usefixtures("ray_here")

SWEEP = '''\
"""Is a larger step better?"""

from dataclasses import dataclass

from my_probes import Size
from orchestrator import Sweep, same_seed, same_setting
from tasks.data import Digits
from tasks.models import MLP
from tasks.optimizers import SGD
from tasks.probes import Interpolation, Lanczos
from tasks.task import Probe
from tasks.train import Train
from tasks.trained import load_trained


def norm(model):
    return sum(float(p.detach().square().sum()) for p in model.parameters()) ** 0.5


@dataclass(frozen=True)
class WeightNorm(Probe):
    """Length of the weight vector."""

    scale: float = 1.0

    def run(self, ctx, trained):
        return {"norm": self.scale * norm(load_trained(ctx, trained).model)}


sweep = Sweep(
    train=Train(
        dataset=Digits(), model=MLP(widths=(8,)), epochs=1, optimizer=SGD(lr={"grid_search": [0.05, 0.1]})
    ),
    seeds=range(2),
    probes=[Lanczos(k=3, examples=64), WeightNorm(), Size()],
    pairs=[Interpolation(steps=3, examples=64)],
    pair_when=same_setting | same_seed,
)
'''

MY_PROBES = """\
from dataclasses import dataclass

from tasks.task import Probe
from tasks.trained import load_trained


@dataclass(frozen=True)
class Size(Probe):
    def run(self, ctx, trained):
        print("counting")
        return {"parameters": sum(p.numel() for p in load_trained(ctx, trained).model.parameters())}
"""


def write_sweeps(folder: Path) -> None:
    (folder / "study.py").write_text(SWEEP)
    (folder / "my_probes.py").write_text(MY_PROBES)
    (folder / "toy.py").write_text(TOY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the sweep files, as working folder, with a store of its own."""
    write_sweeps(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_probes", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_here) -> Path:
    """A store that holds all of study.py, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_sweeps(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        sys.modules.pop("my_probes", None)
        assert main(["sweep", "study.py"]) == 0
        sys.modules.pop("my_probes", None)
    return folder / "artifacts"


def planned(capsys, *argv: str) -> dict[str, int]:
    """Tasks to run, by kind."""
    code, lines, _ = orchestrate(capsys, "plan", *argv, "--json")
    assert code == 0
    plan = json.loads(lines[-1])
    assert plan["tasks"] == plan["stored"] + plan["to_run"]
    return {name: n["to_run"] for name, n in plan["by_task"].items() if n["to_run"]}


def test_the_life_of_a_study(folder, capsys):
    """Run, run again, change a field, add seeds, edit comments and code, read everything."""
    code, lines, _ = orchestrate(capsys, "sweep", "study.py")
    assert code == 0
    # a dataset, 2 settings × 2 seeds, three probes each; pairs: one a setting and one a seed
    assert counts(lines) == {"tasks": 1 + 4 + 12 + 4, "ran": 21, "stored": 0, "failed": 0, "skipped": 0}
    assert artifacts() == {"Digits": 1, "Train": 4, "Lanczos": 4, "WeightNorm": 4, "Size": 4, "Interpolation": 4}
    run = Path("artifacts/runs/study") / Path("artifacts/runs/study/latest").read_text()
    assert (run / "report.html").exists()
    assert list((run / "plots").glob("*.png"))

    # probes of one's own are in the tables and in the report
    trials = pq.read_table(run / "trials.parquet").to_pylist()
    assert len(trials) == 4
    assert {t["Size.parameters"] for t in trials} == {64 * 8 + 8 + 8 * 10 + 10}
    store = Store("artifacts")
    for trial in trials:
        assert trial["status"] == "done"
        manifest = store.manifest("Train", trial["key"])
        assert trial["Train.val_accuracy"] == manifest["results"]["val_accuracy"]
        assert trial["config.train.optimizer.lr"] in (0.05, 0.1)
    page = (run / "report.html").read_text()
    assert "WeightNorm" in page
    assert "Size" in page
    assert len(pq.read_table(run / "pairs.parquet")) == 4

    # again: all from the store, the same report
    code, lines, _ = orchestrate(capsys, "sweep", "study.py")
    assert (code, counts(lines)["stored"], counts(lines)["ran"]) == (0, 21, 0)
    assert any(str(run / "report.html") in line for line in lines)

    # k=3 → k=5: only the Lanczos tasks
    text = SWEEP.replace("Lanczos(k=3,", "Lanczos(k=5,")
    Path("study.py").write_text(text)
    assert planned(capsys, "study.py") == {"Lanczos": 4}
    _, lines, _ = orchestrate(capsys, "plan", "study.py", "--why")
    assert any("k: 3 → 5" in line for line in lines)
    _, lines, _ = orchestrate(capsys, "sweep", "study.py")
    assert (counts(lines)["ran"], counts(lines)["stored"]) == (4, 17)
    assert planned(capsys, "study.py", "--set", "probes.Lanczos.k=3") == {}

    # two more seeds: only the new trials, their probes and the new pairs
    more = planned(capsys, "study.py", "--seeds", "4")
    # pairs of each setting: 6 instead of 1; of each seed: 4 instead of 2
    assert more == {"Train": 4, "Lanczos": 4, "WeightNorm": 4, "Size": 4, "Interpolation": 2 * 5 + 2}
    _, lines, _ = orchestrate(capsys, "plan", "study.py", "--seeds", "4", "--why")
    assert any("new seed" in line for line in lines)

    # comments, docstrings and formatting: nothing; code: that probe, and the plan says so
    Path("my_probes.py").write_text("# a comment\n" + MY_PROBES.replace("(Probe):", "(Probe):\n    '''Words.'''\n"))
    Path("study.py").write_text(text.replace('"""Length of', '"""The length of') + "\n# the end\n")
    assert planned(capsys, "study.py") == {}
    Path("my_probes.py").write_text(MY_PROBES.replace("p.numel()", "p.numel() + 1"))
    assert planned(capsys, "study.py") == {"Size": 4}
    _, lines, _ = orchestrate(capsys, "plan", "study.py", "--why")
    assert any("code of my_probes.py changed" in line for line in lines)
    Path("my_probes.py").write_text(MY_PROBES)
    Path("study.py").write_text(text.replace("** 0.5", "** (1 / 2)"))  # a helper that WeightNorm uses
    assert planned(capsys, "study.py") == {"WeightNorm": 4}
    Path("study.py").write_text(text)

    # the other verbs
    key = trials[0]["key"]
    code, lines, _ = orchestrate(capsys, "show", key[:10])
    assert code == 0
    assert any("val_accuracy" in line for line in lines)
    assert any("weights.safetensors" in line for line in lines)
    code, lines, _ = orchestrate(capsys, "ls", "Lanczos")
    assert lines[-1] == "8 artifacts"
    size_key = next(p.name for p in Path("artifacts/artifacts/Size").iterdir())
    code, lines, _ = orchestrate(capsys, "logs", size_key)
    assert code == 0
    assert "counting" in lines
    code, lines, _ = orchestrate(capsys, "status")
    assert code == 0
    assert any("finished" in line for line in lines)
    code, lines, _ = orchestrate(capsys, "export", "study", "--to", "tables")
    assert code == 0
    assert "Train.val_accuracy" in Path("tables/trials.csv").read_text().splitlines()[0]
    code, lines, _ = orchestrate(capsys, "report", "study")
    assert code == 0
    code, lines, _ = orchestrate(capsys, "plan", "study.py", "--graph", "plan.dot")
    assert Path("plan.dot").read_text().count("->") == 4 + 12 + 8


def test_stored_study_needs_neither_torch_nor_ray(folder, finished):
    shutil.copytree(finished, "artifacts")
    check = (
        "import sys; from orchestrator.__main__ import main; code = main(['sweep', 'study.py']); "
        "assert code == 0; assert 'torch' not in sys.modules; assert 'ray' not in sys.modules; "
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout.splitlines())["stored"] == 21


def test_same_bytes_in_another_store(folder, finished, capsys):
    code, lines, _ = orchestrate(capsys, "sweep", "study.py", "--store", "two")
    assert (code, counts(lines)["ran"]) == (0, 21)
    one, two = Store(str(finished)), Store("two")
    names = one.task_names()
    assert names == two.task_names()
    for name in names:
        keys = one.committed([name])
        assert keys == two.committed([name])
        for key in keys:
            a, b = one.manifest(name, key), two.manifest(name, key)
            assert a["files"] == b["files"], (name, key)
            assert a["results"] == b["results"]


def test_what_a_failure_does(folder, capsys):
    """One probe raises: it is named with its log, what needs it is skipped, the rest is done."""
    failing = ("--set", "probes.Look.trouble=raise", "--set", "probes.After.look.trouble=raise")
    code, lines, err = orchestrate(capsys, "sweep", "toy.py", *failing)
    assert code == 1
    assert counts(lines) == {"tasks": 26, "ran": 22, "stored": 0, "failed": 2, "skipped": 2}
    failure = next(line for line in lines if line.startswith("failed: Look") and "logs" in line)
    assert "RuntimeError: no such thing" in failure
    assert "1 task that needs it was skipped" in failure
    code, log, _ = orchestrate(capsys, "logs", failure.rpartition("logs ")[2])
    assert code == 0
    assert any("Traceback" in line for line in log)
    assert "Traceback" not in "".join(lines) + err
    # failed tasks run again, the others do not
    code, lines, _ = orchestrate(capsys, "sweep", "toy.py", *failing)
    assert (code, counts(lines)["stored"], counts(lines)["failed"]) == (1, 22, 2)
    code, lines, _ = orchestrate(capsys, "status", "toy")
    assert any("no such thing" in line for line in lines)


ODD = '''\
from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from orchestrator import Sweep
from tasks.spec import AtLeast, Spec
from tasks.task import Probe, Task

LOCK = threading.Lock()


@dataclass(frozen=True)
class Part(Spec):
    width: Annotated[int, AtLeast(1)] = 3


@dataclass(frozen=True)
class Fit(Task):
    part: Part = Part()
    streams: ClassVar[tuple[str, ...]] = ("init",)

    def run(self, ctx):
        return {"val_accuracy": 1.0}


@dataclass(frozen=True)
class Rebuild(Probe):
    """Makes and checks Specs of this file where this file does not exist."""

    def run(self, ctx, trained):
        assert isinstance(trained.task, Fit)
        return {"width": replace(trained.task, part=Part(width=7)).part.width}


@dataclass(frozen=True)
class Draw(Probe):
    """Global random numbers of a module that is imported here, when this runs."""

    def run(self, ctx, trained):
        import torch

        return {"draw": torch.rand(()).item()}


@dataclass(frozen=True)
class Exits(Probe):
    def run(self, ctx, trained):
        sys.exit("no licence")


@dataclass(frozen=True)
class Locked(Probe):
    def run(self, ctx, trained):
        with LOCK:
            return {}


@dataclass(frozen=True)
class Unreadable(Probe):
    k: int = 1

    def __setstate__(self, state):
        raise ModuleNotFoundError("No module named 'elsewhere'")

    def run(self, ctx, trained):
        return {}


@dataclass(frozen=True)
class Nothing(Probe):
    def run(self, ctx, trained):
        pass


@dataclass(frozen=True)
class NothingYet(Probe):
    def run(self, ctx, trained):
        return
        yield


sweep = Sweep(
    train=Fit(), seeds=range(2),
    probes=[Rebuild(), Draw(), Exits(), Locked(), Unreadable(), Nothing(), NothingYet()],
)
'''


def test_odd_tasks(folder, capsys):
    """Each is done, or fails by itself with a sentence and at the first attempt."""
    Path("odd.py").write_text(ODD)
    code, lines, err = orchestrate(capsys, "sweep", "odd.py")
    assert code == 1
    assert counts(lines) == {"tasks": 16, "ran": 10, "stored": 0, "failed": 6, "skipped": 0}
    assert "Traceback" not in "".join(lines) + err
    told = {line.split()[1]: line for line in lines if line.startswith("failed: ") and "logs" in line}
    assert set(told) == {"Exits", "Locked", "Unreadable"}
    assert "SystemExit: no licence" in told["Exits"]
    assert "cannot pickle '_thread.lock' object" in told["Locked"]
    assert "No module named 'elsewhere'" in told["Unreadable"]
    store = Store("artifacts")
    found = {
        n: [m["results"] for m in store.manifests((n, k) for k in store.committed([n]))] for n in store.task_names()
    }
    assert found["Rebuild"] == [{"width": 7}] * 2
    assert found["Nothing"] == found["NothingYet"] == [{}] * 2
    # what the first task of a process draws is what it draws after others
    os.rename("artifacts", "first")
    orchestrate(capsys, "sweep", "odd.py", "--set", "probes=[Draw()]")
    draws = [m["results"] for m in store.manifests(("Draw", k) for k in store.committed(["Draw"]))]
    assert sorted(map(str, draws)) == sorted(map(str, found["Draw"]))


def test_divergence_is_a_result(folder, capsys):
    """A diverged training is kept and reported; its probes are skipped, for good."""
    argv = ("sweep", "toy.py", "--set", "train.lr=[0.1,5.0]")
    code, lines, _ = orchestrate(capsys, *argv)
    assert code == 0
    first = {"tasks": 26, "ran": 6 + 3 * 2 + 3 + 1, "stored": 0, "failed": 0, "skipped": 3 * 2 + 3 + 1}
    assert counts(lines) == first
    run = Path("artifacts/runs/toy") / Path("artifacts/runs/toy/latest").read_text()
    rows = pq.read_table(run / "trials.parquet").to_pylist()
    assert Counter(r["status"] for r in rows) == {"done": 3, "diverged": 3}
    code, lines, _ = orchestrate(capsys, *argv)
    assert counts(lines) == {**first, "ran": 0, "stored": first["ran"]}


OPTUNA = """\
from dataclasses import dataclass

from optuna.samplers import TPESampler
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from orchestrator import Sweep
from tasks.task import Task
from toy import Look


@dataclass(frozen=True)
class Noisy(Task):
    lr: float = 0.1
    streams = ("init",)

    def run(self, ctx):
        (ctx.dir / "w.txt").write_text("1.0")
        return {"val_accuracy": self.lr + ctx.rng("init").random()}


sweep = Sweep(
    train=Noisy(lr=tune.uniform(0.0, 1.0)), seeds=range(2), probes=[Look()], metric="val_accuracy", mode="max",
    search=OptunaSearch(sampler=TPESampler(seed=0, n_startup_trials=4)), samples=12,
)
"""


def test_optuna_sees_the_mean_over_seeds_and_its_decisions_are_kept(folder, capsys):
    Path("search.py").write_text(OPTUNA)
    code, lines, _ = orchestrate(capsys, "sweep", "search.py")
    assert code == 0
    first = counts(lines)
    assert first == {"tasks": 12 * 2 * 2, "ran": 48, "stored": 0, "failed": 0, "skipped": 0}
    run = Path("artifacts/runs/search") / Path("artifacts/runs/search/latest").read_text()
    rows = pq.read_table(run / "trials.parquet").to_pylist()
    assert len({r["config.train.lr"] for r in rows}) == 12
    told = {t.params["train.lr"]: t.value for t in sys.modules["sweep_search"].sweep.search._ot_study.trials}
    assert len(told) == 12
    for lr, value in told.items():
        of_seeds = [r["Noisy.val_accuracy"] for r in rows if r["config.train.lr"] == lr]
        assert len(set(of_seeds)) == 2
        assert value == pytest.approx(sum(of_seeds) / 2)
    # a second run asks nobody; a larger one goes on from there
    code, lines, _ = orchestrate(capsys, "sweep", "search.py")
    assert counts(lines) == {**first, "ran": 0, "stored": 48}
    code, lines, _ = orchestrate(capsys, "sweep", "search.py", "--set", "samples=14")
    assert counts(lines) == {"tasks": 56, "ran": 8, "stored": 48, "failed": 0, "skipped": 0}


ASHA = """\
import time
from dataclasses import dataclass

from ray.tune.schedulers import ASHAScheduler

from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Slow(Task):
    quality: float = 0.5
    streams = ("init",)

    def run(self, ctx):
        for epoch in range(1, 10):
            time.sleep(0.05)
            yield {"epoch": epoch, "score": self.quality * epoch, "last": epoch == 9}
        return {"score": self.quality * 9}


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, trained):
        return {"seen": trained.results["score"]}


sweep = Sweep(
    train=Slow(quality={"grid_search": [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]}), seeds=range(2), probes=[Look()],
    metric="score", mode="max",
    scheduler=ASHAScheduler(time_attr="epoch", max_t=9, grace_period=1, reduction_factor=3),
)
"""


def test_asha_stops_trainings_and_its_decisions_are_kept(folder, capsys):
    Path("halving.py").write_text(ASHA)
    code, lines, _ = orchestrate(capsys, "sweep", "halving.py")
    assert code == 0
    first = counts(lines)
    assert first["tasks"] == 24
    assert first["failed"] == 0
    assert first["skipped"] >= 4  # stopped trainings and their probes
    assert first["ran"] % 2 == 0  # every training that ended has its probe
    run = Path("artifacts/runs/halving") / Path("artifacts/runs/halving/latest").read_text()
    status = Counter(r["status"] for r in pq.read_table(run / "trials.parquet").to_pylist())
    assert status == {"done": first["ran"] // 2, "stopped": first["skipped"] // 2}
    best = [r for r in pq.read_table(run / "trials.parquet").to_pylist() if r["config.train.quality"] == 0.9]
    assert [r["status"] for r in best] == ["done", "done"]
    code, lines, _ = orchestrate(capsys, "sweep", "halving.py")
    assert counts(lines) == {**first, "ran": 0, "stored": first["ran"]}


def test_slot_that_no_node_has(folder, capsys):
    code, _, err = orchestrate(capsys, "sweep", "toy.py", "--set", 'slot={"cpu": 64}')
    assert code == 2
    assert "64 CPU" in err
    assert "no node has more than 2" in err
    assert len(err.splitlines()) == 1
    assert not Path("artifacts/artifacts").exists()
