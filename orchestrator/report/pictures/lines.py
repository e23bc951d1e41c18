"""The arrays behind a curve, and one quantity of it drawn over its replicates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import DamagedArtifact
from ...stats import jackknife_bounds, mean_bounds
from ...study import DONE, Column, Study, TaskRecord
from .. import style
from .canvas import said

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

MAX_SINGLE_LINES = 40


@dataclass(frozen=True)
class Arrays:
    """A task's arrays for a curve: x of shape (n,), each y of shape (m, n).

    Attributes:
        dependent: its seed shares streams of randomness with others, so that no band over seeds holds.
    """

    cell: tuple[int, ...]
    seeds: tuple[str, ...]
    x: np.ndarray
    y: dict[str, np.ndarray]
    dependent: bool = False


def arrays_of(study: Study, task: TaskRecord, file: str, names: Sequence[str]) -> list[np.ndarray] | None:
    """Arrays of the npz file (named without its ending) of a task; None if it has none that can be used."""
    import numpy as np

    if f"{file}.npz" not in study.manifest(task.key).get("files", {}):
        return None
    try:
        with study.file(task.key, f"{file}.npz") as path, np.load(path, allow_pickle=False) as found:
            return [np.asarray(found[name], dtype=float) for name in names]
    except (OSError, ValueError, KeyError, DamagedArtifact):
        return None  # captions say how many tasks are not drawn


def load(study: Study, column: Column, curve: Any, cells: Collection[tuple[int, ...]]) -> list[Arrays]:
    """The arrays of the tasks about these cells that have them: not every task has to write what it may."""
    found = []
    dependent = study.crossing is not None and study.crossing.shares
    for task in study.of_column(column.name):
        if study.statuses[task.key] != DONE or study.cell(task) not in cells:
            continue
        arrays = arrays_of(study, task, curve["file"], (curve["x"], *curve["y"]))
        if arrays is None:
            continue
        x = arrays[0].reshape(-1)
        named = zip(curve["y"], arrays[1:], strict=True)
        ys = {name: y.reshape(-1, y.shape[-1]) for name, y in named if y.ndim and y.shape[-1] == len(x)}
        if len(x) and len(ys) == len(curve["y"]):
            found.append(Arrays(study.cell(task), tuple(r for _, r in task.trials), x, ys, dependent))
    return found


def draw_line(
    ax: Axes,
    data: Sequence[Arrays],
    name: str,
    m: int,
    curve: Any,
    colour: Any,
    label: str | None,
    marker: str,
    column: Column,
    *,
    dodge: float = 0.0,
    thin: bool = False,
) -> bool:
    """Draw one quantity over replicates: single lines, their mean, a band; returns whether it has a band."""
    import numpy as np

    rows = [(d.x, d.y[name][m], d) for d in data if m < d.y[name].shape[0]]
    if not rows:
        return False
    if curve["log_y"]:
        rows = [(x, np.where(y > 0, y, np.nan), d) for x, y, d in rows]
    x = rows[0][0]
    common = all(len(r[0]) == len(x) and np.allclose(r[0], x, rtol=1e-6, atol=1e-12) for r in rows)
    n = len(rows)
    dashed = name in curve["dashed"]
    ls = dash(curve, name)
    if curve["kind"] == "points":
        dense = len(x) > 20
        step = 0.0 if dense else float(np.min(np.diff(np.unique(x)))) if len(np.unique(x)) > 1 else 1.0
        if n > 1:
            size = style.mark(0.27 if dense else 0.58)
            for xs, y, _ in rows[:MAX_SINGLE_LINES]:
                ax.plot(xs + dodge * step, y, ls="", marker=marker, ms=size, mfc="none", mec=colour, mew=size / 4,
                        alpha=0.4 if dense else 0.6, rasterized=dense, gid="single")  # fmt: skip
        y = np.stack([r[1] for r in rows]).mean(axis=0) if common else rows[0][1]
        ax.plot(x + dodge * step, y, ls="", marker=marker, ms=style.mark(0.5 if dense else 0.93), color=colour,
                label=label, rasterized=dense and len(x) > 100)  # fmt: skip
        return False
    if not common or (thin and n > 1) or n == 2:
        for i, (xs, y, _) in enumerate(rows[:MAX_SINGLE_LINES]):
            alone = label if not common and i == 0 else None
            ax.plot(xs, y, color=colour, ls=ls, lw=style.line(0.38 if common else 0.56), alpha=0.4 if common else 0.8,
                    label=alone, rasterized=len(xs) * n > 400, gid="single")  # fmt: skip
    if not common:
        return False
    stack = np.stack([r[1] for r in rows])
    mean = stack.mean(axis=0)
    ax.plot(x, mean, color=colour, ls=ls, lw=style.line(0.75 if dashed else 1.06), label=label,
            marker=marker if len(x) == 1 or (len(x) <= 12 and not dashed) else None, ms=style.mark(0.67))  # fmt: skip
    if thin or dashed or n < 3 or rows[0][2].dependent:
        return False
    if column.kind == "pair":
        bounds = jackknife_bounds(stack, [(d.seeds[0], d.seeds[-1]) for _, _, d in rows])
    else:
        bounds = mean_bounds(stack)
    if bounds is None:
        return False
    low, high = bounds
    if curve["log_y"]:
        low = np.maximum(low, mean / 100)  # an interval may reach below zero, which a logarithm cannot show
    ax.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
    return True


def dash(curve: Any, name: str) -> str:
    """The line style of a quantity: solid, or the dashes of its place among the dashed ones."""
    dashed = [y for y in curve["y"] if y in curve["dashed"]]
    return ("--", ":", "-.")[dashed.index(name) % 3] if name in dashed else "-"


def dash_keys(curve: Any, names: Sequence[str]) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    return [
        (Line2D([], [], color=style.ink(), alpha=0.8, ls=dash(curve, n), lw=style.line(0.8)), said(n)) for n in names
    ]
