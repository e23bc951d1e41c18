"""What in a store no given sweep file needs, and what must stay because a run that is going on needs it.

Deleting is safe while runs go on: what a live run needs is known from its list of keys (`runs/<sweep>/<run>/keys`),
what a run that has just begun may count on was either committed long before or is made again, and no reader
sees half of an artifact (`Store.delete_artifact`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .confirmation import SUFFIX
from .decisions import Decisions
from .errors import DamagedArtifact, StoreError
from .events import read_events
from .live import FOLDER, live_records, read_record
from .plan import KINDS, make_plan
from .runs import runs_of
from .store import Store
from .store_files import DAMAGED, SNAPSHOTS
from .sweep import Sweep
from .sweep_file import load_sweep

SNAPSHOT, SET_ASIDE, LEFTOVER, SIGN = (
    "snapshots",
    "set aside as damaged",
    "never committed",
    "signs of life of dead runs",
)
"""What there is besides artifacts, in words."""

LOOK_SECONDS = 2.0
"""How often to look, while deleting, whether another run has begun."""


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Attributes:
        kind: name of the task class, or one of the words above.
        name: key of the artifact or snapshot, or path.
        size: in bytes.
        order: what is made from others goes before them, so that a deletion that is broken off leaves no gaps.
    """

    kind: str
    name: str
    size: int
    order: int = 0


@dataclass
class Garbage:
    """What can go, and what was left alone.

    Attributes:
        young: artifacts that are too young; `damaged`: those whose manifests cannot be read.
        live: runs that are going on.
    """

    items: list[Item] = field(default_factory=list)
    young: int = 0
    damaged: int = 0
    live: list[str] = field(default_factory=list)


def sizes_of(file: str, sets: Sequence[str], seeds: int | None) -> list[Sweep]:
    """The sweep of a file, at full size and, if it declares one, at smoke size."""
    full = load_sweep(file, sets=sets, seeds=seeds)
    return [full, load_sweep(file, smoke=True, sets=sets, seeds=seeds)] if full.smoke else [full]


def keys_of(sweep: Sweep, store: Store) -> tuple[set[str], str | None]:
    """Keys of all tasks of a sweep; of an adaptive one, those of the settings proposed so far.

    Returns:
        the keys, and a sentence if a part of the record of proposals is damaged.
    """
    decisions = Decisions(sweep, store)
    return set(make_plan(sweep, None, decisions.configs[: sweep.samples]).nodes), decisions.damage


def confirmed(sweep: Sweep, store: Store) -> set[str]:
    """Keys of what confirmed the sweep's choices on fresh seeds, which its file does not name."""
    name = f"{sweep.name}{SUFFIX}"
    return {
        key for run in runs_of(store, name) for key in (store.read(f"runs/{name}/{run}/keys") or b"").decode().split()
    }


def needed_by_live_runs(store: Store) -> tuple[set[str], list[str]]:
    """Keys of the tasks of all runs that are going on, and these runs.

    Raises:
        StoreError: a run that has only just begun has not said yet what it needs.
    """
    keys: set[str] = set()
    runs = []
    for record in live_records(store).values():
        run = str(record.get("run"))
        runs.append(run)
        listed = store.read(f"{run}/keys")
        if listed is None:
            if read_record(store, f"{run.replace('/', '.')}.json") is None:
                continue  # it has just ended
            raise StoreError(f"The run {run} has just begun and has not said yet what it needs: try again in a minute.")
        keys |= set(listed.decode().split())
        keys |= set(record["running"])
        keys |= {e["key"] for e in read_events(store, run) if isinstance(e.get("key"), str)}  # proposed meanwhile
    return keys, sorted(runs)


def find_garbage(store: Store, catalogue: Mapping[str, str], needed: set[str], older_than: float) -> Garbage:
    """All that can go.

    Args:
        catalogue: name of the task class by key.
        older_than: seconds that must have passed since an artifact was committed or a snapshot written.
    """
    alive, runs = needed_by_live_runs(store)
    found = Garbage(live=runs)
    kept = needed | alive
    now = time.time()
    damaged: list[DamagedArtifact] = []
    unneeded = [(name, key) for key, name in catalogue.items() if key not in kept]
    dropped = {(name, key) for name in {n for n, _ in unneeded} for key in store.dropped(name)}
    for m in store.manifests(unneeded, damaged):
        if now - (m.get("started", 0.0) + m.get("seconds", 0.0)) < older_than:
            found.young += 1
            continue
        order = KINDS.index(m["kind"]) if m.get("kind") in KINDS else 0
        gone = store.dropped_files(m["task"], m["key"]) if (m["task"], m["key"]) in dropped else set()
        size = sum(about["size"] for name, about in m["files"].items() if name not in gone)
        found.items.append(Item(m["task"], m["key"], size, -order))
    found.damaged = len(damaged)
    for listed in store.listing(SNAPSHOTS):
        key = listed.path.split("/")[1]
        wanted = key in alive or (key in needed and key not in catalogue)
        if not wanted and now - listed.modified >= older_than:
            found.items.append(Item(SNAPSHOT, key, listed.size))
    for folder, size in _folders(store, DAMAGED, 3):
        found.items.append(Item(SET_ASIDE, folder, size))
    for folder, size in store.leftovers(older_than):
        found.items.append(Item(LEFTOVER, folder, size))
    going = live_records(store)
    for name in store.names(FOLDER):
        if name not in going and read_record(store, name) is not None:
            found.items.append(Item(SIGN, f"{FOLDER}/{name}", 0))
    found.items.sort(key=lambda item: item.order)
    return found


def _folders(store: Store, parent: str, depth: int) -> Iterator[tuple[str, int]]:
    """The folders that lie so deep below one, with the sizes of what they hold."""
    sizes: dict[str, int] = {}
    for listed in store.listing(parent):
        folder = "/".join(listed.path.split("/")[:depth])
        sizes[folder] = sizes.get(folder, 0) + listed.size
    yield from sorted(sizes.items())


def delete(store: Store, items: Sequence[Item], done: Callable[[Item], None]) -> int:
    """Delete all of these but what a run that has begun meanwhile needs.

    Args:
        done: told of each that is gone.

    Returns:
        how many were kept for such a run.
    """
    looked, alive, kept = float("-inf"), set[str](), 0
    batch = 8 if store.local is not None else 64
    with ThreadPoolExecutor(batch) as pool:
        for start in range(0, len(items), batch):
            if time.monotonic() - looked > LOOK_SECONDS:
                alive, looked = needed_by_live_runs(store)[0], time.monotonic()
            going = [item for item in items[start : start + batch] if item.name not in alive]
            kept += len(items[start : start + batch]) - len(going)
            for item, _ in zip(going, pool.map(lambda item: _delete(store, item), going), strict=True):
                done(item)
    return kept


def _delete(store: Store, item: Item) -> None:
    if item.kind == SNAPSHOT:
        store.delete_snapshot(item.name)
    elif item.kind == SIGN or (store.local is not None and store.path(item.name).is_file()):
        store.delete(item.name)
    elif item.kind in (SET_ASIDE, LEFTOVER):
        store.delete_folder(item.name)
    else:
        store.delete_artifact(item.kind, item.name)
