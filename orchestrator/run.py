"""Running a plan: Ray is started or joined, Tune is set up with DagSearch, the outcome is gathered."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.spec import Spec, field_hints

from .decisions import Decisions
from .errors import ClusterError, InvalidValue, StoreError
from .events import Events
from .graph import Graph
from .live import Live
from .plan import Plan, shape_of
from .store import Store
from .sweep import default_slot
from .sweep_file import subclasses
from .tamed import tamed_tune
from .tasklog import salvage

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are in the store; CSV and TensorBoard copies cost seconds
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # probes do not report the trainings' metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled here
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own state is not used: the store is the state
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


RESOURCES = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
"""Ray's names of what a slot may ask for."""


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
    """

    graph: Graph
    errors: Mapping[str, str]
    started: float
    seconds: float
    startup: float
    slots: int
    interrupted: bool = False
    halted: str | None = None


def preflight(plan: Plan, only: Container[str] | None = None) -> None:
    """Let every task that must run (of `only`, if given) check what it can, before anything is scheduled."""
    must = [n for n in plan.nodes.values() if n.key not in plan.stored and (only is None or n.key in only)]
    tasks = {id(n.task): n.task for n in must}  # one for all its nodes
    for task in tasks.values():
        task.preflight()


def execute_plan(
    plan: Plan,
    store: Store,
    path: str,
    *,
    address: str | None = None,
    decisions: Decisions | None = None,
    listeners: tuple[Callable[[dict[str, Any]], None], ...] = (),
    on_start: Callable[[Graph, int], None] | None = None,
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
        on_start: is given the graph and the number of slots before work begins (for the live view).
        only: the tasks to run; None for all that are not stored.
        fail_fast: end the run when a task has failed.
        keep_weights: False deletes a training's weights as soon as nothing is waiting for them.
        source: sweep file and command, for the manifests.

    Raises:
        ClusterError: the cluster cannot be reached, or no node has a slot that is asked for.
        InvalidValue: the search algorithm or scheduler cannot be used.
    """
    started = time.time()
    os.environ.update({k: v for k, v in QUIET.items() if k not in os.environ})
    scheduler = checked_scheduler(plan)
    inner = checked_search(plan)
    events = Events(store, path)
    events.listeners += listeners
    with ray_session(address) as signals:
        from ray import tune
        from ray.exceptions import RayError
        from ray.tune import PlacementGroupFactory, TuneError

        from .adaptive import Shield
        from .search import DagSearch
        from .worker import RunInfo, Worker

        nodes = node_resources()
        usual = plan.sweep.slot or default_slot(gpus=any(n.get("GPU") for n in nodes))
        plan.sweep = dataclasses.replace(plan.sweep, slot=usual)
        slots_wanted = [usual, *plan.sweep.slots.values()]
        for slot in slots_wanted:
            check_feasible(slot, nodes)
        capacity = Capacity(node_resources)
        slots = capacity.of(usual)
        run_info = RunInfo(
            store.address,
            path,
            git_state(),
            own_paths(),
            imports=("torch",) if plan.imports("torch") else (),
            patience=store.patience,
            snapshot_seconds=plan.sweep.snapshot_seconds,
            source=dict(source or {}),
        )

        def note_keys() -> None:
            """Say what this run needs, so that `gc` leaves it alone."""
            store.write(f"{path}/keys", "\n".join(plan.nodes).encode(), durable=False)

        def note_store(answers: bool, why: str) -> None:
            search.tell("store_back" if answers else "store_away", why=why)

        live = Live(store, path, on_store=note_store)
        decisions = decisions or Decisions(plan.sweep, store)
        search = DagSearch(
            plan,
            store,
            events,
            slots=lambda shape: capacity.of(dict(shape)),
            run=dataclasses.asdict(run_info),
            decisions=decisions,
            inner=inner,
            watched=scheduler is not None,
            live=live,
            larger=lambda shape: None if (slot := capacity.larger(dict(shape))) is None else shape_of(slot),
            nodes=alive_nodes,
            only=only,
            fail_fast=fail_fast,
            keep_weights=keep_weights,
            on_growth=note_keys,
            saving=lambda: shield.saving,
        )
        if on_start is not None:
            on_start(search.graph, slots)
        note_keys()
        events.emit(
            "run_started",
            command=list(sys.argv),
            tasks=len(plan.nodes),
            stored=len(plan.stored),
            slots=slots,
        )

        def resources(config: Mapping[str, Any]) -> PlacementGroupFactory:
            return PlacementGroupFactory([ray_resources(config["bundle"].slot)])

        one_shape = len({shape_of(s) for s in slots_wanted}) == 1
        most = max(capacity.of(s) for s in slots_wanted)
        scratch = tempfile.mkdtemp(prefix="orchestrator-tune-")
        startup = time.time() - started
        interrupted = False
        register_by_value()
        shield = Shield(
            scheduler,
            search.graph,
            most if one_shape else 0,
            decisions=decisions,
            halted=lambda: search.halted is not None,
            on_death=search.on_worker_death,
        )
        try:
            pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(max(most, 1))}
            with (
                live,
                signals.ask(lambda: search.halt(INTERRUPTED)),
                by_environment(pending),
                tamed_tune(),
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
    return Finished(search.graph, dict(search.errors), started, seconds, startup, slots, interrupted, halted)


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


# Ray


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[StopSignals]:
    """Ray, started here or joined; left as it was found.

    Raises:
        ClusterError: the cluster at the address cannot be joined.
    """
    import ray

    target = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if target == "local":
        options["include_dashboard"] = False
    mine = not ray.is_initialized()
    if mine:
        check_reachable(target)
        with by_environment({} if address is None else {"RAY_ADDRESS": ""}), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ray.init(address=target, **options)
            except Exception as error:
                text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
                remedy = "check the address and RAY_AUTH_MODE" if target != "local" else "see `orchestrator doctor`"
                raise ClusterError(f"Ray at {target!r} cannot be used: {text}; {remedy}.") from error
    with StopSignals() as signals, without_raylet_messages():
        try:
            yield signals
        finally:
            if mine:
                ray.shutdown()


@contextlib.contextmanager
def without_raylet_messages() -> Iterator[None]:
    """Keep Ray's accounts of dead workers and nodes off the screen, which `log_to_driver=False` does not."""
    import ray

    module: Any = ray._private.worker
    name = "_worker_logs_enabled"  # private, so it may go away: then Ray is talkative
    before = getattr(module, name, None)
    if before is not None:
        setattr(module, name, False)
    try:
        yield
    finally:
        if before is not None:
            setattr(module, name, before)


def check_reachable(address: str) -> None:
    """Raise ClusterError unless something answers at "host:port" or "ray://host:port"; Ray would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # "local" and "auto", which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"No Ray cluster answers at {address!r} ({reason}): check the address.") from None


INTERRUPTED = "Interrupted."

GRACE = 20.0
"""Seconds that running tasks have to save themselves after a first Ctrl-C."""


class StopSignals:
    """Ctrl-C and SIGTERM: the first asks the run to end, the second, or GRACE seconds, interrupt it.

    As long as there is nobody to ask, the first interrupts too.
    """

    def __init__(self) -> None:
        self._ask: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # not in the main thread (a notebook's, a test's)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def ask(self, ask: Callable[[], None]) -> Iterator[None]:
        """Within, the first signal calls `ask`."""
        self._ask = ask
        try:
            yield
        finally:
            self._ask = None

    def _heard(self, number: int, frame: Any) -> None:
        ask, self._ask = self._ask, None
        if ask is None:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        ask()


def node_resources() -> list[dict[str, float]]:
    """Total resources of every live node."""
    import ray

    return [dict(n["Resources"]) for n in ray.nodes() if n["Alive"]]


def alive_nodes() -> set[str]:
    """Identifiers of the nodes that are alive."""
    import ray

    return {str(n["NodeID"]) for n in ray.nodes() if n["Alive"]}


def ray_resources(slot: Mapping[str, float]) -> dict[str, float]:
    """A slot in Ray's names, without what is zero."""
    return {RESOURCES[k]: v for k, v in slot.items() if v}


def check_feasible(slot: Mapping[str, float], nodes: list[dict[str, float]]) -> None:
    """Raise ClusterError unless some node has what the slot asks for."""
    wanted = ray_resources(slot)
    if any(all(node.get(k, 0.0) >= v for k, v in wanted.items()) for node in nodes):
        return
    for name, amount in wanted.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            raise ClusterError(
                f"A slot asks for {amount:g} {name}, but no node has more than {most:g}: "
                f"lower it, for example --set 'slot={{\"cpu\": 1}}'."
            )
    raise ClusterError(f"No single node has all that a slot asks for: {wanted}.")


class Capacity:
    """How many slots the nodes have; nodes come and go.

    Args:
        nodes: tells the resources of every live node.
    """

    def __init__(self, nodes: Callable[[], list[dict[str, float]]]) -> None:
        self._ask = nodes
        self._asked = float("-inf")
        self._nodes: list[dict[str, float]] = []

    def of(self, slot: Mapping[str, float]) -> int:
        """Slots of this kind that fit on all nodes together."""
        wanted = ray_resources(slot)
        total = 0
        for node in self._now():
            fits = [_units(node.get(name, 0.0), amount) for name, amount in wanted.items()]
            total += min(fits, default=0)
        return max(total, 1)

    def larger(self, slot: Mapping[str, float]) -> dict[str, float] | None:
        """Twice the slot, or as much of that as the largest node has; None if the slot is all that it has."""
        best: dict[str, float] | None = None
        for node in self._now():
            offers = {name: node.get(ray, 0.0) for name, ray in RESOURCES.items() if slot.get(name)}
            if any(offers[name] < slot[name] for name in offers):
                continue
            grown = {name: _whole(min(2 * slot[name], offer)) for name, offer in offers.items()}
            if any(grown[n] > slot[n] for n in grown) and (best is None or sum(grown.values()) > sum(best.values())):
                best = grown
        return None if best is None else {**slot, **best}

    def _now(self) -> list[dict[str, float]]:
        if time.monotonic() - self._asked > 5.0:
            self._nodes = list(self._ask()) or self._nodes
            self._asked = time.monotonic()
        return self._nodes


def _whole(amount: float) -> float:
    """Above one, whole: Ray takes no GPU and a half."""
    return float(math.floor(amount)) if amount > 1 else amount


def _units(available: float, amount: float) -> int:
    """How often the amount fits; a share of a GPU lies on one device."""
    if 0 < amount < 1:
        return (
            math.floor(available + 1e-9) * math.floor(1 / amount + 1e-9) if available >= 1 else int(available >= amount)
        )
    return math.floor(available / amount + 1e-9)


@contextlib.contextmanager
def by_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; an empty value removes one."""
    before = {k: os.environ.get(k) for k in values}
    for name, value in values.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


# Code and its state


def register_by_value() -> None:
    """Let classes of the sweep file, and of modules beside it, travel to the workers by value."""
    from ray import cloudpickle

    modules = own_modules()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    names = {module.__name__ for module in modules}
    for cls in subclasses(Spec):
        if cls.__module__ in names:
            with contextlib.suppress(NameError):  # an annotation that means nothing here: told when it is used
                field_hints(cls)


def own_modules() -> list[Any]:
    """The loaded sweep files and the modules that lie beside one."""
    from .keys import SWEEP_MODULE_PREFIX

    sweeps = [m for name, m in list(sys.modules.items()) if name.startswith(SWEEP_MODULE_PREFIX)]
    folders = {Path(m.__file__).resolve().parent for m in sweeps if m.__file__}
    found = list(sweeps)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve().parent in folders and Path(file).is_file() and module not in found:
            found.append(module)
    return found


def own_paths() -> tuple[str, ...]:
    """The folders of the loaded sweep files."""
    return tuple(dict.fromkeys(str(Path(m.__file__).resolve().parent) for m in own_modules() if m.__file__))


def git_state() -> dict[str, Any]:
    """Commit of the working folder and whether it has uncommitted changes; empty outside a repository."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))} if commit else {}
