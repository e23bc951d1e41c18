"""This machine's own disk: a folder of this user alone, and which files this process has seen to be intact."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """A folder of this user alone on the node's own disk: "cache" or "work".

    Raises:
        OSError: it cannot be made, or is not this user's.
    """
    top = _node_top()
    for folder in (top, top / name):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            about = os.lstat(folder)
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                raise PermissionError(13, "it belongs to somebody else; set TMPDIR", str(folder)) from None
            if stat.S_IMODE(about.st_mode) != 0o700:
                os.chmod(folder, 0o700)
    return top / name


def node_folders() -> list[Path]:
    """The node's folders, made or not."""
    return [_node_top() / "cache", _node_top() / "work"]


def _node_top() -> Path:
    return Path(tempfile.gettempdir()) / f"orchestrator-{os.getuid()}"
