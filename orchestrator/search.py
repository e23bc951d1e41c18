"""DagSearch: the Tune search algorithm that suggests whichever tasks are ready next.

Tune schedules everything, trainings and dependent probes alike. DagSearch turns the graph's decisions
into Tune trials and Tune's news into the graph's events. An inner search algorithm (Optuna, …), if
there is one, proposes settings; it sees the metric averaged over a setting's seeds. An inner scheduler
(ASHA, …) is shown training trials only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

from ray import cloudpickle
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from .decisions import Decisions
from .events import Events
from .graph import Graph, State
from .plan import Node, Plan, Shape, past_seconds, shape_of
from .store import Store
from .sweep import plain
from .worker import Bundle, Input, Outcome, Work


class DagSearch(Searcher):
    """Suggests bundles of ready tasks to Tune.

    Args:
        plan: the tasks; grows when `inner` proposes settings.
        slots: how many slots of a shape the cluster has at most.
        run: configuration of every worker (`worker.RunInfo` as a dict).
        decisions: what adaptive parts decided in earlier runs, and where to record it now.
        inner: a Tune search algorithm that proposes settings.
        watched: a scheduler wants every report of every training.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        events: Events,
        *,
        slots: Callable[[Shape], int],
        run: Mapping[str, Any],
        decisions: Decisions,
        inner: Searcher | None = None,
        watched: bool = False,
    ) -> None:
        super().__init__()
        self.graph = Graph()
        self.plan = plan
        self.errors: dict[str, str] = {}
        self._store = store
        self._events = events
        self._slots = slots
        self._run = dict(run)
        self._decisions = decisions
        self._inner = inner
        self._watched = watched or inner is not None
        self._bundles: dict[str, Bundle] = {}  # by Tune trial
        self._out: defaultdict[Shape, int] = defaultdict(int)  # bundles handed out, by shape
        self._heard: defaultdict[str, set[str]] = defaultdict(set)  # keys reported, by Tune trial
        self._now: dict[str, str | None] = {}  # the task at work, by Tune trial
        self._attempts: defaultdict[str, int] = defaultdict(int)
        self._open: list[_Proposal] = []  # of the inner search, which has not been told of their end
        self._values: dict[str, Any] = {}  # the metric of trainings that have ended, by key
        self._exhausted = inner is None
        self._begun = 0  # bundles handed out so far
        self._started_all = False
        for kind, seconds in past_seconds(plan, store).items():
            self.graph.expect(kind, seconds)
        self._add(list(plan.nodes.values()))
        if inner is not None:
            self._recall(inner)

    # Tune asks

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next bundle; None while nothing is ready; FINISHED when all is done."""
        self._ask_inner()
        for shape in cast("list[Shape]", self.graph.shapes()):
            slots = self._slots(shape)
            if self._out[shape] < slots:
                keys = self.graph.take(shape, slots=slots)
                return {"bundle": self._bundle(trial_id, keys, shape), "run": self._run}
        warm = self._warm_up(trial_id)
        if warm is not None:
            return {"bundle": warm, "run": self._run}
        if self.graph.finished and self._exhausted and not self._open:
            return str(Searcher.FINISHED)
        return None

    # Tune tells

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in what a bundle has committed so far, and its progress."""
        self._take_in(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take in the end of a bundle: complete, stopped by a scheduler, or lost with its worker."""
        bundle = self._bundles.pop(trial_id, None)
        if bundle is None:
            return
        if result and not error:
            self._take_in(trial_id, result, bundle)
        self._out[shape_of(bundle.slot)] -= 1
        heard = self._heard.pop(trial_id, set())
        now = self._now.pop(trial_id, None)
        left = [k for k in bundle.keys if k not in heard]
        for key in left:
            if error:
                # Blame the task that was at work; unknown (died before any report): the first.
                again = self.graph.lost(key, blame=key == (now or left[0]))
                for proposal in self._open:
                    proposal.forget(key)  # its epochs come again
                self._events.emit("lost", key=key, label=self._label(key), again=again)
                if not again:
                    self.errors[key] = "its worker process died each time it ran: out of memory, killed, or crashed"
                    self._events.emit("failed", key=key, label=self._label(key), error=self.errors[key])
            else:
                iteration = int((result or {}).get("training_iteration", 0))
                self.graph.stopped(key)
                self._decisions.stopped(key, iteration)
                self._events.emit("stopped", key=key, label=self._label(key), iteration=iteration)
                self._note(key, result or {})

    # Inside

    def _take_in(self, trial_id: str, result: Mapping[str, Any], bundle: Bundle | None = None) -> None:
        bundle = bundle or self._bundles.get(trial_id)
        if bundle is None:
            return
        self._now[trial_id] = result.get("now")
        for outcome in result.get("outcomes") or ():
            if outcome.key not in self._heard[trial_id]:
                self._heard[trial_id].add(outcome.key)
                self._conclude(outcome, str(result.get("worker", "")))
        if bundle.watched and result.get("progress") and not result.get("outcomes"):
            self._progress(bundle.keys[0], result["progress"][0])

    def _conclude(self, outcome: Outcome, worker: str) -> None:
        label = self._label(outcome.key)
        if outcome.status == "failed":
            self.errors[outcome.key] = outcome.error or "failed"
            self.graph.failed(outcome.key)
            self._events.emit("failed", key=outcome.key, label=label, error=outcome.error)
            return
        diverged = outcome.status == "diverged"
        self.graph.committed(outcome.key, outcome.seconds, barren=diverged)
        self._events.emit(
            "committed", key=outcome.key, label=label, seconds=outcome.seconds, worker=worker, status=outcome.status
        )
        if not diverged:
            self._note(outcome.key, outcome.results)

    def _bundle(self, trial_id: str, keys: list[str], shape: Shape) -> Bundle:
        works = []
        for key in keys:
            node = self.plan.nodes[key]
            self._attempts[key] += 1
            inputs = tuple(self._input(i) for i in node.inputs)
            manifest, attempt = node.spec(), self._attempts[key]
            works.append(Work(key, node.task, inputs, node.seeds, manifest, self._is_watched(node), attempt))
            self._events.emit("submitted", key=key, label=node.label, bundle=trial_id)
        try:
            payload = cloudpickle.dumps(works)
        except Exception:  # whatever the objects that a task refers to may raise
            works = [w for w in works if self._can_travel(w)]
            payload = cloudpickle.dumps(works)
        return self._hand_out(trial_id, [w.key for w in works], shape, payload, any(w.watched for w in works))

    def _can_travel(self, work: Work) -> bool:
        try:
            cloudpickle.dumps(work)
        except Exception as error:
            words = f"its code refers to something that cannot be sent to a worker: {error}"
            self._conclude(Outcome(work.key, "failed", 0.0, error=words), "")
            return False
        return True

    def _hand_out(self, trial_id: str, keys: list[str], shape: Shape, payload: bytes, watched: bool = False) -> Bundle:
        bundle = Bundle(trial_id, dict(shape), tuple(keys), payload, watched)
        self._bundles[trial_id] = bundle
        self._out[shape] += 1
        self._begun += 1
        return bundle

    def _warm_up(self, trial_id: str) -> Bundle | None:
        """An empty bundle that starts a worker while the first tasks (the dataset) keep the others waiting.

        A worker process takes seconds to start; without this, all but the first would start only when
        the second task is ready. `Shield` ends it once all have started: Tune would give a worker that
        is free to a trial whose own is still starting, and stop that one.
        """
        shape = shape_of(self.plan.slot_of_most())
        left = self.graph.counts[State.WAITING]
        if not self._started_all and self._begun < min(self._slots(shape), left + self._begun):
            return self._hand_out(trial_id, [], shape, b"")
        self._started_all = True
        return None

    def _input(self, key: str) -> Input:
        node = self.plan.nodes[key]
        return Input(key, node.task, node.seeds, tuple(self._input(i) for i in node.inputs))

    def _label(self, key: str) -> str:
        return self.plan.nodes[key].label

    def _is_watched(self, node: Node) -> bool:
        return self._watched and node.kind == "train"

    def _add(self, nodes: list[Node]) -> None:
        """Tell the graph of planned tasks, with what became of them before."""
        manifests = self.plan.add_to(
            self.graph, nodes, self._store, stopped=self._decisions.stopped_keys, watched=self._watched
        )
        for key, manifest in manifests.items():
            if manifest["status"] != "diverged":
                self._note(key, manifest["results"])

    # The inner search

    def _ask_inner(self) -> None:
        """Take settings from the inner search while there are slots for their trainings."""
        inner = self._inner
        if inner is None:
            return
        self._settle(inner)
        while not self._exhausted:
            if self.plan.proposals >= self.plan.sweep.samples:
                self._exhausted = True
                return
            shape = shape_of(self.plan.slot_of_most())
            trainings = len(self._open) * len(self.plan.sweep.replicates)
            if self._open and trainings >= self._slots(shape):
                return
            name = f"setting-{self.plan.proposals}"
            config = inner.suggest(name)
            if config is None and self._open:
                return
            if config is None or config == Searcher.FINISHED:  # None although it waits for no result: never more
                self._exhausted = True
                return
            setting, nodes = self.plan.propose(dict(config))
            self._decisions.proposed({path: plain(v) for path, v in dict(config).items()})
            self._events.emit("proposed", setting=setting.index, config={k: str(v) for k, v in setting.config.items()})
            self.plan.look_up(self._store, nodes)
            self._add(nodes)
            self._open.append(_Proposal(name, tuple(n.key for n in self.plan.trainings(setting))))
            self._settle(inner)

    def _settle(self, inner: Searcher) -> None:
        """Tell the inner search of the settings whose trainings have all come to an end, whichever end."""
        for proposal in list(self._open):
            if not all(self.graph.state(key).final for key in proposal.keys):
                continue
            self._open.remove(proposal)
            values: list[Any] = [self._values.get(key) for key in proposal.keys]
            # A setting that loses a seed is no good setting: a mean of the survivors would flatter it.
            if all(_is_finite(v) for v in values):
                metric = sum(values) / len(values)
                inner.on_trial_complete(proposal.name, {self.plan.sweep.metric: metric}, error=False)
            else:
                inner.on_trial_complete(proposal.name, None, error=True)

    def _recall(self, inner: Searcher) -> None:
        """Tell the inner search of the settings that earlier runs tried, as far as they are done."""
        for setting in self.plan.settings:
            values: list[Any] = [self._values.get(node.key) for node in self.plan.trainings(setting)]
            if all(_is_finite(v) for v in values):
                try:
                    inner.add_evaluated_point(dict(setting.config), sum(values) / len(values))
                except NotImplementedError:
                    return  # this algorithm cannot be told; it goes on without

    def _note(self, key: str, results: Mapping[str, Any]) -> None:
        """Keep the metric of a training that has ended."""
        if self._inner is not None and self.plan.nodes[key].kind == "train":
            self._values[key] = results.get(self.plan.sweep.metric)

    def _progress(self, key: str, progress: Mapping[str, Any]) -> None:
        value = progress.get(self.plan.sweep.metric)
        if self._inner is None or not isinstance(value, (int, float)):
            return
        for proposal in self._open:
            mean = proposal.heard(key, float(value)) if key in proposal.keys else None
            if mean is not None:
                iteration, average = mean
                report = {self.plan.sweep.metric: average, "training_iteration": iteration}
                self._inner.on_trial_result(proposal.name, report)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles what it is given, and never needs this back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store and the recorded decisions are the state (Tune calls this regularly)."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


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

    Also keeps warm workers: Tune drops an idle one when no trial waits for its slot at that moment.

    Args:
        graph: says whether work is waiting.
        keep: how many idle workers to keep; 0 if tasks want different slots, since an idle worker of
            one shape would then hold resources that another needs.
    """

    def __init__(self, inner: TrialScheduler | None, graph: Graph, keep: int) -> None:
        super().__init__()
        self._graph = graph
        self._scheduler = inner
        self._keep = keep

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if self._keep:
            controller = getattr(tune_controller, "_tune_controller", tune_controller)
            cache: Any = getattr(controller, "_actor_cache", None)  # private, so it may go away
            if hasattr(cache, "increase_max"):
                cache.increase_max(trial.placement_group_factory, self._keep)
            self._keep = 0
        if self._watches(trial):
            self._scheduler.on_trial_add(tune_controller, trial)  # type: ignore[union-attr]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if self._watches(trial):
            self._scheduler.on_trial_error(tune_controller, trial)  # type: ignore[union-attr]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
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
