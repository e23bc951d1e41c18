"""What runs on the workers: a Tune Trainable that carries out bundles of tasks and commits each.

A worker process serves bundle after bundle (Tune reuses it) and forgets everything between tasks.
Exceptions of tasks end here: they go to the driver as plain data.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import cloudpickle, get_runtime_context
from ray.tune import Trainable

from tasks.errors import UserError
from tasks.task import Context, Results, Task, check_results, inherited_seeds

from .cache import news
from .errors import DamagedArtifact, StoreError, StoreFull, StoreRefused, StoreUnavailable
from .node_check import code_fault
from .node_watch import allows
from .process import (
    Input,
    captured,
    compute_with,
    device_name,
    forget,
    input_artifact,
    machine,
    peak_memory,
    sentence,
    threads,
)
from .slots import Slot
from .store import Prepared, Store
from .tasklog import FATAL, TaskLog, salvage

WARM_UP_SECONDS = 10.0
"""How long a worker with nothing to do waits for the others to start before it is free for work."""

REPORT_SECONDS = 0.25
"""How often a worker reports while it works, unless a scheduler wants every report or there are very many."""

LISTENING_SECONDS = 0.0007
"""What a report costs the driver (measured); all workers together may take a quarter of its time."""

FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Work:
    """One task, with all that a worker needs to run and commit it.

    Attributes:
        manifest: what the plan knows of the task (see `plan.Node.spec`).
        watched: a search algorithm or scheduler wants every progress report, as soon as it is made.
        reports: all its progress reports are wanted, in time.
        attempt: of the task in this run, from 1.
        threads: to compute with; None for as many as the slot has CPUs. Stated where the slot was enlarged,
            since another number of threads may give other bytes.
    """

    key: str
    task: Task
    inputs: tuple[Input, ...]
    seeds: Mapping[str, int]
    manifest: Mapping[str, Any]
    watched: bool
    reports: bool = False
    attempt: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task: plain data, whatever the task did.

    Attributes:
        status: "done" or "diverged": committed by this worker; "stored": another had committed it;
            or one of those of `classify`.
        error: one line, for a task that was not committed.
        seconds: run time without the commit.
        diverged: of a stored one, whether it is so.
        culprit: key of the input that is damaged.
    """

    key: str
    status: str
    seconds: float
    results: Results = field(default_factory=dict)
    error: str | None = None
    diverged: bool = False
    culprit: str | None = None


@dataclass(frozen=True)
class Bundle:
    """Tasks that one Tune trial carries out in a row.

    The tasks travel as bytes, in which classes of the sweep file are contained by value; Tune copies
    and prints the configuration of a trial many times, which must cost nothing.

    Attributes:
        slot: what the worker holds.
        watched: a scheduler wants every report.
        node: the identifier of the node on which it is thought to be placed best.
    """

    name: str
    slot: Slot
    keys: tuple[str, ...]
    payload: bytes = field(repr=False)
    watched: bool = False
    node: str | None = None

    def __deepcopy__(self, memo: Any) -> Bundle:
        return self

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


class Worker(Trainable):
    """Carries out bundles. `config` holds a "bundle" and, the same for all, the "run" (see RunInfo).

    On a cluster also "checked", the nodes that were found good (see `node_watch.allows`): on another the worker
    waits, until the driver has it stopped. Where it cannot work as it should, it says so and hands its bundle back.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._node = get_runtime_context().get_node_id()
        self._current: Generator[Results, None, Ended] | None = None
        self._refusal: str | None = None
        try:
            self._refusal = code_fault(config["run"]["code"])
            if self._refusal is None:
                self._prepare(config)
        except Exception as error:
            if config.get("checked") is None:
                raise
            self._refusal = f"a worker could not start there ({sentence(error)})"
        self._allowed = allows(config.get("checked"), self._node)
        if self._refusal is None:
            self._take(config["bundle"])

    def _prepare(self, config: dict[str, Any]) -> None:
        self._run = RunInfo(**config["run"])
        for path in reversed(self._run.sys_path):
            if path not in sys.path:
                sys.path.insert(0, path)
        for module in self._run.imports:
            importlib.import_module(module)
        self._store = Store(self._run.store, patience=self._run.patience)
        self._cache: dict[str, Any] = {}
        self._devices = _devices()
        self._new = True
        self._resume = True
        salvage(self._store)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._allowed = self._allowed or allows(new_config.get("checked"), self._node)
        if self._refusal is not None:
            return True
        self._resume = False  # a scheduler has stopped the task: nobody will go on with it
        self._abandon()
        self._resume = True
        self._take(new_config["bundle"])
        return True

    def cleanup(self) -> None:
        self._abandon()

    def _take(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._taken = time.monotonic()
        self._unreadable: list[Outcome] = []
        works: list[Work] = []
        try:
            works = cloudpickle.loads(bundle.payload) if bundle.payload else []
        except Exception as error:  # a module that this machine lacks: another attempt would end the same
            words = f"cannot be read by the worker: {sentence(error)}"
            self._unreadable = [Outcome(key, "failed", 0.0, error=words) for key in bundle.keys]
        self._todo = list(reversed(works))
        self._current = None
        self._key: str | None = None
        self._steps = 0  # progress reports of the present task
        self._reports = False  # whether all of these are wanted

    def _abandon(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def step(self) -> dict[str, Any]:
        """Work for a while; report what was committed meanwhile and where the present task stands."""
        if self._refusal is not None:
            return {"outcomes": [], "refused": self._refusal, "node": self._node, "done": True}
        if not self._allowed:
            time.sleep(REPORT_SECONDS)
            return {"outcomes": [], "unchecked": True, "node": self._node, "done": False}
        if self._new:  # where it is counts at once, a first task may take hours
            self._new = False
            return {"outcomes": [], "now": None, "done": False, "progress": [{}], **self._place()}
        if not self._bundle.keys:  # a warm-up: this process is to be there, until the others are
            time.sleep(WARM_UP_SECONDS / 100)
            done = time.monotonic() - self._taken > WARM_UP_SECONDS
            return {"outcomes": [], "now": None, "done": done, **self._place()}
        until = time.monotonic() + self._run.report_seconds
        ended: list[Ended] = []
        progress: Results = {}
        reports: list[tuple[str, Results]] = []
        while True:
            if self._current is None:
                if not self._todo:
                    break
                work = self._todo.pop()
                self._key, self._steps, self._reports = work.key, 0, work.reports
                self._current = carry_out(
                    work, self._store, self._run, self._bundle.slot, self._cache, resume=lambda: self._resume
                )
            try:
                progress = next(self._current)
                self._steps += 1
                if self._reports and self._key is not None:
                    reports.append((self._key, progress))
                if self._bundle.watched:
                    break
            except StopIteration as end:
                ended.append(end.value)
                self._current = self._key = None
                progress = end.value.outcome.results if self._bundle.watched else {}
            except DeviceLost:
                publish(ended, self._store)
                os._exit(1)  # nothing more can be computed here; the task's log says why
            if time.monotonic() > until:
                break
        outcomes = [*self._unreadable, *publish(ended, self._store)]
        self._unreadable = []
        done = self._current is None and not self._todo
        report: dict[str, Any] = {"outcomes": outcomes, "now": self._key, "steps": self._steps, "done": done}
        report |= {**self._place(), **({"reports": reports} if reports else {})}
        # A scheduler looks for its metric at the top level; nothing may hide the words above.
        return {**progress, **report, "progress": [dict(progress)]}

    def _place(self) -> dict[str, Any]:
        """Where this process is, and what is new in the cache of its node."""
        told = news() if self._store.local is None else {}
        # In a list, since Tune takes mappings apart.
        place = {"worker": worker_name(), "node": self._node, "devices": self._devices}
        return {**place, **({"cache": [told]} if told else {})}


def _devices() -> list[int] | None:
    """The GPUs that Ray has given this worker, by number; None where they have no numbers."""
    names = get_runtime_context().get_accelerator_ids().get("GPU", [])
    return [int(name) for name in names] if all(name.isdecimal() for name in names) else None


@dataclass(frozen=True)
class RunInfo:
    """What every worker of a run must know.

    Attributes:
        store: URI of the store.
        run: path of the run inside the store; logs go below it.
        git: commit and state of the driver's code.
        sys_path: folders from which the sweep imports its own modules.
        imports: modules to import before the first task, which would else pay for it.
        patience: seconds to wait for a store that does not answer.
        snapshot_seconds: a running task is saved that often, so that another worker can go on with it.
        report_seconds: how often a worker reports while it works: less often where there are so many that the
            driver could not listen to all.
        source: sweep file and command, for the manifests.
        code: digest of each package of the project and module of the sweep, by name, where nodes may have others.
    """

    store: str
    run: str
    git: Mapping[str, Any]
    sys_path: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    patience: float = 0.0
    snapshot_seconds: float = 60.0
    report_seconds: float = REPORT_SECONDS
    source: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A task that has come to its end on a worker.

    Attributes:
        prepared: its artifact, ready to be committed; None if there is none to commit.
        snapshot: whether the store may hold a snapshot of it.
    """

    outcome: Outcome
    prepared: Prepared | None = None
    snapshot: bool = False


class StoreSnapshots:
    """A task's snapshots in the store (see `tasks.snapshots.Snapshots`).

    Args:
        seconds: how often to save; less often where saving takes more than a twentieth of the time.
    """

    def __init__(self, store: Store, key: str, seconds: float) -> None:
        self._store = store
        self._key = key
        self._seconds = seconds
        self._asked = time.monotonic()
        self._next = self._asked + seconds
        self.used = False
        """Whether the store may hold one."""

    def due(self) -> bool:
        self._asked = time.monotonic()
        return self._asked >= self._next

    def save(self, data: bytes) -> None:
        self.used = True
        self._store.write_snapshot(self._key, data)
        now = time.monotonic()
        self._next = now + max(self._seconds, 20 * (now - self._asked) if self._seconds else 0.0)

    def load(self) -> bytes | None:
        data = self._store.read_snapshot(self._key)
        self.used = self.used or data is not None
        return data


class DeviceLost(BaseException):
    """The device of this process can compute nothing more (a sticky CUDA error)."""


def worker_name() -> str:
    """Host and process, as shown in the timeline."""
    return f"{socket.gethostname()}:{os.getpid()}"


def carry_out(
    work: Work,
    store: Store,
    run: RunInfo,
    slot: Slot,
    cache: dict[str, Any],
    *,
    resume: Callable[[], bool] = lambda: True,
) -> Generator[Results, None, Ended]:
    """Run one task; yields its progress, returns what became of it and its artifact, ready to be committed.

    Args:
        resume: asked when the generator is closed before its end: whether somebody will go on with the task.
    """
    name = type(work.task).__name__
    started, clock = time.time(), time.perf_counter()
    snapshots = StoreSnapshots(store, work.key, run.snapshot_seconds)
    log: TaskLog | None = None
    folder: Path | None = None
    hold = contextlib.ExitStack()  # what keeps the inputs in the node's cache
    try:
        there = already(store, name, work.key)
        if there is not None:
            return Ended(Outcome(work.key, "stored", 0.0, there["results"], diverged=there["status"] == "diverged"))
        log = TaskLog(store, run.run, work.key, work.attempt)
        folder = store.workspace()
        forget(work.task, work.seeds, work.key)
        if work.threads is not None:
            compute_with(work.threads)
        device = "cuda" if slot.get("gpu") else "cpu"
        write = log.file
        with captured(write):
            contents: dict[str, Any] = {}
            inputs = tuple(input_artifact(i, store, hold, contents) for i in work.inputs)
            context = Context(
                folder,
                seeds=dict(work.seeds) or inherited_seeds(inputs),
                device=device,
                cache=cache,
                log=lambda message: print(message, file=write),
                snapshots=snapshots,
                origin=hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
            )
            steps = work.task.run(context, *inputs)
        if isinstance(steps, Generator):
            results = yield from _advance(steps, log, context, resume)
        else:
            results = check_results(steps)
        seconds = time.perf_counter() - clock
        status = "diverged" if results.get("diverged") is True else "done"
        manifest = {
            **work.manifest,
            "status": status,
            "results": results,
            "started": started,
            "seconds": seconds,
            "attempt": work.attempt,
            "resumed": context.resumed,
            "slot": dict(slot),
            "run": run.run,
            "git": dict(run.git),
            "source": dict(run.source),
            "worker": worker_name(),
            "device": device_name(device),
            "peak_memory_bytes": peak_memory(),
            **machine(),
            "threads": threads(),
        }
        prepared = store.prepare(name, work.key, folder, manifest)
        folder = None  # the commit's now
        return Ended(Outcome(work.key, status, seconds, results), prepared, snapshots.used)
    except (Exception, SystemExit) as error:  # sys.exit() in a task must not end the worker
        outcome = classify(error, work.key, time.perf_counter() - clock)
        if log is not None and outcome.status in ("failed", "memory", "device"):
            with contextlib.suppress(OSError):
                print(traceback.format_exc(), file=log.file)
                if outcome.status == "device":
                    print(f"{FATAL} device error: {outcome.error}", file=log.file)
        if outcome.status == "device":
            raise DeviceLost from None
        return Ended(outcome)
    finally:
        hold.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if log is not None:
            log.close()


def already(store: Store, name: str, key: str) -> dict[str, Any] | None:
    """The manifest, if another worker has committed the task meanwhile; a damaged one is set aside.

    None also of a training that is to run again because its weights were deleted.
    """
    if not store.exists(name, key) or store.dropped_files(name, key):
        return None
    try:
        return store.manifest(name, key)
    except DamagedArtifact:
        store.set_aside(name, key)
        return None


def classify(error: BaseException, key: str, seconds: float) -> Outcome:
    """What an exception says of a task.

    The outcome is "damaged" (an input's artifact is, or it is gone), "halted" (the store does not answer or lets
    nobody in, or a disk is full: no fault of the task, and no use in going on), "memory" (it wants a larger slot),
    "device" (the process can go on no more), or "failed" (the task's own fault).
    """
    if isinstance(error, DamagedArtifact):
        return Outcome(key, "damaged", seconds, error=str(error), culprit=error.key)
    if isinstance(error, StoreError) and (halt := _halting(error)):
        return Outcome(key, "halted", seconds, error=halt)
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    words = " ".join(str(e) for e in chain)
    if any(isinstance(e, OSError) and e.errno in FULL for e in chain) or "No space left on device" in words:
        full = f"A disk of {socket.gethostname()} is full: make space and run the same command again."
        return Outcome(key, "halted", seconds, error=full)
    torch = sys.modules.get("torch")
    out_of_memory = (MemoryError, *((torch.OutOfMemoryError,) if torch is not None else ()))
    lower = str(error).lower()
    if isinstance(error, out_of_memory) or (
        isinstance(error, RuntimeError) and ("out of memory" in lower or "can't allocate memory" in lower)
    ):
        return Outcome(key, "memory", seconds, error=sentence(error))
    lost = (torch.AcceleratorError,) if torch is not None and hasattr(torch, "AcceleratorError") else ()
    if isinstance(error, lost) or (isinstance(error, RuntimeError) and "CUDA error" in str(error)):
        return Outcome(key, "device", seconds, error=sentence(error))
    return Outcome(key, "failed", seconds, error=sentence(error))


def _halting(error: UserError) -> str | None:
    """The sentence with which the run ends, if the store's error is one that the next task would meet too."""
    if isinstance(error, StoreRefused):  # maybe by this machine only
        return f"On {socket.gethostname()}: {error}"
    return str(error) if isinstance(error, (StoreUnavailable, StoreFull)) else None


def publish(ended: Sequence[Ended], store: Store) -> list[Outcome]:
    """Commit what tasks have left, and drop their snapshots; the outcomes are as the store then has them."""
    left = [e.prepared for e in ended if e.prepared is not None]
    try:
        manifests = {m["key"]: m for m in store.publish(left)} if left else {}
    except UserError as error:
        # Whatever the store's trouble is, the next task would meet it too.
        status, words = "halted", _halting(error) or str(error)
        return [
            e.outcome if e.prepared is None else Outcome(e.outcome.key, status, e.outcome.seconds, error=words)
            for e in ended
        ]
    for e in ended:
        if e.snapshot:
            with contextlib.suppress(StoreError):  # what is left over is found by `gc`
                store.delete_snapshot(e.outcome.key)
    return [e.outcome if e.prepared is None else _as_committed(e.outcome, manifests[e.outcome.key]) for e in ended]


def _as_committed(outcome: Outcome, manifest: Mapping[str, Any]) -> Outcome:
    return Outcome(outcome.key, manifest["status"], outcome.seconds, manifest["results"])


def _advance(
    steps: Generator[Results, None, Any], log: TaskLog, context: Context, resume: Callable[[], bool]
) -> Generator[Results, None, dict[str, Any]]:
    """Run a task's generator to its end, with its output captured whenever it has the floor."""
    try:
        while True:
            try:
                with captured(log.file):
                    progress = check_results(context.advance(steps))
            except StopIteration as end:
                return check_results(end.value)
            log.sync()
            try:
                yield progress
            except GeneratorExit:
                if resume():
                    with contextlib.suppress(UserError):
                        context.save_offered()
                raise
    finally:
        steps.close()
