"""Which idle workers Tune keeps, and where workers are.

Tune ends an idle worker when no trial waits for its slot at that moment. A worker process takes seconds to start, so
it is kept, as long as nothing else needs its place: that is for `Room` to say. Tune's idle workers are private to it;
where they cannot be had, more workers are started than need be.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .graph import Graph, State
from .room import Room
from .slots import Shape, shape_of

NOBODY = "nobody"
"""A slot that no task wants."""

PATIENCE = 120.0
"""Seconds after which a task whose place was thought to be free is waiting for somebody else; a start takes less."""


class Workers:
    """Told what becomes of Tune's trials; has Tune keep the workers whose places are idle in the room.

    Args:
        graph: says whether work is waiting.
        on_place: told of a trial that is given an idle worker, on which node and GPUs that is, and its name.
    """

    def __init__(
        self,
        graph: Graph,
        room: Room,
        on_place: Callable[[str, str, Sequence[int] | None, str], None] = lambda trial_id, node, devices, name: None,
    ) -> None:
        self._graph = graph
        self._room = room
        self._on_place = on_place
        self._requests: dict[Shape, Any] = {}  # what Tune asks Ray for, by shape
        self._kept: Counter[Any] = Counter()  # idle workers to be kept, by what Tune asks Ray for
        self._where: dict[Any, tuple[str, Sequence[int] | None, str]] = {}  # nodes, GPUs and names of workers
        self._unplaced: dict[str, tuple[Any, float]] = {}  # trials of which is not known where they are; since when

    def wanted(self, trial: Any) -> None:
        """A trial wants a worker."""
        self._requests[shape_of(trial.config["bundle"].slot)] = trial.placement_group_factory
        self._unplaced[trial.trial_id] = trial, time.monotonic()

    def heard(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """A worker has said where it is; that counts for all trials that it will be given."""
        if not result.get("node"):
            return
        self._unplaced.pop(trial.trial_id, None)
        worker = _given(tune_controller).get(trial)
        if worker is not None:
            self._where[worker] = (str(result["node"]), result.get("devices"), str(result.get("worker", "")))

    def rests(self, tune_controller: Any, trial: Any) -> None:
        """A trial is over; its worker is kept until it is looked which are to be."""
        self._unplaced.pop(trial.trial_id, None)
        self._keep(_cache(tune_controller), trial.placement_group_factory, 1)

    def gone(self, trial: Any) -> None:
        """The worker of a trial has died."""
        self._unplaced.pop(trial.trial_id, None)

    def arrange(self, tune_controller: Any) -> None:
        """Have Tune keep those whose place nothing else needs, and let go of the others.

        None is kept while another run is at work on what is left: it may be waiting for their place, if it shares
        this run's cluster, and this run for what it does: for ever. Nor while a task waits for what somebody else
        holds: it may find room where they are, and the other be waiting for that.
        """
        self._drop_warm_ups(tune_controller)
        cache = _cache(tune_controller)
        if cache is None:
            return
        lend = self._graph.counts[State.ELSEWHERE] > 0 and not self._graph.counts[State.READY]
        lend = lend or any(self._is_kept_waiting(*begun) for begun in self._unplaced.values())
        nodes: dict[Any, list[str]] = {r: [] if lend else self._room.idle(s) for s, r in self._requests.items()}
        if not self._kept[NOBODY]:
            self._keep(cache, NOBODY, 1)  # or Tune would keep the last one whatever it is told
        for request in [r for r in self._kept if r is not NOBODY and r not in nodes]:
            self._keep(cache, request, -self._kept.pop(request))  # nobody asks like this any more
        for request, stay in nodes.items():
            self._keep(cache, request, len(stay) - self._kept[request])
            self._order(cache, request, stay)
        given = _given(tune_controller)
        for trial in [t for t, _ in self._unplaced.values() if given.get(t) in self._where]:
            del self._unplaced[trial.trial_id]
            self._on_place(trial.trial_id, *self._where[given[trial]])

    # Inside

    def _is_kept_waiting(self, trial: Any, since: float) -> bool:
        """Whether somebody else, of whom the room knows nothing, holds what the trial was thought to have."""
        late = time.monotonic() - since > PATIENCE
        return late and trial.status == trial.PENDING and self._room.expects(trial.trial_id)

    def _keep(self, cache: Any, request: Any, more: int) -> None:
        """Have Tune keep so many more (or fewer) idle workers."""
        if cache is not None and more:
            self._kept[request] += more
            (cache.increase_max if more > 0 else cache.decrease_max)(request, abs(more))

    def _order(self, cache: Any, request: Any, stay: Sequence[str]) -> None:
        """Put those first that are not to stay on these nodes: Tune lets go of the first."""
        workers = getattr(cache, "_cached_objects", {}).get(request, [])
        if len(workers) > len(stay):
            left, stays = Counter(stay), {}
            for worker in reversed(workers):
                node = self._where.get(worker, ("", None, ""))[0]
                stays[worker] = left[node] > 0
                left[node] -= 1
            workers.sort(key=lambda worker: stays[worker])

    def _drop_warm_ups(self, tune_controller: Any) -> None:
        """What was to start workers on nodes that may be added is of no use once there is work for these."""
        if self._unplaced and self._graph.shapes():
            for trial, _ in list(self._unplaced.values()):
                starting = trial.status == trial.PENDING and not trial.config["bundle"].keys
                if starting and not self._room.expects(trial.trial_id):
                    del self._unplaced[trial.trial_id]
                    tune_controller.stop_trial(trial)


def _cache(tune_controller: Any) -> Any:
    """Tune's idle workers; None where that cannot be had: it is private to Tune, so it may go away."""
    cache = getattr(getattr(tune_controller, "_tune_controller", tune_controller), "_actor_cache", None)
    return cache if hasattr(cache, "decrease_max") else None


def _given(tune_controller: Any) -> Mapping[Any, Any]:
    """The workers of trials; empty where that cannot be had."""
    given: Mapping[Any, Any] = getattr(
        getattr(tune_controller, "_tune_controller", tune_controller), "_trial_to_actor", {}
    )
    return given
