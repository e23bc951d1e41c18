"""DagSearch by hand: what it suggests. Ray is imported, not started. What it tells an inner search: `test_adaptive`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.utils.object_cache import _ObjectCache
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


def test_idle_workers_are_let_go_while_another_run_is_at_work_on_what_is_left(store: Store) -> None:
    """On one cluster each of two runs may hold what the other waits for."""
    sweep = Sweep(train=Fit(rho=tune.uniform(0, 1)), seeds=range(2))
    decisions = Decisions(sweep, store)
    search = DagSearch(
        make_plan(sweep, store), store, Events(store, "runs/toy/r"), slots=lambda _: 2, run={}, decisions=decisions
    )
    data = search.suggest("data")
    assert isinstance(data, dict)
    cache = _ObjectCache(may_keep_one=True)  # as Tune has it
    controller = SimpleNamespace(_actor_cache=cache)
    shield = Shield(None, search.graph, 2, decisions=decisions)

    shield._keep_workers(controller, "slot")
    shield.choose_trial_to_run(controller)
    assert cache._max_num_objects["slot"] == 2
    key = data["bundle"].keys[0]
    search.graph.elsewhere(key)
    for _ in range(2):
        shield.choose_trial_to_run(controller)
        assert not any(cache.cache_object("slot", number) for number in range(3))  # not even one
    search.graph.released(key)
    shield.choose_trial_to_run(controller)
    assert [cache.cache_object("slot", number) for number in range(3)] == [True, True, False]
    assert not list(cache.flush_cached_objects())
    search.graph.elsewhere(*search.graph.take(search.graph.shapes()[0]))
    shield.choose_trial_to_run(controller)
    assert len(list(cache.flush_cached_objects())) == 2
    shield._keep_workers(controller, "another slot")
    shield.choose_trial_to_run(controller)
    assert not any(cache.cache_object("slot", number) for number in range(3))
