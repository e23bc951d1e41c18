"""Hash everything in the store again, and name what is damaged.

Reads every file of every artifact (or of those named), every snapshot, and the records of runs. Exits with 0 if
all artifacts and snapshots are intact, 1 if not. With --set-aside, damaged artifacts move out of the way, into
damaged/, and the next sweep that needs them makes them again.

examples:
  python -m orchestrator verify
  python -m orchestrator verify Train 3f2a9c
  python -m orchestrator verify --set-aside
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..__main__ import EXIT_FAILED
from ..decisions import is_intact
from ..errors import StoreError
from ..journal import read_journal
from ..manifests import MANIFEST
from ..store import Store
from ..store_files import ARTIFACTS, DAMAGED
from ..text import say
from .common import catalogue, counted, find_artifact, open_store

SHOWN = 5
"""How many notes of a kind are listed."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with an artifact: `damage`, none if it is intact, and the inputs that are no longer stored."""

    name: str
    key: str
    label: str
    damage: tuple[str, ...]
    missing: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", metavar="KEY|TASK", help="only these artifacts, or those of these classes")
    parser.add_argument("--set-aside", action="store_true", help="move damaged artifacts out of the way")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    known = catalogue(store)
    chosen = _chosen(store, options.what, known)
    findings = list(_hash_all(store, chosen, known))
    damaged = [f for f in findings if f.damage]
    for finding in damaged:
        say(f"damaged: {finding.label}  {finding.name} {finding.key[:12]}: {'; '.join(finding.damage)}")
        if options.set_aside:
            if store.set_aside(finding.name, finding.key):
                say("  set aside: the next sweep that needs it makes it again")
            else:
                say("  it has been made again meanwhile, and stays")
    broken = 0
    if not options.what:
        broken = _check_snapshots(store, options.set_aside)
        _tell_of_journals(store)
        _tell_of_leftovers(store)
    _tell_of_missing(findings)
    say(f"{counted(len(findings), 'artifact')}: {len(findings) - len(damaged)} intact, {len(damaged)} damaged")
    return EXIT_FAILED if damaged or broken else 0


def _chosen(store: Store, what: list[str], known: dict[str, str]) -> list[tuple[str, str]]:
    """(task name, key) of the artifacts that are asked about."""
    if not what:
        return sorted((name, key) for key, name in known.items())
    names = set(known.values())
    chosen: dict[tuple[str, str], None] = {}
    for word in what:
        if word in names:
            chosen |= dict.fromkeys(sorted((name, key) for key, name in known.items() if name == word))
        else:
            chosen[find_artifact(store, word, known)] = None
    return list(chosen)


def _hash_all(store: Store, chosen: list[tuple[str, str]], known: dict[str, str]) -> Iterator[Finding]:
    """Look at every artifact, many at a time; a bar on a terminal."""
    threads = 2 * (os.cpu_count() or 1) if store.local is not None else 32
    columns = (TextColumn("hashing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with shown as progress, ThreadPoolExecutor(threads) as pool:
        bar = progress.add_task("hashing", total=len(chosen))
        for finding in pool.map(lambda pair: _look_at(store, pair[0], pair[1], known), chosen):
            progress.advance(bar)
            if finding is not None:
                yield finding


def _look_at(store: Store, name: str, key: str, known: dict[str, str]) -> Finding | None:
    """What is wrong with an artifact; None if it has been deleted meanwhile."""
    damage = store.verify(name, key)
    if damage and _is_gone(store, name, key):
        return None
    try:
        manifest = store.manifest(name, key)
    except StoreError:
        return Finding(name, key, name, tuple(damage), ())
    missing = tuple(i for i in map(str, manifest.get("inputs", ())) if i not in known)
    return Finding(name, key, str(manifest.get("label", name)), tuple(damage), missing)


def _is_gone(store: Store, name: str, key: str) -> bool:
    """Whether there is nothing left of the artifact; a folder without a manifest is something."""
    place = f"{ARTIFACTS}/{name}/{key}"
    if store.local is not None:
        return not store.path(place).exists()
    return store.read(f"{place}/{MANIFEST}") is None


def _check_snapshots(store: Store, set_aside: bool) -> int:
    """How many snapshots are damaged; each is named."""
    from tasks.snapshots import DamagedSnapshot, check

    broken = 0
    for key in store.snapshot_keys():
        data = store.read_snapshot(key)
        if data is None:
            continue  # its task has committed meanwhile
        try:
            check(data)
        except DamagedSnapshot as error:
            broken += 1
            say(f"damaged: snapshot of {key[:12]}: {error}")
            if set_aside:
                store.delete_snapshot(key)
                say("  deleted: the task starts from its beginning")
    return broken


def _tell_of_journals(store: Store) -> None:
    """Records of runs and of searches with damaged lines, which every reader passes over."""
    runs = [f"runs/{sweep}/{run}" for sweep in store.names("runs") for run in store.names(f"runs/{sweep}")]
    searches = dict.fromkeys(name.removesuffix(".parts") for name in store.names("searches"))
    paths = [f"{run}/events.jsonl" for run in runs] + [f"searches/{n}" for n in searches if n.endswith(".jsonl")]
    with ThreadPoolExecutor(8) as pool:
        for path, found in zip(paths, pool.map(lambda p: read_journal(store, p), paths), strict=True):
            damaged = found.damaged
            if path.startswith("searches/"):
                damaged += sum(not is_intact(record) for record in found.records)
            if damaged:
                say(f"note: {path} has {counted(damaged, 'damaged line')}, which readers pass over")


def _tell_of_leftovers(store: Store) -> None:
    aside = {"/".join(listed.path.split("/")[:3]) for listed in store.listing(DAMAGED)}
    if aside:
        say(f"note: {counted(len(aside), 'artifact')} set aside as damaged, in {store.shown(DAMAGED)}; gc deletes them")
    left = list(store.leftovers(0.0))
    if left:
        say(f"note: {counted(len(left), 'leftover')} of processes that are gone; gc deletes them")


def _tell_of_missing(findings: list[Finding]) -> None:
    """Inputs that were deleted: what was made from them is good, but cannot be computed again from the store."""
    missing = Counter(key for f in findings for key in f.missing)
    for key, number in missing.most_common(SHOWN):
        first = next(f.label for f in findings if key in f.missing)
        more = f" and {number - 1} more" if number > 1 else ""
        say(f"note: the input {key[:12]} of {first}{more} is no longer in the store")
    if len(missing) > SHOWN:
        say(f"note: … and {len(missing) - SHOWN} more inputs are no longer in the store")
