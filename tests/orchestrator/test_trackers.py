"""Trackers: MLflow and TensorBoard for real, read back; and what a tracker does that must not matter to a run."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli import orchestrate

from orchestrator.__main__ import main
from orchestrator.plan import Plan, make_plan
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep
from orchestrator.trackers import Target, Trackers, feed, parse_target
from orchestrator.trackers.clients import Seen, TensorBoard, allowed
from orchestrator.trackers.process import Book
from tasks.errors import InvalidValue

SWEEP = '''\
"""Trainings of four epochs that need no torch; the probe looks twice."""

from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Fit(Task):
    lr: float = 0.1
    streams = ("init",)

    def run(self, ctx):
        losses = []
        for epoch in range(1, 5):
            losses.append(float("nan") if self.lr > 1 and epoch == 3 else self.lr / epoch)
            if losses[-1] != losses[-1]:
                break
            if self.lr == 0.7:
                raise RuntimeError("no such luck")
            yield {"epoch": epoch, "val_loss": losses[-1], "last": epoch == 4}
        ctx.save_arrays("history", epoch=range(1, len(losses) + 1), val_loss=losses)
        diverged = len(losses) < 4
        return {"val_accuracy": None if diverged else self.lr, "epochs": len(losses), "diverged": diverged}


@dataclass(frozen=True)
class Look(Probe):
    k: int = 1

    def run(self, ctx, trained):
        return {"depth": self.k * trained.results["val_accuracy"], "remark": "fine"}


sweep = Sweep(train=Fit(lr={"grid_search": [0.1, 0.7, 5.0]}), seeds=range(2), probes=[Look(), Look(k=2)])
'''

GOOD = {"lr=0.1 · seed 0", "lr=0.1 · seed 1"}
DIVERGED = {"lr=5 · seed 0", "lr=5 · seed 1"}
FAILED = {"lr=0.7 · seed 0", "lr=0.7 · seed 1"}


@pytest.fixture(scope="module")
def logged(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A run that was told to three trackers, one of which nobody answers for; its folder is the working folder."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "fit.py").write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = f"mlflow:http://127.0.0.1:{unused.getsockname()[1]}"
        command = ["sweep", "fit.py", "--log", "mlflow:tracked"]
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            main([*command, "--log", "tensorboard:board", "--log", dead])
        yield SimpleNamespace(folder=folder, command=command, output=output.getvalue())


def runs(where: str) -> dict[str, Any]:
    """MLflow's runs of the sweep by name, each with its metrics as (step, value)."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=where)
    experiment = client.get_experiment_by_name("fit")
    assert experiment is not None
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        history = {m: client.get_metric_history(run.info.run_id, m) for m in run.data.metrics}
        points = {m: sorted((p.step, p.value) for p in ps) for m, ps in history.items()}
        assert run.info.run_name not in found, "one run a trial"
        found[run.info.run_name] = SimpleNamespace(run=run, points=points)
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_every_trial_is_a_run_of_mlflow(logged):
    found = runs("tracked")
    assert set(found) == GOOD | DIVERGED | FAILED, logged.output
    for name in GOOD:
        about, points = found[name].run, found[name].points
        assert points["val_loss"] == [(e, 0.1 / e) for e in range(1, 5)]
        assert points["Fit.val_accuracy"] == [(4, 0.1)]
        assert points["Look.depth"] == [(4, 0.1)] and points["Look_k_2.depth"] == [(4, 0.2)]
        assert about.data.params["config.train.lr"] == "0.1" and about.data.params["seed"] == name[-1]
        assert about.data.tags["sweep"] == "fit" and about.data.tags["key"] == about.data.params["key"]
        assert (logged.folder / "artifacts/runs/fit" / about.data.tags["run"]).is_dir()
        assert (about.info.status, about.data.tags["status"]) == ("FINISHED", "done")
    for name in DIVERGED:
        assert [step for step, _ in found[name].points["val_loss"]] == [1, 2, 3]  # the last one is not reported
        assert (found[name].run.info.status, found[name].run.data.tags["status"]) == ("FINISHED", "diverged")
    assert {found[name].run.info.status for name in FAILED} == {"FAILED"}


@pytest.mark.slow
def test_every_trial_is_a_folder_of_tensorboard(logged):
    folders = {f.name.rpartition("-")[0]: f for f in (logged.folder / "board/fit").iterdir()}
    assert set(folders) == {name.replace(" · ", "_").replace(" ", "_") for name in GOOD | DIVERGED | FAILED}
    found = scalars(folders["lr=0.1_seed_0"])
    assert found["ray/tune/val_loss"] == [(e, pytest.approx(0.1 / e)) for e in range(1, 5)]
    assert found["ray/tune/Look_k_2.depth"] == [(4, pytest.approx(0.2))]


@pytest.mark.slow
def test_a_server_that_is_not_there_is_said_once_and_the_run_goes_on(logged):
    assert logged.output.count("MLflow cannot be told of this run (the server does not answer): the run goes on") == 1
    assert "MLflow: nothing was logged; the same command fills in what is missing." in logged.output
    assert "MLflow: 6 trials of fit logged (tracked)" in logged.output
    assert logged.output.splitlines()[-1] == "18 tasks: 8 ran, 0 stored, 2 failed, 8 skipped", logged.output


@pytest.mark.slow
def test_nothing_is_told_twice_and_a_new_tracker_is_filled_from_the_store(logged, capsys):
    before = {name: found.points for name, found in runs("tracked").items()}
    code, out, _ = orchestrate(capsys, *logged.command, "--log", "mlflow:later")
    assert code == 1
    assert "MLflow: 0 trials of fit logged, 6 were there already (tracked)" in out
    after = runs("tracked")
    assert repr({name: found.points for name, found in after.items()}) == repr(before)
    later = runs("later")
    assert repr(later["lr=0.1 · seed 1"].points) == repr(before["lr=0.1 · seed 1"])
    assert repr(later["lr=5 · seed 1"].points) == repr(before["lr=5 · seed 1"])


@pytest.mark.slow
def test_what_a_tracker_refused_is_told_at_the_end(logged, tmp_path):
    class Moody(TensorBoard):
        """Refuses the second epoch, as a server does that is away for a moment."""

        def epoch(self, trial, epoch, values):
            if epoch == 2 and not said:
                raise ConnectionError("gone")
            super().epoch(trial, epoch, values)

    key = runs("tracked")["lr=0.1 · seed 0"].run.data.tags["key"]
    said: list[str] = []
    trial = {"op": "trial", "key": key, "name": "a trial", "params": {"lr": 0.1}, "tags": {"sweep": "fit"}}
    whole = {"op": "whole", "key": key, "results": {"Fit.epochs": 4}, "status": "done", "epochs": 4, "here": True}
    whole |= {"artifact": ["Fit", key], "store": str(logged.folder / "artifacts")}
    book = Book("TensorBoard", lambda: Moody(str(tmp_path), "fit"), said.append)
    for message in (trial, *({"op": "epoch", "key": key, "epoch": e, "values": {"val_loss": 9.0}} for e in (1, 2, 3))):
        book.take(message)
    assert said == ["TensorBoard did not take something (the server does not answer): the run goes on."]
    assert book.missed == 2  # the epoch it refused, and the one after, when it was left alone
    book.take(whole)
    book.take({"op": "close"})
    assert (book.missed, len(said)) == (0, 1)
    [folder] = (tmp_path / "fit").iterdir()
    assert [step for step, _ in scalars(folder)["ray/tune/val_loss"]] == [1, 2, 3, 4]

    again = Book("TensorBoard", lambda: TensorBoard(str(tmp_path), "fit"), said.append)
    for message in (trial, whole, {"op": "close"}):
        again.take(message)
    assert again.touched == set() and again.there == {key}
    assert [step for step, _ in scalars(folder)["ray/tune/val_loss"]] == [1, 2, 3, 4]


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    Path("fit.py").write_text(SWEEP)
    return make_plan(load_sweep("fit.py"), Store("artifacts"))


def reported(plan: Plan, epoch: int) -> dict[str, Any]:
    key = next(n.key for n in plan.nodes.values() if n.kind == "train")
    return {"event": "reported", "key": key, "progress": {"epoch": epoch, "val_loss": 1.0, "last": False}}


def test_a_server_that_never_answers_is_not_waited_for(plan, monkeypatch):
    monkeypatch.setattr(feed, "FLUSH_SECONDS", 0.5)
    monkeypatch.setattr(feed, "MOST_WAITING", 100)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:  # it lets everybody in and says nothing
        target = Target("mlflow", f"http://127.0.0.1:{server.getsockname()[1]}")
        with Trackers([target], plan, Store("artifacts"), "runs/fit/now", said.append) as trackers:
            for epoch in range(50_000):
                trackers(reported(plan, epoch))
            [line] = trackers._lines
            assert len(line._queue) <= 100
            sentence = "MLflow had not taken everything after 0 s; the same command fills in what is missing."
            assert trackers.close() == [sentence]
        assert line._process is not None and line._process.returncode == -signal.SIGKILL
    assert said == ["MLflow is slower than this run: single epochs are told at its end."]


def test_a_process_that_dies_takes_nothing_with_it(plan, tmp_path):
    said: list[str] = []
    heard = threading.Event()

    def say(sentence: str) -> None:
        said.append(sentence)
        heard.set()

    with Trackers([Target("tensorboard", str(tmp_path))], plan, Store("artifacts"), "runs/fit/now", say) as trackers:
        [line] = trackers._lines
        assert line._process is not None
        os.kill(line._process.pid, signal.SIGKILL)
        assert heard.wait(60)
        trackers(reported(plan, 1))
        [sentence] = trackers.close()
    assert said == ["The process that tells TensorBoard has died: the run goes on without."]
    assert sentence.startswith("TensorBoard: not everything was logged; the same command")


def test_what_was_told_stays_when_the_run_dies(plan, tmp_path):
    with Trackers([Target("tensorboard", "board")], plan, Store("artifacts"), "runs/fit/now", print) as trackers:
        trackers(reported(plan, 1))
        [line] = trackers._lines
    # Left without `close`, as by an error; the process ends by itself.
    assert line._process is not None and line._process.wait(120) == 0
    [folder] = Path("board/fit").iterdir()
    assert scalars(folder)["ray/tune/val_loss"] == [(1, 1.0)]
    client = TensorBoard("board", "fit")
    assert list(client.known().values()) == [Seen({1}, set(), "interrupted")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mlfow:x", r"no tracker 'mlfow' \(did you mean 'mlflow'\?\)"),
        ("tensorboard", "which FOLDER.*--log tensorboard:logs"),
        ("mlflow:", r"which URI.*\$MLFLOW_TRACKING_URI"),
        ("mlflow:http://me:secret@host:5000", r"holds a password.*\$MLFLOW_TRACKING_URI and write --log mlflow\."),
        ("tensorboard:s3://bucket/logs", "a folder of this machine"),
        ("tensorboard:file", "'file' cannot be a folder"),
        ("wandb:landscapes", r"wandb is not installed: pip install -e '\.\[wandb\]'"),
    ],
)
def test_what_cannot_be_logged_to_is_said_before_anything(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if text.startswith("wandb") and "wandb" in sys.modules:
        pytest.skip("wandb is installed here")
    Path("file").touch()
    with pytest.raises(InvalidValue, match=words) as refused:
        parse_target(text)
    assert "secret" not in str(refused.value)


def test_a_password_in_the_environment_is_used_and_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    target = parse_target("mlflow")
    assert target.where.endswith("host:5000") and "secret" not in target.shown


@pytest.mark.parametrize(
    ("name", "told"),
    [("Fit.val_loss", "Fit.val_loss"), ("Lanczos(k=3).lambda_max", "Lanczos_k_3.lambda_max"), ("ρ/x", "ρ/x")],
)
def test_names_as_every_tracker_takes_them(name, told):
    assert allowed(name) == told
