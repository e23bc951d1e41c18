"""An adaptive sweep with real Ray whose driver is killed decides what it would have decided."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import RayCluster

from orchestrator.decisions import Decision, Decisions, Proposed, Reported, Stopped, Told
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep

ADAPTIVE = '''\
"""Optuna proposes, ASHA stops."""

import time
from dataclasses import dataclass

from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from orchestrator import Sweep
from tasks.task import Task


@dataclass(frozen=True)
class Slow(Task):
    """Goes on where its snapshot was taken, and repeats the reports before it."""

    lr: float = 0.1
    streams = ("init",)

    def run(self, ctx):
        scores = (ctx.resume() or {"scores": []})["scores"]
        noise = ctx.rng("init").random() / 20
        for epoch in range(1, 6):
            if len(scores) < epoch:
                time.sleep(0.1)
                scores.append(epoch * (1 - (self.lr - 0.7) ** 2) + noise)
            ctx.snapshot(lambda: {"scores": list(scores[:epoch])})
            yield {"epoch": epoch, "score": scores[epoch - 1], "last": epoch == 5}
        (ctx.dir / "scores.txt").write_text(repr(scores))
        return {"score": scores[-1]}


sweep = Sweep(
    train=Slow(lr=tune.uniform(0.0, 1.0)), seeds=range(2), metric="score", mode="max", samples=6,
    search=OptunaSearch(sampler=TPESampler(seed=1, n_startup_trials=2)),
    scheduler=ASHAScheduler(time_attr="epoch", max_t=5, grace_period=1, reduction_factor=2),
    snapshot_seconds=0.0,
)
'''


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with RayCluster(nodes=1, cpus=1) as running:  # one slot, so that everything happens in one order
        yield running


def decided(store: Store) -> list[Decision]:
    """All that was recorded, without the times that the clock told."""
    log = Decisions(load_sweep("adaptive.py"), store).log
    return [_timeless(d) for d in log]


def _timeless(decision: Decision) -> Decision:
    values: Any = getattr(decision, "values", None)
    if values is None:
        return decision
    kept = {k: v for k, v in values.items() if k != "time_total_s"}
    return dataclasses.replace(decision, values=kept)  # type: ignore[call-arg]


def artifacts(store: Store) -> dict[str, bytes]:
    names = [f"artifacts/Slow/{key}/scores.txt" for key in store.names("artifacts/Slow")]
    return {name: store.path(name).read_bytes() for name in names}


@pytest.mark.slow
def test_a_driver_that_is_killed_decides_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster) -> None:
    monkeypatch.chdir(tmp_path)
    Path("adaptive.py").write_text(ADAPTIVE)
    command = [sys.executable, "-m", "orchestrator", "sweep", "adaptive.py", "--address", cluster.address]

    def run(store: Store) -> subprocess.Popen[str]:
        argv = [*command, "--store", store.uri]
        return subprocess.Popen(argv, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole, disturbed = Store("whole"), Store("disturbed")
    undisturbed = run(whole)
    assert undisturbed.wait(120) == 0, undisturbed.communicate()[0]

    killed = run(disturbed)
    deadline = time.monotonic() + 120
    while True:
        log = decided(disturbed)
        told = [i for i, d in enumerate(log) if isinstance(d, Told)]
        if len(told) >= 2 and any(isinstance(d, Reported) for d in log[told[1] :]):
            break  # a training is at work in the middle of the third setting
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = decided(disturbed)
    again = run(disturbed)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0, out

    expected = decided(whole)
    assert before == expected[: len(before)]
    assert len(before) < len(expected)
    assert decided(disturbed) == expected
    assert {Proposed, Told, Stopped} <= {type(d) for d in expected}
    assert artifacts(disturbed) == artifacts(whole)
