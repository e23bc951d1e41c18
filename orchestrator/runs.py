"""Runs by name, and what they left: also of one that is still going on, or was ended by force."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StoreError, nearest
from .events import read_events
from .records import COMMITTED, Outcome, record_of
from .store import Store
from .study import BEGUN, FILE, Study

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class RunName:
    """A run as one types it.

    Attributes:
        sweep: name or file of the sweep; None if the store holds one only.
        run: its name, or the beginning of it; None for the newest.
        store: the store's URI; None for the one that is usual.
    """

    sweep: str | None
    run: str | None = None
    store: str | None = None


def run_name(text: str) -> RunName:
    """The parts of "sam_rho", "sam_rho/2026-11-22T09", "sweeps/sam_rho.py" or "s3://bucket/prefix#sam_rho"."""
    store, _, rest = text.rpartition("#")
    file = re.fullmatch(r"(.*\.py)(?:/([^/]+))?/?", rest)
    if file:
        sweep, run = file[1], file[2]
    else:
        sweep, _, run = rest.rstrip("/").removeprefix("runs/").partition("/")
    return RunName(sweep or None, run or None, store or None)


def find_run(store: Store, sweep: str | None, run: str | None = None) -> str:
    """Path of a run in the store: the newest of the sweep, unless one is named.

    Args:
        sweep: its name, or its file; None if the store holds runs of one sweep only.
        run: its name, or as much of its beginning as no other shares.
    """
    names = store.names("runs")
    if not names:
        raise StoreError(f"The store {store} holds no runs: name another with --store, or run a sweep first.")
    if sweep is None:
        if len(names) > 1:
            raise StoreError(f"The store {store} holds runs of {', '.join(names)}: name one of them.")
        sweep = names[0]
    name = Path(sweep).stem if sweep.endswith(".py") else sweep
    if name not in names:
        raise StoreError(
            f"The store {store} holds no run of {name!r}{nearest(name, names)}; it has {', '.join(names)}."
        )
    runs = runs_of(store, name)
    if not runs:
        raise StoreError(f"The store {store} holds no run of {name!r}: the last one ended before it began.")
    # A first run that is still going on has not been named the latest.
    chosen = run or store.latest_run(name) or runs[-1]
    if chosen not in runs:
        alike = [r for r in runs if r.startswith(chosen)]
        if len(alike) != 1:
            hint = f" ({len(alike)} begin so)" if alike else nearest(str(chosen), runs)
            raise StoreError(f"There is no run {chosen!r} of {name}{hint}; it has {', '.join(runs)}.")
        chosen = alike[0]
    return f"runs/{name}/{chosen}"


def runs_of(store: Store, sweep: str) -> list[str]:
    """Names of a sweep's runs, the newest last. One that was refused may leave an empty folder on an object store."""
    return [name for name in store.names(f"runs/{sweep}") if name != "latest"]


def note_begun(plan: Plan, store: Store, path: str, started: float, command: str) -> None:
    """Write what `load` reads of the run until study.json is there."""
    states = dict.fromkeys(plan.stored, "stored")
    record = record_of(plan, Outcome(states, started=started, command=command, interrupted=True))
    store.write(f"{path}/{BEGUN}", json.dumps(record).encode(), durable=False)


def load(store: Store, path: str) -> Study:
    """The study that a run left; of one without an end, what it has so far.

    Raises:
        StoreError: the run left no record, or one that cannot be read.
    """
    if store.read(f"{path}/{FILE}") is not None or (data := store.read(f"{path}/{BEGUN}")) is None:
        return Study.load(store, path)
    begun = Study.read(data, store, f"{path}/{BEGUN}")
    there = store.committed({t.name for t in begun.tasks.values()})
    errors = {str(e.get("key")): str(e.get("error")) for e in read_events(store, path) if e["event"] == "failed"}
    for key, task in begun.tasks.items():
        if key in there:
            begun.tasks[key] = task if task.state in COMMITTED else replace(task, state="done")
        else:
            failed = key in errors
            begun.tasks[key] = replace(task, state="failed" if failed else "not run", error=errors.get(key))
    kept = sum(t.state in COMMITTED for t in begun.tasks.values())
    begun.remarks.append(
        f"This run had no end yet when it was read: {kept} of its {len(begun.tasks)} tasks were in the store."
    )
    return begun
