"""The adaptive parts of a run: a search algorithm that proposes settings, a scheduler that stops trainings.

An inner search algorithm (Optuna, …), if there is one, proposes settings; it sees the metric averaged
over a setting's seeds. An inner scheduler (ASHA, …) is shown training trials only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from .decisions import Decisions
from .events import Events
from .graph import Graph
from .plan import Node, Plan
from .sweep import plain


class Proposals:
    """What the inner search proposes, and what it is told of it.

    Args:
        inner: the sweep's search algorithm; without one, nothing is proposed.
        plan: grows by what is proposed.
        add: tells the graph of tasks that are new in the plan.
    """

    def __init__(
        self,
        inner: Searcher | None,
        plan: Plan,
        graph: Graph,
        decisions: Decisions,
        events: Events,
        *,
        add: Callable[[list[Node]], None],
    ) -> None:
        self._inner = inner
        self._plan = plan
        self._graph = graph
        self._decisions = decisions
        self._events = events
        self._add = add
        self._open: list[_Proposal] = []  # the inner search has not been told of their end
        self._values: dict[str, Any] = {}  # the metric of trainings that have ended, by key
        self._exhausted = inner is None

    @property
    def finished(self) -> bool:
        """Whether no further setting will come, and the inner search waits for no result."""
        return self._exhausted and not self._open

    def ask(self, slots: int) -> None:
        """Take settings from the inner search while there are slots for their trainings."""
        inner, plan = self._inner, self._plan
        if inner is None:
            return
        self._settle(inner)
        while not self._exhausted:
            if plan.proposals >= plan.sweep.samples:
                self._exhausted = True
                return
            trainings = len(self._open) * len(plan.sweep.replicates)
            if self._open and trainings >= slots:
                return
            name = f"setting-{plan.proposals}"
            config = inner.suggest(name)
            if config is None and self._open:
                return
            if config is None or config == Searcher.FINISHED:  # None although it waits for no result: never more
                self._exhausted = True
                return
            setting, nodes = plan.propose(dict(config))
            self._decisions.proposed({path: plain(v) for path, v in dict(config).items()})
            self._events.emit("proposed", setting=setting.index, config={k: str(v) for k, v in setting.config.items()})
            self._add(nodes)
            self._open.append(_Proposal(name, tuple(n.key for n in plan.trainings(setting))))
            self._settle(inner)

    def recall(self) -> None:
        """Tell the inner search of the settings that earlier runs tried, as far as they are done."""
        if self._inner is None:
            return
        for setting in self._plan.settings:
            values: list[Any] = [self._values.get(node.key) for node in self._plan.trainings(setting)]
            if all(_is_finite(v) for v in values):
                try:
                    self._inner.add_evaluated_point(dict(setting.config), sum(values) / len(values))
                except NotImplementedError:
                    return  # this algorithm cannot be told; it goes on without

    def ended(self, key: str, results: Mapping[str, Any]) -> None:
        """A task has these results; those of a training are kept for the inner search."""
        if self._inner is not None and self._plan.nodes[key].kind == "train":
            self._values[key] = results.get(self._plan.sweep.metric)

    def stopped(self, key: str, iteration: int, results: Mapping[str, Any]) -> None:
        """The scheduler has stopped a training, which had come to these results."""
        self._decisions.stopped(key, iteration)
        self.ended(key, results)

    def lost(self, key: str) -> None:
        """A training has lost its worker: its epochs come again."""
        for proposal in self._open:
            proposal.forget(key)

    def progress(self, key: str, progress: Mapping[str, Any]) -> None:
        """A training reports; the inner search sees the mean once every seed has come so far."""
        value = progress.get(self._plan.sweep.metric)
        if self._inner is None or not isinstance(value, (int, float)):
            return
        for proposal in self._open:
            mean = proposal.heard(key, float(value)) if key in proposal.keys else None
            if mean is not None:
                iteration, average = mean
                report = {self._plan.sweep.metric: average, "training_iteration": iteration}
                self._inner.on_trial_result(proposal.name, report)

    def _settle(self, inner: Searcher) -> None:
        """Tell the inner search of the settings whose trainings have all come to an end, whichever end."""
        for proposal in list(self._open):
            if not all(self._graph.state(key).final for key in proposal.keys):
                continue
            self._open.remove(proposal)
            values: list[Any] = [self._values.get(key) for key in proposal.keys]
            # A setting that loses a seed is no good setting: a mean of the survivors would flatter it.
            if all(_is_finite(v) for v in values):
                metric = sum(values) / len(values)
                inner.on_trial_complete(proposal.name, {self._plan.sweep.metric: metric}, error=False)
            else:
                inner.on_trial_complete(proposal.name, None, error=True)


class _Proposal:
    """A setting of the inner search while its trainings, which have these keys, run."""

    def __init__(self, name: str, keys: tuple[str, ...]) -> None:
        self.name = name
        self.keys = keys
        self._curves: defaultdict[str, list[float]] = defaultdict(list)

    def forget(self, key: str) -> None:
        """A training starts over."""
        self._curves.pop(key, None)

    def heard(self, key: str, value: float) -> tuple[int, float] | None:
        """(iteration, mean over the seeds) once every seed has come so far."""
        curve = self._curves[key]
        curve.append(value)
        n = len(curve)
        if len(self._curves) < len(self.keys) or any(len(c) < n for c in self._curves.values()):
            return None
        return n, sum(c[n - 1] for c in self._curves.values()) / len(self.keys)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


class Shield(FIFOScheduler):
    """Shows an inner scheduler the training trials and hides everything else from it.

    Also keeps warm workers: Tune drops an idle one when no trial waits for its slot at that moment. And it
    ends every trial when the run is to end early, and hands on why a worker has died.

    Args:
        graph: says whether work is waiting.
        keep: how many idle workers to keep; 0 if tasks want different slots, since an idle worker of
            one shape would then hold resources that another needs.
        halted: whether the run is to end early.
        on_death: told of a trial and of what Ray says of the death of its worker.
    """

    def __init__(
        self,
        inner: TrialScheduler | None,
        graph: Graph,
        keep: int,
        *,
        halted: Callable[[], bool] = lambda: False,
        on_death: Callable[[str, BaseException | None], None] = lambda trial_id, error: None,
    ) -> None:
        super().__init__()
        self._graph = graph
        self._scheduler = inner
        self._keep = keep
        self._kept: Any = None  # the shape of which idle workers are kept
        self._halted = halted
        self._on_death = on_death

    def _keep_workers(self, tune_controller: Any, shape: Any) -> None:
        """Keep idle workers of the first shape, until a task wants another."""
        cache: Any = getattr(getattr(tune_controller, "_tune_controller", tune_controller), "_actor_cache", None)
        if not self._keep or not hasattr(cache, "decrease_max"):  # private to Tune, so it may go away
            return
        if self._kept is None:
            self._kept = shape
            cache.increase_max(shape, self._keep)
        elif shape != self._kept:
            cache.decrease_max(self._kept, self._keep)
            self._keep = 0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._keep_workers(tune_controller, trial.placement_group_factory)
        if self._watches(trial):
            self._scheduler.on_trial_add(tune_controller, trial)  # type: ignore[union-attr]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._on_death(str(trial.trial_id), trial.get_pickled_error())
        if self._watches(trial):
            self._scheduler.on_trial_error(tune_controller, trial)  # type: ignore[union-attr]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self._halted():
            return str(TrialScheduler.STOP)
        if not trial.config["bundle"].keys:  # a warm-up, see `DagSearch._warm_up`
            starting = any(t.status == trial.PENDING for t in tune_controller.get_trials())
            wanted = bool(self._graph.shapes())
            return str(TrialScheduler.CONTINUE if starting and not wanted else TrialScheduler.STOP)
        # What has only its evaluation and saving left is not worth stopping.
        if self._watches(trial) and not result.get("last"):
            return str(self._scheduler.on_trial_result(tune_controller, trial, result))  # type: ignore[union-attr]
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._watches(trial) and self._scheduler.metric in result:  # type: ignore[union-attr]
            self._scheduler.on_trial_complete(tune_controller, trial, result)  # type: ignore[union-attr]

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if self._watches(trial):
            self._scheduler.on_trial_remove(tune_controller, trial)  # type: ignore[union-attr]

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: DagSearch suggests in order of priority, and Tune starts what was suggested."""

    def __getstate__(self) -> dict[str, Any]:
        """Empty, see `DagSearch`."""
        return {}

    def _watches(self, trial: Any) -> bool:
        return self._scheduler is not None and trial.config["bundle"].watched
