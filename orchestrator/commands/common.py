"""What several verbs share: finding an artifact by the beginning of its key, and a run by its sweep."""

from __future__ import annotations

from pathlib import Path

from ..errors import StoreError, nearest
from ..store import Store


def find_artifact(store: Store, prefix: str) -> tuple[str, str]:
    """(task name, key) of the one artifact whose key begins so.

    Raises:
        StoreError: none does, or several do.
    """
    found = store.find(prefix)
    if not found:
        raise StoreError(
            f"The store {store} holds no artifact whose key begins with {prefix!r}: see `orchestrator ls`."
        )
    if len(found) > 1:
        keys = ", ".join(f"{name} {key[:12]}" for name, key in found[:4])
        raise StoreError(f"{prefix!r} is the beginning of {len(found)} keys ({keys}, …): give more of it.")
    return found[0]


def find_run(store: Store, sweep: str | None, run: str | None = None) -> str:
    """Path of a run in the store: the newest of the sweep, unless one is named.

    Args:
        sweep: its name, or its file; None if the store holds runs of one sweep only.
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
    chosen = run or store.latest_run(name)
    runs = [r for r in store.names(f"runs/{name}") if r != "latest"]
    if chosen is None:
        chosen = runs[-1]  # a first run that is still going on has not been named the latest
    if chosen not in runs:
        raise StoreError(f"There is no run {chosen!r} of {name}{nearest(chosen, runs)}; it has {', '.join(runs)}.")
    return f"runs/{name}/{chosen}"
