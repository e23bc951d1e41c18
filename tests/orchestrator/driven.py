"""DagSearch and Shield driven by hand, as Tune drives them, with workers whose trainings are a formula.

Ray is imported, not started. A worker reports epoch by epoch, commits to a real store and can be abandoned at
any point; a training that begins again repeats the reports it has made, at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container
from types import SimpleNamespace
from typing import Any

from ray.tune.search import Searcher

from orchestrator.adaptive import Shield
from orchestrator.decisions import Decisions
from orchestrator.events import Events
from orchestrator.graph import State
from orchestrator.plan import Node, make_plan
from orchestrator.room import Room
from orchestrator.run import checked_scheduler, checked_search
from orchestrator.search import DagSearch
from orchestrator.slots import NodeOffer
from orchestrator.store import Store
from orchestrator.sweep import Sweep
from orchestrator.warm import Workers
from orchestrator.worker import Bundle, Outcome

EPOCHS = 4


def curve(node: Node, epoch: int) -> float:
    """Validation accuracy of a toy training: best for rho = 0.6, and better from epoch to epoch."""
    rho, seed = node.task.rho, node.seeds["init"]  # type: ignore[attr-defined]
    return (1 - (rho - 0.6) ** 2) * (1 - math.exp(-0.5 * epoch)) + 0.01 * math.sin(7 * seed + 50 * rho)


class Machines:
    """What outlives a driver: how far each training has come (its snapshot), and how often each ran."""

    def __init__(self) -> None:
        self.epochs: Counter[str] = Counter()
        self.committed: Counter[str] = Counter()


class Driver:
    """One run of a sweep.

    Args:
        end: what becomes of a task when it has come to its end: "done", "diverged" or "failed".
        only: the tasks to run; None for all that are not stored.
    """

    def __init__(
        self,
        sweep: Sweep,
        store: Store,
        machines: Machines | None = None,
        *,
        slots: int = 2,
        room: Room | None = None,
        end: Callable[[Node], str] = lambda node: "done",
        only: Container[str] | None = None,
    ) -> None:
        self.store = store
        self.machines = machines or Machines()
        self.end = end
        self.decisions = Decisions(sweep, store)
        self.plan = make_plan(sweep, store, self.decisions.configs[: sweep.samples])
        self.inner, self.scheduler = checked_search(self.plan), checked_scheduler(self.plan)
        self.room = room or Room([NodeOffer("node", "host", {"CPU": float(slots)})])
        self.search = DagSearch(
            self.plan,
            store,
            Events(store, "runs/toy/r"),
            room=self.room,
            run={},
            decisions=self.decisions,
            inner=self.inner,
            watched=self.scheduler is not None,
            only=only,
        )
        self.shield = Shield(
            self.scheduler,
            self.search.graph,
            Workers(self.search.graph, self.room, self.search.seen),
            decisions=self.decisions,
            halted=lambda: self.search.halted is not None,
            on_death=self.search.on_worker_death,
        )
        self.trials: dict[str, Any] = {}  # of Tune, that are running
        self.shown: list[tuple[str, int, float]] = []  # reports of trainings, for the first time
        self._number = 0

    def run(self, steps: int | None = None) -> Driver:
        """Go on to the end, or abandon everything after so many events of workers."""
        while steps is None or steps > 0:
            if self.fill():
                return self
            self.advance()
            steps = None if steps is None else steps - 1
        return self

    def fill(self) -> bool:
        """Begin what can begin; whether the run is at its end."""
        while True:
            name = f"trial-{self._number}"
            answer = self.search.suggest(name)
            if answer == Searcher.FINISHED:
                assert not self.trials
                return True
            if answer is None:
                assert self.trials, "nothing to do and not finished: Tune would wait for ever"
                return False
            assert isinstance(answer, dict)
            self._number += 1
            bundle: Bundle = answer["bundle"]
            trial = SimpleNamespace(
                trial_id=name,
                config=answer,
                status="RUNNING",
                PENDING="PENDING",
                placement_group_factory=None,
                pickled_error_file="/nonexistent",
                bundle=bundle,
                epoch=0,
                last={},
            )
            self.trials[name] = trial
            self.shield.on_trial_add(self, trial)
            if not bundle.keys:  # a warm-up
                self._over(trial, {"outcomes": [], "now": None})
            while trial.epoch < self.machines.epochs[self._key(trial)] and name in self.trials:
                self._report(trial)

    def advance(self) -> None:
        """The training that has come least far reports or ends (or the dataset does)."""
        trial = min(self.trials.values(), key=lambda t: (t.epoch, list(self.plan.nodes).index(t.bundle.keys[0])))
        node = self.plan.nodes[trial.bundle.keys[0]]
        if node.kind == "train" and trial.bundle.watched and trial.epoch < EPOCHS:
            self.machines.epochs[node.key] = max(self.machines.epochs[node.key], trial.epoch + 1)
            self._report(trial)
        else:
            self._finish(trial)

    def kill_worker(self, trial: Any, *, snapshots: bool = True) -> None:
        """The worker of a trial dies."""
        if not snapshots:
            self.machines.epochs.pop(trial.bundle.keys[0], None)
        self.shield.on_trial_error(self, trial)
        del self.trials[trial.trial_id]
        self.search.on_trial_complete(trial.trial_id, error=True)

    def get_trials(self) -> list[Any]:
        return list(self.trials.values())

    get_live_trials = get_trials

    # What can be compared

    def outcome(self) -> dict[str, Any]:
        """All that adaptive parts decided, and the state in which that left them."""
        study = getattr(getattr(self.inner, "searcher", self.inner), "_ot_study", None)
        brackets = getattr(self.scheduler, "_brackets", ())
        return {
            "configs": self.decisions.configs,
            "stopped": self.decisions.stopped_keys,
            "states": {k: v.state not in (State.DONE, State.STORED) for k, v in self.search.graph.vertices.items()},
            "trials": [(t.params, t.state, t.values, t.intermediate_values) for t in study.trials] if study else [],
            "rungs": [b._rungs for b in brackets],
        }

    # Inside

    def _key(self, trial: Any) -> str:
        return trial.bundle.keys[0] if trial.bundle.keys else ""

    def _report(self, trial: Any) -> None:
        trial.epoch += 1
        node = self.plan.nodes[self._key(trial)]
        progress = {"epoch": trial.epoch, "val_accuracy": curve(node, trial.epoch)}
        result = {"outcomes": [], "now": node.key, "progress": [progress]}
        trial.last = {**progress, **result, "training_iteration": trial.epoch, "time_total_s": float(trial.epoch)}
        if self.shield.on_trial_result(self, trial, trial.last) == "STOP":
            self._over(trial, trial.last)
        else:
            self.search.on_trial_result(trial.trial_id, trial.last)

    def _finish(self, trial: Any) -> None:
        outcomes = []
        progress: dict[str, Any] = {}
        for node in (self.plan.nodes[key] for key in trial.bundle.keys):
            status = self.end(node)
            results: dict[str, Any] = {"diverged": status == "diverged"}
            if node.kind == "train" and status == "done":
                results = progress = {"val_accuracy": curve(node, EPOCHS)}
            if status != "failed":
                manifest = {**node.spec(), "status": status, "results": results, "seconds": 0.1}
                self.store.commit(node.name, node.key, self.store.workspace(), manifest)
                self.machines.committed[node.key] += 1
            outcomes.append(Outcome(node.key, status, 0.1, results))
        result = {"outcomes": outcomes, "now": None, "done": True, "progress": [progress]}
        self._over(trial, {**progress, **result, "training_iteration": trial.epoch + 1, "time_total_s": 10.0})

    def _over(self, trial: Any, result: dict[str, Any]) -> None:
        del self.trials[trial.trial_id]
        self.shield.on_trial_complete(self, trial, result)
        self.search.on_trial_complete(trial.trial_id, result)
