"""Where panels go on a figure.

Matplotlib's constrained layout measures every panel twice, which took half of the time of a report. Here
panels are of equal size, so that one measurement is enough; and of panels that share their axes, those
that lie inside have no labels to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAD = 0.05
"""Inches around the figure."""

GAP = 0.09
"""Inches between neighbours, their labels included."""

TICKS = 0.4
"""Inches, roughly, of tick labels and an axis label below the panels."""


def arrange(fig: Figure, renderer: Any) -> None:
    """Make the panels as large as title, labels and the legend below them leave room for."""
    dpi = fig.dpi
    width, height = (float(inches) * dpi for inches in fig.get_size_inches())
    pad, gap = PAD * dpi, GAP * dpi
    left, right, bottom, top = pad, width - pad, pad, height - pad
    aside = [t for t in fig.texts if t.get_rotation() == 90]
    for text in (t for t in fig.texts if t not in aside):
        text.set_y(top / height)
        top -= text.get_window_extent(renderer).height + gap
    for legend in fig.legends:
        bottom += legend.get_window_extent(renderer).height + gap / 2
    for text in aside:
        text.set_horizontalalignment("left")
        text.set_multialignment("center")
        text.set_x(left / width)
        share = text.get_window_extent(renderer).height / max(top - bottom - TICKS * dpi, 1.0)
        if share > 1:
            text.set_text(style.wrapped(text.get_text(), int(len(text.get_text()) / share)))
        left += text.get_window_extent(renderer).width + gap / 2

    fig.subplots_adjust(left / width + 0.06, bottom / height + 0.08, right / width, top / height, 0.1, 0.25)
    panels = {_place(ax): ax for ax in fig.axes}
    rows, columns = (max(place[i] for place in panels) + 1 for i in (0, 1))
    over: list[list[float]] = [[0.0] * n for n in (columns, columns, rows, rows)]  # left, right, below, above
    for (row, column), ax in _telling(panels).items():
        outer, inner = ax.get_tightbbox(renderer, for_layout_only=True), ax.get_window_extent(renderer)
        if outer is None:
            continue
        beyond = (inner.x0 - outer.x0, outer.x1 - inner.x1, inner.y0 - outer.y0, outer.y1 - inner.y1)
        for side, at, value in zip(over, (column, column, row, row), beyond, strict=True):
            side[at] = max(side[at], value)
    before, after, below, above = over
    w = max((right - left - sum(before) - sum(after) - gap * (columns - 1)) / columns, pad)
    h = max((top - bottom - sum(below) - sum(above) - gap * (rows - 1)) / rows, pad)
    for (row, column), ax in panels.items():
        x = left + sum(before[: column + 1]) + sum(after[:column]) + column * (w + gap)
        y = top - sum(above[: row + 1]) - sum(below[:row]) - row * (h + gap) - h
        ax.set_position((x / width, y / height, w / width, h / height))
    for text in aside:
        text.set_y((bottom + below[-1] + top - above[0]) / 2 / height)


def _place(ax: Axes) -> tuple[int, int]:
    spec = ax.get_subplotspec()
    assert spec is not None
    return spec.rowspan.start, spec.colspan.start


def _telling(panels: dict[tuple[int, int], Axes]) -> dict[tuple[int, int], Axes]:
    """The panels that have to be measured: all, or of panels that share their axes the outer ones."""
    if not _share(list(panels.values())):
        return panels
    chosen: dict[tuple[int, int], Axes] = {}
    for row in {row for row, _ in panels}:
        here = [place for place in panels if place[0] == row]
        chosen |= {p: panels[p] for p in (min(here), max(here, key=lambda p: panels[p].get_title("left").count("\n")))}
    for column in {column for _, column in panels}:
        last = max(place for place in panels if place[1] == column)
        chosen[last] = panels[last]
    return chosen


def _share(panels: Sequence[Axes]) -> bool:
    first, last = panels[0], panels[-1]
    return first.get_shared_x_axes().joined(first, last) and first.get_shared_y_axes().joined(first, last)
