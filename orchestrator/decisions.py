"""What adaptive parts of a sweep decided, recorded in the store so that a later run repeats nothing.

A search algorithm proposes settings, a scheduler stops trainings: neither can be told from the sweep
file alone. Both are recorded under a key of the sweep's training with its search spaces, the metric, the
algorithm and the scheduler. The seeds and the number of samples are not in it: more of either go on
from what is there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tasks.spec import Spec, is_space

from .keys import KEY_LENGTH, canonical, class_path
from .store import Store
from .sweep import Sweep


class Decisions:
    """The decisions of one adaptive sweep, read from the store and added to as they are made.

    Attributes:
        configs: the proposed settings, in order.
        stopped_keys: iteration at which a training was stopped, by its key.
    """

    def __init__(self, sweep: Sweep, store: Store) -> None:
        self._store = store
        self._adaptive = sweep.search is not None or sweep.scheduler is not None
        self._file = f"searches/{search_key(sweep)}.json" if self._adaptive else ""
        self.configs: list[dict[str, Any]] = []
        self.stopped_keys: dict[str, int] = {}
        data = store.read(self._file) if self._adaptive else None
        if data is not None:
            record = json.loads(data)
            self.configs = [_decode(c, sweep) for c in record["configs"]]
            self.stopped_keys = dict(record["stopped"])

    def proposed(self, config: Mapping[str, Any]) -> None:
        """Record a setting of the search algorithm."""
        self.configs.append(dict(config))
        self._save()

    def stopped(self, key: str, iteration: int) -> None:
        """Record that the scheduler stopped a training."""
        self.stopped_keys[key] = iteration
        self._save()

    def _save(self) -> None:
        if self._adaptive:
            record = {"configs": [canonical(c) for c in self.configs], "stopped": self.stopped_keys}
            self._store.write(self._file, json.dumps(record).encode())


def search_key(sweep: Sweep) -> str:
    """Names what the decisions of an adaptive sweep depend on."""
    form = {
        "train": _describe(sweep.train),
        "metric": [sweep.metric, sweep.mode],
        "search": _describe(sweep.search),
        "scheduler": _describe(sweep.scheduler),
    }
    text = json.dumps(form, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def _describe(value: Any, depth: int = 0) -> Any:
    """What can be said of an object in words that are the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_describe(v, depth + 1) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _describe(v, depth + 1) for k, v in value.items()}
    described = {"class": class_path(type(value))}
    if isinstance(value, Spec):
        for f in dataclasses.fields(value):
            described[f.name] = _describe(getattr(value, f.name), depth + 1)
    elif depth < 8 and (is_space(value) or depth < 1):
        attributes = getattr(value, "__dict__", {})
        described |= {k: _describe(v, depth + 1) for k, v in sorted(attributes.items())}
    return described


def _decode(config: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """A recorded config with the Specs among its values found again in the sweep's search spaces."""
    return {path: _match(value, sweep.space.get(path)) for path, value in config.items()}


def _match(value: Any, space: Any) -> Any:
    if isinstance(value, Mapping) and "class" in value:
        for option in getattr(space, "categories", ()):
            if canonical(option) == value:
                return option
    return value
