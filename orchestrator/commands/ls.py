"""Artifacts in the store, oldest first.

examples:
  python -m orchestrator ls
  python -m orchestrator ls Lanczos
"""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import DamagedArtifact, StoreError, nearest
from ..text import say
from .common import counted, open_store, size_in_words, time_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", nargs="?", help="only artifacts of this task class")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    names = store.task_names()
    if options.task and options.task not in names:
        if store.find(options.task):
            raise StoreError(
                f"{options.task!r} is the beginning of a key, not a kind of task: `orchestrator show` tells."
            )
        held = f"; it holds {', '.join(names)}" if names else ""
        raise StoreError(f"The store {store} holds no {options.task!r}{nearest(options.task, names)}{held}.")
    chosen = [options.task] if options.task else names
    pairs = [(n, k) for n in chosen for k in sorted(store.committed([n]))]
    damaged: list[DamagedArtifact] = []
    manifests = sorted(store.manifests(pairs, damaged), key=_started)
    for m in manifests:
        size = sum(f["size"] for f in m["files"].values())
        seconds = m.get("seconds", 0)
        say(
            f"{m['key'][:12]}  {time_in_words(m.get('started'))}  {seconds:8.2f} s  {size_in_words(size):>8}  "
            f"{m.get('label', m['task'])}"
        )
    for error in damaged:
        say(f"{error.key[:12]}  damaged: {error.reason}  {error.task_name}")
    broken = f", {len(damaged)} of them damaged (see `orchestrator verify`)" if damaged else ""
    say(f"{counted(len(pairs), 'artifact')}{broken}")
    return 0


def _started(manifest: dict[str, Any]) -> float:
    return float(manifest.get("started", 0))
