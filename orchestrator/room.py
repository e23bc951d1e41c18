"""Room: what is free on the nodes, given what is handed out. Knows no Ray and no clock.

A task that is handed out holds a *place*: its slot, on a node, and on devices of it if it has a share of a GPU.
Its worker may be kept when it is done; the place is then idle, which a task of the same shape takes as it is and
any other may have cleared away. Where a place really is, the worker says (`confirm`); until then it is where it
fits best. Nodes that the autoscaler may add have room like those that are there, and come last.

When the most urgent task fits nowhere, `reserve` keeps the node's room for it where it will fit soonest: what is
less urgent then only takes what that leaves.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

from .fit import (
    EVICT,
    UNIT,
    Claim,
    Limit,
    Need,
    Node,
    Place,
    Score,
    amounts,
    claim_of,
    cleared,
    hinders,
    later_score,
    lies,
    limit_of,
    look,
    now_score,
    possible,
    profile,
    times,
)  # fmt: skip
from .slots import RESOURCES, NodeKind, NodeOffer, Shape, slot_of, suits

NODE_GROUP = "ray.io/node-group"
"""The label of a node's type, where whoever started it has told Ray."""


class Room:
    """The room that nodes have, and what is handed out of it.

    Args:
        nodes: that are there.
        kinds: what the autoscaler may add.
    """

    def __init__(self, nodes: Sequence[NodeOffer] = (), kinds: Sequence[NodeKind] = ()) -> None:
        self._numbers = 0
        self._nodes: dict[str, Node] = {}
        self._places: dict[Hashable, Place] = {}
        self._idle: defaultdict[Shape, dict[Place, None]] = defaultdict(dict)
        self._staff: Counter[Shape] = Counter()  # places on live nodes
        self._needs: dict[Shape, Need] = {}
        self._now: dict[Shape, _Index] = {}
        self._later: dict[Shape, _Index] = {}
        self._totals: dict[tuple[Shape, bool], int] = {}
        self._reserved: tuple[Node, Need, Claim] | None = None
        self._kinds: tuple[NodeKind, ...] = ()
        self.update(nodes, kinds)

    # What there is

    def update(self, nodes: Sequence[NodeOffer], kinds: Sequence[NodeKind] | None = None) -> None:
        """Nodes have come or gone.

        What is thought to be on a node that is gone, but has not been seen there, is thought to be elsewhere then.
        A node that was to be added takes over what was to go there.
        """
        self._kinds = self._kinds if kinds is None else tuple(k for k in kinds if not k.head)
        there = {offer.id: offer for offer in nodes}
        gone = [n for n in self._nodes.values() if n.live and n.id not in there]
        lost = [p for node in gone for p in self._remove(node)]
        for offer in nodes:
            known = self._nodes.get(offer.id)
            if known is not None and amounts(known.offer) == amounts(offer):
                continue
            here = [] if known is None else self._remove(known)
            node = self._add(offer, _kind_of(offer, self._kinds), live=True)
            wished = [n for n in self._nodes.values() if not n.live and n.kind == node.kind and node.kind]
            if wished and known is None:
                here = self._remove(max(wished, key=lambda n: len(n.places)))
            for place in here:
                self._settle(place, (node,))
            lost += [p for p in here if p.node is None]
        lost += self._wish()
        for place in lost:
            if place.idle or place.known:
                continue  # the worker is gone; whoever has handed it out will hear so
            self._settle(place)

    def slots(self, shape: Shape, *, possible: bool = True) -> int:
        """How many places of this shape there would be if nothing else were handed out.

        Args:
            possible: on nodes that may be added, too.
        """
        key = (shape, possible)
        if key not in self._totals:
            need = self._need(shape)
            empty = Counter(
                (profile(node.offer), suits(need.slot, node.offer))
                for node in self._nodes.values()
                if node.live or possible
            )
            self._totals[key] = sum(n * times(need, dict(p)) for (p, able), n in empty.items() if able)
        return self._totals[key]

    def wished(self) -> Counter[str]:
        """Nodes that are not there but on which something is to be, by name of their kind."""
        return Counter(str(node.kind) for node in self._nodes.values() if not node.live and node.places)

    def larger(self, shape: Shape) -> Shape | None:
        """Twice the slot, or as much of that as the largest node has; None if the slot is all that it has."""
        best: dict[str, float] | None = None
        slot = slot_of(shape)
        for node in self._nodes.values():
            if not suits(slot, node.offer):
                continue
            offers = {name: node.offer.resources.get(ray, 0.0) for name, ray in RESOURCES.items() if slot.get(name)}
            grown = {name: _whole(min(2 * slot[name], offer)) for name, offer in offers.items()}
            if any(grown[n] > slot[n] for n in grown) and (best is None or sum(grown.values()) > sum(best.values())):
                best = grown
        return None if best is None else tuple(sorted({**dict(shape), **best}.items()))

    # Handing out

    def take(self, shape: Shape, holder: Hashable, until: float = math.inf) -> Place | None:
        """A place for this slot, now; None where there is none, or none that is not reserved for another.

        Idle workers of the same shape come first, then what is free, then what idle workers of other shapes hold
        (these places are gone then), and nodes that may be added last.
        """
        found = self._best(shape)
        if found is None:
            return None
        node, limit = found
        need = self._need(shape)
        rank, devices, place = look(node, need, shape, limit) or (None, (), None)
        assert rank is not None
        if place is not None:
            self._wake(place, holder, until)
            return place
        if rank == EVICT:
            for other in cleared(node, need, devices):
                self._drop(other)
        place = Place(holder, shape, need, node, devices, until)
        self._put(place, node, devices)
        return place

    def reserve(self, shape: Shape) -> bool:
        """Keep what this slot needs, where it will fit soonest, from all that is taken until `unreserve`.

        Returns:
            Whether there is a node where it will fit.
        """
        index = self._index(self._later, shape)
        node = index.top(lambda n: later_score(n, self._need(shape)))
        if node is None:
            self._reserved = None
            return False
        need = self._need(shape)
        claim = claim_of(node, need)
        assert claim is not None
        self._reserved = (node, need, claim)
        return True

    def unreserve(self) -> None:
        self._reserved = None

    def release(self, holder: Hashable) -> None:
        """The place is left, and no worker stays there."""
        place = self._places.get(holder)
        if place is not None:
            self._drop(place)

    def rest(self, holder: Hashable) -> None:
        """The place is left, but its worker stays."""
        place = self._places.get(holder)
        if place is None or place.idle:
            return
        if place.node is None or not place.node.live:
            self._drop(place)
            return
        del self._places[holder]
        place.holder, place.idle, place.until = place, True, math.inf  # whoever held it may hold another one next
        self._places[place] = place
        self._idle[place.shape][place] = None
        place.node.idle += 1
        self._touch(place.node)

    def confirm(self, holder: Hashable, node_id: str, devices: Sequence[int] | None = None) -> bool:
        """The worker says where it is, and on which GPUs.

        Ray may have put it elsewhere than thought, or Tune may have given the task to another idle worker: then
        the two change places. What is thought to be there, but cannot be, is thought to be elsewhere.

        Returns:
            Whether the node is known.
        """
        place, node = self._places.get(holder), self._nodes.get(node_id)
        if place is None or node is None:
            return node is not None
        need = place.need
        there = tuple(devices) if devices is not None and possible(node, need, devices) else None
        if place.node is node and there in (None, place.devices):
            place.known = True
            return True
        twin = next(
            (p for p in node.places if p.shape == place.shape and p is not place and there in (None, p.devices)
             and (p.idle or not p.known)), None
        )  # fmt: skip
        if twin is not None:
            self._swap(place, twin)
        else:
            self._move(place, node, there)
        place.known = True
        return True

    # Idle workers

    def staff(self, shape: Shape) -> tuple[int, int]:
        """How many workers of a shape there are, or will be, on live nodes, and how many of them are idle."""
        return self._staff[shape], len(self._idle[shape])

    def idle(self, shape: Shape) -> list[str]:
        """The live nodes with idle workers of a shape, one for each."""
        return [p.node.id for p in self._idle[shape] if p.node is not None and p.node.live]

    def shrink(self, shape: Shape, keep: int) -> None:
        """Let go of idle workers until so many are left, first of those on nodes with the fewest at work."""
        surplus = len(self._idle[shape]) - max(keep, 0)
        if surplus > 0:
            at_work = {p: len(p.node.places) - p.node.idle for p in self._idle[shape] if p.node is not None}
            for place in sorted(at_work, key=lambda p: at_work[p])[:surplus]:
                self._drop(place)

    def shrink_to(self, wanted: Callable[[Shape], int]) -> None:
        """Let go of idle workers for which there is nothing left to do, where that can empty a node."""
        if sum(node.live for node in self._nodes.values()) > 1:
            for shape in [s for s, places in self._idle.items() if places]:
                self.shrink(shape, wanted(shape))

    def expects(self, holder: Hashable) -> bool:
        """Whether the place is on a node that is there, not on one that may be added."""
        place = self._places.get(holder)
        return place is not None and place.node_id is not None

    def places(self) -> Iterator[Place]:
        """All places, idle ones too."""
        return iter(self._places.values())

    # Inside: nodes

    def _add(self, offer: NodeOffer | NodeKind, kind: str | None, *, live: bool) -> Node:
        node = Node(self._numbers, offer, kind, live)
        self._numbers += 1
        self._nodes[node.id] = node
        self._totals.clear()
        for shape, index in (*self._now.items(), *self._later.items()):
            if suits(self._need(shape).slot, offer):
                index.able.add(node)
        self._touch(node)
        return node

    def _remove(self, node: Node) -> list[Place]:
        """Take a node away; its places have none then."""
        del self._nodes[node.id]
        self._totals.clear()
        node.version += 1
        for index in (*self._now.values(), *self._later.values()):
            index.able.discard(node)
        if self._reserved is not None and self._reserved[0] is node:
            self._reserved = None
        places = list(node.places)
        for place in places:
            self._staff[place.shape] -= node.live
            place.node = None
            if place.idle:
                self._places.pop(place.holder)
                self._idle[place.shape].pop(place)
        return places

    def _wish(self) -> list[Place]:
        """Have as many nodes that may be added as there may be beside those that are there."""
        lost = []
        live = Counter(n.kind for n in self._nodes.values() if n.live)
        for kind in self._kinds:
            wished = [n for n in self._nodes.values() if not n.live and n.kind == kind.name]
            more = max(kind.most - live[kind.name], 0) - len(wished)
            for _ in range(more):
                self._add(kind, kind.name, live=False)
            for node in sorted(wished, key=lambda n: len(n.places))[: max(-more, 0)]:
                lost += self._remove(node)
        names = {k.name for k in self._kinds}
        for node in [n for n in self._nodes.values() if not n.live and n.kind not in names]:
            lost += self._remove(node)
        return lost

    # Inside: places

    def _need(self, shape: Shape) -> Need:
        need = self._needs.get(shape)
        if need is None:
            need = self._needs[shape] = Need(shape)
        return need

    def _put(self, place: Place, node: Node, devices: tuple[int, ...]) -> None:
        place.node, place.devices = node, devices
        self._places[place.holder] = place
        node.places[place] = None
        if place.idle:
            node.idle += 1
            self._idle[place.shape][place] = None
        self._staff[place.shape] += node.live
        node.change(place.need, devices, -1)
        self._touch(node)

    def _leave(self, place: Place) -> None:
        """Take a place from its node."""
        node = place.node
        if node is not None:
            del node.places[place]
            node.idle -= place.idle
            self._staff[place.shape] -= node.live
            node.change(place.need, place.devices, +1)
            self._touch(node)
        place.node = None

    def _drop(self, place: Place) -> None:
        self._leave(place)
        self._places.pop(place.holder, None)
        self._idle[place.shape].pop(place, None)

    def _wake(self, place: Place, holder: Hashable, until: float) -> None:
        """An idle worker is given a task."""
        del self._places[place.holder]
        self._idle[place.shape].pop(place)
        place.holder, place.until, place.idle = holder, until, False
        self._places[holder] = place
        assert place.node is not None
        place.node.idle -= 1
        self._touch(place.node)

    def _settle(self, place: Place, among: Sequence[Node] | None = None) -> None:
        """Find a node for a place that has none; it stays without one where there is no room."""
        need = place.need
        if among is None:
            best = self._index(self._now, place.shape).top(lambda n: now_score(n, need, place.shape, None))
            among = () if best is None else (best,)
        for node in among:
            if suits(need.slot, node.offer) and need.on_plain(node.free):
                devices = need.on_devices(node.devices)
                if devices is not None:
                    self._put(place, node, devices)
                    return

    def _swap(self, a: Place, b: Place) -> None:
        """Two places of one shape are each where the other was thought to be."""
        nodes, devices = (a.node, b.node), (a.devices, b.devices)
        self._leave(a)
        self._leave(b)
        for place, node, lies_on in ((a, nodes[1], devices[1]), (b, nodes[0], devices[0])):
            if node is not None:
                self._put(place, node, lies_on)
        if b.idle and (b.node is None or not b.node.live):  # no worker is where no node is yet
            self._drop(b)

    def _move(self, place: Place, node: Node, devices: tuple[int, ...] | None) -> None:
        """A place is on this node: what keeps it from being there according to the books is moved on."""
        self._leave(place)
        need = place.need
        homeless = []
        while not (need.on_plain(node.free) and lies(node, need, devices)):
            here = [p for p in node.places if (p.idle or not p.known) and hinders(p, node, need, devices)]
            other = next((p for p in here if p.idle), here[0] if here else None)
            if other is None:
                break  # another run is at work there, or a node has less than it says: believe the worker
            if other.idle:
                self._drop(other)
            else:
                self._leave(other)
                homeless.append(other)
        if devices is None:
            devices = need.on_devices(node.devices)
        if devices is None:
            by_room = sorted(range(len(node.devices)), key=lambda d: -node.devices[d])
            devices = tuple(by_room[: max(1, need.gpu // UNIT)])
        self._put(place, node, devices)
        for other in homeless:
            self._settle(other)

    # Inside: looking for room

    def _touch(self, node: Node) -> None:
        node.version += 1
        for index in self._now.values():
            index.changed.add(node)
        for index in self._later.values():
            index.changed.add(node)

    def _index(self, kind: dict[Shape, _Index], shape: Shape) -> _Index:
        index = kind.get(shape)
        if index is None:
            slot = self._need(shape).slot
            index = kind[shape] = _Index(n for n in self._nodes.values() if suits(slot, n.offer))
        return index

    def _best(self, shape: Shape) -> tuple[Node, Limit | None] | None:
        """The node on which this slot is best placed now, and what it may use there if some is reserved."""
        need = self._need(shape)
        index = self._index(self._now, shape)
        kept = self._reserved[0] if self._reserved is not None else None
        node = index.top(lambda n: now_score(n, need, shape, None), skip=kept)
        if kept is None or self._reserved is None or kept not in index.able:
            return None if node is None else (node, None)
        limit = limit_of(*self._reserved)
        there = now_score(kept, need, shape, limit)
        if there is not None and (node is None or there < (now_score(node, need, shape, None) or ())):
            return kept, limit
        return None if node is None else (node, None)


class _Index:
    """Nodes by score, best first; only what has changed is looked at again.

    Args:
        able: the nodes that would have room if they were empty.
    """

    def __init__(self, able: Iterator[Node]) -> None:
        self.able = set(able)
        self.changed = set(self.able)
        self._heap: list[tuple[Score, int, int, Node]] = []

    def top(self, score: Callable[[Node], Score | None], skip: Node | None = None) -> Node | None:
        """The node with the least score; None if none has one."""
        if len(self._heap) > 4 * len(self.able) + 64:
            self._heap, self.changed = [], set(self.able)
        for node in self.changed:
            value = score(node) if node in self.able else None
            if value is not None:
                heapq.heappush(self._heap, (value, node.number, node.version, node))
        self.changed.clear()
        aside = []
        found = None
        while self._heap:
            _, _, version, node = self._heap[0]
            if version == node.version and node in self.able:
                if node is not skip:
                    found = node
                    break
                aside.append(self._heap[0])
            heapq.heappop(self._heap)
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return found


def _kind_of(offer: NodeOffer, kinds: Sequence[NodeKind]) -> str | None:
    """Which kind a live node is of: by its label, or by what it has."""
    named = offer.labels.get(NODE_GROUP)
    if any(k.name == named for k in kinds):
        return named
    same = [
        k
        for k in kinds
        if all(abs(offer.resources.get(n, 0.0) - k.resources.get(n, 0.0)) < 0.5 for n in ("CPU", "GPU"))
    ]
    same.sort(key=lambda k: sum(offer.labels.get(name) != value for name, value in k.labels.items()))
    return same[0].name if same else None


def _whole(amount: float) -> float:
    """Above one, whole: Ray takes no GPU and a half."""
    return float(math.floor(amount)) if amount > 1 else amount
