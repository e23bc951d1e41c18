"""Whoever can write to a store can put anything there: it must not run, nor reach out, nor deceive who looks at it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
from stored import RUN, contents, edit_manifest, key_of, manifest_path

from orchestrator import report
from orchestrator.__main__ import main
from orchestrator.store import Store
from tasks.data import Spirals
from tasks.errors import UserError
from tasks.models import MLP
from tasks.snapshots import HEAD, MAGIC, VERSION, DamagedSnapshot, decode, encode
from tasks.task import Context, execute
from tasks.train import Train
from tasks.trained import load_trained

SENTINEL = Path(tempfile.gettempdir(), f"sentinel-of-malice-{os.getpid()}")
"""A folder that exists once anything here was run."""


class Bomb:
    """Makes the sentinel when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.makedirs, (str(SENTINEL), 0o777, True)


def disarm() -> None:
    if SENTINEL.exists():
        SENTINEL.rmdir()


def pickled() -> bytes:
    return pickle.dumps(Bomb())


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    return file.getvalue()


def npz() -> bytes:
    """With every array that readers of history.npz ask for."""
    file = io.BytesIO()
    bombs = np.array([Bomb()] * 3, dtype=object)
    np.savez(file, epoch=bombs, loss=bombs)
    return file.getvalue()


def torch_file() -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({"weight": Bomb()}, file)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", "epoch.npy", "loss.npy", "archive/data.pkl"):
            archive.writestr(name, pickled())
    return file.getvalue()


def parquet() -> bytes:
    """A table with one of pyarrow's extension types of Python, whose metadata is a pickle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled()}
    schema = pa.schema([pa.field("epoch", pa.int64(), metadata=metadata)], metadata={b"pandas": pickled()})
    file = io.BytesIO()
    pq.write_table(pa.table({"epoch": [1]}, schema=schema), file)
    return file.getvalue()


def safetensors(length: int = 2**63 - 1, header: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + header


def hostile_header() -> bytes:
    header = json.dumps({"loss": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**63]}}).encode()
    return safetensors(len(header), header)


BOMBS: dict[str, Callable[[], bytes]] = {
    "pickle": pickled, "npy": npy, "npz": npz, "torch": torch_file, "zip": zipped, "parquet": parquet,
    "safetensors": safetensors, "safetensors header": hostile_header,
}  # fmt: skip

VERBS = (
    "ls", "status", "plan study.py --why", "plan search.py", "plan study.py --seeds 3 --why --json", "report study",
    "export study --to tables", "export study --to more --format parquet",
    "export study --to paper --format latex", "compare study study/2025 --json",
    "show KEY", "show KEY --json", "logs KEY", "verify", "gc study.py search.py --dry-run --older-than 0", "rerun KEY",
    "rerun LOOK", "rerun DATA", "sweep study.py --retry-failed", "sweep study.py",
)  # fmt: skip
"""Every verb that reads the store; `sweep`, which sets aside what is damaged, comes last."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    stored.make(folder)
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with study.py, and a store that a run of it has left, as the working folder."""
    # What would have to be computed again is not, so that nothing here needs Ray.
    monkeypatch.setattr("orchestrator.run.execute_plan", refuse_to_run)
    disarm()
    yield from stored.copied(made, tmp_path / "home", monkeypatch)
    disarm()


def refuse_to_run(*args: Any, **options: Any) -> Any:
    raise UserError("Nothing is run in this test.")


def attend(capsys: pytest.CaptureFixture[str], verbs: tuple[str, ...] = VERBS) -> dict[str, tuple[int, str]]:
    """Exit code and output of every verb; none may show a traceback, steer the terminal, or do what the bomb says."""
    keys = {"KEY": key_of("Fit"), "LOOK": key_of("Look"), "DATA": key_of("Points")}
    told = {}
    for verb in verbs:
        code = main([keys.get(word, word) for word in verb.split()])
        out, err = capsys.readouterr()
        assert code in (0, 1, 2), (verb, out, err)
        assert "Traceback" not in err, (verb, err)
        assert code == 1 or "Traceback" not in out, (verb, out)
        assert (code == 2) == bool(err) and len(err.splitlines()) <= 1, (verb, code, err)
        assert all(c in "\n\t" or c.isprintable() for c in out + err), (verb, out, err)
        assert not SENTINEL.exists(), verb
        told[verb] = code, out + err
    return told


# Pickles under every name


def test_the_bombs_are_live() -> None:
    """Or the tests here would prove nothing."""
    import torch

    for load in (
        lambda: pickle.loads(pickled()),
        lambda: np.load(io.BytesIO(npy()), allow_pickle=True),
        lambda: np.load(io.BytesIO(npz()), allow_pickle=True)["loss"],
        lambda: torch.load(io.BytesIO(torch_file()), weights_only=False),
        lambda: pickle.loads(zipfile.ZipFile(io.BytesIO(zipped())).read("data.pkl")),
    ):
        disarm()
        load()
        assert SENTINEL.exists()
    disarm()


PLACES = {
    "manifests": "artifacts/*/*/manifest.json",
    "one manifest": "artifacts/Fit/{KEY}/manifest.json",
    "arrays": "artifacts/Fit/*/history.npz",
    "data": "artifacts/Points/*/x.npy",
    "marker": "store.json",
    "study": f"{RUN}/study.json",
    "events": f"{RUN}/events.jsonl",
    "keys": f"{RUN}/keys",
    "tables": f"{RUN}/*.parquet",
    "logs": f"{RUN}/logs/*.txt",
    "latest": "runs/study/latest",
    "searches": "searches/*.jsonl",
    "snapshots": "snapshots/*/state",
    "signs of life": "live/runs.study.x.json",
    "weights that were dropped": "artifacts/Fit/{KEY}/dropped.json",
    "what was set aside": "damaged/Fit/{KEY}-1/manifest.json",
    "work in progress": "tmp/host-1-x/manifest.json",
    "the snapshot of a stored task": "snapshots/{KEY}/state",
}
"""Everything that the code opens below a store."""


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_under_any_name_is_not_unpickled(home: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    pattern = PLACES[place].replace("{KEY}", key_of("Fit"))
    if "*" not in pattern:
        Path("artifacts", pattern).parent.mkdir(parents=True, exist_ok=True)
        Path("artifacts", pattern).touch()
    spoilt = list(Path("artifacts").glob(pattern))
    assert spoilt
    for path in spoilt:
        path.write_bytes(pickled())
    attend(capsys)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_its_manifest_vouches_for_is_not_unpickled(
    home: Path, capsys: pytest.CaptureFixture[str], bomb: str
) -> None:
    content = BOMBS[bomb]()
    for task, name in (("Fit", "history.npz"), ("Points", "x.npy")):
        for path in Path("artifacts/artifacts", task).glob(f"*/{name}"):
            path.write_bytes(content)
            edit_manifest(task, path.parent.name, files={name: about(content)})
    told = attend(capsys)
    assert told["verify"][0] == 0  # it is what the manifest says
    assert told["report study"][0] == 0
    assert told["rerun LOOK"][0] == 1


def about(content: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real training with the network's own weights, and the dataset it was made from."""
    folder = tmp_path_factory.mktemp("trained")
    train = Train(dataset=Spirals(examples=60, test_examples=10), model=MLP(widths=(4,)), epochs=1)
    return execute(train, execute(train.dataset, folder=folder / "data"), folder=folder / "train")


@pytest.mark.parametrize("bomb", BOMBS)
def test_weights_and_data_are_never_unpickled(trained: Any, tmp_path: Path, bomb: str) -> None:
    disarm()
    assert load_trained(Context(tmp_path, seeds={}, device="cpu"), trained).model is not None
    for path in (trained.dir / "weights.safetensors", trained.input("dataset").dir / "train_x.npy"):
        good = path.read_bytes()
        path.unlink()
        path.write_bytes(BOMBS[bomb]())
        with pytest.raises(Exception) as error:  # noqa: PT011 (whatever the reader says)
            load_trained(Context(tmp_path, seeds={}, device="cpu"), trained)
        assert not isinstance(error.value, (MemoryError, pickle.PickleError))
        path.write_bytes(good)
        assert not SENTINEL.exists()


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("dressed", ["as it is", "behind a good checksum", "as its tree", "as one of its arrays"])
def test_snapshots_are_never_unpickled(bomb: str, dressed: str) -> None:
    content = BOMBS[bomb]()
    if dressed == "as one of its arrays":
        assert decode(encode({"state": content})) == {"state": content}  # bytes, and no more
    else:
        if dressed == "as its tree":
            header = json.dumps({"__metadata__": {"tree": content.decode("latin-1")}}).encode()
            content = struct.pack("<Q", len(header)) + header
        if dressed != "as it is":
            content = MAGIC + struct.pack("<I", VERSION) + hashlib.sha256(content).digest() + content
            assert len(content) > HEAD
        with pytest.raises(DamagedSnapshot):
            decode(content)
    assert not SENTINEL.exists()


# Manifests that name code

EVIL = f"""
import os
os.makedirs({str(SENTINEL)!r}, exist_ok=True)
from dataclasses import dataclass
from orchestrator import Sweep
from tasks.task import Task

@dataclass(frozen=True)
class Evil(Task):
    def run(self, ctx):
        os.makedirs({str(SENTINEL)!r}, exist_ok=True)
        return {{}}

sweep = Sweep(train=Evil(), seeds=[0])
"""

CODE = {
    "a function": "os:system",
    "a builtin": "builtins:eval",
    "a class of Python's": "subprocess:Popen",
    "a module of Python's": "antigravity:fly",
    "a class of Python's with a base": "idlelib.pyshell:PyShell",
    "a program of a package": "pip.__main__:Main",
    "a class of a package": "numpy.ma.core:MaskedArray",
    "a function of tasks": "tasks.task:execute",
    "a class of ours that is no task": "orchestrator.store:Store",
    "a module that a module imports": "tasks.task:inspect.sys.modules",
    "an attribute of a class": "tasks.task:Task.run",
    "no class": "tasks.task:",
    "no module": ":Task",
    "a path": "../evil:Evil",
    "dots": "..evil:Evil",
    "beside a sweep file that lies elsewhere": "evil_module:Evil",
    "in a sweep file that lies elsewhere": "sweep_evil_sweep:Evil",
    "in a sweep file in the store": "sweep_evil_stored:Evil",
    "beside a sweep file in the store": "evil_stored:Evil",
}


@pytest.mark.parametrize("where", ["the task", "a field", "an input"])
@pytest.mark.parametrize("code", CODE)
def test_no_manifest_makes_rerun_run_what_it_names(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, where: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stored_at = (home / "artifacts" / "runs" / "evil_stored.py").resolve()
    for path in (elsewhere / "evil_module.py", elsewhere / "evil_sweep.py", stored_at):
        path.write_text(EVIL)
    source = stored_at if "in the store" in code else elsewhere / "evil_sweep.py"
    spec: dict[str, Any] = {"class": CODE[code]}
    if where == "a field":
        spec = {"class": "sweep_study:Fit", "dataset": spec}
    edit_manifest("Points" if where == "an input" else "Fit", spec=spec, source={"file": str(source)})
    if where == "a field":
        shutil.copy("study.py", elsewhere / "study.py")  # for the class around it, from where it may be loaded
        edit_manifest(
            "Fit", source={"file": str(source if "elsewhere" in code or "store" in code else home / "study.py")}
        )
    modules, path = set(sys.modules), list(sys.path)
    before = contents(home)
    code_ = main(["rerun", key_of("Fit")])
    out, err = capsys.readouterr()
    assert code_ == 2 and len(err.splitlines()) == 1 and "Traceback" not in out + err, (out, err)
    assert not SENTINEL.exists()
    assert not {m for m in set(sys.modules) - modules if m.partition(".")[0] in ("antigravity", "idlelib", "pip")}
    assert str(elsewhere) not in set(sys.path) - set(path)
    assert {n: c for n, c in contents(home).items() if "__pycache__" not in n} == before


def test_a_sweep_file_that_lies_elsewhere_is_run_if_the_user_names_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    store = ("--store", str(home / "artifacts"))
    monkeypatch.chdir(home)
    key = key_of("Fit")
    monkeypatch.chdir(tmp_path / "other")
    assert main(["rerun", key, *store]) == 2
    assert "not below the working folder" in capsys.readouterr().err
    assert main(["rerun", key, *store, "--file", str(home / "study.py")]) == 0


# What people look at

TAGS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "{{ 7 * 7 }}",
    "$\\frac{",
)
ESCAPES = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]52;c;cm0gLXJm\x1b\\ \x9b2J \x1bc \x08\x08 \r over \u202e dne [/x] [bold]"
)


class Page(html.parser.HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self._in = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._in = tag
        if tag == "script" and ("type", "application/json") not in attributes:
            self.scripts.append("")
        if tag in ("iframe", "object", "embed", "svg", "form", "base", "link"):
            self.active.append(tag)
        for name, value in attributes:
            link = name in ("src", "href") and not str(value).startswith(
                ("data:image/png;", "data:image/svg+xml;", "#", "plots/", "../../../artifacts/")
            )
            if name.startswith("on") or "javascript:" in str(value) or (name == "src" and link):
                self.active.append(f"{tag} {name}={str(value)[:80]}")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script" and self.scripts:
            self.scripts[-1] += data
        elif self._in not in ("script", "style"):
            self.text += data


def with_words(value: Any, words: str) -> Any:
    """Data with these words put into every text that people get to see."""
    keep = {"key", "name", "kind", "column", "state", "because", "task", "file", "x", "y", "mode", "metric", "sweep"}
    if isinstance(value, dict):
        return {k: v if k in keep and not isinstance(v, dict) else with_words(v, words) for k, v in value.items()}
    if isinstance(value, list):
        return [with_words(v, words) for v in value]
    return value + words if isinstance(value, str) else value


def infect(words: str) -> None:
    """Put words into the study, all manifests, and the record of the run."""
    path = Path("artifacts", RUN, "study.json")
    record = json.loads(path.read_text())
    for name in ("settings", "question", "run", "tasks"):
        record[name] = with_words(record[name], words)
    for task in record["tasks"]:
        task["trials"] = [[s, r.removesuffix(words)] for s, r in task["trials"]]
    record["declared"] |= {"contrasts": [[1, 0]], "baseline": 0, "margin": 0.001, "notes": [words], "confirms": words}
    for column in record["columns"]:
        column["metrics"] = with_words(column["metrics"], words)
        for curve in column["curves"]:
            curve |= {k: curve[k] + words for k in ("title", "xlabel", "ylabel")}
    path.write_text(json.dumps(record))
    for path in Path("artifacts/artifacts").glob("*/*/manifest.json"):
        m = json.loads(path.read_text())
        extra = {k: f"{m.get(k, '')}{words}" for k in ("label", "host", "worker", "device", "platform")}
        extra["versions"] = {f"numpy{words}": words, **m["versions"]}
        extra["results"] = {**m["results"], f"odd{words}": 1.5, "remark": words}
        extra["git"] = {"commit": words, "dirty": True}
        path.write_text(json.dumps({**m, **extra, "seeds": {f"{k}{words}": v for k, v in m["seeds"].items()}}))
    events = Path("artifacts", RUN, "events.jsonl")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    key = key_of("Fit")
    lines.insert(1, {"time": 1.0, "event": "lost", "key": key, "label": f"Fit{words}", "why": words})
    lines.append({"time": 2.0, "event": "failed", "key": words, "label": f"Fit{words}", "error": words, "blocked": 1})
    lines.append({"time": 3.0, "event": "run_halted", "why": words})
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("artifacts", RUN, "logs", f"{key}.txt").write_bytes(words.encode("utf-8", "surrogatepass") + b"\xff\x9b2J")


def test_nothing_from_the_store_is_active_in_the_report(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infect(" ".join(TAGS))
    told = attend(capsys)
    assert told["report study"][0] == 0, told["report study"]
    text = Path("artifacts", RUN, "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.active == []
    (script,) = page.scripts
    assert script == (Path(report.__file__).parent / "report.js").read_text()
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text and f"script-src 'sha256-{allowed}'" in text


def test_nothing_from_the_store_steers_the_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infect(ESCAPES)
    told = attend(capsys)
    for verb in ("ls", "status", "show KEY", "logs KEY", "report study", "verify", "rerun KEY"):
        assert told[verb][0] in (0, 1) and ("red" in told[verb][1] or verb in ("verify", "report study")), told[verb]


def test_half_characters_are_damage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infect("\ud800")
    told = attend(capsys)
    assert told["verify"][0] == 1 and "damaged" in told["ls"][1]


def test_names_of_files_and_folders_do_not_steer_either(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "\x1b[31m\u202e[bold]\r"
    folder = manifest_path("Look").parent
    shutil.copytree(folder, Path("artifacts/artifacts", f"Look{words}", folder.name))
    shutil.copytree(folder, folder.with_name(f"0{words}"))
    Path("artifacts", RUN, "logs", f"{key_of('Fit')}{words}.txt").write_text("x")
    shutil.copytree(Path("artifacts", RUN), Path("artifacts/runs", f"st{words}", "2024"))
    Path("artifacts/snapshots", f"1{words}").mkdir()
    Path("artifacts/snapshots", f"1{words}", "state").write_bytes(b"")
    attend(capsys, tuple(v for v in VERBS if not v.startswith("rerun")))


# Files that are no files, and paths that lead outside


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the store, with something in it that must stay, and stay unread."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("the-secret")
    return folder


def test_links_to_files_outside_are_not_followed(home: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where the manifest says rightly what is there."""
    secret = outside / "secret.txt"
    for path in Path("artifacts/artifacts/Fit").glob("*/history.npz"):
        path.unlink()
        path.symlink_to(secret)
        edit_manifest("Fit", path.parent.name, files={"history.npz": about(secret.read_bytes())})
    for name in (f"{RUN}/logs/{key_of('Fit')}.txt", f"{RUN}/study.json", f"{RUN}/events.jsonl", "runs/study/latest"):
        Path("artifacts", name).unlink()
        Path("artifacts", name).symlink_to(secret)
    told = attend(capsys)
    assert "history.npz: no plain file" in told["verify"][1]
    assert told["rerun LOOK"][0] == 2 and told["logs KEY"][0] == 2
    assert not [verb for verb, (_, text) in told.items() if "the-secret" in text]
    assert "the-secret" not in str(contents(home / "artifacts"))
    capsys.readouterr()
    assert main(["verify", "--set-aside"]) in (0, 1)  # the sweep may have set them aside already
    assert main(["verify"]) == 0
    assert Path("artifacts/damaged/Fit").is_dir()
    assert main(["gc", "study.py", "--yes", "--older-than", "0"]) == 0
    assert secret.read_text() == "the-secret"


def test_folders_that_are_links_are_not_emptied(home: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """gc, set-aside and cleaning up delete the link, not what it leads to."""
    look = manifest_path("Look").parent
    shutil.copytree(look, outside / "artifact")
    shutil.rmtree(look)
    look.symlink_to(outside / "artifact")
    for name in ("damaged/Fit/x-1", "snapshots/9", "tmp/linked", f"live/{'x' * 9}"):
        Path("artifacts", name).parent.mkdir(parents=True, exist_ok=True)
        Path("artifacts", name).symlink_to(outside)
    before = contents(outside)
    attend(capsys)
    Path("other.py").write_text(stored.STUDY.replace("lr: float = 0.1", "lr: float = 0.3").replace("0.1, 0.2", "0.5"))
    assert main(["gc", "other.py", "--yes", "--older-than", "0"]) == 0
    assert main(["verify", "--set-aside"]) in (0, 1)
    Store("artifacts").clean_up()
    assert contents(outside) == before
    assert not look.is_symlink()


def test_pipes_do_not_stop_anybody_for_ever(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (manifest_path("Look"), manifest_path("Fit").with_name("history.npz"), Path("artifacts", RUN, "keys"),
                 Path("artifacts", RUN, "events.jsonl"), Path("artifacts/runs/study/latest")):  # fmt: skip
        name.unlink()
        os.mkfifo(name)
    attend(capsys)


NAMES = (
    "../../../../outside/secret.txt",
    "/etc/passwd",
    "a/../../b",
    "./x",
    "",
    ".",
    "..",
    "manifest.json",
    "a//b",
    "\x00",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_cannot_name_files_outside(
    home: Path, outside: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    secret = outside / "secret.txt"
    edit_manifest("Fit", files={name: about(secret.read_bytes())})
    told = attend(capsys)
    assert told["verify"][0] == 1 and told["show KEY"][0] == 2 and told["rerun KEY"][0] == 2
    assert main(["gc", "search.py", "--yes", "--older-than", "0"]) == 0
    assert secret.read_text() == "the-secret"


def test_records_cannot_lead_outside(home: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that manifests and signs of life name are runs of this store."""
    (outside / "events.jsonl").write_text(
        '{"time": 1.0, "event": "the-secret", "key": "KEY"}\n'.replace("KEY", key_of("Fit"))
    )
    (outside / "keys").write_text(key_of("Look"))
    Path("artifacts/live").mkdir()
    for number, run in enumerate(("../../outside", str(outside), "runs/../../../outside", "runs/a\x00b/c", [])):
        edit_manifest("Fit", run=run if isinstance(run, str) else "")
        Path("artifacts/live", f"{number}.json").write_bytes(stored.live(run=run))
        told = attend(capsys, ("show KEY", "status", "gc search.py --dry-run --older-than 0"))
        assert "the-secret" not in told["show KEY"][1]
        assert "is going on" not in told["gc search.py --dry-run --older-than 0"][1]
