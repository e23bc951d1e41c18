"""Signs of life in the store: which runs are going on, and what each is at work on.

Every driver rewrites `live/<run>.json` every few seconds::

    {"time": …, "host": …, "boot": …, "pid": …, "run": "runs/<sweep>/<run>", "beat": 17, "running": {key: since},
     "at_work": [{"time": …, "bundle": …, "worker": "host:pid", "key": …, "doing": "epoch 3 of 12"}, …]}

A driver that is about to begin a long task writes its claim there first and then reads what the others
claim. Of two that claim the same task the earlier goes ahead and the other leaves it alone until the task
is committed or the claim ends. The cost is a file a driver, whatever the number of tasks. Nothing depends on
it but time: where clocks disagree, or two claims are not seen, a task is computed twice and committed once.

A driver is dead when its process is gone (on this host), or when its record has not changed for
`SILENCE` seconds of this process's own clock, which no clock of another machine can disturb.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import NoPlainFile, StoreError
from .identity import process_lives, this_process
from .store import Store, is_run

FOLDER = "live"

BEAT = 5.0
"""Seconds between two signs of life."""

SILENCE = 30.0
"""Seconds without one after which a driver is taken for dead."""

HURRY = 1.0
"""Seconds within which the claims of a run that is alone on the store are written together."""

STALE = 600.0
"""Seconds by the wall clock after which a record is not even watched."""


class Live:
    """This run's sign of life, and a view of the others'.

    Args:
        run: path of the run in the store, "runs/<sweep>/<run>".
        on_store: told True or False when the store begins and ceases to answer.
        at_work: what the workers are at, for those who watch; asked by the thread that writes the record.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        on_store: Callable[[bool, str], None] | None = None,
        at_work: Callable[[], Sequence[Mapping[str, Any]]] = lambda: (),
    ) -> None:
        self._store = Store(store.address)  # without patience: a beat that fails is simply missed
        self._file = f"{FOLDER}/{run.replace('/', '.')}.json"
        self._about = {**this_process(), "run": run}
        self._claims: dict[str, float] = {}
        self._beats = 0
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[Any, float]] = {}  # by file: the beat last seen, and when
        self._others: dict[str, dict[str, float]] = {}
        self._read = float("-inf")
        self._claimed = float("-inf")
        self._answers = True
        self._on_store = on_store
        self._at_work = at_work
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="signs of life", daemon=True)

    def __enter__(self) -> Live:
        with contextlib.suppress(StoreError):
            for name in self._store.names(FOLDER):  # those of this host that nobody will ever take away
                record = read_record(self._store, name)
                if record is not None and is_dead(record):
                    self._store.delete(f"{FOLDER}/{name}")
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._end.set()
        self._thread.join(timeout=BEAT)
        with self._lock, contextlib.suppress(StoreError):
            self._store.delete(self._file)

    def claim(self, keys: Iterable[str]) -> set[str]:
        """Announce work on these tasks.

        Returns:
            those that another live run claimed earlier, and that should be left to it.
        """
        wanted = list(keys)
        now = time.time()
        self._claims |= {k: self._claims.get(k, now) for k in wanted}
        if not self.others() and time.monotonic() - self._claimed < HURRY:
            return set()  # the next claim, or sign of life, tells of these too
        self._claimed = time.monotonic()
        self._beat()
        others = self.others(fresh=True)
        earlier = {k for k in wanted if self._claimed_before(k, others)}
        self.release(earlier)
        return earlier

    def release(self, keys: Iterable[str]) -> None:
        """These tasks are no longer at work here (told with the next sign of life)."""
        for key in keys:
            self._claims.pop(key, None)

    def elsewhere(self) -> set[str]:
        """The tasks that other live runs are at work on, as of a few seconds ago."""
        return {key for claims in self.others().values() for key in claims}

    def others(self, *, fresh: bool = False) -> dict[str, dict[str, float]]:
        """The claims of every other live run, by the name of its record; read every BEAT seconds unless fresh."""
        if fresh or time.monotonic() - self._read > BEAT:
            with contextlib.suppress(StoreError):
                self._others = {
                    name: dict(record.get("running") or {})
                    for name, record in live_records(self._store, self._seen).items()
                    if f"{FOLDER}/{name}" != self._file
                }
                self._read = time.monotonic()
        return self._others

    def _claimed_before(self, key: str, others: dict[str, dict[str, float]]) -> bool:
        mine = (self._claims[key], self._file)
        return any(key in claims and (claims[key], f"{FOLDER}/{name}") < mine for name, claims in others.items())

    def _beat_on(self) -> None:
        while not self._end.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        try:
            with self._lock:
                if self._end.is_set():
                    return
                self._beats += 1
                record = {
                    **self._about,
                    "time": time.time(),
                    "beat": self._beats,
                    "running": dict(self._claims),
                    "at_work": list(self._at_work()),
                }
                self._store.write(self._file, json.dumps(record).encode(), durable=False)
        except StoreError as error:
            self._heard(False, str(error))
        else:
            self._heard(True, "")

    def _heard(self, answers: bool, why: str) -> None:
        if answers != self._answers:
            self._answers = answers
            if self._on_store is not None:
                self._on_store(answers, why)


def live_records(store: Store, seen: dict[str, tuple[Any, float]] | None = None) -> dict[str, dict[str, Any]]:
    """The records of runs that are going on, by name.

    Args:
        seen: what earlier calls saw; with it a run is taken for dead after SILENCE seconds without a sign.
    """
    found = {}
    for name in store.names(FOLDER):
        if name.startswith(".") or not name.endswith(".json"):
            continue
        record = read_record(store, name)
        if record is None or is_dead(record):
            continue
        if seen is not None:
            beat, since = seen.get(name, (None, 0.0))
            if beat != record.get("beat"):
                seen[name] = (record.get("beat"), time.monotonic())
            elif time.monotonic() - since > SILENCE:
                continue
        found[name] = record
    return found


def read_record(store: Store, name: str) -> dict[str, Any] | None:
    """A run's sign of life; None if there is none that makes sense."""
    try:
        data = store.read(f"{FOLDER}/{name}")
        record = json.loads(data or b"")
        float(record["time"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, NoPlainFile):
        return None
    running = record.get("running")
    sensible = is_run(record.get("run")) and isinstance(running, dict)
    sensible = sensible and all(isinstance(since, (int, float)) for since in running.values())
    return record if sensible else None


def is_dead(record: dict[str, Any]) -> bool:
    """Whether a run has surely ended: its process is gone from this host, or its sign of life is very old."""
    here = this_process()
    if (record.get("host"), record.get("boot")) == (here["host"], here["boot"]):
        return not process_lives(record.get("pid"), record.get("begun"))
    return time.time() - float(record["time"]) > STALE
