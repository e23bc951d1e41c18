"""From a sweep to its tasks: which there are, what keeps its key, and why something must run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from builders import grid
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Brittle, Curvature, Ensemble, Fit, Line, Points

from orchestrator.graph import Graph, State
from orchestrator.plan import Plan, make_plan, why
from orchestrator.store import Store
from orchestrator.sweep import PairRule, Sweep, same_seed, same_setting, vary
from tasks.errors import InvalidValue
from tasks.task import Artifact, Context, GroupProbe, PairProbe, Probe, Task


def sweep(rhos: tuple[float, ...] = (0.0, 0.1), seeds: Any = range(3), **changes: Any) -> Sweep:
    fields: dict[str, Any] = {
        "train": Fit(rho=grid(*rhos)),
        "seeds": seeds,
        "probes": [Curvature(k=3), Brittle()],
        "pairs": [Line()],
        "groups": [Ensemble()],
        "pair_when": same_setting | same_seed,
    }
    return Sweep(**{**fields, **changes})


def plan(*args: Any, **changes: Any) -> Plan:
    return make_plan(sweep(*args, **changes), None)


def tasks(planned: Plan, *names: str) -> set[str]:
    return {n.key for n in planned.nodes.values() if not names or n.name in names}


def commit(planned: Plan, store: Store, *, but: tuple[str, ...] = ()) -> None:
    """Store every task without running it."""
    for node in planned.nodes.values():
        if node.name not in but:
            manifest = {**node.spec(), "status": "done", "results": {}, "seconds": 1.0}
            store.commit(node.name, node.key, store.workspace(), manifest)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


# Counts


@given(n=st.integers(1, 4), m=st.integers(1, 4))
@settings(max_examples=16, deadline=None)
def test_counts(n: int, m: int) -> None:
    """n settings × m seeds: one dataset; pairs within settings and across at equal seeds."""
    counts = plan(tuple(0.1 * i for i in range(n)), range(m)).by_task()
    trials = n * m
    pairs = n * m * (m - 1) // 2 + m * n * (n - 1) // 2
    expected = {"Points": 1, "Fit": trials, "Curvature": trials, "Brittle": trials, "Ensemble": n, "Line": pairs}
    assert {k: v["tasks"] for k, v in counts.items()} == {k: v for k, v in expected.items() if v}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (same_setting, 2 * 3),
        (same_seed, 3),
        (same_setting | same_seed, 9),
        (same_setting & same_seed, 0),
        (~same_setting, 9),
        (~same_setting & ~same_seed, 6),
        (PairRule(lambda a, b: True, "all"), 15),
    ],
)
def test_which_pairs(rule: PairRule, expected: int) -> None:
    assert len(tasks(plan(pair_when=rule), "Line")) == expected


@pytest.mark.parametrize(
    "rule",
    [
        same_setting,
        same_seed,
        same_setting | same_seed,
        same_setting & same_seed,
        same_seed & ~same_setting,
        ~same_setting & same_seed,
        ~same_seed | same_setting,
        PairRule(lambda a, b: a.replicate.label != b.replicate.label, "other") & same_setting,
    ],
)
def test_what_a_rule_is_not_asked_about_would_not_hold(rule: PairRule) -> None:
    fields = {"rhos": (0.0, 0.1, 0.2), "seeds": range(3)}
    assert tasks(plan(**fields, pair_when=rule)) == tasks(plan(**fields, pair_when=PairRule(rule.holds, "any")))


def test_planning_is_linear_where_pairs_share_their_setting() -> None:
    asked = 0

    def count(a: Any, b: Any) -> bool:
        nonlocal asked
        asked += 1
        return True

    counted = PairRule(count, "counted")
    plan(tuple(0.01 * i for i in range(30)), pair_when=same_setting & counted)
    assert asked == 30 * 3


def test_inputs_stand_before_what_needs_them_and_in_order() -> None:
    planned = plan()
    seen: set[str] = set()
    for node in planned.nodes.values():
        assert set(node.inputs) <= seen
        seen.add(node.key)
    for node in planned.nodes.values():
        kinds = [planned.nodes[i].kind for i in node.inputs]
        expected = {"data": [], "train": ["data"], "probe": ["train"], "pair": ["train"] * 2, "group": ["train"] * 3}
        assert kinds == expected[node.kind]
    for node in planned.nodes.values():
        if node.kind == "group":
            assert [planned.nodes[i].seeds["init"] for i in node.inputs] == [0, 1, 2]


def test_everything_is_planned_once() -> None:
    planned = plan((0.0, 0.1, 0.1), probes=[Curvature(k=3), Curvature(k=3)])
    assert len(tasks(planned, "Curvature")) == 6


def test_labels() -> None:
    by_kind = {n.kind: n.label for n in plan((0.1,), range(2)).nodes.values()}
    assert by_kind["data"] == "Points"
    assert by_kind["train"] == "Fit · rho=0.1 · seed 1"
    assert by_kind["pair"] == "Line · rho=0.1 · seed 0 × rho=0.1 · seed 1"
    assert by_kind["group"] == "Ensemble · rho=0.1 · 2 seeds"


def test_streams_have_their_own_seeds() -> None:
    planned = plan((0.1,), vary("init", range(3), others=5))
    seeds = [dict(n.seeds) for n in planned.nodes.values() if n.kind == "train"]
    assert seeds == [{"init": i, "order": 5} for i in range(3)]


@dataclass(frozen=True)
class Derived(Probe):
    """A probe on another probe's artifact."""

    curvature: Curvature = Curvature(k=2)

    def run(self, ctx: Context, curvature: Artifact, trained: Artifact) -> Any:
        return {}


def test_a_probe_in_a_probes_field_is_planned_on_the_same_trial() -> None:
    planned = plan((0.1,), range(2), probes=[Derived()])
    for node in planned.nodes.values():
        if node.name == "Derived":
            first, trained = (planned.nodes[i] for i in node.inputs)
            assert (first.name, first.task, trained.name) == ("Curvature", Curvature(k=2), "Fit")
            assert first.inputs == (trained.key,)


def test_ancestors_reach_the_dataset() -> None:
    planned = plan()
    for node in planned.nodes.values():
        if node.kind in ("probe", "pair", "group"):
            assert {planned.nodes[k].name for k in planned.ancestors(node.key)} >= {"Fit", "Points"}


# What keeps its key


def test_more_seeds_or_settings_keep_all_keys() -> None:
    base = plan()
    more = plan((0.0, 0.1), range(5))
    assert tasks(base) - tasks(base, "Ensemble") <= tasks(more)
    assert not tasks(base, "Ensemble") & tasks(more, "Ensemble")  # an ensemble of five is another one
    assert tasks(base) <= tasks(plan((0.0, 0.1, 0.2)))
    assert len(tasks(plan((0.0, 0.1), range(5)), "Fit") - tasks(base)) == 4


def test_the_order_of_declaration_does_not_count() -> None:
    turned = plan(probes=[Brittle(), Curvature(k=3)])
    assert tasks(turned) == tasks(plan())
    other = plan((0.1, 0.0))
    assert tasks(other, "Fit", "Curvature", "Ensemble") == tasks(plan(), "Fit", "Curvature", "Ensemble")


def test_settings_may_change_place_without_new_pairs() -> None:
    within = {"pair_when": same_setting}
    assert tasks(plan((0.1, 0.0), **within)) == tasks(plan((0.0, 0.1), **within))


def test_another_k_changes_that_probe_only() -> None:
    base, other = plan(), plan(probes=[Curvature(k=5), Brittle()])
    assert tasks(base) - tasks(other) == tasks(base, "Curvature")
    assert tasks(other) - tasks(base) == tasks(other, "Curvature")


def test_another_epoch_or_dataset_changes_all_that_depends_on_it() -> None:
    base = plan()
    epochs = plan(train=Fit(rho=grid(0.0, 0.1), epochs=7))
    assert tasks(base) & tasks(epochs) == tasks(base, "Points")
    data = plan(train=Fit(rho=grid(0.0, 0.1), dataset=Points(n=9)))
    assert not tasks(base) & tasks(data)


def test_slots_metric_and_retries_are_not_in_the_key() -> None:
    changed = plan(slot={"cpu": 2}, slots={Line: {"cpu": 1, "gpu": 1}}, metric="train_loss", mode="min")
    assert tasks(changed) == tasks(plan())


# What must run, and why


def test_what_is_stored_need_not_run(store: Store) -> None:
    commit(plan(), store, but=("Line",))
    planned = make_plan(sweep(), store)
    assert planned.stored == tasks(planned) - tasks(planned, "Line")
    assert planned.by_task()["Line"] == {"tasks": 9, "stored": 0, "to_run": 9}
    graph = Graph()
    planned.add_to(graph, planned.nodes.values(), store)
    assert graph.counts[State.STORED] == len(planned.stored)
    assert graph.counts[State.READY] == 9


def reasons(store: Store, declared: Sweep) -> dict[str, set[str]]:
    """The reasons by class name."""
    planned = make_plan(declared, store)
    found: dict[str, set[str]] = {}
    for key, reason in why(planned, store).items():
        found.setdefault(planned.nodes[key].name, set()).add(reason)
    assert set(why(planned, store)) == tasks(planned) - planned.stored
    return found


def test_why_nothing_is_stored(store: Store) -> None:
    found = reasons(store, sweep())
    assert found["Points"] == {"no Points is stored yet"}
    assert found["Fit"] == {"no Fit is stored yet"}


def test_why_a_field(store: Store) -> None:
    commit(plan(), store)
    assert reasons(store, sweep(probes=[Curvature(k=5), Brittle()])) == {"Curvature": {"k: 3 → 5"}}


def test_why_a_seed(store: Store) -> None:
    commit(plan(), store)
    found = reasons(store, sweep(seeds=range(4)))
    assert found["Fit"] == {"new seed 3"}
    assert found["Curvature"] == {"Fit: new seed 3"}
    assert found["Line"] == {"Fit: new seed 3"}


def test_why_a_setting(store: Store) -> None:
    commit(plan(), store)
    found = reasons(store, sweep((0.0, 0.1, 0.5)))
    assert found["Fit"] <= {"rho: 0.0 → 0.5", "rho: 0.1 → 0.5"}  # both are as near, and which is found first is chance


def test_why_what_was_not_reached(store: Store) -> None:
    """A run that ended early: the trainings are there, and some of the probes."""
    planned = plan()
    left = min(tasks(planned, "Curvature"))
    for node in planned.nodes.values():
        if node.key != left:
            store.commit(node.name, node.key, store.workspace(), {**node.spec(), "status": "done", "results": {}})
    assert reasons(store, sweep()) == {"Curvature": {"not stored yet for these inputs"}}


def test_why_deleted(store: Store) -> None:
    commit(plan(), store, but=("Brittle",))
    assert reasons(store, sweep()) == {"Brittle": {"no Brittle is stored yet"}}


def test_why_code(store: Store) -> None:
    base = plan()
    for key, node in base.nodes.items():
        if node.name == "Curvature":
            base.nodes[key] = replace(node, key="0" * 24 + key[:8], code={**node.code, "toys": "another"})
    commit(base, store)
    assert reasons(store, sweep()) == {"Curvature": {"code of toys.py changed"}}


# Bad input


def test_a_metric_that_the_training_does_not_have() -> None:
    with pytest.raises(InvalidValue, match=r"Fit has no result named 'val_acuracy'.*did you mean 'val_accuracy'"):
        plan(metric="val_acuracy")


@dataclass(frozen=True)
class Greedy(Probe):
    def run(self, ctx: Context, trained: Artifact, another: Artifact) -> Any:
        return {}


@dataclass(frozen=True)
class Lonely(PairProbe):
    def run(self, ctx: Context, a: Artifact) -> Any:
        return {}


@dataclass(frozen=True)
class Forgetful(Task):
    dataset: Points = Points()

    def run(self, ctx: Context) -> Any:
        return {}


@dataclass(frozen=True)
class Couple(GroupProbe):
    def run(self, ctx: Context, a: Artifact, b: Artifact) -> Any:
        return {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probes": [Greedy()]}, r"Greedy.run must take 1 inputs? after the context: run\(self, ctx, trained\)"),
        ({"pairs": [Lonely()]}, r"Lonely.run must take 2 inputs after the context: run\(self, ctx, a, b\)"),
        ({"groups": [Couple()]}, r"Couple.run must take 3 inputs after the context: run\(self, ctx, \*trained\)"),
        (
            {"train": Forgetful(), "seeds": [0]},
            r"Forgetful.run must take 1 inputs? after the context: run\(self, ctx, dataset\)",
        ),
    ],
)
def test_a_run_that_does_not_take_its_inputs(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        plan(**changes)


def test_an_impossible_setting_is_found_when_planning() -> None:
    with pytest.raises(InvalidValue, match="rho must be at least 0, not -1"):
        plan((0.1, -1.0))


def test_settings_of_an_earlier_search_are_planned_again() -> None:
    declared = replace(sweep(), search=object())
    planned = make_plan(declared, None, [{"train.rho": 0.1}, {"train.rho": 0.3}])
    assert [s.config for s in planned.settings] == [{"train.rho": 0.1}, {"train.rho": 0.3}]
    assert len(tasks(planned, "Fit")) == 6
