"""Why a worker died, as far as Ray can tell."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True)
class Death:
    """The end of a worker that did not end by itself.

    Attributes:
        kind: "process" (killed, crashed or exited: the task at work may be to blame), "start" (it never began to
            work), "memory" (Ray's memory monitor killed it), or "node" (its machine is gone or was taken away: nobody
            is to blame).
        words: for people, in one line.
    """

    kind: str
    words: str


def death(error: BaseException | None, node: str | None, alive: Container[str]) -> Death:
    """What Ray's exception says.

    Args:
        node: identifier of the node on which the worker was, as far as known.
        alive: identifiers of the nodes that are alive.
    """
    from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError

    text = str(error or "")
    if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
        return Death("memory", "killed by Ray because its machine ran out of memory")
    if getattr(error, "preempted", False):
        return Death("node", "its machine was taken away")
    if isinstance(error, ActorUnavailableError):
        # The node does not say what became of its worker, which it does at once where it is well itself. That it
        # is gone is noticed after 13 s only, so it still counts as alive here.
        return Death("node", "its machine does not answer")
    if isinstance(error, NodeDiedError) or _NODE.search(text) or (node is not None and node not in alive):
        return Death("node", "its machine is gone")
    if getattr(error, "actor_init_failed", False) or _START.search(text):
        last = ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]
        return Death("start", f"its worker could not start: {last}")
    return Death("process", _reason(text))


_NODE = re.compile(r"node (has died|was terminated|was drained|is dead)", re.IGNORECASE)

_START = re.compile(r"raised in its creation task|set up runtime environment")


def _reason(text: str) -> str:
    """The telling part of Ray's account of a dead process; what it only lists as possible is not told."""
    code = re.search(r"exit code[: ]+(-?\d+)", text)
    return f"its process ended with exit code {code[1]}" if code else "its process was killed or crashed"
