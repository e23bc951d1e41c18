"""A user's mistake gets one sentence, exit code 2, no traceback, and nothing is run or written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import main

HEAD = """\
from ray import tune
from orchestrator import Sweep, same_seed, vary
from tasks.data import CIFAR10, Digits, FashionMNIST
from tasks.models import MLP
from tasks.optimizers import SAM, SGD
from tasks.probes import AutoNEB, Ensemble, Interpolation, Lanczos
from tasks.train import Train
train = Train(dataset=Digits(), model=MLP(widths=(8,)), epochs=1)
"""

FILES = {
    "syntax error": ("sweep = Sweep(", "line 9"),
    "missing module": ("import no_such_module", "no_such_module"),
    "missing name": ("from tasks.probes import Lanzcos", "Lanczos"),
    "raises": ("raise RuntimeError('oh no')", "oh no"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "no sweep": ("study = Sweep(train=train, seeds=range(2))", "rename"),
    "nothing at all": ("", "defines no `sweep`"),
    "not a sweep": ("sweep = 3", "must be a Sweep"),
    "unknown field of the sweep": ("sweep = Sweep(train=train, seed=range(2))", "seeds"),
    "unknown field of a probe": ("sweep = Sweep(train=train, seeds=[0], probes=[Lanczos(kk=3)])", "did you mean 'k'"),
    "k=0": ("sweep = Sweep(train=train, seeds=[0], probes=[Lanczos(k=0)])", "k must be at least 1, not 0"),
    "wrong type": ("sweep = Sweep(train=train, seeds=[0], probes=[Lanczos(k='many')])", "k must be an integer"),
    "negative lr": ("train = Train(dataset=Digits(), model=MLP(), optimizer=SGD(lr=-0.1))", "lr must be"),
    "negative lr in a grid": (
        "import dataclasses\n"
        "train = dataclasses.replace(train, optimizer=SGD(lr=tune.grid_search([0.1, -0.1])))\n"
        "sweep = Sweep(train=train, seeds=[0])",
        "lr must be",
    ),
    "no seeds": ("sweep = Sweep(train=train, seeds=[])", "seeds is empty"),
    "seeds as a number": ("sweep = Sweep(train=train, seeds=5)", "range(5)"),
    "a seed twice": ("sweep = Sweep(train=train, seeds=[0, 0])", "twice"),
    "negative seed": ("sweep = Sweep(train=train, seeds=[-1])", "non-negative"),
    "unknown stream": ("sweep = Sweep(train=train, seeds=vary('inti', range(2)))", "did you mean 'init'"),
    "a class for a probe": ("sweep = Sweep(train=train, seeds=[0], probes=[Lanczos])", "add parentheses"),
    "a pair probe among probes": ("sweep = Sweep(train=train, seeds=[0], probes=[AutoNEB()])", "belongs in pairs"),
    "a probe for a list": ("sweep = Sweep(train=train, seeds=[0], probes=Lanczos())", "must be a list"),
    "no training": ("sweep = Sweep(train=None, seeds=[0])", "train must be a task"),
    "unknown metric": ("sweep = Sweep(train=train, seeds=[0], metric='val_acuracy')", "val_accuracy"),
    "wrong mode": ("sweep = Sweep(train=train, seeds=[0], mode='highest')", "mode must be"),
    "no samples": ("sweep = Sweep(train=train, seeds=[0], samples=0)", "samples must be"),
    "unknown resource": ("sweep = Sweep(train=train, seeds=[0], slot={'gpus': 1})", "did you mean 'gpu'"),
    "no resource": ("sweep = Sweep(train=train, seeds=[0], slot={'cpu': 0})", "no resource at all"),
    "one GPU and a half": ("sweep = Sweep(train=train, seeds=[0], slot={'gpu': 1.5})", "must be whole above 1"),
    "negative resource": ("sweep = Sweep(train=train, seeds=[0], slot={'cpu': -1})", "at least 0"),
    "a function for a rule": ("sweep = Sweep(train=train, seeds=[0], pair_when=len)", "pair_when"),
    "a search that is none": (
        "sweep = Sweep(train=Train(dataset=Digits(), model=MLP(), optimizer=SGD(lr=tune.uniform(0.1, 1))), "
        "seeds=[0], search='optuna', samples=2)",
        "search must be",
    ),
    "a scheduler that is none": ("sweep = Sweep(train=train, seeds=[0], scheduler='asha')", "scheduler must be"),
    "a scheduler that pauses": (
        "from ray.tune.schedulers import HyperBandScheduler\n"
        "sweep = Sweep(train=train, seeds=[0], scheduler=HyperBandScheduler())",
        "HyperBandScheduler pauses",
    ),
    "images without a convolution's shape": (
        "sweep = Sweep(train=Train(dataset='digits', model=MLP()), seeds=[0])",
        "dataset must be a Dataset",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    return tmp_path


def complain(capsys, *argv: str) -> str:
    """The sentence on standard error of a command that must be refused."""
    code = main(list(argv))
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert err.rstrip().endswith((".", "?)."))
    assert not Path("artifacts/artifacts").exists()
    return err


@pytest.mark.parametrize("name", FILES)
def test_sweep_file(folder, capsys, name):
    text, expected = FILES[name]
    if text.startswith("train ="):
        text += "\nsweep = Sweep(train=train, seeds=[0])"
    Path("study.py").write_text(HEAD + text + "\n")
    assert expected in complain(capsys, "sweep", "study.py")


GOOD = "sweep = Sweep(train=train, seeds=range(2), probes=[Lanczos(k=1)], smoke={'train.epochs': 1})\n"

ARGUMENTS = {
    "misspelt verb": (["sweeep", "study.py"], "did you mean 'sweep'"),
    "missing file": (["sweep", "studdy.py"], "study.py"),
    "a folder": (["sweep", "."], "not a sweep file"),
    "misspelt path": (["sweep", "study.py", "--set", "train.epoch=2"], "did you mean 'train.epochs'"),
    "misspelt head": (["sweep", "study.py", "--set", "trian.epochs=2"], "did you mean 'train.epochs'"),
    "misspelt probe": (["sweep", "study.py", "--set", "probes.Lanzcos.k=2"], "did you mean 'probes.Lanczos.k'"),
    "no value": (["sweep", "study.py", "--set", "train.epochs"], "PATH=VALUE"),
    "wrong type": (["sweep", "study.py", "--set", "train.epochs=many"], "epochs must be an integer"),
    "impossible value": (["sweep", "study.py", "--set", "train.epochs=0"], "epochs must be at least 1"),
    "impossible value in a list": (["sweep", "study.py", "--set", "train.batch_size=[8,0]"], "batch_size must be"),
    "empty list": (["sweep", "study.py", "--set", "train.epochs=[]"], "empty"),
    "unknown model": (["sweep", "study.py", "--set", "train.model=MLQ(widths=(8,))"], "did you mean 'MLP'"),
    "unknown field of a model": (["sweep", "study.py", "--set", "train.model=MLP(width=(8,))"], "widths"),
    "a call without what it needs": (["sweep", "study.py", "--set", "seeds=range()"], "range expected at least 1"),
    "code": (["sweep", "study.py", "--set", "train.epochs=__import__('os').getpid()"], "literal"),
    "no seeds": (["sweep", "study.py", "--seeds", "0"], "must be at least 1"),
    "negative seeds": (["sweep", "study.py", "--seeds", "-1"], "seed"),
    "unknown key": (["show", "abcdef"], "no artifact"),
    "no log": (["logs", "abcdef"], "no log"),
    "no runs": (["status"], "no runs"),
    "no run to report": (["report", "study"], "no runs"),
    "no such kind of artifact": (["ls", "Lanczos"], "no 'Lanczos'"),
    "unknown kind of store": (["plan", "study.py", "--store", "abc://x/y"], "cannot be opened"),
    "store under a file": (["sweep", "study.py", "--store", "study.py/store"], "study.py/store"),
    "cluster that is not there": (["sweep", "study.py", "--address", "127.0.0.1:1"], "127.0.0.1:1"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(folder, capsys, name):
    argv, expected = ARGUMENTS[name]
    Path("study.py").write_text(HEAD + GOOD)
    assert expected in complain(capsys, *argv)


def test_missing_dataset_says_where_to_put_which_file(folder, capsys):
    Path("study.py").write_text(HEAD + "sweep = Sweep(train=Train(dataset=CIFAR10(), model=MLP()), seeds=[0])")
    sentence = complain(capsys, "sweep", "study.py")
    assert "cifar-10-python.tar.gz" in sentence
    assert str(folder / "data") in sentence


def test_corrupt_dataset_file(folder, capsys):
    (folder / "data").mkdir()
    (folder / "data" / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    Path("study.py").write_text(HEAD + "sweep = Sweep(train=Train(dataset=CIFAR10(), model=MLP()), seeds=[0])")
    assert "cifar-10-python.tar.gz" in complain(capsys, "sweep", "study.py")


FUSSY = """
from collections.abc import Mapping
from dataclasses import dataclass
from orchestrator import Sweep
from tasks.errors import DataError
from tasks.task import Probe, Task

@dataclass(frozen=True)
class Table(Task):
    columns: Mapping[str, int] | None = None
    def run(self, ctx):
        return {}

@dataclass(frozen=True)
class Fit(Task):
    table: Table = Table(columns={"a": 1})
    def run(self, ctx, table):
        return {"val_accuracy": 1.0}

@dataclass(frozen=True)
class Fussy(Probe):
    def run(self, ctx, trained):
        return {}
    def preflight(self):
        raise DataError("The file labels.csv is missing: put it beside the sweep.")

sweep = Sweep(train=Fit(), seeds=[0], probes=[Fussy()])
"""


def test_every_task_may_check_what_it_needs_before_anything_runs(folder, capsys):
    Path("study.py").write_text(FUSSY)
    assert "labels.csv is missing" in complain(capsys, "sweep", "study.py")


def test_an_empty_store_variable_names_the_default_store(folder, capsys, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_STORE", "")
    assert "artifacts holds no runs" in complain(capsys, "status")


def test_smoke_without_a_smoke_size(folder, capsys):
    Path("study.py").write_text(HEAD + "sweep = Sweep(train=train, seeds=[0])")
    assert "no smoke size" in complain(capsys, "sweep", "study.py", "--smoke")
