"""Slots: what a task holds while it runs, and how many of them nodes have. Knows no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import InvalidValue, nearest

from .errors import ClusterError

RESOURCES = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
"""Ray's names of what a slot may ask for."""


@dataclass(frozen=True)
class NodeOffer:
    """What a live node has.

    Attributes:
        id: Ray's identifier.
        host: its host name.
        resources: totals in Ray's names.
        labels: Ray's, those that it gives every node ("ray.io/…") included.
    """

    id: str
    host: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeKind:
    """A kind of node that a cluster may have, as its cluster file says.

    Attributes:
        name: of the node type.
        resources: of one node, in Ray's names.
        least: how many there are always; `most`: how many there may be.
        labels: of each node.
        dollars: price of one node for an hour; None if none is stated.
        head: whether the driver runs there.
    """

    name: str
    resources: Mapping[str, float]
    least: int
    most: int
    labels: Mapping[str, str] = field(default_factory=dict)
    dollars: float | None = None
    head: bool = False


Shape = tuple[tuple[str, float], ...]


def shape_of(slot: Mapping[str, float]) -> Shape:
    """A slot as a value that can be compared and hashed."""
    return tuple(sorted(slot.items()))


def checked_slot(slot: Any, where: str) -> dict[str, float]:
    """A slot with checked names and amounts, `cpu` always stated."""
    known = ("cpu", "gpu", "memory")
    if not isinstance(slot, Mapping):
        raise InvalidValue(f"Sweep: {where} must be a mapping such as {{'cpu': 1}}, not {slot!r}.")
    for name, amount in slot.items():
        if name not in known:
            raise InvalidValue(f"Sweep: {where} names {name!r}{nearest(name, known)}; known are cpu, gpu and memory.")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount < 0:
            raise InvalidValue(f"Sweep: {where}[{name!r}] must be a number of at least 0, not {amount!r}.")
        if name == "gpu" and amount > 1 and amount != int(amount):
            raise InvalidValue(f"Sweep: {where}['gpu'] must be whole above 1, not {amount!r}: only one GPU is shared.")
    checked = {"cpu": 1.0, **{k: float(v) for k, v in slot.items()}}
    if not any(checked.values()):
        raise InvalidValue(f"Sweep: {where} holds no resource at all: give it some, such as {{'cpu': 1}}.")
    return checked


def default_slot(gpus: bool) -> dict[str, float]:
    """What a task holds where the sweep does not say."""
    return {"cpu": 1.0, "gpu": 0.25} if gpus else {"cpu": 1.0}


def ray_resources(slot: Mapping[str, float]) -> dict[str, float]:
    """A slot in Ray's names, without what is zero."""
    return {RESOURCES[k]: v for k, v in slot.items() if v}


def check_feasible(slot: Mapping[str, float], nodes: Sequence[NodeOffer]) -> None:
    """Raise ClusterError unless some node has what the slot asks for."""
    wanted = ray_resources(slot)
    if any(all(node.resources.get(k, 0.0) >= v for k, v in wanted.items()) for node in nodes):
        return
    for name, amount in wanted.items():
        most = max((node.resources.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            raise ClusterError(
                f"A slot asks for {amount:g} {name}, but no node has more than {most:g}: "
                f"lower it, for example --set 'slot={{\"cpu\": 1}}'."
            )
    raise ClusterError(f"No single node has all that a slot asks for: {wanted}.")


class Capacity:
    """How many slots the nodes have; nodes come and go.

    Args:
        nodes: tells what every live node has.
    """

    def __init__(self, nodes: Callable[[], Sequence[NodeOffer]]) -> None:
        self._ask = nodes
        self._asked = float("-inf")
        self._nodes: list[NodeOffer] = []

    def of(self, slot: Mapping[str, float]) -> int:
        """Slots of this kind that fit on all nodes together."""
        wanted = ray_resources(slot)
        total = 0
        for node in self._now():
            fits = [_units(node.resources.get(name, 0.0), amount) for name, amount in wanted.items()]
            total += min(fits, default=0)
        return max(total, 1)

    def larger(self, slot: Mapping[str, float]) -> dict[str, float] | None:
        """Twice the slot, or as much of that as the largest node has; None if the slot is all that it has."""
        best: dict[str, float] | None = None
        for node in self._now():
            offers = {name: node.resources.get(ray, 0.0) for name, ray in RESOURCES.items() if slot.get(name)}
            if any(offers[name] < slot[name] for name in offers):
                continue
            grown = {name: _whole(min(2 * slot[name], offer)) for name, offer in offers.items()}
            if any(grown[n] > slot[n] for n in grown) and (best is None or sum(grown.values()) > sum(best.values())):
                best = grown
        return None if best is None else {**slot, **best}

    def _now(self) -> list[NodeOffer]:
        if time.monotonic() - self._asked > 5.0:
            self._nodes = list(self._ask()) or self._nodes
            self._asked = time.monotonic()
        return self._nodes


def _whole(amount: float) -> float:
    """Above one, whole: Ray takes no GPU and a half."""
    return float(math.floor(amount)) if amount > 1 else amount


def _units(available: float, amount: float) -> int:
    """How often the amount fits; a share of a GPU lies on one device."""
    if 0 < amount < 1:
        return (
            math.floor(available + 1e-9) * math.floor(1 / amount + 1e-9) if available >= 1 else int(available >= amount)
        )
    return math.floor(available / amount + 1e-9)
