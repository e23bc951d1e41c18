"""DagSearch by hand: what it suggests and what it tells an inner search. Ray is imported, not started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.search import Searcher
from toys import Fit, Points

from orchestrator.adaptive import Shield
from orchestrator.decisions import Decisions
from orchestrator.events import Events
from orchestrator.graph import State
from orchestrator.plan import Node, make_plan
from orchestrator.search import DagSearch
from orchestrator.store import Store
from orchestrator.sweep import Sweep
from orchestrator.worker import Bundle, Outcome


class Listed(Searcher):
    """Proposes what it was given, then None; hears what became of it."""

    def __init__(self, values: Iterable[float]) -> None:
        super().__init__()
        self._left = iter(values)
        self.told: list[float | None] = []
        self.points: dict[float, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        value = next(self._left, None)
        return None if value is None else {"train.rho": value}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append(None if error or not result else result["val_accuracy"])

    def add_evaluated_point(self, parameters: dict[str, Any], value: float, *args: Any, **more: Any) -> None:
        self.points[parameters["train.rho"]] = value

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


def searching(store: Store, values: Iterable[float], samples: int = 4) -> tuple[DagSearch, Listed]:
    inner = Listed(values)
    sweep = Sweep(train=Fit(rho=tune.uniform(0, 1)), seeds=range(2), samples=samples, search=inner)
    decisions = Decisions(sweep, store)
    plan = make_plan(sweep, store, decisions.configs[:samples])
    search = DagSearch(
        plan, store, Events(store, "runs/toy/r"), slots=lambda _: 2, run={}, decisions=decisions, inner=inner
    )
    return search, inner


def drive(search: DagSearch, end: Callable[[Node], str] = lambda node: "done") -> None:
    """Carry out every bundle at once, as Tune would; fails where Tune would wait for ever."""
    for number in range(1000):
        name = f"trial-{number}"
        answer = search.suggest(name)
        if answer == Searcher.FINISHED:
            return
        assert isinstance(answer, Mapping), "nothing to do and not finished: Tune would wait for ever"
        bundle: Bundle = answer["bundle"]
        outcomes = []
        for node in (search.plan.nodes[key] for key in bundle.keys):
            status = end(node)
            value = getattr(node.task, "rho", 0.0) + 0.1 * node.seeds.get("init", 0)
            outcomes.append(Outcome(node.key, status, 0.1, {"val_accuracy": value} if status == "done" else {}))
        search.on_trial_complete(name, {"outcomes": outcomes, "now": None, "done": True})
    raise AssertionError("no end")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_the_inner_search_is_told_the_mean_over_seeds(store: Store) -> None:
    search, inner = searching(store, [0.1, 0.2, 0.3, 0.4, 0.5])
    drive(search)
    assert inner.told == pytest.approx([0.15, 0.25, 0.35, 0.45])  # no more than `samples`


def test_a_setting_proposed_again_is_the_same_setting(store: Store) -> None:
    """It is told again and counts as a proposal; no task, trial or pair of its own comes from it."""
    search, inner = searching(store, [0.1, 0.1, 0.2, 0.1])
    drive(search)
    assert [s.config for s in search.plan.settings] == [{"train.rho": 0.1}, {"train.rho": 0.2}]
    assert sorted(inner.told) == pytest.approx([0.15, 0.15, 0.15, 0.25])
    again, _ = searching(store, [])
    assert (again.plan.proposals, len(again.plan.settings)) == (4, 2)


def test_the_same_setting_proposed_while_it_is_at_work(store: Store) -> None:
    search, inner = searching(store, [0.1, 0.1], samples=2)
    search._slots = lambda _: 8  # room for both proposals at once
    drive(search)
    assert inner.told == pytest.approx([0.15, 0.15])


def test_a_search_that_has_nothing_more_ends_the_run(store: Store) -> None:
    search, inner = searching(store, [0.1])
    drive(search)
    assert len(inner.told) == 1
    drive(searching(store, [])[0])


def test_settings_whose_trainings_cannot_run_are_told_as_failed(store: Store) -> None:
    """The dataset fails, so trainings are skipped without ever having run."""
    search, inner = searching(store, [0.1, 0.2, 0.3, 0.4])
    drive(search, lambda node: "failed" if isinstance(node.task, Points) else "done")
    assert inner.told == [None] * 4
    assert search.graph.counts[State.SKIPPED] == 8


def test_a_setting_that_lost_a_seed_is_not_recalled(store: Store) -> None:
    """Neither in this run nor in a later one: the mean of the seeds that are left would flatter it."""

    def end(node: Node) -> str:
        bad = isinstance(node.task, Fit) and node.task.rho == 0.1 and node.seeds["init"] == 1
        return "diverged" if bad else "done"

    search, inner = searching(store, [0.1, 0.2], samples=2)
    drive(search, end)
    assert sorted(inner.told, key=str) == [pytest.approx(0.25), None]
    for node in search.plan.nodes.values():
        results = {} if end(node) == "diverged" else {"val_accuracy": getattr(node.task, "rho", 0.0)}
        manifest = {**node.spec(), "status": end(node), "results": results}
        store.commit(node.name, node.key, store.workspace(), manifest)
    _, inner = searching(store, [], samples=2)
    assert inner.points == {0.2: pytest.approx(0.2)}


def test_a_training_that_starts_over_reports_its_epochs_anew(store: Store) -> None:
    """Epochs from before its worker died are not counted as later ones."""
    search, inner = searching(store, [0.1], samples=1)
    heard: list[tuple[int, float]] = []
    inner.on_trial_result = lambda name, result: heard.append(  # type: ignore[method-assign]
        (result["training_iteration"], result["val_accuracy"])
    )
    suggested = search.suggest("data")
    assert isinstance(suggested, dict)
    points = suggested["bundle"]
    search.on_trial_complete("data", {"outcomes": [Outcome(points.keys[0], "done", 0.1)], "now": None, "done": True})
    bundles = {name: search.suggest(name)["bundle"] for name in ("a", "b")}  # type: ignore[index]

    def report(name: str, value: float) -> None:
        progress = {"val_accuracy": value}
        search.on_trial_result(name, {"outcomes": [], "now": bundles[name].keys[0], "progress": [progress]})

    report("a", 0.1)
    report("a", 0.2)
    search.on_trial_complete("a", error=True)
    bundles["c"] = search.suggest("c")["bundle"]  # type: ignore[index]
    assert bundles["c"].keys == bundles["a"].keys
    report("c", 0.5)
    report("b", 0.7)
    assert heard == [(1, pytest.approx(0.6))]


def test_a_warm_up_ends_when_all_workers_have_started_or_work_is_waiting(store: Store) -> None:
    search, _ = searching(store, [0.1], samples=1)
    data = search.suggest("data")
    warm = search.suggest("warm")
    assert isinstance(data, dict) and isinstance(warm, dict)
    assert (len(data["bundle"].keys), warm["bundle"].keys) == (1, ())
    assert search.suggest("none") is None  # two slots, two workers

    def trial(bundle: Bundle, status: str) -> Any:
        return SimpleNamespace(config={"bundle": bundle}, status=status, PENDING="PENDING")

    own, other = trial(warm["bundle"], "RUNNING"), trial(data["bundle"], "PENDING")
    controller = SimpleNamespace(get_trials=lambda: [own, other])
    shield = Shield(None, search.graph, keep=0)
    assert shield.on_trial_result(controller, own, {}) == "CONTINUE"
    other.status = "RUNNING"
    assert shield.on_trial_result(controller, own, {}) == "STOP"
    other.status = "PENDING"
    search.on_trial_complete(
        "data", {"outcomes": [Outcome(data["bundle"].keys[0], "done", 0.1)], "now": None, "done": True}
    )
    assert shield.on_trial_result(controller, own, {}) == "STOP"  # the trainings are ready
