"""What earlier runs tell of how long tasks take: which work is equal, what is scaled, what is reckoned as the nearest.

The manifests are real, their seconds come from a formula, so that what a whole study takes is known exactly.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import grid, toy_sweep
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Curvature, Downhill, Fit, Line, Points, Sideways

from orchestrator import durations
from orchestrator.__main__ import main
from orchestrator.decisions import Decisions
from orchestrator.durations import Durations, Estimate, Measurement, Work, known_durations, reckoned
from orchestrator.events import Events
from orchestrator.forecast import forecast, past_times
from orchestrator.keys import canonical
from orchestrator.pilot import pilot_of
from orchestrator.plan import Node, Plan, make_plan
from orchestrator.room import Room
from orchestrator.search import DagSearch
from orchestrator.slots import NodeKind, NodeOffer
from orchestrator.store import Store
from orchestrator.sweep import Sweep, same_setting
from tasks.task import Artifact, Context, Probe

Seconds = Callable[[Node], float]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def leave(
    sweep: Sweep,
    store: Store,
    seconds: Seconds,
    *,
    device: str = "NVIDIA H100",
    about: Callable[[Node], dict[str, Any]] = lambda node: {},
) -> Plan:
    """What a run of a sweep leaves that took so many seconds for each of its tasks."""
    plan = make_plan(sweep, store)
    for node in plan.nodes.values():
        if node.key not in plan.stored:
            manifest = {"status": "done", "results": {}, "seconds": seconds(node), "device": device, "resumed": False}
            store.commit(node.name, node.key, store.workspace(), {**node.spec(), **manifest, **about(node)})
    run = f"runs/{sweep.name}/2025-01-01T00-00-0{len(store.names(f'runs/{sweep.name}'))}.000000"
    store.write(f"{run}/keys", "\n".join(plan.nodes).encode())
    return plan


def told(sweep: Sweep, store: Store, **stated: float) -> tuple[Plan, Durations]:
    plan = make_plan(sweep, store)
    return plan, known_durations(plan, store, stated)


def of_kind(found: Durations, name: str) -> list[Estimate]:
    """Estimates of a kind's groups; all must have one."""
    estimates = [group.estimate for group in found.groups_of(name)]
    assert None not in estimates
    return [e for e in estimates if e is not None]


def once(node: Node) -> float:
    """Seconds of any task of a mixed study, those of a training for one epoch."""
    sizes = [t.setting.train.width for t in node.trials if isinstance(t.setting.train, Fit)]
    if isinstance(node.task, Fit):
        gradients = {Downhill: 1, Sideways: 2}[type(node.task.optimizer)] if node.task.rho else 1
        return 10.0 * node.task.width * gradients
    if node.kind == "group":
        return 0.5 * sizes[0] * len(node.inputs)
    return {"Points": 7.0, "Curvature": 3.0, "Line": 40.0}[node.name] * sum(sizes or [1])


def per_epoch(node: Node) -> float:
    return once(node) * (node.task.epochs if isinstance(node.task, Fit) else 1)


def mixed(epochs: int = 200, seeds: int = 5, **changes: Any) -> Sweep:
    """Two sizes of network, trainings of one and of two gradients a step."""
    train = Fit(
        width=grid(16, 128),
        optimizer=grid(Downhill(), Sideways()),
        rho=grid(0.0, 0.05, 0.1),
        epochs=epochs,
    )
    return toy_sweep(train=train, seeds=range(seeds), **changes)


def test_a_pilot_of_one_epoch_tells_what_a_mixed_study_takes(store: Store) -> None:
    """Networks of two sizes, one gradient or two, and none of SAM's second where rho is 0: each by itself."""
    leave(mixed(epochs=1, seeds=2), store, per_epoch)
    plan, found = told(mixed(), store)
    assert found.unknown() == []
    to_run = [node for node in plan.nodes.values() if node.key not in plan.stored]
    assert len(to_run) == len(plan.nodes) - 1  # the data are there
    for node in to_run:
        assert found.of(node.key) == pytest.approx(per_epoch(node)), node.label
    trainings = {group.work.size: group.estimate for group in found.groups_of("Fit") if group.estimate}
    assert len(trainings) == 2 * 2 * 2  # width, class of the optimizer, rho zero or not: what is left is fractions
    assert {(e.how, e.at, e.factor) for e in trainings.values()} == {("scaled", (1.0,), 200.0)}
    assert {(e.how, e.elsewhere) for e in of_kind(found, "Curvature")} == {("measured", True)}
    assert {(e.how, e.at, e.factor) for e in of_kind(found, "Ensemble")} == {("scaled", (2.0,), 2.5)}


def test_what_runs_at_full_length_is_believed_more_than_the_pilot(store: Store) -> None:
    leave(mixed(epochs=1, seeds=1, pairs=[]), store, lambda node: 1000 * per_epoch(node))
    leave(mixed(seeds=1, pairs=[]), store, per_epoch)
    plan, found = told(mixed(pairs=[]), store)
    for node in plan.nodes.values():
        if node.kind in ("train", "probe") and node.key not in plan.stored:
            assert found.of(node.key) == pytest.approx(per_epoch(node))
    assert {(e.how, e.elsewhere) for e in (*of_kind(found, "Fit"), *of_kind(found, "Curvature"))} == {
        ("measured", False)
    }


def test_two_lengths_tell_what_is_done_once_from_what_every_epoch_costs(store: Store) -> None:
    for epochs in (1, 3):
        leave(toy_sweep(train=Fit(epochs=epochs), seeds=[0]), store, lambda node: 50.0 + 2.0 * epochs)  # noqa: B023
    _, found = told(toy_sweep(train=Fit(epochs=200)), store)
    (estimate,) = of_kind(found, "Fit")
    assert estimate.how == "line" and estimate.at == (1.0, 3.0) and estimate.measured == 2
    assert (estimate.fixed, estimate.each) == (pytest.approx(50.0), pytest.approx(2.0))
    assert estimate.seconds == pytest.approx((450.0, 450.0))


ONE = Work(0, 200.0, ())


def measured(*points: tuple[float, float], early: bool = False) -> list[Measurement]:
    return [Measurement(seconds, amount, (), "cpu", early) for amount, seconds in points]


@given(
    fixed=st.floats(0, 100),
    each=st.floats(0.01, 100),
    amounts=st.lists(st.integers(1, 50), min_size=2, max_size=6, unique=True),
)
@settings(max_examples=50, deadline=None)
def test_the_line_is_that_of_numpy(fixed: float, each: float, amounts: list[int]) -> None:
    noisy = [(float(x), fixed + each * x * (1.05 if i % 2 else 0.97)) for i, x in enumerate(amounts)]
    slope, intercept = np.polyfit([x for x, _ in noisy], [y for _, y in noisy], 1)
    estimate = reckoned(ONE, measured(*noisy))
    if slope > 1e-9 and intercept > 1e-9:
        assert estimate.how == "line"
        assert (estimate.each, estimate.fixed) == (pytest.approx(slope), pytest.approx(intercept, abs=1e-6))
    elif slope < -1e-9 or intercept < -1e-9:
        assert estimate.how == "scaled"
        assert estimate.at == (max(amounts),)  # of the longest, what is done once is the smallest part


def test_a_line_that_no_duration_can_follow_is_not_believed() -> None:
    for points in ([(1.0, 5.0), (3.0, 4.0)], [(1.0, 1.0), (3.0, 6.0)], [(1.0, 0.0), (2.0, 0.0)]):
        estimate = reckoned(ONE, measured(*points))
        assert estimate.how == "scaled"
        assert estimate.mean == pytest.approx(points[1][1] * 200 / points[1][0])


def test_a_training_is_scaled_by_what_it_did(store: Store) -> None:
    """One that ended after three of six epochs took half of what six take."""

    def ended(epochs: int, status: str) -> Callable[[Node], dict[str, Any]]:
        return lambda node: {"results": {"epochs": epochs}, "status": status} if node.kind == "train" else {}

    leave(toy_sweep(train=Fit(), seeds=[0]), store, lambda node: 30.0, about=ended(3, "done"))
    _, found = told(toy_sweep(train=Fit()), store)
    (estimate,) = of_kind(found, "Fit")
    assert (estimate.how, estimate.at, estimate.mean, estimate.early) == ("scaled", (3.0,), 60.0, False)

    # A diverged one ends anywhere in an epoch, and without evaluation: it counts where nothing else is known.
    leave(toy_sweep(train=Fit(width=32), seeds=[0]), store, lambda node: 10.0, about=ended(2, "diverged"))
    both = toy_sweep(train=Fit(width=grid(16, 32)))
    _, found = told(both, store)
    assert [(e.mean, e.early) for e in of_kind(found, "Fit")] == [(60.0, False), (30.0, True)]
    leave(toy_sweep(train=Fit(width=32, epochs=4), seeds=[1]), store, lambda node: 44.0)
    _, found = told(both, store)
    assert [(e.mean, e.early) for e in of_kind(found, "Fit")] == [(60.0, False), (66.0, False)]


def test_the_first_training_of_a_process_is_not_scaled_where_another_tells(store: Store) -> None:
    """It waited for torch to be imported and the device to start, which no training of 200 epochs does 200 times."""
    started = iter(range(100))

    def about(node: Node) -> dict[str, Any]:
        return {"worker": "host:1", "started": float(next(started)), "run": "runs/toy/1"}

    def burdened(node: Node) -> float:
        return 8.0 if node.label == "Fit · width=16, rho=0.1 · seed 0" else 2.0

    sweep = toy_sweep(train=Fit(width=grid(16, 32), rho=grid(0.1, 0.2), epochs=1), seeds=[0], probes=[], pairs=[])
    leave(sweep, store, burdened, about=about)
    _, found = told(sweep.override({"train.epochs": 200}), store)
    assert [(e.seconds, e.measured) for e in of_kind(found, "Fit")] == [((400.0,), 1), ((400.0, 400.0), 2)]
    _, found = told(sweep.override({"train.epochs": 200, "train.rho": 0.1, "train.width": 16}), store)
    assert of_kind(found, "Fit")[0].seconds == (400.0,)  # of equal work, though another setting


def test_a_resumed_training_tells_nothing(store: Store) -> None:
    leave(toy_sweep(train=Fit(), seeds=[0]), store, lambda node: 30.0, about=lambda node: {"resumed": True})
    assert told(toy_sweep(train=Fit()), store)[1].known() == []


def test_a_size_that_was_not_measured_takes_what_the_nearest_take(store: Store) -> None:
    """One seed leaves out the pairs within a setting; those across settings tell of them, network by network."""
    leave(mixed(epochs=1, seeds=1), store, per_epoch)
    plan, found = told(mixed(), store)
    within = [n for n in plan.nodes.values() if n.kind == "pair" and n.trials[0].setting is n.trials[1].setting]
    for node in within:
        (group,) = [g for g in found.groups.values() if g.work == found.works[node.key]]
        assert group.estimate is not None
        if group.estimate.how == "others":
            width = node.trials[0].setting.train.width  # type: ignore[attr-defined]
            assert min(group.estimate.seconds) == pytest.approx(40.0 * min(2 * width, 144))
            assert max(group.estimate.seconds) == pytest.approx(40.0 * max(2 * width, 144))
    assert any(e.how == "others" for e in of_kind(found, "Line"))

    # A network of another width tells at least something of the kind.
    wider = toy_sweep(train=Fit(width=grid(16, 64), rho=0.1, epochs=200), seeds=[0], pairs=[])
    leave(toy_sweep(train=Fit(width=16, rho=0.1, epochs=1), seeds=[0], pairs=[]), store, per_epoch)
    _, found = told(wider, store)
    assert [(e.how, e.mean) for e in of_kind(found, "Fit")] == [
        ("scaled", pytest.approx(32000.0)),
        ("others", pytest.approx(32000.0)),
    ]


def test_sizes_that_are_not_in_the_plan_tell_nothing(store: Store) -> None:
    leave(toy_sweep(train=Fit(width=8), probes=[Curvature(k=7)]), store, lambda node: 1.0)
    assert told(toy_sweep(train=Fit(width=16), probes=[Curvature(k=3)]), store)[1].known() == ["Points"]
    assert told(toy_sweep(train=Fit(width=8), probes=[Curvature(k=3)]), store)[1].unknown() == ["Curvature"]


def test_what_another_sweep_has_made_tells_if_a_run_of_this_was_about_it(store: Store) -> None:
    """Studies share trainings: the pilot of the second finds them stored."""
    leave(toy_sweep(train=Fit(epochs=1), seeds=[0], name="first"), store, lambda node: 4.0)
    second = toy_sweep(train=Fit(epochs=5), name="second", pairs=[Line(steps=5)])
    assert told(second, store)[1].known() == ["Points"]  # stored, and part of the plan
    leave(second.override({"train.epochs": 1, "seeds": [0, 1]}), store, lambda node: 6.0)
    _, found = told(second, store)
    assert sorted(of_kind(found, "Fit")[0].seconds) == [20.0, 30.0]


def test_what_is_stated_stands_for_the_whole_kind(store: Store) -> None:
    leave(mixed(epochs=1, seeds=1, pairs=[]), store, per_epoch)
    _, found = told(mixed(pairs=[]), store, Fit=100.0)
    assert {(e.how, e.seconds) for e in of_kind(found, "Fit")} == {("stated", (100.0,))}
    assert {e.how for e in of_kind(found, "Curvature")} == {"measured"}


@dataclass(frozen=True)
class Retrain(Probe):
    """Trains again, as long as the training unless it is told otherwise."""

    epochs: int | None = None
    proportional_to: ClassVar[tuple[str, ...]] = ("epochs",)

    def run(self, ctx: Context, trained: Artifact) -> Any:
        return {}


def test_a_probe_that_takes_its_length_from_the_training_is_scaled_with_it(store: Store) -> None:
    def sweep(train: int, probe: int | None) -> Sweep:
        return toy_sweep(train=Fit(epochs=train), probes=[Retrain(epochs=probe)], pairs=[], groups=[], seeds=[0, 1])

    leave(sweep(2, None), store, lambda node: 9.0)
    expected = {(200, None): 900.0, (200, 10): 45.0, (2, None): 9.0, (2, 4): 18.0}
    for (train, probe), seconds in expected.items():
        (estimate,) = of_kind(told(sweep(train, probe), store)[1], "Retrain")
        assert estimate.mean == pytest.approx(seconds)
        assert estimate.elsewhere == (probe is not None)  # else the length of the training is in the amount


def test_trainings_that_are_gone_leave_their_probes_without_a_size(store: Store) -> None:
    plan = leave(toy_sweep(train=Fit(epochs=1), seeds=[0]), store, lambda node: 2.0)
    for node in plan.nodes.values():
        if node.kind == "train":
            store.delete_artifact(node.name, node.key)
    assert told(toy_sweep(train=Fit(epochs=2)), store)[1].known() == ["Points"]


def test_what_stands_in_a_field_is_looked_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a plan of a hundred thousand tasks would take as many looks."""
    looks = []
    monkeypatch.setattr(durations, "canonical", lambda task: looks.append(task) or canonical(task))
    plan, found = told(mixed(seeds=10), store)
    assert len(plan.nodes) > 1000
    assert len(looks) == len({id(node.task) for node in plan.nodes.values()}) == 12 + 4
    assert len(found.groups) < 80


def test_few_manifests_are_read_where_many_tell_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = toy_sweep(train=Fit(epochs=1, rho=0.1), seeds=range(60), probes=[], pairs=[], groups=[])
    leave(sweep, store, lambda node: 2.0)
    read = []
    manifest = store.manifest
    monkeypatch.setattr(store, "manifest", lambda *about: read.append(about) or manifest(*about))
    monkeypatch.setattr(durations, "EACH", 10)
    _, found = told(sweep.override({"train.epochs": 9}), store)
    assert of_kind(found, "Fit")[0].measured == 10
    assert len(read) == 10 + 1


def test_the_forecast_is_of_what_each_group_takes(store: Store) -> None:
    """On one slot a run takes what all its tasks take, and on many no less than the longest path."""
    leave(mixed(epochs=1, seeds=1, pairs=[]), store, per_epoch)
    sweep = mixed(pairs=[], seeds=2)
    plan, found = told(sweep, store)
    to_run = [node for node in plan.nodes.values() if node.key not in plan.stored]

    def runs(cpus: int) -> Any:
        kinds = [NodeKind("head", {"CPU": cpus}, 1, 1, head=True)]
        found_out = forecast(make_plan(sweep, store), store, kinds, found, times=past_times(plan, store))
        assert found_out is not None
        return found_out.runs

    for run in runs(1):
        assert run.work == run.bound == pytest.approx(sum(per_epoch(node) for node in to_run))
    for run in runs(1000):
        assert run.longest == pytest.approx(2 * 10.0 * 128 * 200 + 3.0 * 128)


def test_a_run_expects_what_plan_says_not_what_the_pilot_took(store: Store) -> None:
    """Else trainings of hours would be bundled and foretold as those of seconds."""
    sweep = toy_sweep(train=Fit(rho=0.1, epochs=200), pairs=[], seeds=[0, 1])
    leave(sweep.override({"train.epochs": 1, "seeds": [0]}), store, lambda node: 3.0)
    plan = make_plan(sweep, store)
    search = DagSearch(
        plan,
        store,
        Events(store, "runs/toy/2026-01-01T00-00-00.000000"),
        room=Room([NodeOffer("node", "host", {"CPU": 2.0})]),
        run={},
        decisions=Decisions(sweep, store),
    )
    expected = {"Points": 3.0, "Fit": 600.0, "Curvature": 3.0, "Ensemble": 2 * 3.0}
    assert search.graph.expectations() == pytest.approx(expected)


# The pilot that is proposed


def test_the_pilot_is_one_epoch_of_one_seed_or_two_where_pairs_need_them(store: Store) -> None:
    def pilot(sweep: Sweep) -> tuple[Any, ...] | None:
        plan, found = told(sweep, store)
        made = pilot_of(plan, store, found)
        return None if made is None else (dict(made.overrides), made.seeds, made.tasks, made.lacking)

    short = {"train.epochs": 1}
    assert pilot(toy_sweep()) == (short, 1, 1 + 5 * 3 + 5 * 4 // 2, ())
    within = toy_sweep(pair_when=same_setting)
    assert pilot(within) == (short, 2, 1 + 5 * (2 * 2 + 1 + 1), ())
    assert pilot(within.override({"seeds": [3]})) == (short, 1, 1 + 5 * 3, ())
    assert pilot(toy_sweep(pairs=[]).override(short)) == ({}, 1, 1 + 5 * 3, ())
    assert pilot(toy_sweep(pairs=[], seeds=[0]).override(short)) is None  # that is the sweep itself

    leave(toy_sweep(pairs=[], groups=[], seeds=[0]).override(short), store, per_epoch)
    assert pilot(within) == (short, 2, 5 * (2 * 2 + 1 + 1) - 5 * 2, ())


def test_a_pilot_of_settings_that_are_chosen_by_their_epochs(store: Store) -> None:
    data = {"grid_search": [Points(n=4), Points(n=8)]}
    sweep = toy_sweep(
        train=Fit(dataset=data, epochs=grid(20, 10), rho=0.1),
        setting_when=lambda train: train.epochs * train.dataset.n == 80,
    )
    plan, found = told(sweep, store)
    assert len(plan.settings) == 2
    pilot = pilot_of(plan, store, found)
    assert pilot is not None and pilot.overrides == {"train.epochs": 1, "setting_when": None}
    leave(sweep.override({**pilot.overrides, "seeds": range(pilot.seeds)}), store, per_epoch)
    _, found = told(sweep, store)
    assert found.unknown() == []
    assert sorted(e.factor for e in of_kind(found, "Fit")) == [10.0, 20.0]


STUDY = '''\
"""A toy study."""

from ray import tune
from toys import Curvature, Downhill, Fit, Line, Sideways

from orchestrator import Sweep, same_setting

sweep = Sweep(
    train=Fit(optimizer=tune.grid_search([Downhill(), Sideways()]), epochs=200),
    seeds=range(5),
    probes=[Curvature()],
    pairs=[Line()],
    pair_when=same_setting,
    smoke={"train.epochs": 2},
)
'''


def test_the_pilot_that_plan_proposes_makes_it_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence's own words are a command whose tasks, once they are there, tell what the study takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a study.py").write_text(STUDY)

    def plan(*words: str) -> str:
        assert main(["plan", "a study.py", *words]) == 0
        return capsys.readouterr().out

    said = plan("--set", "train.width=32", "--set", "train.epochs=100")
    match = re.search(
        r"run a pilot \((sweep .*): (\d+) tasks\), or state them \(plan … --seconds Points=…,Fit=…,", said
    )
    assert match is not None, said
    assert match[1] == "sweep 'a study.py' --set train.width=32 --seeds 2 --set train.epochs=1"
    words = shlex.split(match[1])
    assert main([*words, "--dry-run"]) == 0
    assert f"│ all       │  {match[2]} │" in capsys.readouterr().out

    from orchestrator.sweep_file import load_sweep

    small = load_sweep("a study.py", sets=["train.width=32", "train.epochs=1"], seeds=2)
    seconds = {"Points": 1.0, "Fit": 38.0, "Curvature": 12.0, "Line": 20.0}
    leave(small, Store("artifacts"), lambda node: seconds[node.name] * (2 if "Sideways" in node.label else 1))
    said = plan("--set", "train.width=32", "--set", "train.optimizer=Downhill()")
    assert said.partition("Durations:\n")[2].startswith(
        "  Fit 2.1 h (2 measured, 38.0 s at epochs=1, times 200, on NVIDIA H100)\n"
        "  Curvature 12.0 s (2 measured, on NVIDIA H100, with trainings of other length)\n"
        "  Line 20.0 s (1 measured, on NVIDIA H100, with trainings of other length)\n"
    )
    assert (
        "What Fit does once (start, last evaluation) is counted up to 200 times here, so it takes less: "
        "a second pilot with train.epochs=3 would tell how much." in said
    )
    said = plan("--set", "train.width=32")
    assert said.partition("Durations:\n")[2].startswith(
        "  Fit 3.2 h on average, 2.1 h to 4.2 h in 2 sizes (4 measured at epochs=1, times 200, on NVIDIA H100)\n"
        "  Curvature 18.0 s on average, 12.0 s to 24.0 s in 2 sizes "
        "(4 measured, on NVIDIA H100, with trainings of other length)\n"
    )
    assert main(["plan", "a study.py", "--set", "train.width=32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["expected_seconds"] == pytest.approx(5 * (38 * 200 + 12) * 3 + 10 * 20 * 3, rel=1e-9)
    assert found["durations"]["Fit"] == {"mean": 38 * 200 * 1.5, "measured": 4, "devices": ["NVIDIA H100"]}
    fits = [size for size in found["sizes"] if size["task"] == "Fit"]
    assert [(size["example"], size["to_run"], size["mean"]) for size in fits] == [
        ("Fit · Downhill · seed 0", 5, 38 * 200),
        ("Fit · Sideways · seed 0", 5, 2 * 38 * 200),
    ]
    assert fits[0] | {"example": "", "mean": 0} == {
        "task": "Fit", "example": "", "to_run": 5, "amount": 200.0, "amount_of": "epochs", "mean": 0,
        "how": "scaled", "measured": 2, "at": [1.0], "devices": ["NVIDIA H100"],
    }  # fmt: skip
    assert "no earlier run of this sweep" in plan("--smoke")  # it is another sweep, and its pilot as small
    assert "run a pilot (sweep 'a study.py' --smoke --seeds 2 --set train.epochs=1: " in plan("--smoke")
