"""What Ray Tune does that a sweep cannot bear, undone while one runs. Private parts of it are touched only here."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def tamed_tune() -> Iterator[None]:
    """Tune as it is to be here."""
    with _quiet(), _without_secrets(), _bearing_losses():
        yield


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
