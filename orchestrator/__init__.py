"""A distributed job orchestrator on Ray for multi-seed robustness studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .sweep import PairRule, Sweep, crossed, same_seed, same_setting, vary

if TYPE_CHECKING:
    from .notebook import OpenStudy

__all__ = ["PairRule", "Sweep", "crossed", "same_seed", "same_setting", "vary"]  # a star must not replace Python's open


def open(store: str, sweep: str | Sequence[str] | None = None, run: str | None = None) -> OpenStudy:
    """A study as a run left it, to be read in Python: `study = orchestrator.open("s3://bucket/prefix", "sam_rho")`.

    Args:
        store: a folder or a URI, as --store takes it.
        sweep: name or file of the sweep; None if the store holds one only. Of a list all are taken together, as
            `report` does; those of another store are named "STORE#SWEEP".
        run: a run by name, or as much of its beginning as no other shares; None for the newest that ended. Of one that
            is still going on, or was killed, there is what the store has.

    Raises:
        UserError: there is no such store, sweep or run; the sentence names the nearest.
    """
    from .notebook import open_study

    return open_study(store, sweep, run)
