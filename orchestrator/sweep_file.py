"""Loading a sweep file, and overrides from the command line.

Whatever is wrong in the file or an override ends in one sentence that names the place and the remedy.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import InvalidValue, UserError, nearest
from tasks.spec import Spec

from .declared import NAMES
from .errors import SweepError
from .keys import SWEEP_MODULE_PREFIX
from .nearby import nearest_file
from .sweep import PairRule, Seeds, Sweep, crossed, same_seed, same_setting, vary

_KNOWN: dict[str, Any] = {"same_setting": same_setting, "same_seed": same_seed, "vary": vary, "crossed": crossed}
"""Names that an override may use whatever the sweep file imports."""

_PATH = re.compile(r"[\w.~-]+(/[\w.~-]*)*")
_MISSING = re.compile(r"(\w+)\.__init__\(\) missing .*: (.*)")


def load_sweep(file: str | Path, *, smoke: bool = False, sets: Sequence[str] = (), seeds: int | None = None) -> Sweep:
    """The sweep that a file declares.

    Args:
        smoke: apply the overrides of `Sweep.smoke`.
        sets: overrides `PATH=VALUE`, applied after these.
        seeds: how many seeds to use: the first of those declared, continued by counting on.

    Raises:
        SweepError: the file is missing, does not import, or defines no `sweep`.
        InvalidValue: it holds an impossible value.
    """
    path = Path(file)
    if not path.exists():
        raise SweepError(f"There is no sweep file {str(file)!r}{nearest_file(file, '*.py')}.")
    if path.is_dir() or path.suffix != ".py":
        raise SweepError(f"{str(file)!r} is not a sweep file: name a Python file such as sweeps/sam_rho.py.")
    module_name = SWEEP_MODULE_PREFIX + path.stem
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # modules beside the sweep file can be imported, as in a script
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's file may raise, SystemExit included
        raise SweepError(_import_failure(path, error)) from error
    sweep = getattr(module, "sweep", None)
    if sweep is None:
        defined = [k for k, v in vars(module).items() if isinstance(v, Sweep)]
        hint = f" (it defines {defined[0]!r}: rename that)" if defined else ": add sweep = Sweep(train=..., seeds=...)"
        raise SweepError(f"{file} defines no `sweep`{hint}.")
    if not isinstance(sweep, Sweep):
        raise SweepError(f"In {file}, `sweep` must be a Sweep, not {type(sweep).__name__}.")
    question = (module.__doc__ or "").strip()
    name = path.stem + ("-smoke" if smoke else "")
    sweep = dataclasses.replace(sweep, name=name, question=question, file=str(file))
    if smoke:
        if not sweep.smoke:
            raise SweepError(f"{file} has no smoke size: add smoke={{'train.epochs': 1, ...}} to its Sweep.")
        try:
            sweep = sweep.override(sweep.smoke)
        except UserError as error:
            raise SweepError(f"{file}, smoke: {error}") from error
    overrides = parse_overrides(sets, {**_KNOWN, **vars(module)})
    sweep = sweep.override(overrides)
    if smoke:  # its grid may well lack the settings that the whole study is about
        stated = {*sweep.smoke, *overrides}
        sweep = dataclasses.replace(sweep, inherited=tuple(name for name in NAMES if name not in stated))
    return sweep if seeds is None else sweep.override({"seeds": _first_seeds(sweep.seeds, seeds)})


def _first_seeds(declared: Sequence[int | Seeds], n: int) -> list[int | Seeds]:
    if n < 1:
        raise InvalidValue(f"--seeds must be at least 1, not {n}.")
    seeds = list(declared[:n])
    if len(seeds) < n:
        whole = [s for s in declared if isinstance(s, int)]
        if len(whole) < len(declared):
            raise InvalidValue(f"--seeds {n}: the sweep declares {len(declared)} seeds by stream; declare more there.")
        seeds += range(max(whole) + 1, max(whole) + 1 + n - len(seeds))
    return seeds


def _import_failure(path: Path, error: BaseException) -> str:
    """One sentence: where in the file it failed, and why."""
    line = None
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        return f"{path}, line {error.lineno}: {error.msg}."
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path.resolve()):
            line = frame.lineno
    where = f"{path}, line {line}" if line else str(path)
    if isinstance(error, UserError):
        return f"{where}: {error}"
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        names = vars(sys.modules.get(SWEEP_MODULE_PREFIX + path.stem, object))
        return f"{where}: {_unknown_field(error, names)}"
    if isinstance(error, TypeError) and (missing := _MISSING.match(str(error))):
        return f"{where}: {missing[1]} needs {missing[2]}."
    if isinstance(error, ImportError) and (
        lacks := re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    ):
        module = sys.modules.get(lacks[2])
        hint = nearest(lacks[1], dir(module)) if module else ""
        return f"{where}: {lacks[2]} has no {lacks[1]!r}{hint}."
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{where}: {type(error).__name__}: {text}."


def _unknown_field(error: TypeError, known: Mapping[str, Any]) -> str:
    """The sentence for a field that a Spec does not have, with the nearest one it has."""
    text = str(error)  # "Lanczos.__init__() got an unexpected keyword argument 'kk'"
    cls_name, _, rest = text.partition(".__init__()")
    unknown = rest.split("'")[1] if "'" in rest else "?"
    classes = {c.__name__: c for c in subclasses(Spec)} | {"Sweep": Sweep}
    cls = known.get(cls_name) or classes.get(cls_name)
    names = [f.name for f in dataclasses.fields(cls)] if cls else []
    hint = nearest(unknown, names) or (f"; it has {', '.join(names)}" if names else "")
    return f"{cls_name} has no field {unknown!r}{hint}."


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    """All classes derived from a class."""
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def parse_overrides(items: Iterable[str], names: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides from the command line: `PATH=VALUE`, the value a Python literal or a bare string.

    A list for a path of the training is a grid (`train.optimizer.rho=[0.0,0.05]`); a tuple is a value.
    Values such as `MLP(widths=(32,))` may use `names`, those of the sweep file. They are built from
    literals and calls of Specs only; nothing else is evaluated.
    """
    overrides = {}
    for item in items:
        path, equals, text = item.partition("=")
        path = path.strip()
        if not equals or not path:
            raise InvalidValue(f"--set {item!r} is not PATH=VALUE, such as --set train.epochs=2.")
        value = _parse_value(text.strip(), names, item)
        if isinstance(value, list) and path.startswith("train."):
            if not value:
                raise InvalidValue(f"--set {item!r}: the list is empty.")
            value = {"grid_search": value}
        overrides[path] = value
    return overrides


def _parse_value(text: str, names: Mapping[str, Any], item: str) -> Any:
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text  # a bare string, such as a path
    if isinstance(node, (ast.BinOp, ast.Attribute)) and _PATH.fullmatch(text):
        return text  # data/images or images.npz, which read as expressions
    if isinstance(node, ast.Name) and node.id not in names:
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return _build(node, names, item)


def _build(node: ast.expr, names: Mapping[str, Any], item: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        pass
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_build(e, names, item) for e in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Name) and isinstance(names.get(node.id), (PairRule, Spec)):
        return names[node.id]
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            cls = range if node.func.id == "range" else names.get(node.func.id)
            if cls in (range, vary, crossed) or (isinstance(cls, type) and issubclass(cls, Spec)):
                args = [_build(a, names, item) for a in node.args]
                keywords = {k.arg: _build(k.value, names, item) for k in node.keywords if k.arg}
                try:
                    return cls(*args, **keywords)
                except TypeError as error:
                    known = "unexpected keyword argument" in str(error)
                    told = _unknown_field(error, names) if known else f"{error}."
                    raise InvalidValue(f"--set {item!r}: {told}") from error
            specs = [n for n, v in names.items() if isinstance(v, type) and issubclass(v, Spec)]
            raise InvalidValue(
                f"--set {item!r}: {node.func.id!r} is not a Spec that the sweep file knows"
                f"{nearest(node.func.id, specs)}; import it there."
            )
    raise InvalidValue(f"--set {item!r}: the value must be a literal such as 2, [0.0, 0.05] or MLP(widths=(32,)).")
