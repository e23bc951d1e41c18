"""Where a store lies: how it is opened, its files by relative path, its format, and what crashes leave there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .buckets import open_bucket
from .cache import Cache, check_settings
from .errors import StoreError
from .files import MARKER, Files, Listed, LocalFiles, RemoteFiles
from .identity import is_abandoned
from .manifests import FOLDER, FORMAT, MANIFEST
from .node import node_top

ARTIFACTS, SNAPSHOTS, DAMAGED = "artifacts", "snapshots", "damaged"

UNFINISHED = 3600.0
"""Seconds after which files that no manifest names are taken for left over, where their writer cannot be asked."""


class StoreFiles:
    """The files under one URI.

    Args:
        uri: a folder ("./artifacts", "file:///data/x"), or a URI that `pyarrow.fs` knows
            ("s3://bucket/prefix", "gs://bucket/prefix"); without credentials.
        patience: seconds to wait, with a growing delay, for a store that does not answer.

    Attributes:
        local: the folder of a local store, None of any other.
        on_wait: told one sentence when waiting for the store begins, and one when it ends.
    """

    def __init__(self, uri: str, *, patience: float = 0.0) -> None:
        if not uri.strip():
            raise StoreError("The address of the store is empty: name a folder or a URI, or leave out --store.")
        self.uri = uri
        self.local: Path | None = None
        scheme = uri.partition("://")[0] if "://" in uri else ""
        if slip := re.match(r"(s3|s3a|gs|gcs|file|https?):/?(?!/)", uri, re.I):
            raise StoreError(f"The store {uri!r} is neither a folder nor a URI: write {slip[1].lower()}://… for a URI.")
        if scheme in ("", "file"):
            self.local = Path(uri[len("file://") :] if scheme else uri).expanduser().absolute()
            self._here = LocalFiles(self.local)
            self._files: Files = self._here
        else:
            self._there = RemoteFiles(uri.partition("?")[0], open_bucket(uri))
            self._files = self._there
        self.patience = patience

    @property
    def patience(self) -> float:
        """Seconds to wait for a store that does not answer."""
        return self._files.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._files.patience = seconds

    @property
    def on_wait(self) -> Callable[[str], None] | None:
        return self._files.on_wait

    @on_wait.setter
    def on_wait(self, tell: Callable[[str], None] | None) -> None:
        self._files.on_wait = tell

    @property
    def address(self) -> str:
        """What opens this store in another process or on another machine."""
        return self.uri if self.local is None else str(self.local)

    def __reduce__(self) -> Any:
        return _opened, (type(self), self.address, self.patience, self._files.reached, self._files.marked)

    def __str__(self) -> str:
        return self._files.name

    def shown(self, relative: str) -> str:
        """A file of the store as people can open it: a path below the working folder, or a URI."""
        if self.local is None:
            return f"{str(self).rstrip('/')}/{relative}"
        path = self.local / relative
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

    # Files by relative path

    def path(self, relative: str) -> Path:
        """Local path of a file of a local store."""
        assert self.local is not None
        return self.local / relative

    def read(self, relative: str) -> bytes | None:
        """The file's bytes, or None if there is no such file."""
        return self._files.read(relative)

    def read_from(self, relative: str, offset: int) -> bytes | None:
        """What a file of a local store holds from a byte on, or None if there is no such file."""
        return self._here.read_from(relative, offset)

    def write(self, relative: str, data: bytes, *, durable: bool = True) -> None:
        """Write the file atomically: a reader sees the old or the new content.

        Args:
            durable: return when it is on disk; not worth the wait for what can be made again.
        """
        self._files.write(relative, data, durable=durable)

    def create(self, relative: str, data: bytes) -> bool:
        """Write the file, durably and atomically, if there is none; whether this call made it.

        Of several callers at once one makes it. Only a filesystem that is neither local, S3 nor GCS cannot
        promise that: there each may believe to have made it, and the last one's content stands.
        """
        return self._files.create(relative, data)

    def append(self, relative: str, data: bytes, *, durable: bool = False) -> None:
        """Add to a file of a local store in one write (object stores cannot append; see `journal`)."""
        self._here.append(relative, data, durable=durable)

    def names(self, relative: str) -> list[str]:
        """Names of the files and folders in a folder, sorted; empty if there is none."""
        return self._files.names(relative)

    def listing(self, relative: str) -> list[Listed]:
        """All files below a folder, at any depth, with size and time; empty if there is none."""
        return self._files.listing(relative)

    def delete(self, relative: str) -> None:
        """Delete a file; harmless if there is none."""
        self._files.delete(relative)

    def delete_folder(self, relative: str) -> None:
        """Delete a folder with all that is in it; harmless if there is none."""
        self._files.delete_folder(relative)

    # The store as a whole

    def check_format(self) -> int | None:
        """The format that the store says it has; None if nothing was written there yet.

        Raises:
            StoreError: a newer version wrote it, its marker is damaged, or it cannot be read.
        """
        marker = self.read(MARKER)
        if marker is None:
            for path in (self.local, *self.local.parents) if self.local is not None else ():
                if path.exists() and not path.is_dir():
                    raise StoreError(f"The store {self} cannot be written or read: {path} is no folder; name another.")
            if self.local is None and not self._files.attempt("read", MARKER, self._there.bucket.is_there):
                raise StoreError(
                    f"The store {self} cannot be opened: there is no bucket {self._there.bucket.name!r}; make it, or "
                    "name another."
                )
            return None
        try:
            version = int(json.loads(marker)["format"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise StoreError(
                f"The store {self} has a damaged {MARKER}: delete that file if the folder is a store."
            ) from None
        if version > FORMAT:
            raise StoreError(
                f"The store {self} was written by a newer version (format {version}; this one knows {FORMAT}): "
                "upgrade the orchestrator, or name another store."
            )
        return version

    def check_writable(self) -> None:
        """Raise StoreError unless a file can be written, or if a newer version wrote the store."""
        if self.local is None:
            check_settings()
            self._there.bucket.check_packages()
            self._files.attempt("written", MARKER, self._there.bucket.make)
        if self.check_format() != FORMAT:
            self.write(MARKER, json.dumps({"format": FORMAT}).encode())
            return
        probe = f".writable-{uuid.uuid4().hex[:8]}"
        self.write(probe, b"")
        self.delete(probe)

    def clean_up(self) -> None:
        """Delete what processes of this host that are gone have left unfinished, in the store and on the node."""
        if self.local is None:
            with contextlib.suppress(OSError, StoreError):
                Cache().clean_up()
        for folder in [*([self.path("tmp")] if self.local is not None else []), node_top() / "work"]:
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            for name in names:
                if is_abandoned(name):
                    path = folder / name
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)

    def leftovers(self, older_than: float = 0.0) -> Iterator[tuple[str, int]]:
        """Paths in the store, with their sizes, of what was never finished and never will be.

        Args:
            older_than: seconds that must have passed since the last change.
        """
        sizes: dict[str, int] = {}
        newest: dict[str, float] = {}
        depth = 2 if self.local is not None else 4
        for listed in self.listing("tmp" if self.local is not None else ARTIFACTS):
            parts = listed.path.split("/")
            if len(parts) < depth or (self.local is None and len(parts) == depth):
                continue  # a manifest, or a file of an artifact of format 1
            place = "/".join(parts[:depth])
            sizes[place] = sizes.get(place, 0) + listed.size
            newest[place] = max(newest.get(place, 0.0), listed.modified)
        now = time.time()
        for place, size in sorted(sizes.items()):
            parts = place.split("/")
            gone = is_abandoned(parts[-1]) if self.local is not None else None
            if gone is False or now - newest[place] < max(older_than, 0.0 if gone else UNFINISHED):
                continue
            if self.local is None:
                if not FOLDER.fullmatch(parts[3]):
                    continue  # of an artifact of format 1
                data = self.read("/".join([*parts[:3], MANIFEST]))
                if data is not None and f'"{parts[3]}"'.encode() in data:
                    continue
            yield place, size


def _opened(kind: type[StoreFiles], address: str, patience: float, reached: bool, marked: bool) -> StoreFiles:
    """A store as it arrives in another process, which knows what this one knew of the place."""
    store = kind(address, patience=patience)
    store._files.reached, store._files.marked = reached, marked
    return store
