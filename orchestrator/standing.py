"""Where a run stands, told from its events alone: by the live view as they happen, by `status` from the store.

Nothing here reads a clock or a file: `Standing.feed` takes in one event after the other, and what depends on the
time of day is asked with it. Each event costs the same, and so does each question, however many tasks there are
(questions about workers grow with these).
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .stats import Interval, mean_interval
from .text import one_line

KEPT = 50
"""How many failures are kept with their words; all are counted."""

FORGET = 200
"""After so many tasks of a kind half of what they took is forgotten, so that durations may change."""

RATE_SECONDS = 300.0
"""Over how long the rate is taken."""

MOMENTARY = ("at_work", "reported", "results")
"""Events that are told to listeners and not recorded."""

_OVER = ("committed", "found", "failed", "stopped")
_BACK = ("lost", "enlarged", "returned", "released")


@dataclass
class Tally:
    """The tasks of a kind, by what became of them.

    Attributes:
        tasks: how many there are; None where an older version did not tell.
        stored: were stored already, or were made by another run meanwhile.
        running: handed to workers, which may have several at a time and carry out one after the other.
        elsewhere: another run is at work on them.
    """

    tasks: int | None = None
    stored: int = 0
    done: int = 0
    running: int = 0
    elsewhere: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def over(self) -> int:
        """How many will not run any more."""
        return self.stored + self.done + self.failed + self.skipped

    @property
    def left(self) -> int:
        return max((self.tasks or 0) - self.over, 0)


@dataclass(frozen=True)
class AtWork:
    """What a worker is at.

    Attributes:
        worker: host and process; "" while it has not reported.
        kind: of the task.
        since: Unix seconds from which the task counts as at work.
        doing: how far it is ("epoch 3 of 12"), where it says.
        more: how many tasks it will carry out after this one.
    """

    worker: str
    label: str
    kind: str
    since: float
    doing: str
    more: int


@dataclass(frozen=True)
class Failure:
    """A task that has failed for good."""

    key: str
    label: str
    error: str
    blocked: int


@dataclass(frozen=True)
class Best:
    """The setting with the best mean of the sweep's metric so far.

    Attributes:
        interval: of the mean over the seeds that have ended well.
        lost: how many of its seeds diverged, failed or were stopped.
        others: how many other settings have a value.
    """

    setting: str
    interval: Interval
    lost: int
    others: int


@dataclass
class _Loss:
    label: str
    why: str
    times: int = 0


@dataclass
class _Bundle:
    """Tasks that a worker carries out one after the other."""

    name: str
    last: float
    keys: dict[str, None] = field(default_factory=dict)
    worker: str = ""
    key: str = ""
    doing: str = ""


@dataclass
class _Scores:
    """What the seeds of a setting have come to."""

    values: dict[str, float] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    version: int = 0


class Standing:
    """A run, as its events tell of it.

    Attributes:
        started: Unix seconds; None until the run has begun, and `last` is that of the newest event.
        ended: "finished", "interrupted" or "halted"; None as long as it goes on.
        why: it was halted, as a sentence.
        slots: tasks that can run at the same time.
        stored_before: how many tasks the store held when the run began.
        metric, mode, seeds, settings: of the sweep; a metric of "" where an older version did not tell.
        search: name of the search algorithm, or ""; it has `proposed` settings of `samples`.
        away: why the store is being waited for, as a sentence, since `away_since`; "" while it answers.
        widest: the length of the longest name of a worker so far.
        left_out: why a node takes no part, by its identifier.
        failures: the newest by key.
        losses: what was lost with its worker, by key; `counts` of events by name.
    """

    def __init__(self) -> None:
        self.started: float | None = None
        self.last = 0.0
        self.ended: str | None = None
        self.seconds: float | None = None
        self.why = ""
        self.halting = ""
        self.slots, self.stored_before = 1, 0
        self.metric, self.mode, self.seeds, self.settings = "", "max", 0, 0
        self.search, self.samples, self.proposed = "", 0, 0
        self.away, self.away_since = "", 0.0
        self.widest = 0
        self.left_out: dict[str, str] = {}
        self.failures: OrderedDict[str, Failure] = OrderedDict()
        self.losses: dict[str, _Loss] = {}
        self.counts: Counter[str] = Counter()
        self.tallies: dict[str, Tally] = {}
        self.total = Tally()
        self._states: dict[str, str] = {}  # of the tasks that events told of, by key
        self._bundles: dict[str, _Bundle] = {}
        self._bundle_of: dict[str, _Bundle] = {}
        self._labels: dict[str, str] = {}  # of what is running
        self._expected: dict[str, float] = {}
        self._took: dict[str, list[float]] = {}  # by kind: how many, their seconds, those for which they held a slot
        self._warm: set[str] = set()  # workers that have committed something
        self._scores: dict[str, _Scores] = {}
        self._ranked: list[tuple[tuple[Any, ...], int, str]] = []
        self._best: Best | None = None
        self._with_values = 0
        self._samples: deque[tuple[float, int]] = deque()  # times, and how many tasks were over

    # Events

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take in an event, one with its `time` and `event` as `events.read_events` hands them out."""
        name, when = event["event"], float(event["time"])
        if name == "at_work":
            self._hear(event)
        if name in MOMENTARY:
            return
        self.counts[name] += 1
        self.last = max(self.last, when)
        key, label = event.get("key"), one_line(str(event.get("label", "")))
        if isinstance(key, str) and label:
            self._task(name, when, key, label, event)
        elif name == "run_started":
            self._start(when, event)
        elif name == "proposed":
            self.proposed = max(_whole(event.get("proposed")), self.proposed)
            self._census(event.get("kinds"))
        elif name == "stored":
            self._take_stored(event)
        elif name == "slots":
            self.slots = max(_whole(event.get("slots")), 1)
        elif name == "left_out":
            self.left_out[str(event.get("node"))] = one_line(str(event.get("why", "")))
        elif name in ("store_away", "store_back"):
            self.away = one_line(str(event.get("why"))) if name == "store_away" else ""
            self.away_since = when
        elif name == "halted":
            self.halting = one_line(str(event.get("why", "")))
        elif name in ("run_finished", "run_interrupted", "run_halted"):
            self._end(name.removeprefix("run_"), event)
        for what in ("skipped", "elsewhere"):
            now = event.get(what)
            for kind, number in now.items() if isinstance(now, Mapping) else ():
                self._set(one_line(str(kind)), what, _whole(number))
        self._sample(when)

    def _start(self, when: float, event: Mapping[str, Any]) -> None:
        self.started = when
        self.slots = max(_whole(event.get("slots")), 1)
        self.metric, self.mode = one_line(str(event.get("metric", ""))), str(event.get("mode", "max"))
        self.seeds, self.settings = _whole(event.get("seeds")), _whole(event.get("settings"))
        self.search = one_line(str(event.get("search", "")))
        self.samples, self.proposed = _whole(event.get("samples")), _whole(event.get("proposed"))
        expected = event.get("expected")
        for kind, seconds in expected.items() if isinstance(expected, Mapping) else ():
            if (found := _number(seconds)) is not None and found > 0:
                self._expected[one_line(str(kind))] = found
        if isinstance(event.get("kinds"), Mapping):
            self._census(event["kinds"])
            self.stored_before = self.total.stored
        else:  # an older version told no more than this
            self.total = Tally(_whole(event.get("tasks")), _whole(event.get("stored")))
            self.stored_before = self.total.stored

    def _census(self, kinds: Any) -> None:
        for kind, told in kinds.items() if isinstance(kinds, Mapping) else ():
            if isinstance(told, Mapping):
                kind = one_line(str(kind))
                tally = self._tally(kind)
                tasks = _whole(told.get("tasks"))
                self.total.tasks = (self.total.tasks or 0) + tasks - (tally.tasks or 0)
                tally.tasks = tasks
                self._set(kind, "stored", _whole(told.get("stored")))
                self._set(kind, "skipped", _whole(told.get("skipped")))

    def _task(self, name: str, when: float, key: str, label: str, event: Mapping[str, Any]) -> None:
        kind = label.partition(" · ")[0]
        if name == "submitted":
            self._move(key, kind, "running")
            self._labels[key] = label
            of = str(event.get("bundle", key))
            bundle = self._bundles.setdefault(of, _Bundle(of, when))
            bundle.keys[key] = None
            self._bundle_of[key] = bundle
        elif name in _OVER or name in _BACK or name in ("elsewhere", "damaged"):
            self._leave(name, when, key, kind, event)
        if name == "committed":
            self._move(key, kind, "done")
            self.failures.pop(key, None)
        elif name == "found":
            self._move(key, kind, "stored")
        elif name == "failed":
            self._move(key, kind, "failed")
            error = one_line(str(event.get("error") or "failed"))
            self.failures[key] = Failure(one_line(key), label, error, _whole(event.get("blocked")))
            if len(self.failures) > KEPT:
                self.failures.popitem(last=False)
        elif name == "elsewhere":
            self._move(key, kind, "elsewhere")
        elif name == "stopped":
            self._move(key, kind, "")
            if "skipped" not in event:
                self._set(kind, "skipped", self._tally(kind).skipped + 1)
        elif name in _BACK:
            self._move(key, kind, "")
            if name == "lost":
                why = one_line(str(event.get("why") or ""))
                before = self.losses.pop(key, None)  # the newest stands last
                self.losses[key] = _Loss(label, why, before.times + 1 if before else 1)
        elif name == "damaged":
            if key not in self._states:  # it was stored before the run began
                self._set(kind, "stored", max(self._tally(kind).stored - 1, 0))
            self._move(key, kind, "")
        if isinstance(event.get("setting"), str):
            self._score(name, key, event)

    def _leave(self, name: str, when: float, key: str, kind: str, event: Mapping[str, Any]) -> None:
        """A task leaves its worker, if it was on one; how long it held the slot is learned."""
        self._labels.pop(key, None)
        bundle = self._bundle_of.pop(key, None)
        if bundle is None:
            return
        if name in ("committed", "stopped"):
            held, worker = max(when - bundle.last, 0.0), str(event.get("worker", bundle.worker))
            seconds = _number(event.get("seconds"))
            seconds = held if seconds is None else max(seconds, 0.0)
            # That a worker had to be started says nothing of those to come.
            self._learn(kind, seconds, held if worker in self._warm else seconds)
            self._warm.add(worker)
        bundle.last = max(when, bundle.last)
        bundle.keys.pop(key, None)
        if not bundle.keys:
            self._bundles.pop(bundle.name, None)

    def _hear(self, event: Mapping[str, Any]) -> None:
        """A worker has been given a bundle, or said what it is at."""
        bundle = self._bundles.get(str(event.get("bundle")))
        if bundle is not None:
            bundle.worker, bundle.key = one_line(str(event.get("worker", ""))), str(event.get("key", ""))
            bundle.doing = one_line(str(event.get("doing", "")))
            self.widest = max(self.widest, len(bundle.worker))

    def _end(self, ended: str, event: Mapping[str, Any]) -> None:
        self.ended = ended
        self.why = one_line(str(event.get("why") or ""))
        self.seconds = _number(event.get("seconds"))
        self.away = ""
        for key in self._bundle_of:
            self._move(key, self._labels.pop(key).partition(" · ")[0], "")
        self._bundles, self._bundle_of = {}, {}

    # Counts

    def _tally(self, kind: str) -> Tally:
        return self.tallies.setdefault(kind, Tally())

    def _set(self, kind: str, what: str, number: int) -> None:
        tally = self._tally(kind)
        change = number - getattr(tally, what)
        if change:
            setattr(tally, what, number)
            setattr(self.total, what, getattr(self.total, what) + change)

    def _move(self, key: str, kind: str, state: str) -> None:
        """A task is in this state now; "" waits."""
        before = self._states.pop(key, "")
        if before:
            self._set(kind, before, getattr(self._tally(kind), before) - 1)
        if state:
            self._set(kind, state, getattr(self._tally(kind), state) + 1)
            self._states[key] = state

    # Time

    def elapsed(self, now: float) -> float:
        """Seconds since the run began, up to its end."""
        if self.started is None:
            return 0.0
        if self.ended is not None:
            return self.seconds if self.seconds is not None else self.last - self.started
        return max(now, self.last) - self.started

    def rate(self, now: float) -> float | None:
        """Tasks that are over, a second, during the last minutes; None until some are."""
        if not self._samples or self.ended is not None:
            return None
        since, before = self._samples[0]
        now = max(now, self.last)
        return (self._run - before) / (now - since) if now - since >= 1.0 and self._run > before else None

    @property
    def _run(self) -> int:
        return self.total.done + self.total.failed

    def _sample(self, when: float) -> None:
        samples = self._samples
        if not samples or when - samples[-1][0] >= 1.0:
            samples.append((when, self._run))
        while len(samples) > 2 and samples[1][0] < when - RATE_SECONDS:
            samples.popleft()

    def expected(self, kind: str) -> float | None:
        """Seconds for which a task of a kind is expected to hold its slot; None if nothing tells."""
        took = self._took.get(kind)
        if took is None:
            return self._expected.get(kind)
        number, seconds, held = took
        return max(seconds, held) / number

    def unmeasured(self) -> list[str]:
        """The kinds that are to run and of which nobody knows how long they take."""
        return [kind for kind, tally in self.tallies.items() if tally.left and self.expected(kind) is None]

    def remaining(self, now: float) -> float | None:
        """Seconds that the run is expected to go on, roughly; None while nothing tells.

        What is left is shared out over the slots, but takes no less than the longest single task; settings that a
        search is still to propose are expected to be like those that there are. A task that waits for others is not
        told from one that could run.
        """
        if self.started is None or self.ended is not None or any(t.tasks is None for t in self.tallies.values()):
            return None
        work = longest = 0.0
        more = (self.samples - self.proposed) / self.proposed if self.search and self.proposed else 0.0
        if self.search and not self.proposed:
            return None
        for kind, tally in self.tallies.items():
            left = tally.left + (tally.tasks or 0) * max(more, 0.0)
            if not left:
                continue
            seconds = self.expected(kind)
            if seconds is None:
                return None
            work += left * seconds
            if tally.left > tally.running:
                longest = max(longest, seconds)
        for bundle in self._bundles.values():
            kind = self._kind_at_work(bundle)
            expected = self.expected(kind) or 0.0
            credit = min(max(now - bundle.last, 0.0), expected)
            work -= credit
            longest = max(longest, expected - credit)
        return max(work / self.slots, longest, 0.0)

    def _learn(self, kind: str, seconds: float, held: float) -> None:
        took = self._took.setdefault(kind, [0.0, 0.0, 0.0])
        for i, amount in enumerate((1.0, seconds, held)):
            took[i] += amount
        if took[0] >= FORGET:
            self._took[kind] = [amount / 2 for amount in took]

    # Workers

    def workers(self) -> list[AtWork]:
        """What each worker is at, in the order of their names; those that have yet to report come last."""
        found = [self._at_work(bundle) for bundle in self._bundles.values() if bundle.keys]
        return sorted(found, key=lambda w: (not w.worker, _natural(w.worker), w.since, w.label))

    def busy(self) -> Counter[str]:
        """How many workers are at a task, by its kind."""
        return Counter(self._kind_at_work(bundle) for bundle in self._bundles.values() if bundle.keys)

    def _kind_at_work(self, bundle: _Bundle) -> str:
        return self._labels.get(self._now(bundle), "").partition(" · ")[0]

    def _at_work(self, bundle: _Bundle) -> AtWork:
        key = self._now(bundle)
        label = self._labels.get(key, key[:12])
        doing = bundle.doing if key == bundle.key else ""
        kind = label.partition(" · ")[0]
        return AtWork(bundle.worker, label, kind, bundle.last, doing, len(bundle.keys) - 1)

    def _now(self, bundle: _Bundle) -> str:
        return bundle.key if bundle.key in bundle.keys else next(iter(bundle.keys), "")

    # Values

    def _take_stored(self, event: Mapping[str, Any]) -> None:
        setting, values = event.get("setting"), event.get("values")
        if isinstance(setting, str) and isinstance(values, Mapping):
            for key, value in values.items():
                self._count(one_line(setting), str(key), value)

    def _score(self, name: str, key: str, event: Mapping[str, Any]) -> None:
        setting = one_line(str(event.get("setting", "")))
        if name in ("committed", "found"):
            self._count(setting, key, event.get("value"))
        elif name in ("failed", "stopped"):
            self._count(setting, key, None)
        elif name == "damaged" and (scores := self._scores.get(setting)) is not None:
            self._forget(scores, key)
            self._rank(setting)

    def _count(self, setting: str, key: str, value: Any) -> None:
        scores = self._scores.setdefault(setting, _Scores())
        self._forget(scores, key)
        if (number := _number(value)) is None:
            scores.lost.add(key)
        else:
            self._with_values += not scores.values
            scores.values[key] = number
        self._rank(setting)

    def _forget(self, scores: _Scores, key: str) -> None:
        if scores.values.pop(key, None) is not None:
            self._with_values -= not scores.values
        scores.lost.discard(key)

    def _rank(self, setting: str) -> None:
        """Put a setting where it belongs now; its older entry is out of date, and dropped when it comes up."""
        scores = self._scores[setting]
        scores.version += 1
        self._best = None
        if scores.values:
            mean = math.fsum(scores.values.values()) / len(scores.values)
            # The mean of the seeds that are left would flatter a setting that lost some; one seed may be luck.
            place = (bool(scores.lost), len(scores.values) < 2, mean if self.mode == "min" else -mean)
            heapq.heappush(self._ranked, (place, scores.version, setting))

    def best(self) -> Best | None:
        """The best setting so far: of those that lost no seed and have two, if there are any; None without values."""
        while self._ranked and self._ranked[0][1] != self._scores[self._ranked[0][2]].version:
            heapq.heappop(self._ranked)
        if self._best is None and self._ranked:
            setting = self._ranked[0][2]
            scores = self._scores[setting]
            interval = mean_interval(list(scores.values.values()))
            self._best = Best(setting, interval, len(scores.lost), self._with_values - 1)
        return self._best


@lru_cache(4096)
def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """So that gpu-2 comes before gpu-10."""
    return tuple((int(p), "") if p.isdecimal() and len(p) < 100 else (-1, p) for p in re.split(r"(\d+)", text) if p)


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 10**12 else 0


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)
