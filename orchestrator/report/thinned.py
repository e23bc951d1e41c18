"""The curves of single trials, thinned so that a page can hold them all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import DamagedArtifact, StoreError
from ..records import DIVERGED, DONE
from ..study import Column, Study, TaskRecord

if TYPE_CHECKING:
    import numpy as np

MAX_FILES = 4000
"""Files of arrays that are read for the page from a local store: less than 1 ms each."""

MAX_FETCHED = 1000
"""The same of a remote store: a request each, unless they are in the node's cache."""

MAX_NUMBERS = 250_000
"""Numbers of curves in the page: 1.5 MB."""

LONGEST = 60
"""Points of a line where there are few trials; a panel is about 300 pixels wide."""

SHORTEST = 12


@dataclass
class Thinned:
    """Curves of many trials.

    Attributes:
        curves: what each is: column, title, labels, names of its quantities.
        xs: places of points, each list once.
        lines: by key of the task, for each of its curves [index in `curves`, index in `xs`, [[quantity, values], …]];
            a value that is not finite is None.
        points: how many of a line's points are kept at most.
        left_out: what is not here, in words, and why.
    """

    curves: list[dict[str, Any]] = field(default_factory=list)
    xs: list[list[float | None]] = field(default_factory=list)
    lines: dict[str, list[list[Any]]] = field(default_factory=dict)
    points: int = LONGEST
    left_out: dict[str, str] = field(default_factory=dict)


def thinned(study: Study) -> Thinned:
    """The curves of trainings and of probes on one trial: first those of trainings, then as many as there is room for.

    A diverged training's are among them: its curve says how it diverged.
    """
    found = Thinned()
    places: dict[str, int] = {}
    files = numbers = 0
    trials = max((len(study.of_column(c.name)) for c in study.columns_of("train")), default=1)
    found.points = max(SHORTEST, min(LONGEST, 12_000 // max(trials, 1)))
    for column in study.columns_of("train", "probe"):
        if any(curve["kind"] == "surface" for curve in column.curves):
            found.left_out[f"the surfaces of {column.name}"] = "they are among the pictures"
        if all(curve["kind"] == "surface" for curve in column.curves):
            continue
        tasks = [t for t in study.of_column(column.name) if study.statuses[t.key] in (DONE, DIVERGED)]
        named = {f"{curve['file']}.npz" for curve in column.curves if curve["kind"] != "surface"}
        wanted = [(t, name) for t in tasks for name in sorted(named & set(study.manifest(t.key).get("files", {})))]
        if not wanted:
            continue
        most = MAX_FILES if study.store.local is not None else MAX_FETCHED
        if files + len(wanted) > most:
            found.left_out[f"the curves of {column.name}"] = f"the page reads at most {most} files of arrays"
            continue
        files += len(wanted)
        lines: dict[str, list[list[Any]]] = {}
        size = 0
        base = len(found.curves)
        for task, name in wanted:
            own = [(i, c) for i, c in enumerate(column.curves) if f"{c['file']}.npz" == name and c["kind"] != "surface"]
            for i, x, ys in _read(study, task, name, own, found.points):
                place = places.setdefault(json.dumps(x), len(found.xs))
                if place == len(found.xs):
                    found.xs.append(x)
                    size += len(x)
                lines.setdefault(task.key, []).append([base + i, place, ys])
                size += sum(len(values) for _, values in ys)
        if numbers + size > MAX_NUMBERS:
            found.left_out[f"the curves of {column.name}"] = f"the page would hold more than {MAX_NUMBERS} numbers"
            continue
        numbers += size
        found.curves += [_about(column, curve) for curve in column.curves]
        found.lines |= lines
    return found


def _about(column: Column, curve: Mapping[str, Any]) -> dict[str, Any]:
    names = list(curve["y"])
    return {
        "column": column.name,
        "title": curve["title"],
        "xlabel": curve["xlabel"],
        "ylabel": curve["ylabel"],
        "points": curve["kind"] == "points",
        "log": curve["log_y"],
        "names": [name.replace("_", " ") for name in names],
        "dashed": [name in curve["dashed"] for name in names],
    }


def _read(
    study: Study, task: TaskRecord, name: str, curves: Sequence[tuple[int, Mapping[str, Any]]], points: int
) -> list[tuple[int, list[float | None], list[list[Any]]]]:
    """(index of the curve, x, [[quantity, values], …]) of each curve that the file has; none of a damaged file."""
    import numpy as np

    found = []
    try:
        with study.file(task.key, name) as path, np.load(path, allow_pickle=False) as file:
            for i, curve in curves:
                if curve["x"] not in file.files:
                    continue
                x = np.asarray(file[curve["x"]], dtype=float).reshape(-1)
                if not len(x):
                    continue
                keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).round().astype(int))
                ys = []
                for q, quantity in enumerate(curve["y"]):
                    y = np.asarray(file[quantity], dtype=float) if quantity in file.files else np.empty(0)
                    if y.ndim and y.shape[-1] == len(x) and y.ndim <= 2:
                        ys += [[q, _rounded(line[keep])] for line in y.reshape(-1, len(x))[:8]]
                if ys:
                    found.append((i, _rounded(x[keep]), ys))
    except (OSError, ValueError, KeyError, DamagedArtifact, StoreError):
        return []
    return found


def _rounded(values: np.ndarray) -> list[float | None]:
    """To four digits: the eye sees no more."""
    short = (float(f"{v:.4g}") for v in values.tolist())
    return [None if not math.isfinite(v) else int(v) if v == int(v) and abs(v) < 1e15 else v for v in short]
