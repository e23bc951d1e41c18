"""Content keys: what a task is, as a name.

A key is the SHA-256 of the canonical form of a task: its class, its fields, the keys of its inputs,
its seeds and the fingerprint of its code. Device, paths, resources and retries are not in it, so a
result computed anywhere is found everywhere.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from tasks.errors import InvalidValue
from tasks.spec import Spec
from tasks.task import Task

from .node_check import location

KEY_LENGTH = 32
"""Hexadecimal digits of a key: 128 bits, far beyond accidental collision."""

SWEEP_MODULE_PREFIX = "sweep_"
"""Sweep files are imported under this prefix plus their stem (see `sweep_file.load_sweep`)."""


def class_path(cls: type) -> str:
    """`module:qualified name`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def canonical(value: Any) -> Any:
    """`value` as plain JSON data that is equal exactly when the meaning is equal.

    Raises:
        InvalidValue: for a value that has no stable meaning (a function, an open file, nan).
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"float": repr(value)}
        return value + 0.0  # -0.0 is 0.0
    if isinstance(value, (tuple, list)):
        return [canonical(v) for v in value]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: canonical(v) for k, v in value.items()}
    if isinstance(value, Spec):
        fields = {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": class_path(type(value)), **fields}
    raise InvalidValue(
        f"A field holds {value!r} of type {type(value).__name__}, which has no stable content: "
        "use numbers, strings, tuples, mappings with string keys, or Specs."
    )


def own_fields(task: Task) -> dict[str, Any]:
    """The canonical fields of a task without those that hold tasks: these are inputs."""
    values = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    return {name: canonical(v) for name, v in values.items() if not isinstance(v, Task)}


def key_of(task: Task, inputs: Sequence[str], seeds: Mapping[str, int], code: Mapping[str, str]) -> str:
    """The key of `task` on the inputs with these keys.

    Args:
        code: fingerprint by module, from `Fingerprints.of`.
    """
    form = {
        "class": class_path(type(task)),
        "fields": own_fields(task),
        "inputs": list(inputs),
        "seeds": dict(seeds),
        "code": dict(code),
    }
    text = json.dumps(form, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


FRAMEWORK = ("tasks.task", "tasks.spec", "tasks.errors", "tasks.snapshots")
"""Modules that every task imports and that decide no number: a change there recomputes nothing.

Snapshots give back what they were given, so a resumed task ends with the bytes of an undisturbed one.
"""

STREAMS = "tasks.streams"
"""Decides the random numbers of every task, so it is part of every task's code."""


@dataclasses.dataclass(frozen=True)
class _Module:
    digest: str
    imports: tuple[str, ...]


class Fingerprints:
    """Fingerprints of code, each module read once and then frozen.

    The code of a task is the module of its class and of every Spec in its fields, with what these
    import, directly or not, outside the standard library and installed packages. `tasks` counts
    wherever it is installed. Modules are compared as syntax trees without docstrings. Names imported
    through a package whose `__init__` only re-exports are followed to where they are defined. Of a
    sweep file, only the definitions that the class uses count, so that editing the sweep does not
    change the probes defined in it.
    """

    def __init__(self) -> None:
        self._modules: dict[str, _Module | None] = {}
        self._tasks: dict[tuple[type, ...], dict[str, str]] = {}

    def of(self, task: Task) -> dict[str, str]:
        """Digest by module name, for every module that makes up the task's code.

        Raises:
            InvalidValue: a class is defined inside a function.
        """
        classes = tuple(dict.fromkeys(_classes(task)))
        if classes not in self._tasks:
            code: dict[str, str] = {}
            for cls in classes:
                if "<locals>" in cls.__qualname__:
                    raise InvalidValue(
                        f"{cls.__name__} is defined inside a function, so its code may depend on values that no key "
                        "can hold: define it at the top of a module, and make such values its fields."
                    )
                code |= self._closure(cls.__module__, cls.__qualname__.split(".")[0])
            self._tasks[classes] = dict(sorted(code.items()))
        return self._tasks[classes]

    def imports(self, package: str) -> bool:
        """Whether code that was fingerprinted imports a package, at once or when it runs."""
        read = [m for item, m in self._modules.items() if m is not None and item != STREAMS]
        return any(name == package or name.startswith(f"{package}.") for m in read for name in m.imports)

    def _closure(self, module: str, name: str) -> dict[str, str]:
        sliced = module.startswith(SWEEP_MODULE_PREFIX) or module == "__main__"
        found: dict[str, str] = {}
        seen: set[str] = set(FRAMEWORK)
        todo = [f"{module}:{name}" if sliced else module, STREAMS]
        while todo:
            item = todo.pop()
            if item in seen:
                continue
            seen.add(item)
            if item not in self._modules:
                self._modules[item] = _read(item)
            read = self._modules[item]
            if read is not None:
                found[item] = read.digest
                todo += read.imports
        return found


def _classes(value: Any) -> Iterator[type]:
    """The classes of a task and of the Specs in its fields; tasks in fields are inputs, not code."""
    yield type(value)
    for field in dataclasses.fields(value):
        todo = [getattr(value, field.name)]
        while todo:
            item = todo.pop()
            if isinstance(item, Task):
                continue
            if isinstance(item, Spec):
                yield from _classes(item)
            elif isinstance(item, (tuple, list)):
                todo += item
            elif isinstance(item, Mapping):
                todo += item.values()


def _read(item: str) -> _Module | None:
    """Digest and imports of a module, or of one name in a sweep file; None for what does not count."""
    module, _, name = item.partition(":")
    path = _source(module)
    if path is None or not _counts(module, path):
        return None
    tree = _parse(path)
    body = _slice(tree, name) if name else [s for s in tree.body if not _is_string(s)]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    digest = hashlib.sha256(_dump(body).encode()).hexdigest()[:16]
    return _Module(digest, tuple(sorted(_imports(body, package) - {module})))


def _source(module: str) -> Path | None:
    """The source file of a module, without importing any library to find it."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
    else:
        top = module.partition(".")[0]
        if not module or (top != module and _is_library(top)):
            return None  # finding a submodule would import its package
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, AttributeError, ValueError):
            return None
        file = spec.origin if spec else None
    # Some modules name a file that is not there ("_ops.py" of torch.ops).
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


@cache
def _is_library(package: str) -> bool:
    spec = importlib.util.find_spec(package) if package not in sys.modules else sys.modules[package].__spec__
    if spec is None:
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())]
    paths = [Path(p) for p in places if p and p not in ("built-in", "frozen")]
    return not any(_counts(package, p) for p in paths)


def _counts(module: str, path: Path) -> bool:
    """Whether a module is the project's or the user's own, not the library's."""
    package = module.partition(".")[0]
    if package in ("tasks", "orchestrator"):  # tasks know nothing of the orchestrator, so it decides no number
        return package == "tasks"
    resolved = path.resolve()
    return not any(resolved.is_relative_to(root) for root in _library_roots())


def is_own(name: str) -> Path | None:
    """Where a top-level module lies that is the user's own, or `tasks`; None for a library's, or if there is none."""
    place = location(name)
    return place if place is not None and place.exists() and _counts(name, place) else None


@lru_cache(maxsize=1)
def _library_roots() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {p for p in sys.path if p.endswith(("site-packages", "dist-packages"))}
    return tuple(Path(r).resolve() for r in roots)


def _parse(path: Path) -> ast.Module:
    status = path.stat()
    return _parse_once(path, status.st_mtime_ns, status.st_size)


@cache
def _parse_once(path: Path, modified: int, size: int) -> ast.Module:
    return ast.parse(path.read_bytes())  # bytes: the file may declare an encoding


def _dump(node: Any) -> str:
    """A syntax tree as text: no positions, no docstrings, no empty fields (Python versions differ there)."""
    if isinstance(node, ast.AST):
        parts = []
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "type_comment", "kind") or value is None or value == []:
                continue
            if name == "body" and isinstance(value, list) and _has_docstring(node):
                value = value[1:]
            parts.append(f"{name}={_dump(value)}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, (list, tuple)):
        return f"[{','.join(_dump(n) for n in node)}]"
    return repr(node)


def _has_docstring(node: ast.AST) -> bool:
    body = getattr(node, "body", None)
    return (
        isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and isinstance(body, list)
        and bool(body)
        and _is_string(body[0])
    )


def _is_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(body: Iterable[ast.stmt], package: str) -> set[str]:
    """Modules that the statements import anywhere, except under `if TYPE_CHECKING`."""
    found: set[str] = set()
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found |= {_defining_module(base, alias.name) for alias in node.names}
        else:
            todo += ast.iter_child_nodes(node)
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _defining_module(base: str, name: str, depth: int = 0) -> str:
    """The module in which `from base import name` finds `name`."""
    path = _source(base)
    if path is None or not _counts(base, path) or path.name != "__init__.py":
        return base
    if _source(f"{base}.{name}") is not None:
        return f"{base}.{name}"
    tree = _parse(path)
    if depth > 10 or not _only_reexports(tree):
        return base
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _defining_module(_absolute(node, base), alias.name, depth + 1)
    return base


def _only_reexports(tree: ast.Module) -> bool:
    return all(
        isinstance(s, (ast.Import, ast.ImportFrom))
        or _is_string(s)
        or (isinstance(s, ast.Assign) and all(isinstance(t, ast.Name) and t.id == "__all__" for t in s.targets))
        for s in tree.body
    )


def _slice(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of a module that define `name` and, transitively, the names it uses."""
    defines: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for defined in _defined(statement):
            defines.setdefault(defined, []).append(statement)
    wanted: list[ast.stmt] = []
    seen: set[str] = set()
    todo = [name, "*"]  # what a star import brings cannot be told, so it always counts
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for statement in defines.get(current, []):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                statement = _only_alias(statement, current)
            if statement not in wanted:
                wanted.append(statement)
                todo += [n.id for n in ast.walk(statement) if isinstance(n, ast.Name)]
    return sorted(wanted, key=lambda s: (s.lineno, s.col_offset))


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module binds or alters, in its branches too; "*" for a star import."""
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            yield from _altered(node)
            todo += ast.iter_child_nodes(node)


def _altered(node: ast.AST) -> Iterator[str]:
    """The names whose objects a part of a statement may alter: `x[…] = …`, `x.a = …`, `x.update(…)`, `register(x)`."""
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        changed: list[ast.expr] = [node]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        changed = [node.value.func, *node.value.args, *[k.value for k in node.value.keywords]]
    else:
        return
    for expression in changed:
        while isinstance(expression, (ast.Attribute, ast.Subscript)):
            expression = expression.value
        if isinstance(expression, ast.Name):
            yield expression.id


def _only_alias(statement: ast.Import | ast.ImportFrom, name: str) -> ast.stmt:
    """The import statement with the one name that is used, so that the others do not count."""
    kept = [a for a in statement.names if (a.asname or a.name.split(".")[0]) == name]
    fields = {k: getattr(statement, k) for k in statement._fields if k != "names"}
    return ast.copy_location(type(statement)(names=kept, **fields), statement)
