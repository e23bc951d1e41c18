"""Files by relative path below one root, in a local folder or on any pyarrow filesystem.

All that a store reads and writes goes through here, so that one place decides what an error means:

- it does not answer (refused or broken connections, timeouts, 5xx, a vanished mount): tried again with a growing
  delay for as long as there is patience, then `StoreUnavailable`;
- it is full: `StoreFull`, at once;
- anything else (credentials, permissions, no such bucket): `StoreError`, at once.

"There is no such file" is an answer, but one that a server gives wrongly while it comes up, and a mount point
while nothing is mounted there. It is believed if the root's marker can be seen at that time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import re
import shutil
import stat
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .errors import NoPlainFile, StoreError, StoreFull, StoreRefused, StoreUnavailable
from .identity import mine

if TYPE_CHECKING:
    from .buckets import Bucket

A = TypeVar("A")
T = TypeVar("T")

MARKER = "store.json"

BLINK = 1.0
"""Seconds for which a store may fail to answer even where no patience was asked for."""

LONGEST_PAUSE = 10.0
"""Seconds between two attempts at most."""

CHUNK = 16 << 20
"""Bytes of a file that are fetched at a time."""

BUFFER = 1 << 18
"""Bytes of a file that are hashed at a time."""

RECENTLY = 60.0
"""Seconds after trouble in which "there is no such file" is not believed without a second look."""


@dataclass(frozen=True)
class Listed:
    """A file found by listing.

    Attributes:
        path: relative to the root.
        modified: Unix seconds.
    """

    path: str
    size: int
    modified: float


class Files(ABC):
    """Files below a root.

    Attributes:
        patience: seconds to wait for a root that does not answer.
        on_wait: told one sentence when waiting begins, and one when it ends.
        reached: it has answered at least once; a name that cannot be resolved is a mistake until then.
        marked: its marker was seen, so that not to find it means trouble.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.patience = 0.0
        self.on_wait: Callable[[str], None] | None = None
        self.reached = False
        self.marked = False
        self._troubled = float("-inf")
        self._waiting = 0
        self._lock = threading.Lock()

    # What there is to do with files; each raises StoreError

    def read(self, relative: str) -> bytes | None:
        """The file's bytes, or None if there is no such file."""
        data = self.attempt("read", relative, lambda: self._read(relative), absent=None)
        if data is not None and relative == MARKER:
            self.marked = True
        return data

    def write(self, relative: str, data: bytes, *, durable: bool = True) -> None:
        """Write the file atomically; `durable`: return when it is on disk."""
        self.attempt("written", relative, lambda: self._write(relative, data, durable))
        if relative == MARKER:
            self.marked = True

    def create(self, relative: str, data: bytes) -> bool:
        """Write the file if there is none; whether this call made it."""
        uncertain = [False]  # an attempt that was not answered may have made it

        def attempt() -> bool:
            try:
                return self._create(relative, data)
            except Exception:
                uncertain[0] = True
                raise

        made = self.attempt("written", relative, attempt)
        if not made and uncertain[0]:
            made = self.read(relative) == data
        if relative == MARKER:
            self.marked = True
        return made

    def names(self, relative: str) -> list[str]:
        """Names of the files and folders in a folder, sorted; empty if there is none."""
        return sorted(self.attempt("read", relative, lambda: self._names(relative), absent=[]))

    def listing(self, relative: str) -> list[Listed]:
        """All files below a folder, at any depth; empty if there is none."""
        return self.attempt("read", relative, lambda: self._listing(relative), absent=[])

    def exists(self, relative: str) -> bool:
        """Whether there is such a file."""
        return self.attempt("read", relative, lambda: self._exists(relative), absent=False)

    def delete(self, relative: str) -> None:
        """Delete a file; harmless if there is none."""
        self.attempt("written", relative, lambda: self._delete_file(relative), absent=None)

    def delete_folder(self, relative: str) -> None:
        """Delete a folder with all that is in it; harmless if there is none."""
        self.attempt("written", relative, lambda: self._delete_folder(relative), absent=None)

    # How: each raises what the system raises

    @abstractmethod
    def _read(self, relative: str) -> bytes: ...

    @abstractmethod
    def _write(self, relative: str, data: bytes, durable: bool) -> None: ...

    @abstractmethod
    def _create(self, relative: str, data: bytes) -> bool: ...

    @abstractmethod
    def _names(self, relative: str) -> list[str]: ...

    @abstractmethod
    def _listing(self, relative: str) -> list[Listed]: ...

    @abstractmethod
    def _exists(self, relative: str) -> bool: ...

    @abstractmethod
    def _delete_file(self, relative: str) -> None: ...

    @abstractmethod
    def _delete_folder(self, relative: str) -> None: ...

    @abstractmethod
    def _is_there(self) -> bool:
        """Whether the root itself can be seen: the second look before an absence is believed."""

    # Errors and patience

    @overload
    def attempt(self, doing: str, relative: str, action: Callable[[], T]) -> T: ...

    @overload
    def attempt(self, doing: str, relative: str, action: Callable[[], T], *, absent: A) -> T | A: ...

    def attempt(self, doing: str, relative: str, action: Callable[[], T], *, absent: Any = ...) -> Any:
        """Do it, again and again while the root does not answer.

        Args:
            doing: "read" or "written", for the sentence.
            absent: what to return if there is no such file; without it that is an error like others.

        Raises:
            StoreError: as the module's docstring says.
        """
        began, pause, waiting, answered = time.monotonic(), 0.1, False, False
        try:
            while True:
                try:
                    result = action()
                except StoreError:
                    raise
                except Exception as error:
                    if _is_absence(error) and absent is not ...:
                        words = self._doubt()
                        if words is None:
                            self.reached = answered = True
                            return absent
                    else:
                        fault = fault_of(error, self.reached)
                        answered = fault != "away"
                        if answered:
                            raise self._refusal(fault, doing, relative, error) from None
                        words = words_of(error)
                else:
                    self.reached = answered = True
                    return result
                self._troubled = time.monotonic()
                left = began + max(self.patience, BLINK) - self._troubled
                if left <= 0:
                    raise StoreUnavailable(
                        f"The store {self.name} does not answer ({words}), for {self._troubled - began:.0f} s: "
                        "check it and the way to it, then give the same command again, which goes on from what is "
                        "stored."
                    )
                if not waiting and self._troubled - began >= BLINK:
                    waiting = True
                    self._begin_to_wait(words)
                time.sleep(min(pause * random.uniform(0.5, 1.0), left))
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            if waiting:
                self._end_waiting(answered)

    def _doubt(self) -> str | None:
        """Why the root's word that there is no such file is not to be believed; None if it is."""
        if not self.marked and time.monotonic() - self._troubled > RECENTLY:
            return None
        try:
            return None if self._is_there() else "it seems to be empty; is it mounted?"
        except Exception as error:
            return words_of(error) if fault_of(error, True) == "away" else None

    def _begin_to_wait(self, words: str) -> None:
        with self._lock:
            self._waiting += 1
            first = self._waiting == 1
        if first and self.on_wait is not None:
            self.on_wait(f"The store {self.name} does not answer ({words}): waiting up to {self.patience:.0f} s.")

    def _end_waiting(self, answered: bool) -> None:
        with self._lock:
            self._waiting -= 1
            last = self._waiting == 0
        if last and answered and self.on_wait is not None:
            self.on_wait(f"The store {self.name} answers again.")

    def _refusal(self, fault: str, doing: str, relative: str, error: BaseException) -> StoreError:
        if fault == "full":
            return StoreFull(
                f"The store {self.name} is full ({relative}: {words_of(error)}): make space (`orchestrator gc` shows "
                "what no sweep needs), then give the same command again, which goes on from what is stored."
            )
        if fault == "access":
            return StoreRefused(f"The store {self.name} cannot be {doing}: {self._access_remedy(error)}.")
        return StoreError(f"The store {self.name} cannot be {doing} ({relative}): {words_of(error)}.")

    def _access_remedy(self, error: BaseException) -> str:
        return words_of(error)


class LocalFiles(Files):
    """Files in a folder of this machine.

    A file that is written is made in `tmp/` first, so that what a crash leaves is in one place.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    def path(self, relative: str) -> Path:
        return self.root / relative

    def read_from(self, relative: str, offset: int) -> bytes | None:
        """What a file holds from a byte on, or None if there is no such file."""

        def action() -> bytes:
            with open(self.path(relative), "rb", opener=_open_plain) as file:
                file.seek(offset)
                return file.read()

        return self.attempt("read", relative, action, absent=None)

    def append(self, relative: str, data: bytes, *, durable: bool = False) -> None:
        """Add to a file, in one write."""

        def action() -> None:
            target = self.path(relative)
            self.make_folder(target.parent)
            descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

        self.attempt("written", relative, action)

    def scratch(self) -> Path:
        """A path for something that is not finished yet; its name tells whose it is."""
        return self.path("tmp") / f"{mine()}-{uuid.uuid4().hex[:12]}"

    def make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            if self.marked and not self._is_there():  # never fill the place where a disk should be mounted
                raise OSError(errno.ENOTCONN, "it seems to be empty; is it mounted?")
            folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _part(self, target: Path, data: bytes, durable: bool) -> Iterator[Path]:
        self.make_folder(target.parent)
        part = self.scratch()
        self.make_folder(part.parent)
        try:
            with open(part, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield part
        finally:
            part.unlink(missing_ok=True)
        if durable:
            sync(target.parent)

    def _read(self, relative: str) -> bytes:
        with open(self.path(relative), "rb", opener=_open_plain) as file:
            return file.read()

    def _write(self, relative: str, data: bytes, durable: bool) -> None:
        target = self.path(relative)
        with self._part(target, data, durable) as part:
            os.replace(part, target)

    def _create(self, relative: str, data: bytes) -> bool:
        target = self.path(relative)
        with self._part(target, data, True) as part:
            try:
                os.link(part, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                return self._create_without_links(part, target)
        return True

    def _create_without_links(self, part: Path, target: Path) -> bool:
        """Where the filesystem has no links only the first to make the empty file may fill it."""
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        os.replace(part, target)
        return True

    def _names(self, relative: str) -> list[str]:
        return os.listdir(self.path(relative))

    def _listing(self, relative: str) -> list[Listed]:
        found: list[Listed] = []
        os.stat(self.path(relative))
        for folder, _, names in os.walk(self.path(relative)):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    about = path.lstat()
                    found.append(Listed(path.relative_to(self.root).as_posix(), about.st_size, about.st_mtime))
        return found

    def _exists(self, relative: str) -> bool:
        os.stat(self.path(relative))
        return True

    def _delete_file(self, relative: str) -> None:
        self.path(relative).unlink()

    def _delete_folder(self, relative: str) -> None:
        """First out of sight, at once, then for good."""
        away = self.scratch()
        self.make_folder(away.parent)
        os.rename(self.path(relative), away)
        shutil.rmtree(away, ignore_errors=True)

    def _is_there(self) -> bool:
        return (self.root / MARKER).exists()

    def _access_remedy(self, error: BaseException) -> str:
        return f"{words_of(error)}; check who may write there"


class RemoteFiles(Files):
    """Files in a bucket, or on whatever else pyarrow can open."""

    def __init__(self, name: str, bucket: Bucket) -> None:
        super().__init__(name)
        self.bucket = bucket

    def _full(self, relative: str) -> str:
        return f"{self.bucket.prefix}/{relative}" if relative else self.bucket.prefix

    @property
    def _system(self) -> Any:
        return self.bucket.system()

    def upload(self, path: Path, relative: str) -> None:
        """Copy a local file here."""
        from pyarrow.fs import LocalFileSystem, copy_files

        self.attempt(
            "written",
            relative,
            lambda: copy_files(
                str(path),
                self._full(relative),
                source_filesystem=LocalFileSystem(),
                destination_filesystem=self._system,
            ),
        )

    def download(self, relative: str, path: Path) -> str | None:
        """Copy a file to a local path; returns the SHA-256 of what came, None if there is no such file."""
        digest, size = hashlib.sha256(), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            while True:
                chunk = self.attempt("read", relative, partial(self._chunk, relative, size), absent=None)
                if chunk is None:
                    return None
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                if len(chunk) < CHUNK:
                    return digest.hexdigest()

    def hash(self, relative: str) -> tuple[int, str] | None:
        """Size and SHA-256 of a file as it is now; None if there is none."""
        digest, size = hashlib.sha256(), 0
        while True:
            chunk = self.attempt("read", relative, partial(self._chunk, relative, size), absent=None)
            if chunk is None:
                return None
            digest.update(chunk)
            size += len(chunk)
            if len(chunk) < CHUNK:
                return size, digest.hexdigest()

    def _chunk(self, relative: str, offset: int) -> bytes:
        with self._system.open_input_file(self._full(relative)) as file:
            n = min(CHUNK, file.size() - offset)
            return bytes(file.read_at(n, offset)) if n > 0 else b""  # there is no range of nothing

    def move(self, source: str, target: str) -> None:
        """Move a file; harmless if it is not there."""
        self.attempt("written", source, lambda: self._move(source, target), absent=None)

    def _move(self, source: str, target: str) -> None:
        self._make_parent(target)
        self._system.move(self._full(source), self._full(target))

    def _read(self, relative: str) -> bytes:
        with self._system.open_input_stream(self._full(relative)) as stream:
            return bytes(stream.read())

    def _make_parent(self, relative: str) -> None:
        if self.bucket.folders == "made":
            self._system.create_dir(self._full(relative).rpartition("/")[0], recursive=True)

    def _write(self, relative: str, data: bytes, durable: bool) -> None:
        self._make_parent(relative)
        with self._system.open_output_stream(self._full(relative)) as stream:
            stream.write(data)

    def _create(self, relative: str, data: bytes) -> bool:
        made = self.bucket.create(relative, data)
        if made is None:  # nothing here can do it in one step
            if self._there(relative):
                return False
            self._write(relative, data, True)
            return True
        return made

    def _there(self, relative: str) -> bool:
        from pyarrow.fs import FileType

        return bool(self._system.get_file_info(self._full(relative)).type == FileType.File)

    def _names(self, relative: str) -> list[str]:
        from pyarrow.fs import FileSelector

        if self.bucket.folders == "none":
            depth = relative.count("/") + 1 if relative else 0
            return list({listed.path.split("/")[depth] for listed in self._listing(relative)})
        infos = self._system.get_file_info(FileSelector(self._full(relative), allow_not_found=True))
        return [info.base_name for info in self._trusted(infos)]

    def _listing(self, relative: str) -> list[Listed]:
        from pyarrow.fs import FileSelector, FileType

        infos = self._system.get_file_info(FileSelector(self._full(relative), recursive=True, allow_not_found=True))
        start = len(self.bucket.prefix) + 1
        return [
            Listed(info.path[start:], info.size or 0, (info.mtime_ns or 0) / 1e9)
            for info in self._trusted(infos)
            if info.type == FileType.File
        ]

    def _trusted(self, infos: list[Any]) -> list[Any]:
        """What was listed; nothing at all is an absence, which may have to be looked at twice."""
        if not infos:
            raise FileNotFoundError
        return infos

    def _exists(self, relative: str) -> bool:
        if not self._there(relative):
            raise FileNotFoundError
        return True

    def _delete_file(self, relative: str) -> None:
        self._system.delete_file(self._full(relative))

    def _delete_folder(self, relative: str) -> None:
        if self.bucket.folders == "none":
            found = self._listing(relative)
            with ThreadPoolExecutor(16) as pool:
                for _ in pool.map(self.delete, (listed.path for listed in found)):
                    pass
            return
        self._system.delete_dir(self._full(relative))

    def _is_there(self) -> bool:
        return self._there(MARKER) or (not self.marked and self.bucket.is_there())

    def _access_remedy(self, error: BaseException) -> str:
        return self.bucket.access_remedy(words_of(error))


# What an error means

_AWAY = {
    errno.EAGAIN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENOTCONN, errno.EPIPE, errno.EREMOTEIO,
    errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}

_CODE = re.compile(r"(?:AWS Error |google::cloud::Status\()([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_CURL = re.compile(r"(?:curlCode: \d+, |CURL error \[\d+\]=)(.*?)(?=;| error_info|$)")
_UNDERLYING = re.compile(r"The underlying error message was: (.*?)(?: error_info|$)")  # of Google
_REFUSED = re.compile(r"connection: \[Errno \d+\] ([\w ]+)")
_ERRNO = re.compile(r"\[errno (\d+)\]", re.I)
_STATUS = re.compile(r"HTTP status:? (\d{3})|\b(?:status(?: code)?|Error code)[:= ]+(\d{3})", re.I)
_AWAY_CODES = {
    "NETWORK_CONNECTION", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING", "REQUEST_TIMEOUT",
    "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED",  # of Google
}  # fmt: skip
_ACCESS_CODES = {
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID",
    "MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "CLIENT_SIGNING_FAILURE", "INVALID_SIGNATURE",
    "INCOMPLETE_SIGNATURE", "REQUEST_EXPIRED", "NOT_INITIALIZED",
    "PERMISSION_DENIED", "UNAUTHENTICATED",  # of Google
}  # fmt: skip
_AWAY_WORDS = re.compile(
    r"slow ?down|too many requests|rate ?exceeded|timed? ?out|deadline|unavailable|connection (?:was )?(?:reset|refused"
    r"|closed|aborted)|could ?n[o']t connect|failed to connect|temporarily|server too busy|internal ?error",
    re.I,
)
_FULL_WORDS = re.compile(r"no space left|quota ?exceeded|storage ?full|insufficient ?storage|disk quota", re.I)
_UNRESOLVED = re.compile(r"resolve host|name or service not known|name resolution|certificate|SSL|TLS", re.I)
_ACCESS_WORDS = re.compile(r"forbidden|unauthorized|access ?denied|permission|credentials|anonymous caller", re.I)


def fault_of(error: BaseException, reached: bool) -> str:
    """What an error says of a root: "away", "full", "access" or "other".

    Args:
        reached: it has answered before, so that its name and its certificate are right.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _ERRNO.search(text)):
        number = int(match[1])
    if number in _FULL or _FULL_WORDS.search(text):
        return "full"
    if number in _AWAY or isinstance(error, ConnectionError | TimeoutError):
        return "away"
    if number in _ACCESS:
        return "access"
    status, code = _answer(error)
    if status == 507:
        return "full"
    if status in (401, 403) or code in _ACCESS_CODES:
        return "access"
    if _UNRESOLVED.search(text):
        return "away" if reached else "other"
    if status is not None:
        return "away" if status >= 500 or status in (408, 409, 425, 429) else "other"
    if code is not None:
        return "away" if code in _AWAY_CODES else "other"
    if _ACCESS_WORDS.search(text):
        return "access"
    if number is None and _AWAY_WORDS.search(text):
        return "away"
    return "other"


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """HTTP status and the AWS SDK's code of an error, as far as it has them."""
    text = str(error)
    response = getattr(error, "response", None)  # botocore
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode"), None
    if isinstance(code := getattr(error, "code", None), int):  # google.api_core
        return int(code), None
    if match := _CODE.search(text):
        return (int(match[2]) if match[2] else None), match[1]
    if match := _STATUS.search(text):
        return int(match[1] or match[2]), None
    return None, None


def _is_absence(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def words_of(error: BaseException) -> str:
    """An error's first line without its final stop, to stand inside a sentence; without what may be secret."""
    if isinstance(error, OSError) and error.strerror and not error.strerror.startswith("["):
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    text = str(error)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        about = response.get("Error", {})
        if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (401, 403):
            return str(about.get("Code"))  # what follows may quote the key
        return f"{about.get('Code')}: {about.get('Message', '')}".split("\n")[0].rstrip(". :")
    if match := _CURL.search(text) or _REFUSED.search(text):
        return match[1].strip()
    if match := _UNDERLYING.search(text):
        return match[1].rstrip(". ")
    if (match := _CODE.search(text)) and match[1] in _ACCESS_CODES:
        return match[1]  # what follows may quote the key
    text = re.sub(r" ?\((?:Request ID|reached max retries)[^)]*\)", "", text)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


# Small things


def is_plain(path: Path) -> bool:
    """Whether a path is not there or a file itself: no link, which may point anywhere, no pipe, which may never end."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True


def _open_plain(path: str, flags: int) -> int:
    """An opener for `open` that refuses everything but a file itself."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise NoPlainFile(f"{path} is a link, and links in a store are not followed: delete it.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoPlainFile(f"{path} is no plain file: delete it.")
    return descriptor


def hash_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(BUFFER))
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            digest.update(buffer[:n])
            size += n
    return size, digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> bool:
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
