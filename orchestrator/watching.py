"""A run as it can be seen from the store alone: its events, and its driver's sign of life."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from .events import Follower
from .live import SILENCE, is_dead, read_record
from .records import RUN_NAME
from .standing import Standing
from .standing_words import how_to_go_on
from .store import Store
from .text import plain_data

JUST_NOW = 60.0
"""Seconds after its last event in which a run without a sign of life may still be starting or ending."""

STARTING = 600.0
"""Seconds in which a run that has told nothing yet may still be starting."""


class Watched:
    """A run in the store, read again and again, each time only what is new.

    Attributes:
        path: of the run in the store, "runs/<sweep>/<run>".
        standing: where it stands, as far as its events were taken in.
    """

    def __init__(self, store: Store, path: str, standing: Standing | None = None) -> None:
        self.path = path
        self.standing = standing or Standing()
        self._store = store
        self._follower = Follower(store, path)
        self._sign: dict[str, Any] | None = None
        self._beat: tuple[Any, float] = (None, time.monotonic())  # the last sign of life, and when it was new

    def look(self) -> list[dict[str, Any]]:
        """What has happened since the last look, and last what the workers are at.

        Raises:
            StoreError: the store cannot be read.
        """
        # The sign of life first: a run ends with an event, then its sign goes.
        self._sign = read_record(self._store, f"{self.path.replace('/', '.')}.json")
        if self._sign is not None and self._sign.get("run") != self.path:
            self._sign = None
        beat = None if self._sign is None else self._sign.get("beat")
        if beat != self._beat[0]:
            self._beat = (beat, time.monotonic())
        events = self._follower.new()
        told = self._sign.get("at_work") if self._sign is not None else None
        return events + [{**plain_data(e), "event": "at_work"} for e in _at_work(told)]

    def feed(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            self.standing.feed(event)

    def state(self, now: float) -> tuple[str, bool]:
        """How it is with the run, in words, and whether it is going on; call after `look` and `feed`."""
        standing, sign = self.standing, self._sign
        if standing.started is None:
            return self._not_begun(now)
        if standing.ended == "finished":
            return "finished", False
        if standing.ended is not None:
            return f"{standing.ended}: {how_to_go_on(standing)}", False
        heard = now - max(standing.last, float(sign["time"]) if sign else 0.0)
        if sign is not None and not is_dead(sign):
            waits = f", waiting for the store: {standing.away}" if standing.away else ""
            return f"running, last sign of life {ago(heard)} ago, on {sign.get('host')}{waits}", True
        if sign is None and heard < JUST_NOW:
            return f"running, last heard of {ago(heard)} ago", True
        return f"stopped without ending {ago(heard)} ago (killed?): run the same command again to go on", False

    def silence(self) -> float:
        """Seconds for which there has been no new sign of life, by this machine's clock; 0 while that is usual."""
        silent = time.monotonic() - self._beat[1]
        return silent if silent > SILENCE and self.standing.ended is None else 0.0

    def _not_begun(self, now: float) -> tuple[str, bool]:
        """What a run is that has not told of its start."""
        if self._store.read(f"{self.path}/study.json") is not None:
            return "a report of stored results, nothing ran", False
        with contextlib.suppress(ValueError):
            begun = datetime.strptime(self.path.rpartition("/")[2], RUN_NAME).replace(tzinfo=timezone.utc)
            if now - begun.timestamp() < STARTING:
                return f"starting, for {ago(now - begun.timestamp())}: it looks at the cluster's nodes", True
        return "ended before it began: run the same command again", False


def ago(seconds: float) -> str:
    """A time that has passed, in its largest unit."""
    for unit, size in (("days", 172_800), ("h", 7200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _at_work(told: Any) -> list[Mapping[str, Any]]:
    """What a sign of life says of the workers, without what makes no sense."""
    found = [e for e in told if isinstance(e, Mapping)] if isinstance(told, list) else []
    return [e for e in found if isinstance(e.get("time"), (int, float)) and isinstance(e.get("key"), str)]
