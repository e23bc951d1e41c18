"""Curves that tasks declare: for every setting over its seeds, or a panel for every two settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...study import DONE, Column, Study
from .. import style, words
from ..views import chosen_settings, held, name_of, ordered, views
from .canvas import MAX_CELLS, MAX_PANELS, Picture, legend, panels, rendered, said, shape, slug, spread, titled
from .lines import Arrays, dash_keys, draw_line, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curve_picture(study: Study, column: Column, curve: Any, index: int) -> Picture | None:
    """A curve that a task declares, for every setting over its seeds; None if no task has its arrays."""
    if column.kind in ("pair", "group"):
        return _small_multiples(study, column, curve, index)
    return _by_setting(study, column, curve, index)


def _by_setting(study: Study, column: Column, curve: Any, index: int) -> Picture | None:
    candidates = [s.index for s in study.settings]
    data_settings: list[int] = []
    while candidates and not data_settings:  # not every setting need have left such arrays
        chosen = chosen_settings(study, style.MAX_SERIES, candidates)
        data = load(study, column, curve, set(chosen))
        data_settings = [s for s in chosen if any(d.cell[0] == s for d in data)]
        candidates = [s for s in candidates if s not in chosen]
    if not data_settings:
        return None
    many = max(y.shape[0] for d in data for y in d.y.values()) > 1
    each = many and bool(curve.get("each"))
    groups = _panel_groups(curve)
    rank = {s: i for i, s in enumerate(_in_order(study, data_settings))}
    palette = style.colours(len(data_settings), ordered(study))
    bands = points = False
    if many:
        data_settings = data_settings[: MAX_PANELS - 1] if len(groups) > 1 else data_settings[:MAX_PANELS]
        columns_ = min(len(data_settings), 3) if len(groups) == 1 else len(data_settings)
        rows = math.ceil(len(data_settings) / columns_) if len(groups) == 1 else len(groups)
        fig, axes = panels(rows, columns_, height=2.2, share=True)
        spots = [(g, s) for g in groups for s in data_settings]
        for ax, (names, setting) in zip(axes, spots, strict=False):
            here = [d for d in data if d.cell[0] == setting]
            for name in names:
                lines = max(d.y[name].shape[0] for d in here)
                for m in range(lines):
                    colour = style.colours(min(lines, 8))[m % 8]
                    label = _counted(curve, name, m) if name == names[0] or not each else None
                    band = draw_line(ax, here, name, m, curve, colour, label, style.marker(m), column)
                    bands, points = bands or band, points or curve["kind"] == "points"
            if len(study.settings) > 1:
                ax.set_title(style.wrapped(name_of(study, setting), int(84 / columns_)), loc="left", fontsize=8)
        used = len(spots)
    else:
        rows, columns_ = shape(len(groups), 3)
        fig, axes = panels(rows, columns_, height=3.0 if len(groups) == 1 else 2.5, share=len(groups) > 1)
        for ax, names in zip(axes, groups, strict=False):
            for setting in data_settings:
                here = [d for d in data if d.cell[0] == setting]
                i = rank[setting]
                for name in names:
                    label = name_of(study, setting) if name == names[0] else None
                    width = 0.5 / len(data_settings)
                    band = draw_line(
                        ax, here, name, 0, curve, palette[i], label, style.marker(i), column,
                        dodge=(i - (len(data_settings) - 1) / 2) * min(width, 0.16),
                        thin=len(data_settings) <= 3,
                    )  # fmt: skip
                    bands = bands or band
            if len(groups) > 1:
                ax.set_title(said(names[0]), loc="left", fontsize=8)
        used = len(groups)
    for ax in axes[used:]:
        ax.remove()
    _dress(fig, axes[:used], curve, columns_)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(groups[0]) > 1 and (each or not many):
        keys = dash_keys(curve, groups[0])
        handles, labels = handles + [k[0] for k in keys], labels + [k[1] for k in keys]
    if len(labels) > 1:
        lines = len(labels) if each else len(labels) // len(groups[0])
        legend(fig, handles, labels, lines if many and 2 <= lines <= 5 else 4)
    caption = _curve_caption(study, column, curve, data, bands, many, data_settings)
    name = f"{slug(column.name)}-{index + 1}-{slug(curve['file'])}"
    title = titled(study, column, curve)
    return Picture(name, title, caption, column.kind, column.name, *rendered(fig, title))


def _counted(curve: Any, name: str, m: int) -> str | None:
    """The name of curve m of a quantity, for the legend; None where there are too many to name."""
    word = curve.get("each")
    return f"{word or said(name)} {m + 1}" if m < (8 if word else 4) else None


def _small_multiples(study: Study, column: Column, curve: Any, index: int) -> Picture | None:
    """A panel for every two settings; its lines are single pairs of trials and their mean."""
    data = load(study, column, curve, None)
    if not data:
        return None
    cells = sorted({d.cell for d in data})
    # Within settings first, then across: the eye compares along a row.
    cells.sort(key=lambda c: (len(set(c)) > 1, c))
    shown = cells
    if len(cells) > MAX_CELLS:
        within = spread([c for c in cells if len(set(c)) == 1], MAX_CELLS // 2)
        shown = within + spread([c for c in cells if len(set(c)) > 1], MAX_CELLS - len(within))
    rows, columns_ = shape(len(shown), 1 if len(shown) == 1 else 4 if len(shown) > 6 else 3)
    fig, axes = panels(rows, columns_, height=3.0 if len(shown) == 1 else 2.3 if rows == 1 else 1.75, share=True)
    names = list(curve["y"])
    bands = False
    for ax, cell in zip(axes, shown, strict=False):
        here = [d for d in data if d.cell == cell]
        for i, name in enumerate(names):
            for m in range(max(d.y[name].shape[0] for d in here)):
                colour = style.CATEGORIES[(i + m) % len(style.CATEGORIES)]
                bands |= draw_line(ax, here, name, m, curve, colour, said(name) if m == 0 else None,
                                    style.marker(i), column, thin=True)  # fmt: skip
        a, b = name_of(study, cell[0]), name_of(study, cell[-1])
        title = a if cell[0] == cell[-1] else f"{a} × {b}"
        if len(study.settings) > 1:
            ax.set_title(style.wrapped(title, int(70 / columns_)), loc="left", fontsize=7.5)
    for ax in axes[len(shown) :]:
        ax.remove()
    _dress(fig, axes[: len(shown)], curve, columns_)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        legend(fig, handles, labels, 4)
    unit = "pair of trials" if column.kind == "pair" else "setting"
    lines = [d for d in data if d.cell in shown]
    caption = f"Thin lines: one {unit} each ({words.count(len(lines), 'line')} a quantity in all)"
    caption += "; thick lines: their mean." if len(lines) > len(shown) else "."
    if column.kind == "pair" and any(len(set(c)) > 1 for c in shown):
        if any(len(set(c)) == 1 for c in shown):
            caption += " A panel with one name: pairs of seeds of that setting."
        caption += " A × B: the first network is of A, the second of B."
    if len(shown) < len(cells):
        caption += f" {len(shown)} of {len(cells)} combinations of settings are drawn, evenly spaced in their order."
    caption += _gone(study, column)
    name = f"{slug(column.name)}-{index + 1}-{slug(curve['file'])}"
    title = titled(study, column, curve)
    return Picture(name, title, caption, column.kind, column.name, *rendered(fig, title))


def _curve_caption(
    study: Study, column: Column, curve: Any, data: Sequence[Arrays], bands: bool, many: bool, shown: Sequence[int]
) -> str:
    per = [sum(d.cell[0] == s for d in data) for s in {d.cell[0] for d in data}]
    seeds = words.count(max(per), "seed")
    if curve["kind"] == "points":
        text = f"Filled marks: means over the seeds of a setting (up to {seeds}); hollow marks: single seeds."
    elif max(per) == 1:
        text = "One line a setting: one seed."
    elif bands:
        text = f"Lines: means over the seeds of a setting (up to {seeds}); bands: pointwise 95 % t intervals."
    else:
        text = f"Thick lines: means over the seeds of a setting (up to {seeds}); thin lines: single seeds."
    if many and not curve.get("each"):
        text += " Numbers in the legend count the curves of one quantity in the order in which the task saved them."
    if len(shown) < len(study.settings):
        text += f" {len(shown)} of {len(study.settings)} settings are drawn"
        if same := held(study, shown):
            text += ", with " + words.listed([f"{name}={value}" for name, value in same.items()])
        text += ", the best by mean among them." if study.best() in shown else "."
    return text + _gone(study, column)


def _gone(study: Study, column: Column) -> str:
    tasks = study.of_column(column.name)
    missing = [t for t in tasks if study.statuses[t.key] != DONE]
    if not missing:
        return ""
    reasons = sorted({study.statuses[t.key] for t in missing})
    return f" Not drawn: {len(missing)} of {len(tasks)} tasks ({words.listed(reasons)})."


def _panel_groups(curve: Any) -> list[list[str]]:
    """Which quantities share a panel: one solid line, with the dashed ones that belong to it."""
    solid = [y for y in curve["y"] if y not in curve["dashed"]]
    dashed = [y for y in curve["y"] if y in curve["dashed"]]
    if len(solid) <= 1:
        return [solid + dashed]
    if len(solid) == len(dashed):
        return [[s, d] for s, d in zip(solid, dashed, strict=True)]
    return [[s] for s in solid] + ([dashed] if dashed else [])


def _dress(fig: Figure, axes: Sequence[Axes], curve: Any, columns_: int) -> None:
    """Scales and labels; several panels have common ones."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

    for i, ax in enumerate(axes):
        if curve["log_y"]:
            ax.set_yscale("log")
        elif len(axes) > 3:
            ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
        if curve["kind"] == "points":
            _whole_ticks(ax)
        elif columns_ > 2:
            ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        x = _abscissae(ax)
        steps = [b - a for a, b in pairwise(x)]
        if steps == sorted(steps) and len(steps) > 1 and max(steps) > 8 * min(steps) > 0:  # like 10, 100, 1000
            if x[0] > 0:
                ax.set_xscale("log")
            else:
                ax.set_xscale("symlog", linthresh=x[1] - x[0], linscale=0.5)
                ax.xaxis.set_minor_locator(NullLocator())
            if len(x) <= 8:
                ax.xaxis.set_major_locator(FixedLocator(x))
                ax.xaxis.set_major_formatter(FixedFormatter([f"{v:g}" for v in x]))
                ax.xaxis.set_minor_locator(NullLocator())
        if i % columns_:
            ax.tick_params(labelleft=False)
        if i + columns_ >= len(axes):
            ax.tick_params(labelbottom=True)
        if i // columns_ == (len(axes) - 1) // columns_:  # the last row; a legend is below it, so no common label
            ax.set_xlabel(style.wrapped(curve["xlabel"], int(84 / columns_)))
    if len(axes) == 1:
        axes[0].set_ylabel(curve["ylabel"])
    else:
        fig.supylabel(curve["ylabel"], fontsize=style.SETTINGS["axes.labelsize"])


def _abscissae(ax: Axes) -> list[float]:
    """The places of the first line drawn."""
    import numpy as np

    return [float(v) for line in ax.get_lines()[:1] for v in np.asarray(line.get_xdata(), dtype=float)]


def _whole_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _in_order(study: Study, settings: Sequence[int]) -> list[int]:
    """Settings by the value of the one numeric parameter that is swept, if there is one."""
    if not ordered(study):
        return list(settings)
    view = views(study)[0]
    return sorted(settings, key=lambda s: view.x[s,])
