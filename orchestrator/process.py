"""The process in which a task runs: what is set before it, what it prints, where it was.

Shared by the workers of a run and by `orchestrator rerun`; knows no Ray.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from tasks.errors import UserError
from tasks.streams import entropy
from tasks.task import Artifact, Task, inherited_seeds

from .store import Store


@dataclass(frozen=True)
class Input:
    """An artifact that a task needs: where it is in the store and what made it."""

    key: str
    task: Task
    seeds: Mapping[str, int]
    inputs: tuple[Input, ...] = ()


def input_artifact(
    needed: Input, store: Store, hold: contextlib.ExitStack, contents: dict[str, Any] | None = None
) -> Artifact:
    """The artifact on this machine, with those it was made from.

    Args:
        hold: they stay there until this is closed.
        contents: takes in the files of them all, by key, with their hashes.
    """
    name = type(needed.task).__name__
    manifest = store.manifest(name, needed.key)
    if contents is not None:
        contents[needed.key] = manifest["files"]
    inputs = tuple(input_artifact(i, store, hold, contents) for i in needed.inputs)
    seeds = dict(needed.seeds) or inherited_seeds(inputs)
    folder = store.fetch(name, needed.key, hold)
    return Artifact(needed.key, needed.task, folder, manifest["results"], seeds, inputs)


@contextlib.contextmanager
def captured(log: TextIO) -> Iterator[None]:
    """Standard output and error go to the log."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def sentence(error: BaseException) -> str:
    """An error in one line."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")


def forget(task: Task, seeds: Mapping[str, int], key: str) -> None:
    """Undo what the task before may have left in this process.

    Global random states are set from the task's seeds: no task should use them, and one that does is
    still reproducible.
    """
    _usual_threads.close()
    with contextlib.suppress(OSError):
        os.chdir(_home())  # a task may have gone into its folder, which belongs to the store now
    seed = entropy(f"global/{type(task).__qualname__}", seeds or {"key": int(key, 16)}) % 2**32
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        if torch.are_deterministic_algorithms_enabled():  # the setter imports the compiler, a second or more
            torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads())
        # cuDNN rounds convolutions to TF32 unless told otherwise, which curvature cannot bear.
        torch.set_float32_matmul_precision("highest")  # first: torch refuses to tell the two apart otherwise
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        if torch.cuda.is_available():
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()  # CUDA graphs that were recorded hold memory
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    if (libc := allocator()) is not None:
        libc.malloc_trim(0)  # what the task before has freed, the processes beside this one may need
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak of resident memory (Linux)


_usual_threads = contextlib.ExitStack()
"""Undoes what `compute_with` has set, before the next task."""


def compute_with(number: int) -> None:
    """Let torch, the linear algebra below numpy, and what the task has yet to import use so many threads."""
    from threadpoolctl import threadpool_limits

    _usual_threads.callback(os.environ.__setitem__, "OMP_NUM_THREADS", str(threads()))
    os.environ["OMP_NUM_THREADS"] = str(number)
    _usual_threads.callback(threadpool_limits(limits=number).restore_original_limits)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(number)


@lru_cache(maxsize=1)
def allocator() -> Any:
    """The C library, told to keep the memory that a task frees for what it needs next; None if it is not glibc.

    Left to itself glibc gives every block of more than 32 MiB back at once, and the system hands it out again page by
    page, zeroed: for the activations of a SimpleCNN that is a quarter of a step on a CPU.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 2**31 - 1)
        return libc
    return None


@lru_cache(maxsize=1)
def _home() -> str:
    """The working folder of this process before its first task."""
    return os.getcwd()


def threads() -> int:
    """Threads that a task computes with: Ray sets the variable to the CPUs of the slot, unless the user has."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return max(int(text), 1) if text.isdecimal() else 1


def peak_memory() -> int | None:
    """Peak resident memory of this process since the task began, in bytes, where Linux tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def device_name(device: str) -> str:
    """The device in words, as manifests record it."""
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Host, processor, operating system and versions, the same for every task of this process."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "ray", "pyarrow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "host": socket.gethostname(),
        "processor": _processor(),
        "platform": platform.platform(),
        "versions": versions,
    }


def _processor() -> str:
    """The CPU's name; what kind of machine it is where the system does not tell."""
    import platform

    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
