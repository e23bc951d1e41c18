"""The run's append-only record: `events.jsonl`, one JSON object a line (see `journal`).

Every event has a `time` (Unix seconds) and an `event`:

- `run_started`: command, tasks, stored, slots; kinds (by kind of task how many there are: tasks, stored, skipped),
  expected (seconds of a task by kind, as far as known), metric, mode, seeds, settings; with a search algorithm also
  search, samples, proposed
- `stored`: setting, values (the metric by key, of trainings that were stored when the run began)
- `submitted`: key, label, bundle
- `committed`: key, label, seconds, worker, status ("done" or "diverged"); of a training value (of the metric)
- `failed`: key, label, error, blocked (how many tasks needed it)
- `lost` (with its worker): key, label, again (whether it will run again), why, blamed (whether it counts against it)
- `enlarged` (out of memory): key, label, slot (the larger one), why
- `damaged` (its artifact is): key, label, why, again
- `elsewhere`: key, label: another run is at work on it; `released`: key, label: no longer, and it is not committed;
  `found`: key, label: another run has committed it; of a training value
- `stopped` (by a scheduler): key, label, iteration
- `proposed`: setting, config (an adaptive search); proposed (so many so far), kinds (as they are now)
- `slots`: slots: nodes have come or gone
- `left_out`: node, host, why: no task runs there
- `returned`: key, label: it was handed out and not carried out (a node left out, a damaged input, the run ends)
- `store_away`: why; `store_back`
- `halted`: why: nothing more begins
- `run_finished`, `run_interrupted` or `run_halted`: seconds, startup, why

Every event of a training has its setting and seed. Any event may have `skipped`: how many tasks of each kind are
skipped by now, where that has changed, and `elsewhere`: how many are still left to other runs then.

Listeners are told of more, which is not recorded:

- `at_work`: bundle, worker, key, doing: what a worker is at (the latest are in the run's sign of life, see `live`)
- `reported`: key, progress: what a training has said of itself, if these reports were asked for
- `results`: key, results, status ("done" or "diverged"): of a task that this run or another has just committed
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from .errors import StoreError
from .journal import Journal, Tail, read_journal
from .store import Store


class Events:
    """Writes the events of one run and hands them to listeners.

    Emitting neither waits for an object store nor fails: events that cannot be written are kept until they can.

    Args:
        path: of the run in the store, "runs/<sweep>/<run>".
    """

    def __init__(self, store: Store, path: str) -> None:
        self._journal = Journal(store, f"{path}/events.jsonl")
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    @property
    def trouble(self) -> StoreError | None:
        """Why the record could not be written the last time; None while all is well."""
        return self._journal.trouble

    def emit(self, event: str, **data: Any) -> None:
        """Record an event."""
        record = {"time": time.time(), "event": event, **data}
        self._journal.add(record)
        self._tell(record)

    def tell(self, event: str, **data: Any) -> None:
        """Hand listeners an event that is not recorded."""
        self._tell({"time": time.time(), "event": event, **data})

    def _tell(self, record: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener(record)

    def flush(self) -> None:
        """Make the record in the store complete.

        Raises:
            StoreError: the store cannot be written.
        """
        self._journal.flush()

    def close(self) -> None:
        """Make the record complete, as one file on every store.

        Raises:
            StoreError: the store cannot be written; what was written before is still there.
        """
        self._journal.close(merge=True)


def read_events(store: Store, path: str) -> Iterator[dict[str, Any]]:
    """The events of a run so far; what is damaged, or no event, is passed over.

    Every event handed out has its `time` and `event`, and its fields are of the types that are written.
    """
    for record in read_journal(store, f"{path}/events.jsonl").records:
        if _is_event(record):
            yield record


class Follower:
    """Reads the events of a run as they come, each once."""

    def __init__(self, store: Store, path: str) -> None:
        self._tail = Tail(store, f"{path}/events.jsonl")

    def new(self) -> list[dict[str, Any]]:
        """The events that have come since the last call, as `read_events` hands them out.

        Raises:
            StoreError: the store cannot be read.
        """
        return [record for record in self._tail.read() if _is_event(record)]


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "run_started": {"tasks": int, "stored": int, "slots": int},
    "submitted": {"key": str, "label": str},
    "committed": {"key": str, "label": str, "seconds": (int, float), "worker": str, "status": str},
    "failed": {"key": str, "label": str, "error": (str, type(None))},
    "lost": {"key": str, "label": str},
    "stopped": {"key": str, "label": str},
    "left_out": {"node": str, "host": str, "why": str},
}
"""The fields on which readers rely, by event."""


def _is_event(record: dict[str, Any]) -> bool:
    event, when = record.get("event"), record.get("time")
    if not isinstance(event, str) or isinstance(when, bool) or not isinstance(when, (int, float)):
        return False
    if not math.isfinite(when):
        return False
    return all(isinstance(record.get(name), kinds) for name, kinds in _FIELDS.get(event, {}).items())
