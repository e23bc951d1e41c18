"""A run in simulated time: the graph's decisions on the nodes of a cluster, with given durations and failures.

Discrete events over the real `graph.Graph`, which is driven to its end, and the real `room.Room`, which says where
its tasks find room. No Ray, no I/O, no clock; the same seed gives the same run. What is simulated: bundles, worker
processes that take time to start and are kept for tasks of their shape, the driver, which hands out bundles one
after the other, nodes that are booted on demand and let go when idle, and the loss of workers and nodes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, cast

from .fit import Place
from .graph import DRIVER_SECONDS, Graph, State
from .room import NODE_GROUP, Room
from .slots import NodeKind, NodeOffer, Shape, in_words, ray_resources, slot_of

HOUR = 3600.0


@dataclass(frozen=True)
class Times:
    """What takes time besides tasks, in seconds.

    Attributes:
        start: from the command to the first bundle (Ray is started or joined, Tune is set up).
        worker: start of a worker process with its imports.
        bundle: the driver's time for a bundle. It serves one after the other.
        step: a worker that works through a bundle reports what it has committed that often.
        end: from the last commit to the end of the run.
        boot: from asking for a node to its joining the cluster, setup commands included.
        launch: the autoscaler asks for nodes that often. (Ray bounds how many may boot at a time, but not for
            placement groups, which is what Tune's trials wait for.)
        idle: a node without work is let go after so long.
        notice: until the loss of a node is noticed.
    """

    start: float = 4.0
    worker: float = 2.0
    bundle: float = DRIVER_SECONDS
    step: float = 0.25
    end: float = 0.5
    boot: float = 180.0
    launch: float = 5.0
    idle: float = 300.0
    notice: float = 13.0


USUAL = Times()


@dataclass(frozen=True)
class Failures:
    """How often what is lost. What is lost runs again, from its last snapshot or from the beginning.

    Attributes:
        workers: losses an hour of a process that works.
        nodes: losses an hour of a node, by name of its kind (preemptions of spot machines). Another is asked for.
        snapshots: seconds between two snapshots, by kind of task. Tasks of other kinds begin anew.
    """

    workers: float = 0.0
    nodes: Mapping[str, float] = field(default_factory=dict)
    snapshots: Mapping[str, float] = field(default_factory=dict)


NONE = Failures()


@dataclass(frozen=True)
class Simulated:
    """What became of a simulated run.

    Attributes:
        seconds: wall time from the command to its end.
        busy: seconds that slots spent on tasks, what was lost included; `lost`: of it, what was lost.
        work: seconds of all tasks that were to run, each once.
        longest: the longest path through them.
        bound: no schedule on all nodes that there may be is shorter: the longest path, or all that tasks hold of
            a resource over what there is of it.
        slots: tasks of the usual shape that can run at the same time on all nodes that there may be.
        bundles: how many were handed out; `tasks`: how many tasks were begun, again or not.
        workers: processes started.
        node_hours: by kind of node, paid from the request for a node to its release; what must always be there and
            the head until the end of the run, the others until they have been idle for long enough.
        gpu_hours: of these nodes' GPUs.
        peak_nodes: the most at a time, by kind.
        dollars: for the node hours; None if the price of a kind that was used is not known.
    """

    seconds: float
    busy: float
    lost: float
    work: float
    longest: float
    bound: float
    slots: int
    bundles: int
    tasks: int
    workers: int
    node_hours: Mapping[str, float]
    gpu_hours: float
    peak_nodes: Mapping[str, int]
    dollars: float | None


def simulate(
    graph: Graph,
    kinds: Sequence[NodeKind],
    seconds: Mapping[str, float],
    *,
    times: Times = USUAL,
    failures: Failures = NONE,
    seed: int = 0,
    at_most: int | None = None,
) -> Simulated:
    """Run all that a graph has left on a cluster.

    Args:
        graph: driven to its end.
        kinds: of nodes. Of each, its `least` are there at the beginning.
        seconds: how long every task that is to run takes, by key (see `drawn`).
        seed: of the failures.
        at_most: nodes at a time besides the head; None for no limit but those of the kinds.

    Raises:
        ValueError: no kind of node has the slot of some task.
    """
    return _Run(graph, kinds, seconds, times, failures, Random(f"failures/{seed}"), at_most).run()


def drawn(
    graph: Graph,
    samples: Mapping[Hashable, Sequence[float]],
    seed: int,
    groups: Mapping[str, Hashable] | None = None,
) -> dict[str, float]:
    """A duration for every task that is to run: one of those known of its group, the same for the same seed.

    Args:
        groups: the group of every task; None for its kind.
    """
    random = Random(f"durations/{seed}")
    left = {key: v.kind for key, v in graph.vertices.items() if not v.state.final}
    return {key: random.choice(samples[kind if groups is None else groups[key]]) for key, kind in left.items()}


def longest_path(graph: Graph, seconds: Mapping[str, float]) -> float:
    """Seconds of the longest chain of tasks that are to run."""
    ends: dict[str, float] = {}
    for key, vertex in graph.vertices.items():  # inputs are added before their dependents
        if key in seconds:
            ends[key] = seconds[key] + max((ends.get(name, 0.0) for name in vertex.inputs), default=0.0)
    return max(ends.values(), default=0.0)


def lower_bound(graph: Graph, seconds: Mapping[str, float], kinds: Sequence[NodeKind]) -> float:
    """No schedule of what is to run is shorter."""
    by_shape: defaultdict[Hashable, float] = defaultdict(float)
    held: defaultdict[str, float] = defaultdict(float)
    for key, duration in seconds.items():
        by_shape[graph.vertices[key].shape] += duration
    least = [longest_path(graph, seconds)]
    room = _room(kinds)
    for shape, total in by_shape.items():
        least += [total / slots for slots in [room.slots(cast("Shape", shape))] if slots]
        for name, amount in ray_resources(slot_of(cast("Shape", shape))).items():
            held[name] += total * amount
    for name, total in held.items():
        there = sum(kind.most * kind.resources.get(name, 0.0) for kind in kinds)
        least += [total / there] if there else []
    return max(least)


def _room(kinds: Sequence[NodeKind]) -> Room:
    """The room on all nodes that there may be."""
    heads = [NodeOffer(kind.name, kind.name, kind.resources, kind.labels) for kind in kinds if kind.head]
    return Room(heads, kinds)


@dataclass(eq=False)
class _Node:
    """A node that is there, or booting."""

    kind: NodeKind
    offer: NodeOffer
    asked: float
    there: bool = False
    gone: bool = False
    idle_since: float = 0.0
    working: set[_Bundle] = field(default_factory=set)


@dataclass(eq=False)
class _Bundle:
    """Tasks in the hands of a worker, or of one that is to be; without tasks it only starts the worker."""

    shape: Shape
    keys: list[str]
    place: Place
    node: _Node | None = None
    begins: list[float] = field(default_factory=list)  # of its tasks
    done: int = 0  # tasks committed
    over: bool = False


class _Run:
    def __init__(
        self,
        graph: Graph,
        kinds: Sequence[NodeKind],
        seconds: Mapping[str, float],
        times: Times,
        failures: Failures,
        random: Random,
        at_most: int | None,
    ) -> None:
        self.graph = graph
        self.kinds = sorted(kinds, key=lambda kind: kind.name, reverse=True)  # as Ray, of kinds that suit equally well
        self.seconds = seconds
        self.times = times
        self.failures = failures
        self.random = random
        self.at_most = sum(kind.most for kind in kinds) if at_most is None else at_most
        self.now = 0.0
        self.driver = times.start  # when it is free
        self.left: dict[str, float] = {}  # of a task that goes on from a snapshot
        self.furthest: dict[str, float] = {}  # how long a task had worked when it was lost
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.number = itertools.count()
        self.nodes: dict[str, _Node] = {}  # there or booting, by id
        self.count: Counter[str] = Counter()  # of them, by name of their kind
        self.booting: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.room = Room((), self.kinds)
        self.ready: dict[Place, float] = {}  # when a worker process has started
        self.waiting: defaultdict[Shape, deque[_Bundle]] = defaultdict(deque)  # for nodes, by shape
        self.hours: defaultdict[str, float] = defaultdict(float)
        self.busy = self.lost = 0.0
        self.bundles = self.tasks = self.workers = 0
        self.scaling = False  # whether a look at the nodes is due
        self.scaled = -times.launch  # when the last was
        self.shapes = Counter(cast("Shape", graph.vertices[key].shape) for key in seconds)
        whole = _room(kinds)
        self.slots = {shape: min(whole.slots(shape), self._at_most(shape)) for shape in self.shapes}
        for shape, slots in self.slots.items():
            if not slots:
                raise ValueError(f"no kind of node has the slot {in_words(slot_of(shape))}")
        self.usual = self.shapes.most_common(1)[0][0] if self.shapes else ()

    def run(self) -> Simulated:
        graph, times = self.graph, self.times
        work, longest = sum(self.seconds.values()), longest_path(graph, self.seconds)
        bound = lower_bound(graph, self.seconds, self.kinds)
        for kind in self.kinds:
            for _ in range(_least(kind)):
                self._joins(self._ask_for(kind))
        self._update()
        self._at(times.start, self._warm_up)
        while not graph.finished:
            if not self.events:
                raise RuntimeError("the simulated run has come to a standstill")
            self._next()
            while self.events and self.events[0][0] <= self.now:
                self._next()
            if self.now >= times.start:
                self._decide()
            self._look_at_nodes()
        self.now += times.end
        for node in self.nodes.values():
            # What need not always be there is paid until it has been idle for long enough.
            self._bill(node, self.now + (times.idle if self.count[node.kind.name] > _least(node.kind) else 0.0))
            self.count[node.kind.name] -= 1
        used = [kind for kind in reversed(self.kinds) if self.peak[kind.name]]
        known = all(kind.dollars is not None for kind in used)
        return Simulated(
            seconds=self.now,
            busy=self.busy,
            lost=self.lost,
            work=work,
            longest=longest,
            bound=bound,
            slots=self.slots.get(self.usual, 0),
            bundles=self.bundles,
            tasks=self.tasks,
            workers=self.workers,
            node_hours={kind.name: self.hours[kind.name] for kind in used},
            gpu_hours=sum(self.hours[kind.name] * kind.resources.get("GPU", 0.0) for kind in used),
            peak_nodes={kind.name: self.peak[kind.name] for kind in used},
            dollars=sum(self.hours[k.name] * cast("float", k.dollars) for k in used) if known else None,
        )

    # Events

    def _at(self, when: float, happens: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self.events, (when, next(self.number), happens, about))

    def _next(self) -> None:
        self.now, _, happens, about = heapq.heappop(self.events)
        happens(*about)

    def _reports(self, bundle: _Bundle, upto: int) -> None:
        """A worker has committed the tasks before that number."""
        if bundle.over:
            return
        for key in bundle.keys[bundle.done : upto]:
            self.busy += self.left.get(key, self.seconds[key])
            self.graph.committed(key, self.seconds[key])
        bundle.done = upto
        if upto == len(bundle.keys):
            self._leaves(bundle)
            self.room.rest(bundle)

    def _leaves(self, bundle: _Bundle) -> None:
        """A worker has nothing more to do, or is dead."""
        bundle.over = True
        node = bundle.node
        assert node is not None
        node.working.discard(bundle)
        if not node.working and not node.gone:
            node.idle_since = self.now
            self._at(self.now + self.times.idle, self._rests, node)

    def _crashes(self, bundle: _Bundle) -> None:
        """A worker process dies at work."""
        if not bundle.over:
            self._leaves(bundle)
            self._lose(bundle, self.now, True)

    def _dies(self, node: _Node) -> None:
        """A node is taken away."""
        if node.gone:
            return
        for bundle in list(node.working):
            bundle.over = True
            self._at(self.now + self.times.notice, self._lose, bundle, self.now, False)
        self._remove(node)

    def _lose(self, bundle: _Bundle, when: float, process: bool) -> None:
        """What the worker had not committed runs again; a dead process is blamed on its task as in a real run."""
        self.room.release(bundle)
        for number in range(bundle.done, len(bundle.keys)):
            key = bundle.keys[number]
            blame = False
            if number == bundle.done:  # the task at work
                worked = max(when - bundle.begins[number], 0.0)
                every = self.failures.snapshots.get(self.graph.vertices[key].kind, 0.0)
                kept = math.floor(worked / every) * every if every else 0.0
                self.left[key] = self.left.get(key, self.seconds[key]) - kept
                self.busy += worked
                self.lost += worked - kept
                blame = process and worked <= self.furthest.get(key, 0.0)
                self.furthest[key] = max(worked, self.furthest.get(key, 0.0))
            self.graph.lost(key, blame=blame)

    # Decisions

    def _warm_up(self) -> None:
        """Start workers, also on nodes to come, while the first tasks keep the others waiting."""
        self._decide()
        left = self.graph.counts[State.WAITING]
        for _ in range(min(self.slots.get(self.usual, 0) - self.bundles, left)):
            bundle = self._place(self.usual)
            if bundle is None:
                break
            self._begin(bundle)

    def _decide(self) -> None:
        """Hand out what is ready, as far as there is room, now or on nodes that may be added."""
        self.room.unreserve()
        for shape, waiting in self.waiting.items():
            while waiting and self.room.idle(shape):  # Tune gives a worker that is free what waits for one
                first = waiting.popleft()
                self.room.release(first)
                if first.keys:
                    self._begin(cast("_Bundle", self._place(shape, first.keys)))
        reserved = False
        for shape in cast("list[Shape]", self.graph.shapes()):
            while self.graph.ready(shape) and (bundle := self._place(shape)) is not None:
                bundle.keys = self.graph.take(shape, slots=self.slots[shape])
                self._begin(bundle)
            if self.graph.ready(shape) and not reserved:
                reserved = self.room.reserve(shape)

    def _place(self, shape: Shape, keys: Sequence[str] = ()) -> _Bundle | None:
        bundle = _Bundle(shape, list(keys), cast("Place", None))
        place = self.room.take(shape, bundle)
        if place is None:
            return None
        bundle.place = place
        return bundle

    def _begin(self, bundle: _Bundle) -> None:
        """A worker takes up its tasks, once its node is there, its process has started and the driver gets to it."""
        place, times = bundle.place, self.times
        if place.node_id is None:
            self.waiting[bundle.shape].append(bundle)
            return
        self.room.confirm(bundle, place.node_id, place.devices)
        bundle.node = node = self.nodes[place.node_id]
        node.working.add(bundle)
        if place not in self.ready:
            self.workers += 1
            self.ready[place] = self.now + times.worker
        at = self.ready[place]
        if bundle.keys:
            self.bundles += 1
            self.tasks += len(bundle.keys)
            self.driver = max(self.driver, self.now) + times.bundle
            at = max(at, self.driver)
        begun = reported = at
        for number, key in enumerate(bundle.keys, 1):
            bundle.begins.append(at)
            at += self.left.get(key, self.seconds[key])
            if number < len(bundle.keys) and at - reported >= times.step:
                self._at(at, self._reports, bundle, number)
                reported = at
        place.until = at
        self._at(at, self._reports, bundle, len(bundle.keys))
        if self.failures.workers and bundle.keys:
            dies = begun + self.random.expovariate(self.failures.workers) * HOUR
            if dies < at:
                self._at(dies, self._crashes, bundle)

    # Nodes

    def _at_most(self, shape: Shape) -> int:
        """Slots of the heads and of as many other nodes as there may be, those with most first."""
        slots, left = 0, self.at_most
        each = [(_room([replace(kind, most=1, least=0)]).slots(shape), kind) for kind in self.kinds]
        for here, kind in sorted(each, key=lambda pair: pair[0], reverse=True):
            many = kind.most if kind.head else min(kind.most, left)
            left -= 0 if kind.head else many
            slots += here * (1 if kind.head else many)
        return slots

    def _look_at_nodes(self) -> None:
        if self.scaling or not any(self.count[kind.name] < kind.most for kind in self.kinds):
            return
        wished = self.room.wished()
        if any(self._wanted(kind, wished) for kind in self.kinds):
            self.scaling = True
            self._at(max(self.now, self.scaled + self.times.launch), self._scale)

    def _scale(self) -> None:
        """The autoscaler asks for nodes for what waits."""
        self.scaling, self.scaled = False, self.now
        wished = self.room.wished()
        for kind in self.kinds:
            for _ in range(self._wanted(kind, wished)):
                node = self._ask_for(kind)
                self.booting[kind.name] += 1
                self._at(self.now + self.times.boot, self._boots, node)

    def _wanted(self, kind: NodeKind, wished: Mapping[str, int]) -> int:
        """How many further nodes of a kind should be asked for, and may be."""
        booting = self.booting[kind.name]
        wanted = max(wished[kind.name], _least(kind) - self.count[kind.name] + booting) - booting
        others = sum(self.count[k.name] for k in self.kinds if not k.head)
        return max(min(wanted, kind.most - self.count[kind.name], self.at_most - others), 0)

    def _ask_for(self, kind: NodeKind) -> _Node:
        name = f"{kind.name}#{next(self.number)}"
        node = _Node(kind, NodeOffer(name, name, kind.resources, {**kind.labels, NODE_GROUP: kind.name}), self.now)
        self.nodes[name] = node
        self.count[kind.name] += 1
        self.peak[kind.name] = max(self.peak[kind.name], self.count[kind.name])
        return node

    def _boots(self, node: _Node) -> None:
        self.booting[node.kind.name] -= 1
        self._joins(node)
        self._update()
        for shape, waiting in self.waiting.items():
            here = [b for b in waiting if b.place.node_id is not None]
            if here:
                self.waiting[shape] = deque(b for b in waiting if b.place.node_id is None)
            for bundle in here:
                self._begin(bundle)

    def _joins(self, node: _Node) -> None:
        node.there, node.idle_since = True, self.now
        rate = self.failures.nodes.get(node.kind.name, 0.0)
        if rate:
            self._at(self.now + self.random.expovariate(rate) * HOUR, self._dies, node)
        self._at(self.now + self.times.idle, self._rests, node)

    def _rests(self, node: _Node) -> None:
        """A node is let go that has been idle for long."""
        kind = node.kind
        idle = not node.working and node.idle_since + self.times.idle <= self.now + 1e-9
        if idle and not node.gone and self.count[kind.name] > _least(kind):
            self._remove(node)

    def _remove(self, node: _Node) -> None:
        node.gone = True
        del self.nodes[node.offer.id]
        self.count[node.kind.name] -= 1
        self._bill(node, self.now)
        self._update()

    def _bill(self, node: _Node, until: float) -> None:
        self.hours[node.kind.name] += (until - node.asked) / HOUR

    def _update(self) -> None:
        self.room.update([node.offer for node in self.nodes.values() if node.there], self.kinds)


def _least(kind: NodeKind) -> int:
    """How many nodes of a kind there always are."""
    return max(kind.least, int(kind.head))
