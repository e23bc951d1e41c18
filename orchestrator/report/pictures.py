"""Which pictures a study makes, each with the sentences that say what it shows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..stats import jackknife_bounds, mean_bounds
from ..study import DONE, Column, Metric, Study, Summary, TaskRecord
from . import style, words
from .views import View, chosen_settings, name_of, ordered, scale_of, views

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6
MAX_CELLS = 16
MAX_SINGLE_LINES = 40
MATRIX_TRIALS = 24


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        name: file name without its ending.
        title, caption: words for people; the caption says what is shown and what is left out.
        kind: "train", "probe", "pair", "group" or "run".
        column: of the study, or empty.
        png: the image.
    """

    name: str
    title: str
    caption: str
    kind: str
    column: str
    png: bytes


def pictures(study: Study) -> list[Picture]:
    """Every picture of the study, in the order of the report."""
    from matplotlib import rc_context

    with rc_context(style.SETTINGS):  # type: ignore[arg-type]
        return list(_pictures(study))


def _pictures(study: Study) -> Iterator[Picture]:
    for column in study.columns_of("train", "probe", "pair", "group"):
        yield from metric_pictures(study, column)
        for i, curve in enumerate(column.curves):
            picture = curve_picture(study, column, curve, i)
            if picture is not None:
                yield picture
        if column.kind == "pair":
            yield from matrix_pictures(study, column)
    for make in (outcome_picture, timeline_picture):
        picture = make(study)
        if picture is not None:
            yield picture


# A metric against the swept parameter


def metric_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """Headline metrics of a column against the swept parameter: means, intervals, and single seeds."""
    metrics = [m for m in study.headline(column.kind) if m.column is column][:MAX_PANELS]
    metrics = [m for m in metrics if study.values(m) and not _constant(study, m)]
    within = {s.settings for m in metrics for s in study.summaries(m) if len(set(s.settings)) == 1}
    found = views(study) if within else [_across(study, metrics)]
    for number, view in enumerate(found):
        if not view.x:
            return
        if not metrics or (column.kind == "pair" and all(len(study.values(m)) < 2 for m in metrics)):
            return
        wide = not view.numeric and max(map(len, view.ticks)) > 8
        rows, columns_ = _shape(len(metrics), 2 if wide else 3)
        fig, axes = _panels(rows, columns_, height=2.25 if view.numeric else 2.5)
        widths = style.WIDTH / columns_ - 0.7
        cut = False
        for ax, metric in zip(axes, metrics, strict=False):
            cut |= _draw_metric(ax, study, metric, view, widths)
        for ax in axes[len(metrics) :]:
            ax.remove()
        if len(view.names) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            _legend(fig, handles, labels, 4)
        what = {
            "pair": f"single pairs of seeds of {'one setting' if within else 'two settings'}",
            "group": "settings",
        }.get(column.kind, "single seeds")
        against = f"against {view.label}" if view.label else "by setting" if within else "between settings"
        title = f"{column.name} {against}" if column.kind != "train" else f"Training results {against}"
        if column.kind == "group":
            caption = "One value a setting, from all its seeds together; there is no interval."
        else:
            method = "jackknife over seeds" if column.kind == "pair" else "Student t over seeds"
            caption = (
                f"Filled marks: means, with 95 % intervals ({method}). Hollow marks beside them: {what}. "
                "Exploratory: intervals are for each setting alone, not for differences."
            )
        if any(s.censored for m in metrics for s in study.summaries(m)):
            caption += " Where values are censored (above the range looked at) no means are drawn."
        if cut:
            caption += " Intervals that reach beyond the panel are cut off at its edge: so few seeds hardly bound them."
        caption += _left_out(study, metrics)
        name = f"{_slug(column.name)}-metrics" + (f"-{number + 1}" if number else "")
        yield Picture(name, title, caption, column.kind, column.name, _png(fig, title))


def _across(study: Study, metrics: Sequence[Metric]) -> View:
    """An axis of the combinations of two settings, for pairs that are all across settings."""
    cells = sorted({s.settings for m in metrics for s in study.summaries(m)})
    if len(cells) > MAX_CELLS:
        cells = []
    ticks = tuple(" × ".join(name_of(study, s) for s in cell) for cell in cells)
    x = {cell: float(i) for i, cell in enumerate(cells)}
    return View("", x, False, ticks, dict.fromkeys(cells, 0), ("",), False)


def _constant(study: Study, metric: Metric) -> bool:
    """Whether a count (of members, of examples) is the same for all, so that no picture is needed."""
    values = list(study.values(metric).values())
    return len(values) > 1 and len(set(values)) == 1 and values[0].is_integer()


def _draw_metric(ax: Axes, study: Study, metric: Metric, view: View, inches: float) -> bool:
    """Draw a metric's panel; returns whether intervals were cut off."""
    from matplotlib.transforms import ScaledTranslation

    values = study.values(metric)
    singles: dict[tuple[int, ...], list[float]] = {}
    for task in study.of_column(metric.column.name):
        cell = study.cell(task) if task.trials else ()
        if task.key in values and cell in view.x:
            singles.setdefault(cell, []).append(values[task.key])
    summaries = [s for s in study.summaries(metric) if s.settings in view.x and s.interval.n]
    censored = any(s.censored for s in summaries)
    group = metric.column.kind == "group"
    lines = len(view.names)
    palette = style.colours(lines)
    bounds: list[float] = [v for column in singles.values() for v in column]
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    room = 1.5 * (high - low) or abs(high) or 1.0
    cut = False
    for line in range(lines):
        chosen = [s for s in summaries if view.series[s.settings] == line]
        chosen.sort(key=lambda s: view.x[s.settings])
        dodge = 0.0 if view.numeric else (line - (lines - 1) / 2) * min(0.5 / lines, 0.2)
        x = [view.x[s.settings] + dodge for s in chosen]
        means = [s.interval.mean or 0.0 for s in chosen]
        colour = palette[line]
        if view.joined and len(x) > 1 and not censored:
            ax.plot(x, means, color=colour, lw=1.0, alpha=0.8, ls=("-", "--", "-.", ":")[line % 4])
        shift = ax.transData + ScaledTranslation(5 / 72, 0, ax.figure.dpi_scale_trans)
        if not group:
            for place, s in zip(x, chosen, strict=True):
                points = singles.get(s.settings, [])
                ax.plot([place] * len(points), points, ls="", marker=style.marker(line), ms=3, mfc="none", mec=colour,
                        mew=0.7, alpha=0.7, transform=shift)  # fmt: skip
        if censored:
            continue  # a mean of some would be too small
        halves = [s.interval.half or 0.0 for s in chosen]
        ax.errorbar(x, means, yerr=None if group else halves, ls="", marker=style.marker(line), color=colour, ms=4.5,
                    capsize=2.5, elinewidth=1.0, label=view.names[line])  # fmt: skip
        for mean, half in zip(means, halves, strict=True):
            cut |= mean - half < low - room or mean + half > high + room
    if cut:
        ax.set_ylim(low - room, high + room)
    ax.set_ylabel(style.wrapped(_brief(metric), 30))
    ax.set_title(metric.name, loc="left", fontsize=8, color="#555555")
    if bounds and all(float(v).is_integer() for v in bounds):
        from matplotlib.ticker import MaxNLocator

        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _dress_x(ax, view, inches)
    return cut


def _dress_x(ax: Axes, view: View, inches: float) -> None:
    ax.set_xlabel(view.label)
    if not view.numeric:
        style.show_labels(ax, view.ticks, inches)
        ax.set_xlim(-0.6, len(view.ticks) - 0.4)
        ax.grid(axis="x", visible=False)
        return
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

    values = sorted(set(view.x.values()))
    kind, options = scale_of(values)
    ax.set_xscale(kind, **options)
    if len(values) == 1:
        ax.set_xlim(values[0] - 1, values[0] + 1)
    place = ax.get_xaxis().get_transform().transform
    at = [float(place(v)) for v in values]
    span = (at[-1] - at[0]) or 1.0
    shown = [0]
    for i in range(1, len(values)):
        if (at[i] - at[shown[-1]]) / span * inches > 0.09 * len(f"{values[i]:.4g}") + 0.04:
            shown.append(i)
    if len(values) <= 12:
        ax.xaxis.set_major_locator(FixedLocator([values[i] for i in shown]))
        ax.xaxis.set_major_formatter(FixedFormatter([f"{values[i]:.4g}" for i in shown]))
        rest = [v for i, v in enumerate(values) if i not in shown]
        ax.xaxis.set_minor_locator(FixedLocator(rest) if rest else NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
    if kind == "linear" and len(values) > 1:
        ax.set_xlim(values[0] - 0.06 * span, values[-1] + 0.08 * span)


# Curves


def curve_picture(study: Study, column: Column, curve: Any, index: int) -> Picture | None:
    """A curve that a task declares, for every setting over its seeds; None if no task has its arrays."""
    if column.kind in ("pair", "group"):
        return _small_multiples(study, column, curve, index)
    return _by_setting(study, column, curve, index)


def _by_setting(study: Study, column: Column, curve: Any, index: int) -> Picture | None:
    chosen = chosen_settings(study, style.MAX_SERIES)
    data = _load(study, column, curve, set(chosen))
    data_settings = [s for s in chosen if any(d.cell[0] == s for d in data)]
    if not data_settings:
        return None
    many = max(y.shape[0] for d in data for y in d.y.values()) > 1
    groups = _panel_groups(curve)
    rank = {s: i for i, s in enumerate(_in_order(study, data_settings))}
    palette = style.colours(len(data_settings), ordered(study))
    bands = points = False
    if many:
        data_settings = data_settings[: MAX_PANELS - 1] if len(groups) > 1 else data_settings[:MAX_PANELS]
        columns_ = min(len(data_settings), 3) if len(groups) == 1 else len(data_settings)
        rows = math.ceil(len(data_settings) / columns_) if len(groups) == 1 else len(groups)
        fig, axes = _panels(rows, columns_, height=2.2, share=True)
        spots = [(g, s) for g in groups for s in data_settings]
        for ax, (names, setting) in zip(axes, spots, strict=False):
            here = [d for d in data if d.cell[0] == setting]
            for name in names:
                lines = max(d.y[name].shape[0] for d in here)
                for m in range(lines):
                    colour = style.colours(min(lines, 8))[m % 8]
                    label = f"{_said(name)} {m + 1}" if m < 4 else None
                    band = _draw_line(ax, here, name, m, curve, colour, label, style.marker(m), column)
                    bands, points = bands or band, points or curve["kind"] == "points"
            if len(study.settings) > 1:
                ax.set_title(style.wrapped(name_of(study, setting), int(84 / columns_)), loc="left", fontsize=8)
        used = len(spots)
        n_shown = len(data_settings)
    else:
        rows, columns_ = _shape(len(groups), 3)
        fig, axes = _panels(rows, columns_, height=3.0 if len(groups) == 1 else 2.5, share=len(groups) > 1)
        for ax, names in zip(axes, groups, strict=False):
            for setting in data_settings:
                here = [d for d in data if d.cell[0] == setting]
                i = rank[setting]
                for name in names:
                    label = name_of(study, setting) if name == names[0] else None
                    width = 0.5 / len(data_settings)
                    band = _draw_line(
                        ax, here, name, 0, curve, palette[i], label, style.marker(i), column,
                        dodge=(i - (len(data_settings) - 1) / 2) * min(width, 0.16),
                        thin=len(data_settings) <= 3,
                    )  # fmt: skip
                    bands = bands or band
            if len(groups) > 1:
                ax.set_title(_said(names[0]), loc="left", fontsize=8)
        used = len(groups)
        n_shown = len(data_settings)
    for ax in axes[used:]:
        ax.remove()
    _dress(fig, axes[:used], curve, columns_)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(groups[0]) > 1 and not many:
        keys = _dash_keys(curve, groups[0])
        handles, labels = handles + [k[0] for k in keys], labels + [k[1] for k in keys]
    if len(labels) > 1:
        lines = len(labels) // len(groups[0])
        _legend(fig, handles, labels, lines if many and 2 <= lines <= 5 else 4)
    caption = _curve_caption(study, column, curve, data, bands, many, n_shown)
    name = f"{_slug(column.name)}-{index + 1}-{_slug(curve['file'])}"
    title = _titled(study, column, curve)
    return Picture(name, title, caption, column.kind, column.name, _png(fig, title))


def _small_multiples(study: Study, column: Column, curve: Any, index: int) -> Picture | None:
    """A panel for every two settings; its lines are single pairs of trials and their mean."""
    data = _load(study, column, curve, None)
    if not data:
        return None
    cells = sorted({d.cell for d in data})
    # Within settings first, then across: the eye compares along a row.
    cells.sort(key=lambda c: (len(set(c)) > 1, c))
    shown = cells
    if len(cells) > MAX_CELLS:
        within = _spread([c for c in cells if len(set(c)) == 1], MAX_CELLS // 2)
        shown = within + _spread([c for c in cells if len(set(c)) > 1], MAX_CELLS - len(within))
    rows, columns_ = _shape(len(shown), 1 if len(shown) == 1 else 4 if len(shown) > 6 else 3)
    fig, axes = _panels(rows, columns_, height=3.0 if len(shown) == 1 else 1.75, share=True)
    names = list(curve["y"])
    bands = False
    for ax, cell in zip(axes, shown, strict=False):
        here = [d for d in data if d.cell == cell]
        for i, name in enumerate(names):
            for m in range(max(d.y[name].shape[0] for d in here)):
                colour = style.CATEGORIES[(i + m) % len(style.CATEGORIES)]
                bands |= _draw_line(ax, here, name, m, curve, colour, _said(name) if m == 0 else None,
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
        _legend(fig, handles, labels, 4)
    unit = "pair of trials" if column.kind == "pair" else "setting"
    panels = [d for d in data if d.cell in shown]
    caption = f"Thin lines: one {unit} each ({words.count(len(panels), 'line')} a quantity in all)"
    caption += "; thick lines: their mean." if len(panels) > len(shown) else "."
    if column.kind == "pair" and len({d.cell for d in data if len(set(d.cell)) > 1}):
        caption += (
            " A panel with one name: pairs of seeds of that setting; with two (A × B): the first network is of A."
        )
    if len(shown) < len(cells):
        caption += f" {len(shown)} of {len(cells)} combinations of settings are drawn, evenly spaced in their order."
    caption += _gone(study, column)
    name = f"{_slug(column.name)}-{index + 1}-{_slug(curve['file'])}"
    title = _titled(study, column, curve)
    return Picture(name, title, caption, column.kind, column.name, _png(fig, title))


@dataclass(frozen=True)
class _Arrays:
    """A task's arrays for a curve: x of shape (n,), each y of shape (m, n)."""

    cell: tuple[int, ...]
    seeds: tuple[str, ...]
    x: np.ndarray
    y: dict[str, np.ndarray]


def _load(study: Study, column: Column, curve: Any, settings: set[int] | None) -> list[_Arrays]:
    import numpy as np

    found = []
    for task in study.of_column(column.name):
        if study.statuses[task.key] != DONE or (settings is not None and study.cell(task)[0] not in settings):
            continue
        path = study.folder(task.key) / f"{curve['file']}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                x = np.asarray(file[curve["x"]], dtype=float).reshape(-1)
                ys = {name: np.asarray(file[name], dtype=float) for name in curve["y"] if name in file.files}
        except (OSError, ValueError, KeyError):
            continue  # `_gone` says how many
        ys = {name: y.reshape(-1, y.shape[-1]) for name, y in ys.items() if y.ndim and y.shape[-1] == len(x)}
        if len(x) and len(ys) == len(curve["y"]):
            found.append(_Arrays(study.cell(task), tuple(r for _, r in task.trials), x, ys))
    return found


def _draw_line(
    ax: Axes,
    data: Sequence[_Arrays],
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
    ls = _dash(curve, name)
    if curve["kind"] == "points":
        dense = len(x) > 20
        step = 0.0 if dense else float(np.min(np.diff(np.unique(x)))) if len(np.unique(x)) > 1 else 1.0
        if n > 1:
            for xs, y, _ in rows[:MAX_SINGLE_LINES]:
                ax.plot(xs + dodge * step, y, ls="", marker=marker, ms=1.2 if dense else 2.6, mfc="none", mec=colour,
                        mew=0.4 if dense else 0.6, alpha=0.4 if dense else 0.6)  # fmt: skip
        y = np.stack([r[1] for r in rows]).mean(axis=0) if common else rows[0][1]
        ax.plot(x + dodge * step, y, ls="", marker=marker, ms=2.2 if dense else 4.2, color=colour, label=label)
        return False
    if not common or (thin and n > 1) or n == 2:
        for i, (xs, y, _) in enumerate(rows[:MAX_SINGLE_LINES]):
            alone = label if not common and i == 0 else None
            ax.plot(xs, y, color=colour, ls=ls, lw=0.6 if common else 0.9, alpha=0.4 if common else 0.8, label=alone)
    if not common:
        return False
    stack = np.stack([r[1] for r in rows])
    mean = stack.mean(axis=0)
    ax.plot(x, mean, color=colour, ls=ls, lw=1.2 if dashed else 1.7, label=label,
            marker=marker if len(x) == 1 or (len(x) <= 12 and not dashed and n > 0) else None, ms=3)  # fmt: skip
    if thin or dashed or n < 3:
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


def _curve_caption(
    study: Study, column: Column, curve: Any, data: Sequence[_Arrays], bands: bool, many: bool, shown: int
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
    if many:
        text += " Numbers in the legend count the curves of one quantity in the order in which the task saved them."
    if shown < len(study.settings):
        text += f" {shown} of {len(study.settings)} settings are drawn, evenly spaced in order of declaration"
        text += ", the best by mean included." if study.best() is not None and not many else "."
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


def _dash(curve: Any, name: str) -> str:
    """The line style of a quantity: solid, or the dashes of its place among the dashed ones."""
    dashed = [y for y in curve["y"] if y in curve["dashed"]]
    return ("--", ":", "-.")[dashed.index(name) % 3] if name in dashed else "-"


def _dash_keys(curve: Any, names: Sequence[str]) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    return [(Line2D([], [], color="#444444", ls=_dash(curve, n), lw=1.3), _said(n)) for n in names]


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


# Matrices over pairs


def matrix_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """The headline metrics of a pair probe as matrices: trial by trial, or setting by setting."""
    metrics = [m for m in study.headline("pair") if m.column is column and study.values(m)][:4]
    if not metrics:
        return
    tasks = [t for t in study.of_column(column.name) if t.trials]
    trials = sorted({t for task in tasks for t in task.trials}, key=lambda t: (t[0], study.replicates.index(t[1])))
    if len(trials) < 3:
        return  # one pair: the table says it
    by_trial = len(trials) <= MATRIX_TRIALS
    settings = sorted({s for s, _ in trials})
    if not by_trial and not 2 <= len(settings) <= 40:
        return
    rows, columns_ = _shape(len(metrics), 2)
    fig, axes = _panels(rows, columns_, height=(2.9 if columns_ == 2 else 4.4))
    for ax, metric in zip(axes, metrics, strict=False):
        if by_trial:
            _draw_matrix(ax, fig, *_trial_matrix(study, metric, trials), metric)
            _trial_labels(ax, study, trials)
        else:
            _draw_matrix(ax, fig, *_setting_matrix(study, metric, settings), metric)
            labels = [name_of(study, s) for s in settings]
            style.show_labels(ax, labels, style.WIDTH / columns_ - 1.4)
            ax.set_yticks(range(len(labels)), [style.broken(t) for t in labels])
    for ax in axes[len(metrics) :]:
        ax.remove()
    if by_trial:
        what = "Each cell is one pair of trials"
        what += ", grouped by setting; the numbers on the axes are seeds." if len(settings) > 1 else ", named by seed."
    else:
        what = "Each cell is the mean over the pairs of trials of two settings."
    caption = f"{what} Hatched grey: no such pair, or no value. The matrix is symmetric: a pair is measured once."
    caption += _left_out(study, metrics)
    title = f"{column.name} between trials"
    yield Picture(f"{_slug(column.name)}-matrix", title, caption, "pair", column.name, _png(fig, title))


def _trial_matrix(study: Study, metric: Metric, trials: Sequence[tuple[int, str]]) -> tuple[Any]:
    import numpy as np

    place = {t: i for i, t in enumerate(trials)}
    matrix = np.full((len(trials), len(trials)), np.nan)
    values = study.values(metric)
    for task in study.of_column(metric.column.name):
        if task.key in values:
            a, b = (place[t] for t in task.trials)
            matrix[a, b] = matrix[b, a] = values[task.key]
    return (matrix,)


def _setting_matrix(study: Study, metric: Metric, settings: Sequence[int]) -> tuple[Any]:
    import numpy as np

    place = {s: i for i, s in enumerate(settings)}
    matrix = np.full((len(settings), len(settings)), np.nan)
    for summary in study.summaries(metric):
        if summary.interval.mean is not None:
            a, b = (place[s] for s in summary.settings)
            matrix[a, b] = matrix[b, a] = summary.interval.mean
    return (matrix,)


def _draw_matrix(ax: Axes, fig: Figure, matrix: Any, metric: Metric) -> None:
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    n = len(matrix)
    ax.grid(visible=False)
    ax.add_patch(Rectangle((-0.5, -0.5), n, n, fc="#F2F2F2", ec="#CFCFCF", hatch="////", lw=0, zorder=-1))
    cmap = colormaps["cividis"]
    finite = matrix[np.isfinite(matrix)]
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap=cmap, vmin=low, vmax=high, aspect="equal")
    if n <= 6:
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                light = (value - low) / (high - low) > 0.55
                ax.text(j, i, words.number(float(value), 3), ha="center", va="center", fontsize=6.5,
                        color="black" if light else "white")  # fmt: skip
    bar = fig.colorbar(image, ax=ax, shrink=0.8, pad=0.03)
    bar.set_label(style.wrapped(_brief(metric), 36))
    bar.outline.set_visible(False)
    ax.set_title(metric.name, loc="left", fontsize=8, color="#555555")
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)


def _trial_labels(ax: Axes, study: Study, trials: Sequence[tuple[int, str]]) -> None:
    seeds = [r for _, r in trials]
    size = 6.5 if len(trials) <= 16 else 5.5
    ax.set_xticks(range(len(trials)), seeds, fontsize=size)
    ax.set_yticks(range(len(trials)), seeds, fontsize=size)
    settings = list(dict.fromkeys(s for s, _ in trials))
    if len(settings) == 1:
        ax.set_xlabel("seed")
        ax.set_ylabel("seed")
        return
    ax.xaxis.set_ticks_position("bottom")
    for setting in settings:
        places = [i for i, (s, _) in enumerate(trials) if s == setting]
        if places[0]:
            for draw in (ax.axvline, ax.axhline):
                draw(places[0] - 0.5, color="white", lw=2)
        label = style.broken(name_of(study, setting), 20)
        middle = (places[0] + places[-1]) / 2
        ax.annotate(label, (middle, 0), (0, -16), xycoords=("data", "axes fraction"), textcoords="offset points",
                    ha="right", va="top", rotation=35, rotation_mode="anchor", fontsize=7)  # fmt: skip
        ax.annotate(label, (0, middle), (-20, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="right", va="center", fontsize=7)  # fmt: skip


# The run


def outcome_picture(study: Study) -> Picture | None:
    """How many tasks of each kind ended how; None if all ended well."""
    counts = {
        name: [study.statuses[t.key] for t in study.of_column(name)] for name in study.columns if study.of_column(name)
    }
    if all(s == DONE for statuses in counts.values() for s in statuses):
        return None
    fig, (ax,) = _panels(1, 1, height=0.9 + 0.28 * len(counts))
    names = list(counts)
    left = [0] * len(names)
    for status, (colour, hatch) in style.OUTCOMES.items():
        widths = [counts[name].count(status) for name in names]
        if not any(widths):
            continue
        ax.barh(range(len(names)), widths, left=left, color=colour, hatch=hatch, ec="#333333", lw=0.5, label=status,
                height=0.7)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    longest = max(map(len, counts.values()))
    for i, name in enumerate(names):
        wrong = [f"{counts[name].count(s)} {s}" for s in style.OUTCOMES if s != DONE and s in counts[name]]
        ax.text(left[i] + 0.01 * longest, i, ", ".join(wrong), ha="left", va="center", fontsize=7)
    ax.set_xlim(0, 1.3 * longest)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("tasks")
    ax.grid(axis="y", visible=False)
    _legend(fig, *ax.get_legend_handles_labels(), 6)
    caption = (
        "Tasks of each kind by how they ended. Diverged: the loss became non-finite, which is a result. "
        "Skipped: something the task depends on failed, diverged or was stopped."
    )
    return Picture("outcomes", "What became of the tasks", caption, "run", "", _png(fig, "What became of the tasks"))


def timeline_picture(study: Study) -> Picture | None:
    """When each task of this run ran on which worker; None if none ran."""
    ran = [(t, study.manifest(t.key)) for t in study.tasks.values() if t.state == "done"]
    ran = [(t, m) for t, m in ran if isinstance(m.get("started"), (int, float)) and "seconds" in m]
    if not ran:
        return None
    zero = study.run.get("started") or min(m["started"] for _, m in ran)
    zero = min(zero, min(m["started"] for _, m in ran))
    workers = sorted({(str(m.get("host", "")), str(m.get("worker", ""))) for _, m in ran})
    many_hosts = len({h for h, _ in workers}) > 1
    total = _total_by_column(ran)
    names = sorted(total, key=lambda c: -total[c])
    kept = names if len(names) <= style.MAX_SERIES else names[: style.MAX_SERIES - 1]
    rest = [n for n in names if n not in kept]
    end = max(max(m["started"] + m["seconds"] for _, m in ran) - zero, float(study.run.get("seconds") or 0.0))
    unit, size = ("s", 1.0) if end < 300 else ("min", 60.0) if end < 3 * 3600 else ("h", 3600.0)
    drawn = workers[:64]
    fig, (ax,) = _panels(1, 1, height=min(1.5 + 0.32 * len(drawn), 7.5))
    names = [*kept, *(["others"] if rest else [])]
    inches = style.WIDTH * 0.72 / (end / size)
    for i, name in enumerate(names):
        colour = style.CATEGORIES[i] if name != "others" else "#999999"
        for row, worker in enumerate(drawn):
            bars = [
                ((m["started"] - zero) / size, m["seconds"] / size)
                for t, m in ran
                if (str(m.get("host", "")), str(m.get("worker", ""))) == worker
                and (t.column == name or (name == "others" and t.column in rest))
            ]
            wide = bool(bars) and sum(w for _, w in bars) / len(bars) * inches > 0.05
            ax.broken_barh(bars, (row - 0.38, 0.76), fc=colour, ec="white" if wide else colour, lw=0.4)
            for start, width in bars:
                if width * inches > 0.075 * len(name) and len(ran) <= 500:
                    ax.text(start + width / 2, row, name, ha="center", va="center", fontsize=6, color="white")
        ax.bar(0, 0, color=colour, label=f"{name} ({words.duration(_sum(total, name, rest))})")
    startup = float(study.run.get("startup") or 0.0)
    if startup:
        ax.axvspan(0, startup / size, fc="#EEEEEE", ec="none", zorder=0)
        ax.text(startup / size / 2, -0.52, "start-up", ha="center", va="bottom", fontsize=7, color="#555555")
    ax.set_xlim(0, end / size * 1.01)
    ax.set_ylim(len(drawn) - 0.4, -0.75)
    ax.set_yticks(range(len(drawn)), [f"{h} {i + 1}" if many_hosts else str(i + 1) for i, (h, _) in enumerate(drawn)])
    ax.set_ylabel("worker")
    ax.set_xlabel(f"time since the start of the run ({unit})")
    ax.grid(axis="y", visible=False)
    _legend(fig, *ax.get_legend_handles_labels(), 4)
    busy = sum(m["seconds"] for _, m in ran)
    caption = (
        f"Every task that this run carried out ({len(ran)}), by worker and kind; in brackets the time they took in all."
    )
    slots, seconds = study.run.get("slots") or 0, float(study.run.get("seconds") or 0.0) - startup
    if slots and seconds > 0:
        share = min(busy / (slots * seconds), 1.0)
        after = " after start-up" if startup else ""
        caption += f" Tasks filled {share:.0%} of {words.count(slots, 'slot')} × {words.duration(seconds)}{after}."
    if len(drawn) < len(workers):
        caption += f" {len(drawn)} of {len(workers)} workers are drawn."
    stored = sum(t.state == "stored" for t in study.tasks.values())
    if stored:
        caption += f" {stored} tasks were stored before and did not run."
    if any(s == "failed" for s in study.statuses.values()):
        caption += " Failed tasks leave no times and are not drawn."
    return Picture("timeline", "Tasks on workers", caption, "run", "", _png(fig, "Tasks on workers"))


def _total_by_column(ran: Sequence[tuple[TaskRecord, Any]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for task, manifest in ran:
        total[task.column] = total.get(task.column, 0.0) + manifest["seconds"]
    return total


def _sum(total: dict[str, float], name: str, rest: Sequence[str]) -> float:
    return sum(total[n] for n in rest) if name == "others" and rest else total[name]


# Common parts


def _left_out(study: Study, metrics: Sequence[Metric]) -> str:
    """A sentence on values that are missing from a picture of these metrics."""
    parts = []
    for metric in metrics:
        missing: dict[str, int] = {}
        total = 0
        summary: Summary
        for summary in study.summaries(metric):
            total += summary.interval.n + summary.n_missing
            for reason, n in summary.missing.items():
                missing[reason] = missing.get(reason, 0) + n
        if missing:
            reasons = ", ".join(f"{n} {reason}" for reason, n in missing.items())
            parts.append((f"{sum(missing.values())} of {total} values ({reasons})", metric.name))
    if not parts:
        return ""
    texts = dict.fromkeys(text for text, _ in parts)
    if len(texts) == 1 and len(parts) == len(metrics):
        return f" Left out: {next(iter(texts))}."
    return " Left out: " + "; ".join(f"{name}: {text}" for text, name in parts) + "."


def _titled(study: Study, column: Column, curve: Any) -> str:
    """The curve's title, with the column's name where several columns of a class have it."""
    several = sum(c.task == column.task for c in study.columns.values()) > 1
    return f"{curve['title']} ({column.name})" if several else str(curve["title"])


def _brief(metric: Metric) -> str:
    """The metric in words for an axis: without what stands in brackets or after a comma, if it is long."""
    text = metric.words
    if len(text) > 34:
        text = re.sub(r"\s*\([^)]*\)", "", text)
    return text.partition(",")[0] if len(text) > 50 else text


def _said(name: str) -> str:
    return name.replace("_", " ")


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")


def _spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _shape(n: int, widest: int) -> tuple[int, int]:
    """Rows and columns for n panels."""
    columns_ = min(n, widest)
    if n == 4 and widest == 3:
        columns_ = 2
    return math.ceil(n / columns_), columns_


def _panels(rows: int, columns_: int, *, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page with panels in rows; `height` of each in inches."""
    from matplotlib.figure import Figure

    width = style.WIDTH if columns_ > 1 else style.WIDTH * 0.8
    fig = Figure(figsize=(width, rows * height + 0.35), dpi=style.DPI, layout="constrained")
    axes = fig.subplots(rows, columns_, squeeze=False, sharex=share, sharey=share)
    return fig, list(axes.flat)


def _legend(fig: Figure, handles: Sequence[Any], labels: Sequence[str], ncols: int) -> None:
    """A legend below the panels, read row by row, in as many columns as fit."""
    widest = 0.5 + 0.064 * max(map(len, labels))  # inches
    n, ncols = len(labels), max(min(len(labels), ncols, int((fig.get_figwidth() - 0.2) / widest)), 1)
    order = [i for column in range(ncols) for i in range(column, n, ncols)]
    fig.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=ncols)


def _png(fig: Figure, title: str) -> bytes:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    width = 96 if fig.get_figwidth() >= style.WIDTH else 76
    fig.suptitle(style.wrapped(title, width), x=0.012, ha="left", fontsize=10, fontweight="bold")
    buffer = io.BytesIO()
    # `savefig` would draw twice, once for the layout; here the layout happens while drawing.
    FigureCanvasAgg(fig).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
