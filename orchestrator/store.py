"""The store: committed artifacts and the records of runs, on any pyarrow filesystem.

Layout::

    artifacts/<Task>/<key>/manifest.json + the task's files     committed, never changed
    runs/<sweep>/<run>/…                                        what a run leaves; `latest` names the newest
    searches/<key>.json                                         decisions of adaptive searches

The manifest is the commit: it is written last (object stores), or arrives together with the files by
one atomic rename (local folders). Two workers that commit the same key are harmless.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StoreError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the layout; a store written by a newer version is refused."""

_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*(@)")


def without_passwords(text: str) -> str:
    """`text` with the passwords of the URIs in it replaced by stars."""
    return _PASSWORD.sub(r"\1***\2", text)


GROUP = 4
"""From how many artifacts on one call to sync their filesystem is cheaper than one for every file."""


@dataclass(frozen=True)
class Prepared:
    """A task's files, hashed and with their manifest, not yet committed."""

    task_name: str
    key: str
    folder: Path
    manifest: dict[str, Any]


class Store:
    """Artifacts and run records under one URI.

    Args:
        uri: a folder ("./artifacts", "file:///data/x"), or a URI that `pyarrow.fs` knows
            ("s3://bucket/prefix", "gs://bucket/prefix").
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.local: Path | None = None
        self._remote: FileSystem | None = None
        self._prefix = ""
        scheme = uri.partition("://")[0] if "://" in uri else ""
        if scheme in ("", "file"):
            self.local = Path(uri[len("file://") :] if scheme else uri).expanduser().absolute()
        else:
            self._open_remote()

    def _open_remote(self) -> None:
        from pyarrow.fs import FileSystem

        try:
            self._remote, self._prefix = FileSystem.from_uri(self.uri)
        except Exception as error:  # pyarrow raises ArrowInvalid, OSError, NotImplementedError, …
            raise StoreError(f"The store {str(self)!r} cannot be opened: {_first_line(error)}.") from None
        self._prefix = self._prefix.rstrip("/")
        if not self._prefix:
            raise StoreError(f"The store {str(self)!r} names no bucket: give one, such as s3://bucket/prefix.")

    @property
    def address(self) -> str:
        """What opens this store in another process or on another machine; may hold credentials."""
        return self.uri if self.local is None else str(self.local)

    def __reduce__(self) -> Any:
        return (Store, (self.address,))

    def __str__(self) -> str:
        """For people: a password in the URI is not shown."""
        return without_passwords(self.address)

    def shown(self, relative: str) -> str:
        """A file of the store as people can open it: a path below the working folder, or a URI."""
        if self.local is None:
            return f"{str(self).partition('?')[0].rstrip('/')}/{relative}"
        path = self.local / relative
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

    # Files by relative path, for both kinds of store

    def path(self, relative: str) -> Path:
        """Local path of a file of a local store."""
        assert self.local is not None
        return self.local / relative

    def read(self, relative: str) -> bytes | None:
        """The file's bytes, or None if there is no such file."""
        try:
            if self.local is not None:
                return self.path(relative).read_bytes()
            assert self._remote is not None
            with self._remote.open_input_stream(f"{self._prefix}/{relative}") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"The store {self} cannot be read ({relative}): {_first_line(error)}.") from None

    def write(self, relative: str, data: bytes, *, durable: bool = True) -> None:
        """Write the file atomically: a reader sees the old or the new content.

        Args:
            durable: return when it is on disk; not worth the wait for what can be made again.
        """
        try:
            if self.local is not None:
                target = self.path(relative)
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
                part.write_bytes(data)
                if durable:
                    _sync(part)
                os.replace(part, target)
                return
            assert self._remote is not None
            with self._remote.open_output_stream(f"{self._prefix}/{relative}") as stream:
                stream.write(data)
        except OSError as error:
            raise StoreError(f"The store {self} cannot be written ({relative}): {_first_line(error)}.") from None

    def append(self, relative: str, data: bytes, *, durable: bool = False) -> None:
        """Add to a file of a local store (object stores cannot append; see `journal`).

        Args:
            durable: return when it is on disk.
        """
        try:
            target = self.path(relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "ab") as file:
                file.write(data)
            if durable:
                _sync(target)
        except OSError as error:
            raise StoreError(f"The store {self} cannot be written ({relative}): {_first_line(error)}.") from None

    def names(self, relative: str) -> list[str]:
        """Names of the files and folders in a folder, sorted; empty if there is none."""
        try:
            if self.local is not None:
                return sorted(os.listdir(self.path(relative)))
            from pyarrow.fs import FileSelector

            assert self._remote is not None
            selector = FileSelector(f"{self._prefix}/{relative}", allow_not_found=True)
            return sorted(info.base_name for info in self._remote.get_file_info(selector))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"The store {self} cannot be read ({relative}): {_first_line(error)}.") from None

    def check_writable(self) -> None:
        """Raise StoreError unless a file can be written, or if a newer version wrote the store."""
        marker = self.read("store.json")
        if marker is None:
            self.write("store.json", json.dumps({"format": FORMAT}).encode())
            return
        try:
            version = int(json.loads(marker)["format"])
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"The store {self} has a damaged store.json: delete that file if the folder is a store."
            ) from None
        if version > FORMAT:
            raise StoreError(
                f"The store {self} was written by a newer version (format {version}; this one knows {FORMAT}): "
                "upgrade the orchestrator, or name another store."
            )
        probe = f".writable-{uuid.uuid4().hex[:8]}"
        self.write(probe, b"")
        self.delete(probe)

    def delete(self, relative: str) -> None:
        """Delete a file; that there is none is fine."""
        try:
            if self.local is not None:
                self.path(relative).unlink(missing_ok=True)
                return
            assert self._remote is not None
            self._remote.delete_file(f"{self._prefix}/{relative}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"The store {self} cannot be written ({relative}): {_first_line(error)}.") from None

    # Artifacts

    def committed(self, task_names: Iterable[str]) -> set[str]:
        """Keys of all committed artifacts of these task classes, found by listing."""
        keys: set[str] = set()
        for name in task_names:
            keys |= self._committed_of(name)
        return keys

    def _committed_of(self, name: str) -> set[str]:
        if self.local is not None:
            folder = self.path(f"artifacts/{name}")
            # A folder arrives by one rename with its manifest inside, so its name is proof enough.
            try:
                with os.scandir(folder) as entries:
                    return {e.name for e in entries if not e.name.startswith(".")}
            except FileNotFoundError:
                return set()
            except OSError as error:
                raise StoreError(f"The store {self} cannot be read: {_first_line(error)}.") from None
        from pyarrow.fs import FileSelector

        assert self._remote is not None
        selector = FileSelector(f"{self._prefix}/artifacts/{name}", recursive=True, allow_not_found=True)
        try:
            infos = self._remote.get_file_info(selector)
        except OSError as error:
            raise StoreError(f"The store {self} cannot be read: {_first_line(error)}.") from None
        return {info.path.split("/")[-2] for info in infos if info.base_name == MANIFEST}

    def task_names(self) -> list[str]:
        """Names of the task classes that have artifacts."""
        return self.names("artifacts")

    def find(self, prefix: str) -> list[tuple[str, str]]:
        """(task name, key) of every artifact whose key starts with `prefix`."""
        return [(n, k) for n in self.task_names() for k in sorted(self._committed_of(n)) if k.startswith(prefix)]

    def manifest(self, task_name: str, key: str) -> dict[str, Any]:
        """The manifest of a committed artifact.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        data = self.read(f"artifacts/{task_name}/{key}/{MANIFEST}")
        if data is None:
            raise StoreError(f"The store {self} holds no artifact {task_name}/{key}.")
        try:
            manifest = _decoded(json.loads(data))
        except (ValueError, TypeError, AttributeError):
            manifest = None
        if not isinstance(manifest, dict):
            raise StoreError(
                f"The manifest of {task_name}/{key} in {self} is damaged: delete that folder and run again."
            )
        return manifest

    def manifests(self, artifacts: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """The manifests of many artifacts, in order; read in parallel from an object store."""
        pairs = list(artifacts)
        if self.local is not None:
            yield from (self.manifest(n, k) for n, k in pairs)
            return
        with ThreadPoolExecutor(32) as pool:
            yield from pool.map(lambda nk: self.manifest(*nk), pairs)

    def workspace(self) -> Path:
        """A new empty local folder for a running task's files, on the store's own disk if it has one."""
        if self.local is None:
            return Path(tempfile.mkdtemp(prefix="orchestrator-"))
        parent = self.path("tmp")
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=parent))

    def commit(self, task_name: str, key: str, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Commit the files of `folder` (from `workspace`) with this manifest, durably and atomically.

        If the key is committed already, that artifact stays as it is.

        Returns:
            the manifest as committed, by this call or by an earlier one.
        """
        return self.publish([self.prepare(task_name, key, folder, manifest)])[0]

    def prepare(self, task_name: str, key: str, folder: Path, manifest: Mapping[str, Any]) -> Prepared:
        """The first half of a commit: hash the files and complete the manifest with `files`."""
        files = {}
        try:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
                files[path.relative_to(folder).as_posix()] = {
                    "size": path.stat().st_size,
                    "sha256": digest.hexdigest(),
                }
            whole = {"format": FORMAT, "key": key, "task": task_name, **manifest, "files": files}
            (folder / MANIFEST).write_bytes(json.dumps(_encoded(whole), sort_keys=True, indent=1).encode())
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StoreError(f"The store {self} cannot be written: {_first_line(error)}.") from None
        return Prepared(task_name, key, folder, whole)

    def publish(self, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
        """The second half of a commit, for several artifacts that do not need one another.

        Together they cost little more than one: what is slow about a durable commit is waiting for the
        disk, and all are waited for at once (a group commit, as databases call it).

        Returns:
            the manifests as committed, by this call or by earlier ones.
        """
        try:
            if self.local is not None:
                mine = self._publish_locally(prepared)
            else:
                mine = [self._publish_remotely(p) for p in prepared]
        except OSError as error:
            raise StoreError(f"The store {self} cannot be written: {_first_line(error)}.") from None
        finally:
            for p in prepared:
                shutil.rmtree(p.folder, ignore_errors=True)
        return [p.manifest if own else self.manifest(p.task_name, p.key) for p, own in zip(prepared, mine, strict=True)]

    def _publish_locally(self, prepared: Sequence[Prepared]) -> list[bool]:
        """Whether this call made each commit: another worker may have been faster."""
        for p in prepared:
            os.chmod(p.folder, 0o755)  # mkdtemp made it private
        if len(prepared) < GROUP or not _sync_filesystem(self.path("tmp")):
            for p in prepared:
                for name in [*p.manifest["files"], MANIFEST]:
                    _sync(p.folder / name)
                _sync(p.folder)
        mine, parents = [], set()
        for p in prepared:
            target = self.path(f"artifacts/{p.task_name}/{p.key}")
            target.parent.mkdir(parents=True, exist_ok=True)
            parents.add(target.parent)
            try:
                os.rename(p.folder, target)
                mine.append(True)
            except OSError:
                if not (target / MANIFEST).exists():
                    raise
                mine.append(False)  # another worker committed the same key: same key, same content
        for parent in parents:
            _sync(parent)
        return mine

    def _publish_remotely(self, p: Prepared) -> bool:
        from pyarrow.fs import LocalFileSystem, copy_files

        assert self._remote is not None
        target = f"artifacts/{p.task_name}/{p.key}"
        if self.read(f"{target}/{MANIFEST}") is not None:
            return False
        for name in [*p.manifest["files"], MANIFEST]:  # the manifest last: it is the commit
            copy_files(
                str(p.folder / name),
                f"{self._prefix}/{target}/{name}",
                source_filesystem=LocalFileSystem(),
                destination_filesystem=self._remote,
            )
        return True

    def fetch(self, task_name: str, key: str) -> Path:
        """A local folder with the artifact's files: its own in a local store, else a cached copy."""
        relative = f"artifacts/{task_name}/{key}"
        if self.local is not None:
            return self.path(relative)
        cache = Path(tempfile.gettempdir()) / f"orchestrator-cache-{os.getuid()}" / key
        if cache.exists():
            return cache
        from pyarrow.fs import LocalFileSystem, copy_files

        assert self._remote is not None
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = Path(tempfile.mkdtemp(dir=cache.parent, prefix=".part-"))
        try:
            copy_files(
                f"{self._prefix}/{relative}",
                str(part),
                source_filesystem=self._remote,
                destination_filesystem=LocalFileSystem(),
            )
            os.rename(part, cache)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            if not cache.exists():  # else another process of this node was faster
                raise StoreError(f"The artifact {key} cannot be fetched from {self}: {_first_line(error)}.") from None
        return cache

    # Runs

    def latest_run(self, sweep: str) -> str | None:
        """Name of the newest run of a sweep."""
        data = self.read(f"runs/{sweep}/latest")
        return data.decode().strip() if data else None


def _encoded(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with results that JSON has no number for (nan, inf) as {"float": "nan"}."""
    results = {
        k: {"float": repr(float(v))} if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in manifest.get("results", {}).items()
    }
    return {**manifest, "results": results} if results else dict(manifest)


def _decoded(manifest: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `_encoded`."""
    for name, value in manifest.get("results", {}).items():
        if isinstance(value, dict):
            manifest["results"][name] = float(value["float"])
    return manifest


def _digest(file: Any) -> Any:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest


def _sync_filesystem(path: Path) -> bool:
    """Wait until all that was written to the filesystem of `path` is on disk; False where that cannot be asked."""
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # Linux
    if syncfs is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    """An error's first line without its final stop, to stand inside a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}" + (f" ({error.filename})" if error.filename else "")
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
