"""The code of a run on its way to the workers, and the state it is in."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.spec import Spec, field_hints

from .sweep_file import subclasses


def register_by_value() -> None:
    """Let classes of the sweep file, and of modules beside it, travel to the workers by value."""
    from ray import cloudpickle

    modules = own_modules()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    names = {module.__name__ for module in modules}
    for cls in subclasses(Spec):
        if cls.__module__ in names:
            with contextlib.suppress(NameError):  # an annotation that means nothing here: told when it is used
                field_hints(cls)


def own_modules() -> list[Any]:
    """The loaded sweep files and the modules that lie beside one."""
    from .keys import SWEEP_MODULE_PREFIX

    sweeps = [m for name, m in list(sys.modules.items()) if name.startswith(SWEEP_MODULE_PREFIX)]
    folders = {Path(m.__file__).resolve().parent for m in sweeps if m.__file__}
    found = list(sweeps)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve().parent in folders and Path(file).is_file() and module not in found:
            found.append(module)
    return found


def own_paths() -> tuple[str, ...]:
    """The folders of the loaded sweep files."""
    return tuple(dict.fromkeys(str(Path(m.__file__).resolve().parent) for m in own_modules() if m.__file__))


def git_state() -> dict[str, Any]:
    """Commit of the working folder and whether it has uncommitted changes; empty outside a repository."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))} if commit else {}
