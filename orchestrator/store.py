"""The store: committed artifacts, snapshots and the records of runs, in a folder or on any pyarrow filesystem.

Layout::

    store.json                                                  the format; a newer one is refused
    artifacts/<Task>/<key>/manifest.json + the task's files     committed, never changed
    snapshots/<key>/state                                       of tasks that are not committed yet
    damaged/<Task>/<key>-<n>/                                   artifacts that were found damaged
    runs/<sweep>/<run>/…                                        what a run leaves; `latest` names the newest
    searches/<key>.jsonl                                        decisions of adaptive searches
    tmp/<host>-<pid>-…                                          what is not finished, in a local store

The manifest is the commit. In a local store it arrives together with the files by one atomic rename. In an
object store every writer uploads the files to a folder of its own, `artifacts/<Task>/<key>/<folder>/`, and then
creates the manifest, which names that folder, unless there is one. So the first commit wins, and manifest and
files always belong together, whatever two writers do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .cache import Cache
from .errors import DamagedArtifact, NoPlainFile, StoreError, StoreFull
from .files import fault_of, hash_file, is_plain, sync, sync_filesystem, words_of
from .identity import mine
from .manifests import FOLDER, FORMAT, MANIFEST, Wrong, bytes_of, checked, decoded
from .node import difference, node_folder, note
from .store_files import ARTIFACTS, DAMAGED, SNAPSHOTS, UNFINISHED, StoreFiles

DROPPED = "dropped.json"
"""Beside a manifest: names the files that were deleted to save space."""

GROUP = 4
"""From how many artifacts on one call to sync their filesystem is cheaper than one for every file."""

KNOWN = 10_000
"""How many manifests one Store keeps in memory."""

_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*(@)")


def without_passwords(text: str) -> str:
    """`text` with the passwords of the URIs in it replaced by stars."""
    return _PASSWORD.sub(r"\1***\2", text)


@dataclass(frozen=True)
class Prepared:
    """A task's files, hashed and with their manifest, not yet committed."""

    task_name: str
    key: str
    folder: Path
    manifest: dict[str, Any]


class Store(StoreFiles):
    """Artifacts, snapshots and run records under one URI (see `StoreFiles`)."""

    def __init__(self, uri: str, *, patience: float = 0.0) -> None:
        super().__init__(uri, patience=patience)
        self._known: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    # Artifacts

    def committed(self, task_names: Iterable[str]) -> set[str]:
        """Keys of all committed artifacts of these task classes, found by listing."""
        keys: set[str] = set()
        for name in task_names:
            keys |= self._with(name, MANIFEST)
        return keys

    def _with(self, name: str, file: str) -> set[str]:
        """Keys of the artifacts of a class that have this file beside their manifest, or as it."""
        folder = f"{ARTIFACTS}/{name}"
        if self.local is None:
            found = (listed.path.split("/") for listed in self.listing(folder))
            return {parts[2] for parts in found if len(parts) == 4 and parts[3] == file}
        keys = {key for key in self.names(folder) if not key.startswith(".")}
        if file == MANIFEST:
            # A folder arrives by one rename with its manifest inside, so its name is proof enough.
            return keys
        return {key for key in keys if self.path(f"{folder}/{key}/{file}").exists()}

    def exists(self, task_name: str, key: str) -> bool:
        """Whether the artifact is committed, and whole (see `drop_weights`)."""
        place = _place(task_name, key)
        return self._files.exists(f"{place}/{MANIFEST}") and not self._files.exists(f"{place}/{DROPPED}")

    def task_names(self) -> list[str]:
        """Names of the task classes that have artifacts."""
        return self.names(ARTIFACTS)

    def find(self, prefix: str) -> list[tuple[str, str]]:
        """(task name, key) of every artifact whose key starts with `prefix`."""
        return [(n, k) for n in self.task_names() for k in sorted(self._with(n, MANIFEST)) if k.startswith(prefix)]

    def manifest(self, task_name: str, key: str) -> dict[str, Any]:
        """The manifest of a committed artifact.

        Raises:
            DamagedArtifact: there is none, or it is not what a commit writes.
            StoreError: it cannot be read.
        """
        known = (task_name, key)
        data = self._known.get(known) if self.local is None else None
        if data is None:
            try:
                data = self.read(f"{_place(task_name, key)}/{MANIFEST}")
            except NoPlainFile:
                raise self._damage(task_name, key, "its manifest is no plain file") from None
            if data is None:
                raise self._damage(task_name, key, "it is not there")
        try:
            manifest = checked(decoded(json.loads(data)), task_name, key)
            if b"\\ud" in data.lower():  # half a character, which cannot be written anywhere
                json.dumps(manifest, ensure_ascii=False).encode()
        except Wrong as error:
            raise self._damage(task_name, key, f"its manifest is damaged: {error}") from None
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise self._damage(task_name, key, "its manifest is damaged: it is not JSON of the right form") from None
        if manifest["format"] > FORMAT:
            raise StoreError(
                f"The artifact {task_name}/{key} in {self} was written by a newer version (format "
                f"{manifest['format']}; this one knows {FORMAT}): upgrade the orchestrator, or name another store."
            )
        if self.local is None:
            self._remember(known, data)
        return manifest

    def _remember(self, known: tuple[str, str], data: bytes) -> None:
        with self._lock:
            self._known[known] = data
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)

    def _forget(self, task_name: str, key: str) -> None:
        with self._lock:
            self._known.pop((task_name, key), None)

    def _damage(self, task_name: str, key: str, reason: str) -> DamagedArtifact:
        gone = reason == "it is not there"
        return DamagedArtifact(
            f"The store {self} holds no artifact {task_name}/{key}."
            if gone
            else f"The artifact {task_name}/{key} in {self} is damaged ({reason}): `orchestrator verify --set-aside` "
            "moves it away, and the sweep then makes it again.",
            task_name,
            key,
            reason,
        )

    def manifests(
        self, artifacts: Iterable[tuple[str, str]], damaged: list[DamagedArtifact] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The manifests of many artifacts, in order; read in parallel from an object store.

        Args:
            damaged: where to put the errors of those that are damaged or gone, which are then left out.
        """

        def one(artifact: tuple[str, str]) -> dict[str, Any] | DamagedArtifact:
            try:
                return self.manifest(*artifact)
            except DamagedArtifact as error:
                if damaged is None:
                    raise
                return error

        def kept(found: Iterable[dict[str, Any] | DamagedArtifact]) -> Iterator[dict[str, Any]]:
            for manifest in found:
                if isinstance(manifest, DamagedArtifact):
                    assert damaged is not None
                    damaged.append(manifest)
                else:
                    yield manifest

        pairs = list(artifacts)
        if self.local is not None:
            yield from kept(map(one, pairs))
            return
        with ThreadPoolExecutor(32) as pool:
            yield from kept(pool.map(one, pairs))

    # Commits

    def workspace(self) -> Path:
        """A new empty local folder for a running task's files, on the store's own disk if it has one."""
        try:
            if self.local is None:
                parent = node_folder("work")
                Cache().spare()
            else:
                parent = self.path("tmp")
                self._here.attempt("written", "tmp", lambda: self._here.make_folder(parent))
            return Path(tempfile.mkdtemp(dir=parent, prefix=f"{mine()}-"))
        except OSError as error:
            raise self._on_node(error, "A folder for the task's files cannot be made") from None

    def _on_node(self, error: OSError, what: str) -> StoreError:
        """The sentence for an error on this machine's own disk."""
        if fault_of(error, True) == "full":
            return StoreFull(
                f"{what}, since the disk is full ({words_of(error)}): make space, or set ORCHESTRATOR_CACHE."
            )
        return StoreError(f"{what}: {words_of(error)}.")

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
                if path.is_symlink():  # what lies elsewhere may change, and is not followed when it is read
                    copy = path.with_name(f"{path.name}.copy")
                    shutil.copyfile(path, copy)
                    os.replace(copy, path)
                size, digest = hash_file(path)
                files[path.relative_to(folder).as_posix()] = {"size": size, "sha256": digest}
            whole = {"format": FORMAT, "key": key, "task": task_name, **manifest, "files": files}
            if self.local is None:
                whole["folder"] = uuid.uuid4().hex[:16]
            (folder / MANIFEST).write_bytes(bytes_of(whole))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise self._on_node(error, f"The files of {task_name}/{key} cannot be written") from None
        return Prepared(task_name, key, folder, whole)

    def publish(self, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
        """The second half of a commit, for several artifacts that do not need one another.

        Together they cost little more than one: what is slow about a durable commit is waiting for the
        disk, and all are waited for at once (a group commit, as databases call it). The first commit of a
        key stands; one that is damaged, or whose weights were deleted, gives way.

        Returns:
            the manifests as committed, by this call or by earlier ones.
        """
        try:
            if self.local is None:
                found = [self._publish_remotely(p) for p in prepared]
                mine = [p for p, stored in zip(prepared, found, strict=True) if stored is p.manifest]
                with contextlib.suppress(OSError, StoreError):  # they are committed: what is left is a favour
                    Cache().adopt([(p.key, p.folder, p.manifest["files"]) for p in mine])
                return found
            self._files.attempt("written", ARTIFACTS, partial(self._make_durable, prepared))
            found = [self._publish_locally(p) for p in prepared]
            for name in {p.task_name for p in prepared}:
                parent = self.path(f"{ARTIFACTS}/{name}")
                self._files.attempt("written", f"{ARTIFACTS}/{name}", partial(sync, parent))
            return found
        finally:
            for p in prepared:
                shutil.rmtree(p.folder, ignore_errors=True)

    def _make_durable(self, prepared: Sequence[Prepared]) -> None:
        for p in prepared:
            os.chmod(p.folder, 0o755)  # mkdtemp made it private
        if len(prepared) < GROUP or not sync_filesystem(self.path("tmp")):
            for p in prepared:
                for name in [*p.manifest["files"], MANIFEST]:
                    sync(p.folder / name)
                sync(p.folder)

    def _publish_locally(self, p: Prepared) -> dict[str, Any]:
        place = _place(p.task_name, p.key)
        target = self.path(place)

        def rename() -> bool:
            if not p.folder.exists() and target.exists():
                return True  # an attempt that was not answered did it
            self._here.make_folder(target.parent)
            try:
                os.rename(p.folder, target)
            except OSError:
                if not target.is_dir():
                    raise
                return False
            return True

        while not self._files.attempt("written", place, rename):
            stored = self._stored(p)
            if stored is not None:
                return stored
        for name in p.manifest["files"]:
            note(target / name)  # hashed by this process a moment ago
        return p.manifest

    def _publish_remotely(self, p: Prepared) -> dict[str, Any]:
        place = _place(p.task_name, p.key)
        if self._files.exists(f"{place}/{MANIFEST}") and (stored := self._stored(p)) is not None:
            return stored
        folder = f"{place}/{p.manifest['folder']}"
        data = bytes_of(p.manifest)
        while True:
            began = time.time()
            for name in p.manifest["files"]:
                self._there.upload(p.folder / name, f"{folder}/{name}")
            if not self.create(f"{place}/{MANIFEST}", data):
                stored = self._stored(p)
                if stored is None:
                    continue  # what gave way may have taken these files along
                if p.manifest["files"]:
                    self.delete_folder(folder)
                return stored
            # A process that was asleep for long may have been taken for dead, and its files for left over.
            if time.time() - began < UNFINISHED / 4 or self._all_there(folder, p.manifest["files"]):
                self._remember((p.task_name, p.key), data)
                return p.manifest
            self.delete(f"{place}/{MANIFEST}")

    def _all_there(self, folder: str, files: Mapping[str, Any]) -> bool:
        return {f"{folder}/{name}" for name in files} <= {listed.path for listed in self.listing(folder)}

    def _stored(self, p: Prepared) -> dict[str, Any] | None:
        """The manifest that another worker has committed for the same key; None if that had to give way."""
        self._forget(p.task_name, p.key)
        try:
            stored = self.manifest(p.task_name, p.key)
        except DamagedArtifact:
            self.set_aside(p.task_name, p.key)
            return None
        if self._files.exists(f"{_place(p.task_name, p.key)}/{DROPPED}"):
            self.delete_artifact(p.task_name, p.key)
            return None
        return stored

    # Artifacts to read, and what may befall them

    def fetch(self, task_name: str, key: str, hold: contextlib.ExitStack | None = None) -> Path:
        """A local folder with the artifact's files: its own in a local store, else a copy in the node's cache.

        Every file is compared with its manifest before this process first uses it.

        Args:
            hold: the copy stays until this is closed; without it, it may go at any time.

        Raises:
            DamagedArtifact: a file is not what was committed, or there is no such artifact.
        """
        return self._fetch(task_name, key, None, hold)

    def fetch_file(self, task_name: str, key: str, name: str, hold: contextlib.ExitStack | None = None) -> Path:
        """One file of an artifact, in a local folder; like `fetch` without the other files.

        Raises:
            DamagedArtifact: it is not what was committed, or there is no such file or artifact.
        """
        return self._fetch(task_name, key, name, hold) / name

    def _fetch(self, task_name: str, key: str, only: str | None, hold: contextlib.ExitStack | None) -> Path:
        if hold is None:
            with contextlib.ExitStack() as moment:
                return self._fetch(task_name, key, only, moment)
        manifest = self.manifest(task_name, key)
        try:
            return self._fetch_from(task_name, key, manifest, only, hold)
        except DamagedArtifact:
            self._forget(task_name, key)  # the artifact may have been made anew since the manifest was read
            again = self.manifest(task_name, key)
            if again == manifest:
                raise
            return self._fetch_from(task_name, key, again, only, hold)

    def _fetch_from(
        self, task_name: str, key: str, manifest: dict[str, Any], only: str | None, hold: contextlib.ExitStack
    ) -> Path:
        files = manifest["files"]
        if only is not None:
            if only not in files:
                raise self._damage(task_name, key, f"{only}: missing")
            files = {only: files[only]}
        if self.local is None:
            return self._fetch_remotely(task_name, key, manifest, files, hold)
        folder = self.path(_place(task_name, key))
        wrong = self._differences(task_name, key, folder, files)
        if wrong:
            raise self._damage(task_name, key, _listed(wrong))
        return folder

    def _differences(self, task_name: str, key: str, folder: Path, files: Mapping[str, Any]) -> list[str]:
        """Words for each file that is not what its manifest says; those this process has seen intact are trusted."""
        place = _place(task_name, key)
        wrong = []
        for name, about in files.items():
            path = folder / name
            word = self._files.attempt("read", f"{place}/{name}", partial(difference, path, about))
            if word == "missing":
                word = self._missing(task_name, key, name)
            if word:
                wrong.append(f"{name}: {word}")
        return wrong

    def _missing(self, task_name: str, key: str, name: str) -> str:
        return "deleted to save space" if name in self.dropped_files(task_name, key) else "missing"

    def _fetch_remotely(
        self, task_name: str, key: str, manifest: dict[str, Any], files: Mapping[str, Any], hold: contextlib.ExitStack
    ) -> Path:
        place = _place(task_name, key)
        source = f"{place}/{manifest['folder']}" if "folder" in manifest else place

        def fetch(part: Path) -> None:
            self._download(task_name, key, source, files, part)
            (part / MANIFEST).write_bytes(bytes_of(manifest))

        try:
            cache = Cache()
            files = manifest["files"] if cache.has(key, manifest["files"]) else files
            return hold.enter_context(cache.held(key, files, fetch, patience=self.patience))
        except OSError as error:
            raise self._on_node(error, f"The artifact {task_name}/{key} cannot be copied to this node") from None

    def _download(self, task_name: str, key: str, source: str, files: Mapping[str, Any], part: Path) -> None:
        def one(name: str) -> str | None:
            digest = self._there.download(f"{source}/{name}", part / name)
            if digest is None:
                return f"{name}: {self._missing(task_name, key, name)}"
            if (part / name).stat().st_size != files[name]["size"]:
                return f"{name}: size differs"
            return None if digest == files[name]["sha256"] else f"{name}: content differs"

        if len(files) == 1:
            wrong = [one(name) for name in files]
        else:
            with ThreadPoolExecutor(8) as pool:
                wrong = list(pool.map(one, files))
        found = [word for word in wrong if word is not None]
        if found:
            raise self._damage(task_name, key, _listed(found))

    def verify(self, task_name: str, key: str) -> list[str]:
        """Hash the artifact's files again; words for each damage, none for files that were deleted on purpose."""
        self._forget(task_name, key)
        try:
            manifest = self.manifest(task_name, key)
        except DamagedArtifact as error:
            return [error.reason]
        place = _place(task_name, key)
        dropped = self.dropped_files(task_name, key)
        wrong = []
        for name, about in manifest["files"].items():
            if self.local is None:
                source = f"{place}/{manifest['folder']}/{name}" if "folder" in manifest else f"{place}/{name}"
                found = self._there.hash(source)
            else:
                path = self.path(f"{place}/{name}")
                if not is_plain(path):
                    wrong.append(f"{name}: no plain file")
                    continue
                found = self._files.attempt("read", f"{place}/{name}", partial(hash_file, path), absent=None)
            if found is None:
                if name not in dropped:
                    wrong.append(f"{name}: missing")
            elif found[0] != about["size"]:
                wrong.append(f"{name}: size differs")
            elif found[1] != about["sha256"]:
                wrong.append(f"{name}: content differs")
        return wrong

    def set_aside(self, task_name: str, key: str) -> bool:
        """Move a damaged artifact out of the way, to `damaged/<Task>/<key>-<n>/`.

        It is looked at once more before: what somebody else has made anew meanwhile stays.

        Returns:
            whether this call moved it.
        """
        if not self.verify(task_name, key):
            return False
        place = _place(task_name, key)
        taken = self.names(f"{DAMAGED}/{task_name}")
        n = sum(1 for name in taken if name.startswith(f"{key}-")) + 1
        while f"{key}-{n}" in taken:
            n += 1
        target = f"{DAMAGED}/{task_name}/{key}-{n}"
        if self.local is not None:

            def rename() -> bool:
                self._here.make_folder(self.path(target).parent)
                os.rename(self.path(place), self.path(target))
                return True

            return bool(self._files.attempt("written", place, rename, absent=False))
        found = [listed.path for listed in self.listing(place)]
        folder = None
        with contextlib.suppress(DamagedArtifact):
            folder = self.manifest(task_name, key).get("folder")
        self._forget(task_name, key)
        if f"{place}/{MANIFEST}" not in found:
            return False
        self._there.move(f"{place}/{MANIFEST}", f"{target}/{MANIFEST}")
        for path in found:
            # Other folders may be of writers that are at work.
            inner = path[len(place) + 1 :]
            if inner == MANIFEST or (FOLDER.fullmatch(inner.partition("/")[0]) and inner.partition("/")[0] != folder):
                continue
            self._there.move(path, f"{target}/{inner}")
        return True

    def delete_artifact(self, task_name: str, key: str) -> None:
        """Delete an artifact; a reader sees all of it or nothing. Harmless if it is not there."""
        self._forget(task_name, key)
        place = _place(task_name, key)
        if self.local is None:
            self.delete(f"{place}/{MANIFEST}")
        self.delete_folder(place)

    def drop_weights(self, task_name: str, key: str) -> None:
        """Delete the weights (`*.safetensors`) of an artifact to save space; harmless if they are gone already.

        The rest stays. A file beside the manifest says what was deleted, so that it is not taken for damage,
        and a later commit of the same key, with weights, takes the artifact's place.
        """
        manifest = self.manifest(task_name, key)
        weights = [name for name in manifest["files"] if name.endswith(".safetensors")]
        place = _place(task_name, key)
        if not weights or self._files.exists(f"{place}/{DROPPED}"):
            return
        self.write(f"{place}/{DROPPED}", json.dumps({"files": weights}).encode())
        source = f"{place}/{manifest['folder']}" if "folder" in manifest else place
        for name in weights:
            self.delete(f"{source}/{name}")

    def dropped(self, task_name: str) -> set[str]:
        """Keys of the artifacts of a class whose weights were deleted to save space, found by listing."""
        return self._with(task_name, DROPPED)

    def dropped_files(self, task_name: str, key: str) -> set[str]:
        """Names of the files of an artifact that were deleted to save space."""
        try:
            data = self.read(f"{_place(task_name, key)}/{DROPPED}")
            names = json.loads(data or b"{}").get("files", [])
            return {name for name in names if isinstance(name, str)}
        except (ValueError, AttributeError, TypeError, RecursionError, NoPlainFile):
            return set()

    # Snapshots

    def read_snapshot(self, key: str) -> bytes | None:
        """The newest snapshot of a task, or None."""
        try:
            return self.read(f"{SNAPSHOTS}/{key}/state")
        except NoPlainFile:
            return b""  # as damaged as can be

    def write_snapshot(self, key: str, data: bytes) -> None:
        """Put a task's snapshot in the place of the one before."""
        self.write(f"{SNAPSHOTS}/{key}/state", data)

    def delete_snapshot(self, key: str) -> None:
        """A task needs its snapshot no longer; harmless if there is none."""
        self.delete_folder(f"{SNAPSHOTS}/{key}")

    def snapshot_keys(self) -> list[str]:
        """Keys of the tasks that have a snapshot."""
        return sorted({parts[1] for s in self.listing(SNAPSHOTS) if len(parts := s.path.split("/")) == 3})

    # Runs

    def latest_run(self, sweep: str) -> str | None:
        """Name of the newest run of a sweep."""
        try:
            data = self.read(f"runs/{sweep}/latest")
        except NoPlainFile:
            data = None
        return data.decode(errors="replace").strip() if data else None


def is_run(path: Any) -> bool:
    """Whether this is the path of a run in a store, "runs/<sweep>/<run>", and leads nowhere else."""
    parts = path.split("/") if isinstance(path, str) else []
    return len(parts) == 3 and parts[0] == "runs" and not {"", ".", ".."} & set(parts) and path.isprintable()


def _place(task_name: str, key: str) -> str:
    return f"{ARTIFACTS}/{task_name}/{key}"


def _listed(wrong: Sequence[str]) -> str:
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more
