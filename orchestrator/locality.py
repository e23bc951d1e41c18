"""Where artifacts lie: which nodes have a copy in their cache, as far as workers have told. No I/O, no Ray, no clock.

Nothing rests on it: a task that runs where its inputs do not lie fetches them. And no task waits because of it: it only
says which of several that are equally urgent to begin, and on which of the workers that have nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any


class Locality:
    """Artifacts and tasks by key, nodes by name.

    Args:
        inputs: of a task all artifacts that it may read.
        idle: of each worker that has nothing to do the node.
    """

    def __init__(self, inputs: Callable[[str], Collection[str]], idle: Callable[[], Sequence[str]]) -> None:
        self._inputs = inputs
        self._idle = idle
        self._nodes: dict[str, set[str]] = {}
        self._bytes: dict[str, int] = {}
        self._promised: dict[str, str] = {}  # to a bundle that has not begun, the node of an idle worker

    def hear(self, node: str, news: Mapping[str, Any], wanted: Callable[[str], bool]) -> None:
        """Take in what a worker tells of the cache of its node (see `cache.news`), as far as it is wanted."""
        for key, size in news.get("here", {}).items():
            if wanted(key):
                self._nodes.setdefault(key, set()).add(node)
                self._bytes[key] = size
        for key in news.get("gone", ()):
            self._nodes.get(key, set()).discard(node)

    def near(self, artifacts: Iterable[str]) -> dict[str, int]:
        """Bytes of these artifacts that each node has."""
        found: dict[str, int] = {}
        for key in artifacts:
            for node in self._nodes.get(key, ()):
                found[node] = found.get(node, 0) + self._bytes[key]
        return found

    def share(self, nodes: Collection[str], task: str) -> float:
        """How much of a task's inputs lies on that of the nodes which has most of them, from 0 to 1.

        What lies on no node, and of which the size is not known, does not count.
        """
        inputs = self._inputs(task)
        total = sum(self._bytes.get(key, 0) for key in inputs)
        near = self.near(inputs)
        return max((near.get(node, 0) for node in nodes), default=0) / total if total else 0.0

    # Which task

    def preference(self) -> Callable[[str], float] | None:
        """How much a task is to be preferred (see `Graph.take`); None while no worker is idle."""
        nodes = self._free()
        return partial(self.share, nodes) if nodes else None

    def promise(self, bundle: str, tasks: Iterable[str]) -> None:
        """The tasks are on their way: the worker nearest to their inputs is as good as taken."""
        if nodes := self._free():
            near = self._near_tasks(tasks)
            best = max(sorted(nodes), key=lambda node: near.get(node, 0))
            if near.get(best, 0):
                self._promised[bundle] = best

    def begun(self, bundle: str) -> None:
        """The bundle has a worker, or needs none any more."""
        self._promised.pop(bundle, None)

    # Which worker

    def nearest(self, bundle: str, tasks: Sequence[str], nodes: Sequence[str | None]) -> int:
        """Which of the idle workers, whose nodes are given, is to have the tasks: that with most of their inputs near.

        Among equals, one that nobody else was promised, then the first.
        """
        self.begun(bundle)
        if len(nodes) < 2:
            return 0
        near, taken = self._near_tasks(tasks), Counter(self._promised.values())
        return max(range(len(nodes)), key=lambda i: (near.get(nodes[i] or "", 0), -taken[nodes[i] or ""], -i))

    def _free(self) -> set[str]:
        """Nodes with an idle worker that nothing is promised to."""
        return set(Counter(self._idle()) - Counter(self._promised.values()))

    def _near_tasks(self, tasks: Iterable[str]) -> dict[str, int]:
        return self.near({key for task in tasks for key in self._inputs(task)})
