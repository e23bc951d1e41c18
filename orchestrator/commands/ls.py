"""Artifacts in the store, oldest first.

examples:
  python -m orchestrator ls
  python -m orchestrator ls Lanczos
"""

from __future__ import annotations

import argparse
from datetime import datetime

from ..errors import StoreError, nearest
from ..store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", nargs="?", help="only artifacts of this task class")


def run(options: argparse.Namespace) -> int:
    store = Store(options.store)
    names = store.task_names()
    if options.task and options.task not in names:
        held = f"; it holds {', '.join(names)}" if names else ""
        raise StoreError(f"The store {store} holds no {options.task!r}{nearest(options.task, names)}{held}.")
    chosen = [options.task] if options.task else names
    pairs = [(n, k) for n in chosen for k in sorted(store.committed([n]))]
    manifests = sorted(store.manifests(pairs), key=lambda m: m.get("started", 0))
    for m in manifests:
        size = sum(f["size"] for f in m["files"].values())
        when = datetime.fromtimestamp(m.get("started", 0)).strftime("%Y-%m-%d %H:%M:%S")
        print(f"{m['key'][:12]}  {when}  {m.get('seconds', 0):8.2f} s  {_bytes(size):>8}  {m.get('label', m['task'])}")
    print(f"{len(manifests)} artifacts")
    return 0


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
