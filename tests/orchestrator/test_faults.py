"""What DagSearch makes of faults, by hand: the store is real, Ray is started for the last test only."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import toy_sweep
from ray.tune.search import Searcher
from toys import Curvature, Ensemble, Fit

from orchestrator import run, signals
from orchestrator.__main__ import main
from orchestrator.commands.sweep import only_failed
from orchestrator.decisions import Decisions
from orchestrator.events import Events, read_events
from orchestrator.graph import State
from orchestrator.live import Live
from orchestrator.plan import Node, Plan, make_plan
from orchestrator.room import Room
from orchestrator.search import DagSearch
from orchestrator.slots import NodeOffer, shape_of, slot_of
from orchestrator.store import Store
from orchestrator.worker import Bundle, Outcome

RUN = "runs/toy/r"
SLOT = (("cpu", 1.0),)


class Driver:
    """A DagSearch, and what Tune and the workers would do."""

    def __init__(self, store: Store, **options: Any) -> None:
        sweep = toy_sweep(pairs=[])
        self.store = store
        self.plan: Plan = make_plan(sweep, store)
        self.events = Events(store, RUN)
        about: dict[str, Any] = {"room": Room([NodeOffer("n", "host", {"CPU": 2.0})]), **options}
        self.search = DagSearch(self.plan, store, self.events, run={}, decisions=Decisions(sweep, store), **about)
        self.number = 0
        self.ran: list[str] = []

    def next(self) -> tuple[str, Bundle] | None:
        """The next bundle with its trial; None if there is none now, or no more."""
        self.number += 1
        answer = self.search.suggest(f"trial-{self.number}")
        if not isinstance(answer, Mapping):
            return None
        return f"trial-{self.number}", answer["bundle"]

    def first(self, wanted: Callable[[Node], bool]) -> tuple[str, Bundle, Node]:
        """Work until a task of this kind is handed out; the others of its bundle are carried out."""
        while (handed := self.next()) is not None:
            trial, bundle = handed
            chosen = [k for k in bundle.keys if wanted(self.plan.nodes[k])]
            if not chosen:
                self.carry_out(trial, bundle)
                continue
            rest = [k for k in bundle.keys if k != chosen[0]]
            self.report(trial, [self.commit(k) for k in rest], chosen[0])
            return trial, bundle, self.plan.nodes[chosen[0]]
        raise AssertionError("no such task was handed out")

    def commit(self, key: str) -> Outcome:
        node = self.plan.nodes[key]
        folder = self.store.workspace()
        (folder / "data.txt").write_text(node.label)
        self.store.commit(node.name, key, folder, {**node.spec(), "status": "done", "results": {"val_accuracy": 1.0}})
        self.ran.append(key)
        return Outcome(key, "done", 0.1, {"val_accuracy": 1.0})

    def carry_out(self, trial: str, bundle: Bundle) -> None:
        self.end(trial, [self.commit(k) for k in bundle.keys])

    def report(self, trial: str, outcomes: list[Outcome], now: str | None, steps: int = 0) -> None:
        told = {"outcomes": outcomes, "now": now, "steps": steps, "node": "n", "done": False}
        self.search.on_trial_result(trial, told)

    def end(self, trial: str, outcomes: list[Outcome]) -> None:
        self.search.on_trial_complete(trial, {"outcomes": outcomes, "now": None, "node": "n", "done": True})

    def die(self, trial: str, error: BaseException | None = None) -> None:
        self.search.on_worker_death(trial, error)
        self.search.on_trial_complete(trial, error=True)

    def finish(self) -> None:
        while (handed := self.next()) is not None:
            self.carry_out(*handed)
        assert self.search.suggest("end") == Searcher.FINISHED

    def told(self, event: str) -> list[dict[str, Any]]:
        self.events.flush()
        return [e for e in read_events(self.store, RUN) if e["event"] == event]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def is_a(cls: type) -> Callable[[Node], bool]:
    return lambda node: isinstance(node.task, cls)


def has(key: str) -> Callable[[Node], bool]:
    return lambda node: node.key == key


def test_a_task_whose_process_dies_each_time_fails_and_takes_nobody_along(store: Store) -> None:
    driver = Driver(store, nodes=lambda: [NodeOffer("n", "host", {"CPU": 2.0})])
    trial, _, victim = driver.first(is_a(Curvature))
    attempts = 1
    driver.die(trial)
    while driver.search.graph.state(victim.key) is not State.FAILED:
        trial, bundle, _ = driver.first(has(victim.key))
        assert bundle.keys == (victim.key,)  # alone
        driver.die(trial)
        attempts += 1
    assert attempts == 3
    driver.finish()
    states = {k: v.state for k, v in driver.search.graph.vertices.items()}
    assert [k for k, s in states.items() if s is not State.DONE] == [victim.key]
    assert f"({attempts} attempts)" in driver.search.errors[victim.key]
    assert len(driver.ran) == len(set(driver.ran)) == len(states) - 1


def test_a_task_that_comes_further_each_time_is_not_blamed(store: Store) -> None:
    driver = Driver(store, nodes=lambda: [NodeOffer("n", "host", {"CPU": 2.0})])
    node = None
    for reports in range(1, 8):
        trial, _, node = driver.first(has(node.key) if node else is_a(Fit))
        driver.report(trial, [], node.key, steps=reports)
        driver.die(trial)
    assert driver.search.graph.state(node.key) is State.READY
    driver.finish()


def test_a_machine_that_goes_is_nobodys_fault(store: Store) -> None:
    driver = Driver(store, nodes=lambda: [])  # whatever node it was on, it is gone
    node = None
    for _ in range(10):
        trial, _, node = driver.first(has(node.key) if node else is_a(Fit))
        driver.report(trial, [], node.key)
        driver.die(trial)
    assert not any(e["blamed"] for e in driver.told("lost"))
    driver.finish()


def test_out_of_memory_gets_larger_slots_up_to_a_whole_node(store: Store) -> None:
    driver = Driver(store, room=Room([NodeOffer("a", "host", {"CPU": 3.0, "memory": 4e9})]))
    slots: list[dict[str, float]] = []
    node = None
    while True:
        trial, bundle, node = driver.first(has(node.key) if node else is_a(Fit))
        slots.append(dict(bundle.slot))
        rest = [driver.commit(k) for k in bundle.keys if k != node.key and k not in driver.ran]
        driver.end(trial, [*rest, Outcome(node.key, "memory", 1.0, error="MemoryError: too much")])
        if driver.search.graph.state(node.key) is State.FAILED:
            break
    assert slots == [{"cpu": 1.0}, {"cpu": 2.0}, {"cpu": 3.0}]
    assert "largest slot" in driver.search.errors[node.key]
    driver.finish()
    skipped = [v for v in driver.search.graph.vertices.values() if v.state is State.SKIPPED]
    assert skipped and all(v.because == node.key for v in skipped)
    assert driver.told("failed")[0]["blocked"] == len(skipped)


def test_a_larger_slot_is_whole_above_one_and_fits_on_one_node() -> None:
    nodes = [NodeOffer("a", "one", {"CPU": 8.0, "GPU": 2.0}), NodeOffer("b", "two", {"CPU": 64.0})]
    room = Room(nodes)

    def larger(**slot: float) -> dict[str, Any] | None:
        shape = room.larger(shape_of(slot))
        return None if shape is None else slot_of(shape)

    assert larger(cpu=1.0, gpu=0.25) == {"cpu": 2.0, "gpu": 0.5}
    assert larger(cpu=4.0, gpu=0.75) == {"cpu": 8.0, "gpu": 1.0}
    assert larger(cpu=8.0, gpu=2.0) is None
    assert larger(cpu=8.0) == {"cpu": 16.0}


def test_a_damaged_input_is_set_aside_and_made_again(store: Store) -> None:
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Curvature))
    training = node.inputs[0]
    fit = driver.plan.nodes[training]
    (store.fetch(fit.name, training) / "data.txt").write_text("damaged")
    damage = Outcome(node.key, "damaged", 0.0, error="the weights differ", culprit=training)
    driver.end(trial, [damage])
    assert not store.exists(fit.name, training)
    assert len(store.names(f"damaged/{fit.name}")) == 1
    driver.finish()
    assert driver.ran.count(training) == 2
    assert all(driver.ran.count(k) == 1 for k in driver.plan.nodes if k != training)
    assert driver.told("damaged")[0]["key"] == training


def test_an_artifact_that_is_damaged_each_time_fails(store: Store) -> None:
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Curvature))
    training = node.inputs[0]
    while driver.search.graph.state(training) is not State.FAILED:
        (store.fetch("Fit", training) / "data.txt").write_text("damaged")
        driver.end(trial, [Outcome(node.key, "damaged", 0.0, error="the weights differ", culprit=training)])
        if driver.search.graph.state(training) is not State.FAILED:
            trial, _, node = driver.first(lambda n: n.kind == "probe" and n.inputs[0] == training)
    driver.finish()
    assert driver.ran.count(training) == 3
    assert driver.search.graph.state(node.key) is State.SKIPPED


def test_what_another_run_has_committed_meanwhile_is_taken_over(store: Store) -> None:
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Fit))
    driver.end(trial, [Outcome(node.key, "stored", 0.0, {"val_accuracy": 1.0})])
    assert driver.search.graph.state(node.key) is State.STORED
    driver.finish()
    assert node.key not in driver.ran


def test_a_task_that_another_run_is_at_work_on_is_left_to_it(store: Store) -> None:
    with Live(store, RUN) as mine, Live(store, "runs/other/r") as other:
        driver = Driver(store, live=mine)
        fits = [n for n in driver.plan.nodes.values() if isinstance(n.task, Fit)]
        other.claim([fits[0].key, fits[1].key])
        handed = []
        while (given := driver.next()) is not None:
            handed += given[1].keys
            driver.carry_out(*given)
        away = set(driver.search.graph.in_state(State.ELSEWHERE))
        assert away == {fits[0].key, fits[1].key}
        assert not away & set(handed)
        assert not driver.search.graph.finished
        driver.commit(fits[0].key)  # by the other
        other.release([fits[0].key, fits[1].key])  # and the second it gives up
        other._beat()
        mine._read = driver.search._looked = float("-inf")
        driver.finish()
    assert driver.search.graph.state(fits[0].key) is State.STORED
    assert driver.search.graph.state(fits[1].key) is State.DONE
    assert len(driver.ran) == len(set(driver.ran))


@pytest.mark.parametrize("how", ["store", "asked"])
def test_a_halted_run_begins_nothing_more_and_blames_nobody(store: Store, how: str) -> None:
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Fit))
    other = driver.next()
    assert other is not None
    if how == "store":
        driver.end(trial, [Outcome(node.key, "halted", 1.0, error="The store does not answer.")])
        assert driver.search.halted == "The store does not answer."
    else:
        driver.search.halt("Interrupted.")
        driver.end(trial, [])  # as `Shield` ends it
    assert driver.search.suggest("x") is None  # one bundle is still out
    driver.end(other[0], [])
    assert driver.search.suggest("y") == Searcher.FINISHED
    states = {v.state for v in driver.search.graph.vertices.values()}
    assert states <= {State.DONE, State.READY, State.WAITING}
    assert not driver.search.errors and not driver.told("stopped")
    again = Driver(store)
    again.finish()
    assert not set(again.ran) & set(driver.ran)


def test_a_run_whose_store_goes_with_the_last_report_ends(store: Store) -> None:
    """What the report says of a damaged input cannot be done; nothing is left out that the run would wait for."""
    store.check_writable()
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Curvature))
    assert store.local is not None
    store.local.rename(away := store.local.with_name("away"))
    driver.end(trial, [Outcome(node.key, "damaged", 1.0, error="no", culprit=node.inputs[0])])
    assert driver.search.halted is not None and "does not answer" in driver.search.halted
    assert driver.search.suggest("x") == Searcher.FINISHED
    away.rename(store.local)
    Driver(store).finish()


def test_failed_tasks_are_retried_though_something_stored_has_lost_its_inputs(store: Store) -> None:
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Curvature))
    driver.end(trial, [Outcome(node.key, "failed", 1.0, error="ValueError: no")])
    driver.finish()
    driver.events.flush()
    gone = next(n for n in driver.plan.nodes.values() if n.kind == "train" and n.key not in node.inputs)
    store.delete_artifact(gone.name, gone.key)
    plan = make_plan(toy_sweep(pairs=[]), store)
    only = only_failed(plan, store)
    again = Driver(store, only=only)
    again.finish()
    assert set(again.ran) == only and {node.key, gone.key} <= only


def test_fail_fast_ends_the_run_at_the_first_failure(store: Store) -> None:
    driver = Driver(store, fail_fast=True)
    trial, _, node = driver.first(is_a(Fit))
    driver.end(trial, [Outcome(node.key, "failed", 1.0, error="ValueError: no")])
    assert driver.search.suggest("x") == Searcher.FINISHED
    assert driver.search.halted is not None and node.label in driver.search.halted


def test_only_what_is_asked_for_runs(store: Store) -> None:
    plan = make_plan(toy_sweep(pairs=[]), store)
    fit = next(n for n in plan.nodes.values() if isinstance(n.task, Fit))
    only = {fit.key, *plan.ancestors(fit.key)}
    driver = Driver(store, only=only)
    driver.finish()
    assert set(driver.ran) == only


def test_weights_go_when_nothing_waits_for_them(store: Store) -> None:
    class WithWeights(Driver):
        def commit(self, key: str) -> Outcome:
            node = self.plan.nodes[key]
            folder = self.store.workspace()
            (folder / "weights.safetensors").write_bytes(b"w" * 100)
            (folder / "history.npz").write_bytes(b"h")
            done = {**node.spec(), "status": "done", "results": {"val_accuracy": 1.0}}
            self.store.commit(node.name, key, folder, done)
            self.ran.append(key)
            return Outcome(key, "done", 0.1, {"val_accuracy": 1.0})

    driver = WithWeights(store, keep_weights=False)
    trial, _, node = driver.first(is_a(Ensemble))
    for key in node.inputs:
        assert (store.fetch("Fit", key) / "weights.safetensors").exists()
    driver.end(trial, [driver.commit(node.key)])
    driver.finish()
    for node in driver.plan.nodes.values():
        left = {p.name for p in store.path(f"artifacts/{node.name}/{node.key}").iterdir() if p.suffix != ".json"}
        assert left == ({"history.npz"} if node.kind == "train" else {"history.npz", "weights.safetensors"})
    again = WithWeights(store)
    again.finish()
    assert again.ran == []


def test_late_reports_of_damage_that_was_made_good_do_not_count(store: Store) -> None:
    """Several workers find the same damage; some tell of it only after the artifact was made again."""
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Curvature))
    training = node.inputs[0]
    for _ in range(6):
        driver.end(trial, [Outcome(node.key, "damaged", 0.0, error="the weights differ", culprit=training)])
        assert driver.search.graph.state(training) in (State.DONE, State.STORED)
        trial, _, node = driver.first(has(node.key))
    driver.carry_out(trial, Bundle("", {}, (node.key,), b""))
    driver.finish()
    assert driver.ran.count(training) == 1
    assert not driver.search.errors


def test_a_damage_that_only_a_worker_sees_does_not_go_on_for_ever(store: Store) -> None:
    driver = Driver(store)
    trial, _, node = driver.first(is_a(Curvature))
    training = node.inputs[0]
    for _ in range(100):
        driver.end(trial, [Outcome(node.key, "damaged", 0.0, error="the weights differ", culprit=training)])
        if driver.search.graph.state(training) is State.FAILED:
            break
        trial, _, node = driver.first(lambda n: n.kind == "probe" and n.inputs[0] == training)
    assert driver.search.graph.state(training) is State.FAILED
    driver.finish()


STUCK = """\
import time
from dataclasses import dataclass

from orchestrator import Sweep
from tasks.task import Task


@dataclass(frozen=True)
class Fit(Task):
    greedy: bool = False
    streams = ("init",)

    def run(self, ctx):
        state = ctx.resume() or {"epoch": 0}
        for epoch in range(1000):
            if self.greedy and epoch == 2:
                raise MemoryError("too much")
            time.sleep(0.05)
            ctx.snapshot(lambda epoch=epoch: time.sleep(6) or {"epoch": epoch})
            yield {"epoch": epoch}
        return {"val_accuracy": 1.0}


sweep = Sweep(train=Fit(greedy={"grid_search": [True, False]}), seeds=[0])
"""


@pytest.mark.slow
def test_a_run_that_is_to_end_does_so_although_a_trial_waits_and_saves_what_takes_long(
    tmp_path, monkeypatch, capsys
) -> None:
    """One task waits for a slot that no node has; the other saves itself for six seconds: Tune would give it five."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(Room, "larger", lambda self, shape: shape_of({"cpu": 3.0}))
    offers = run.node_offers

    def more() -> list[NodeOffer]:
        return [NodeOffer(n.id, n.host, {**n.resources, "CPU": 4.0}) for n in offers()]  # which Ray does not have

    monkeypatch.setattr(run, "node_offers", more)
    monkeypatch.setattr(signals, "GRACE", 1000.0)  # nothing but the end itself ends it
    Path("study.py").write_text(STUCK)
    store = Store("artifacts")

    def stop_when_stuck() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            time.sleep(0.5)
            for name in store.names("runs/study"):
                if any(e["event"] == "enlarged" for e in read_events(store, f"runs/study/{name}")):
                    time.sleep(3)
                    os.kill(os.getpid(), signal.SIGINT)
                    return

    watcher = threading.Thread(target=stop_when_stuck, daemon=True)
    watcher.start()
    assert main(["sweep", "study.py"]) == 130
    watcher.join()
    assert "run the same command again" in capsys.readouterr().out
    assert len(store.snapshot_keys()) == 1
