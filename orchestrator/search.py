"""DagSearch: the Tune search algorithm that suggests whichever tasks are ready next.

Tune schedules everything, trainings and dependent probes alike. DagSearch turns the graph's decisions
into Tune trials and Tune's news into the graph's events. What a search algorithm proposes and a scheduler
stops is the matter of `adaptive`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ray import cloudpickle
from ray.tune.search import Searcher

from .adaptive import Proposals
from .deaths import death
from .decisions import Decisions
from .durations import known_durations
from .errors import DamagedArtifact, UserError
from .events import Events
from .fit import Place
from .graph import Graph, State
from .live import Live
from .locality import Locality
from .node_watch import NodeWatch
from .plan import Node, Plan
from .process import Input
from .room import Room
from .signals import GRACE
from .slots import NodeOffer, Shape, in_words, shape_of, slot_of
from .store import Store
from .tasklog import last_words
from .telling import Teller
from .text import listed_kinds
from .worker import Bundle, Outcome, Work

LONG = 5.0
"""Tasks expected to take so many seconds are claimed, so that no other run computes them at the same time."""

NOWHERE = 60.0
"""Seconds for which nothing may run, and no node have room for anything that is left, before the run ends."""

START_SECONDS = 3.0
"""What it costs to start a worker; with torch and CUDA it is more."""

NODES_SECONDS = 5.0
"""How often to look which nodes there are."""

DOUBTS = 10
"""How often an artifact in which no damage is found may be called damaged before it counts as such."""


class DagSearch(Searcher):
    """Suggests bundles of ready tasks to Tune.

    Args:
        plan: the tasks; grows when `inner` proposes settings.
        room: the nodes, and what is handed out on them.
        run: configuration of every worker (`worker.RunInfo` as a dict).
        decisions: what adaptive parts decided in earlier runs, and where to record it now.
        inner: a Tune search algorithm that proposes settings.
        watched: a scheduler wants every report of every training.
        reports: listeners of `events` want them too, but in no hurry.
        live: this run's sign of life, where it claims long tasks.
        nodes: tells which nodes are alive; None if they never change.
        idle: of each worker that is idle now its node.
        only: the tasks to run; None for all that are not stored.
        fail_fast: end the run when a task has failed.
        keep_weights: False deletes a training's weights as soon as nothing is waiting for them.
        on_growth: told when the plan has grown.
        saving: whether workers still save what they were at, when the run is to end early.
        watch: knows on which nodes tasks may run; None if they may on all.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        events: Events,
        *,
        room: Room,
        run: Mapping[str, Any],
        decisions: Decisions,
        inner: Searcher | None = None,
        watched: bool = False,
        reports: bool = False,
        live: Live | None = None,
        nodes: Callable[[], Sequence[NodeOffer]] | None = None,
        idle: Callable[[], Sequence[str]] = lambda: (),
        only: Container[str] | None = None,
        fail_fast: bool = False,
        keep_weights: bool = True,
        on_growth: Callable[[], None] = lambda: None,
        saving: Callable[[], bool] = lambda: False,
        watch: NodeWatch | None = None,
    ) -> None:
        super().__init__()
        self.graph = Graph()
        self.plan = plan
        self.errors: dict[str, str] = {}
        self.halted: str | None = None
        """Why the run ends before all is done, as a sentence; None as long as it goes on."""
        self._store = store
        self._events = events
        self._room = room
        self._run = dict(run)
        self._decisions = decisions
        asked = inner if only is None else None  # to run certain tasks again is no time for further settings
        self._proposals = Proposals(asked, plan, self.graph, decisions, events, add=self._look_up_and_add)
        self._watched = watched or inner is not None
        self._reports = reports
        self.teller = Teller(
            events, plan, self.graph, lambda: room.slots(shape_of(plan.slot_of_most()), possible=False)
        )
        self._bundles: dict[str, Bundle] = {}  # by Tune trial
        self._heard: defaultdict[str, set[str]] = defaultdict(set)  # keys reported, by Tune trial
        self._now: dict[str, str | None] = {}  # the task at work, by Tune trial
        self._node: dict[str, str] = {}  # where it is, by Tune trial
        self._steps: dict[str, int] = {}  # reports of the task at work, by Tune trial
        self._furthest: dict[str, int] = {}  # reports that a task had made when it was lost, by key
        self._died: dict[str, BaseException | None] = {}  # what Tune says of a dead worker, by Tune trial
        self._attempts: defaultdict[str, int] = defaultdict(int)
        self._doubts: defaultdict[str, int] = defaultdict(int)  # reports of damage that was not found
        self._live = live
        self._nodes = nodes
        self.locality = Locality(plan.ancestors, idle if store.local is None else lambda: ())
        self._nodes_looked = time.monotonic()
        self._nowhere_since: float | None = None  # since when nothing runs and nothing left has room anywhere
        self._only = only
        self._fail_fast = fail_fast
        self._keep_weights = keep_weights or inner is not None  # settings to come may pair with any trial
        self._on_growth = on_growth
        self._saving = saving
        self._watch = watch
        self._halted_at = 0.0
        self._looked = time.monotonic()
        self._begun = 0  # bundles handed out so far
        self._started_all = False
        past = known_durations(plan, store, {})
        for kind in past.known():
            self.graph.expect(kind, past.mean(kind))
        self._add(list(plan.nodes.values()))
        self._proposals.recall()

    # Tune asks

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next bundle; None while nothing is ready; FINISHED when all is done."""
        try:
            return self._suggest(trial_id)
        except UserError as error:  # the store does not answer, or is full
            self.halt(str(error))
            return None

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self.teller.catch_up()
        self._look_at_nodes()
        if self._events.trouble is not None:  # the disk is full, or the store has stayed away
            self.halt(str(self._events.trouble))
        if self.halted is not None:
            saving = self._saving() and time.monotonic() - self._halted_at < GRACE
            return None if self._bundles or saving else str(Searcher.FINISHED)
        self._look_elsewhere()
        self._look_at_nodes()
        self._proposals.ask(self._room.slots(shape_of(self.plan.slot_of_most())))
        bundle = self._admit(trial_id) or self._warm_up(trial_id)
        if bundle is not None:
            self._nowhere_since = None
            return self._config(bundle)
        if self.graph.finished and self._proposals.finished:
            return str(Searcher.FINISHED)
        self._look_for_room()
        return None

    def _config(self, bundle: Bundle) -> dict[str, Any]:
        return {"bundle": bundle, "run": self._run, "checked": None if self._watch is None else self._watch.checked}

    def halt(self, reason: str) -> None:
        """Begin nothing more; what is running is saved and ends (see `Shield`)."""
        if self.halted is None:
            self.halted = reason
            self._halted_at = time.monotonic()
            self.teller.later("halted", why=reason)

    # Tune tells

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in what a bundle has committed so far, and its progress."""
        try:
            self._take_in(trial_id, result)
        except UserError as error:
            self.halt(str(error))

    def seen(self, trial_id: str, node: str, devices: Sequence[int] | None = None, worker: str = "") -> None:
        """Where the worker of a trial is, and its name."""
        self.teller.at_work(trial_id, worker)
        self._node[trial_id] = node
        if not self._room.confirm(trial_id, node, devices):
            self._look_at_nodes(anew=True)  # it came since the last look
            self._room.confirm(trial_id, node, devices)

    def on_worker_death(self, trial_id: str, error: BaseException | None) -> None:
        """Why the worker of a trial died; told before `on_trial_complete`, which Tune does not tell it."""
        self._died[trial_id] = error

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take in the end of a bundle: complete, stopped by a scheduler, or lost with its worker."""
        bundle = self._bundles.pop(trial_id, None)  # first: a run that is to end waits until none is left
        if bundle is None:
            return
        try:
            if result and not error:
                self._take_in(trial_id, result, bundle)
            heard = self._heard.pop(trial_id, set())
            left = [k for k in bundle.keys if k not in heard]
            if self._live is not None:
                self._live.release(bundle.keys)
            if error:
                self._lose(trial_id, left, shape_of(bundle.slot))
            elif self.halted is not None:
                for key in left:
                    self._return(key)
            elif self._watch is not None and result and (result.get("unchecked") or result.get("refused")):
                if result.get("refused"):
                    self._watch.refuse(str(result["node"]), str(result["refused"]))
                for key in left:  # as if they had never been handed out
                    self._return(key)
                    self._attempts[key] -= 1
            else:
                for key in left:
                    self._stop(key, result or {})
        except UserError as mistake:
            self.halt(str(mistake))
        finally:
            # The worker stays, unless it has died or nothing is to run where it is.
            good = self._watch is None or self._watch.verdict(self._node.get(trial_id, "")) is True
            (self._room.rest if trial_id in self._node and good else self._room.release)(trial_id)
            for about in (self._heard, self._now, self._node, self._steps, self._died):
                about.pop(trial_id, None)
            self.locality.begun(trial_id)
            self.teller.over(trial_id)

    def _stop(self, key: str, result: Mapping[str, Any]) -> None:
        """The scheduler has stopped a training."""
        iteration = int(result.get("steps", 0))
        self.graph.stopped(key)
        self._proposals.stopped(key, iteration, result)
        self.teller.of(key, "stopped", iteration=iteration)
        self._store.delete_snapshot(key)

    def _return(self, key: str) -> None:
        """A task that was handed out has not been carried out, through no fault of its own."""
        self.graph.returned(key)
        self.teller.of(key, "returned")

    def _lose(self, trial_id: str, left: list[str], shape: Shape) -> None:
        """A worker has died with these tasks not yet committed."""
        why = death(self._died.pop(trial_id, None), self._node.pop(trial_id, None), self._alive())
        # The task that was at work; unknown (died before any report): the first.
        suspect = self._now.pop(trial_id, None) or (left[0] if left else None)
        if suspect is not None and why.kind == "process":
            said = last_words(self._store, str(self._run.get("run")), suspect, self._attempts[suspect])
            why = replace(why, words=f"{why.words} ({said})" if said else why.words)
        steps = self._steps.pop(trial_id, 0)
        for key in left:
            if key == suspect and why.kind == "memory":
                self.teller.of(key, "lost", again=True, why=why.words, blamed=True)
                self._enlarge(key, shape, why.words)
                continue
            # One that came further than the time before is not what kills the process.
            suspicious = why.kind == "process" or (why.kind == "start" and (self._watch is None or self._watch.settled))
            blamed = key == suspect and suspicious and steps <= self._furthest.get(key, 0)
            if key == suspect:
                self._furthest[key] = max(steps, self._furthest.get(key, 0))
            again = self.graph.lost(key, blame=blamed)
            self.teller.of(key, "lost", again=again, why=why.words, blamed=blamed)
            if not again:
                self._fail(key, f"its worker died each time it ran ({self._attempts[key]} attempts): {why.words}")

    def _enlarge(self, key: str, shape: Shape, why: str) -> None:
        """A task wants more memory than its slot has: it gets a larger one, up to a whole node."""
        larger = self._room.larger(shape)
        if larger is None:
            self.graph.failed(key)
            self._fail(key, f"out of memory with the largest slot that there is, {in_words(slot_of(shape))}: {why}")
        else:
            self.graph.too_small(key, larger)
            self.teller.of(key, "enlarged", slot=slot_of(larger), why=why)

    def _fail(self, key: str, error: str) -> None:
        """A task has failed for good."""
        self.errors[key] = error
        blocked = self.graph.vertices[key].blocked
        self.teller.of(key, "failed", error=error, blocked=blocked)
        if self._fail_fast:
            self.halt(f"{self.plan.nodes[key].label} has failed, and --fail-fast was given.")

    # Where there is room

    def _admit(self, trial_id: str) -> Bundle | None:
        """The most urgent tasks for which there is room now.

        When the most urgent of all has none, room is kept where it will have some soonest, and what is less urgent
        and finds room beside that goes first: nothing waits for all to end, and nothing large is starved by
        what is small.
        """
        kept = False
        self._room.unreserve()
        for shape in cast("list[Shape]", self.graph.shapes()):
            if not self._is_worth_a_start(shape):
                continue
            place = self._room.take(shape, trial_id)
            if place is None:
                kept = kept or self._room.reserve(shape)
                continue
            slots, prefer = self._room.slots(shape), self.locality.preference()
            while keys := self.graph.take(shape, slots=slots, prefer=prefer):
                self.locality.promise(trial_id, keys)
                keys = self._claimed(keys)
                if keys:
                    expected = (self.graph.expected(key) for key in keys)
                    place.until = time.monotonic() + sum(math.inf if s is None else s for s in expected)
                    return self._bundle(trial_id, keys, shape, place)
            (self._room.rest if place.known else self._room.release)(trial_id)  # other runs are at work on all of it
        if self._proposals.finished:
            self._room.shrink_to(self.graph.to_come)
        return None

    def _is_worth_a_start(self, shape: Shape) -> bool:
        """Whether a worker that would have to be started is of use before those that are there have done it all."""
        workers, idle = self._room.staff(shape)
        return bool(idle) or not workers or self.graph.work_to_come(shape) > START_SECONDS * workers

    def _look_at_nodes(self, *, anew: bool = False) -> None:
        """Take note of nodes that have come or gone, or are left out; end the run if none is left for what is to do."""
        left_out = self._watch.left_out if self._watch is not None else {}
        news = self._watch.look() if self._watch is not None else []
        for node in news:
            self.teller.emit("left_out", node=node.id, host=node.host, why=left_out[node.id])
        now = time.monotonic()
        if self._nodes is not None and (anew or news or now - self._nodes_looked > NODES_SECONDS):
            self._nodes_looked = now
            there = self._nodes()
            if there:  # no news is no reason to forget what there was
                self._room.update([node for node in there if node.id not in left_out])
                self.teller.slots_changed()
        if self._watch is not None and news:
            wanted = {v.shape for v in self.graph.vertices.values() if not v.state.final}
            for shape in cast("set[Shape]", wanted):
                if (why := self._watch.hopeless(slot_of(shape))) is not None:
                    self.halt(why)

    def _alive(self) -> Container[str]:
        """Identifiers of the nodes that are alive."""
        return {node.id for node in self._nodes()} if self._nodes is not None else ()

    def _look_for_room(self) -> None:
        """End the run when nothing runs and no node, nor any that may be added, has what is left."""
        waiting = cast("list[Shape]", self.graph.shapes())
        waiting += [place.shape for place in self._room.places() if not place.idle]
        running = any(place.known and not place.idle and place.node is not None for place in self._room.places())
        if running or not waiting or any(self._room.slots(shape) for shape in waiting):
            self._nowhere_since = None
            return
        now = time.monotonic()
        self._nowhere_since = now if self._nowhere_since is None else self._nowhere_since
        if now - self._nowhere_since > NOWHERE:
            shape = waiting[0]
            vertices = [v for v in self.graph.vertices.values() if v.shape == shape and not v.state.final]
            names = listed_kinds(dict.fromkeys(self.plan.nodes[v.key].name for v in vertices))
            self.halt(
                f"No node is left that has the slot of {len(vertices)} tasks ({names}): "
                f"{in_words(slot_of(shape))}: start one that has it and run the same command again."
            )

    # What other runs do

    def _claimed(self, keys: list[str]) -> list[str]:
        """Those of the tasks just taken that no other run is at work on."""
        if self._live is None:
            return keys
        expected = {k: self.graph.expected(k) for k in keys}
        theirs = self._live.claim([k for k, seconds in expected.items() if seconds is None or seconds >= LONG])
        for key in theirs:
            self.graph.elsewhere(key)
            self.teller.of(key, "elsewhere")
        return [k for k in keys if k not in theirs]

    def _look_elsewhere(self) -> None:
        """Take up the tasks that other runs have committed, or let go of."""
        if self._live is None or not self.graph.counts[State.ELSEWHERE] or time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        theirs = self._live.elsewhere()
        for key in self.graph.in_state(State.ELSEWHERE):
            node = self.plan.nodes[key]
            if self._store.exists(node.name, key):
                try:
                    manifest = self._store.manifest(node.name, key)
                except DamagedArtifact:
                    self._release(key)  # whoever takes it sets it aside
                    continue
                self._found(key, manifest["status"] == "diverged", manifest["results"])
            elif key not in theirs:
                self._release(key)

    def _release(self, key: str) -> None:
        """Another run has let go of a task that it was at work on."""
        self.graph.released(key)
        self.teller.of(key, "released")

    def _found(self, key: str, diverged: bool, results: Mapping[str, Any]) -> None:
        """Another run has committed a task that this one was to carry out."""
        self.graph.found(key, barren=diverged)
        self.teller.of(key, "found", results, status="diverged" if diverged else "done")
        if not diverged:
            self._proposals.ended(key, results)

    # Inside

    def _take_in(self, trial_id: str, result: Mapping[str, Any], bundle: Bundle | None = None) -> None:
        bundle = bundle or self._bundles.get(trial_id)
        if bundle is None:
            return
        self._steps[trial_id] = int(result.get("steps", 0))
        self._now[trial_id] = result.get("now")
        if result.get("node"):
            if trial_id not in self._node:
                self.seen(trial_id, str(result["node"]), result.get("devices"))
            for news in result.get("cache") or ():
                self.locality.hear(str(result["node"]), news, self._is_input)
        self.teller.heard(trial_id, result)
        for outcome in result.get("outcomes") or ():
            if outcome.key not in self._heard[trial_id]:
                self._heard[trial_id].add(outcome.key)
                self._conclude(outcome, str(result.get("worker", "")), shape_of(bundle.slot))
        if bundle.watched and any(result.get("progress") or ()) and not result.get("outcomes"):
            self._proposals.progress(bundle.keys[0], result["progress"][0])

    def _conclude(self, outcome: Outcome, worker: str, shape: Shape) -> None:
        key, error = outcome.key, outcome.error or "failed"
        if self._live is not None:
            self._live.release([key])
        if outcome.status == "failed":
            self.graph.failed(key)
            self._fail(key, error)
        elif outcome.status == "memory":
            self._enlarge(key, shape, error)
        elif outcome.status == "halted":
            self._return(key)
            self.halt(error)
        elif outcome.status == "damaged":
            self._withdraw(outcome.culprit or "", error)
            self._return(key)
        elif outcome.status == "stored":
            self._found(key, outcome.diverged, outcome.results)
        else:
            diverged = outcome.status == "diverged"
            self.graph.committed(key, outcome.seconds, barren=diverged)
            about = {"status": outcome.status, "seconds": outcome.seconds, "worker": worker}
            self.teller.of(key, "committed", outcome.results, **about)
            if not diverged:
                self._proposals.ended(key, outcome.results)
            if not self._keep_weights:
                self._drop_weights(key)

    def _drop_weights(self, key: str) -> None:
        """Delete the weights of the trainings for which the committed task was the last to wait."""
        for name in (*self.plan.ancestors(key), key):
            node = self.plan.nodes[name]
            vertex = self.graph.vertices[name]
            if node.kind == "train" and all(
                self.graph.state(d) in (State.STORED, State.DONE) for d in (name, *vertex.dependents)
            ):
                self._store.drop_weights(node.name, name)

    def _withdraw(self, key: str, why: str) -> None:
        """An artifact is damaged or gone: it is set aside and made again."""
        node = self.plan.nodes[key]
        if self.graph.state(key) not in (State.STORED, State.DONE):
            return  # another task has said so already
        if not self._store.set_aside(node.name, key) and self._store.exists(node.name, key):
            self._doubts[key] += 1
            if self._doubts[key] % DOUBTS:
                return  # it was made again meanwhile, and is whole
        again = self.graph.withdrawn(key)
        self.teller.of(key, "damaged", why=why, again=again)
        if self.graph.state(key) is State.FAILED:  # not one that is skipped, since it cannot be made again
            self._fail(key, f"its artifact was found damaged each time: {why}")

    def _bundle(self, trial_id: str, keys: list[str], shape: Shape, place: Place) -> Bundle:
        works = []
        for key in keys:
            node = self.plan.nodes[key]
            self._attempts[key] += 1
            self._proposals.begun(key)
            inputs = tuple(self._input(i) for i in node.inputs)
            usual = self.plan.slot(node)
            threads = None if shape_of(usual) == shape else max(int(usual.get("cpu", 1)), 1)
            works.append(
                Work(
                    key,
                    node.task,
                    inputs,
                    node.seeds,
                    node.spec(),
                    watched=self._is_watched(node),
                    reports=self._reports and node.kind == "train",
                    attempt=self._attempts[key],
                    threads=threads,
                )
            )
            self.teller.of(key, "submitted", bundle=trial_id)
        try:
            payload = cloudpickle.dumps(works)
        except Exception:  # whatever the objects that a task refers to may raise
            works = [w for w in works if self._can_travel(w, shape)]
            payload = cloudpickle.dumps(works)
        watched = any(w.watched for w in works)
        return self._hand_out(trial_id, [w.key for w in works], shape, payload, place, watched)

    def _can_travel(self, work: Work, shape: Shape) -> bool:
        try:
            cloudpickle.dumps(work)
        except Exception as error:
            words = f"its code refers to something that cannot be sent to a worker: {error}"
            self._conclude(Outcome(work.key, "failed", 0.0, error=words), "", shape)
            return False
        return True

    def _hand_out(
        self, trial_id: str, keys: list[str], shape: Shape, payload: bytes, place: Place, watched: bool = False
    ) -> Bundle:
        bundle = Bundle(trial_id, slot_of(shape), tuple(keys), payload, watched, place.node_id)
        self._bundles[trial_id] = bundle
        self._begun += 1
        return bundle

    def _warm_up(self, trial_id: str) -> Bundle | None:
        """An empty bundle that starts a worker while the first tasks (the dataset) keep the others waiting.

        A worker process takes seconds to start; without this, all but the first would start only when
        the second task is ready. `Shield` ends it once all have started: Tune would give a worker that
        is free to a trial whose own is still starting, and stop that one.
        """
        shape = shape_of(self.plan.slot_of_most())
        useful = min(self._room.slots(shape), self.graph.to_come(shape))  # nodes that may be added cost money
        wanted = self._begun < useful and self.graph.counts[State.WAITING] > 0
        place = self._room.take(shape, trial_id) if wanted and not self._started_all else None
        if place is not None:
            return self._hand_out(trial_id, [], shape, b"", place)
        self._started_all = True
        return None

    def _input(self, key: str) -> Input:
        node = self.plan.nodes[key]
        return Input(key, node.task, node.seeds, tuple(self._input(i) for i in node.inputs))

    def _is_input(self, key: str) -> bool:
        """Whether other tasks read what this one leaves."""
        vertex = self.graph.vertices.get(key)
        return vertex is not None and bool(vertex.dependents)

    def _is_watched(self, node: Node) -> bool:
        return self._watched and node.kind == "train"

    def _look_up_and_add(self, nodes: list[Node]) -> None:
        self.plan.look_up(self._store, nodes)
        self._add(nodes)
        self._on_growth()

    def _add(self, nodes: list[Node]) -> None:
        """Tell the graph of planned tasks, with what became of them before."""
        if self._only is not None:
            nodes = [n for n in nodes if n.key in self.plan.stored or n.key in self._only]
        manifests = self.plan.add_to(
            self.graph, nodes, self._store, stopped=self._decisions.stopped_keys, watched=self._watched
        )
        self.teller.stored(manifests)
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
