"""The log of a task: a file that outlives the process that writes it.

What a task prints goes to a file at once, line by line, and so does Python's last word when a process
dies of a signal (faulthandler). In a local store that file is where `orchestrator logs` looks,
`runs/<sweep>/<run>/logs/<key>.txt`. For an object store it lies in a folder of the node, is copied to the
store every few seconds and at the end, and what a dead process has left there is copied by the next one.
The second attempt of a task writes `<key>.2.txt`, and so on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path

from .errors import StoreError
from .node import node_folder
from .store import Store

SYNC_SECONDS = 15.0
"""How often a log that grows is copied to an object store."""


FATAL = "Fatal"
"""With this word begins the line that says why a process ended: "Fatal Python error: …", which is faulthandler's."""


class TaskLog:
    """Where a task's output goes; `file` is a text file, written line by line.

    Args:
        run: path of the run in the store.
        attempt: of the task in this run, from 1.
    """

    def __init__(self, store: Store, run: str, key: str, attempt: int) -> None:
        self._store = store
        self._name = log_name(run, key, attempt)
        if store.local is not None:
            self._path = store.path(self._name)
        else:
            self._path = node_folder("logs") / f"{os.getpid()}~{_short(store)}~{self._name.replace('/', '~')}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.file: TextIOWrapper = open(self._path, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._synced = time.monotonic()
        self._size = 0
        faulthandler.enable(self.file, all_threads=False)

    def sync(self) -> None:
        """Copy what is new to an object store, now and then."""
        if self._store.local is None and time.monotonic() - self._synced > SYNC_SECONDS:
            self._synced = time.monotonic()
            if self._path.stat().st_size > self._size:
                self._copy()

    def close(self) -> None:
        """The task has ended: an empty log leaves no file."""
        if self.file.closed:
            return
        if sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__, all_threads=False)
        else:
            faulthandler.disable()
        with contextlib.suppress(OSError):  # a full disk: what could be written is there
            self.file.close()
        with contextlib.suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()
            elif self._store.local is None:
                self._copy()
                self._path.unlink()

    def _copy(self) -> None:
        with contextlib.suppress(StoreError, OSError):  # a lost log must not lose the result
            data = self._path.read_bytes()
            self._store.write(self._name, data, durable=False)
            self._size = len(data)


def log_name(run: str, key: str, attempt: int) -> str:
    """The log's path in the store."""
    return f"{run}/logs/{key}{'' if attempt == 1 else f'.{attempt}'}.txt"


def last_words(store: Store, run: str, key: str, attempt: int) -> str | None:
    """Why the process of a task ended, if its log says so (on an object store it may not be there yet)."""
    with contextlib.suppress(StoreError):
        lines = (store.read(log_name(run, key, attempt)) or b"").decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.startswith(f"{FATAL} ") and " error: " in line), None)
    return None


def salvage(store: Store) -> None:
    """Copy the logs that dead processes of this node, at work for this store, have left to it."""
    left: list[Path] = []
    if store.local is None:
        with contextlib.suppress(OSError):
            left = sorted(node_folder("logs").glob(f"*~{_short(store)}~runs~*"))
    for path in left:
        pid, _, name = path.name.split("~", 2)
        if not pid.isdecimal() or Path(f"/proc/{pid}").exists():
            continue
        with contextlib.suppress(StoreError, OSError):
            data = path.read_bytes()
            if data:
                store.write(name.replace("~", "/"), data, durable=False)
            path.unlink()


def _short(store: Store) -> str:
    """Names a store within the node's folder."""
    return hashlib.sha256(store.address.encode()).hexdigest()[:16]
