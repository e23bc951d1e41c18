"""Errors of the orchestrator; all are `UserError`s, shown as one sentence (exit code 2)."""

from __future__ import annotations

from tasks.errors import DataError, InvalidValue, UserError, nearest

__all__ = ["ClusterError", "DataError", "InvalidValue", "StoreError", "SweepError", "UserError", "nearest"]


class SweepError(UserError):
    """The sweep file, or an override of it, does not say what it should."""


class StoreError(UserError):
    """The store cannot be read or written, or does not hold what was asked for."""


class ClusterError(UserError):
    """The cluster cannot be reached or cannot run what was asked for."""
