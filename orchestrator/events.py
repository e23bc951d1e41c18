"""The run's append-only record: `events.jsonl`, one JSON object a line.

Every event has a `time` (Unix seconds) and an `event`:

- `run_started`: command, tasks, stored, slots
- `submitted`: key, label, bundle
- `committed`: key, label, seconds, worker, status ("done" or "diverged")
- `failed`: key, label, error
- `lost`: key, label, again (whether it will run again)
- `stopped`: key, label, iteration
- `proposed`: setting, config (an adaptive search)
- `run_finished`: summary, or `run_interrupted`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from .store import Store

FLUSH_SECONDS = 30.0
"""How often the record is written to an object store, which cannot append."""


class Events:
    """Writes the events of one run and hands them to listeners.

    Args:
        path: of the run in the store, "runs/<sweep>/<run>".
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._file = f"{path}/events.jsonl"
        self._lines: list[bytes] = []
        self._written = time.monotonic()
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def emit(self, event: str, **data: Any) -> None:
        """Record an event."""
        record = {"time": time.time(), "event": event, **data}
        line = json.dumps(record).encode() + b"\n"
        if self._store.local is not None:
            self._store.append(self._file, line)
        else:
            self._lines.append(line)
            if time.monotonic() - self._written > FLUSH_SECONDS:
                self.flush()
        for listener in self.listeners:
            listener(record)

    def flush(self) -> None:
        """Make the record in the store complete."""
        if self._lines:
            self._store.write(self._file, b"".join(self._lines))
            self._written = time.monotonic()


def read_events(store: Store, path: str) -> Iterator[dict[str, Any]]:
    """The events of a run so far; a line cut off by a crash is passed over."""
    for line in (store.read(f"{path}/events.jsonl") or b"").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event
