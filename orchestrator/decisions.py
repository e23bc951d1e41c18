"""What adaptive parts of a sweep decided, journaled in the store so that a later run goes on where they were.

A search algorithm proposes settings, a scheduler stops trainings: neither can be told from the sweep file
alone. All that was asked of them and told to them is recorded in order, so that a later run can do the same
again to new ones and has them in the state in which the earlier run left them. The journal lies under a key
of the sweep's training with its search spaces, the metric, the algorithm and the scheduler. The seeds and
the number of samples are not in it: more of either go on from what is there.

Each line holds a checksum. Lines that are damaged are passed over: the settings and stops that can be read
stay, the search may propose others after them than it would have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.spec import Spec, is_space

from .journal import Journal, read_journal
from .keys import KEY_LENGTH, canonical, class_path
from .store import Store
from .sweep import Sweep

REPORT_SECONDS = 1.0
"""How long a report may wait until an object store holds it; decisions are written at once."""

Values = Mapping[str, float]


@dataclass(frozen=True)
class Proposed:
    """The search algorithm has proposed a setting.

    Attributes:
        number: how many it had been asked for before.
        name: of the proposal: equal for equal answers to equal questions, whoever asked.
    """

    number: int
    name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """The search algorithm has been told what became of a proposal.

    Attributes:
        value: the metric averaged over the seeds; None if a training failed or diverged.
        trainings: keys of the trainings that were averaged.
    """

    name: str
    value: float | None
    trainings: tuple[str, ...]


@dataclass(frozen=True)
class Reported:
    """A training has reported for the `number`-th time, counted from 1: what scheduler and search saw."""

    key: str
    number: int
    values: Values


@dataclass(frozen=True)
class Ended:
    """The scheduler has seen the end of a training, whether it ran through or was stopped."""

    key: str
    values: Values


@dataclass(frozen=True)
class Stopped:
    """The scheduler has stopped a training, which had come to this value of the metric."""

    key: str
    iteration: int
    value: float | None


Decision = Proposed | Told | Reported | Ended | Stopped


class Decisions:
    """The decisions of one adaptive sweep, read from the store and added to as they are made.

    Attributes:
        log: what earlier runs recorded, in order, without repetition.
        configs: the proposed settings, in order.
        stopped_keys: iteration at which a training was stopped, by its key.
        results: the numbers that trainings have ended with, as far as they are known now, by key.
        damage: a sentence for people if a part of the record could not be read.
    """

    def __init__(self, sweep: Sweep, store: Store) -> None:
        self.log: list[Decision] = []
        self.configs: list[Mapping[str, Any]] = []
        self.stopped_keys: dict[str, int] = {}
        self.results: dict[str, Values] = {}
        self.damage: str | None = None
        self._names: set[str] = set()
        self._reports: dict[str, int] = {}  # how many of a training are recorded
        self._ended: set[str] = set()
        self._told: dict[str, list[Told]] = {}
        self._journal: Journal | None = None
        if sweep.search is None and sweep.scheduler is None:
            return
        path = f"searches/{search_key(sweep)}.jsonl"
        self._journal = Journal(store, path, seconds=REPORT_SECONDS)
        found = read_journal(store, path)
        damaged = found.damaged
        spaces = sweep.space
        for record in found.records:
            decision = _parse(record, spaces)
            if decision is None:
                damaged += 1
            elif self._is_new(decision):
                self.log.append(decision)
        if damaged:
            lines = "line is" if damaged == 1 else "lines are"
            self.damage = (
                f"{damaged} {lines} damaged in {store.shown(path)}, the record of what was proposed and stopped: the "
                "settings that can be read go on, but from here the search may propose others than it would have."
            )

    def proposed(self, number: int, config: Mapping[str, Any]) -> str:
        """Record a setting of the search algorithm; returns the proposal's name."""
        form = canonical(config)
        digest = hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{number}-{digest}"
        self._record(Proposed(number, name, config), {"config": form}, durable=True)
        return name

    def told(self, name: str, value: float | None, trainings: Sequence[str]) -> None:
        """Record what the search algorithm is told of a proposal."""
        self._record(Told(name, value, tuple(trainings)), durable=True)

    def stopped(self, key: str, iteration: int, value: float | None) -> None:
        """Record that the scheduler stopped a training."""
        self._record(Stopped(key, iteration, value), durable=True)

    def reported(self, key: str, number: int, values: Values) -> None:
        """Record what a training reported."""
        self._record(Reported(key, number, values))

    def ended(self, key: str, values: Values) -> None:
        """Record that the scheduler saw a training's end."""
        self._record(Ended(key, values))

    def close(self) -> None:
        """Write what is left.

        Raises:
            StoreError: the store cannot be written.
        """
        if self._journal is not None:
            self._journal.close()

    def _record(self, decision: Decision, other: Mapping[str, Any] | None = None, *, durable: bool = False) -> None:
        if self._journal is not None and self._is_new(decision):
            kind = type(decision).__name__.lower()
            record = {"decision": kind, **dataclasses.asdict(decision), **(other or {})}
            self._journal.add({**record, "check": _check(record)}, durable=durable)

    def _is_new(self, decision: Decision) -> bool:
        """Whether this was not recorded before, which it is from now on. Two drivers may record the same."""
        if isinstance(decision, Proposed):
            new = decision.name not in self._names
            if new:
                self._names.add(decision.name)
                self.configs.append(decision.config)
        elif isinstance(decision, Told):
            before = self._told.setdefault(decision.name, [])
            trainings = set(decision.trainings)
            # A failure may be made good, and changed code makes other trainings of the same setting.
            new = not any(
                trainings & set(t.trainings) and (t.value is not None or decision.value is None) for t in before
            )
            if new:
                before.append(decision)
        elif isinstance(decision, Reported):
            new = decision.number > self._reports.get(decision.key, 0)
            if new:
                self._reports[decision.key] = decision.number
        elif isinstance(decision, Ended):
            new = decision.key not in self._ended
            self._ended.add(decision.key)
        else:
            new = decision.key not in self.stopped_keys
            self.stopped_keys.setdefault(decision.key, decision.iteration)
        return new


def _check(record: Mapping[str, Any]) -> str:
    """A short checksum of a record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


def is_intact(record: Mapping[str, Any]) -> bool:
    """Whether a line of a journal of decisions is as it was written."""
    return record.get("check") == _check({k: v for k, v in record.items() if k != "check"})


def _parse(record: dict[str, Any], spaces: Mapping[str, Any]) -> Decision | None:
    """A line of the journal; None if it is damaged or no decision."""
    if not is_intact(record):
        return None
    del record["check"]
    kind = _KINDS.get(str(record.pop("decision", None)))
    if kind is None or {f.name for f in dataclasses.fields(kind)} != set(record):
        return None
    if not all(_FIELDS[name](value) for name, value in record.items()):
        return None
    if kind is Proposed:
        if set(record["config"]) != set(spaces):
            return None
        record["config"] = _decode(record["config"], spaces)
    elif kind is Told:
        record["trainings"] = tuple(record["trainings"])
    return kind(**record)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


_KINDS: dict[str, type[Decision]] = {k.__name__.lower(): k for k in (Proposed, Told, Reported, Ended, Stopped)}
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "name": lambda v: isinstance(v, str),
    "key": lambda v: isinstance(v, str),
    "number": _is_count,
    "iteration": _is_count,
    "value": lambda v: v is None or _is_number(v),
    "values": lambda v: isinstance(v, dict) and all(_is_number(n) for n in v.values()),
    "config": lambda v: isinstance(v, dict),
    "trainings": lambda v: isinstance(v, list) and all(isinstance(k, str) for k in v),
}
"""What the fields of a line must hold."""


# What names a search


def search_key(sweep: Sweep) -> str:
    """Names what the decisions of an adaptive sweep depend on."""
    form = {
        "train": _describe(sweep.train),
        "metric": [sweep.metric, sweep.mode],
        "search": _first_described(sweep.search),
        "scheduler": _first_described(sweep.scheduler),
    }
    text = json.dumps(form, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


_described: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _first_described(value: Any) -> Any:
    """The description of a search algorithm or scheduler as it was before it was first used: use changes it."""
    try:
        return _described.setdefault(value, _describe(value))
    except TypeError:  # None, or what cannot be hashed
        return _describe(value)


DEPTH = 3
"""How deep attributes are described: a limiter, its search algorithm, the sampler, what the sampler holds."""

_RANDOM_NAME = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def _describe(value: Any, depth: int = 0) -> Any:
    """What can be said of an object in words that are the same in every process."""
    if isinstance(value, str):
        return "" if _RANDOM_NAME.search(value) else value  # a name drawn at random, new in every process
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_describe(v, depth) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _describe(v, depth + 1) for k, v in value.items()}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return {"name": f"{getattr(value, '__module__', '')}:{value.__qualname__}"}
    described = {"class": class_path(type(value))}
    if isinstance(value, Spec):
        for f in dataclasses.fields(value):
            described[f.name] = _describe(getattr(value, f.name), depth)
    elif (seed := _seed(value)) is not None:
        described["seed"] = seed
    elif is_space(value) or (
        depth <= DEPTH and type(value).__module__.partition(".")[0] not in sys.stdlib_module_names
    ):
        for name, attribute in sorted(getattr(value, "__dict__", {}).items()):
            words = _describe(attribute, depth + 1) if depth < 8 else None
            if words not in (None, [], {}):  # not set yet
                described[name] = words
    return described


def _seed(value: Any) -> Any:
    """The seed of one of numpy's generators that was given one and has not been used; else None.

    A generator without a seed draws one from the system, another in every process, which must not
    become part of a key.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.random.RandomState):
        state = value.get_state(legacy=False)["state"]
        seed = int(state["key"][0])  # where numpy puts it
        same = numpy.random.RandomState(seed).get_state(legacy=False)["state"]
        return seed if state["pos"] == same["pos"] and (state["key"] == same["key"]).all() else None
    if isinstance(value, numpy.random.Generator):
        entropy = getattr(getattr(value.bit_generator, "seed_seq", None), "entropy", None)
        return entropy if isinstance(entropy, int) and entropy < 2**64 else None  # the system gives 128 bits
    return None


def _decode(config: Mapping[str, Any], spaces: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config with the choices among its values found again in the search spaces."""
    return {path: _match(value, spaces.get(path)) for path, value in config.items()}


def _match(value: Any, space: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"float"}:
        value = float(value["float"])
    for option in getattr(space, "categories", ()):
        if canonical(option) == value and type(canonical(option)) is type(value):
            return option
    return value
