"""What a task printed, attempt by attempt, the newest last; with its traceback if it failed.

examples:
  python -m orchestrator logs 3f2a9c
  python -m orchestrator logs 3f2a9c --last
"""

from __future__ import annotations

import argparse

from ..errors import StoreError
from ..events import read_events
from ..store import Store
from ..text import say
from .common import catalogue, no_such_key, open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="the key, or its beginning")
    parser.add_argument("--last", action="store_true", help="the last attempt only")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    logs = find_logs(store, options.key)
    if not logs:
        told = what_became_of(store, options.key)
        if told:
            say(told)
            return 0
        known = catalogue(store)
        if any(key.startswith(options.key) for key in known):
            say("The task printed nothing.")
            return 0
        raise no_such_key(store, options.key, known, "log of a task whose key")
    keys = {path.rpartition("/")[2].partition(".")[0] for path in logs}
    if len(keys) > 1:
        raise StoreError(f"{options.key!r} is the beginning of {len(keys)} keys with a log: give more of it.")
    for path in logs[-1:] if options.last else logs:
        say(f"── {path}")
        say((store.read(path) or b"").decode(errors="replace").rstrip())
    return 0


def find_logs(store: Store, prefix: str) -> list[str]:
    """Paths of the logs of the tasks whose keys begin so, by run and attempt, the oldest first.

    A run's first attempt of a task writes `<key>.txt`, its second `<key>.2.txt`.
    """
    found = []
    for sweep in store.names("runs"):
        for run in store.names(f"runs/{sweep}"):
            for name in store.names(f"runs/{sweep}/{run}/logs") if run != "latest" else ():
                stem, _, ending = name.partition(".")
                attempt = ending.removesuffix("txt").strip(".") or "1"
                if stem.startswith(prefix) and ending.endswith("txt") and attempt.isdecimal():
                    found.append((run, int(attempt), f"runs/{sweep}/{run}/logs/{name}"))
    return [path for _, _, path in sorted(found)]


def what_became_of(store: Store, prefix: str) -> str | None:
    """Why the task whose key begins so has failed, for one that left no log (its worker died at once)."""
    runs = [(run, f"runs/{sweep}/{run}") for sweep in store.names("runs") for run in store.names(f"runs/{sweep}")]
    for _, path in sorted(runs, reverse=True):
        for event in read_events(store, path):
            if event["event"] == "failed" and event["key"].startswith(prefix):
                return f"{event['label']} printed nothing; {event['error']}"
    return None
