"""The adaptive parts of a run: a search algorithm that proposes settings, a scheduler that stops trainings.

An inner search algorithm (Optuna, …), if there is one, proposes settings; it sees the metric averaged
over a setting's seeds. An inner scheduler (ASHA, …) is shown training trials only, each under its key.

Everything that either is asked or told is journaled (`decisions`) in that order, and done again at the
start of the next run. So a search with a seed, and a scheduler, go on in the very state in which they were
left. A search that answers otherwise than before (it has no seed) is told that its own proposal
failed and is given the recorded one with its outcome. A training that starts again, in this run or the
next, repeats its reports from the first on; those that were seen before are not shown again.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray import cloudpickle
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from .decisions import Decision, Decisions, Ended, Proposed, Reported, Stopped, Told, Values
from .events import Events
from .graph import Graph, State
from .keys import canonical
from .plan import Node, Plan
from .sweep import plain
from .warm import Workers


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
        self._asked = 0  # proposals that the inner search was asked for
        self._open: list[_Proposal] = []  # the inner search has not been told of their end
        self._failed: list[_Proposal] = []  # it was told in an earlier run that they failed
        self._values: dict[str, Any] = {}  # the metric of trainings that have ended, by key
        self._position: defaultdict[str, int] = defaultdict(int)  # reports of a training since it began
        self._known: defaultdict[str, int] = defaultdict(int)  # reports of a training taken in, ever
        self._exhausted = inner is None

    @property
    def finished(self) -> bool:
        """Whether no further setting will come, and the inner search waits for no result."""
        return self._exhausted and not self._open

    def recall(self) -> None:
        """Ask and tell the inner search again what it was asked and told in earlier runs, in that order."""
        if self._inner is None:
            return
        proposals: dict[str, _Proposal] = {}
        failed: dict[str, _Proposal] = {}
        settings = iter(self._plan.proposed)
        for decision in self._decisions.log:
            if isinstance(decision, Proposed):
                setting = next(settings, None)
                if setting is None:
                    continue  # fewer samples are wanted now
                keys = tuple(n.key for n in self._plan.trainings(setting))
                own = self._asked_again(self._inner, decision)
                proposal = _Proposal(decision.name, f"setting-{decision.number}", setting.config, keys, own=own)
                proposals[decision.name] = proposal
                self._open.append(proposal)
            elif isinstance(decision, Reported):
                self._known[decision.key] = decision.number
                self._heard(decision.key, decision.number, decision.values)
            elif isinstance(decision, Stopped):
                self._values.setdefault(decision.key, decision.value)
            elif isinstance(decision, Told) and decision.name in proposals:
                proposal = proposals[decision.name]
                if set(decision.trainings).isdisjoint(proposal.keys):
                    continue  # other code made those trainings
                failed.pop(decision.name, None)
                if proposal in self._open:
                    self._open.remove(proposal)
                self._tell(self._inner, proposal, decision.value)
                if decision.value is None:
                    failed[decision.name] = proposal
        self._failed = list(failed.values())  # a run that retried the failed may have made them good

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
            number = self._asked
            config = inner.suggest(f"setting-{number}")
            if config is None and self._open:
                return
            if config is None or config == Searcher.FINISHED:  # None although it waits for no result: never more
                self._exhausted = True
                return
            self._asked += 1
            setting, nodes = plan.propose(dict(config))
            name = self._decisions.proposed(number, _plain(config))
            self._add(nodes)
            self._events.emit(
                "proposed",
                setting=setting.index,
                config={k: str(v) for k, v in setting.config.items()},
                proposed=plan.proposals,
                kinds=self._graph.census(),
            )
            keys = tuple(n.key for n in plan.trainings(setting))
            self._open.append(_Proposal(name, f"setting-{number}", setting.config, keys, own=True))
            self._settle(inner)

    def begun(self, key: str) -> None:
        """A training begins, perhaps again: its reports come from the first on."""
        self._position.pop(key, None)

    def progress(self, key: str, progress: Mapping[str, Any]) -> None:
        """A training reports; the inner search sees the mean once every seed has come so far."""
        if self._inner is None:
            return
        self._position[key] += 1
        number = self._position[key]
        if number > self._known[key]:
            self._known[key] = number
            values = {**_numbers(progress), "training_iteration": number}
            self._decisions.reported(key, number, values)
            self._heard(key, number, values)

    def ended(self, key: str, results: Mapping[str, Any]) -> None:
        """A task has these results; those of a training are kept for the inner search."""
        if self._plan.nodes[key].kind == "train":
            self._values[key] = results.get(self._plan.sweep.metric)
            self._decisions.results[key] = _numbers(results)

    def stopped(self, key: str, iteration: int, results: Mapping[str, Any]) -> None:
        """The scheduler has stopped a training, which had come to these results."""
        self.ended(key, results)
        value = results.get(self._plan.sweep.metric)
        self._decisions.stopped(key, iteration, value if _is_finite(value) else None)

    # Inside

    def _asked_again(self, inner: Searcher, decision: Proposed) -> bool:
        """Ask for a proposal again; whether the answer is the recorded one."""
        if decision.number < self._asked:
            return False  # another driver's, which was at work at the same time
        while True:
            name = f"setting-{self._asked}"
            config = inner.suggest(name)
            self._asked += 1
            proposed = isinstance(config, Mapping)
            same = self._asked > decision.number
            if same and proposed and canonical(_plain(config)) == canonical(decision.config):
                return True
            if proposed:
                inner.on_trial_complete(name, None, error=True)
            if same:
                return False
            # The record of this one was damaged.

    def _heard(self, key: str, number: int, values: Values) -> None:
        value = values.get(self._plan.sweep.metric)
        if self._inner is None or value is None:
            return
        for proposal in self._open:
            mean = proposal.heard(key, number, value)
            if mean is not None and proposal.own:
                report = {self._plan.sweep.metric: mean, "training_iteration": number}
                self._inner.on_trial_result(proposal.trial, report)

    def _settle(self, inner: Searcher) -> None:
        """Tell the inner search of the settings whose trainings have all come to an end, whichever end."""
        for proposal in [p for p in self._open if self._is_settled(p)]:
            self._open.remove(proposal)
            value = self._mean(proposal)
            self._decisions.told(proposal.name, value, proposal.keys)
            self._tell(inner, proposal, value)
        for proposal in [p for p in self._failed if self._is_settled(p)]:
            self._failed.remove(proposal)
            value = self._mean(proposal)
            if value is not None:
                self._decisions.told(proposal.name, value, proposal.keys)
                self._tell(inner, proposal, value)

    def _is_settled(self, proposal: _Proposal) -> bool:
        return all(self._graph.state(key).final for key in proposal.keys)

    def _mean(self, proposal: _Proposal) -> float | None:
        """The metric over the seeds; None if one is lost: a mean of the survivors would flatter the setting."""
        values = [self._values.get(key) for key in proposal.keys]
        return sum(values) / len(values) if all(_is_finite(v) for v in values) else None  # type: ignore[arg-type]

    def _tell(self, inner: Searcher, proposal: _Proposal, value: float | None) -> None:
        if proposal.own:
            proposal.own = False  # whatever is learned later is news of no trial of its own
            result = None if value is None else {self._plan.sweep.metric: value}
            inner.on_trial_complete(proposal.trial, result, error=value is None)
        elif value is not None:
            with contextlib.suppress(NotImplementedError):  # some algorithms cannot be told; they go on without
                inner.add_evaluated_point(dict(proposal.config), value)


class _Proposal:
    """A setting of the inner search while its trainings, which have these keys, run.

    Args:
        name: in the journal; `trial`: what the inner search calls it.
        own: the inner search has proposed it in this run, or has answered so again.
    """

    def __init__(self, name: str, trial: str, config: Mapping[str, Any], keys: tuple[str, ...], *, own: bool) -> None:
        self.name = name
        self.trial = trial
        self.config = config
        self.keys = keys
        self.own = own
        self._reports: defaultdict[int, dict[str, float]] = defaultdict(dict)

    def heard(self, key: str, number: int, value: float) -> float | None:
        """The mean over the seeds, once every seed has made its report of this number."""
        if key not in self.keys:
            return None
        values = self._reports[number]
        values[key] = value
        if any(k not in values for k in self.keys):
            return None
        del self._reports[number]
        return sum(values[k] for k in self.keys) / len(self.keys)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {path: plain(v) for path, v in config.items()}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _numbers(report: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in report.items() if isinstance(v, (int, float))}


class Shield(FIFOScheduler):
    """Shows an inner scheduler the training trials and hides everything else from it.

    It knows each training by its key, so that one that starts again elsewhere is the same to it.

    Also has idle workers kept warm (see `Workers`), ends every trial when the run is to end early, and hands on
    why a worker has died.

    Args:
        graph: says whether work is waiting.
        workers: which idle workers Tune keeps.
        decisions: what the inner scheduler was shown in earlier runs is shown to it again.
        halted: whether the run is to end early.
        on_death: told of a trial and of what Ray says of the death of its worker.
        verdict: whether tasks may run on a node; None as long as that is not known.

    Attributes:
        saving: of a run that is to end early: whether something may still run, or save itself.
    """

    def __init__(
        self,
        inner: TrialScheduler | None,
        graph: Graph,
        workers: Workers,
        *,
        decisions: Decisions,
        halted: Callable[[], bool] = lambda: False,
        on_death: Callable[[str, BaseException | None], None] = lambda trial_id, error: None,
        verdict: Callable[[str], bool | None] = lambda node: True,
    ) -> None:
        super().__init__()
        self._graph = graph
        self._decisions = decisions
        self._scheduler = inner
        self._workers = workers
        self._halted = halted
        self._on_death = on_death
        self._verdict = verdict
        self.saving = True
        self._cut: set[str] = set()  # Tune trials that were ended because the run is to end
        self._trainings: dict[str, _Training] = {}
        self._position: defaultdict[str, int] = defaultdict(int)  # reports of a training since it began
        self._shown: defaultdict[str, int] = defaultdict(int)  # reports of a training shown, ever
        self._stop: dict[str, int] = {}  # the report on which a training is to stop
        self._last: dict[str, Values] = {}  # the newest report of a training
        self._ended: set[str] = set()
        if inner is not None:
            self._show_again(inner, decisions.log)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._workers.wanted(trial)
        if self._scheduler is not None and trial.config["bundle"].watched:
            key = trial.config["bundle"].keys[0]
            self._position[key] = 0
            self._introduce(self._scheduler, tune_controller, key).trial = trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._workers.heard(tune_controller, trial, result)
        if self._halted():
            self._cut.add(trial.trial_id)
            return str(TrialScheduler.STOP)
        if result.get("unchecked"):  # the worker waits, see `worker.Worker`
            known = self._verdict(str(result["node"])) is not None
            return str(TrialScheduler.STOP if known else TrialScheduler.CONTINUE)
        bundle = trial.config["bundle"]
        if not bundle.keys:  # a warm-up, see `DagSearch._warm_up`
            starting = any(t.status == trial.PENDING for t in tune_controller.get_trials())
            wanted = bool(self._graph.shapes())
            return str(TrialScheduler.CONTINUE if starting and not wanted else TrialScheduler.STOP)
        if self._scheduler is None or not bundle.watched or not _is_report(result):
            return str(TrialScheduler.CONTINUE)
        key = bundle.keys[0]
        self._position[key] += 1
        number = self._position[key]
        if number > self._shown[key]:
            values = _seen(result, number)
            self._decisions.reported(key, number, values)
            self._show(self._scheduler, tune_controller, key, number, values)
        return str(TrialScheduler.STOP if self._stop.get(key) == number else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """To the inner scheduler the training goes on: it starts again elsewhere."""
        self._workers.gone(trial)
        error = None
        # trial.get_pickled_error() looks where Tune copies it only later, and gives None until then.
        with contextlib.suppress(Exception), open(trial.pickled_error_file, "rb") as file:
            error = cloudpickle.load(file)  # fails for an error that this process cannot unpickle
        self._on_death(trial.trial_id, error)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        bundle = trial.config["bundle"]
        self._workers.rests(tune_controller, trial)
        if self._scheduler is None or not bundle.watched or trial.trial_id in self._cut:
            return
        key = bundle.keys[0]
        if self._scheduler.metric in result and key not in self._ended:
            self._end(self._scheduler, tune_controller, key, _seen(result, self._position[key] + 1))

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: DagSearch suggests in order of priority, and Tune starts what was suggested."""
        if self._halted():
            self._wind_up(tune_controller)
            return
        self._workers.arrange(tune_controller)

    def __getstate__(self) -> dict[str, Any]:
        """Empty, see `DagSearch`."""
        return {}

    # Inside

    def _wind_up(self, tune_controller: Any) -> None:
        """The run is to end: no trial waits for its place any more, and idle workers end, which saves their tasks.

        Tune would give those that it keeps five seconds for that, all together, at its own end.
        """
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        trials = list(tune_controller.get_trials())
        for trial in trials:
            if trial.status == trial.PENDING:
                controller.stop_trial(trial)
        if hasattr(controller, "_cleanup_cached_actors"):  # private to Tune, so it may go away
            controller._cleanup_cached_actors(force_all=True)
        # Tune notes no end of a worker that it had kept idle: whether it still lives has to be asked.
        manager, stopping = getattr(controller, "_actor_manager", None), getattr(controller, "_stopping_actors", ())
        self.saving = any(manager is not None and manager.is_actor_started(actor) for actor in stopping) or any(
            trial.status in (trial.PENDING, trial.RUNNING) for trial in trials
        )

    def _introduce(self, scheduler: TrialScheduler, controller: Any, key: str) -> _Training:
        """The training as the inner scheduler knows it, made known to it the first time."""
        if key not in self._trainings:
            self._trainings[key] = _Training(key)
            with _numpy_seeded(int(key, 16) % 2**32):  # ASHA draws the bracket: the same one in every run
                scheduler.on_trial_add(controller, self._trainings[key])
        return self._trainings[key]

    def _show(self, scheduler: TrialScheduler, controller: Any, key: str, number: int, values: Values) -> None:
        self._shown[key] = number
        self._last[key] = values
        # What has only its evaluation and saving left is not worth stopping.
        if values.get("last") or key in self._ended:
            return
        answer = scheduler.on_trial_result(controller, self._trainings[key], dict(values))
        if answer == TrialScheduler.STOP:  # and never a pause, in which a study's seeds would wait for others
            self._stop[key] = number

    def _end(self, scheduler: TrialScheduler, controller: Any, key: str, results: Values) -> None:
        """Show the end of a training: its results, and of the last report what these lack (its epoch)."""
        values = {**self._last.get(key, {}), **results}
        self._ended.add(key)
        self._decisions.ended(key, results)
        scheduler.on_trial_complete(controller, self._trainings[key], values)

    def _show_again(self, scheduler: TrialScheduler, log: Sequence[Decision]) -> None:
        """Show what was shown in earlier runs, of the trainings that are part of this one."""
        nobody = _NoController()
        for decision in log:
            if isinstance(decision, (Reported, Ended)) and decision.key in self._graph.vertices:
                self._introduce(scheduler, nobody, decision.key)
                if isinstance(decision, Reported):
                    self._show(scheduler, nobody, decision.key, decision.number, decision.values)
                else:
                    self._end(scheduler, nobody, decision.key, decision.values)
        for key in [k for k in self._trainings if k not in self._ended]:  # committed when the driver was dead already
            if self._graph.state(key) is State.STORED and scheduler.metric in self._decisions.results.get(key, {}):
                number = self._shown[key] + 1
                self._end(scheduler, nobody, key, {**self._decisions.results[key], "training_iteration": number})


class _Training:
    """A training as a scheduler sees it: the same object however often it starts, `trial_id` being its key.

    Everything else is that of the Tune trial that carries it out now.
    """

    def __init__(self, key: str) -> None:
        self.trial_id = key
        self.trial: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__.get("trial"), name)

    def __repr__(self) -> str:
        return self.trial_id


class _NoController:
    """Stands for Tune while what happened in earlier runs is shown again: no trial is there."""

    def get_trials(self) -> list[Any]:
        return []

    get_live_trials = get_trials


def _is_report(result: Mapping[str, Any]) -> bool:
    """Whether a result tells how a training stands, not that it has ended."""
    return bool(result.get("progress") and result["progress"][0] and not result.get("outcomes"))


def _seen(result: Mapping[str, Any], number: int) -> dict[str, float]:
    """What the inner scheduler is shown of a result: as much as is recorded."""
    values = _numbers((result.get("progress") or [{}])[0])
    return {**values, **_numbers({"time_total_s": result.get("time_total_s")}), "training_iteration": number}


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """numpy's global generator with this seed for a while."""
    import numpy as np

    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
