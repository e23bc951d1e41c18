"""Why a worker died, from what Ray says."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError

from orchestrator.deaths import death

KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 4\nThe actor is dead because its worker process "
    "has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error "
    "code 2. End of file. There are some potential root causes. (1) The process is killed by SIGKILL by OOM killer due "
    "to high memory usage. (2) ray stop --force is called. (3) The worker is crashed unexpectedly due to SIGSEGV or "
    "other unexpected errors."
)


class Said(ActorDiedError):
    def __init__(self, text: str, preempted: bool = False) -> None:
        super().__init__()
        self.error_msg = text
        self._preempted = preempted

    @property
    def preempted(self) -> bool:
        return self._preempted


@pytest.mark.parametrize(
    ("error", "node", "kind"),
    [
        (Said(KILLED), "n", "process"),
        (Said(KILLED), "gone", "node"),
        (Said("Worker exit detail: Worker exits with an exit code 3."), "n", "process"),
        (Said("The actor died because its node has died. Node Id: ff"), "n", "node"),
        (Said(KILLED, preempted=True), "n", "node"),
        (NodeDiedError("the node is unreachable"), "n", "node"),
        (ActorUnavailableError("The actor is temporarily unavailable: RpcError: Socket closed", None), "n", "node"),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "n", "memory"),
        (None, None, "process"),
        (Said("The actor died of an error raised in its creation task, …\nNo module named 'x'"), "n", "start"),
        (None, "gone", "node"),
    ],
)
def test_kind(error: BaseException | None, node: str | None, kind: str) -> None:
    assert death(error, node, {"n"}).kind == kind


def test_the_words_tell_what_ray_knows_and_no_more() -> None:
    """Ray lists what might have happened; of that nothing is said as if it had."""
    assert death(Said(KILLED), "n", {"n"}).words == "its process was killed or crashed"
    said = Said("Worker exits with an exit code 3. The worker may have ended by itself.")
    said = Said("The actor died because of an error raised in its creation task, …\n\nNo module named 'x'\n")
    assert death(said, "n", {"n"}).words == "its worker could not start: No module named 'x'"
    said = Said("Worker exits with an exit code 3. The worker may have ended by itself.")
    assert "exit code 3" in death(said, "n", {"n"}).words
