"""Running a plan: Ray is started or joined, Tune is set up with DagSearch, the outcome is gathered."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.task import Task, input_fields

from .cluster import joins, node_offers, possible_kinds, ray_session
from .decisions import Decisions
from .errors import ClusterError, InvalidValue, StoreError
from .events import Events
from .graph import Graph
from .live import Live
from .node_watch import NodeWatch, expectations
from .plan import Plan
from .room import Room
from .runs import note_begun
from .shipping import git_state, local_code, own_paths, register_by_value, shipment
from .signals import INTERRUPTED
from .slots import Shape, Slot, check_feasible, default_slot, shape_of, slot_of
from .store import Store
from .tamed import IdleWorkers, tamed_tune
from .tasklog import salvage

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are in the store; CSV and TensorBoard copies cost seconds
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # probes do not report the trainings' metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled here
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own state is not used: the store is the state
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # DagSearch suggests no more than there is, or may be, room for
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


RETOLD = 30.0
"""Seconds between two records of a plan that grows: each is written whole."""


@dataclass
class Finished:
    """What became of a run.

    Attributes:
        graph: with the final state of every task.
        errors: one line for each failed task, by key.
        started: Unix seconds; `seconds`: wall time; `startup`: of it, until the first worker was ready
            to be given work.
        slots: tasks that could run at the same time.
        interrupted: ended by Ctrl-C or a stop signal.
        halted: why it ended before all was done, as a sentence.
        left_out: host names of the nodes on which no task was to run.
    """

    graph: Graph
    errors: Mapping[str, str]
    started: float
    seconds: float
    startup: float
    slots: int
    interrupted: bool = False
    halted: str | None = None
    left_out: tuple[str, ...] = ()


def preflight(plan: Plan, only: Container[str] | None = None) -> None:
    """Let every task that must run (of `only`, if given) check what it can, before anything is scheduled."""
    must = [n for n in plan.nodes.values() if n.key not in plan.stored and (only is None or n.key in only)]
    tasks = {id(n.task): n.task for n in must}  # one for all its nodes
    for task in tasks.values():
        task.preflight()


def wanted_slots(plan: Plan, only: Container[str] | None = None) -> dict[str, Slot]:
    """The slots of the tasks that must run (of `only`, if given), by words for these.

    Of a sweep with a search algorithm those of the tasks to come, too.
    """
    names: dict[Shape, dict[str, None]] = {}
    sweep = plan.sweep
    todo: list[Task] = [sweep.train, *sweep.probes, *sweep.pairs, *sweep.groups] if sweep.search is not None else []
    for task in todo if only is None else ():
        names.setdefault(shape_of(plan.slot_for(task)), {})[type(task).__name__] = None
        todo += input_fields(task).values()
    for node in plan.nodes.values():
        if node.key not in plan.stored and (only is None or node.key in only):
            names.setdefault(shape_of(plan.slot(node)), {})[node.name] = None
    return {", ".join(found): slot_of(shape) for shape, found in names.items()}


def execute_plan(
    plan: Plan,
    store: Store,
    path: str,
    *,
    address: str | None = None,
    decisions: Decisions | None = None,
    listeners: tuple[Callable[[dict[str, Any]], None], ...] = (),
    reports: bool = False,
    only: Container[str] | None = None,
    fail_fast: bool = False,
    keep_weights: bool = True,
    source: Mapping[str, str] | None = None,
) -> Finished:
    """Run all that is not stored.

    A first Ctrl-C or SIGTERM lets what is running save itself and end; a second, or GRACE seconds, end it.

    Args:
        path: of the run in the store, "runs/<sweep>/<run>".
        address: of a Ray cluster; None starts Ray on this machine (or joins $RAY_ADDRESS).
        listeners: are told every event as it happens.
        reports: they are also told what trainings say of themselves.
        only: the tasks to run; None for all that are not stored.
        fail_fast: end the run when a task has failed.
        keep_weights: False deletes a training's weights as soon as nothing is waiting for them.
        source: sweep file and command, for the manifests.

    Raises:
        ClusterError: the cluster cannot be reached, or no node that can be used has a slot that is asked for.
        InvalidValue: the search algorithm or scheduler cannot be used.
    """
    started = time.time()
    os.environ.update({k: v for k, v in QUIET.items() if k not in os.environ})
    scheduler = checked_scheduler(plan)
    inner = checked_search(plan)
    events = Events(store, path)
    events.listeners += listeners
    code = shipment() if joins(address) else None

    told: float | None = None

    def note_keys() -> None:
        """Say what this run needs, so that `gc` leaves it alone, and what it is about, so that it can be read."""
        store.write(f"{path}/keys", "\n".join(plan.nodes).encode(), durable=False)
        nonlocal told
        if told is None or time.monotonic() - told > RETOLD:
            told = time.monotonic()
            note_begun(plan, store, path, started, (source or {}).get("command", ""))

    with ray_session(address, code) as signals:
        from ray import tune
        from ray.exceptions import RayError
        from ray.tune import PlacementGroupFactory, TuneError

        from .adaptive import Shield
        from .request import SlotRequest
        from .search import DagSearch
        from .warm import Workers
        from .worker import LISTENING_SECONDS, REPORT_SECONDS, RunInfo, Worker

        nodes = node_offers()
        usual = plan.sweep.slot or default_slot(gpus=any(n.resources.get("GPU") for n in nodes))
        plan.sweep = dataclasses.replace(plan.sweep, slot=usual)
        kinds = possible_kinds()
        wanted = wanted_slots(plan, only)
        check_feasible(wanted, nodes, kinds)
        note_keys()
        watch = None
        if code is not None or len(nodes) > 1:  # else it is this machine alone, on which all was checked that matters
            code_there = code or local_code()
            watch = NodeWatch(
                expectations(store.address, f"{path}/keys", code_there),
                node_offers,
                list(wanted.values()),
                gpus=any(slot.get("gpu") for slot in wanted.values()) and plan.imports("torch"),
                may_grow=lambda: possible_kinds() is not None,
            )
            watch.first()
            for slot in wanted.values():
                if (why := watch.hopeless(slot)) is not None:
                    store.delete_folder(path)
                    raise ClusterError(why)
        room = Room(nodes if watch is None else watch.usable(), kinds or ())
        slots = max(room.slots(shape_of(usual), possible=False), 1)
        run_info = RunInfo(
            store.address,
            path,
            git_state(),
            () if code is not None else own_paths(),
            imports=("torch",) if plan.imports("torch") else (),
            patience=store.patience,
            snapshot_seconds=plan.sweep.snapshot_seconds,
            report_seconds=max(REPORT_SECONDS, 4 * LISTENING_SECONDS * room.slots(shape_of(usual))),
            source=dict(source or {}),
            code={} if watch is None else code_there.digests,
        )

        def note_store(answers: bool, why: str) -> None:
            search.teller.later("store_back" if answers else "store_away", why=why)

        live = Live(store, path, on_store=note_store, at_work=lambda: search.teller.working())
        decisions = decisions or Decisions(plan.sweep, store)
        idle = IdleWorkers()
        search = DagSearch(
            plan,
            store,
            events,
            room=room,
            run=dataclasses.asdict(run_info),
            decisions=decisions,
            inner=inner,
            watched=scheduler is not None,
            reports=reports,
            live=live,
            nodes=node_offers,
            idle=idle.nodes,
            only=only,
            fail_fast=fail_fast,
            keep_weights=keep_weights,
            on_growth=note_keys,
            saving=lambda: shield.saving,
            watch=watch,
        )
        idle.choose = lambda bundle, nodes: search.locality.nearest(bundle.name, bundle.keys, nodes)
        search.teller.start(list(sys.argv))

        def resources(config: Mapping[str, Any]) -> PlacementGroupFactory:
            bundle = config["bundle"]
            return SlotRequest(bundle.slot, without=() if watch is None else watch.left_out, node=bundle.node)

        scratch = tempfile.mkdtemp(prefix="orchestrator-tune-")
        startup = time.time() - started
        interrupted = False
        register_by_value(shipped=code is not None)
        shield = Shield(
            scheduler,
            search.graph,
            Workers(search.graph, room, search.seen),
            decisions=decisions,
            halted=lambda: search.halted is not None,
            on_death=search.on_worker_death,
            **({} if watch is None else {"verdict": watch.verdict}),
        )
        try:
            with (
                live,
                signals.ask(lambda: search.halt(INTERRUPTED)),
                tamed_tune(idle),
            ):
                tuner = tune.Tuner(
                    tune.with_resources(Worker, resources),
                    tune_config=tune.TuneConfig(
                        search_alg=search,
                        scheduler=shield,
                        num_samples=-1,
                        reuse_actors=True,
                        trial_dirname_creator=lambda trial: str(trial.trial_id),
                        trial_name_creator=lambda trial: str(trial.trial_id),
                    ),
                    run_config=tune.RunConfig(
                        name="run",
                        storage_path=scratch,
                        verbose=0,
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    ),
                )
                tuner.fit()
        except KeyboardInterrupt:
            interrupted = True
        except (RayError, TuneError) as error:
            words = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
            search.halt(f"Ray itself has failed ({type(error).__name__}: {words}).")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        interrupted = interrupted or search.halted == INTERRUPTED
        halted = None if interrupted else search.halted
        if halted:
            store.patience, store.on_wait = 0.0, None  # a store that is away has been waited for
        seconds = time.time() - started
        salvage(store)
        # The record is not worth more than the reason why the run ends.
        with contextlib.suppress(StoreError):
            decisions.close()
        with contextlib.suppress(StoreError):
            last = "run_interrupted" if interrupted else "run_halted" if halted else "run_finished"
            events.emit(last, seconds=seconds, startup=startup, **({"why": halted} if halted else {}))
            events.close()
    left_out = () if watch is None else tuple(watch.hosts_left_out)
    return Finished(search.graph, dict(search.errors), started, seconds, startup, slots, interrupted, halted, left_out)


# What Tune may be given


def checked_scheduler(plan: Plan) -> Any:
    """The sweep's scheduler with the metric set, or None.

    Raises:
        InvalidValue: it is no Tune scheduler, or one that pauses trials.
    """
    scheduler = plan.sweep.scheduler
    if scheduler is None:
        return None
    from ray.tune import schedulers

    if not isinstance(scheduler, schedulers.TrialScheduler):
        raise InvalidValue(f"Sweep: scheduler must be one of ray.tune.schedulers, not {scheduler!r}.")
    pausing = ("HyperBandScheduler", "HyperBandForBOHB", "PopulationBasedTraining", "PB2", "ResourceChangingScheduler")
    for name in pausing:
        cls = getattr(schedulers, name, None)
        if isinstance(cls, type) and isinstance(scheduler, cls):
            raise InvalidValue(
                f"Sweep: {type(scheduler).__name__} pauses or changes running trials, which seeds of a study must "
                "not be: use ASHAScheduler or MedianStoppingRule."
            )
    if getattr(scheduler, "metric", None) is None:
        scheduler.set_search_properties(plan.sweep.metric, plan.sweep.mode)
    return scheduler


def checked_search(plan: Plan) -> Any:
    """The sweep's search algorithm with metric and space set, or None.

    Raises:
        InvalidValue: it is no Tune search algorithm, or the space does not suit it.
    """
    search = plan.sweep.search
    if search is None:
        return None
    from ray.tune.search import Searcher

    if not isinstance(search, Searcher):
        raise InvalidValue(f"Sweep: search must be one of Ray Tune's search algorithms, not {search!r}.")
    space = plan.sweep.space
    if not space:
        raise InvalidValue("Sweep: search is given, but the training holds no search space such as tune.uniform(0, 1).")
    grids = [path for path, s in space.items() if isinstance(s, Mapping)]
    if grids:
        raise InvalidValue(
            f"Sweep: {grids[0]} is a grid, which a search algorithm cannot use: write tune.choice([...])."
        )
    if not search.set_search_properties(plan.sweep.metric, plan.sweep.mode, dict(space)):
        raise InvalidValue(
            f"Sweep: {type(search).__name__} has a metric or space of its own: leave them out, the sweep gives them."
        )
    return search
