"""What Ray Tune does that a sweep cannot bear, undone while one runs. Private parts of it are touched only here."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partialmethod
from typing import Any


@contextlib.contextmanager
def tamed_tune(idle: IdleWorkers | None = None) -> Iterator[None]:
    """Tune as it is to be here.

    Args:
        idle: knows Tune's idle workers from now on, and chooses among them.
    """
    with _quiet(), _without_secrets(), _bearing_losses(), _restless(), _choosing(idle or IdleWorkers()):
        yield


class IdleWorkers:
    """The workers that Tune keeps idle, and the nodes they are on, as their last report said.

    Attributes:
        choose: told a bundle and the nodes of the idle workers that fit it, answers which of these is to have it.
    """

    def __init__(self) -> None:
        self.choose: Callable[[Any, Sequence[str | None]], int] = lambda bundle, nodes: 0
        self._cache: Any = None

    def nodes(self) -> list[str]:
        """Of each idle worker the node; empty where Tune does not tell, since that is private to it."""
        cached = getattr(self._cache, "_cached_objects", {})
        return [node for actors in cached.values() for actor in actors if (node := getattr(actor, NODE, None))]

    def note(self, controller: Any, trial: Any) -> None:
        """The worker of a trial is about to be idle."""
        self._cache = controller._actor_cache
        setattr(controller._trial_to_actor[trial], NODE, (trial.last_result or {}).get("node"))

    def put_first(self, controller: Any, trial: Any) -> None:
        """Tune takes the first idle worker that fits."""
        actors = controller._actor_cache._cached_objects.get(trial.placement_group_factory)
        if actors:
            chosen = self.choose(trial.config["bundle"], [getattr(actor, NODE, None) for actor in actors])
            actors.insert(0, actors.pop(chosen))


NODE = "orchestrator_node"
"""Attribute of Tune's record of a worker: the node that it is on."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune's own reports off the screen: the live view tells what happens."""
    names = ("ray", "ray.tune", "ray.tune.analysis.experiment_analysis", "ray.train", "ray.data")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """Keep Tune from handing this process's AWS credentials to the workers.

    It does so by a runtime environment, which Ray writes to its logs and shows on its dashboard. And they would
    take the place of those that a machine has of its own.
    """
    from ray.tune.execution import class_cache

    names: set[str] = getattr(class_cache, "ENV_VARS_TO_PROPAGATE", set())
    secrets = {name for name in names if name.startswith("AWS_")}
    names -= secrets
    try:
        yield
    finally:
        names |= secrets


@contextlib.contextmanager
def _bearing_losses() -> Iterator[None]:
    """Let a worker that Ray ends for want of memory be a lost worker: to Tune that is the end of the run.

    What it does not expect is any error that is neither the task's nor the actor's; the memory monitor's is one.
    """
    from ray.air.execution._internal import actor_manager
    from ray.exceptions import RayActorError, RayError, RayTaskError

    manager: Any = actor_manager.RayActorManager
    original = getattr(manager, "_actor_task_failed", None)
    if original is None:
        yield
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=str(exception))
        original(self, tracked_actor_task, exception)

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = original


@contextlib.contextmanager
def _choosing(idle: IdleWorkers) -> Iterator[None]:
    """Let a trial have the idle worker that suits it best, not the one that has been idle longest."""
    from ray.tune.execution import tune_controller

    controller: Any = tune_controller.TuneController
    cache, reuse = (getattr(controller, n, None) for n in ("_maybe_cache_trial_actor", "_maybe_reuse_cached_actor"))
    if cache is None or reuse is None:
        yield
        return

    def noting(self: Any, trial: Any) -> Any:
        with contextlib.suppress(AttributeError, KeyError):  # private to Tune, so it may go away
            idle.note(self, trial)
        return cache(self, trial)

    def choosing(self: Any, trial: Any) -> Any:
        with contextlib.suppress(AttributeError, KeyError):
            idle.put_first(self, trial)
        return reuse(self, trial)

    controller._maybe_cache_trial_actor, controller._maybe_reuse_cached_actor = noting, choosing
    try:
        yield
    finally:
        controller._maybe_cache_trial_actor, controller._maybe_reuse_cached_actor = cache, reuse


@contextlib.contextmanager
def _restless() -> Iterator[None]:
    """Let Tune go on while nothing runs and nothing is ready, so that it ends the workers that `Shield` lets go.

    It would do nothing but ask for a trial, for ten minutes at a time.
    """
    from ray.tune.execution import tune_controller

    controller: Any = tune_controller.TuneController
    original = getattr(controller, "_update_trial_queue", None)
    if original is None:
        yield
        return
    controller._update_trial_queue = partialmethod(original, timeout=1)
    try:
        yield
    finally:
        controller._update_trial_queue = original
