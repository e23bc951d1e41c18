"""The cache of this node: copies of artifacts of an object store, one for all its processes, of bounded size.

Layout, in the folder "cache" of the node (see `node`)::

    bound                             bytes that it may hold, settled when it is first used
    crowded                           there while it holds more than that
    entries/<key>-<contents>-<room>/  a copy, read-only; `contents` are its files' hashes, `room` its bytes on disk
    parts/<entry>/                    an entry that is being fetched
    locks/<entry>.use                 held, shared, by all who use the entry; its time is that of the last use
    locks/<entry>.fill                held by the one who fetches the entry, while the others wait
    locks/room                        held by the one who makes room
    gone/                             what is being deleted

All locks are the kernel's (flock): they end with the process that holds them, however it ends. Only an entry whose
lock nobody shares is deleted. Files are never changed in place, and a file that is deleted while some process still
has it in memory (a dataset that a worker keeps for its next task) stays as it is for that process: the kernel frees
the space when the last such mapping ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import resource
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import StoreError, StoreRefused, StoreUnavailable
from .files import words_of
from .node import difference, node_folder, node_top, note

CAP = 200_000_000_000
"""Bytes that a cache holds at most where $ORCHESTRATOR_CACHE_GB says nothing else."""

RESERVE = 1_000_000_000
"""Bytes of the disk that the cache leaves free for the files of tasks; of a small disk a twentieth."""

STILL = 60.0
"""Seconds without progress after which one who fetches is not waited for any more, whatever the patience."""

LOW = 0.95
"""Once the bound is passed, entries go until so much of it is left in use."""

GRANT = 256
"""What a process takes in until it looks at all entries again: this part of the room that was left. Together the
processes of a node may pass the bound by a few such parts until one looks."""

_granted: dict[Path, int] = {}
"""Bytes that this process may still take in, by folder."""

BLOCK = 4096

FULL = (errno.ENOSPC, errno.EDQUOT)

FOLDERS = ("entries", "parts", "locks", "gone")
_ENTRY = re.compile(r"([0-9a-f]+)-[0-9a-f]{16}-(\d+)")


class Cache:
    """The cache of this node.

    Raises:
        OSError: its folders cannot be made, or are not this user's.
        StoreRefused: a setting of the environment is no good.
    """

    def __init__(self) -> None:
        self.folder = node_folder("cache")
        for name in FOLDERS:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder / name, 0o700)
        self._entries, self._parts, self._locks, self._gone = (self.folder / name for name in FOLDERS)

    # What it holds

    @property
    def bound(self) -> int:
        """Bytes that it may hold: what the environment says, else half of what was free when it was first used."""
        stated = stated_bound()
        if stated is not None:
            return stated
        path = self.folder / "bound"
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(path.read_text())
        bound = min(shutil.disk_usage(self.folder).free // 2, CAP)
        part = self.folder / f"bound.{uuid.uuid4().hex}"
        part.write_text(str(bound))
        os.replace(part, path)
        return bound

    def sizes(self) -> dict[str, int]:
        """The entries with their bytes on disk."""
        return _sized(self._entries)

    def has(self, key: str, files: Mapping[str, Any]) -> bool:
        """Whether these files of an artifact are here now."""
        return (self._entries / entry_name(key, files)).is_dir()

    @contextlib.contextmanager
    def held(
        self, key: str, files: Mapping[str, Any], fetch: Callable[[Path], None], *, patience: float
    ) -> Iterator[Path]:
        """A folder with these files of an artifact, which stays for as long as the context does.

        Of several processes that want it one fetches it; if that is killed, another does.

        Args:
            files: as in a manifest, with sizes and hashes.
            fetch: brings the files and the manifest into a folder; an OSError of a full disk is tried again after
                other entries are gone.
            patience: seconds to wait for one who fetches it and comes no further.

        Raises:
            StoreUnavailable: nobody came any further for so long.
        """
        name = entry_name(key, files)
        use = self._lock(f"{name}.use", fcntl.LOCK_SH)
        try:
            if not self._is_whole(name, files):
                self._fill(name, files, fetch, patience)
            os.utime(use)
            _note_arrival(name)
            yield self._entries / name
        finally:
            _unlock(use)
            if (self.folder / "crowded").exists():
                with contextlib.suppress(OSError, StoreUnavailable):
                    self._make_room(0)

    def adopt(self, made: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> None:
        """Take in what this node has made, so that it need not be fetched: folders, moved, which hold a manifest too.

        Args:
            made: key, folder and files of each. A folder stays where it is if the cache has no use for it.
        """
        bound = self.bound
        with contextlib.ExitStack() as locks:
            taken = []
            for key, folder, files in made:
                name = entry_name(key, files)
                if room_of(name) > bound or (self._entries / name).exists():
                    continue
                locks.callback(_unlock, self._lock(f"{name}.use", fcntl.LOCK_SH))
                fill = self._try(f"{name}.fill")
                if fill is None:
                    continue  # somebody is fetching it this very moment
                locks.callback(self._let_go, f"{name}.fill", fill)
                part = self._parts / name
                shutil.rmtree(part, ignore_errors=True)
                os.rename(folder, part)
                taken.append((name, files))
            if taken and not self._is_granted(sum(room_of(name) for name, _ in taken)):
                self._make_room(0)
            for name, files in taken:
                self._complete(name, files)
                _note_arrival(name)

    def clean_up(self) -> None:
        """Delete what processes that are gone have left unfinished."""
        for path in self.folder.iterdir():
            if path.name not in (*FOLDERS, "bound", "crowded"):  # of a version before, or half a file
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)
        self._drop_stale_parts()
        with self._making_room():
            pass
        for path in self._locks.iterdir():
            entry = self._entries / path.name.rpartition(".")[0]
            if path.name != "room" and (path.suffix == ".fill" or not entry.exists()):
                lock = self._try(path.name)
                if lock is not None:
                    self._let_go(path.name, lock)

    # Fetching

    def _is_whole(self, name: str, files: Mapping[str, Any]) -> bool:
        entry = self._entries / name
        return entry.is_dir() and not any(difference(entry / n, about) for n, about in files.items())

    def _fill(self, name: str, files: Mapping[str, Any], fetch: Callable[[Path], None], patience: float) -> None:
        part = self._parts / name
        fill = self._wait_for(f"{name}.fill", patience, lambda: _bytes_in(part))
        try:
            if self._is_whole(name, files):
                return  # by whoever was waited for
            self._discard(self._entries / name)
            shutil.rmtree(part, ignore_errors=True)  # of one who was killed
            part.mkdir(0o700)
            self._make_room(room_of(name))
            while True:
                try:
                    fetch(part)
                    break
                except OSError as error:
                    if error.errno not in FULL or not self._make_room(room_of(name), at_least=1):
                        raise
            self._complete(name, files)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            self._let_go(f"{name}.fill", fill)

    def _complete(self, name: str, files: Mapping[str, Any]) -> None:
        """A part has all its files, of which this process knows the contents."""
        part, entry = self._parts / name, self._entries / name
        for file in files:
            os.chmod(part / file, 0o444)  # shared by all tasks of the node
        os.rename(part, entry)
        for file in files:
            note(entry / file)

    # Room

    def _make_room(self, wanted: int, *, at_least: int = 0) -> int:
        """Let the least recently used entries go until the bound is kept and the disk has room.

        What is being fetched counts. So does what is in use, but it stays.

        Args:
            wanted: bytes that are about to be written.
            at_least: how many entries are to go in any case.

        Returns:
            how many have gone.
        """
        with self._making_room():
            bound, went = self.bound, 0
            entries = _sized(self._entries)
            total = sum(entries.values()) + sum(_sized(self._parts).values())
            crowded = self.folder / "crowded"

            def is_enough(bound: int = bound) -> bool:
                return total <= bound and went >= at_least and self._lacking(wanted) <= 0

            if not is_enough():
                low = int(LOW * bound)  # or every entry from now on would need a look at all
                # First, so that one who lets go of an entry after it was found in use will look again.
                crowded.touch()
                self._drop_stale_parts()
                total = sum(entries.values()) + sum(_sized(self._parts).values())
                for name in sorted(entries, key=lambda name: (entries[name] <= bound, self._last_use(name))):
                    if is_enough(low):
                        break
                    if self._evict(name):
                        went += 1
                        total -= entries[name]
            if total <= bound:
                crowded.unlink(missing_ok=True)
            _granted[self.folder] = max(bound - total, 0) // GRANT
            return went

    def _is_granted(self, size: int) -> bool:
        """Whether so many bytes may come without a look at all entries, which takes longer the more there are."""
        left = _granted.get(self.folder, 0) - size
        _granted[self.folder] = max(left, 0)
        return left >= 0 and self._lacking(0) <= 0

    def _lacking(self, wanted: int) -> int:
        """Bytes that the disk lacks, if so many are to be written."""
        disk = shutil.disk_usage(self.folder)
        return wanted + min(RESERVE, disk.total // 20) - disk.free

    def spare(self) -> None:
        """Make room for the files of a task, if the disk is nearly full."""
        if self._lacking(0) > 0 and self.sizes():
            self._make_room(0)

    @contextlib.contextmanager
    def _making_room(self) -> Iterator[None]:
        room = self._wait_for("room", 0.0, lambda: (len(self.sizes()), _bytes_in(self._gone)))
        try:
            for path in self._gone.iterdir():  # of one who was killed
                shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            _unlock(room)

    def _evict(self, name: str) -> bool:
        use = self._try(f"{name}.use")
        if use is None:
            return False
        away = self._discard(self._entries / name)
        self._let_go(f"{name}.use", use)
        if away is not None:
            shutil.rmtree(away, ignore_errors=True)
        _note_departure(name)
        return True

    def _discard(self, entry: Path) -> Path | None:
        """Take an entry out of sight, at once, for whoever makes room next to delete."""
        away = self._gone / uuid.uuid4().hex
        try:
            os.rename(entry, away)
        except FileNotFoundError:
            return None
        return away

    def _drop_stale_parts(self) -> None:
        for name in _sized(self._parts):
            fill = self._try(f"{name}.fill")
            if fill is not None:
                shutil.rmtree(self._parts / name, ignore_errors=True)
                self._let_go(f"{name}.fill", fill)

    def _last_use(self, name: str) -> float:
        try:
            return (self._locks / f"{name}.use").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    # Locks

    def _try(self, name: str) -> int | None:
        """The lock for this process alone; None if anybody has it."""
        try:
            return self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None

    def _lock(self, name: str, how: int) -> int:
        path = self._locks / name
        while True:
            lock = _opened(path)
            try:
                fcntl.flock(lock, how)
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(lock)
                raise
            _unlock(lock)  # whoever had it has deleted it

    def _let_go(self, name: str, lock: int) -> None:
        """Delete the file of a lock that this process has alone, and the lock with it."""
        (self._locks / name).unlink(missing_ok=True)
        _unlock(lock)

    def _wait_for(self, name: str, patience: float, progress: Callable[[], object]) -> int:
        """The lock for this process alone, once whoever has it has let go; as long as it comes further it may take."""
        pause, since, seen = 0.002, time.monotonic(), None
        looked = since
        while (lock := self._try(name)) is None:
            now = time.monotonic()
            if now - looked > 1:
                looked = now
                if (found := progress()) != seen:
                    since, seen = now, found
            if now - since > max(patience, STILL):
                raise StoreUnavailable(
                    f"Another process of this machine has held {self._locks / name} for {now - since:.0f} seconds "
                    "without coming any further: end it, or continue it if it was stopped."
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return lock


def entry_name(key: str, files: Mapping[str, Any]) -> str:
    """Name of the entry for these files of an artifact."""
    contents = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
    return f"{key}-{contents}-{sum(_blocks(about['size']) for about in files.values()) + 2 * BLOCK}"


def room_of(name: str) -> int:
    """Bytes on disk of an entry."""
    return int(name.rpartition("-")[2])


def stated_bound() -> int | None:
    """The bound in bytes that $ORCHESTRATOR_CACHE_GB states, None if it does not.

    Raises:
        StoreRefused: it states no number of at least 0.
    """
    text = os.environ.get("ORCHESTRATOR_CACHE_GB", "")
    if not text.strip():
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < math.inf:
        raise StoreRefused(f"$ORCHESTRATOR_CACHE_GB must be a number of at least 0, such as 50, not {text!r}.")
    return int(gigabytes * 1e9)


def check_settings() -> None:
    """Raise StoreRefused if $ORCHESTRATOR_CACHE or $ORCHESTRATOR_CACHE_GB cannot be meant."""
    stated_bound()
    node_top()


def describe() -> str:
    """The cache of this node in a line, for `doctor`."""
    try:
        cache = Cache()
    except OSError as error:
        return f"cannot be used: {words_of(error)}"
    return f"{cache.folder}: {sum(cache.sizes().values()) / 1e9:.1f} of at most {cache.bound / 1e9:.1f} GB"


_arrived: dict[str, int] = {}
_departed: set[str] = set()
_told: set[str] = set()
_asked = False


def _note_arrival(name: str) -> None:
    if name not in _told:
        _told.add(name)
        key = name.partition("-")[0]
        _arrived[key] = room_of(name)
        _departed.discard(key)


def _note_departure(name: str) -> None:
    _told.discard(name)
    key = name.partition("-")[0]
    _arrived.pop(key, None)
    _departed.add(key)


def news() -> dict[str, Any]:
    """What this process has used, put or fetched in the cache since it was last asked, and what it has deleted.

    At first all that is there. Empty, or `here` (bytes by key) and `gone` (keys).
    """
    global _asked
    if not _asked:
        _asked = True
        with contextlib.suppress(OSError, StoreError):
            for name in Cache().sizes():
                _note_arrival(name)
    told: dict[str, Any] = {}
    if _arrived:
        told["here"] = dict(_arrived)
        _arrived.clear()
    if _departed:
        told["gone"] = sorted(_departed)
        _departed.clear()
    return told


def _sized(folder: Path) -> dict[str, int]:
    return {name: int(match[2]) for name in os.listdir(folder) if (match := _ENTRY.fullmatch(name))}


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _unlock(lock: int) -> None:
    """Let go of a lock, though a process that was forked meanwhile (a loader of data) may still have it open."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    # A probe on thousands of trials holds as many entries.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return os.open(path, flags, 0o600)
