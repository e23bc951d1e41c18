"""What a task printed, and its traceback if it failed.

examples:
  python -m orchestrator logs 3f2a9c
"""

from __future__ import annotations

import argparse

from ..errors import StoreError
from ..store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="the key, or its beginning")


def run(options: argparse.Namespace) -> int:
    store = Store(options.store)
    logs = [
        f"runs/{sweep}/{run}/logs/{name}"
        for sweep in store.names("runs")
        for run in store.names(f"runs/{sweep}")
        for name in store.names(f"runs/{sweep}/{run}/logs")
        if name.startswith(options.key)
    ]
    if not logs:
        if store.find(options.key):
            print("The task printed nothing.")
            return 0
        raise StoreError(f"The store {store} holds no log of a task whose key begins with {options.key!r}.")
    keys = {path.rpartition("/")[2] for path in logs}
    if len(keys) > 1:
        raise StoreError(f"{options.key!r} is the beginning of {len(keys)} keys with a log: give more of it.")
    for path in logs:
        print(f"── {path}")
        print((store.read(path) or b"").decode(errors="replace").rstrip())
    return 0
