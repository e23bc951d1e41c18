"""Was a comparison declared before its trainings were run? Artifacts name their run, and runs what they declared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..records import COMMITTED, declared_of

if TYPE_CHECKING:
    from ..study import Study

__all__ = ["undeclared_trainings"]

Claim = tuple[str, str, float | None, frozenset[tuple[str, str]]]
"""Primary metric, direction, margin, and the contrasts by the settings' labels."""


def undeclared_trainings(study: Study) -> tuple[int, int]:
    """How many of the trainings behind the verdicts come from runs that did not declare them, and of how many.

    A run whose record is gone is given the benefit of the doubt. A declaration is the same if metric, direction and
    margin are, and if they have a contrast in common: more settings may be added later.
    """
    declared = study.declared
    labels = [s.label for s in study.settings]
    own = _claim(declared, labels)
    concerned = {i for pair in declared.contrasts for i in pair}
    known: dict[tuple[str, str], Claim | None] = {}
    late = all_of_them = 0
    for column in study.columns_of("train"):
        for task in study.of_column(column.name):
            if task.trials[0][0] not in concerned or task.state not in COMMITTED:
                continue
            all_of_them += 1
            store, run = study.store_of(task.key), study.manifest(task.key).get("run")
            if not isinstance(run, str):
                continue
            place = (str(store), run)
            if place not in known:
                known[place] = _claim_of(store, run)
            claim = known[place]
            late += claim is not None and (claim[:3] != own[:3] or not claim[3] & own[3])
    return late, all_of_them


def _claim(declared: Any, labels: list[str]) -> Claim:
    pairs = frozenset((labels[a], labels[b]) for a, b in declared.contrasts)
    return declared.primary, declared.mode, declared.margin, pairs


def _claim_of(store: Any, run: str) -> Claim | None:
    """What a run declared; None if it left no record that can be read."""
    from ..study import BEGUN, FILE

    for name in (FILE, BEGUN):
        try:
            data = store.read(f"{run}/{name}")
            if data is not None:
                record = json.loads(data)
                return _claim(declared_of(record), [str(s["label"]) for s in record["settings"]])
        except (StoreError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return None
