"""How a slot fits on a node: with its devices, with what is there, and with idle workers that may go.

A share of a GPU lies on one device. Amounts are whole numbers of the finest that Ray counts, so that nothing is
lost to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .slots import FINEST, RESOURCES, NodeKind, NodeOffer, Shape, Slot, ray_resources, slot_of

UNIT = round(1 / FINEST)
"""Of any resource."""

Score = tuple[Any, ...]
"""How well a slot is placed on a node, less being better."""


@dataclass(eq=False, slots=True)
class Place:
    """What a task, or an idle worker, holds.

    Attributes:
        holder: the name under which it was handed out.
        node: where it is, or is thought to be; None if its node is gone.
        devices: which GPUs of the node, by number.
        until: when it is expected to be left.
        idle: only a worker is there, which may be let go.
        known: the worker has said that it is here.
    """

    holder: Hashable
    shape: Shape
    need: Need
    node: Node | None
    devices: tuple[int, ...]
    until: float
    idle: bool = False
    known: bool = False

    @property
    def node_id(self) -> str | None:
        """Of the live node where it is, or is to be; None for one that may be added."""
        return self.node.id if self.node is not None and self.node.live else None


class Need:
    """A shape in whole units."""

    __slots__ = ("gpu", "plain", "slot")

    def __init__(self, shape: Shape) -> None:
        self.slot: Slot = slot_of(shape)
        wanted = {name: math.ceil(amount * UNIT - 1e-6) for name, amount in ray_resources(self.slot).items()}
        self.gpu = wanted.pop("GPU", 0)
        self.plain = tuple(wanted.items())

    def on_devices(self, free: Sequence[int], also: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """The GPUs to lie on, given what is free of each: a share goes where the least is left, as Ray does it.

        Args:
            also: a second account of what is free; both must have room.
        """
        if not self.gpu:
            return ()
        each = min(self.gpu, UNIT)
        able = [d for d, f in enumerate(free) if f >= each and (also is None or also[d] >= each)]
        if self.gpu < UNIT:
            return (min(able, key=lambda d: free[d]),) if able else None
        return tuple(able[: self.gpu // UNIT]) if len(able) >= self.gpu // UNIT else None

    def on_plain(self, free: Mapping[str, int]) -> bool:
        return all(free.get(name, 0) >= amount for name, amount in self.plain)


class Node:
    """A node with its places."""

    __slots__ = ("devices", "free", "id", "idle", "kind", "live", "number", "offer", "places", "version")

    def __init__(self, number: int, offer: NodeOffer | NodeKind, kind: str | None, live: bool) -> None:
        self.number = number
        self.kind = kind
        self.live = live
        self.offer = offer
        self.id = offer.id if isinstance(offer, NodeOffer) else f"{offer.name}-{number}"
        self.free = {name: round(amount * UNIT) for name, amount in amounts(offer).items()}
        gpus = self.free.pop("GPU", 0)
        self.devices = [min(UNIT, gpus - i) for i in range(0, gpus, UNIT)]
        self.places: dict[Place, None] = {}
        self.idle = 0
        self.version = 0

    def change(self, need: Need, devices: tuple[int, ...], sign: int) -> None:
        change(self.free, self.devices, need, devices, sign)
        self.version += 1


WARM, FREE, EVICT = 0, 1, 2

Limit = tuple[dict[str, int], list[int]]
"""What may be used of a node's resources and of each of its devices, idle workers counting as gone."""

Claim = tuple[tuple[int, ...], tuple[Place, ...], float]
"""Devices on which a slot will lie, the places that have to be left before, and when the last of them will be."""


def look(node: Node, need: Need, shape: Shape, limit: Limit | None) -> tuple[int, tuple[int, ...], Place | None] | None:
    """How the slot fits on the node now: (how, on which devices, which idle worker); None if it does not."""
    plain, devices = limit if limit is not None else (None, None)
    if plain is not None and not need.on_plain(plain):
        return None
    each = min(need.gpu, UNIT)
    if node.idle:
        for place in node.places:
            if place.idle and place.shape == shape:
                if devices is None or all(devices[d] >= each for d in place.devices):
                    return WARM, place.devices, place
    if need.on_plain(node.free):
        found = need.on_devices(node.devices, devices)
        if found is not None:
            return FREE, found, None
    if node.idle:
        free, on_devices = without_idle(node)
        if need.on_plain(free):
            found = need.on_devices(on_devices, devices)
            if found is not None:
                return EVICT, found, None
    return None


def now_score(node: Node, need: Need, shape: Shape, limit: Limit | None) -> Score | None:
    """How well the slot is placed on the node now, less being better; None if it does not fit.

    Small things go where little is left, so that large ones find whole devices, and whole nodes fall idle; and
    what needs no GPU to nodes that have none.
    """
    found = look(node, need, shape, limit)
    if found is None:
        return None
    rank, devices, _ = found
    tight = node.devices[devices[0]] if 0 < need.gpu < UNIT else 0
    return (
        not node.live,
        rank,
        bool(node.devices) and not need.gpu,
        tight,
        sum(node.devices),
        node.free.get("CPU", 0),
    )


def later_score(node: Node, need: Need) -> Score | None:
    claim = claim_of(node, need)
    if claim is None:
        return None
    _, victims, until = claim
    return not node.live, until, len(victims)


def claim_of(node: Node, need: Need) -> Claim | None:
    """Where on the node the slot will fit, once which places are left, and when; those to be left first go first."""
    free, devices = without_idle(node)
    busy = sorted((p for p in node.places if not p.idle), key=lambda p: p.until)
    victims: dict[Place, None] = {}
    chosen: tuple[int, ...] = ()
    if need.gpu:
        each, ways = min(need.gpu, UNIT), []
        for device, room in enumerate(devices):
            leaving: list[Place] = []
            for place in busy:
                if room >= each:
                    break
                if device in place.devices:
                    leaving.append(place)
                    room += min(place.need.gpu, UNIT)
            if room >= each:
                ways.append((leaving[-1].until if leaving else -math.inf, len(leaving), device, leaving))
        ways.sort(key=lambda way: way[:3])
        count = max(1, need.gpu // UNIT)
        if len(ways) < count:
            return None
        chosen = tuple(way[2] for way in ways[:count])
        victims = {p: None for way in ways[:count] for p in way[3]}
    for place in victims:
        change(free, devices, place.need, place.devices, +1)
    for place in busy:
        if need.on_plain(free):
            break
        if place not in victims and helps(place, free, need):
            victims[place] = None
            change(free, devices, place.need, place.devices, +1)
    if not need.on_plain(free):
        return None
    return chosen, tuple(victims), max((p.until for p in victims), default=-math.inf)


def limit_of(node: Node, need: Need, claim: Claim) -> Limit:
    """What others may use of a node, so that the slot fits once the places of its claim are left."""
    free, devices = without_idle(node)
    then, on_then = dict(free), list(devices)
    chosen, victims, _ = claim
    for place in victims:
        if place.node is node and not place.idle:
            change(then, on_then, place.need, place.devices, +1)
    change(then, on_then, need, chosen, -1)
    return {n: min(a, then[n]) for n, a in free.items()}, [min(a, b) for a, b in zip(devices, on_then, strict=True)]


def cleared(node: Node, need: Need, devices: tuple[int, ...]) -> list[Place]:
    """The idle workers that have to go so that the slot fits on these devices."""
    free, on_devices = dict(node.free), list(node.devices)
    each, gone = min(need.gpu, UNIT), []
    for place in node.places:
        if not place.idle:
            continue
        short = any(on_devices[d] < each for d in devices if d in place.devices)
        if short or helps(place, free, need):
            change(free, on_devices, place.need, place.devices, +1)
            gone.append(place)
    return gone


def helps(place: Place, free: Mapping[str, int], need: Need) -> bool:
    """Whether a place holds something without GPU that the slot lacks."""
    lacking = [name for name, amount in need.plain if free.get(name, 0) < amount]
    return any(name in lacking for name, _ in place.need.plain)


def without_idle(node: Node) -> Limit:
    free, devices = dict(node.free), list(node.devices)
    if node.idle:
        for place in node.places:
            if place.idle:
                change(free, devices, place.need, place.devices, +1)
    return free, devices


def change(free: dict[str, int], devices: list[int], need: Need, lies_on: Collection[int], sign: int) -> None:
    for name, amount in need.plain:
        free[name] = free.get(name, 0) + sign * amount
    each = min(need.gpu, UNIT)
    for device in lies_on:
        devices[device] += sign * each


def possible(node: Node, need: Need, devices: Sequence[int]) -> bool:
    """Whether the devices that a worker names can be those of its slot."""
    return len(devices) == (max(1, need.gpu // UNIT) if need.gpu else 0) and all(
        0 <= d < len(node.devices) for d in devices
    )


def lies(node: Node, need: Need, devices: tuple[int, ...] | None) -> bool:
    if devices is None:
        return need.on_devices(node.devices) is not None
    return all(node.devices[d] >= min(need.gpu, UNIT) for d in devices)


def hinders(place: Place, node: Node, need: Need, devices: tuple[int, ...] | None) -> bool:
    """Whether a place holds what the slot lacks on these devices, or on any."""
    each = min(need.gpu, UNIT)
    short = [d for d in (range(len(node.devices)) if devices is None else devices) if node.devices[d] < each]
    lacking = [name for name, amount in need.plain if node.free.get(name, 0) < amount]
    return any(d in place.devices for d in short) or any(name in lacking for name, _ in place.need.plain)


def amounts(offer: NodeOffer | NodeKind) -> dict[str, float]:
    """What of a node's resources slots may ask for; Ray also lists those of placement groups."""
    return {
        name: amount
        for name, amount in offer.resources.items()
        if name in RESOURCES.values() or (name.startswith("accelerator_type:") and "_group_" not in name)
    }


def profile(offer: NodeOffer | NodeKind) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(amounts(offer).items()))


def times(need: Need, offer: Mapping[str, float]) -> int:
    """How often a slot fits on an empty node; a share of a GPU lies on one device."""
    fits = [round(offer.get(name, 0.0) * UNIT) // amount for name, amount in need.plain]
    if need.gpu:
        whole, rest = divmod(round(offer.get("GPU", 0.0) * UNIT), UNIT)
        fits.append(whole // (need.gpu // UNIT) if need.gpu >= UNIT else whole * (UNIT // need.gpu) + rest // need.gpu)
    return min(fits, default=0)
