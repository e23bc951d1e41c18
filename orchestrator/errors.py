"""Errors of the orchestrator; all are `UserError`s, shown as one sentence (exit code 2)."""

from __future__ import annotations

from tasks.errors import DataError, InvalidValue, UserError, nearest

__all__ = [
    "ClusterError",
    "DamagedArtifact",
    "DataError",
    "InvalidValue",
    "NoPlainFile",
    "StoreError",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "SweepError",
    "UserError",
    "nearest",
]


class SweepError(UserError):
    """The sweep file, or an override of it, does not say what it should."""


class StoreError(UserError):
    """The store cannot be read or written, or does not hold what was asked for."""


class StoreUnavailable(StoreError):
    """The store did not answer for as long as one was willing to wait."""


class StoreRefused(StoreError):
    """The store does not let this machine in (no credentials or rights, or wrong ones), or its settings are no good."""


class StoreFull(StoreError):
    """There is no space left where the store, or a task's folder, is."""


class NoPlainFile(StoreError):
    """Where a file should be in a store there is a link, which may lead anywhere, a pipe, or a folder."""


class DamagedArtifact(StoreError):
    """A committed artifact is not what was committed, or is gone.

    Attributes:
        task_name, key: which one.
        reason: what is wrong, in words.
    """

    def __init__(self, message: str, task_name: str = "", key: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.task_name = task_name
        self.key = key
        self.reason = reason


class ClusterError(UserError):
    """The cluster cannot be reached or cannot run what was asked for."""
