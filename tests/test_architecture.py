"""The direction of imports, and that what is heavy is imported only where it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RAY = {
    "orchestrator.adaptive",
    "orchestrator.search",
    "orchestrator.worker",
    "orchestrator.run",
    "orchestrator.request",
}
"""The modules that may import Ray wherever they like."""
RAY_LAZILY = {
    "orchestrator.cluster",  # starts or joins it
    "orchestrator.joining",  # asks a cluster what it is, before
    "orchestrator.shipping",  # sends code by it
    "orchestrator.node_watch",  # checks its nodes
    "orchestrator.sweep",  # draws from Tune's random spaces
    "orchestrator.deaths",  # reads what it says of a dead worker
    "orchestrator.tamed",  # undoes some of Tune's ways
    "orchestrator.cluster_checks",  # lets it check cluster files
    "orchestrator.spot",  # rates node types for its autoscaler
    "orchestrator.trackers.clients",  # Tune's callbacks for MLflow and the like
    "orchestrator.commands.doctor",  # reports its version and looks at the cluster
}
"""The modules that may import Ray inside functions."""
HEAVY = ("torch", "torchvision", "ray", "matplotlib", "pyarrow", "pandas", "scipy", "statsmodels", "sklearn")
LESS_HEAVY = ("numpy", "rich", "jinja2")  # a command may import these at its top, since verbs are imported lazily


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, *, lazy: bool) -> Iterator[tuple[str, int]]:
    """(imported module, line) of a module; with `lazy` also those inside functions.

    Imports under `if TYPE_CHECKING` do not happen.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                stem = parts[: len(parts) - node.level + 1]
                base = ".".join([*stem, base] if base else stem)
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def offenders(package: str, forbidden: tuple[str, ...], *, lazy: bool, but: set[str] = frozenset()) -> list[str]:
    return sorted(
        {
            f"{path.relative_to(ROOT)}:{line} imports {name.split('.')[0]}"
            for module, path in modules(package).items()
            if module not in but
            for name, line in imports(module, path, lazy=lazy)
            if name.split(".")[0] in forbidden
        }
    )


def test_tasks_know_neither_ray_nor_the_orchestrator() -> None:
    assert offenders("tasks", ("ray", "orchestrator", "sweeps"), lazy=True) == []


def test_the_orchestrator_does_not_know_the_sweeps() -> None:
    assert offenders("orchestrator", ("sweeps", "tests", "benchmarks"), lazy=True) == []


def test_the_orchestrator_knows_only_the_foundations_of_tasks() -> None:
    allowed = {"tasks", "tasks.task", "tasks.spec", "tasks.errors", "tasks.streams", "tasks.snapshots"}
    networks = {("orchestrator.artifact", "tasks.trained")}  # gives a trained network to who asks for one in a notebook
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in modules("orchestrator").items()
        for name, line in imports(module, path, lazy=True)
        if name.startswith("tasks.") and ".".join(name.split(".")[:2]) not in allowed
        and (module, ".".join(name.split(".")[:2])) not in networks
        and ((ROOT / name.replace(".", "/")).is_dir() or (ROOT / f"{name.replace('.', '/')}.py").exists())
    ]  # fmt: skip
    assert wrong == []


def test_only_five_modules_import_ray() -> None:
    assert offenders("orchestrator", ("ray",), lazy=False, but=RAY) == []
    assert offenders("orchestrator", ("ray",), lazy=True, but=RAY | RAY_LAZILY) == []


def test_the_core_imports_nothing_heavy_at_module_level() -> None:
    assert offenders("orchestrator", HEAVY, lazy=False, but=RAY) == []


def test_the_graph_is_pure() -> None:
    """No I/O, no clock, no randomness, nothing of the project."""
    allowed = {"__future__", "heapq", "collections", "dataclasses", "enum"}
    path = ROOT / "orchestrator/graph.py"
    names = {name.split(".")[0] for name, _ in imports("orchestrator.graph", path, lazy=True)}
    assert names <= allowed


PUBLIC = ["orchestrator", "orchestrator.sweep", "orchestrator.plan", "orchestrator.store", "orchestrator.__main__"]
PUBLIC += ["tasks.task", "tasks.train", "tasks.probes", "tasks.models", "tasks.optimizers", "tasks.data"]


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_sweep_file_imports_is_light(name: str) -> None:
    """In a fresh process, for real: so `--help` and a stored run answer at once."""
    code = f"import sys, {name}; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & {*HEAVY, *LESS_HEAVY} == set()
