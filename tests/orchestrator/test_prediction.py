"""What `plan --cluster` says, against a real run on such a cluster.

The one place where wall time is asserted. Tasks sleep, so that how busy this machine is decides little of how long
they take. It does decide how long Ray and its processes take to start, which the prediction takes from the run before:
so it is made again with what the start took in the very run that is measured, and that is what has to be right.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import orchestrate
from cluster import RayCluster

SWEEP = '''\
"""Tasks that sleep for known times, of two shapes."""

import time
from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Rest(Task):
    rho: float = 0.1
    rounds: int = 4
    streams = ("init",)
    metrics = {"val_accuracy": "nothing"}

    def run(self, ctx):
        for _ in range(self.rounds):
            time.sleep(1.1)
            yield {"rested": True}
        return {"val_accuracy": 0.5}


@dataclass(frozen=True)
class Narrow(Probe):
    def run(self, ctx, trained):
        time.sleep(3.3)
        return {"x": 1.0}


@dataclass(frozen=True)
class Wide(Probe):
    def run(self, ctx, trained):
        time.sleep(2.7)
        return {"x": 1.0}


sweep = Sweep(
    train=Rest(rho={"grid_search": [0.1, 0.2, 0.3, 0.4]}),
    seeds=range(3),
    probes=[Narrow(), Wide()],
    slots={Wide: {"cpu": 2}},
    name="rest",
)
'''

CLUSTER = """\
cluster_name: two-hosts
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2, 10.0.0.3]}
auth: {ssh_user: me}
min_workers: 2
max_workers: 2
head_start_ray_commands: ["ray start --head --num-cpus=0"]
worker_start_ray_commands: ["ray start --address=$RAY_HEAD_IP:6379 --num-cpus=2"]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(nodes=2, cpus=2) as cluster:
        yield cluster


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "rest.py").write_text(SWEEP)
    (home / "hosts.yaml").write_text(CLUSTER)
    return home


def run(home: Path, cluster: RayCluster, *words: str) -> float:
    """Seconds that a run took by its own record."""
    command = [sys.executable, "-m", "orchestrator", "sweep", "rest.py", "--address", cluster.address, *words]
    subprocess.run(command, cwd=home, env=cluster.env, check=True, capture_output=True, timeout=300)
    newest = max((home / "artifacts/runs/rest").glob("*/events.jsonl"))
    events = [json.loads(line) for line in newest.read_text().splitlines()]
    (end,) = [e for e in events if e["event"] == "run_finished"]
    return float(end["seconds"])


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What the command `plan` tells in a folder."""

    def planned(home: Path, *words: str) -> dict[str, Any]:
        monkeypatch.chdir(home)
        code, lines, err = orchestrate(capsys, "plan", "rest.py", "--cluster", "hosts.yaml", "--json", *words)
        assert code == 0, err
        told: dict[str, Any] = json.loads("".join(lines))
        return told

    return planned


@pytest.mark.slow
def test_the_prediction_of_a_real_run(home: Path, cluster: RayCluster, plan: Callable[..., Any]) -> None:
    """Two trials are run to learn how long tasks take; how long six more take is predicted, and measured."""
    two = ("--seeds", "2")
    assert plan(home, *two)["forecast"] is None
    assert plan(home, *two)["unknown_durations"] == ["Rest", "Narrow", "Wide"]
    run(home, cluster, "--seeds", "1", "--set", "train.rho=[0.1,0.2]")
    told = plan(home, *two)
    assert told["to_run"] == 18
    assert told["durations"]["Wide"] == {"mean": pytest.approx(2.7, rel=0.1), "measured": 2, "devices": ["cpu"]}
    forecast = told["forecast"]
    assert forecast["slots"] == 4
    assert forecast["most_nodes"] == {"head": 1, "worker": 2}
    assert forecast["dollars"] is None

    before = home.with_name("before")
    shutil.copytree(home, before)
    took = run(home, cluster, *two)
    assert took >= forecast["at_least_seconds"]["low"] >= 19

    # The prediction of the same work by the same durations, had the start of the run before taken what it took now.
    shutil.copytree(home / "artifacts/runs", before / "artifacts/runs", dirs_exist_ok=True)
    again = plan(before, *two)
    assert (again["to_run"], again["durations"]) == (told["to_run"], told["durations"])
    assert again["forecast"]["seconds"]["mean"] == pytest.approx(took, rel=0.2)


@pytest.mark.slow
def test_durations_of_work_of_another_size_do_not_count(
    home: Path, cluster: RayCluster, plan: Callable[..., Any]
) -> None:
    shorter = ["--seeds", "1", "--set", "train.rounds=1", "--set", "train.rho=[0.1]"]
    run(home, cluster, *shorter)
    assert plan(home, *shorter)["unknown_durations"] == []
    assert plan(home, *shorter, "--set", "train.rho=[0.7,0.8]")["unknown_durations"] == []
    assert plan(home)["unknown_durations"] == ["Rest", "Narrow", "Wide"]  # nor probes of the shorter trainings
    stated = plan(home, "--seconds", "Rest=60,Narrow=2", "--seconds", "Wide=3")
    assert stated["unknown_durations"] == []
    assert stated["durations"]["Rest"] == {"mean": 60.0, "measured": 0, "devices": []}
    assert stated["forecast"]["seconds"]["low"] >= 3 * 60  # twelve trainings on four slots


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Reest=3", "--seconds names 'Reest', which is no task of the sweep (did you mean 'Rest'?)."),
        ("Rest=soon", "--seconds 'Rest=soon' must be written as Rest=120, a number of seconds above 0."),
        ("Rest", "--seconds 'Rest' must be written as Rest=120, a number of seconds above 0."),
        ("Rest=-1", "--seconds 'Rest=-1' must be written as Rest=120, a number of seconds above 0."),
    ],
)
def test_seconds_that_make_no_sense(
    home: Path, words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    code, _, err = orchestrate(capsys, "plan", "rest.py", "--seconds", words)
    assert code == 2
    assert err.splitlines()[-1].endswith(said)
