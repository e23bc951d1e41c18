"""What `plan --cluster` says, against a real run on such a cluster.

The one place where wall time is asserted: tasks sleep, so that how busy this machine is decides little.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import RayCluster

SWEEP = '''\
"""Tasks that sleep for known times, of two shapes."""

import time
from dataclasses import dataclass

from ray import tune

from orchestrator import Sweep
from tasks.task import Probe, Task


@dataclass(frozen=True)
class Rest(Task):
    rho: float = 0.1
    rounds: int = 6
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
        time.sleep(5.0)
        return {"x": 1.0}


@dataclass(frozen=True)
class Wide(Probe):
    def run(self, ctx, trained):
        time.sleep(4)
        return {"x": 1.0}


sweep = Sweep(
    train=Rest(rho=tune.grid_search([0.1, 0.2, 0.3, 0.4])),
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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "rest.py").write_text(SWEEP)
    (tmp_path / "hosts.yaml").write_text(CLUSTER)
    return tmp_path


def plan(home: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "orchestrator", "plan", "rest.py", "--cluster", "hosts.yaml", "--json", *words]
    done = subprocess.run(command, cwd=home, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_the_prediction_of_a_real_run(home: Path) -> None:
    """One seed is run to learn how long tasks take; how long the other two take is predicted, and measured."""
    assert plan(home)["forecast"] is None
    assert plan(home)["unknown_durations"] == ["Rest", "Narrow", "Wide"]

    def run(cluster: RayCluster, *words: str) -> float:
        command = [sys.executable, "-m", "orchestrator", "sweep", "rest.py", "--address", cluster.address, *words]
        subprocess.run(command, cwd=home, env=cluster.env, check=True, capture_output=True, timeout=300)
        newest = max((home / "artifacts/runs/rest").glob("*/events.jsonl"))
        events = [json.loads(line) for line in newest.read_text().splitlines()]
        (end,) = [e for e in events if e["event"] == "run_finished"]
        return float(end["seconds"])

    with RayCluster(nodes=2, cpus=2) as cluster:
        run(cluster, "--seeds", "1")
        told = plan(home)
        assert told["to_run"] == 24
        assert told["durations"]["Wide"] == {"mean": pytest.approx(4, rel=0.1), "measured": 4, "devices": ["cpu"]}
        forecast = told["forecast"]
        assert forecast["slots"] == 4
        assert forecast["most_nodes"] == {"head": 1, "worker": 2}
        assert forecast["dollars"] is None
        took = run(cluster)
    assert took >= forecast["at_least_seconds"]["low"] >= 35
    assert forecast["seconds"]["mean"] == pytest.approx(took, rel=0.2)


def test_durations_of_work_of_another_size_do_not_count(home: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "sweep", "rest.py", "--seeds", "1"]
    shorter = ["--set", "train.rounds=1", "--set", "train.rho=[0.1]"]
    subprocess.run([*command, *shorter], cwd=home, check=True, capture_output=True, timeout=300)
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
def test_seconds_that_make_no_sense(home: Path, words: str, said: str) -> None:
    command = [sys.executable, "-m", "orchestrator", "plan", "rest.py", "--seconds", words]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(said)
