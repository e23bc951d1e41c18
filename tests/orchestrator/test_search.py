"""DagSearch by hand: what it suggests. Ray is imported, not started. What it tells an inner search: `test_adaptive`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from toys import Fit

from orchestrator.adaptive import Shield
from orchestrator.decisions import Decisions
from orchestrator.events import Events
from orchestrator.plan import make_plan
from orchestrator.search import DagSearch
from orchestrator.store import Store
from orchestrator.sweep import Sweep
from orchestrator.worker import Bundle, Outcome


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_a_warm_up_ends_when_all_workers_have_started_or_work_is_waiting(store: Store) -> None:
    sweep = Sweep(train=Fit(rho=tune.uniform(0, 1)), seeds=range(2))
    decisions = Decisions(sweep, store)
    events = Events(store, "runs/toy/r")
    search = DagSearch(make_plan(sweep, store), store, events, slots=lambda _: 2, run={}, decisions=decisions)
    data = search.suggest("data")
    warm = search.suggest("warm")
    assert isinstance(data, dict) and isinstance(warm, dict)
    assert (len(data["bundle"].keys), warm["bundle"].keys) == (1, ())
    assert search.suggest("none") is None  # two slots, two workers

    def trial(bundle: Bundle, status: str) -> Any:
        return SimpleNamespace(config={"bundle": bundle}, status=status, PENDING="PENDING")

    own, other = trial(warm["bundle"], "RUNNING"), trial(data["bundle"], "PENDING")
    controller = SimpleNamespace(get_trials=lambda: [own, other])
    shield = Shield(None, search.graph, 0, decisions=decisions)
    assert shield.on_trial_result(controller, own, {}) == "CONTINUE"
    other.status = "RUNNING"
    assert shield.on_trial_result(controller, own, {}) == "STOP"
    other.status = "PENDING"
    search.on_trial_complete(
        "data", {"outcomes": [Outcome(data["bundle"].keys[0], "done", 0.1)], "now": None, "done": True}
    )
    assert shield.on_trial_result(controller, own, {}) == "STOP"  # the trainings are ready
