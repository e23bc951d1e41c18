"""Which host, which process: names that stay true where hosts start again and numbers of processes are used again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What names a process on this host, for good."""
    return {"host": socket.gethostname(), "boot": boot(), "pid": os.getpid(), "begun": _begun(os.getpid())}


def process_lives(pid: Any, begun: Any) -> bool:
    """Whether the process of this host that has this number, and began then, is still at work."""
    if not isinstance(pid, int):
        return False
    if Path("/proc/self/stat").exists():
        return begun is not None and _begun(pid) == begun
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def mine() -> str:
    """Host and process, as they begin the name of what is not finished."""
    return f"{host()}-{os.getpid()}.{_begun(os.getpid()) or 0}"


_OWNED = re.compile(r"([A-Za-z0-9._]+)-(\d+)\.(\d+)-[^/]*")


def is_abandoned(name: str) -> bool | None:
    """Whether the process that made `<host>-<pid>.<begun>-…` is gone; None if that cannot be told from here."""
    match = _OWNED.fullmatch(name)
    if match is None or match[1] != host():
        return None
    return not process_lives(int(match[2]), match[3])


@lru_cache(maxsize=1)
def host() -> str:
    """What names this host until it is started again, for the name of a file.

    Other machines may have the same host name, and containers their own numbering of processes.
    """
    where = f"{socket.gethostname()} {boot()}"
    name = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    return f"{name}.{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def boot() -> str:
    """The start of this machine and its numbering of processes, where Linux tells."""
    words = []
    with contextlib.suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        words.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(words)


def _begun(pid: int) -> str | None:
    """When a process began, in the kernel's ticks, where Linux tells; None if it is there no more."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # Z: it has ended, and nobody has taken notice
    return None
