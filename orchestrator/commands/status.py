"""Where the newest run of each sweep stands, from the store alone.

examples:
  python -m orchestrator status
  python -m orchestrator status sam_rho --store s3://bucket/prefix
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import datetime
from typing import Any

from ..errors import StoreError
from ..events import read_events
from ..store import Store
from .common import find_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="name of the sweep (default: all)")
    parser.add_argument("--run", help="a run by name (default: the newest)")


def run(options: argparse.Namespace) -> int:
    store = Store(options.store)
    sweeps = [options.sweep] if options.sweep else store.names("runs")
    if not sweeps:
        raise StoreError(f"The store {store} holds no runs: name another with --store, or run a sweep first.")
    for sweep in sweeps:
        print_status(store, newest_run(store, sweep, options.run))
    return 0


def newest_run(store: Store, sweep: str, run: str | None) -> str:
    """Path of the run to tell of: one that is still going on counts as the newest."""
    path = find_run(store, sweep, run)
    folder = path.rpartition("/")[0]
    names = [r for r in store.names(folder) if r != "latest"]
    return path if run else f"{folder}/{max(names)}"


def print_status(store: Store, path: str) -> None:
    """The run's state, counts and latest failures."""
    events = list(read_events(store, path))
    started = next((e for e in events if e["event"] == "run_started"), None)
    if started is None:
        print(f"{path}: a report of stored results, nothing ran")
        return
    last = events[-1]
    ended = {"run_finished": "finished", "run_interrupted": "interrupted"}.get(last["event"])
    ago = time.time() - last["time"]
    state = ended or (f"running, last heard of {ago:.0f} s ago" if ago < 600 else f"silent for {ago / 60:.0f} min")
    counts = Counter(e["event"] for e in events)
    print(f"{path}: {state}")
    print(f"  started {datetime.fromtimestamp(started['time']):%Y-%m-%d %H:%M:%S} on {started['slots']} slots")
    todo = started["tasks"] - started["stored"]
    print(
        f"  {counts['committed']} of {todo} tasks committed, {started['stored']} were stored, {counts['failed']} failed"
    )
    if not ended:
        for label in _at_work(events)[:8]:
            print(f"  at work: {label}")
    for event in [e for e in events if e["event"] == "failed"][-5:]:
        print(f"  failed: {event['label']}: {event['error']}; logs {event['key'][:12]}")


def _at_work(events: list[dict[str, Any]]) -> list[str]:
    handed: dict[str, str] = {}
    for event in events:
        if event["event"] == "submitted":
            handed[event["key"]] = event["label"]
        elif "key" in event:
            handed.pop(event["key"], None)
    return list(handed.values())
