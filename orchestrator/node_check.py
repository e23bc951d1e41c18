"""What is checked on a node before a task may run there. Knows no Ray.

It travels to the nodes by value, so that it runs also where another version of the project, or none, is installed:
the standard library is all that it imports at its top.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "torchvision", "numpy", "pyarrow")
"""Libraries on whose versions the bytes of results may depend, or that both ends of a connection must share."""

LEAST_FREE = 1_000_000_000
"""Bytes that must be free where tasks work on a node: inputs and what is not yet committed lie there."""

MOST_SKEW = 60.0
"""Seconds by which a node's clock may differ from the driver's. Clocks that are kept at all differ by milliseconds.
Signatures of S3 end after 15 minutes, and a run whose driver's sign of life looks 10 minutes old is taken for dead."""

STORE_SECONDS = 60.0
"""How long the store may take to answer a node."""

GPU_SECONDS = 120.0
"""How long a node may take to compute something on its GPUs; to import torch from a cold disk takes most of it."""


def versions() -> dict[str, str]:
    """Version by name of Python and of the libraries that matter, as they are installed here.

    Without what follows a "+": a driver with torch for the CPU and workers with torch for CUDA are as it should be.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package).partition("+")[0]
    return found


def look(expected: Mapping[str, Any], gpus: float) -> dict[str, Any]:
    """Check this node; plain data: its host name, what is wrong in words (None: nothing), and its time.

    Args:
        expected: versions, code (see `code_fault`), store (its address), witness (a file that the driver has written
            there).
        gpus: how many GPUs tasks will use here.
    """
    try:
        fault = (
            version_fault(expected["versions"])
            or code_fault(expected["code"])
            or disk_fault()
            or _store_fault(expected["store"], expected["witness"])
            or (gpu_fault(gpus) if gpus else None)
        )
    except Exception as error:  # whatever a broken machine may raise: it is the answer
        fault = f"the check of it failed with {type(error).__name__}: {error}"
    return {"host": socket.gethostname(), "fault": fault, "clock": time.time()}


def version_fault(wanted: Mapping[str, str]) -> str | None:
    """Which library has another version here."""
    here = versions()
    wrong = [name for name in wanted if here.get(name) != wanted[name]]
    if not wrong:
        return None
    mine = " and ".join(f"{name} {here[name]}" if name in here else f"no {name}" for name in wrong)
    theirs = " and ".join(f"{name} {wanted[name]}" for name in wrong)
    return f"it has {mine}, the driver has {theirs}: install the same versions on all nodes"


def code_fault(wanted: Mapping[str, str]) -> str | None:
    """Which package or module would be, or is, imported here in another version than the driver's.

    Args:
        wanted: digest by top-level name.
    """
    for name, digest in wanted.items():
        place = location(name)
        if place is None:
            return f"it has no module {name!r}, which the driver has in version {digest}: install it there"
        if (here := tree_digest(place)) != digest:
            return (
                f"{name!r} is imported there from {place} in version {here}, the driver has version {digest}: "
                "remove that copy, or install the driver's there"
            )
    return None


def location(name: str) -> Path | None:
    """The folder of a package, or the file of a module, as it is imported here."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if spec is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    found = folders[0] if folders else spec.origin
    return Path(found) if found else None


def source_files(folder: Path) -> Iterator[Path]:
    """The Python files of a package, in order; no hidden folders, no virtual environments, no links to elsewhere."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir() and not path.is_symlink() and not (path / "pyvenv.cfg").exists():
            yield from source_files(path)
        elif path.suffix == ".py" and path.is_file():
            yield path


def tree_digest(place: Path) -> str:
    """Digest of a package's or module's source, by content: 12 hexadecimal digits."""
    files = source_files(place) if place.is_dir() else [place]
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(place).as_posix() if place.is_dir() else ""
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def disk_fault() -> str | None:
    """What is wrong with the folder of this machine where tasks work and the cache lies (see `node.node_top`)."""
    named = os.environ.get("ORCHESTRATOR_CACHE", "")
    folder, remedy = named or tempfile.gettempdir(), "set ORCHESTRATOR_CACHE where Ray is started"
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"written")
    except OSError as error:
        return f"its folder {folder} cannot be written ({error.strerror or error}): {remedy}"
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        need = f"{LEAST_FREE / 1e9:.0f} GB are needed"
        return f"its folder {folder} has {free / 1e9:.2f} GB free, {need}: make space, or {remedy}"
    return None


def _store_fault(address: str | None, witness: str) -> str | None:
    """Why the store cannot be used from here."""
    if address is None:
        return None
    answer = [f"the store {address} did not answer it within {STORE_SECONDS:.0f} s: check its network"]
    thread = threading.Thread(target=lambda: answer.append(_ask_store(address, witness)), daemon=True)
    thread.start()
    thread.join(STORE_SECONDS)
    return answer[-1] or None


def _ask_store(address: str, witness: str) -> str:
    from orchestrator.store import Store
    from tasks.errors import UserError

    try:
        store = Store(address)
        if store.read(witness) is None:
            return (
                f"it does not see what the driver has written to {address}, which is a folder of its own there: name "
                "a store that all nodes share, such as --store s3://bucket/prefix"
            )
        store.check_writable()
    except UserError as error:
        return str(error).rstrip(".")
    return ""


def gpu_fault(gpus: float) -> str | None:
    """Why torch cannot compute on the GPUs that the node is said to have; asked in a process that ends again."""
    code = (
        "import sys, torch\n"
        "count = torch.cuda.device_count() if torch.cuda.is_available() else 0\n"
        f"count >= {math.ceil(gpus)} or sys.exit(f'torch finds {{count}} of its {gpus:g} GPUs')\n"
        "for i in range(count):\n"
        "    x = torch.ones(64, 64, device=f'cuda:{i}')\n"
        "    (x @ x).sum().item() == 64.0**3 or sys.exit(f'GPU {i} computes wrong numbers')\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=_as_started(), capture_output=True, text=True, timeout=GPU_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"its GPUs did not answer within {GPU_SECONDS:.0f} s: check them with nvidia-smi"
    if not done.returncode:
        return None
    words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].rstrip(".")
    return f"its GPUs cannot be used ({words}): check them with nvidia-smi, or start Ray there with --num-gpus=0"


def _as_started() -> dict[str, str]:
    """The environment as it is, but with the GPUs that this process was started with: Ray hides them meanwhile."""
    env, name = dict(os.environ), "CUDA_VISIBLE_DEVICES"
    env.pop(name, None)
    with contextlib.suppress(OSError):
        started = Path("/proc/self/environ").read_bytes().split(b"\0")
        env |= dict(item.decode().split("=", 1) for item in started if item.startswith(f"{name}=".encode()))
    return env


def clock_fault(clock: float, asked: float, answered: float) -> str | None:
    """How far a node's clock is from the driver's, if it read this between those moments of the driver's."""
    skew = max(asked - clock, clock - answered)
    if skew <= MOST_SKEW:
        return None
    way = "behind" if clock < asked else "ahead of"
    return f"its clock is {skew:.0f} s {way} the driver's: set the clocks of all machines by NTP"
