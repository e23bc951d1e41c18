"""How an artifact came to be, read from manifests: its line of ancestors, and its task built again.

A manifest is data that anybody who can write to the store may have made, and to import a module is to run
it. So a manifest can only lead to code that is here for that purpose: `tasks`, installed packages that define
the very class, and the sweep file with what lies beside it, if that file is below the working folder or was
named by the user. Nothing is ever imported from the store, nor from Python's own library, and only Specs are
called.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.errors import UserError
from tasks.spec import Spec
from tasks.task import Task

from .errors import StoreError
from .keys import SWEEP_MODULE_PREFIX
from .store import Store


@dataclass(frozen=True)
class Lineage:
    """An artifact with all that it was made from.

    Attributes:
        task: name of its class; "?" if the store does not hold it.
        manifest: None if the store does not hold it, or holds only something damaged.
        inputs: in the order in which the task took them.
    """

    key: str
    task: str
    manifest: Mapping[str, Any] | None
    inputs: tuple[Lineage, ...] = ()

    @property
    def label(self) -> str:
        """For people: "Lanczos · rho=0.05 · seed 3"."""
        return str((self.manifest or {}).get("label") or self.task)

    @property
    def seeds(self) -> dict[str, int]:
        """The seeds that the task worked under: its own, else those of its inputs, as `inherited_seeds` names them."""
        own = part(self.manifest, "seeds")
        if own:
            return own
        if len(self.inputs) == 1:
            return self.inputs[0].seeds
        return {f"{i}.{name}": seed for i, a in enumerate(self.inputs) for name, seed in sorted(a.seeds.items())}

    def ancestors(self) -> Iterator[Lineage]:
        """Everything it was made from, each once, the nearest first."""
        seen = set()
        todo = list(self.inputs)
        while todo:
            one = todo.pop(0)
            if one.key not in seen:
                seen.add(one.key)
                yield one
                todo += one.inputs


def part(manifest: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """A field of a manifest that holds several values; empty if it is not there, or something else."""
    value = (manifest or {}).get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a canonical specification by path, those of the Specs in them too.

    Of a Spec its class stands under its own path, of a sequence of Specs their classes ("Mixup + L1"); a second of
    one class is "L1#2", as in paths of overrides.
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and "class" in value:
            found[prefix + name] = class_name(value)
            found |= flat({k: v for k, v in value.items() if k != "class"}, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) and "class" in v for v in value):
            names = [class_name(v) for v in value]
            found[prefix + name] = " + ".join(names)
            for place, (own, inner) in enumerate(zip(names, value, strict=True)):
                number = names[: place + 1].count(own)
                part_name = own if number == 1 else f"{own}#{number}"
                found |= flat({k: v for k, v in inner.items() if k != "class"}, f"{prefix}{name}.{part_name}.")
        else:
            found[prefix + name] = value
    return found


def class_name(spec: Mapping[str, Any]) -> str:
    return str(spec["class"]).rpartition(":")[2]


def lineage(store: Store, task: str, key: str, catalogue: Mapping[str, str]) -> Lineage:
    """The line of ancestors of an artifact.

    Args:
        catalogue: name of the task class by key (see `commands.common.catalogue`).
    """
    known: dict[str, Lineage] = {}

    def trace(name: str | None, key: str) -> Lineage:
        if key not in known:
            known[key] = Lineage(key, name or "?", None)  # should a manifest name itself among its inputs
            manifest = None
            if name is not None:
                try:
                    manifest = store.manifest(name, key)
                except StoreError:
                    if key == start:
                        raise
            named = [str(i) for i in (manifest or {}).get("inputs", ())]
            inputs = tuple(trace(catalogue.get(i), i) for i in named)
            known[key] = Lineage(key, name or "?", manifest, inputs)
        return known[key]

    start = key
    return trace(task, key)


class Rebuilder:
    """Builds tasks again from the `spec` of their manifests.

    Args:
        store: nothing that lies in it is imported.
        file: the sweep file, if it is no longer where the manifests say.
    """

    def __init__(self, store: Store, file: str | None = None) -> None:
        self._store = store
        self._file = file
        self._loaded: set[str] = set()

    def task(self, origin: Lineage) -> Task:
        """The task that made an artifact.

        Raises:
            UserError: a class cannot be found, or takes other fields now.
        """
        built = self._build((origin.manifest or {}).get("spec"), origin)
        if not isinstance(built, Task):
            raise StoreError(
                f"The manifest of {origin.label} ({origin.key[:12]}) does not say what the task is: see `orchestrator "
                f"verify {origin.key[:12]}`."
            )
        return built

    def _build(self, value: Any, origin: Lineage) -> Any:
        """The reverse of `keys.canonical`."""
        if isinstance(value, list):
            return tuple(self._build(v, origin) for v in value)
        if not isinstance(value, Mapping):
            return value
        if set(value) == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        path = value.get("class")
        fields = {k: self._build(v, origin) for k, v in value.items() if k != "class"}
        if not isinstance(path, str) or ":" not in path:
            return {k: self._build(v, origin) for k, v in value.items()}
        cls = self._class(path, origin)
        known = {f.name for f in dataclasses.fields(cls) if f.init}
        gone = [name for name in fields if name not in known]
        if gone:
            raise UserError(
                f"{origin.label} was made with {cls.__name__}({gone[0]}=…), a field that {cls.__name__} no longer has: "
                f"go back to the code that made it{_commit(origin)}."
            )
        try:
            return cls(**fields)
        except Exception as error:  # whatever a class says to values that it did not have when it was stored
            words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                f"{origin.label} cannot be built again: {words}; go back to the code that made it{_commit(origin)}."
            ) from None

    def _class(self, path: str, origin: Lineage) -> type[Spec]:
        module_name, _, qualified = path.partition(":")
        found: Any = self._module(module_name, qualified, origin)
        for name in qualified.split("."):
            found = vars(found).get(name) if isinstance(found, (type, ModuleType)) else None  # a module may import
        if not (isinstance(found, type) and issubclass(found, Spec)):
            where = self._source(origin) if module_name.startswith(SWEEP_MODULE_PREFIX) else module_name
            raise UserError(
                f"{origin.label} needs the class {qualified}, which {where} does not define: go back to the code that "
                f"made it{_commit(origin)}, or name the file with --file."
            )
        return found

    def _module(self, name: str, qualified: str, origin: Lineage) -> Any:
        """The module, imported if need be: the sweep file, one beside it, of `tasks`, or of an installed package."""
        if name.startswith(SWEEP_MODULE_PREFIX):
            self._load_sweep(name, origin)
            return sys.modules[name]
        if name in sys.modules:
            return sys.modules[name]
        source = self._source(origin)
        if source is not None and source.is_file() and self._is_trusted(source):
            folder = str(source.resolve().parent)
            if folder not in sys.path:
                sys.path.insert(0, folder)  # where modules beside the sweep file lie
        found = _find(name)
        if found is None:
            there = "" if source is None or source.is_file() else f", and the sweep file {source} is not there"
            raise UserError(
                f"{origin.label} needs the module {name!r}, which cannot be imported{there}: name the sweep file "
                "beside which it lies with --file, or start where it can be imported."
            )
        for module in found:
            if module.origin:
                self._refuse_if_stored(Path(module.origin), origin)
        if not _defines(found[-1], qualified):
            raise UserError(
                f"{origin.label} needs the class {qualified}, which {name} does not define: go back to the code that "
                f"made it{_commit(origin)}, or name the file with --file."
            )
        try:
            return importlib.import_module(name)
        except Exception as error:  # whatever a user's module may raise
            words = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"{origin.label} needs the module {name!r}, which cannot be imported: {type(error).__name__}: "
                f"{words.rstrip('.')}."
            ) from None

    def _load_sweep(self, name: str, origin: Lineage) -> None:
        source = self._source(origin)
        stem = name.removeprefix(SWEEP_MODULE_PREFIX)
        if source is None:
            raise UserError(
                f"{origin.label} needs a class of the sweep file {stem}.py, and the manifest does not say where that "
                f"is: name it with --file."
            )
        if not source.is_file():
            raise UserError(
                f"{origin.label} needs a class of the sweep file {source}, which is not there: name it with --file."
            )
        if source.stem != stem:
            raise UserError(f"{origin.label} needs a class of the sweep file {stem}.py, which {source} is not.")
        if name in self._loaded:
            return
        self._refuse_if_stored(source, origin)
        if not self._is_trusted(source):
            raise UserError(
                f"{origin.label} was made with the sweep file {source}, which is not below the working folder: go "
                "there, or name it with --file if you trust it, since it is run."
            )
        from .sweep_file import load_sweep

        load_sweep(source)
        self._loaded.add(name)

    def _source(self, origin: Lineage) -> Path | None:
        if self._file is not None:
            return Path(self._file)
        file = part(origin.manifest, "source").get("file")
        return Path(file) if isinstance(file, str) and file else None

    def _is_trusted(self, source: Path) -> bool:
        """Whether the sweep file may be run: the manifest alone is no reason."""
        return self._file is not None or source.resolve().is_relative_to(Path.cwd().resolve())

    def _refuse_if_stored(self, path: Path, origin: Lineage) -> None:
        if self._store.local is not None and path.resolve().is_relative_to(self._store.local.resolve()):
            raise UserError(
                f"{origin.label} names code that lies in the store ({path}), which is never run: delete that artifact."
            )


def _find(name: str) -> list[ModuleSpec] | None:
    """Where a module and the packages around it lie, found without importing anything; None if it cannot be."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or parts[0] in sys.stdlib_module_names:
        return None
    found: list[ModuleSpec] = []
    for n in range(1, len(parts) + 1):
        where = found[-1].submodule_search_locations if found else None
        spec = PathFinder.find_spec(".".join(parts[:n]), None if not found else list(where or ()))
        if spec is None and not found:
            spec = _find_elsewhere(parts[0])
        if spec is None:
            return None
        found.append(spec)
    return found


def _find_elsewhere(name: str) -> ModuleSpec | None:
    """A top-level module that other finders know (of a project that is installed as editable)."""
    try:
        return importlib.util.find_spec(name)  # imports nothing: there is no package around it
    except (ImportError, AttributeError, ValueError):
        return None


def _defines(module: ModuleSpec, qualified: str) -> bool:
    """Whether a module's source has a class of this name with a base, told without running it."""
    try:
        body = ast.parse(Path(str(module.origin)).read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    for name in qualified.split("."):
        cls = next((s for s in body if isinstance(s, ast.ClassDef) and s.name == name), None)
        if cls is None:
            return False
        body = cls.body
    return bool(cls is not None and cls.bases)


def _commit(origin: Lineage) -> str:
    """Where the code is that made an artifact, to stand in a sentence."""
    commit = part(origin.manifest, "git").get("commit")
    return f" (git commit {str(commit)[:12]})" if commit else ""
