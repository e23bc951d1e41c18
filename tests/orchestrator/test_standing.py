"""Where a run stands, told from its events: the same as the graph's own counts, live and from the store."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import grid, toy_sweep
from driven import Driver
from hypothesis import given, settings
from hypothesis import strategies as st
from s3 import S3Server
from toys import Fit

from orchestrator.events import Events, Follower, read_events
from orchestrator.graph import Graph, State
from orchestrator.journal import GROUP, Journal, Tail
from orchestrator.plan import Node, make_plan
from orchestrator.standing import FORGET, Standing, Tally
from orchestrator.standing_words import best_in_words, clock, duration, expected_end, summary
from orchestrator.stats import mean_interval
from orchestrator.store import Store
from orchestrator.telling import Teller
from orchestrator.watching import Watched

RUN = "runs/toy/r"
T0 = 1_700_000_000.0


def counts_of(graph: Graph) -> dict[str, dict[str, int]]:
    """What the graph knows, in the words of a tally."""
    shown = (State.STORED, State.DONE, State.RUNNING, State.ELSEWHERE, State.FAILED, State.SKIPPED)
    return {
        kind: {"tasks": sum(states.values()), **{state.value: states[state] for state in shown}}
        for kind, states in graph.by_kind.items()
    }


def told(standing: Standing) -> dict[str, dict[str, int | None]]:
    return {kind: vars(tally) for kind, tally in standing.tallies.items()}


def fed(events: list[dict[str, Any]]) -> Standing:
    standing = Standing()
    for event in events:
        standing.feed(event)
    return standing


class Machine:
    """A graph that is driven at random and tells of it, as DagSearch does."""

    def __init__(self, store: Store, draw: Callable[[int], int]) -> None:
        self.draw = draw
        self.plan = make_plan(toy_sweep(seeds=range(2), train=Fit(rho=grid(0.0, 0.1))), None)
        self.graph = Graph()
        self.heard: list[dict[str, Any]] = []
        self.events = Events(store, RUN)
        self.events.listeners.append(self.heard.append)
        self.teller = Teller(self.events, self.plan, self.graph, lambda: 3)
        manifests = {}
        for node in self.plan.nodes.values():
            stored = draw(4) == 0 and all(self.graph.state(k) is State.STORED for k in node.inputs)
            barren = stored and node.kind == "train" and draw(3) == 0
            inputs = self.plan.ancestors(node.key)
            self.graph.add(node.key, inputs, kind=node.name, stored=stored, barren=barren)
            if self.graph.state(node.key) is State.STORED:
                results = {"val_accuracy": draw(100) / 100}
                manifests[node.key] = {"status": "diverged" if barren else "done", "results": results}
        self.teller.stored(manifests)
        self.teller.start(["sweep"])
        self.bundles = 0

    def step(self) -> bool:
        """Something happens; False if nothing can any more."""
        graph, teller = self.graph, self.teller
        running, elsewhere = graph.in_state(State.RUNNING), graph.in_state(State.ELSEWHERE)
        made = [*graph.in_state(State.DONE), *graph.in_state(State.STORED)]
        what = self.draw(16)
        if what < 5 and (keys := graph.take(slots=2)):
            self.bundles += 1
            for key in keys:
                teller.of(key, "submitted", bundle=f"b{self.bundles}")
        elif elsewhere and what == 5:
            key = elsewhere[self.draw(len(elsewhere))]
            if self.draw(2):
                graph.released(key)
                teller.of(key, "released")
            else:
                barren = self.draw(3) == 0
                graph.found(key, barren=barren)
                teller.of(key, "found", {"val_accuracy": 0.5}, status="diverged" if barren else "done")
        elif made and what == 6:
            key = made[self.draw(len(made))]
            again = graph.withdrawn(key)
            teller.of(key, "damaged", why="content differs", again=again)
            if graph.state(key) is State.FAILED:
                teller.of(key, "failed", error="damaged each time", blocked=graph.vertices[key].blocked)
        elif running:
            self._ends(running[self.draw(len(running))], what)
        return not graph.finished

    def _ends(self, key: str, what: int) -> None:
        graph, teller = self.graph, self.teller
        if what == 7:
            graph.failed(key)
            teller.of(key, "failed", error="ValueError: no", blocked=graph.vertices[key].blocked)
        elif what == 8 and self.plan.nodes[key].kind == "train":
            graph.stopped(key)
            teller.of(key, "stopped", iteration=3)
        elif what == 9:
            again = graph.lost(key)
            teller.of(key, "lost", again=again, why="its worker died", blamed=True)
            if not again:
                teller.of(key, "failed", error="lost", blocked=graph.vertices[key].blocked)
        elif what == 10:
            graph.too_small(key, None)
            teller.of(key, "enlarged", slot={"cpu": 2}, why="MemoryError")
        elif what == 11:
            graph.returned(key)
            teller.of(key, "returned")
        elif what == 12:
            graph.elsewhere(key)
            teller.of(key, "elsewhere")
        else:
            barren = what == 13 and self.plan.nodes[key].kind == "train"
            graph.committed(key, 1.0, barren=barren)
            about = {"status": "diverged" if barren else "done", "seconds": 1.0, "worker": "host:1"}
            teller.of(key, "committed", {"val_accuracy": self.draw(100) / 100}, **about)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_counts_are_the_graphs_after_any_order_of_events_live_and_from_the_store(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random
) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    machine = Machine(store, lambda n: chance.randrange(n))
    follower, live, read = Follower(store, RUN), Standing(), Standing()
    seen = 0
    for step in range(80):
        going_on = machine.step()
        for event in machine.heard[seen:]:
            live.feed(event)
        seen = len(machine.heard)
        assert told(live) == counts_of(machine.graph)
        if chance.randrange(8) == 0 or step == 79 or not going_on:
            for event in follower.new():
                read.feed(event)
            assert state(read) == state(live)
        if not going_on:
            break
    assert live.total == Tally(**{n: sum(t[n] or 0 for t in told(live).values()) for n in vars(Tally())})
    assert state(fed(list(read_events(store, RUN)))) == state(live)


def state(standing: Standing) -> Any:
    """All that a screen is made from, with times as they were recorded."""
    now = standing.last + 10.0
    told = (standing.workers(), standing.best(), standing.failures, standing.losses, standing.counts, standing.total)
    return (*told, standing.remaining(now), summary(standing, now), standing.slots, standing.stored_before)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_search_driven_by_hand_tells_all(tmp_path: Path, adaptive: bool) -> None:
    """DagSearch itself, with failures, divergence and a dead worker, and with a search that proposes settings."""
    changes: dict[str, Any] = {"groups": [], "pairs": []}
    if adaptive:
        from ray import tune
        from ray.tune.search.optuna import OptunaSearch

        changes |= {"train": Fit(rho=tune.uniform(0.0, 1.0)), "search": OptunaSearch(seed=0), "samples": 4}
    ends = {("Fit", "1"): "diverged", ("Curvature", "2"): "failed"}

    def end(node: Node) -> str:
        return ends.get((node.name, node.trials[0].replicate.label), "done") if node.trials else "done"

    driver = Driver(toy_sweep(seeds=range(3), **changes), Store(str(tmp_path)), end=end)
    live = Standing()
    heard: list[dict[str, Any]] = []
    driver.search.teller._events.listeners += [live.feed, heard.append]
    driver.search.teller.start(["sweep"])
    assert told(live) == counts_of(driver.search.graph)
    for number in range(400):
        if driver.fill():
            break
        trial = next(iter(driver.trials.values()))
        if number == 5 and trial.bundle.keys:
            driver.kill_worker(trial)
        else:
            driver.advance()
        assert told(live) == counts_of(driver.search.graph)
    assert driver.search.graph.finished
    assert live.counts["lost"] >= 1
    assert {e["event"] for e in heard} >= {"results", "committed", "failed", *(["proposed"] if adaptive else [])}
    assert state(fed(list(read_events(driver.store, RUN)))) == state(live)
    if adaptive:
        assert (live.search, live.proposed, live.samples) == ("OptunaSearch", 4, 4)
    best = live.best()
    assert best is not None
    diverged = best.lost  # each setting has lost seed 1
    assert (best.interval.n, diverged) == (2, 1)


# Following a journal as it grows


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path))
    server: S3Server = request.getfixturevalue("s3")
    return Store(server.uri("following"))


def test_a_tail_reads_each_record_once_also_while_parts_are_merged(store: Store) -> None:
    journal, tail, late = Journal(store, "x.jsonl", seconds=3600), Tail(store, "x.jsonl"), Tail(store, "x.jsonl")
    assert tail.read() == []
    found: list[int] = []
    slow: list[int] = []
    for number in range(2 * GROUP + 5):
        journal.add({"n": number}, durable=True)
        if number % 3 == 0:
            found += [r["n"] for r in tail.read()]
        if number in (7, GROUP + 3):
            slow += [r["n"] for r in late.read()]
    assert slow == list(range(GROUP + 4))
    journal.add({"n": 2 * GROUP + 5})
    journal.close(merge=True)
    for numbers, reader in ((found, tail), (slow, late)):
        numbers += [r["n"] for r in reader.read()]
        assert numbers == list(range(2 * GROUP + 6))
        assert reader.read() == []


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tail = Tail(store, "x.jsonl")
    store.append("x.jsonl", b'{"n": 0}\n{"n"')
    assert tail.read() == [{"n": 0}]
    store.append("x.jsonl", b": 1}\nrubbish\n[]\n")
    assert tail.read() == [{"n": 1}]
    (tmp_path / "y.jsonl").symlink_to(tmp_path / "x.jsonl")
    assert Tail(store, "y.jsonl").read() == []


def test_what_workers_are_at_comes_with_the_sign_of_life(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    events = Events(store, RUN)
    events.emit("run_started", tasks=2, stored=0, slots=1, kinds={"Fit": {"tasks": 2, "stored": 0, "skipped": 0}})
    events.emit("submitted", key="k", label="Fit · seed 0", bundle="b")
    at_work = [{"time": 1.0, "bundle": "b", "worker": "gpu-1:7", "key": "k", "doing": "epoch 3 of 12"}]
    record = {"time": time.time(), "host": "elsewhere", "boot": "", "pid": 1, "run": RUN, "beat": 1, "running": {}}
    rubbish: list[Any] = [None, {"time": "x", "key": "k"}, {"key": 3}, {"time": 1.0, "key": "k", "bundle": ["b"]}]
    watched = Watched(store, RUN)
    for told, doing in ((at_work, "epoch 3 of 12"), (rubbish, "epoch 3 of 12"), ("no list", "epoch 3 of 12")):
        store.write(f"live/{RUN.replace('/', '.')}.json", json.dumps({**record, "at_work": told}).encode())
        watched.feed(watched.look())
        (worker,) = watched.standing.workers()
        assert (worker.worker, worker.doing, worker.label) == ("gpu-1:7", doing, "Fit · seed 0")
    assert watched.state(time.time())[1]


# What is told of it


def started(**about: Any) -> dict[str, Any]:
    about = {"tasks": 0, "stored": 0, "slots": 2, "metric": "acc", "mode": "max", "seeds": 5, **about}
    return {"time": T0, "event": "run_started", **about}


def kinds(**tasks: int) -> dict[str, Any]:
    return {kind: {"tasks": n, "stored": 0, "skipped": 0} for kind, n in tasks.items()}


def commit(key: str, when: float, seconds: float = 1.0, worker: str = "w", label: str = "Fit", **about: Any) -> Any:
    about = {"key": key, "label": label, "seconds": seconds, "worker": worker, "status": "done", **about}
    return {"time": T0 + when, "event": "committed", **about}


def submit(key: str, when: float, bundle: str = "", label: str = "Fit") -> dict[str, Any]:
    return {"time": T0 + when, "event": "submitted", "key": key, "label": label, "bundle": bundle or key}


def test_the_end_is_not_foretold_before_something_is_known_of_every_kind() -> None:
    standing = fed([started(kinds=kinds(Fit=10, Look=10), expected={"Fit": 30.0})])
    assert standing.remaining(T0) is None
    assert expected_end(standing, T0) == "end not known before the first Look is done"
    standing.feed(submit("a", 0, label="Look"))
    standing.feed(commit("a", 4, 4.0, label="Look"))
    assert standing.remaining(T0 + 4) == pytest.approx((10 * 30 + 9 * 4) / 2)
    assert standing.remaining(T0 + 4 + 1e9) == pytest.approx((10 * 30 + 9 * 4) / 2)  # nothing is at work: no credit


def test_what_is_at_work_counts_for_as_long_as_it_has_been() -> None:
    standing = fed([started(kinds=kinds(Fit=2), expected={"Fit": 100.0}), submit("a", 0), submit("b", 0)])
    assert standing.remaining(T0) == pytest.approx(100.0)
    assert standing.remaining(T0 + 60) == pytest.approx(40.0)
    standing.feed(commit("a", 60, 60.0))
    # One that takes twice what was expected is expected to be done any moment.
    assert standing.remaining(T0 + 500) == pytest.approx(0.0)


def test_time_between_tasks_counts_but_not_the_start_of_a_worker() -> None:
    standing = fed([started(kinds=kinds(Fit=100), slots=1), submit("a", 0)])
    standing.feed(commit("a", 20, 2.0))  # of the 20 s 18 went into starting a process
    assert standing.expected("Fit") == pytest.approx(2.0)
    when = 20.0
    for number in range(9):
        standing.feed(submit(str(number), when))
        when += 3.0
        standing.feed(commit(str(number), when, 2.0))
    assert standing.expected("Fit") == pytest.approx((2.0 + 9 * 3.0) / 10)
    for number in range(9, 9 + FORGET):  # it has become slower
        standing.feed(submit(str(number), when))
        when += 30.0
        standing.feed(commit(str(number), when, 29.0))
    assert standing.expected("Fit") == pytest.approx(30.0, rel=0.15)


def test_a_search_is_expected_to_go_on_as_it_began() -> None:
    about = {"search": "OptunaSearch", "samples": 10, "proposed": 0}
    standing = fed([started(kinds=kinds(Points=1), expected={"Points": 1.0, "Fit": 10.0}, **about)])
    assert expected_end(standing, T0) == "end not known yet"
    two = {"time": T0 + 1, "event": "proposed", "setting": 1, "config": {}, "proposed": 2, "kinds": kinds(Fit=6)}
    standing.feed(two)
    assert standing.total.tasks == 7
    assert standing.remaining(T0 + 1) == pytest.approx((1 * 5 + 30 * 10.0) / 2)  # ten settings of three seeds


def test_the_best_is_a_setting_that_lost_no_seed_and_has_two_if_there_is_one() -> None:
    standing = fed([started(kinds=kinds(Fit=20))])
    values = {"lucky": [0.99], "thinned": [0.98, 0.97, None], "good": [0.9, 0.92, 0.94], "poor": [0.5, 0.52]}
    for setting, seeds in values.items():
        for seed, value in enumerate(seeds):
            about = {"setting": setting, "seed": str(seed), "value": value}
            standing.feed(commit(f"{setting} {seed}", 1, status="done" if value else "diverged", **about))
    best = standing.best()
    assert best is not None
    assert (best.setting, best.lost, best.others) == ("good", 0, 3)
    assert best.interval == mean_interval([0.9, 0.92, 0.94])
    assert best_in_words(standing, best) == ("best so far (exploratory)", "acc 0.920 ± 0.050 (95 %), 3 of 5 seeds")
    damaged = {"time": T0, "event": "damaged", "key": "good 2", "label": "Fit", "setting": "good", "seed": "2"}
    standing.feed({**damaged, "why": "", "again": True})
    best = standing.best()
    assert best is not None
    assert best.interval.n == 2
    assert best_in_words(standing, best)[1].endswith("2 of 5 seeds: two tell little")
    failed = {"time": T0, "event": "failed", "key": "good 3", "label": "Fit", "setting": "good", "seed": "3"}
    standing.feed({**failed, "error": "no"})
    best = standing.best()
    assert best is not None
    assert best.setting == "poor"


def test_a_lower_value_is_better_where_the_sweep_says_so_and_one_seed_has_no_interval() -> None:
    standing = fed([started(kinds=kinds(Fit=4), mode="min")])
    for setting, value in (("a", 0.5), ("b", 0.25)):
        standing.feed({"time": T0, "event": "stored", "setting": setting, "values": {setting: value}})
    best = standing.best()
    assert best is not None
    words = ("best so far (exploratory)", "acc 0.2500, 1 of 5 seeds: no interval")
    assert (best.setting, best_in_words(standing, best)) == ("b", words)
    for seed in range(2):
        standing.feed({"time": T0, "event": "stored", "setting": "b", "values": {f"b{seed}": 0.25}})
    assert best_in_words(standing, standing.best() or best)[1] == "acc 0.2500, 3 of 5 seeds, all equal"


OLDER = [
    {"time": T0, "event": "run_started", "command": ["sweep"], "tasks": 5, "stored": 2, "slots": 2},
    {"time": T0, "event": "submitted", "key": "a", "label": "Fit · seed 0", "bundle": "1"},
    {"time": T0, "event": "submitted", "key": "b", "label": "Fit · seed 1", "bundle": "2"},
    {"time": T0 + 5, "event": "committed", "key": "a", "label": "Fit · seed 0", "seconds": 4.0, "worker": "w",
     "status": "done"},
    {"time": T0 + 6, "event": "failed", "key": "b", "label": "Fit · seed 1", "error": "no", "blocked": 1},
]  # fmt: skip


def test_a_record_of_an_older_version_tells_what_it_holds() -> None:
    standing = fed(OLDER)
    assert standing.total == Tally(5, stored=2, done=1, failed=1)
    assert standing.tallies == {"Fit": Tally(None, done=1, failed=1)}
    assert standing.best() is None
    assert standing.remaining(T0 + 6) is None
    assert "4/5 tasks, 1 failed" in summary(standing, T0 + 6)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = [
    "key", "label", "setting", "seed", "value", "values", "kinds", "skipped", "slots", "expected", "bundle", "seconds",
    "worker", "why", "error", "blocked", "proposed", "samples", "search", "doing", "metric", "seeds", "elsewhere",
]  # fmt: skip
EVENTS = [
    "run_started", "submitted", "committed", "failed", "lost", "damaged", "stored", "proposed", "slots", "found",
    "at_work", "stopped", "elsewhere", "run_finished", "halted", "store_away", "left_out", "unheard_of",
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.dictionaries(st.sampled_from(NAMES), anything)), max_size=8))
def test_no_event_of_whoever_can_write_to_the_store_stops_it(told: list[tuple[str, dict[str, Any]]]) -> None:
    from rich.console import Console

    from orchestrator.screen import screen

    standing = fed([started(kinds=kinds(Fit=2))])
    for number, (event, about) in enumerate(told):
        standing.feed({"key": "k", "label": "Fit", **about, "time": T0 + number, "event": event})
    console = Console(width=80, height=24, force_terminal=False)
    with console.capture() as shown:
        console.print(screen(standing, T0 + 100, 80, 23))
    assert len(shown.get().splitlines()) <= 23
    assert "\n" not in summary(standing, T0 + 100)
    assert "\x1b" not in shown.get() + summary(standing, T0 + 100)


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.2, "0 s", "1 s"), (41.0, "41 s", "41 s"), (94, "1 min 34 s", "1 min 30 s"), (754, "12 min 34 s", "13 min"),
        (3725, "1 h 02 min", "1 h 02 min"), (7300, "2 h 01 min", "2 h 00 min"), (98_000, "1 day 3 h", "1 day 3 h"),
        (400_000, "4 days 15 h", "4 days 15 h"), (-3, "0 s", "1 s"),
    ],
)  # fmt: skip
def test_durations_are_told_as_exactly_as_they_are_known(seconds: float, exact: str, rough: str) -> None:
    assert (duration(seconds), duration(seconds, rough=True)) == (exact, rough)


def test_a_time_of_another_day_says_so() -> None:
    noon = time.mktime((2026, 7, 1, 12, 0, 0, 0, 0, -1))
    assert [clock(noon + h * 3600, noon) for h in (1, 13, 200)] == ["13:00", "Thu 01:00", "2026-07-09 20:00"]
    assert clock(1e300, noon) == "?"
