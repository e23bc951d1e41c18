"""DagSearch by hand: what it suggests. Ray is imported, not started. What it tells an inner search: `test_adaptive`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.utils.object_cache import _ObjectCache
from toys import Fit

from orchestrator import warm
from orchestrator.adaptive import Shield
from orchestrator.decisions import Decisions
from orchestrator.events import Events
from orchestrator.graph import Graph
from orchestrator.plan import make_plan
from orchestrator.room import Room
from orchestrator.search import DagSearch
from orchestrator.slots import NodeKind, NodeOffer, shape_of
from orchestrator.store import Store
from orchestrator.sweep import Sweep
from orchestrator.warm import Workers
from orchestrator.worker import Bundle, Outcome


def two_slots() -> Room:
    return Room([NodeOffer("node", "host", {"CPU": 2.0})])


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_a_warm_up_ends_when_all_workers_have_started_or_work_is_waiting(store: Store) -> None:
    sweep = Sweep(train=Fit(rho=tune.uniform(0, 1)), seeds=range(2))
    decisions = Decisions(sweep, store)
    events = Events(store, "runs/toy/r")
    search = DagSearch(make_plan(sweep, store), store, events, room=two_slots(), run={}, decisions=decisions)
    data = search.suggest("data")
    warm = search.suggest("warm")
    assert isinstance(data, dict) and isinstance(warm, dict)
    assert (len(data["bundle"].keys), warm["bundle"].keys) == (1, ())
    assert search.suggest("none") is None  # two slots, two workers

    def trial(bundle: Bundle, status: str) -> Any:
        return SimpleNamespace(trial_id="t", config={"bundle": bundle}, status=status, PENDING="PENDING")

    own, other = trial(warm["bundle"], "RUNNING"), trial(data["bundle"], "PENDING")
    controller = SimpleNamespace(get_trials=lambda: [own, other])
    shield = Shield(None, search.graph, Workers(search.graph, two_slots()), decisions=decisions)
    assert shield.on_trial_result(controller, own, {}) == "CONTINUE"
    other.status = "RUNNING"
    assert shield.on_trial_result(controller, own, {}) == "STOP"
    other.status = "PENDING"
    search.on_trial_complete(
        "data", {"outcomes": [Outcome(data["bundle"].keys[0], "done", 0.1)], "now": None, "done": True}
    )
    assert shield.on_trial_result(controller, own, {}) == "STOP"  # the trainings are ready


def test_no_more_nodes_are_asked_for_than_there_are_tasks(store: Store) -> None:
    """While the dataset is made nothing says yet how many can run at the same time."""
    sweep = Sweep(train=Fit(), seeds=range(3))
    room = Room([NodeOffer("head", "head", {"CPU": 1.0})], [NodeKind("more", {"CPU": 1.0}, 0, 50)])
    decisions = Decisions(sweep, store)
    search = DagSearch(
        make_plan(sweep, store), store, Events(store, "runs/toy/r"), room=room, run={}, decisions=decisions
    )
    handed = [search.suggest(str(n)) for n in range(10)]
    assert sum(answer is not None for answer in handed) == 3  # the dataset's worker is one of the three
    assert room.wished() == {"more": 2}


def slot(cpus: float) -> dict[str, float]:
    return {"cpu": cpus}


class Tune:
    """What `Workers` sees of Tune."""

    def __init__(self) -> None:
        self._actor_cache: Any = _ObjectCache(may_keep_one=True)  # as Tune has it
        self._trial_to_actor: dict[Any, str] = {}

    def trial(self, name: str, slot: dict[str, float]) -> Any:
        bundle = Bundle(name, slot, ("key",), b"")
        trial = SimpleNamespace(
            trial_id=name, config={"bundle": bundle}, placement_group_factory=str(slot), status="RUNNING", PENDING="P"
        )
        return _Hashable(trial)

    def let_go(self) -> list[str]:
        return list(self._actor_cache.flush_cached_objects())

    def cache(self, slot: dict[str, float], worker: str) -> bool:
        return bool(self._actor_cache.cache_object(str(slot), worker))


class _Hashable:
    def __init__(self, trial: Any) -> None:
        self.__dict__.update(trial.__dict__)


def test_idle_workers_are_kept_until_their_place_is_needed() -> None:
    nodes = [NodeOffer(name, name, {"CPU": 2.0}) for name in ("a", "b")]
    room, graph, tune_ = Room(nodes), Graph(), Tune()

    def placed(trial: str, node: str, devices: Any, name: str) -> None:
        assert room.confirm(trial, node)

    workers = Workers(graph, room, placed)
    for number in range(4):
        assert room.take(shape_of(slot(1)), str(number)) is not None
    for number in range(4):
        trial = tune_.trial(str(number), slot(1))
        workers.wanted(trial)
        tune_._trial_to_actor[trial] = f"worker {number}"
        node = "ab"[number // 2]
        room.confirm(str(number), node)
        workers.heard(tune_, trial, {"node": node})
        workers.arrange(tune_)
        workers.rests(tune_, trial)
        room.rest(str(number))
        assert tune_.cache(slot(1), f"worker {number}")
    workers.arrange(tune_)
    assert tune_.let_go() == []
    large = room.take(shape_of(slot(2)), "large")
    assert large is not None
    assert large.node_id == "a"
    workers.wanted(tune_.trial("large", slot(2)))
    workers.arrange(tune_)
    assert sorted(tune_.let_go()) == ["worker 0", "worker 1"]  # those on the node that it needs, and no others
    assert room.take(shape_of(slot(1)), "next") is not None
    again = tune_.trial("next", slot(1))
    workers.wanted(again)
    tune_._trial_to_actor[again] = tune_._actor_cache.pop_cached_object(str(slot(1)))
    workers.arrange(tune_)
    assert next(p for p in room.places() if p.holder == "next").known


def test_idle_workers_are_let_go_while_another_run_is_at_work_on_what_is_left() -> None:
    """On one cluster each of two runs may hold what the other waits for."""
    room, graph, tune_ = two_slots(), Graph(), Tune()
    graph.add("task", kind="fit", shape=shape_of(slot(1)))
    workers = Workers(graph, room)
    for number in range(2):
        assert room.take(shape_of(slot(1)), number) is not None
    for number in range(2):
        trial = tune_.trial(str(number), slot(1))
        workers.wanted(trial)
        room.rest(number)
        workers.rests(tune_, trial)
        assert tune_.cache(slot(1), f"worker {number}")
    workers.arrange(tune_)
    assert tune_.let_go() == []
    graph.elsewhere(*graph.take(shape_of(slot(1))))
    workers.arrange(tune_)
    assert len(tune_.let_go()) == 2  # not even one
    graph.released("task")
    workers.arrange(tune_)
    assert [tune_.cache(slot(1), str(n)) for n in range(3)] == [True, True, False]


def test_idle_workers_are_let_go_while_a_task_waits_for_what_somebody_else_holds(monkeypatch) -> None:
    """Two runs on one cluster, each of which waits on the node where the other has idle workers."""
    room = Room([NodeOffer(name, name, {"CPU": 2.0}) for name in ("a", "b")])
    workers, tune_ = Workers(Graph(), room), Tune()
    for number in range(2):
        assert room.take(shape_of(slot(1)), number) is not None
    for number in range(2):
        trial = tune_.trial(str(number), slot(1))
        workers.wanted(trial)
        room.confirm(number, "a")
        room.rest(number)
        workers.rests(tune_, trial)
        assert tune_.cache(slot(1), f"worker {number}")
    place = room.take(shape_of(slot(2)), "large")
    assert place is not None
    assert place.node_id == "b"  # where, unknown to this run, the other one is
    large = tune_.trial("large", slot(2))
    large.status = large.PENDING
    workers.wanted(large)
    workers.arrange(tune_)
    assert tune_.let_go() == []
    monkeypatch.setattr(warm, "PATIENCE", 0.0)
    workers.arrange(tune_)
    assert len(tune_.let_go()) == 2
    large.status = "RUNNING"
    workers.arrange(tune_)
    assert tune_.cache(slot(1), "worker 2")
