"""Append-only records in the store: one JSON object a line, written as things happen.

A local store appends to one file, in single writes, so that several writers do no harm. An object store
cannot append, so each writer leaves parts below `<path>.parts/`, none of which is ever rewritten. Sixteen
parts in a row are merged into one, sixteen of those again, so that a reader finds few however long the
run; `close(merge=True)` leaves the one file that a local store has from the beginning.

What is not durable is written after `seconds` at most, by a thread: adding a record neither waits for
the store nor fails. While the store cannot be written the records are kept, and `trouble` says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import NoPlainFile, StoreError
from .store import Store

FLUSH_SECONDS = 5.0
"""How old a record gets at most before an object store holds it."""

GROUP = 16
"""How many parts in a row are merged into one."""

_PART = re.compile(r"(\d{6}-[0-9a-f]{8})-(\d{8})-(\d{8})\.jsonl")


@dataclass(frozen=True)
class Records:
    """What a journal holds: the records in order, and how many damaged lines were passed over."""

    records: list[dict[str, Any]] = field(default_factory=list)
    damaged: int = 0


class Journal:
    """Adds records to a file of the store, as one of possibly several writers.

    Args:
        path: of the file in the store, "runs/<sweep>/<run>/events.jsonl".
        seconds: how long a record that is not durable may wait.

    Attributes:
        trouble: why the store could not be written the last time; None while all is well.
    """

    def __init__(self, store: Store, path: str, *, seconds: float = FLUSH_SECONDS) -> None:
        self._store = store
        self._path = path
        self._seconds = seconds
        self._lines: list[bytes] = []  # not yet in the store
        self._adding = threading.Lock()
        self._writing = threading.RLock()
        self._timer: threading.Timer | None = None
        self._writer = ""  # of parts; named when the first is written
        self._spans: list[tuple[int, int]] = []  # the parts of this writer, by first and last flush
        self._flushes = 0
        self.trouble: StoreError | None = None

    def add(self, record: Mapping[str, Any], *, durable: bool = False) -> None:
        """Add a record.

        Args:
            durable: return when it is in the store, on disk.

        Raises:
            StoreError: a durable record could not be written; it is kept, and goes with the next.
        """
        line = json.dumps(record).encode() + b"\n"
        with self._adding:
            self._lines.append(line)
        if durable:
            self.flush()
        elif self._store.local is not None and self.trouble is None:
            self._write_quietly()
        else:
            self._write_later()

    def flush(self) -> None:
        """Make the journal complete in the store, durably.

        Raises:
            StoreError: the store cannot be written; the records are kept.
        """
        self._write(durable=True)

    def close(self, *, merge: bool = False) -> None:
        """Write what is left.

        Args:
            merge: leave one file instead of parts.

        Raises:
            StoreError: the store cannot be written; all that was written before is still there.
        """
        with self._adding:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        with self._writing:
            self.flush()
            if merge and self._store.local is None:
                self._merge_all()

    # Inside

    def _write_later(self) -> None:
        with self._adding:
            if self._timer is None:
                self._timer = threading.Timer(self._seconds, self._write_now)
                self._timer.daemon = True
                self._timer.start()

    def _write_now(self) -> None:
        with self._adding:
            self._timer = None
        self._write_quietly()

    def _write_quietly(self) -> None:
        try:
            self._write(durable=False)
        except StoreError:
            self._write_later()

    def _write(self, *, durable: bool) -> None:
        with self._writing:
            with self._adding:
                lines = list(self._lines)
            if not lines:
                return
            try:
                if self._store.local is not None:
                    self._append(b"".join(lines), durable)
                else:
                    self._write_part(b"".join(lines))
            except StoreError as error:
                self.trouble = error
                raise
            self.trouble = None
            with self._adding:
                del self._lines[: len(lines)]

    def _append(self, data: bytes, durable: bool) -> None:
        torn = False  # a crash or a full disk may have left half a line: the next begins on its own
        with contextlib.suppress(OSError), open(self._store.path(self._path), "rb") as file:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        self._store.append(self._path, b"\n" + data if torn else data, durable=durable)

    # Parts, on object stores

    def _write_part(self, data: bytes) -> None:
        if not self._writer:
            numbers = [int(name[:6]) for name in _parts(self._store, self._path)]
            self._writer = f"{max(numbers, default=0) + 1:06d}-{uuid.uuid4().hex[:8]}"  # sorts after those before it
        self._store.write(self._part(self._flushes, self._flushes), data)
        self._spans.append((self._flushes, self._flushes))
        self._flushes += 1
        with contextlib.suppress(StoreError):  # the records are there; another time will do
            while self._merge_some():
                pass

    def _merge_some(self) -> bool:
        """Merge the last parts, if they are GROUP of the same width."""
        group = self._spans[-GROUP:]
        if len(group) < GROUP or len({last - first for first, last in group}) > 1:
            return False
        pieces = [self._store.read(self._part(*span)) for span in group]
        whole = group[0][0], group[-1][1]
        self._store.write(self._part(*whole), b"".join(p for p in pieces if p is not None))
        del self._spans[-GROUP:]
        self._spans.append(whole)
        for span in group:
            self._store.delete(self._part(*span))
        return True

    def _merge_all(self) -> None:
        lines = _read_lines(self._store, self._path)
        if lines:
            self._store.write(self._path, b"".join(line + b"\n" for line in lines))
        while self._spans:
            self._store.delete(self._part(*self._spans.pop()))

    def _part(self, first: int, last: int) -> str:
        return f"{self._path}.parts/{self._writer}-{first:08d}-{last:08d}.jsonl"


class Tail:
    """Reads a journal of one writer as it grows: each record once, and nothing twice from the store.

    Args:
        path: of the file in the store.
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._offset = 0  # of the file on a local store: what lies before it was read
        self._lines = 0  # read so far
        self._up_to: dict[int, int] = {-1: 0}  # by the last flush of a part: how many lines there are up to it
        self._last = -1  # the last flush that was read

    def read(self) -> list[dict[str, Any]]:
        """The records that have come since the last call; lines that are damaged are passed over.

        Raises:
            StoreError: the store cannot be read.
        """
        lines = self._new_lines() if self._store.local is not None else self._new_parts()
        return [record for line in lines if (record := _record(line)) is not None]

    def _new_lines(self) -> list[bytes]:
        try:
            data = self._store.read_from(self._path, self._offset) or b""
        except NoPlainFile:
            return []
        whole = data[: data.rfind(b"\n") + 1]  # the last line may be still on its way
        self._offset += len(whole)
        return _lines(whole)

    def _new_parts(self) -> list[bytes]:
        found: list[bytes] = []
        names = _parts(self._store, self._path)
        for name in names:
            match = _PART.fullmatch(name)
            assert match is not None
            first, last = int(match[2]), int(match[3])
            if last <= self._last:
                continue
            data = self._store.read(f"{self._path}.parts/{name}")
            if data is None:
                return found  # merged just now: the next call finds it
            lines = _lines(data)
            found += lines[self._lines - self._up_to.get(first - 1, self._lines) :]
            self._lines = self._up_to.get(first - 1, self._lines) + len(lines)
            self._last, self._up_to[last] = last, self._lines
        if not names:  # it has not begun, or is complete, in one file
            lines = _lines(self._store.read(self._path))
            found += lines[self._lines :]
            self._lines = max(len(lines), self._lines)
        return found


def read_journal(store: Store, path: str) -> Records:
    """All records of a journal, each writer's in order; lines that are damaged are passed over, wherever they stand.

    Raises:
        StoreError: the store cannot be read.
    """
    lines = _read_lines(store, path)
    records = [record for line in lines if (record := _record(line)) is not None]
    return Records(records, len(lines) - len(records))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or brackets without end
        return None
    return record if isinstance(record, dict) else None


def _read_lines(store: Store, path: str, tries: int = 4) -> list[bytes]:
    """The lines of the file, and of the parts what is not merged into it."""
    try:
        found = _lines(store.read(path))
    except NoPlainFile:
        return [b"no plain file"]  # counts as a line that is damaged
    merged = set(found)  # a part that is still there although it was merged says nothing new
    for name in _parts(store, path):
        data = store.read(f"{path}.parts/{name}")
        if data is None and tries > 1:  # merged just now
            return _read_lines(store, path, tries - 1)
        found += [line for line in _lines(data) if line not in merged]
    return found


def _lines(data: bytes | None) -> list[bytes]:
    return [line for line in (data or b"").split(b"\n") if line.strip()]


def _parts(store: Store, path: str) -> list[str]:
    """Names of the parts, in order; those that a merged one covers and that are still there left out."""
    if store.local is not None:
        return []
    spans = []
    for name in store.names(f"{path}.parts"):
        match = _PART.fullmatch(name)
        if match:
            spans.append((match[1], int(match[2]), -int(match[3]), name))
    found: list[str] = []
    writer, covered = "", -1
    for owner, _, last, name in sorted(spans):  # the widest of those that begin together comes first
        if owner != writer:
            writer, covered = owner, -1
        if -last > covered:
            covered = -last
            found.append(name)
    return found
