"""A run in simulated time: the graph's decisions on the nodes of a cluster, with given durations and failures.

Discrete events over the real `graph.Graph`, which is driven to its end. No Ray, no I/O, no clock; the same seed
gives the same run. What is simulated: bundles, worker processes that take time to start and are kept for tasks of
their shape, the driver, which hands out bundles one after the other, nodes that are booted on demand and let go
when idle, and the loss of workers and nodes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from .graph import DRIVER_SECONDS, Graph
from .slots import NodeKind, Shape, ray_resources

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
        launch: the autoscaler asks for nodes that often, for as many of a kind as there are (and at least one).
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
    times: Times = Times(),
    failures: Failures = Failures(),
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


def drawn(graph: Graph, samples: Mapping[Hashable, Sequence[float]], seed: int) -> dict[str, float]:
    """A duration for every task that is to run: one of those measured of its kind, the same for the same seed."""
    random = Random(f"durations/{seed}")
    return {key: random.choice(samples[v.kind]) for key, v in graph.vertices.items() if not v.state.final}


def longest_path(graph: Graph, seconds: Mapping[str, float]) -> float:
    """Seconds of the longest chain of tasks that are to run."""
    ends: dict[str, float] = {}
    for key, vertex in graph.vertices.items():  # inputs are added before their dependents
        if key in seconds:
            ends[key] = seconds[key] + max((ends.get(name, 0.0) for name in vertex.inputs), default=0.0)
    return max(ends.values(), default=0.0)


def lower_bound(graph: Graph, seconds: Mapping[str, float], kinds: Sequence[NodeKind]) -> float:
    """No schedule of what is to run is shorter."""
    by_shape: Counter[Hashable] = Counter()
    held: Counter[str] = Counter()
    for key, duration in seconds.items():
        by_shape[graph.vertices[key].shape] += duration  # type: ignore[assignment]
    for shape, total in by_shape.items():
        for name, amount in _wanted(shape).items():
            held[name] += total * amount  # type: ignore[assignment]
    least = [longest_path(graph, seconds)]
    least += [total / slots for shape, total in by_shape.items() if (slots := _slots(kinds, shape))]
    for name, total in held.items():
        there = sum(kind.most * kind.resources.get(name, 0.0) for kind in kinds)
        least += [total / there] if there else []
    return max(least)


class _Node:
    """A node that is there, or booting."""

    def __init__(self, kind: NodeKind, asked: float, joins: float) -> None:
        self.kind = kind
        self.asked = asked
        self.joins = joins
        self.there = False
        self.gone = False
        self.idle_since = joins
        self.working: dict[_Worker, _Bundle] = {}
        self.resting: dict[_Worker, None] = {}
        self.free = dict(kind.resources)
        self.devices = [1.0] * int(self.free.get("GPU", 0))

    def holds(self, wanted: Mapping[str, float]) -> bool:
        """Whether there is room for a slot."""
        for name, amount in wanted.items():
            if self.free.get(name, 0.0) < amount - 1e-9:
                return False
        gpu = wanted.get("GPU", 0.0)
        return not 0 < gpu < 1 or any(left >= gpu - 1e-9 for left in self.devices)

    def take(self, wanted: Mapping[str, float]) -> int:
        """Take the room; returns the device of which a share is taken."""
        for name, amount in wanted.items():
            self.free[name] -= amount
        gpu = wanted.get("GPU", 0.0)
        if not 0 < gpu < 1:
            for _ in range(int(gpu)):  # whole devices: of them only their number matters
                self.devices[self.devices.index(max(self.devices))] = 0.0
            return -1
        device = next(i for i, left in enumerate(self.devices) if left >= gpu - 1e-9)
        self.devices[device] -= gpu
        return device

    def give(self, wanted: Mapping[str, float], device: int) -> None:
        """Give it back."""
        for name, amount in wanted.items():
            self.free[name] += amount
        gpu = wanted.get("GPU", 0.0)
        if 0 < gpu < 1:
            self.devices[device] += gpu
        else:
            for _ in range(int(gpu)):
                self.devices[self.devices.index(min(self.devices))] = 1.0


class _Worker:
    """A worker process on a node; it holds its slot until it ends."""

    def __init__(self, node: _Node, shape: Hashable, device: int, ready: float) -> None:
        self.node = node
        self.shape = shape
        self.device = device
        self.ready = ready


class _Bundle:
    """Tasks in the hands of a worker."""

    def __init__(self, worker: _Worker, keys: list[str]) -> None:
        self.worker = worker
        self.keys = keys
        self.begins: list[float] = []
        self.done = 0  # of the keys, committed
        self.over = False


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
        self.kinds = kinds
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
        self.nodes: list[_Node] = []
        self.resting: defaultdict[Hashable, list[_Worker]] = defaultdict(list)
        self.out: Counter[Hashable] = Counter()  # bundles out, by shape
        self.count: Counter[str] = Counter()  # nodes, by name of their kind
        self.peak: Counter[str] = Counter()
        self.full: set[Hashable] = set()  # shapes for which there was no room at the last look
        self.hours: Counter[str] = Counter()
        self.busy = self.lost = 0.0
        self.bundles = self.tasks = self.workers = 0
        self.scaling = False  # whether a look at the nodes is due
        self.scaled = -times.launch  # when the last was
        self.warming = True
        shapes = Counter(graph.vertices[key].shape for key in seconds)
        for shape in shapes:
            if not _slots(kinds, shape):
                raise ValueError(f"no kind of node has the slot {dict(cast('Shape', shape or ()))}")
        self.slots = {shape: _slots(kinds, shape) for shape in shapes}
        self.usual = shapes.most_common(1)[0][0] if shapes else None

    def run(self) -> Simulated:
        graph, times = self.graph, self.times
        work, longest = sum(self.seconds.values()), longest_path(graph, self.seconds)
        bound = lower_bound(graph, self.seconds, self.kinds)
        for kind in self.kinds:
            for _ in range(max(kind.least, kind.head)):
                self._ask_for(kind, 0.0)
        self._at(times.start, self._nothing)
        while not graph.finished:
            if not self.events:
                raise RuntimeError("the simulated run has come to a standstill")
            self.now, _, happens, about = heapq.heappop(self.events)
            happens(*about)
            while self.events and self.events[0][0] <= self.now:
                _, _, happens, about = heapq.heappop(self.events)
                happens(*about)
            if self.now >= times.start:
                self._decide()
        self.now += times.end
        for node in self.nodes:
            self._bill(node, self.now)
        if self._autoscaled():  # what goes idle at the end is paid until it is let go
            left = Counter(node.kind.name for node in self.nodes)
            for kind in self.kinds:
                extra = max(left[kind.name] - max(kind.least, kind.head), 0)
                self.hours[kind.name] += extra * times.idle / HOUR  # type: ignore[assignment]
        used = [kind for kind in self.kinds if self.hours[kind.name]]
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
            node_hours={kind.name: float(self.hours[kind.name]) for kind in used},
            gpu_hours=sum(self.hours[kind.name] * kind.resources.get("GPU", 0.0) for kind in used),
            peak_nodes={kind.name: self.peak[kind.name] for kind in used},
            dollars=sum(self.hours[k.name] * cast("float", k.dollars) for k in used) if known else None,
        )

    # Events

    def _at(self, when: float, happens: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self.events, (when, next(self.number), happens, about))

    def _nothing(self) -> None:
        """Time has come to decide."""

    def _joins(self, node: _Node) -> None:
        node.there = True
        node.idle_since = self.now
        self.full.clear()
        rate = self.failures.nodes.get(node.kind.name, 0.0)
        if rate:
            self._at(self.now + self.random.expovariate(rate) * HOUR, self._dies, node)
        self._at(self.now + self.times.idle, self._rests, node)
        # Warm-ups start worker processes of the usual shape while the first tasks keep the others waiting.
        most = min(self.slots.get(self.usual, 0), len(self.seconds))
        while self.workers < most and node.holds(_wanted(self.usual)):
            self._rest(self._start(node, self.usual))

    def _rests(self, node: _Node) -> None:
        """A node is let go if it has been idle for long."""
        kind = node.kind
        if node.gone or node.working or self.count[kind.name] <= max(kind.least, kind.head):
            return
        if node.idle_since + self.times.idle > self.now + 1e-9:
            return  # it has worked meanwhile; another look is due
        self._remove(node)

    def _dies(self, node: _Node) -> None:
        if node.gone:
            return
        self._remove(node)
        for bundle in node.working.values():
            bundle.over = True
            self._at(self.now + self.times.notice, self._lose, bundle, self.now, False)
        self._at(self.now + self.times.notice, self._replace, node.kind)

    def _replace(self, kind: NodeKind) -> None:
        if self.count[kind.name] < max(kind.least, kind.head):
            self._ask_for(kind, self.times.boot)

    def _crashes(self, bundle: _Bundle) -> None:
        """The worker process dies at work."""
        if bundle.over:
            return
        bundle.over = True
        worker = bundle.worker
        del worker.node.working[worker]
        self._end(worker)
        self._idle(worker.node)
        self._lose(bundle, self.now, True)

    def _lose(self, bundle: _Bundle, when: float, process: bool) -> None:
        """What the worker had not committed is to run again. A process is blamed on its task, see `DagSearch._lose`."""
        self.out[bundle.worker.shape] -= 1
        suspect = True
        for key, begun in zip(bundle.keys[bundle.done :], bundle.begins[bundle.done :], strict=True):
            blame = False
            if suspect:
                worked = max(when - begun, 0.0)
                every = self.failures.snapshots.get(self.graph.vertices[key].kind, 0.0)
                kept = math.floor(worked / every) * every if every else 0.0
                self.left[key] = self.left.get(key, self.seconds[key]) - kept
                self.busy += worked
                self.lost += worked - kept
                blame = process and worked <= self.furthest.get(key, 0.0)
                self.furthest[key] = max(worked, self.furthest.get(key, 0.0))
            suspect = False
            self.graph.lost(key, blame=blame)

    def _reports(self, bundle: _Bundle, upto: int) -> None:
        """A worker has committed the tasks before that number."""
        if bundle.over:
            return
        for key in bundle.keys[bundle.done : upto]:
            seconds = self.left.get(key, self.seconds[key])
            self.busy += seconds
            self.graph.committed(key, self.seconds[key])
        bundle.done = upto
        if upto < len(bundle.keys):
            return
        bundle.over = True
        self.out[bundle.worker.shape] -= 1
        del bundle.worker.node.working[bundle.worker]
        self._rest(bundle.worker)
        self._idle(bundle.worker.node)

    # Decisions

    def _decide(self) -> None:
        """Hand out what is ready, as far as there is room; ask for nodes for the rest."""
        wanting = False
        for shape in self.graph.shapes():
            while (place := self._place(shape)) is not None:
                keys = self.graph.take(shape, slots=self.slots[shape])
                if not keys:
                    break
                self._begin(place if isinstance(place, _Worker) else self._start(place, shape), keys)
            else:
                wanting = True
        if (wanting or self.warming) and not self.scaling and self._may_grow():
            self.scaling = True
            self._at(max(self.now, self.scaled + self.times.launch), self._scale)

    def _place(self, shape: Hashable) -> _Worker | _Node | None:
        """An idle worker of the shape, or a node with room for one; other idle workers may have to end for that."""
        resting = self.resting[shape]
        while resting and resting[-1].node.gone:
            resting.pop()
        if resting:
            return resting[-1]
        if shape in self.full:
            return None
        wanted = _wanted(shape)
        for node in self.nodes:
            if node.there and node.holds(wanted):
                return node
        for node in self.nodes:
            if node.there and node.resting and self._could_hold(node, wanted):
                for worker in list(node.resting):
                    if node.holds(wanted):
                        break
                    self.resting[worker.shape].remove(worker)
                    node.resting.pop(worker, None)
                    self._end(worker)
                return node
        self.full.add(shape)
        return None

    def _could_hold(self, node: _Node, wanted: Mapping[str, float]) -> bool:
        """Whether there would be room if no idle worker were kept."""
        trial = _Node(node.kind, 0.0, 0.0)
        trial.free, trial.devices = dict(node.free), list(node.devices)
        for worker in node.resting:
            trial.give(_wanted(worker.shape), worker.device)
        return trial.holds(wanted)

    def _start(self, node: _Node, shape: Hashable) -> _Worker:
        self.workers += 1
        worker = _Worker(node, shape, node.take(_wanted(shape)), self.now + self.times.worker)
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.node.give(_wanted(worker.shape), worker.device)
        self.full.clear()

    def _rest(self, worker: _Worker) -> None:
        worker.node.resting[worker] = None
        self.resting[worker.shape].append(worker)
        if self.full and self.full != {worker.shape}:
            self.full.clear()  # it may end, to make room

    def _begin(self, worker: _Worker, keys: list[str]) -> None:
        if self.resting[worker.shape] and self.resting[worker.shape][-1] is worker:
            self.resting[worker.shape].pop()
        worker.node.resting.pop(worker, None)
        self.out[worker.shape] += 1
        self.bundles += 1
        self.tasks += len(keys)
        self.driver = max(self.driver, self.now) + self.times.bundle
        at = max(self.driver, worker.ready)
        bundle = _Bundle(worker, keys)
        worker.node.working[worker] = bundle
        reported = at
        for number, key in enumerate(keys, 1):
            bundle.begins.append(at)
            at += self.left.get(key, self.seconds[key])
            if number == len(keys) or at - reported >= self.times.step:
                self._at(at, self._reports, bundle, number)
                reported = at
        if self.failures.workers:
            dies = bundle.begins[0] + self.random.expovariate(self.failures.workers) * HOUR
            if dies < at:
                self._at(dies, self._crashes, bundle)

    # Nodes

    def _autoscaled(self) -> bool:
        return any(kind.most > max(kind.least, kind.head) for kind in self.kinds)

    def _may_grow(self) -> bool:
        return any(self.count[kind.name] < kind.most for kind in self.kinds)

    def _ask_for(self, kind: NodeKind, boot: float) -> None:
        node = _Node(kind, self.now, self.now + boot)
        self.nodes.append(node)
        self.count[kind.name] += 1
        self.peak[kind.name] = max(self.peak[kind.name], self.count[kind.name])
        self._at(node.joins, self._joins, node)

    def _remove(self, node: _Node) -> None:
        node.gone, node.there = True, False
        self.nodes.remove(node)
        self.count[node.kind.name] -= 1
        self._bill(node, self.now)
        for worker in node.resting:
            self.resting[worker.shape].remove(worker)
        node.resting.clear()

    def _bill(self, node: _Node, until: float) -> None:
        self.hours[node.kind.name] += (until - node.asked) / HOUR  # type: ignore[assignment]

    def _idle(self, node: _Node) -> None:
        if not node.working:
            node.idle_since = self.now
            self._at(self.now + self.times.idle, self._rests, node)

    def _scale(self) -> None:
        """Ask for nodes for what is ready and finds no room (at the beginning: for all that is to come)."""
        self.scaling, self.scaled = False, self.now
        asked = False
        for shape in self.slots:
            ready = self.graph.ready(shape)
            if self.warming and shape == self.usual:
                ready = len(self.seconds)
            room = sum(self._room_on(node, shape) for node in self.nodes)
            wanted = min(ready, self.slots[shape] - self.out[shape]) - room
            for kind in self.kinds:
                each = _units_on(kind, shape)
                if wanted <= 0 or not each:
                    continue
                there = sum(node.there for node in self.nodes if node.kind is kind)
                others = sum(not node.kind.head for node in self.nodes)
                many = min(-(-wanted // each), kind.most - self.count[kind.name], max(there, 1), self.at_most - others)
                for _ in range(many):
                    self._ask_for(kind, self.times.boot)
                    asked = True
                wanted -= max(many, 0) * each
        self.warming = self.warming and asked and self._may_grow()

    def _room_on(self, node: _Node, shape: Hashable) -> int:
        """Slots that a node could hold besides those at work."""
        trial = _Node(node.kind, 0.0, 0.0)
        if node.there:
            trial.free, trial.devices = dict(node.free), list(node.devices)
            for worker in node.resting:
                trial.give(_wanted(worker.shape), worker.device)
        wanted, n = _wanted(shape), 0
        while trial.holds(wanted):
            trial.take(wanted)
            n += 1
        return n


def _wanted(shape: Hashable) -> dict[str, float]:
    """What a slot holds, in Ray's names."""
    return ray_resources(dict(cast("Shape", shape)))


def _units_on(kind: NodeKind, shape: Hashable) -> int:
    """Slots that fit on an empty node of a kind."""
    node, wanted, n = _Node(kind, 0.0, 0.0), _wanted(shape), 0
    while wanted and node.holds(wanted):
        node.take(wanted)
        n += 1
    return n


def _slots(kinds: Sequence[NodeKind], shape: Hashable) -> int:
    """Slots that fit on all nodes that there may be."""
    return sum(kind.most * _units_on(kind, shape) for kind in kinds)
