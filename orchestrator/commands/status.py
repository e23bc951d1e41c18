"""Where the newest run of each sweep stands, from the store alone.

examples:
  python -m orchestrator status
  python -m orchestrator status sam_rho --store s3://bucket/prefix
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..errors import StoreError
from ..events import read_events
from ..live import FOLDER, is_dead, read_record
from ..records import RUN_NAME
from ..runs import find_run, runs_of
from ..store import Store
from ..text import say
from .common import counted, open_store, time_in_words

JUST_NOW = 60.0
"""Seconds after its last event in which a run without a sign of life may still be starting or ending."""

STARTING = 600.0
"""Seconds in which a run that has told nothing yet may still be starting."""

SHOWN = 8
"""How many tasks and failures are listed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="name of the sweep (default: all)")
    parser.add_argument("--run", help="a run by name (default: the newest)")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    sweeps = [options.sweep] if options.sweep else [s for s in store.names("runs") if runs_of(store, s)]
    if not sweeps:
        raise StoreError(f"The store {store} holds no runs: name another with --store, or run a sweep first.")
    if options.run and not options.sweep and len(sweeps) > 1:
        raise StoreError(f"The store {store} holds runs of {', '.join(sweeps)}: name one of them before --run.")
    for sweep in sweeps:
        print_status(store, newest_run(store, sweep, options.run))
    return 0


def newest_run(store: Store, sweep: str, run: str | None) -> str:
    """Path of the run to tell of: one that is still going on counts as the newest."""
    path = find_run(store, sweep, run)
    folder, _, _ = path.rpartition("/")
    return path if run else f"{folder}/{max(runs_of(store, folder.rpartition('/')[2]))}"


def print_status(store: Store, path: str) -> None:
    """The run's state, counts, what is at work, and failures with what depends on them."""
    events = [e for e in read_events(store, path) if isinstance(e.get("time"), (int, float))]
    started = next((e for e in events if e["event"] == "run_started"), None)
    if started is None:
        say(f"{path}: {_without_events(store, path)}")
        return
    record = _sign_of_life(store, path)
    state, going_on = _state(events, record)
    counts = Counter(str(e["event"]) for e in events)
    say(f"{path}: {state}")
    slots = f" on {counted(started['slots'], 'slot')}" if isinstance(started.get("slots"), int) else ""
    say(f"  started {time_in_words(started['time'])}{slots}")
    told = [f"{counts['committed']}{_todo(started)} committed"]
    told += [f"{started['stored']} were stored"] if started.get("stored") else []
    told += [f"{counts['found']} made by other runs"] if counts["found"] else []
    told += [f"{counts['failed']} failed"]
    told += [f"{counts['stopped']} stopped early by the scheduler"] if counts["stopped"] else []
    told += [f"{counts['damaged']} found damaged, to be made again"] if counts["damaged"] else []
    told += [f"{counts['enlarged']} given a larger slot"] if counts["enlarged"] else []
    say(f"  {', '.join(told)}")
    for event in _kept(events, "left_out"):
        say(f"  {event['why']}")
    if going_on:
        _print_at_work(events)
    lost = {_key(e): e for e in events if e["event"] == "lost"}  # the last time counts
    often = Counter(_key(e) for e in events if e["event"] == "lost")
    for key, number in often.most_common(SHOWN):
        why = f": {lost[key]['why']}" if lost[key].get("why") else ""
        times = "once" if number == 1 else f"{number} times"
        say(f"  lost {times}: {_label(events, key)}{why}; logs {key[:12]}")
    _print_failures(events)


def _without_events(store: Store, path: str) -> str:
    """What a run is that has not told of its start."""
    if store.read(f"{path}/study.json") is not None:
        return "a report of stored results, nothing ran"
    with contextlib.suppress(ValueError):
        begun = datetime.strptime(path.rpartition("/")[2], RUN_NAME).replace(tzinfo=timezone.utc)
        ago = time.time() - begun.timestamp()
        if ago < STARTING:
            return f"starting, for {_ago(ago)}: it looks at the cluster's nodes"
    return "ended before it began: run the same command again"


def _todo(started: Mapping[str, Any]) -> str:
    tasks, stored = started.get("tasks"), started.get("stored")
    return f" of {tasks - stored} tasks" if isinstance(tasks, int) and isinstance(stored, int) else " tasks"


def _sign_of_life(store: Store, path: str) -> dict[str, Any] | None:
    """The record in `live/` that a run's driver rewrites, if it is there."""
    for name in store.names(FOLDER):
        record = read_record(store, name)
        if record is not None and record.get("run") == path:
            return record
    return None


def _state(events: list[dict[str, Any]], record: Mapping[str, Any] | None) -> tuple[str, bool]:
    """In words, and whether the run is going on."""
    last = events[-1]
    if last["event"].startswith("run_") and last["event"] != "run_started":
        ended = last["event"].removeprefix("run_")
        if ended == "finished":
            return ended, False
        if last.get("why"):
            return f"{ended}: {last['why']} Run the same command again to go on.", False
        return f"{ended}; run the same command again to go on", False
    ago = time.time() - max(last["time"], float(record["time"]) if record else 0.0)
    if record is not None and not is_dead(dict(record)):
        away = next((e for e in reversed(events) if e["event"] in ("store_away", "store_back")), None)
        waits = f", waiting for the store: {away.get('why')}" if away and away["event"] == "store_away" else ""
        return f"running, last sign of life {_ago(ago)} ago, on {record.get('host')}{waits}", True
    if record is None and ago < JUST_NOW:
        return f"running, last heard of {_ago(ago)} ago", True
    return f"stopped without ending {_ago(ago)} ago (killed?): run the same command again to go on", False


def _ago(seconds: float) -> str:
    for unit, size in (("days", 172_800), ("h", 7200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _print_at_work(events: list[dict[str, Any]]) -> None:
    latest = {_key(e): e for e in events if e["event"] != "proposed" and "key" in e}
    handed = [e for e in latest.values() if e["event"] == "submitted"]
    for event in handed[:SHOWN]:
        say(f"  handed out {_ago(time.time() - event['time'])} ago: {_label(events, _key(event))}")
    if len(handed) > SHOWN:
        say(f"  … and {len(handed) - SHOWN} more")
    theirs = sum(e["event"] == "elsewhere" for e in latest.values())
    if theirs:
        say(f"  {counted(theirs, 'task')} left to other runs on this store, which are at work on them")


def _print_failures(events: list[dict[str, Any]]) -> None:
    failures = {_key(e): e for e in events if e["event"] == "failed"}
    for event in _kept(events, "committed"):
        failures.pop(_key(event), None)
    for key, event in list(failures.items())[-SHOWN:]:
        n = event.get("blocked")
        skipped = (
            f" ({counted(n, 'task')} that {'needs' if n == 1 else 'need'} it skipped)"
            if isinstance(n, int) and n
            else ""
        )
        say(f"  failed: {_label(events, key)}: {event.get('error')}{skipped}; logs {key[:12]}")
    if len(failures) > SHOWN:
        say(f"  … and {len(failures) - SHOWN} more failed")


def _kept(events: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [e for e in events if e["event"] == kind]


def _key(event: Mapping[str, Any]) -> str:
    return str(event.get("key", "?"))


def _label(events: Iterable[Mapping[str, Any]], key: str) -> str:
    return next((str(e["label"]) for e in events if e.get("key") == key and e.get("label")), key[:12])
