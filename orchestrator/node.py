"""This machine's own disk: a folder of this user alone, and which files this process has seen to be intact."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import StoreRefused
from .files import hash_file, is_plain

_verified: dict[str, tuple[int, int, int]] = {}
"""Files whose content this process has compared with their manifest: inode, size and time of the last change."""


def _stamp(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def note(path: Path) -> None:
    """Remember that the file's content is what its manifest says."""
    _verified[str(path)] = _stamp(path)


def difference(path: Path, about: Mapping[str, Any]) -> str | None:
    """How a file differs from what its manifest says; read only once by a process, unless it changes."""
    try:
        if not is_plain(path):
            return "no plain file"
        stamp = _stamp(path)
        if stamp[1] != about["size"]:
            return "size differs"
        if _verified.get(str(path)) == stamp:
            return None
        if hash_file(path)[1] != about["sha256"]:
            return "content differs"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "missing"
    _verified[str(path)] = stamp
    return None


def node_folder(name: str) -> Path:
    """A folder of this user alone on the node's own disk: "cache", "work" or "logs".

    Raises:
        OSError: it cannot be made, or is not this user's.
        StoreRefused: see `node_top`.
    """
    top = node_top()
    os.makedirs(top.parent, exist_ok=True)
    for folder in (top, top / name):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            about = os.lstat(folder)
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                words = "it belongs to somebody else; set ORCHESTRATOR_CACHE"
                raise PermissionError(13, words, str(folder)) from None
            if stat.S_IMODE(about.st_mode) != 0o700:
                os.chmod(folder, 0o700)
    return top / name


def node_top() -> Path:
    """The folder of this user on the node's own disk: in $ORCHESTRATOR_CACHE, else where temporary files go.

    Raises:
        StoreRefused: the variable names no folder.
    """
    named = os.environ.get("ORCHESTRATOR_CACHE", "")
    if named and not os.path.isabs(named):
        raise StoreRefused(f"$ORCHESTRATOR_CACHE must be the absolute path of a folder, not {named!r}.")
    for path in (Path(named), *Path(named).parents) if named else ():
        if path.exists() and not path.is_dir():
            raise StoreRefused(f"$ORCHESTRATOR_CACHE must be the path of a folder, but {path} is a file.")
    return Path(named or tempfile.gettempdir()) / f"orchestrator-{os.getuid()}"
