"""Bad input of every kind gets one clear sentence and exit code 2, no traceback, and leaves the store as it was.

Where a damaged file must not stop anybody, the second half says what happens instead.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stored
from stored import RUN, contents, edit_manifest, key_of, manifest_path

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

GOOD = "sweep = Sweep(train=train, seeds=range(2), probes=[Lanczos(k=1)], smoke={'train.epochs': 1})\n"


Prepare = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Something that is wrong, in a folder with study.py and the store of a finished run of it.

    Attributes:
        argv: of the command; KEY stands for the key of an artifact of the class Fit.
        says: what its sentence must name.
        files: to write before, by name.
        prepare: spoils the store.
        env: variables to set; None removes one.
    """

    argv: str | tuple[str, ...]
    says: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    prepare: Prepare | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)


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


AND = {"train =": "sweep = Sweep(train=train, seeds=[0])\n"}

SWEEP_FILES = {
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
    "snapshots in no time": ("sweep = Sweep(train=train, seeds=[0], snapshot_seconds=-1)", "snapshot_seconds must be"),
    "snapshots at no time": (
        "sweep = Sweep(train=train, seeds=[0], snapshot_seconds=float('nan'))",
        "snapshot_seconds must be",
    ),
    "snapshots in words": (
        "sweep = Sweep(train=train, seeds=[0], snapshot_seconds='often')",
        "snapshot_seconds must be",
    ),
    "bytes": ("\x00", "null bytes"),
    "a dataset in words": (
        "sweep = Sweep(train=Train(dataset='digits', model=MLP()), seeds=[0])",
        "dataset must be a Dataset",
    ),
}

ARGUMENTS = {
    "misspelt verb": Case(("sweeep", "net.py"), "did you mean 'sweep'"),
    "missing file": Case(("sweep", "studdy.py"), "did you mean 'study.py'"),
    "a folder": Case(("sweep", "."), "not a sweep file"),
    "misspelt path": Case(("sweep", "net.py", "--set", "train.epoch=2"), "did you mean 'train.epochs'"),
    "a folder that is misspelt": Case(
        ("sweep", "sweps/width.py"), "did you mean 'sweeps/width.py'", {"sweeps/width.py": GOOD}
    ),
    "a field in capitals": Case(("sweep", "net.py", "--set", "train.Epochs=2"), "did you mean 'train.epochs'"),
    "a field that stays": Case(("sweep", "net.py", "--set", "smoke=1"), "change it in the sweep file"),
    "a slot for a kind that is misspelt": Case(
        ("sweep", "net.py", "--set", "slots.Lanzcos={'cpu': 1}"), "no task 'Lanzcos' (did you mean 'Lanczos'?)"
    ),
    "a part of a slot": Case(("sweep", "net.py", "--set", "slot.cpu=2"), "--set 'slot={\"cpu\": 2}'"),
    "a tracker that is misspelt": Case("sweep study.py --log tensorbord:x", "did you mean 'tensorboard'"),
    "a kind of artifact for a key": Case("show Look", "`orchestrator ls Look` lists the keys"),
    "a kind that is misspelt for a key": Case("verify Lokk", "did you mean 'Look'"),
    "a store that is misspelt": Case("report study --store artefacts", "'artefacts' (did you mean 'artifacts'"),
    "a sweep file to rebuild from that is misspelt": Case("rerun KEY --file studdy.py", "did you mean 'study.py'"),
    "a cluster file that is misspelt": Case(
        "plan study.py --cluster clustr.yaml", "did you mean 'cluster.yaml'", {"cluster.yaml": ""}
    ),
    "misspelt head": Case(("sweep", "net.py", "--set", "trian.epochs=2"), "did you mean 'train.epochs'"),
    "misspelt probe": Case(("sweep", "net.py", "--set", "probes.Lanzcos.k=2"), "did you mean 'probes.Lanczos.k'"),
    "no value": Case(("sweep", "net.py", "--set", "train.epochs"), "PATH=VALUE"),
    "wrong type": Case(("sweep", "net.py", "--set", "train.epochs=many"), "epochs must be an integer"),
    "impossible value": Case(("sweep", "net.py", "--set", "train.epochs=0"), "epochs must be at least 1"),
    "impossible value in a list": Case(("sweep", "net.py", "--set", "train.batch_size=[8,0]"), "batch_size must be"),
    "empty list": Case(("sweep", "net.py", "--set", "train.epochs=[]"), "empty"),
    "unknown model": Case(("sweep", "net.py", "--set", "train.model=MLQ(widths=(8,))"), "did you mean 'MLP'"),
    "unknown field of a model": Case(("sweep", "net.py", "--set", "train.model=MLP(width=(8,))"), "widths"),
    "a call without what it needs": Case(("sweep", "net.py", "--set", "seeds=range()"), "range expected at least 1"),
    "code": Case(("sweep", "net.py", "--set", "train.epochs=__import__('os').getpid()"), "literal"),
    "no seeds": Case(("sweep", "net.py", "--seeds", "0"), "must be at least 1"),
    "negative seeds": Case(("sweep", "net.py", "--seeds", "-1"), "seed"),
    "unknown key": Case(("show", "abcdef"), "no artifact"),
    "no log": Case(("logs", "abcdef"), "no log"),
    "no runs": Case(("status", "--store", "nowhere"), "no runs"),
    "no run to report": Case(("report", "study", "--store", "nowhere"), "no runs"),
    "no such kind of artifact": Case(("ls", "Lokk"), "did you mean 'Look'"),
    "unknown kind of store": Case(("plan", "net.py", "--store", "abc://x/y"), "cannot be opened"),
    "store under a file": Case(("sweep", "net.py", "--store", "net.py/store"), "net.py/store"),
    "store with one slash": Case(("status", "--store", "s3:/bucket/x"), "write s3://"),
    "address that is empty": Case(("sweep", "net.py", "--address", ""), "--address is empty"),
    "cluster that is not there": Case(("sweep", "net.py", "--address", "127.0.0.1:1"), "127.0.0.1:1"),
    "unknown option": Case("plan net.py --wyh", "did you mean '--why'"),
    "one argument too many": Case("plan net.py study.py", "'study.py'"),
    "no file": Case("sweep", "FILE"),
    "seeds in words": Case("plan net.py --seeds many", "--seeds: invalid int value: 'many'"),
    "an option without its value": Case("plan net.py --seeds", "--seeds: expected one argument"),
    "patience that is no number": Case("sweep net.py --patience nan", "--patience must be"),
    "negative patience": Case("sweep net.py --patience -1", "--patience must be"),
    "endless patience": Case("sweep net.py --patience inf", "--patience must be"),
    "patience in words": Case("sweep net.py --patience abc", "'abc'"),
    "unknown choice": Case("sweep net.py --keep-weights bst", "--keep-weights must be one of last, best, none"),
    "gc without a file": Case("gc", "name those whose artifacts are to stay"),
    "gc of a file that is not there": Case("gc studdy.py --yes", "did you mean 'study.py'"),
    "gc of one good file and one that is broken": Case("gc study.py bad.py --yes", "bad.py", {"bad.py": "sweep = 3"}),
    "gc of a strange age": Case("gc study.py --older-than nan --yes", "--older-than must be"),
    "gc of a negative age": Case("gc study.py --older-than -1 --yes", "--older-than must be"),
    "gc with a path that is misspelt": Case("gc study.py --set train.rl=2 --yes", "did you mean 'train.lr'"),
    "verify of an unknown key": Case("verify abcdefg", "'abcdefg'"),
    "rerun of an unknown key": Case("rerun xyz", "'xyz'"),
    "an empty key": Case(("show", ""), "give more of it"),
    "an empty key of logs": Case(("logs", ""), "give more of it", prepare=lambda: second_log()),
    "a key that begins two": Case("rerun KEY", "is the beginning of 2 keys", prepare=lambda: twin()),
    "an unknown run": Case("report study --run 2025-01-01T00-00-00.00001", "did you mean '2025-01-01T00-00-00.000000'"),
    "a run outside of the store": Case("report study --run ../../..", "no run '../../..'"),
    "a sweep that never ran": Case("status studdy", "did you mean 'study'"),
    "export to a file": Case("export study --to study.py", "'study.py'"),
    "unknown format": Case("export study --format xlsx", "latex, not 'xlsx'"),
    "a graph where there is no folder": Case("plan study.py --graph no/such/plan.dot", "no/such/plan.dot"),
    "rerun to a folder that is full": Case("rerun KEY --to full", "'full' is not empty", {"full/x": ""}),
    "rerun with a file that is not there": Case("rerun KEY --file gone.py", "There is no sweep file 'gone.py'"),
}

STORES = {
    "no address": Case(("plan", "study.py", "--store", ""), "address of the store is empty"),
    "a file": Case("ls --store study.py", "study.py is no folder"),
    "a file, to write": Case("sweep study.py --store study.py", "study.py is no folder"),
    "a marker that is no JSON": Case("ls", "damaged store.json", prepare=lambda: marker(b"garbage")),
    "a marker that is no object": Case("plan study.py", "damaged store.json", prepare=lambda: marker(b"[]")),
    "a marker of bytes": Case("verify", "damaged store.json", prepare=lambda: marker(b"\xff\x00\x80")),
    "a marker without end": Case("ls", "damaged store.json", prepare=lambda: marker(b"[" * 100_000)),
    "a marker with an endless format": Case("ls", "damaged", prepare=lambda: marker(b'{"format": 1e999}')),
    "a newer format": Case("report study", "newer version", prepare=lambda: marker(b'{"format": 99}')),
    "a newer format, to export": Case("export study", "newer version", prepare=lambda: marker(b'{"format": 99}')),
    "a newer format, to run": Case("sweep study.py", "newer version", prepare=lambda: marker(b'{"format": 99}')),
    "credentials in S3's URI": Case("ls --store s3://AKIA7:hush-hush@bucket/x", "holds credentials"),
    "a token in S3's URI": Case("ls --store s3://hush-hush@bucket/x", "holds credentials"),
    "credentials in another URI": Case("ls --store hdfs://me:hush-hush@host/x", "holds credentials"),
    "an unknown option": Case("ls --store s3://bucket/x?regoin=eu", "did you mean 'region'"),
    "a strange scheme": Case("ls --store s3://bucket/x?scheme=ftp", "http or https, not 'ftp'"),
    "a strange flag": Case("ls --store s3://bucket/x?allow_bucket_creation=perhaps", "true or false, not 'perhaps'"),
    "no bucket": Case("ls --store s3://", "names no bucket"),
    "no bucket of Google's": Case("ls --store gs:///prefix", "names no bucket"),
    "a URI that is none": Case("ls --store s3://[bucket/x", "s3://…, cannot be understood"),
    "that cannot be written": Case("sweep new.py", "cannot be written", prepare=lambda: read_only(Path("artifacts"))),
    "made where nothing can be": Case(
        "sweep study.py --store locked/store", "locked/store", prepare=lambda: read_only(Path("locked"))
    ),
    "a link for a marker": Case("ls", "store.json", prepare=lambda: link(Path("artifacts/store.json"))),
}


def manifest(**changes: Any) -> Prepare:
    return lambda: edit_manifest("Fit", **changes)


def garbled(content: bytes) -> Prepare:
    return lambda: manifest_path("Fit").write_bytes(content)


FILE = {"size": 1, "sha256": "0" * 64}

MANIFESTS: dict[str, tuple[Prepare, str]] = {
    "torn": (lambda: manifest_path("Fit").write_bytes(manifest_path("Fit").read_bytes()[:99]), "manifest is damaged"),
    "empty": (garbled(b""), "manifest is damaged"),
    "bytes": (garbled(bytes(range(256))), "manifest is damaged"),
    "a list": (garbled(b"[1, 2]"), "manifest is damaged"),
    "without end": (garbled(b'{"a":' * 50_000), "manifest is damaged"),
    "deep": (manifest(spec=json.loads('{"class":' * 400 + "1" + "}" * 400)), "nested too deeply"),
    "of another key": (manifest(key="0" * 32), "its key is"),
    "of another class": (manifest(task="Points"), "its task is 'Points'"),
    "without files": (manifest(files=None), "'files' is of the wrong type"),
    "a file without a hash": (manifest(files={"w": {"size": 1}}), "manifest is damaged"),
    "a file of no size": (manifest(files={"w": {**FILE, "size": -1}}), "size or hash"),
    "a file of endless size": (manifest(files={"w": {**FILE, "size": 10**400}}), "size or hash"),
    "a file above": (manifest(files={"../../../../study.py": FILE}), "names a file '../../../../study.py'"),
    "a file anywhere": (manifest(files={"/etc/passwd": FILE}), "names a file '/etc/passwd'"),
    "the manifest among the files": (manifest(files={"manifest.json": FILE}), "names a file 'manifest.json'"),
    "results of lists": (manifest(results={"val_accuracy": [1]}), "'results' holds"),
    "results in a list": (manifest(results=[1]), "manifest is damaged"),
    "inputs that are numbers": (manifest(inputs=[[1]]), "'inputs' holds"),
    "seeds in words": (manifest(seeds={"init": "one"}), "'seeds' holds"),
    "endless seconds": (manifest(seconds=10**400), "'seconds' is no sensible number"),
    "git that is a word": (manifest(git="main"), "'git' is of the wrong type"),
    "half a character": (
        lambda: manifest_path("Fit").write_bytes(
            manifest_path("Fit").read_bytes().replace(b'"label": "', b'"label": "\\ud800')
        ),
        "manifest is damaged",
    ),
    "a newer format": (manifest(format=99), "newer version"),
    "a link": (lambda: link(manifest_path("Fit")), "its manifest is no plain file"),
    "a pipe": (lambda: pipe(manifest_path("Fit")), "no plain file"),
    "a folder": (lambda: folder(manifest_path("Fit")), "its manifest is no plain file"),
}


def study(**changes: Any) -> Prepare:
    def prepare() -> None:
        path = Path("artifacts", RUN, "study.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return prepare


def record(content: bytes, name: str = "study.json") -> Prepare:
    return lambda: Path("artifacts", RUN, name).write_bytes(content)


RECORDS = {
    "a study that is torn": Case("report", "study.json", prepare=record(b'{"format": 1, "swe')),
    "a study of bytes": Case("report", "study.json", prepare=record(b"\x80\x04\x95")),
    "a study that is a list": Case("export", "study.json", prepare=record(b"[]")),
    "a study that is a number": Case("export", "study.json", prepare=record(b"7")),
    "a study without end": Case("report", "study.json", prepare=record(b"[" * 100_000)),
    "a study of a newer version": Case("report", "newer version", prepare=study(format=99)),
    "a study of a strange version": Case("report", "study.json", prepare=study(format="one")),
    "a study of no settings": Case("report", "study.json", prepare=study(settings=[])),
    "a study with strange settings": Case("export", "study.json", prepare=study(settings=[{"x": 1}])),
    "a study with strange tasks": Case("export", "study.json", prepare=study(tasks=[1])),
    "a study with strange columns": Case("report", "study.json", prepare=study(columns={})),
    "a study with a strange run": Case("report", "study.json", prepare=study(run={"started": "today"})),
    "a study that never began": Case(
        "report", "study.json", prepare=study(run={"started": -1e300, "seconds": 1, "startup": 0, "slots": 1})
    ),
    "a study that is a folder": Case(
        "report", "study.json", prepare=lambda: folder(Path("artifacts", RUN, "study.json"))
    ),
    "a run without a study": Case(
        "export study", "did not reach its end", prepare=lambda: Path("artifacts", RUN, "study.json").unlink()
    ),
    "a latest run that is none": Case(
        "report study", "no run '../..'", prepare=lambda: Path("artifacts/runs/study/latest").write_text("../..")
    ),
    "a latest run of bytes": Case(
        "export study", "no run", prepare=lambda: Path("artifacts/runs/study/latest").write_bytes(b"\xff\x00\x1b[2J")
    ),
    "a file that is damaged, to rerun": Case(
        "rerun LOOK",
        "is damaged (history.npz: content differs)",
        prepare=lambda: [
            p.write_bytes(p.read_bytes()[:-1] + b"?") for p in Path("artifacts/artifacts/Fit").glob("*/history.npz")
        ],
    ),
    "an input that is gone, to rerun": Case(
        "rerun KEY", "no longer holds", prepare=lambda: shutil.rmtree("artifacts/artifacts/Points")
    ),
    "a class that is gone, to rerun": Case(
        "rerun KEY", "needs the class Fit", {"study.py": stored.STUDY.replace("Fit", "Train")}
    ),
    "a sweep file that is gone, to rerun": Case(
        "rerun KEY", "which is not there", prepare=lambda: Path("study.py").unlink()
    ),
    "a sweep file that is broken, to rerun": Case(
        "rerun KEY", "study.py, line 1", {"study.py": "import no_such_thing"}
    ),
    "a module that is gone, to rerun": Case(
        "rerun KEY", "'no_such.thing'", prepare=manifest(spec={"class": "no_such.thing:Fit"})
    ),
    "a spec that is a word, to rerun": Case("rerun KEY", "does not say what the task is", prepare=manifest(spec="Fit")),
    "a spec with other fields, to rerun": Case(
        "rerun KEY", "no longer has", prepare=manifest(spec={"class": "sweep_study:Fit", "rate": 1})
    ),
    "a spec with wrong values, to rerun": Case(
        "rerun KEY", "cannot be built again", prepare=manifest(spec={"class": "sweep_study:Fit", "lr": "fast"})
    ),
}


def idx(*shape: int, value: int = 0) -> bytes:
    """An IDX file of bytes."""
    size = 1
    for n in shape:
        size *= n
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes([value]) * size


FASHION = (
    "from tasks.data import FashionMNIST\nsweep = Sweep(train=Train(dataset=FashionMNIST(), model=MLP()), seeds=[0])"
)
CIFAR = "sweep = Sweep(train=Train(dataset=CIFAR10(), model=MLP()), seeds=[0])"


def fashion(name: str, content: bytes) -> dict[str, str | bytes]:
    """The four files of Fashion-MNIST, ten images each, with one of them spoilt."""
    good = {
        "train-images-idx3-ubyte": idx(10, 28, 28),
        "train-labels-idx1-ubyte": idx(10),
        "t10k-images-idx3-ubyte": idx(10, 28, 28),
        "t10k-labels-idx1-ubyte": idx(10),
    }
    del good[name.removesuffix(".gz")]
    return {"new.py": HEAD + FASHION, **{f"data/FashionMNIST/raw/{n}": c for n, c in {**good, name: content}.items()}}


LABELS, IMAGES = "train-labels-idx1-ubyte", "train-images-idx3-ubyte"
DATASETS = {
    "missing": Case("sweep new.py", "cifar-10-python.tar.gz", {"new.py": HEAD + CIFAR}),
    "no archive": Case(
        "sweep new.py",
        "cifar-10-python.tar.gz is damaged",
        {"new.py": HEAD + CIFAR, "data/cifar-10-python.tar.gz": b"not an archive"},
    ),
    "an empty archive": Case(
        "sweep new.py",
        "cifar-10-python.tar.gz is damaged",
        {"new.py": HEAD + CIFAR, "data/cifar-10-python.tar.gz": b""},
    ),
    "a folder with too few files": Case(
        "sweep new.py", "data_batch_1 is missing", {"new.py": HEAD + CIFAR, "data/cifar-10-batches-py/x": b""}
    ),
    "a batch that is another pickle": Case(
        "sweep new.py",
        "data_batch_1 is damaged",
        {"new.py": HEAD + CIFAR, "data/cifar-10-batches-py/data_batch_1": b"\x80\x04."},
    ),
    "a file for a folder of data": Case("sweep new.py", "not in", {"new.py": HEAD + CIFAR, "data": b""}),
    "an empty file": Case("sweep new.py", f"{LABELS} is damaged", fashion(LABELS, b"")),
    "a torn archive": Case(
        "sweep new.py", f"{LABELS}.gz is damaged", fashion(f"{LABELS}.gz", gzip.compress(idx(10))[:-9])
    ),
    "bytes for an archive": Case(
        "sweep new.py", f"{LABELS}.gz is damaged", fashion(f"{LABELS}.gz", b"\x1f\x8bxxxxxxx")
    ),
    "a torn file": Case("sweep new.py", f"{IMAGES} is damaged", fashion(IMAGES, idx(10, 28, 28)[:-1])),
    "fewer labels than images": Case("sweep new.py", "one of shape (9,)", fashion(LABELS, idx(9))),
    "images without a second side": Case("sweep new.py", "shape (10, 28)", fashion(IMAGES, idx(10, 28))),
    "labels that are too large": Case("sweep new.py", "go up to 10, not to 9", fashion(LABELS, idx(10, value=10))),
    "what a task of one's own demands": Case("sweep fussy.py", "labels.csv is missing", {"fussy.py": FUSSY}),
}

ENVIRONMENT = {
    "a store that is a URI of nothing": Case("ls", "cannot be opened", env={"ORCHESTRATOR_STORE": "abc://x/y"}),
    "a store that is a file": Case("ls", "is no folder", env={"ORCHESTRATOR_STORE": "study.py"}),
    "a store that is blank": Case("ls", "is empty", env={"ORCHESTRATOR_STORE": " "}),
    "a store with a secret": Case("ls", "holds credentials", env={"ORCHESTRATOR_STORE": "s3://A:hush-hush@b/x"}),
    "a cluster that is none": Case("sweep study.py --seeds 3", "nonsense", env={"RAY_ADDRESS": "nonsense"}),
    "a cluster of another kind": Case("sweep study.py --seeds 3", "ftp://x", env={"RAY_ADDRESS": "ftp://x"}),
    "a working folder that is gone": Case("status", "working folder has been deleted", prepare=lambda: vanish()),
    "no place for temporary files": Case("rerun KEY", "temporary", prepare=lambda: no_temporary_folder()),
}

CASES: dict[str, Case] = {
    **{
        f"sweep file: {name}": Case("sweep new.py", says, {"new.py": HEAD + text + "\n" + AND.get(text[:7], "")})
        for name, (text, says) in SWEEP_FILES.items()
    },
    **{f"arguments: {name}": case for name, case in ARGUMENTS.items()},
    **{f"store: {name}": case for name, case in STORES.items()},
    **{
        f"manifest: {name}, {argv.split()[0]}": Case(argv, says, prepare=prepare)
        for name, (prepare, says) in MANIFESTS.items()
        for argv in ("show KEY", "report")
    },
    **{f"record: {name}": case for name, case in RECORDS.items()},
    **{f"dataset: {name}": case for name, case in DATASETS.items()},
    **{f"environment: {name}": case for name, case in ENVIRONMENT.items()},
}


# What the cases do to the store


def marker(content: bytes) -> None:
    Path("artifacts/store.json").write_bytes(content)


def second_log() -> None:
    Path("artifacts", RUN, "logs", f"{'a' * 32}.txt").write_text("hello")


def twin() -> None:
    """A second artifact whose key begins like that of the first."""
    folder = manifest_path("Fit").parent
    shutil.copytree(folder, folder.with_name(folder.name[:12] + "f" * 20))


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


_locked: list[Path] = []


def read_only(folder: Path) -> None:
    """Make a folder that nobody can write to, not even root."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
                pytest.skip("root may write everywhere, and this filesystem knows no immutable folders")
            _locked.append(path)
    else:
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            path.chmod(0o555)
            _locked.append(path)


def unlock() -> None:
    for path in reversed(_locked):
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", path], check=True)
        else:
            path.chmod(0o755)
    _locked.clear()


def vanish() -> None:
    """Delete the working folder, as another shell might."""
    Path("doomed").mkdir()
    os.chdir("doomed")
    Path("../doomed").resolve().rmdir()


def no_temporary_folder() -> None:
    """As Python has it once it has looked for one; the fixture forgets it."""
    tempfile.tempdir = "/nowhere"


# The tests


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    stored.make(folder)
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with study.py, and a store that a run of it has left, as the working folder."""
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "home" / "data"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing can be downloaded, which shows at once
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield from stored.copied(made, tmp_path / "home", monkeypatch)
    unlock()


def arrange(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Spoil what the case spoils; the arguments of its command."""
    key, look = key_of("Fit")[:12], key_of("Look")
    Path("net.py").write_text(HEAD + GOOD)
    Path("new.py").write_text(stored.STUDY)
    for name, content in case.files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if case.prepare is not None:
        case.prepare()
    for name, value in case.env.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    argv = case.argv.split() if isinstance(case.argv, str) else case.argv
    return [{"KEY": key, "LOOK": look}.get(word, word) for word in argv]


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_one_sentence_and_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    argv = arrange(CASES[name], monkeypatch)
    before = contents(home)
    code = main(argv)
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    assert err.isprintable() or err[:-1].isprintable()
    assert err.rstrip().endswith((".", "?)."))
    assert CASES[name].says in err
    assert "hush-hush" not in out + err
    after = contents(home)
    assert {n: c for n, c in after.items() if "__pycache__" not in n} == before


@dataclass(frozen=True)
class Survived:
    """Something that is wrong and yet stops nobody: `says` stands in what is printed, and the code is as given."""

    argv: str
    says: str
    prepare: Prepare | None = None
    code: int = 0
    env: Mapping[str, str | None] = field(default_factory=dict)


GARBAGE = b"\n".join(
    [
        b"\x80\x04\x95",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"[" * 10_000,
        b'{"event": 1, "time": 2}',
        b'{"event": "committed"}',
        b'{"event": "committed", "time": NaN, "key": 1}',
        b'{"event": "run_started", "time": 1e999, "tasks": "many"}',
        b'{"event": "failed", "time": 1, "key": [], "label": {}}',
        b'{"event": "lost", "time": 1, "key": "k", "label": "\\ud800"}',
        b'{"event": "proposed", "time": 9007199254740993e300}',
        b"",
    ]
)


def spoilt_events() -> None:
    path = Path("artifacts", RUN, "events.jsonl")
    first, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, GARBAGE, *rest]))


def spoilt_signs_of_life() -> None:
    Path("artifacts/live").mkdir()
    strange = (
        b"",
        b"\x80\x04",
        b"[]",
        b"[" * 100_000,
        b'{"time": 1e999}',
        stored.live(run="../../.."),
        stored.live(run=7),
        stored.live(running=[1]),
        stored.live(running={"k": "now"}),
        stored.live(time="now"),
        stored.live(host=[], pid={}),
    )
    for number, content in enumerate(strange):
        Path("artifacts/live", f"{number}.json").write_bytes(content)


def spoilt_search() -> None:
    for path in Path("artifacts/searches").iterdir():
        path.write_bytes(GARBAGE + path.read_bytes())


def spoilt_snapshot() -> None:
    Path("artifacts/snapshots", stored.SNAPSHOT, "state").write_bytes(b"\x80\x04\x95")


def one_bad_manifest() -> None:
    manifest_path("Fit").write_bytes(b"\x80\x04\x95")


SURVIVED = {
    "events: status": Survived("status", "finished", spoilt_events),
    "events: show": Survived("show KEY", "committed", spoilt_events),
    "events: report": Survived("report", "report: ", spoilt_events),
    "events: retry": Survived("sweep study.py --retry-failed", "nothing to retry", spoilt_events),
    "events: verify": Survived("verify", "damaged lines, which readers pass over", spoilt_events),
    "events: gc": Survived("gc study.py search.py --dry-run", "nothing to delete", spoilt_events),
    "no failure to retry": Survived("sweep study.py --retry-failed", "nothing to retry"),
    "signs of life: status": Survived("status", "finished", spoilt_signs_of_life),
    "signs of life: gc": Survived("gc study.py --dry-run", "study.py needs", spoilt_signs_of_life),
    "search: plan": Survived("plan search.py", "2 further settings", spoilt_search),
    "search: gc": Survived("gc search.py --dry-run", "lines are damaged", spoilt_search),
    "snapshot: verify": Survived("verify", f"snapshot of {stored.SNAPSHOT[:12]}", spoilt_snapshot, 1),
    "snapshot: set aside": Survived("verify --set-aside", "the task starts from its beginning", spoilt_snapshot, 1),
    "manifest: ls": Survived("ls", "1 of them damaged", one_bad_manifest),
    "manifest: verify": Survived("verify", "12 intact, 1 damaged", one_bad_manifest, 1),
    "manifest: plan": Survived("plan study.py --why", "all", one_bad_manifest),
    "manifest: plan of more": Survived("plan study.py --why --seeds 3", "new seed 2", one_bad_manifest),
    "manifest: gc": Survived(
        "gc search.py --dry-run --older-than 0", "a damaged manifest left alone", one_bad_manifest
    ),
    "store: a folder that is not there": Survived("ls --store nowhere", "0 artifacts"),
    "environment: an empty address": Survived("ls", "13 artifacts", env={"ORCHESTRATOR_STORE": ""}),
    "environment: no home": Survived("rerun KEY", "identical: ", env={"HOME": None, "USER": None}),
    "environment: threads in words": Survived("rerun KEY", "identical: ", env={"OMP_NUM_THREADS": "abc"}),
    "environment: a temporary folder that is not there": Survived(
        "rerun KEY", "identical: ", env={"TMPDIR": "nowhere"}
    ),
}


@pytest.mark.parametrize("name", SURVIVED)
def test_what_is_damaged_and_not_needed_stops_nobody(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = SURVIVED[name]
    code = main(arrange(Case(case.argv, "", prepare=case.prepare, env=case.env), monkeypatch))
    out, err = capsys.readouterr()
    assert (code, err) == (case.code, ""), (out, err)
    assert case.says in out
    assert "Traceback" not in out
    assert "\ud800" not in out
    assert not Path("nowhere").exists()
