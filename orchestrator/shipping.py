"""The code of a run on its way to the workers, and the state it is in."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.spec import Spec, field_hints

from .errors import ClusterError
from .keys import SWEEP_MODULE_PREFIX, is_own
from .node_check import location, source_files, tree_digest
from .sweep_file import subclasses

PROJECT = ("orchestrator", "tasks")

MOST_CODE = 20_000_000
"""Bytes of source that are sent to the nodes of a cluster at most: more is no source."""


@dataclass(frozen=True)
class Shipment:
    """Source that goes to the nodes of a cluster with a run.

    Attributes:
        files: where each file lies here, by its path as it is imported ("tasks/train.py").
        digests: digest of each package or module, by its top-level name (see `node_check.tree_digest`).
    """

    files: dict[str, Path]
    digests: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def runtime_env(self) -> Iterator[dict[str, Any]]:
        """Ray's runtime environment that brings the files to every node; to be given to `ray.init` within.

        Ray puts the driver's working folder and that of its script before all else on the workers' paths, where
        they might hold another version; meanwhile both are the folder with the files.
        """
        from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

        folder = Path(tempfile.mkdtemp(prefix="orchestrator-code-"))
        here, script = os.getcwd(), sys.argv[0]
        job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}")
        others = ((job.get("runtime_env") or {}).get("py_modules")) or []
        override = "RAY_OVERRIDE_JOB_RUNTIME_ENV"
        before = os.environ.get(override)
        try:
            for name, source in self.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / name)
            self.digests.update({path.stem: tree_digest(path) for path in folder.iterdir()})
            os.chdir(folder)
            sys.argv[0] = ""
            os.environ[override] = "1"  # of a submitted job's environment all stays that is not replaced
            yield {"py_modules": [*map(str, sorted(folder.iterdir())), *others]}
        finally:
            os.chdir(here)
            sys.argv[0] = script
            if before is None:
                os.environ.pop(override, None)
            else:
                os.environ[override] = before
            shutil.rmtree(folder, ignore_errors=True)


def shipment(*, sweep: bool = True) -> Shipment:
    """The project's source and, of the loaded sweep files, what they import, also lazily, outside libraries.

    Of a package all source files are taken, of a folder without `__init__.py` those that are imported. Nothing else:
    no data, no artifacts, no credentials, whatever lies beside them.

    Raises:
        ClusterError: it is more than source can be.
    """
    files: dict[str, Path] = {}
    for name in PROJECT:
        place = location(name)
        assert place is not None
        files |= _files_of(name, place)
    if sweep:
        files |= _own_files()
    size = sum(path.stat().st_size for path in files.values())
    if size > MOST_CODE:
        name, largest = max(files.items(), key=lambda item: item[1].stat().st_size)
        raise ClusterError(
            f"The code that the sweep imports has {size / 1e6:.0f} MB ({name} alone "
            f"{largest.stat().st_size / 1e6:.0f} MB), too much to be sent to every node: install it there."
        )
    return Shipment(files)


def local_code() -> Shipment:
    """The project as it lies here, not to be sent: what nodes must have where nothing can be sent."""
    places = {name: location(name) for name in PROJECT}
    return Shipment({}, {name: tree_digest(place) for name, place in places.items() if place is not None})


def _own_files() -> dict[str, Path]:
    """Source files of what the loaded sweep files import, directly or not, by their path as it is imported."""
    sweeps = [m for m in own_modules() if m.__name__.startswith(SWEEP_MODULE_PREFIX)]
    beside = [m.__name__ for m in own_modules() if m not in sweeps]
    todo = [*beside, *(name for m in sweeps if m.__file__ for name in _imports(Path(m.__file__), ""))]
    files: dict[str, Path] = {}
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        top = name.partition(".")[0]
        if name in seen or not top or top in PROJECT or (place := is_own(top)) is None:
            continue
        seen.add(name)
        new = {k: p for k, p in _files_of(name, place).items() if k not in files}
        files |= new
        for path, source in new.items():
            parts = path.removesuffix(".py").split("/")
            package = parts[:-1]  # of "a/b.py" and of "a/__init__.py" alike
            todo += _imports(source, ".".join(package))
    return files


def _files_of(name: str, place: Path) -> dict[str, Path]:
    """The files that make up a module whose top-level package or module lies there.

    All of the outermost package that has an `__init__.py`; else the one file.
    """
    parts = name.split(".")
    if place.is_file():
        return {f"{parts[0]}.py": place} if place.suffix == ".py" else {}
    for depth, part in enumerate(parts):
        if depth:
            place = place / part
        prefix = "/".join(parts[: depth + 1])
        if (place / "__init__.py").is_file():
            return {f"{prefix}/{p.relative_to(place).as_posix()}": p for p in source_files(place)}
        if place.with_suffix(".py").is_file() and depth:
            return {f"{prefix}.py": place.with_suffix(".py")}
    return {}


def _imports(path: Path, package: str) -> Iterator[str]:
    """The names that a file imports, inside functions too, and those that may be modules; none of what is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, say: whoever imports it is told so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def register_by_value(*, shipped: bool) -> None:
    """Let classes of the sweep file travel to the workers by value, and those of modules beside it.

    Args:
        shipped: these modules are on the nodes (see `Shipment`), so that there is one of each.
    """
    from ray import cloudpickle

    modules = own_modules()
    names = {module.__name__ for module in modules}
    for module in modules:
        if not shipped or module.__name__.startswith(SWEEP_MODULE_PREFIX):
            cloudpickle.register_pickle_by_value(module)
    for cls in subclasses(Spec):
        if cls.__module__ in names:
            with contextlib.suppress(NameError):  # an annotation that means nothing here: told when it is used
                field_hints(cls)


def own_modules() -> list[Any]:
    """The loaded sweep files and the modules that lie beside one."""
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
