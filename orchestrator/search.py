"""DagSearch: the Tune search algorithm that suggests whichever tasks are ready next.

Tune schedules everything, trainings and dependent probes alike. DagSearch turns the graph's decisions
into Tune trials and Tune's news into the graph's events. What a search algorithm proposes and a scheduler
stops is the matter of `adaptive`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

from ray import cloudpickle
from ray.tune.search import Searcher

from .adaptive import Proposals
from .decisions import Decisions
from .events import Events
from .graph import Graph, State
from .plan import Node, Plan, Shape, past_seconds, shape_of
from .process import Input
from .store import Store
from .worker import Bundle, Outcome, Work


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
        self._proposals = Proposals(inner, plan, self.graph, decisions, events, add=self._look_up_and_add)
        self._watched = watched or inner is not None
        self._bundles: dict[str, Bundle] = {}  # by Tune trial
        self._out: defaultdict[Shape, int] = defaultdict(int)  # bundles handed out, by shape
        self._heard: defaultdict[str, set[str]] = defaultdict(set)  # keys reported, by Tune trial
        self._now: dict[str, str | None] = {}  # the task at work, by Tune trial
        self._attempts: defaultdict[str, int] = defaultdict(int)
        self._begun = 0  # bundles handed out so far
        self._started_all = False
        for kind, seconds in past_seconds(plan, store).items():
            self.graph.expect(kind, seconds)
        self._add(list(plan.nodes.values()))
        self._proposals.recall()

    # Tune asks

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next bundle; None while nothing is ready; FINISHED when all is done."""
        self._proposals.ask(self._slots(shape_of(self.plan.slot_of_most())))
        for shape in cast("list[Shape]", self.graph.shapes()):
            slots = self._slots(shape)
            if self._out[shape] < slots:
                keys = self.graph.take(shape, slots=slots)
                return {"bundle": self._bundle(trial_id, keys, shape), "run": self._run}
        warm = self._warm_up(trial_id)
        if warm is not None:
            return {"bundle": warm, "run": self._run}
        if self.graph.finished and self._proposals.finished:
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
                self._proposals.lost(key)
                self._events.emit("lost", key=key, label=self._label(key), again=again)
                if not again:
                    self.errors[key] = "its worker process died each time it ran: out of memory, killed, or crashed"
                    self._events.emit("failed", key=key, label=self._label(key), error=self.errors[key])
            else:
                iteration = int((result or {}).get("training_iteration", 0))
                self.graph.stopped(key)
                self._proposals.stopped(key, iteration, result or {})
                self._events.emit("stopped", key=key, label=self._label(key), iteration=iteration)

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
            self._proposals.progress(bundle.keys[0], result["progress"][0])

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
            self._proposals.ended(outcome.key, outcome.results)

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

    def _look_up_and_add(self, nodes: list[Node]) -> None:
        self.plan.look_up(self._store, nodes)
        self._add(nodes)

    def _add(self, nodes: list[Node]) -> None:
        """Tell the graph of planned tasks, with what became of them before."""
        manifests = self.plan.add_to(
            self.graph, nodes, self._store, stopped=self._decisions.stopped_keys, watched=self._watched
        )
        for key, manifest in manifests.items():
            if manifest["status"] != "diverged":
                self._proposals.ended(key, manifest["results"])

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles what it is given, and never needs this back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store and the recorded decisions are the state (Tune calls this regularly)."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""
