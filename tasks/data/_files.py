"""Finding, checking and downloading the files of a dataset."""

from __future__ import annotations

import hashlib
import os
import queue
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError

__all__ = ["install", "md5", "reachable"]


def md5(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def reachable(url: str, seconds: float = 5.0) -> bool:
    """Whether the host of `url` answers within `seconds`, name resolution and proxies included."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # an answer, if not a kind one
        except (OSError, ValueError):
            answers.put(False)
            return
        answers.put(True)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


def install(folder: Path, make: Callable[[Path], Path]) -> None:
    """Put `folder` in place at once or not at all: several processes may try it together.

    Args:
        make: fills a temporary folder beside `folder` and returns the path in it to move to `folder`.

    Raises:
        DataError: the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as temporary:
            made = make(Path(temporary))
            if not folder.exists():
                os.replace(made, folder)
    except OSError as error:
        if folder.is_dir() and any(folder.iterdir()):
            return  # another process was faster
        raise DataError(
            f"The dataset cannot be written to {folder} ({error.strerror or error}): "
            f"set ORCHESTRATOR_DATA to a folder with enough space."
        ) from error
