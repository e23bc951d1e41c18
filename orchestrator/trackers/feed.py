"""In the driver: what happens in a run, turned into messages for the trackers' processes.

Nothing here waits for a tracker but `Trackers.close`, and that for a stated time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..records import COMMITTED, column_identity, column_names, plain_config
from ..store import Store
from .target import Target

if TYPE_CHECKING:
    from ..plan import Node, Plan
    from ..study import Study
    from ..sweep import Trial

FLUSH_SECONDS = 60.0
"""How long a run waits at its end until the trackers have taken everything."""

MOST_WAITING = 20_000
"""Messages that may wait for a tracker; beyond, those about single epochs are left for the end of the run."""


class Trackers:
    """Listens to the events of a run and tells the trackers of its trials.

    Args:
        plan: the tasks; it may grow.
        run: path of the run in the store.
        say: takes a sentence for the user; may be called from another thread.
    """

    def __init__(
        self, targets: Sequence[Target], plan: Plan, store: Store, run: str, say: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._store = store
        self._tags = {"sweep": plan.sweep.name, "run": run.rpartition("/")[2]}
        self._lines = [_Line(target, plan.sweep.name, say) for target in targets]
        self._training: dict[tuple[int, str], str] = {}  # key by index of the setting and label of the seed
        self._left: dict[str, set[str]] = {}  # by training, what of the trial is still to come
        self._grouped = 0  # nodes of the plan that are in there
        self._named: set[str] = set()  # trials that were spoken of
        self._status: dict[str, str] = {}  # of trainings that have ended in this run
        self._columns: dict[tuple[str, str, str], str] = {}
        self._column: dict[int, str] = {}  # by task object
        self._here: set[str] = set()  # trials at work in this run
        self._say = say
        self._failed = False

    def __enter__(self) -> Trackers:
        for line in self._lines:
            line.start()
        return self

    def __exit__(self, *error: object) -> None:
        for line in self._lines:
            line.end()  # what was not closed before, since the run has failed, ends by itself

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take in an event (a listener of `events.Events`)."""
        with self._harmless():
            self._take(event)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """A run does not fail for the sake of a tracker, whatever happens here."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._say(f"Trackers cannot be told of something ({type(error).__name__}: {error}): the run goes on.")

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind not in ("reported", "results", "failed", "stopped") or not self._lines:
            return
        node = self._plan.nodes.get(event["key"])
        if node is None or node.kind not in ("train", "probe") or not node.trials:
            return
        training = self._trial_of(node)
        if training is None:
            return
        self._here.add(training)
        if kind == "reported":
            progress = event["progress"]
            if isinstance(progress.get("epoch"), int):
                values = {n: v for n, v in progress.items() if not isinstance(v, bool)}
                self._send({"op": "epoch", "key": training, "epoch": progress["epoch"], "values": values})
            return
        status = event["status"] if kind == "results" else kind
        if node.kind == "train":
            self._status[training] = status
        if kind == "results":
            column = self._column_of(node)
            values = {f"{column}.{name}": value for name, value in event["results"].items()}
            epochs = _epochs(event["results"]) if node.kind == "train" else 0
            self._send({"op": "results", "key": training, "values": values, "epochs": epochs})
        left = self._left[training]
        left.discard(node.key)
        ended = self._status.get(training)
        # What stands on a training that has not ended well is skipped. The last epoch of one that has diverged is not
        # reported: `complete` tells it.
        if ended in ("failed", "stopped") or (not left and ended != "diverged"):
            self._send({"op": "end", "key": training, "status": ended or "done"})

    def _trial_of(self, node: Node) -> str | None:
        """Key of the training of the trial that a node is about; the trackers have been told of the trial."""
        if self._grouped < len(self._plan.nodes):
            for other in itertools.islice(self._plan.nodes.values(), self._grouped, None):
                if other.kind in ("train", "probe") and other.trials:
                    if other.kind == "train":
                        self._training[_identity(other.trials[0])] = other.key
                    training = self._training.get(_identity(other.trials[0]))
                    if training is not None and other.key not in self._plan.stored:
                        self._left.setdefault(training, set()).add(other.key)
            self._grouped = len(self._plan.nodes)
        trial = node.trials[0]
        training = self._training.get(_identity(trial))
        if training is not None:
            self._left.setdefault(training, set())
            self._introduce(training, trial)
        return training

    def _introduce(self, training: str, trial: Trial) -> None:
        if training in self._named:
            return
        self._named.add(training)
        setting, seed = trial.setting.label, trial.replicate.label
        params = {f"config.{path}": value for path, value in plain_config(trial.setting).items()}
        tags = {**self._tags, "key": training, "setting": setting, "seed": seed}
        name = f"{setting} · seed {seed}"
        params |= {"seed": seed, "key": training}
        self._send({"op": "trial", "key": training, "name": name, "params": params, "tags": tags})

    def _column_of(self, node: Node) -> str:
        name = self._column.get(id(node.task))
        if name is None:
            if column_identity(node) not in self._columns:
                self._columns = column_names(self._plan)
            name = self._column[id(node.task)] = self._columns[column_identity(node)]
        return name

    def _send(self, message: Mapping[str, Any]) -> None:
        for line in self._lines:
            line.send(message)

    # The end

    def complete(self, study: Study) -> None:
        """Tell of every trial all that there is, so that what a tracker has missed, or never heard of, is filled in."""
        with self._harmless():
            self._complete(study)

    def _complete(self, study: Study) -> None:
        probes: dict[tuple[int, str], list[str]] = {}
        for task in study.tasks.values() if self._lines else ():
            if task.kind == "probe" and task.trials:
                probes.setdefault(task.trials[0], []).append(task.key)
        for task in study.tasks.values() if self._lines else ():
            if task.kind != "train" or not task.trials:
                continue
            node = self._plan.nodes[task.key]
            self._trial_of(node)
            keys = [task.key, *probes.get(task.trials[0], ())]
            results = {
                f"{study.tasks[key].column}.{name}": value for key in keys for name, value in study.results(key).items()
            }
            status = study.statuses[task.key]
            self._send(
                {
                    "op": "whole",
                    "key": task.key,
                    "results": results,
                    "status": "interrupted" if status == "not run" else status,
                    "epochs": _epochs(study.results(task.key)),
                    "artifact": [task.name, task.key] if task.state in COMMITTED else None,
                    "store": self._store.address,
                    "here": task.key in self._here,
                }
            )

    def close(self) -> list[str]:
        """Wait until the trackers have taken everything, but not for long.

        Returns:
            a sentence for each.
        """
        until = time.monotonic() + FLUSH_SECONDS
        for line in self._lines:
            line.send({"op": "close"})
            line.end()
        return [line.wait(until) for line in self._lines]


def _epochs(results: Mapping[str, Any]) -> int:
    """How many epochs a training says that it had; 0 if it does not say."""
    epochs = results.get("epochs")
    return epochs if isinstance(epochs, int) else 0


def _identity(trial: Trial) -> tuple[int, str]:
    return trial.setting.index, trial.replicate.label


class _Line:
    """The line to one tracker's process."""

    def __init__(self, target: Target, sweep: str, say: Callable[[str], None]) -> None:
        self._target = target
        self._sweep = sweep
        self._say = say
        self._queue: deque[str] = deque()
        self._more = threading.Condition()
        self._ending = False
        self._behind = False
        self._process: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []
        self._errors: IO[bytes] | None = None
        self._done: dict[str, Any] | None = None
        self._broken = False

    def start(self) -> None:
        """Start the process; where that fails, say so."""
        root = str(Path(__file__).resolve().parent.parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it goes with this object)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.trackers.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the run
            )
        except OSError as error:
            self._broken = True
            self._say(f"{self._target.name} cannot be told of this run ({error.strerror}): it goes on without.")
            return
        first = {"kind": self._target.kind, "name": self._target.name, "where": self._target.where}
        self.send({**first, "sweep": self._sweep, "op": "begin"})
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Put a message into the queue."""
        if self._broken:
            return
        if len(self._queue) >= MOST_WAITING and message["op"] == "epoch":
            if not self._behind:
                self._behind = True
                self._say(f"{self._target.name} is slower than this run: single epochs are told at its end.")
            return
        with self._more:
            self._queue.append(json.dumps(message))
            self._more.notify()

    def end(self) -> None:
        """Nothing more will come."""
        with self._more:
            self._ending = True
            self._more.notify()

    def _write(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            while True:
                with self._more:
                    while not self._queue and not self._ending:
                        self._more.wait()
                    lines = [self._queue.popleft() for _ in range(min(len(self._queue), 1000))]
                    if not lines:
                        break
                self._process.stdin.write("".join(f"{line}\n" for line in lines))
                self._process.stdin.flush()
            self._process.stdin.close()
        except (OSError, ValueError):  # the process has died, which `_read` says
            self._broken = True

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if "say" in answer:
                    self._say(str(answer["say"]))
                if "done" in answer:
                    self._done = answer
        if self._done is None and not self._ending:
            self._broken = True
            why = self._last_words()
            self._say(f"The process that tells {self._target.name} has died{why}: the run goes on without.")

    def _last_words(self) -> str:
        assert self._errors is not None
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            return f" ({lines[-1][:200]})" if lines else ""
        return ""

    def wait(self, until: float) -> str:
        """How it ended, in a sentence; past the time it is ended."""
        name, kind = self._target.name, self._target.kind
        later = kind in ("mlflow", "tensorboard")
        again = "the same command fills in what is missing" if later else "it is not made up for later"
        if self._process is None or self._broken:
            return f"{name}: not everything was logged; {again}."
        reader = self._threads[1]
        try:
            reader.join(max(until - time.monotonic(), 0.0))
        except KeyboardInterrupt:
            self.stop()
            return f"{name} was not waited for; {again}."
        if reader.is_alive():
            self.stop()
            return f"{name} had not taken everything after {FLUSH_SECONDS:.0f} s; {again}."
        if self._done is None:
            return f"{name}: its process has died{self._last_words()}; {again}."
        told, there = int(self._done["done"]), int(self._done["there"])
        if self._done["missed"]:
            return f"{name}: {'not everything' if told else 'nothing'} was logged; {again}."
        trials = "1 trial" if told == 1 else f"{told} trials"
        before = f", {there - told} were there already" if there > told else ""
        return f"{name}: {trials} of {self._sweep} logged{before} ({self._target.shown})"

    def stop(self) -> None:
        """End the process now, if it is still there."""
        self.end()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
