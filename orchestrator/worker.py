"""What runs on the workers: a Tune Trainable that carries out bundles of tasks and commits each.

A worker process serves bundle after bundle (Tune reuses it) and forgets everything between tasks.
Exceptions of tasks end here: they go to the driver as plain data.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import cloudpickle
from ray.tune import Trainable

from tasks.errors import UserError
from tasks.task import Context, Results, Task, check_results, inherited_seeds

from .process import Input, captured, device_name, forget, input_artifact, machine, peak_memory, sentence
from .store import Prepared, Store

WARM_UP_SECONDS = 10.0
"""How long a worker with nothing to do waits for the others to start before it is free for work."""

REPORT_SECONDS = 0.25
"""How often a worker reports while it works, unless a scheduler wants every report."""


@dataclass(frozen=True)
class Work:
    """One task, with all that a worker needs to run and commit it.

    Attributes:
        manifest: what the plan knows of the task (see `plan.Node.spec`).
        watched: a search algorithm or scheduler wants every progress report.
    """

    key: str
    task: Task
    inputs: tuple[Input, ...]
    seeds: Mapping[str, int]
    manifest: Mapping[str, Any]
    watched: bool
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a task: plain data, whatever the task did.

    Attributes:
        status: "done", "diverged" or "failed".
        error: one line, for a failed task.
        seconds: run time without the commit.
    """

    key: str
    status: str
    seconds: float
    results: Results = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Bundle:
    """Tasks that one Tune trial carries out in a row.

    The tasks travel as bytes, in which classes of the sweep file are contained by value; Tune copies
    and prints the configuration of a trial many times, which must cost nothing.
    """

    name: str
    slot: Mapping[str, float]
    keys: tuple[str, ...]
    payload: bytes = field(repr=False)
    watched: bool = False

    def __deepcopy__(self, memo: Any) -> Bundle:
        return self

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


class Worker(Trainable):
    """Carries out bundles. `config` holds a "bundle" and, the same for all, the "run" (see RunInfo)."""

    def setup(self, config: dict[str, Any]) -> None:
        self._run = RunInfo(**config["run"])
        for path in reversed(self._run.sys_path):
            if path not in sys.path:
                sys.path.insert(0, path)
        for module in self._run.imports:
            importlib.import_module(module)
        self._store = Store(self._run.store)
        self._cache: dict[str, Any] = {}
        self._take(config["bundle"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._abandon()
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
        self._current: Generator[Results, None, tuple[Outcome, Prepared | None]] | None = None
        self._key: str | None = None

    def _abandon(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def step(self) -> dict[str, Any]:
        """Work for a while; report what was committed meanwhile and where the present task stands."""
        if not self._bundle.keys:  # a warm-up: this process is to be there, until the others are
            time.sleep(WARM_UP_SECONDS / 100)
            return {"outcomes": [], "now": None, "done": time.monotonic() - self._taken > WARM_UP_SECONDS}
        until = time.monotonic() + REPORT_SECONDS
        ended: list[tuple[Outcome, Prepared | None]] = []
        progress: Results = {}
        while True:
            if self._current is None:
                if not self._todo:
                    break
                work = self._todo.pop()
                self._key = work.key
                self._current = carry_out(work, self._store, self._run, self._bundle.slot, self._cache)
            try:
                progress = next(self._current)
                if self._bundle.watched:
                    break
            except StopIteration as end:
                ended.append(end.value)
                self._current = self._key = None
                progress = end.value[0].results if self._bundle.watched else {}
            if time.monotonic() > until:
                break
        outcomes = [*self._unreadable, *publish(ended, self._store)]
        self._unreadable = []
        done = self._current is None and not self._todo
        report: dict[str, Any] = {"outcomes": outcomes, "now": self._key, "done": done, "worker": worker_name()}
        # A scheduler looks for its metric at the top level; nothing may hide the words above.
        return {**progress, **report, "progress": [dict(progress)]}


@dataclass(frozen=True)
class RunInfo:
    """What every worker of a run must know.

    Attributes:
        store: URI of the store.
        run: path of the run inside the store; logs go below it.
        git: commit and state of the driver's code.
        sys_path: folders from which the sweep imports its own modules.
        imports: modules to import before the first task, which would else pay for it.
    """

    store: str
    run: str
    git: Mapping[str, Any]
    sys_path: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


def worker_name() -> str:
    """Host and process, as shown in the timeline."""
    return f"{socket.gethostname()}:{os.getpid()}"


def carry_out(
    work: Work, store: Store, run: RunInfo, slot: Mapping[str, float], cache: dict[str, Any]
) -> Generator[Results, None, tuple[Outcome, Prepared | None]]:
    """Run one task; yields its progress, returns what became of it and its artifact, ready to be committed."""
    forget(work.task, work.seeds, work.key)
    started, clock = time.time(), time.perf_counter()
    log = io.StringIO()
    folder = store.workspace()
    device = "cuda" if slot.get("gpu") else "cpu"
    kept = False
    try:
        try:
            with captured(log):
                inputs = tuple(input_artifact(i, store) for i in work.inputs)
                seeds = dict(work.seeds) or inherited_seeds(inputs)
                context = Context(folder, seeds=seeds, device=device, cache=cache, log=lambda m: print(m, file=log))
                steps = work.task.run(context, *inputs)
            if isinstance(steps, Generator):
                results = yield from _advance(steps, log)
            else:
                results = check_results(steps)
        except (Exception, SystemExit) as error:  # sys.exit() in a task must not end the worker
            seconds = time.perf_counter() - clock
            print(traceback.format_exc(), file=log)
            return Outcome(work.key, "failed", seconds, error=sentence(error)), None
        seconds = time.perf_counter() - clock
        status = "diverged" if results.get("diverged") is True else "done"
        manifest = {
            **work.manifest,
            "status": status,
            "results": results,
            "started": started,
            "seconds": seconds,
            "attempt": work.attempt,
            "slot": dict(slot),
            "run": run.run,
            "git": dict(run.git),
            "worker": worker_name(),
            "device": device_name(device),
            "peak_memory_bytes": peak_memory(),
            **machine(),
        }
        try:
            prepared = store.prepare(type(work.task).__name__, work.key, folder, manifest)
        except UserError as error:
            return Outcome(work.key, "failed", seconds, error=str(error)), None
        kept = True
        return Outcome(work.key, status, seconds, results), prepared
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
        if log.getvalue():
            with contextlib.suppress(UserError):  # a lost log must not lose the result
                store.write(f"{run.run}/logs/{work.key}.txt", log.getvalue().encode(), durable=False)


def publish(ended: Sequence[tuple[Outcome, Prepared | None]], store: Store) -> list[Outcome]:
    """Commit what tasks have left; the outcomes are as the store then has them."""
    left = [prepared for _, prepared in ended if prepared is not None]
    try:
        manifests = {m["key"]: m for m in store.publish(left)} if left else {}
    except UserError as error:
        return [o if p is None else Outcome(o.key, "failed", o.seconds, error=str(error)) for o, p in ended]
    return [
        o if p is None else Outcome(o.key, manifests[o.key]["status"], o.seconds, manifests[o.key]["results"])
        for o, p in ended
    ]


def _advance(steps: Generator[Results, None, Any], log: io.StringIO) -> Generator[Results, None, dict[str, Any]]:
    """Run a task's generator to its end, with its output captured whenever it has the floor."""
    try:
        while True:
            try:
                with captured(log):
                    progress = check_results(next(steps))
            except StopIteration as end:
                return check_results(end.value)
            yield progress
    finally:
        steps.close()
