"""The run as a state machine, against a model that recomputes everything naively."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.graph import Graph, State, summary

SECONDS = {"quick": 0.1, "medium": 0.45, "slow": 5.0}
"""Tasks of a kind always take equally long here, so what the graph learns is known."""


class GraphMachine(RuleBasedStateMachine):
    """Random graphs that grow while they run, under random events in random order."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph(bundle_seconds=1.0, max_losses=2, max_moves=3)
        self.inputs: dict[str, list[str]] = {}
        self.about: dict[str, tuple[str, str, bool]] = {}  # kind, shape, alone
        self.states: dict[str, State] = {}
        self.barren: set[str] = set()
        self.losses: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()
        self.withdrawals: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self.known: set[str] = set()  # kinds whose duration is known

    # The model

    def settle(self) -> None:
        """What is skipped, waiting or ready, from the definitions."""
        for key, inputs in self.inputs.items():  # inputs stand before what needs them
            if self.states[key] in (State.WAITING, State.READY, State.ELSEWHERE):
                if any(i in self.barren or self.states[i] in (State.FAILED, State.SKIPPED) for i in inputs):
                    self.states[key] = State.SKIPPED
                elif self.states[key] is not State.ELSEWHERE:
                    there = all(self.states[i] in (State.STORED, State.DONE) for i in inputs)
                    self.states[key] = State.READY if there else State.WAITING

    def ranks(self) -> dict[str, float]:
        """Longest remaining path of every task that is not final."""
        ranks: dict[str, float] = {}
        for key in reversed(self.inputs):
            if not self.states[key].final:
                after = [ranks[k] for k, inputs in self.inputs.items() if key in inputs and k in ranks]
                kind = self.about[key][0]
                ranks[key] = (SECONDS[kind] if kind in self.known else 1.0) + max(after, default=0.0)
        return ranks

    def ready(self, shape: str) -> list[str]:
        return [k for k, s in self.states.items() if s is State.READY and self.about[k][1] == shape]

    def running(self) -> list[str]:
        return [k for k, s in self.states.items() if s is State.RUNNING]

    # What can happen

    @rule(
        data=st.data(),
        kind=st.sampled_from(sorted(SECONDS)),
        shape=st.sampled_from(["small", "large"]),
        alone=st.booleans(),
        fate=st.sampled_from(["new"] * 6 + ["stored", "stored and diverged", "stopped"]),
    )
    def add(self, data: st.DataObject, kind: str, shape: str, alone: bool, fate: str) -> None:
        known = list(self.inputs)
        inputs = data.draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        key = f"t{len(known)}"
        self.graph.add(
            key, inputs, kind=kind, shape=shape, alone=alone,
            stored=fate.startswith("stored"), barren=fate.endswith("diverged"), stopped=fate == "stopped",
        )  # fmt: skip
        self.inputs[key] = inputs
        self.about[key] = (kind, shape, alone)
        self.states[key] = {"new": State.WAITING, "stopped": State.SKIPPED}.get(fate, State.STORED)
        if fate.endswith("diverged"):
            self.barren.add(key)
        self.settle()

    @rule(
        shape=st.sampled_from(["small", "large"]),
        slots=st.integers(1, 4),
        liked=st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5),
    )
    def take(self, shape: str, slots: int, liked: list[float] | None = None) -> None:
        ready, ranks = self.ready(shape), self.ranks()
        order = {key: i for i, key in enumerate(self.inputs)}
        urgent = sorted(ready, key=lambda k: (-ranks[k], order[k]))
        values = {key: 0.0 if liked is None else liked[order[key] % len(liked)] for key in order}
        bundle = self.graph.take(shape, slots=slots, prefer=None if liked is None else values.__getitem__)
        assert bool(bundle) == bool(ready)
        assert set(bundle) <= set(ready)
        assert len(bundle) == len(set(bundle)) <= -(-len(ready) // slots)
        if State.SKIPPED not in self.states.values():  # a skipped branch may still weigh on the ranks
            if liked is None or len(set(liked)) == 1:
                assert bundle == urgent[: len(bundle)]
            assert [ranks[k] for k in bundle] == [ranks[k] for k in urgent[: len(bundle)]]
            for i, key in enumerate(bundle):
                rivals = [k for k in urgent if k not in bundle[:i] and ranks[k] == ranks[key]]
                assert values[key] == max(values[k] for k in rivals)
        if len(bundle) > 1:
            assert all(self.about[k][0] in self.known for k in bundle)
            assert not any(self.about[k][2] or self.losses[k] for k in bundle)  # alone, or suspect
            assert sum(SECONDS[self.about[k][0]] for k in bundle) <= 1.0 + 1e-9
        for key in bundle:
            assert all(self.states[i] in (State.DONE, State.STORED) for i in self.inputs[key])
            assert not self.barren & set(self.inputs[key])
            self.states[key] = State.RUNNING
            self.starts[key] += 1

    @precondition(lambda self: self.running())
    @rule(data=st.data(), diverged=st.sampled_from([False, False, False, True]))
    def committed(self, data: st.DataObject, diverged: bool) -> None:
        self.commit(data.draw(st.sampled_from(self.running())), diverged)

    def commit(self, key: str, diverged: bool = False) -> None:
        kind = self.about[key][0]
        self.graph.committed(key, SECONDS[kind], barren=diverged)
        self.known.add(kind)
        self.states[key] = State.DONE
        if diverged:
            self.barren.add(key)
        self.settle()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.sampled_from(["failed", "stopped"]))
    def ended(self, data: st.DataObject, how: str) -> None:
        key = data.draw(st.sampled_from(self.running()))
        getattr(self.graph, how)(key)
        self.states[key] = State.FAILED if how == "failed" else State.SKIPPED
        self.settle()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), blame=st.booleans())
    def lost(self, data: st.DataObject, blame: bool) -> None:
        key = data.draw(st.sampled_from(self.running()))
        self.losses[key] += blame
        self.moves[key] += not blame
        again = self.graph.lost(key, blame=blame)
        assert again == (self.losses[key] < 2 and self.moves[key] < 3)
        self.back(key) if again else self.states.update({key: State.FAILED})
        self.settle()

    def back(self, key: str) -> None:
        """A task that was taken is to be taken again."""
        self.states[key] = State.WAITING
        self.starts[key] -= 1

    @precondition(lambda self: self.running())
    @rule(data=st.data(), shape=st.sampled_from(["small", "large"]))
    def too_small(self, data: st.DataObject, shape: str) -> None:
        key = data.draw(st.sampled_from(self.running()))
        self.graph.too_small(key, shape)
        self.about[key] = (self.about[key][0], shape, True)
        self.back(key)
        self.settle()

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def elsewhere(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.running()))
        self.graph.elsewhere(key)
        self.states[key] = State.ELSEWHERE
        self.settle()

    def away(self) -> list[str]:
        return [k for k, s in self.states.items() if s is State.ELSEWHERE]

    @precondition(lambda self: self.away())
    @rule(data=st.data())
    def released(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.away()))
        self.graph.released(key)
        self.back(key)
        self.settle()

    @precondition(lambda self: self.away() or self.running())
    @rule(data=st.data(), diverged=st.sampled_from([False, False, True]))
    def found(self, data: st.DataObject, diverged: bool) -> None:
        key = data.draw(st.sampled_from(self.away() + self.running()))
        self.graph.found(key, barren=diverged)
        self.states[key] = State.STORED
        if diverged:
            self.barren.add(key)
        self.settle()

    @precondition(lambda self: self.sound())
    @rule(data=st.data(), reporter=st.booleans())
    def withdrawn(self, data: st.DataObject, reporter: bool) -> None:
        """An artifact is damaged; perhaps a task that was to use it says so and waits again."""
        key = data.draw(st.sampled_from(self.sound()))
        self.withdrawals[key] += 1
        again = self.graph.withdrawn(key)
        if self.withdrawals[key] >= 2:
            assert not again
            self.states[key] = State.FAILED
        else:
            self.states[key] = State.WAITING
            self.starts[key] = 0
        self.settle()
        assert again == (self.states[key] in (State.WAITING, State.READY))
        users = [k for k in self.running() if key in self.inputs[k]]
        if users and reporter:
            self.graph.returned(users[0])
            self.back(users[0])
            self.settle()

    def sound(self) -> list[str]:
        return [k for k, s in self.states.items() if s in (State.STORED, State.DONE) and k not in self.barren]

    # What always holds

    @invariant()
    def states_agree(self) -> None:
        assert {k: self.graph.state(k) for k in self.inputs} == self.states

    @invariant()
    def counts_agree(self) -> None:
        assert +self.graph.counts == Counter(self.states.values())
        assert self.graph.finished == all(s.final for s in self.states.values())

    @invariant()
    def nothing_runs_twice_unless_lost_or_damaged(self) -> None:
        assert all(n <= 1 for n in self.starts.values())

    @invariant()
    def shapes_are_those_with_something_ready(self) -> None:
        shapes = self.graph.shapes()
        assert sorted(shapes) == [s for s in ("large", "small") if self.ready(s)]

    def teardown(self) -> None:
        """From wherever it stands, the run can be ended; what was skipped has its reason."""
        for _ in range(2 * len(self.inputs) + 1):
            for key in self.away():
                self.graph.found(key)
                self.states[key] = State.STORED
                self.settle()
            for key in self.running():
                self.commit(key)
            for shape in self.graph.shapes():
                self.take(shape, 1)
        assert self.graph.finished
        for key, state in self.states.items():
            if state is State.SKIPPED:
                because = self.graph.vertices[key].because
                assert because is not None
                assert because in self.barren or self.states[because] in (State.FAILED, State.SKIPPED)


GraphMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestGraphMachine = GraphMachine.TestCase


def chain(graph: Graph, *keys: str, kind: str = "k") -> None:
    for before, key in zip([None, *keys], keys, strict=False):
        graph.add(key, [before] if before else [], kind=kind)


def test_longest_remaining_path_first_then_declaration() -> None:
    graph = Graph()
    graph.add("lone", kind="k")
    chain(graph, "a1", "a2")
    chain(graph, "b1", "b2", "b3")
    chain(graph, "c1", "c2")
    assert [graph.take()[0] for _ in range(4)] == ["b1", "a1", "c1", "lone"]


def test_a_long_kind_outweighs_a_long_chain() -> None:
    graph = Graph()
    chain(graph, "s1", "s2", "s3", kind="short")
    graph.add("long", kind="long")
    graph.expect("short", 0.1)
    graph.expect("long", 60.0)
    assert graph.take() == ["long"]


def test_what_is_learned_changes_the_order() -> None:
    graph = Graph()
    graph.add("slow-0", kind="slow")
    chain(graph, "q0", "q1", "q2", kind="quick")
    graph.add("slow-1", kind="slow")
    assert graph.take() == ["q0"]
    assert graph.take() == ["slow-0"]
    graph.committed("slow-0", 30.0)
    graph.committed("q0", 0.01)
    assert graph.take() == ["slow-1"]


def test_a_kind_never_seen_runs_alone_then_bundles_fill_up_to_their_time() -> None:
    graph = Graph(bundle_seconds=1.0)
    for i in range(100):
        graph.add(f"t{i}", kind="k")
    first = graph.take()
    assert len(first) == 1
    graph.committed(first[0], 0.1)
    assert len(graph.take()) == 10


def test_a_bundle_leaves_their_share_to_the_other_slots() -> None:
    graph = Graph(bundle_seconds=100.0)
    graph.expect("k", 0.01)
    for i in range(10):
        graph.add(f"t{i}", kind="k")
    assert [len(graph.take(slots=4)) for _ in range(5)] == [3, 2, 2, 1, 1]


def test_a_lost_bundle_is_retried_task_by_task() -> None:
    graph = Graph(bundle_seconds=10.0)
    graph.expect("k", 0.1)
    for i in range(3):
        graph.add(f"t{i}", kind="k")
    bundle = graph.take()
    assert len(bundle) == 3
    graph.lost("t0", blame=True)
    graph.lost("t1", blame=False)
    graph.lost("t2", blame=False)
    bundles = []
    while bundle := graph.take():
        bundles.append(bundle)
    assert ["t0"] in bundles


def test_a_task_lost_too_often_has_failed_and_preemption_does_not_count() -> None:
    graph = Graph(max_losses=2)
    chain(graph, "a", "b")
    for _ in range(5):
        graph.take()
        assert graph.lost("a", blame=False)
    graph.take()
    assert graph.lost("a")
    graph.take()
    assert not graph.lost("a")
    assert (graph.state("a"), graph.state("b")) == (State.FAILED, State.SKIPPED)
    assert graph.vertices["b"].because == "a"


def test_what_is_added_below_a_failure_is_skipped_at_once() -> None:
    graph = Graph()
    chain(graph, "a", "b")
    graph.take()
    graph.failed("a")
    graph.add("c", ["b"], kind="k")
    assert graph.state("c") is State.SKIPPED
    assert graph.vertices["c"].because == "a"


def test_growth_below_a_finished_task_goes_on() -> None:
    graph = Graph()
    graph.add("a", kind="k")
    graph.committed(graph.take()[0], 1.0)
    assert graph.finished
    graph.add("b", ["a"], kind="k")
    assert not graph.finished
    assert graph.take() == ["b"]


def test_events_about_what_does_not_run_are_refused() -> None:
    graph = Graph()
    graph.add("a", kind="k")
    with pytest.raises(ValueError, match="ready, not running"):
        graph.committed("a", 1.0)
    graph.committed(graph.take()[0], 1.0)
    for event in (lambda: graph.committed("a", 1.0), lambda: graph.failed("a"), lambda: graph.lost("a")):
        with pytest.raises(ValueError, match="done, not running"):
            event()


def test_an_unknown_input_is_an_error_and_a_known_key_stays_as_it_is() -> None:
    graph = Graph()
    with pytest.raises(KeyError, match="nowhere"):
        graph.add("a", ["nowhere"], kind="k")
    graph.add("a", kind="k", stored=True)
    graph.add("a", kind="k")
    assert graph.state("a") is State.STORED
    assert len(graph.vertices) == 1


def test_the_last_line() -> None:
    counts = {State.DONE: 5, State.STORED: 4, State.FAILED: 2, State.SKIPPED: 1}
    assert summary(counts) == "12 tasks: 5 ran, 4 stored, 2 failed, 1 skipped"


class Counted(Graph):
    """Counts the elementary steps: heap entries and visits of ranks."""

    steps = 0

    def _push(self, vertex: object) -> None:
        self.steps += 1
        super()._push(vertex)  # type: ignore[arg-type]

    def _expected(self, kind: str) -> float:
        self.steps += 1
        return super()._expected(kind)


@given(fan=st.integers(2, 40), durations=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_the_work_per_task_does_not_grow(fan: int, durations: list[float]) -> None:
    assert steps_per_task(fan, 2000, durations) < 60


def test_a_hundred_thousand_tasks() -> None:
    assert steps_per_task(50, 100_000, [1.0, 0.3, 0.02]) < 60


def steps_per_task(fan: int, size: int, durations: list[float]) -> float:
    """Elementary steps per task of a run: data, trainings, `fan` probes of each, pairs of neighbours."""
    graph = Counted()
    graph.add("data", kind="data")
    last = None
    n = 1
    while n < size:
        train = f"train{n}"
        graph.add(train, ["data"], kind="train")
        for i in range(fan):
            graph.add(f"{train}/{i}", ["data", train], kind=f"probe{i % 3}")
        if last is not None:
            graph.add(f"{train}+{last}", ["data", train, last], kind="pair")
        last, n = train, n + fan + 2
    done = 0
    while not graph.finished:
        for key in graph.take(slots=16):
            graph.committed(key, durations[done % len(durations)])
            done += 1
    assert done == len(graph.vertices)
    return graph.steps / done


def test_a_task_that_was_too_small_for_its_slot_is_not_taken_for_that_slot_again() -> None:
    graph = Graph()
    graph.add("a", kind="fit", shape="small")
    assert graph.take("small") == ["a"]
    graph.too_small("a", "large")
    assert graph.take("small") == []
    assert graph.shapes() == ["large"]
    assert graph.take("large") == ["a"]
