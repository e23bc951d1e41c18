"""What names a search: everything that the user chose of it, nothing that differs from process to process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch
from toys import Downhill, Fit, Sideways

from orchestrator.decisions import Decisions, Ended, Proposed, Reported, Stopped, Told, search_key
from orchestrator.plan import make_plan
from orchestrator.run import checked_scheduler, checked_search
from orchestrator.store import Store
from orchestrator.sweep import Sweep


def sweep(**changes: Any) -> Sweep:
    fields: dict[str, Any] = {"train": Fit(rho=tune.uniform(0.0, 1.0)), "seeds": range(2), "samples": 3, "name": "toy"}
    return Sweep(**{**fields, "search": OptunaSearch(), **changes})


class Generated(Searcher):
    """A search that keeps one of numpy's newer generators."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)


class Named(Searcher):
    """A search that gives itself a name at random, as some do."""

    def __init__(self) -> None:
        super().__init__()
        self.uid = np.random.default_rng().bytes(16).hex()


SAME: dict[str, Callable[[], dict[str, Any]]] = {
    "no seed": lambda: {"search": OptunaSearch(sampler=TPESampler())},
    "a seed": lambda: {"search": OptunaSearch(sampler=TPESampler(seed=1))},
    "a sampler by default": lambda: {"search": OptunaSearch(seed=1)},
    "another sampler": lambda: {"search": OptunaSearch(sampler=GPSampler(seed=1))},
    "limited": lambda: {"search": ConcurrencyLimiter(OptunaSearch(), max_concurrent=2)},
    "a new generator without a seed": lambda: {"search": Generated(None)},
    "a name at random": lambda: {"search": Named()},
    "a scheduler": lambda: {"scheduler": ASHAScheduler(max_t=9)},
    "median": lambda: {"scheduler": MedianStoppingRule(time_attr="epoch")},
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_asked_for_again_has_the_same_key(name: str) -> None:
    assert search_key(sweep(**SAME[name]())) == search_key(sweep(**SAME[name]()))


OTHERS: dict[str, list[dict[str, Any]]] = {
    "seed of the sampler": [{"search": OptunaSearch(sampler=TPESampler(seed=s))} for s in (None, 0, 1, 2**31)],
    "seed of a random sampler": [{"search": OptunaSearch(sampler=RandomSampler(seed=s))} for s in (None, 0, 1)],
    "seed of the search": [{"search": OptunaSearch(seed=s)} for s in (None, 0, 1)],
    "seed of a new generator": [{"search": Generated(s)} for s in (None, 0, 1)],
    "seed behind a limiter": [
        {"search": ConcurrencyLimiter(OptunaSearch(sampler=TPESampler(seed=s)), max_concurrent=2)} for s in (0, 1)
    ],
    "an option of the sampler": [{"search": OptunaSearch(sampler=TPESampler(n_startup_trials=n))} for n in (5, 10)],
    "a choice of the sampler": [
        {"search": OptunaSearch(sampler=TPESampler(seed=0, constant_liar=liar))} for liar in (False, True)
    ],
    "the sampler": [{"search": OptunaSearch(sampler=s(seed=0))} for s in (TPESampler, RandomSampler, GPSampler)],
    "the grace period": [{"scheduler": ASHAScheduler(max_t=9, grace_period=g)} for g in (1, 3)],
    "the reduction factor": [{"scheduler": ASHAScheduler(max_t=9, reduction_factor=r)} for r in (2, 3)],
    "the brackets": [{"scheduler": ASHAScheduler(max_t=9, brackets=b)} for b in (1, 2)],
    "the space": [{"train": Fit(rho=tune.uniform(0.0, high))} for high in (1.0, 2.0)],
    "the kind of space": [{"train": Fit(rho=s(0.1, 1.0))} for s in (tune.uniform, tune.loguniform)],
    "the training": [{"train": Fit(rho=tune.uniform(0.0, 1.0), epochs=n)} for n in (6, 7)],
    "the metric": [{"metric": "val_accuracy"}, {"metric": "train_loss"}],
    "the mode": [{"mode": "max"}, {"mode": "min"}],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_asked_for_otherwise_has_another_key(name: str) -> None:
    keys = [search_key(sweep(**changes)) for changes in OTHERS[name]]
    assert len(set(keys)) == len(keys)


def test_seeds_and_samples_are_not_in_the_key() -> None:
    assert search_key(sweep(samples=9, seeds=range(5))) == search_key(sweep())


def test_use_does_not_change_the_key(tmp_path: Path) -> None:
    """A second sweep in the same process with the same objects: an example in a notebook."""
    store = Store(str(tmp_path))
    search, scheduler = OptunaSearch(sampler=TPESampler(seed=1)), ASHAScheduler(max_t=9)
    used = sweep(search=search, scheduler=scheduler)
    before = search_key(used)
    plan = make_plan(used, store)
    checked_search(plan)
    checked_scheduler(plan)
    search.suggest("a")
    assert search_key(sweep(search=search, scheduler=scheduler)) == before


def test_the_key_is_the_same_in_every_process() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from test_decisions import SAME, search_key, sweep
import json
print(json.dumps({name: search_key(sweep(**make())) for name, make in SAME.items()}))
"""
    told = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        told.append(json.loads(done.stdout.splitlines()[-1]))
    assert told[0] == told[1]
    assert set(told[0]) == set(SAME)


def test_decisions_come_back_as_they_were_made(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    train = Fit(
        rho=tune.uniform(0.0, 1.0),
        width=tune.choice([8, 16]),
        optimizer=tune.choice([Downhill(lr=0.1), Downhill(lr=0.2), Sideways()]),
    )
    of = sweep(train=train, scheduler=ASHAScheduler(max_t=9))
    config = {"train.rho": 0.1 + 0.2, "train.width": 16, "train.optimizer": Downhill(lr=0.2)}
    made = Decisions(of, store)
    name = made.proposed(0, config)
    made.reported("a", 1, {"epoch": 1, "val_accuracy": 1 / 3})
    made.reported("a", 1, {"epoch": 1, "val_accuracy": 0.0})  # again: the first counts
    made.told(name, None, ["a", "b"])
    made.told(name, 2 / 3, ["a", "b"])
    made.told(name, None, ["a", "b"])
    made.told(name, 0.1, ["of other code"])
    made.ended("a", {"val_accuracy": 0.5})
    made.stopped("b", 3, 0.25)
    made.stopped("b", 4, 0.5)
    made.close()
    read = Decisions(of, store)
    assert read.log == [
        Proposed(0, name, config),
        Reported("a", 1, {"epoch": 1, "val_accuracy": 1 / 3}),
        Told(name, None, ("a", "b")),
        Told(name, 2 / 3, ("a", "b")),
        Told(name, 0.1, ("of other code",)),
        Ended("a", {"val_accuracy": 0.5}),
        Stopped("b", 3, 0.25),
    ]
    assert read.configs == [config]
    assert read.configs[0]["train.optimizer"] is not config["train.optimizer"]  # it was found in the space
    assert read.stopped_keys == {"b": 3}
    assert read.damage is None


def test_a_sweep_without_adaptive_parts_leaves_nothing(tmp_path: Path) -> None:
    decisions = Decisions(sweep(search=None), Store(str(tmp_path)))
    decisions.stopped("b", 3, 0.25)
    decisions.close()
    assert list(tmp_path.iterdir()) == []


WRONG = [
    {"decision": "proposed", "number": "0", "name": "x", "config": {}},
    {"decision": "proposed", "number": 0, "name": "x", "config": {"train.rho": 0.5, "train.nonsense": 1}},
    {"decision": "proposed", "number": 10**9, "name": "x", "config": {"train.rho": 0.5}},
    {"decision": "proposed", "number": 0, "name": ["x"], "config": {"train.rho": 0.5}},
    {"decision": "proposed", "number": 0, "name": "x"},
    {"decision": "told", "name": "x", "value": "high", "trainings": []},
    {"decision": "told", "name": "x", "value": 1.0, "trainings": 3},
    {"decision": "reported", "key": "a", "number": 1, "values": [1]},
    {"decision": "reported", "key": "a", "number": None, "values": {}},
    {"decision": "stopped", "key": {}, "iteration": 1, "value": None},
    {"decision": "ended", "key": "a", "values": {"x": "y"}},
    {"decision": "unheard of"},
    {},
]


@pytest.mark.parametrize("record", WRONG, ids=json.dumps)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_line_that_is_no_decision_is_no_traceback(record: dict[str, Any], sealed: bool, tmp_path: Path) -> None:
    from orchestrator.decisions import _check

    store = Store(str(tmp_path))
    made = Decisions(sweep(), store)
    made.proposed(0, {"train.rho": 0.25})
    made.close()
    (name,) = store.names("searches")
    line = {**record, "check": _check(record)} if sealed else record
    store.append(f"searches/{name}", json.dumps(line).encode() + b"\n")
    read = Decisions(sweep(), store)
    assert read.configs == [{"train.rho": 0.25}]
    assert read.damage is not None and name in read.damage and "\n" not in read.damage
