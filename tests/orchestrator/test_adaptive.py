"""Adaptive sweeps go on where they were left: with real samplers of Optuna and a real ASHA, driven by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from driven import EPOCHS, Driver, Machines, curve
from optuna.samplers import RandomSampler, TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch
from s3 import S3Server
from toys import Fit, Points

from orchestrator.decisions import Decisions, Proposed
from orchestrator.graph import State
from orchestrator.journal import Journal
from orchestrator.plan import Node
from orchestrator.store import Store
from orchestrator.sweep import Sweep


class Killed(BaseException):
    """The driver is no more."""


class Listed(Searcher):
    """Proposes what it was given, then None; hears what became of it."""

    def __init__(self, values: Iterable[float]) -> None:
        super().__init__()
        self._left = iter(values)
        self.told: list[float | None] = []
        self.heard: list[tuple[int, float]] = []
        self.points: dict[float, float] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        value = next(self._left, None)
        return None if value is None else {"train.rho": value}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.heard.append((result["training_iteration"], result["val_accuracy"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append(None if error or not result else result["val_accuracy"])

    def add_evaluated_point(self, parameters: dict[str, Any], value: float, *args: Any, **more: Any) -> None:
        self.points[parameters["train.rho"]] = value

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


def listed(values: Iterable[float], **changes: Any) -> Sweep:
    fields: dict[str, Any] = {"seeds": range(2), "samples": 4, "search": Listed(values), "name": "toy"}
    return Sweep(train=Fit(rho=tune.uniform(0, 1)), **{**fields, **changes})


def seeded(**changes: Any) -> Sweep:
    """TPE with a seed, which begins to model after three settings."""
    search = OptunaSearch(sampler=TPESampler(seed=3, n_startup_trials=3))
    fields: dict[str, Any] = {"seeds": range(2), "samples": 7, "search": search, "name": "toy"}
    space = tune.uniform(0.0, 1.0)
    return Sweep(train=Fit(rho=space, width=tune.choice([8, 16])), **{**fields, **changes})


def asha(**more: Any) -> ASHAScheduler:
    fields = {"time_attr": "epoch", "max_t": 2 * EPOCHS, "grace_period": 1, "reduction_factor": 2, **more}
    return ASHAScheduler(**fields)


def stopped() -> Sweep:
    """Settings drawn at random, of which ASHA stops those that fall behind."""
    return Sweep(train=Fit(rho=tune.uniform(0.0, 1.0)), seeds=range(2), samples=6, scheduler=asha(), name="toy")


def both() -> Sweep:
    return seeded(scheduler=asha(brackets=2), samples=6)


def limited() -> Sweep:
    search = ConcurrencyLimiter(OptunaSearch(sampler=TPESampler(seed=3, n_startup_trials=3)), max_concurrent=1)
    return seeded(search=search)


SWEEPS = {"tpe": seeded, "asha": stopped, "both": both, "limited": limited}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What becomes of each sweep in one go, and how many events and records that takes."""
    return {name: whole(make(), Store(str(tmp_path_factory.mktemp(name)))) for name, make in SWEEPS.items()}


def whole(sweep: Sweep, store: Store) -> tuple[dict[str, Any], int, int]:
    driver = Driver(sweep, store)
    steps = 0
    while not driver.fill():
        driver.advance()
        steps += 1
    return driver.outcome(), steps, len(Decisions(sweep, store).log)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_run_killed_after_any_event_goes_on_as_if_nothing_had_happened(name, undisturbed, tmp_path) -> None:
    expected, steps, _ = undisturbed[name]
    for k in range(0, steps, 2):
        store, machines = Store(str(tmp_path / str(k))), Machines()
        Driver(SWEEPS[name](), store, machines).run(k)
        driver = Driver(SWEEPS[name](), store, machines).run()
        assert driver.outcome() == expected, f"killed after {k} events"
        assert set(machines.committed.values()) == {1}


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("name", SWEEPS)
def test_a_run_killed_at_any_record_goes_on_as_if_nothing_had_happened(
    name, written, undisturbed, tmp_path, monkeypatch
) -> None:
    """Right before a decision is in the journal, and right after."""
    expected, _, records = undisturbed[name]
    add = Journal.add

    for k in range(0, records, 3):
        left = k

        def dying(self: Journal, record: Any, **options: Any) -> None:
            nonlocal left
            if "decision" in record:
                left -= 1
                if left < 0 and not written:
                    raise Killed
            add(self, record, **options)
            if left < 0:
                raise Killed

        store, machines = Store(str(tmp_path / str(k))), Machines()
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", dying)
            with pytest.raises(Killed):
                Driver(SWEEPS[name](), store, machines).run()
        driver = Driver(SWEEPS[name](), store, machines).run()
        assert driver.outcome() == expected, f"killed at record {k}"
        assert set(machines.committed.values()) == {1}


def test_killed_again_and_again(undisturbed, tmp_path) -> None:
    expected, _, _ = undisturbed["both"]
    store, machines = Store(str(tmp_path)), Machines()
    for _ in range(200):
        driver = Driver(both(), store, machines)
        if driver.run(4).search.graph.finished and not driver.trials and driver.fill():
            break
    assert driver.outcome() == expected
    assert set(machines.committed.values()) == {1}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_run_that_was_ended_in_order_goes_on_as_if_nothing_had_happened(name, undisturbed, tmp_path) -> None:
    """Ctrl-C, or a full disk: trainings are saved at their next report, of which the scheduler is not asked."""
    expected, steps, _ = undisturbed[name]
    for k in range(1, steps, 4):
        store, machines = Store(str(tmp_path / str(k))), Machines()
        driver = Driver(SWEEPS[name](), store, machines).run(k)
        driver.search.halt("Enough.")
        driver.run()
        assert not driver.search.graph.counts[State.RUNNING]
        after = Driver(SWEEPS[name](), store, machines).run().outcome()
        assert after == expected, f"ended after {k} events"
        assert set(machines.committed.values()) == {1}


@pytest.mark.parametrize("name", ["tpe", "asha"])
def test_on_an_object_store_too(name, undisturbed, s3: S3Server) -> None:
    store, machines = Store(s3.uri(f"adaptive-{name}")), Machines()
    first = Driver(SWEEPS[name](), store, machines).run(15)
    first.decisions.close()  # what a driver that is killed at this moment would lose are reports of the last second
    driver = Driver(SWEEPS[name](), store, machines).run()
    driver.decisions.close()
    assert driver.outcome() == undisturbed[name][0]
    assert set(machines.committed.values()) == {1}
    assert Driver(SWEEPS[name](), store, machines).fill()  # nothing is left to do


def test_the_undisturbed_runs_decide_something(undisturbed) -> None:
    """Else the comparisons above would say nothing."""
    outcomes = {name: outcome for name, (outcome, _, _) in undisturbed.items()}
    assert len(outcomes["tpe"]["configs"]) == len(outcomes["tpe"]["trials"]) == 7
    assert all(values for _, _, values, _ in outcomes["tpe"]["trials"])
    assert all(reports for _, _, _, reports in outcomes["tpe"]["trials"])
    for name in ("asha", "both"):
        assert 0 < len(outcomes[name]["stopped"]) < 12
    assert any(rungs for bracket in outcomes["both"]["rungs"] for _, rungs in bracket)


# Searches without a seed, and other tellings


def unseeded(**changes: Any) -> Sweep:
    return seeded(search=OptunaSearch(sampler=RandomSampler()), **changes)


@pytest.mark.parametrize("k", [0, 1, 7, 20, 33])
def test_without_a_seed_nothing_is_lost_and_nothing_repeated(k, store) -> None:
    machines = Machines()
    before = Driver(unseeded(), store, machines).run(k).decisions.configs
    driver = Driver(unseeded(), store, machines).run()
    assert driver.decisions.configs[: len(before)] == before
    configs = [tuple(c.items()) for c in driver.decisions.configs]
    assert len(configs) == len(set(configs)) == 7
    assert set(machines.committed.values()) == {1}
    done = {tuple(t.params.items()): t.values for t in driver.inner._ot_study.trials if t.values}
    assert set(done) == set(configs)  # every setting's outcome is known to the search


def test_more_samples_go_on_from_what_is_there(undisturbed, store) -> None:
    machines = Machines()
    Driver(seeded(samples=4), store, machines).run()
    assert Driver(seeded(), store, machines).run().outcome() == undisturbed["tpe"][0]
    assert set(machines.committed.values()) == {1}
    fewer = Driver(seeded(samples=3), store, machines).run()
    assert fewer.plan.proposals == 3
    assert len(Decisions(seeded(), store).configs) == 7


def test_more_seeds_keep_what_was_proposed_and_told(store) -> None:
    machines = Machines()
    before = Driver(seeded(), store, machines).run()
    after = Driver(seeded(seeds=range(3)), store, machines).run()
    assert after.decisions.configs == before.decisions.configs
    assert [t.values for t in after.inner._ot_study.trials] == [t.values for t in before.inner._ot_study.trials]


def test_the_inner_search_is_told_the_mean_over_seeds(store: Store) -> None:
    driver = Driver(listed([0.1, 0.2, 0.3, 0.4, 0.5]), store).run()
    trainings = [driver.plan.trainings(s) for s in driver.plan.settings]
    assert driver.inner.told == [sum(curve(n, EPOCHS) for n in nodes) / 2 for nodes in trainings]
    assert len(driver.inner.told) == 4  # no more than `samples`
    assert driver.inner.heard[:2] == [(n, sum(curve(node, n) for node in trainings[0]) / 2) for n in (1, 2)]


def test_a_setting_proposed_again_is_the_same_setting(store: Store) -> None:
    """It is told again and counts as a proposal; no task, trial or pair of its own comes from it."""
    driver = Driver(listed([0.1, 0.1, 0.2, 0.1]), store).run()
    assert [s.config for s in driver.plan.settings] == [{"train.rho": 0.1}, {"train.rho": 0.2}]
    assert len(driver.inner.told) == 4 and len(set(driver.inner.told)) == 2
    again = Driver(listed([]), store)
    assert (again.plan.proposals, len(again.plan.settings)) == (4, 2)


def test_the_same_setting_proposed_while_it_is_at_work(store: Store) -> None:
    driver = Driver(listed([0.1, 0.1], samples=2), store, slots=8).run()  # room for both proposals at once
    assert len(driver.inner.told) == 2 and len(set(driver.inner.told)) == 1


def test_a_setting_is_proposed_whose_training_another_sweep_left_damaged(store: Store) -> None:
    machines = Machines()
    first = Driver(listed([0.1, 0.2], samples=2), store, machines).run()
    damaged = first.plan.trainings(first.plan.settings[0])[0].key
    store.write(f"artifacts/Fit/{damaged}/manifest.json", b"{")
    store.delete_folder("searches")
    again = Driver(listed([0.1, 0.2], samples=2), store, machines).run()
    assert again.search.halted is None and again.inner.told == first.inner.told
    assert [k for k, n in machines.committed.items() if n > 1] == [damaged]


def test_a_search_that_has_nothing_more_ends_the_run(store: Store) -> None:
    assert len(Driver(listed([0.1]), store).run().inner.told) == 1
    Driver(listed([]), store).run()


def test_settings_whose_trainings_cannot_run_are_told_as_failed(store: Store) -> None:
    """The dataset fails, so trainings are skipped without ever having run."""

    def end(node: Node) -> str:
        return "failed" if isinstance(node.task, Points) else "done"

    driver = Driver(listed([0.1, 0.2, 0.3, 0.4]), store, end=end).run()
    assert driver.inner.told == [None] * 4
    assert driver.search.graph.counts[State.SKIPPED] == 8


def test_a_setting_that_failed_and_then_succeeds_is_told_then(store: Store) -> None:
    machines, values = Machines(), [0.1, 0.2]

    def end(node: Node) -> str:
        return "failed" if isinstance(node.task, Fit) and node.task.rho == 0.1 else "done"

    first = Driver(listed(values, samples=2), store, machines, end=end).run()
    assert first.inner.told[0] is None
    second = Driver(listed(values, samples=2), store, machines).run()
    assert second.inner.told == first.inner.told
    good = {0.1: sum(curve(n, EPOCHS) for n in second.plan.trainings(second.plan.settings[0])) / 2}
    assert second.inner.points == good
    third = Driver(listed(values, samples=2), store, machines).run()
    assert (third.inner.told, third.inner.points) == (first.inner.told, good)  # as the journal says


def test_failed_trainings_that_are_retried_alone_are_told_by_the_next_run(store: Store) -> None:
    """The retry proposes nothing, ends, and leaves it to the next run to tell the search."""
    machines, values = Machines(), [0.1, 0.2, 0.3]

    def end(node: Node) -> str:
        return "failed" if isinstance(node.task, Fit) and node.task.rho == 0.1 else "done"

    first = Driver(listed(values, samples=2), store, machines, end=end).run()
    failed = {n.key for n in first.plan.trainings(first.plan.settings[0])}
    retry = Driver(listed(values, samples=3), store, machines, only=failed).run()
    assert {k for k, v in retry.search.graph.vertices.items() if v.state is State.DONE} == failed
    assert retry.inner.told == [] and retry.plan.proposals == 2
    last = Driver(listed(values, samples=3), store, machines).run()
    assert last.inner.told[0] is None and len(last.inner.told) == 3
    assert last.inner.points == {0.1: sum(curve(n, EPOCHS) for n in first.plan.trainings(first.plan.settings[0])) / 2}


def test_a_setting_that_lost_a_seed_is_no_good_setting(store: Store) -> None:
    """Neither in this run nor in a later one: the mean of the seeds that are left would flatter it."""

    def end(node: Node) -> str:
        bad = isinstance(node.task, Fit) and node.task.rho == 0.1 and node.seeds["init"] == 1
        return "diverged" if bad else "done"

    driver = Driver(listed([0.1, 0.2], samples=2), store, end=end).run()
    assert [v is None for v in driver.inner.told] == [True, False]
    again = Driver(listed([], samples=2), store, end=end)
    assert again.inner.points == {0.2: driver.inner.told[1]}


def test_a_setting_whose_training_was_stopped_in_an_earlier_run_is_told_its_value(store: Store) -> None:
    """The other seed was at work when the driver died."""
    machines = Machines()
    undisturbed = Driver(seeded(scheduler=asha(), samples=6), Store(store.uri + "-other")).run()
    k = 0
    while True:
        driver = Driver(seeded(scheduler=asha(), samples=6), store, machines).run(k)
        half = [
            p for p in driver.search._proposals._open if any(key in driver.decisions.stopped_keys for key in p.keys)
        ]
        if half:
            break
        k = 1
    driver = Driver(seeded(scheduler=asha(), samples=6), store, machines).run()
    assert driver.outcome() == undisturbed.outcome()


# Workers that die


@pytest.mark.parametrize("snapshots", [True, False])
@pytest.mark.parametrize("name", ["tpe", "asha", "both"])
def test_a_training_that_starts_over_is_shown_and_heard_once(name, snapshots, undisturbed, store) -> None:
    expected, _, _ = undisturbed[name]
    driver = Driver(SWEEPS[name](), store)
    killed: set[str] = set()
    while not driver.fill():
        for trial in driver.get_trials():
            if trial.epoch == 2 and trial.bundle.keys[0] not in killed:
                killed.add(trial.bundle.keys[0])
                driver.kill_worker(trial, snapshots=snapshots)
                driver.fill()
                break
        driver.advance()
    assert killed
    outcome = driver.outcome()
    if snapshots:
        assert outcome == expected
    # Without one the others come further meanwhile, so decisions may differ, but each training counts once.
    known = {v.key for v in driver.search.graph.vertices.values()}
    for bracket in outcome["rungs"]:
        assert all(set(recorded) <= known for _, recorded in bracket)
    for _, _, _, reports in outcome["trials"]:
        assert sorted(reports) == list(range(1, len(reports) + 1))


class Watching(FIFOScheduler):
    """Stops nothing, and notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.seen.append((trial.trial_id, result["epoch"]))
        return str(FIFOScheduler.CONTINUE)


def test_no_report_is_shown_or_heard_twice_and_the_next_run_shows_all_again(store: Store) -> None:
    machines = Machines()
    first = Driver(listed([0.1, 0.2, 0.3], samples=3, scheduler=Watching()), store, machines).run(4)
    first.kill_worker(first.get_trials()[0], snapshots=False)
    first.run(4)
    assert len(set(first.scheduler.seen)) == len(first.scheduler.seen) > 2
    assert len(set(first.inner.heard)) == len(first.inner.heard) > 0
    second = Driver(listed([0.1, 0.2, 0.3], samples=3, scheduler=Watching()), store, machines)
    assert second.scheduler.seen == first.scheduler.seen
    assert second.inner.heard == first.inner.heard
    second.run()
    assert len(set(second.scheduler.seen)) == len(second.scheduler.seen) == 3 * 2 * EPOCHS
    assert len(set(second.inner.heard)) == len(second.inner.heard) == 3 * EPOCHS


def test_a_pause_is_none(store: Store) -> None:
    """MedianStoppingRule would have a training wait while others are pending; seeds of a study do not wait."""
    rule = MedianStoppingRule(time_attr="epoch", grace_period=1, min_samples_required=2)
    sweep = Sweep(train=Fit(rho=tune.uniform(0.0, 1.0)), seeds=range(2), samples=4, scheduler=rule, name="toy")
    driver = Driver(sweep, store)
    waiting = SimpleNamespace(status="PENDING")
    driver.get_live_trials = lambda: [waiting]  # type: ignore[method-assign]
    driver.run()
    assert driver.search.graph.finished
    assert driver.decisions.stopped_keys


# Two drivers, and damage


def test_two_drivers_at_once_and_the_next_run_knows_what_both_proposed(store: Store) -> None:
    machines = Machines()
    one, two = Driver(unseeded(), store, machines), Driver(unseeded(), store, machines)
    for _ in range(400):
        if one.fill() & two.fill():
            break
        for driver in (one, two):
            if not driver.fill():
                driver.advance()
    known = Decisions(unseeded(), store).configs
    assert sorted(map(str, known)) == sorted(map(str, one.decisions.configs + two.decisions.configs))
    begun = Driver(unseeded(), store, machines).run()
    assert begun.plan.proposals == 7
    assert [s.config for s in begun.plan.proposed] == known[:7]
    assert set(begun.search.graph.counts) - {State.WAITING, State.READY, State.RUNNING} == {State.STORED}
    more = Driver(unseeded(samples=16), store, machines).run()
    assert more.decisions.configs[:14] == known
    assert len({str(c) for c in more.decisions.configs}) == 16
    again = Driver(unseeded(samples=16), store, machines).run()
    assert again.decisions.configs == more.decisions.configs


def test_two_drivers_that_decide_the_same_are_one(undisturbed, store: Store) -> None:
    machines = Machines()
    one, two = Driver(seeded(), store, machines), Driver(seeded(), store, machines)
    for driver in itertools.islice(itertools.cycle([one, two]), 60):
        if not driver.fill():
            driver.advance()
    after = Driver(seeded(), store, machines).run()
    assert after.outcome()["configs"] == undisturbed["tpe"][0]["configs"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "noise"])
def test_a_damaged_line_costs_what_it_says(damage, store: Store) -> None:
    machines = Machines()
    Driver(seeded(samples=5), store, machines).run()
    decisions = Decisions(seeded(), store)
    (name,) = store.names("searches")
    path = store.path(f"searches/{name}")
    lines = path.read_bytes().splitlines(keepends=True)
    victim = next(i for i, line in enumerate(lines) if b'"number": 2,' in line and b"proposed" in line)
    lines[victim] = {
        "flipped": lines[victim].replace(b'train.rho": 0.', b'train.rho": 0.1'),
        "cut": lines[victim][:30],  # the next line is damaged with it
        "noise": bytes(range(128, 256)) + b"\n",
    }[damage]
    path.write_bytes(b"".join(lines))
    left = Decisions(seeded(), store)
    assert left.damage is not None and "damaged" in left.damage and left.damage.endswith(".")
    assert left.configs == [c for i, c in enumerate(decisions.configs) if i != 2]
    driver = Driver(seeded(samples=5), store, machines).run()
    assert driver.plan.proposals == 5
    assert len({str(c) for c in driver.decisions.configs}) == 5
    assert driver.search.graph.finished


def test_numbers_of_proposals_are_questions_to_the_search(store: Store) -> None:
    Driver(seeded(samples=3), store).run()
    numbers = [d.number for d in Decisions(seeded(), store).log if isinstance(d, Proposed)]
    assert numbers == [0, 1, 2]
