"""The run as a pure state machine: events in, decisions out. No I/O, no Ray, no clock.

Tasks are names here (keys). `add` makes them known, `take` decides what runs next, and the events
`committed`, `found`, `failed`, `lost`, `stopped`, `elsewhere`, `withdrawn` say what became of it. What is
ready is ordered by the longest remaining path (critical path first; Graham 1966, Kohler 1975), then by
the order of declaration.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

DRIVER_SECONDS = 0.025
"""What a bundle costs the driver, which hands out one after the other (measured: 18 to 32 ms)."""

LOOK = 32
"""At how many ready tasks of equal rank `Graph.take` looks for the one that is preferred."""


class State(Enum):
    """Where a task stands."""

    WAITING = "waiting"  # for its inputs
    READY = "ready"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"  # another run on the same store is at work on it
    STORED = "stored"  # was committed before this run, or by another
    DONE = "done"  # committed by this run
    FAILED = "failed"
    SKIPPED = "skipped"  # an input failed, diverged or was stopped; or the task was stopped itself

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = {State.STORED, State.DONE, State.FAILED, State.SKIPPED}
_TO_COME = {State.WAITING, State.READY, State.ELSEWHERE}


@dataclass
class Vertex:
    """What the graph knows of one task.

    Attributes:
        kind: tasks of one kind are expected to take equally long.
        shape: the slot it needs; only tasks of one shape share a bundle.
        alone: never bundled with others.
        losses: how often its worker died while it was at work; `moves`: how often it was taken from its
            worker through no fault of its own; `withdrawals`: how often its artifact was found damaged.
        because: for a skipped task, the key of the task that is the reason.
        blocked: how many tasks were skipped because of this one.
    """

    key: str
    inputs: tuple[str, ...]
    kind: str
    shape: Hashable
    alone: bool
    order: int
    state: State = State.WAITING
    missing: int = 0
    dependents: list[str] = field(default_factory=list)
    rank: float = 0.0
    barren: bool = False  # diverged or stopped: nothing can be made from it
    losses: int = 0
    moves: int = 0
    withdrawals: int = 0
    because: str | None = None
    blocked: int = 0


class Graph:
    """Tasks with their dependencies and states.

    Args:
        bundle_seconds: cheap tasks are bundled until they are expected to take this long, or longer where
            there are so many slots that the driver could else not keep all of them busy.
        max_losses: how often a task may be lost with its worker, or its artifact be found damaged,
            before it counts as failed.
        max_moves: how often it may be lost with its machine. Machines are taken away for their own
            reasons, but one that dies of the task each time must not go on for ever.
    """

    def __init__(self, *, bundle_seconds: float = 1.0, max_losses: int = 3, max_moves: int = 30) -> None:
        self.vertices: dict[str, Vertex] = {}
        self.counts: Counter[State] = Counter()
        self.by_kind: dict[str, Counter[State]] = {}
        self._bundle_seconds = bundle_seconds
        self._max_losses = max_losses
        self._max_moves = max_moves
        self._seconds: dict[str, float] = {}  # expected duration by kind, learned
        self._ranked_with: dict[str, float] = {}  # the durations in the present ranks
        self._learned = 0  # durations learned so far
        self._rank_again = 0  # how many have to be learned before ranks are computed anew
        self._ready: dict[Hashable, list[tuple[float, int, str]]] = {}
        self._ready_count: Counter[Hashable] = Counter()
        self._to_come: Counter[Hashable] = Counter()  # tasks of a shape that wait or are ready

    # What is known

    def add(
        self,
        key: str,
        inputs: Sequence[str] = (),
        *,
        kind: str,
        shape: Hashable = None,
        alone: bool = False,
        stored: bool = False,
        barren: bool = False,
        stopped: bool = False,
    ) -> None:
        """Make a task known; its inputs must be known already. A key that is known stays as it is.

        Args:
            stored: it is committed already.
            barren: it is committed and diverged: its dependents are skipped.
            stopped: a scheduler ended it early in an earlier run: it is skipped.

        Raises:
            KeyError: an input is unknown.
        """
        if key in self.vertices:
            return
        for name in inputs:
            if name not in self.vertices:
                raise KeyError(f"input {name} of {key} is not in the graph")
        unique = tuple(dict.fromkeys(inputs))
        vertex = Vertex(key, unique, kind, shape, alone, len(self.vertices))
        self.vertices[key] = vertex
        for name in unique:
            self.vertices[name].dependents.append(key)
        self.counts[State.WAITING] += 1
        self.by_kind.setdefault(kind, Counter())[State.WAITING] += 1
        self._to_come[shape] += 1
        if stored:
            vertex.barren = barren
            self._set(vertex, State.STORED)
            return
        if stopped:
            self._skip(vertex, key)
            return
        bad = [n for n in unique if self._blocks(self.vertices[n])]
        if bad:
            self._skip(vertex, self.vertices[bad[0]].because or bad[0])
            return
        self._raise_rank(vertex, self._expected(kind))
        self._wait(vertex)

    def expect(self, kind: str, seconds: float) -> None:
        """State how long tasks of a kind are expected to take (from earlier runs)."""
        self._seconds.setdefault(kind, max(seconds, 1e-4))

    def expected(self, key: str) -> float | None:
        """Expected seconds of a task; None if none of its kind has ended yet."""
        return self._seconds.get(self.vertices[key].kind)

    def expectations(self) -> dict[str, float]:
        """Expected seconds of a task by kind, as far as they are known."""
        return dict(self._seconds)

    def census(self) -> dict[str, dict[str, int]]:
        """By kind how many tasks there are, how many of them are stored, and how many are skipped."""
        return {
            kind: {"tasks": sum(n.values()), "stored": n[State.STORED], "skipped": n[State.SKIPPED]}
            for kind, n in self.by_kind.items()
        }

    def state(self, key: str) -> State:
        return self.vertices[key].state

    def in_state(self, state: State) -> list[str]:
        """The tasks in a state (a look at all of them, unless there are none)."""
        return [k for k, v in self.vertices.items() if v.state is state] if self.counts[state] else []

    def ready(self, shape: Hashable = None) -> int:
        """How many tasks are ready for a slot of this shape."""
        return self._ready_count[shape]

    @property
    def finished(self) -> bool:
        """Whether every known task has reached a final state."""
        return not any(self.counts[s] for s in State if not s.final)

    def to_come(self, shape: Hashable) -> int:
        """How many tasks of a shape have yet to begin."""
        return self._to_come[shape]

    def work_to_come(self, shape: Hashable) -> float:
        """Expected seconds of work of a shape that has yet to begin, if all is like the most urgent; inf if unknown."""
        top = self._top(shape)
        seconds = None if top is None else self.expected(top[2])
        return float("inf") if seconds is None else seconds * self._to_come[shape]

    # Decisions

    def shapes(self) -> list[Hashable]:
        """Slot shapes for which something is ready, that with the most urgent task first."""
        self._rerank()
        tops = []
        for shape in self._ready:
            top = self._top(shape)
            if top is not None:
                tops.append((top, shape))
        return [shape for _, shape in sorted(tops, key=lambda item: item[0])]

    def take(
        self, shape: Hashable = None, *, slots: int = 1, prefer: Callable[[str], float] | None = None
    ) -> list[str]:
        """The next bundle for a slot of this shape, now running; empty if nothing is ready.

        A bundle holds tasks that are all ready. It is filled until it is expected to take
        `bundle_seconds` (or twice what the driver needs for a bundle for every slot), but never holds more
        than a fair share of what is ready for `slots` slots (or, of very many, as many tasks as make the
        time for handing out all that is ready and that for a bundle equal). A kind never seen runs alone,
        so that its duration becomes known.

        Args:
            prefer: of tasks with equal rank one with a larger value is taken first; at most 1.
        """
        self._rerank()
        if self._top(shape) is None:
            return []
        share = -(-self._ready_count[shape] // max(slots, 1))
        enough = max(self._bundle_seconds, 2 * DRIVER_SECONDS * slots)
        if enough > self._bundle_seconds:  # handing out so many bundles takes time too
            first = self.vertices[self._ready[shape][0][2]]
            share = max(share, round((self._ready_count[shape] * DRIVER_SECONDS / self._expected(first.kind)) ** 0.5))
        bundle: list[str] = []
        seconds = 0.0
        while len(bundle) < share and (top := self._preferred(shape, prefer)) is not None:
            vertex = self.vertices[top[2]]
            known = self._seconds.get(vertex.kind)
            solitary = vertex.alone or vertex.losses > 0 or known is None
            if bundle and (solitary or seconds + (known or 0.0) > enough):
                break
            self._set(vertex, State.RUNNING)  # which puts its entry in the heap out of date
            bundle.append(vertex.key)
            seconds += known or 0.0
            if solitary:
                break
        return bundle

    # Events

    def committed(self, key: str, seconds: float, *, barren: bool = False) -> None:
        """The task's artifact is in the store; it took this long. `barren`: it diverged."""
        vertex = self._running(key)
        vertex.barren = barren
        self._learn(vertex.kind, seconds)
        self._become_available(vertex, State.DONE)

    def found(self, key: str, *, barren: bool = False) -> None:
        """The artifact of a running task, or of one that is elsewhere, is in the store: another run made it."""
        vertex = self._in(key, State.RUNNING, State.ELSEWHERE)
        vertex.barren = barren
        self._become_available(vertex, State.STORED)

    def elsewhere(self, key: str) -> None:
        """Another run is at work on the task that was taken: this one leaves it to that, until `released`."""
        self._set(self._running(key), State.ELSEWHERE)

    def released(self, key: str) -> None:
        """The other run has let go of the task without committing it."""
        self._again(self._in(key, State.ELSEWHERE))

    def failed(self, key: str) -> None:
        """The task ended in an error; what depends on it is skipped."""
        vertex = self._running(key)
        self._set(vertex, State.FAILED)
        self._skip_dependents(vertex, key)

    def stopped(self, key: str) -> None:
        """A scheduler ended the task early; it and what depends on it are skipped."""
        vertex = self._running(key)
        vertex.barren = True
        vertex.because = key
        self._set(vertex, State.SKIPPED)
        self._skip_dependents(vertex, key)

    def lost(self, key: str, *, blame: bool = True) -> bool:
        """The worker died with the task; it is ready again, alone, unless it was lost too often.

        Args:
            blame: count the loss against the task (not if another task was running there, or the
                machine was taken away).

        Returns:
            Whether the task will run again.
        """
        vertex = self._running(key)
        vertex.losses += blame
        vertex.moves += not blame
        if vertex.losses >= self._max_losses or vertex.moves >= self._max_moves:
            self.failed(key)
            return False
        self._again(vertex)
        return True

    def too_small(self, key: str, shape: Hashable) -> None:
        """The running task needs more than its slot; it is ready again, for a slot of this shape."""
        vertex = self._running(key)
        vertex.shape = shape
        vertex.alone = True
        self._again(vertex)

    def returned(self, key: str) -> None:
        """The running task was not carried out, through no fault of its own: it waits for its inputs again."""
        self._again(self._running(key))

    def withdrawn(self, key: str) -> bool:
        """The artifact of a task turned out to be damaged or gone: it is made again, unless that happens too often.

        What is running with it goes on; what waits for it waits again.

        Returns:
            Whether it will be made again.
        """
        vertex = self.vertices[key]
        if vertex.state not in (State.STORED, State.DONE):
            return vertex.state not in (State.FAILED, State.SKIPPED)  # known already
        vertex.withdrawals += 1
        vertex.barren = False
        if vertex.withdrawals >= self._max_losses:
            self._set(vertex, State.FAILED)
            self._skip_dependents(vertex, key)
            return False
        self._set(vertex, State.WAITING)
        after = (self.vertices[n] for n in vertex.dependents)
        vertex.rank = 0.0
        rank = max((d.rank for d in after if not d.state.final), default=0.0)
        self._raise_rank(vertex, self._expected(vertex.kind) + rank)
        for name in vertex.dependents:
            dependent = self.vertices[name]
            if dependent.state in (State.WAITING, State.READY):
                self._again(dependent)
        self._again(vertex)
        return self.state(key) is not State.SKIPPED

    # Inside

    def _running(self, key: str) -> Vertex:
        return self._in(key, State.RUNNING)

    def _in(self, key: str, *states: State) -> Vertex:
        vertex = self.vertices[key]
        if vertex.state not in states:
            raise ValueError(f"{key} is {vertex.state.value}, not {' or '.join(s.value for s in states)}")
        return vertex

    def _again(self, vertex: Vertex) -> None:
        """A task goes back to where it was before it was taken; its inputs may have changed meanwhile."""
        bad = next((v for n in vertex.inputs if self._blocks(v := self.vertices[n])), None)
        if bad is not None:
            self._skip(vertex, bad.because or bad.key)
            self._skip_dependents(vertex, bad.because or bad.key)
            return
        self._set(vertex, State.WAITING)
        self._wait(vertex)

    def _wait(self, vertex: Vertex) -> None:
        """A waiting task is ready at once if all its inputs are there."""
        vertex.missing = sum(not self._available(self.vertices[n]) for n in vertex.inputs)
        if not vertex.missing:
            self._make_ready(vertex)

    def _become_available(self, vertex: Vertex, state: State) -> None:
        self._set(vertex, state)
        if vertex.barren:
            self._skip_dependents(vertex, vertex.key)
            return
        for name in vertex.dependents:
            dependent = self.vertices[name]
            if dependent.state is State.WAITING:
                dependent.missing -= 1
                if not dependent.missing:
                    self._make_ready(dependent)

    def _available(self, vertex: Vertex) -> bool:
        return vertex.state in (State.STORED, State.DONE) and not vertex.barren

    def _blocks(self, vertex: Vertex) -> bool:
        return vertex.barren or vertex.state in (State.FAILED, State.SKIPPED)

    def _set(self, vertex: Vertex, state: State) -> None:
        before = vertex.state
        self.counts[before] -= 1
        self.counts[state] += 1
        of_kind = self.by_kind[vertex.kind]
        of_kind[before] -= 1
        of_kind[state] += 1
        self._ready_count[vertex.shape] += (state is State.READY) - (before is State.READY)
        self._to_come[vertex.shape] += (state in _TO_COME) - (before in _TO_COME)
        vertex.state = state

    def _make_ready(self, vertex: Vertex) -> None:
        self._set(vertex, State.READY)
        self._push(vertex)

    def _push(self, vertex: Vertex) -> None:
        heapq.heappush(self._ready.setdefault(vertex.shape, []), (-vertex.rank, vertex.order, vertex.key))

    def _top(self, shape: Hashable) -> tuple[float, int, str] | None:
        """The most urgent ready task of a shape; entries that are out of date are dropped."""
        heap = self._ready.get(shape, [])
        while heap:
            vertex = self.vertices[heap[0][2]]
            if vertex.state is State.READY and vertex.shape == shape and heap[0][0] == -vertex.rank:
                return heap[0]
            heapq.heappop(heap)
        return None

    def _preferred(self, shape: Hashable, prefer: Callable[[str], float] | None) -> tuple[float, int, str] | None:
        """The most urgent ready task of a shape; of the first few with equal rank the one that is preferred.

        In a heap the entries of the least value hang together at the root, so that these are found without taking it
        apart. One that is chosen from below stays where it is, out of date, until it comes up: each entry is dropped
        once, as ever.
        """
        best = self._top(shape)
        if prefer is None or best is None:
            return best
        heap, rank, value = self._ready[shape], best[0], prefer(best[2])
        todo = deque([1, 2])
        for _ in range(LOOK):
            if value >= 1 or not todo:
                break
            i = todo.popleft()
            if i >= len(heap) or heap[i][0] != rank:
                continue
            todo += (2 * i + 1, 2 * i + 2)
            vertex = self.vertices[heap[i][2]]
            if vertex.state is not State.READY or vertex.shape != shape or vertex.rank != -rank:
                continue
            liked = prefer(vertex.key)
            if liked > value or (liked == value and heap[i] < best):
                best, value = heap[i], liked
        return best

    def _skip_dependents(self, vertex: Vertex, because: str) -> None:
        todo = list(vertex.dependents)
        while todo:
            dependent = self.vertices[todo.pop()]
            if dependent.state in (State.WAITING, State.READY, State.ELSEWHERE):
                self._skip(dependent, because)
                todo += dependent.dependents

    def _skip(self, vertex: Vertex, because: str) -> None:
        vertex.because = because
        self.vertices[because].blocked += because != vertex.key
        self._set(vertex, State.SKIPPED)

    def _expected(self, kind: str) -> float:
        return self._seconds.get(kind, 1.0)

    def _learn(self, kind: str, seconds: float) -> None:
        seconds = max(seconds, 1e-4)
        self._learned += 1
        known = self._seconds.get(kind)
        self._seconds[kind] = seconds if known is None else 0.7 * known + 0.3 * seconds

    def _raise_rank(self, vertex: Vertex, rank: float) -> None:
        """Set a longest remaining path and hand it on to the inputs."""
        todo = [(vertex, rank)]
        while todo:
            current, value = todo.pop()
            if value <= current.rank or current.state.final:
                continue
            current.rank = value
            if current.state is State.READY:
                self._push(current)
            todo += [(v := self.vertices[n], value + self._expected(v.kind)) for n in current.inputs]

    def _rerank(self) -> None:
        """Compute all ranks anew where a kind's duration has changed by more than a factor of two.

        That is a pass over everything. After that for a kind's first duration, the next is due when
        half as many more are known: the passes of a run then grow with the logarithm of its tasks.
        """
        changed = [k for k, s in self._seconds.items() if not 0.5 <= s / self._ranked_with.get(k, 1.0) <= 2.0]
        if not changed or (self._learned < self._rank_again and all(k in self._ranked_with for k in changed)):
            return
        self._ranked_with = dict(self._seconds)
        self._rank_again = self._learned + self._learned // 2
        for key in reversed(self.vertices):  # inputs are added before their dependents
            vertex = self.vertices[key]
            if vertex.state.final:
                continue
            after = (self.vertices[n] for n in vertex.dependents)
            vertex.rank = self._expected(vertex.kind) + max((d.rank for d in after if not d.state.final), default=0.0)
        for heap in self._ready.values():
            heap.clear()
        for vertex in self.vertices.values():
            if vertex.state is State.READY:
                self._push(vertex)


def summary(counts: Mapping[State, int]) -> str:
    """`N tasks: A ran, B stored, C failed, D skipped`: the last line of a run."""
    n = Counter(counts)
    return (
        f"{sum(n.values())} tasks: {n[State.DONE]} ran, {n[State.STORED]} stored, "
        f"{n[State.FAILED]} failed, {n[State.SKIPPED]} skipped"
    )
