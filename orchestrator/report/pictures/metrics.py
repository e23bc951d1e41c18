"""Scalar results against the swept parameter: means, intervals and single seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...study import Column, Metric, Study, Summary
from .. import style, words
from ..views import View, pair_name, scale_of, view_against, views
from .canvas import (
    MAX_CELLS,
    MAX_PANELS,
    Picture,
    brief,
    caption,
    left_out,
    legend,
    note,
    own_axes,
    own_legend,
    panels,
    rendered,
    shape,
    slug,
)
from .names import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SINGLES = 1000
"""Marks of single seeds in a panel."""

MOST_INTERVALS = 60
"""Of settings whose marks lie beside and above each other."""

ROW = 0.19
"""Inches of a category that has a row to itself."""


def metric_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """Headline metrics of a column against the swept parameter; a row for each, if there are several parameters."""
    metrics = [m for m in study.headline(column.kind) if m.column is column][:MAX_PANELS]
    without = [m for m in metrics if not study.values(m)]
    metrics = [m for m in metrics if m not in without and not _constant(study, m)]
    if not metrics or (column.kind == "pair" and all(len(study.values(m)) < 2 for m in metrics)):
        return
    found = _views_of(study, metrics)
    if not found[0].x:
        return
    first = found[0]
    if _down(first) and len(first.ticks) > 16:
        for number in range(0, len(metrics), ACROSS):
            some = metrics[number : number + ACROSS]
            yield _picture(study, column, some, found, [] if number else without, number // ACROSS)
    else:
        yield _picture(study, column, metrics, found, without, 0)


ACROSS = 3
"""Panels beside each other."""


def _picture(
    study: Study,
    column: Column,
    metrics: Sequence[Metric],
    found: Sequence[View],
    without: Sequence[Metric],
    number: int,
) -> Picture:
    first, down = found[0], _down(found[0])
    if len(found) > 1:
        metrics, columns_ = metrics[:4], len(found)
        spots = [(m, view) for m in metrics for view in found]
        fig, axes = panels(len(metrics), columns_, height=1.85)
    else:
        spots = [(m, first) for m in metrics]
        rows, columns_ = shape(len(metrics), ACROSS)
        height = 0.75 + max(ROW, 0.075 * len(first.names)) * len(first.ticks) if down else 2.25
        fig, axes = panels(rows, columns_, height=height, share="y" if down else "")
    for i, (ax, (m, view)) in enumerate(zip(axes, spots, strict=False)):
        metric(study, m, against=view, ax=ax, legend=False)
        if len(found) > 1 and i < len(spots) - len(found):
            ax.set_xlabel("")
        if (len(found) > 1 and i % len(found)) or (len(found) == 1 and down and i % columns_):
            ax.set_ylabel("")
    for ax in axes[len(spots) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        legend(fig, handles, labels, 4)
    across = not any(len(set(cell)) == 1 for cell in first.x)
    by = words.listed([v.label for v in found]) if first.label else ""
    against = f"against {by}" if by else "between settings" if across else "by setting"
    title = f"{column.name} {against}" if column.kind != "train" else f"Training results {against}"
    for m in without:
        note(axes[0], f"No panel for {m.name}: no task has a value. {left_out(study, m)}".replace("{of}", "").rstrip())
    text = caption(axes[: len(spots)])
    name = f"{slug(column.name)}-metrics" + (f"-{number + 1}" if number else "")
    return Picture(name, title, text, column.kind, column.name, *rendered(fig, title))


def metric(
    study: Study,
    metric: str | Metric,
    *,
    against: str | View | None = None,
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """A scalar result of every setting: means with 95 % intervals, and the single seeds beside them.

    Args:
        metric: "val_accuracy", "Lanczos.lambda_max", "Interpolation.barrier" (pairs of seeds of one setting), …
        against: the parameter on the axis, by its name; "setting" for the settings by name; left out, the one
            that shows most.

    Raises:
        InvalidValue: there is no such metric or parameter.
    """
    found = find_metric(study, metric)
    if isinstance(against, View):
        view = against
    else:
        view = view_against(study, against) if against else _views_of(study, [found])[0]
    ax = own_axes(ax, 1.0 + 0.22 * len(view.ticks) if _down(view) else None)
    _draw(ax, study, found, view)
    own_legend(ax, legend)
    return ax


def _views_of(study: Study, metrics: Sequence[Metric]) -> list[View]:
    within = any(len(set(s.settings)) == 1 for m in metrics for s in study.summaries(m))
    return views(study) if within else [_across(study, metrics)]


def _across(study: Study, metrics: Sequence[Metric]) -> View:
    """An axis of the combinations of two settings, for pairs that are all across settings."""
    cells = sorted({s.settings for m in metrics for s in study.summaries(m)})
    if len(cells) > MAX_CELLS:
        cells = []
    ticks = tuple(pair_name(study, cell[0], cell[-1]) for cell in cells)
    x = {cell: float(i) for i, cell in enumerate(cells)}
    return View("", x, False, ticks, dict.fromkeys(cells, 0), ("",), False)


def _down(view: View) -> bool:
    """Whether the categories stand below each other, so that long names can be read."""
    return not view.numeric and (len(view.ticks) > 8 or sum(map(len, view.ticks)) > 40)


def _constant(study: Study, metric: Metric) -> bool:
    """Whether a count (of members, of examples) is the same for all, so that no picture is needed."""
    values = list(study.values(metric).values())
    return len(values) > 1 and len(set(values)) == 1 and values[0].is_integer()


def _draw(ax: Axes, study: Study, metric: Metric, view: View) -> None:
    values = study.values(metric)
    singles: dict[tuple[int, ...], list[float]] = {}
    for task in study.of_column(metric.column.name):
        cell = study.cell(task) if task.trials else ()
        if task.key in values and (cell in view.x or cell in view.level):
            singles.setdefault(cell, []).append(values[task.key])
    summaries = [s for s in study.summaries(metric) if s.settings in singles]
    censored = any(s.censored for s in study.summaries(metric))
    group = metric.column.kind == "group"
    down = _down(view)
    lines = len(view.names)
    palette = style.colours(max(lines, 1) + len(view.level))
    everything = [v for own in singles.values() for v in own]
    each = not group and sum(map(len, singles.values())) <= MAX_SINGLES
    crowded = view.numeric and not view.joined and len(summaries) > MOST_INTERVALS
    small = style.mark(0.6 if len(summaries) <= 60 else 0.4)
    several = False
    for line in range(lines):
        chosen = sorted((s for s in summaries if view.series.get(s.settings) == line), key=lambda s: view.x[s.settings])
        if not chosen:
            continue
        colour, mark = palette[line], style.marker(line)
        aside = line - (lines - 1) / 2
        step = 0.0 if view.numeric else aside * min(0.8 / lines, 0.2)
        places = {s.settings: view.x[s.settings] + step for s in chosen}
        beside = 5.0 if not down else 0.0 if lines > 1 else -3.5
        points = 2.5 * aside if view.numeric and lines > 1 else 0.0
        at, shift = (_moved(ax, points, down), _moved(ax, points + beside, down))
        told = [s for s in chosen if s.interval.n > 1 or group]
        several |= any(s.interval.n > 1 for s in told)
        if view.joined and len(chosen) > 1 and not censored:
            x = [places[s.settings] for s in chosen]
            ax.plot(x, [s.interval.mean or 0.0 for s in chosen], color=colour, lw=style.line(0.6), alpha=0.8,
                    ls=("-", "--", "-.", ":")[line % 4], transform=at, gid="mean-line")  # fmt: skip
        alone = [s for s in chosen if s.interval.n == 1 and not group]
        for some, transform in ((told, shift), (alone, at)):
            if not each or not some:
                continue
            x = [places[s.settings] for s in some for _ in singles[s.settings]]
            y = [v for s in some for v in singles[s.settings]]
            size = small if some is told else style.mark()
            ax.plot(*((y, x) if down else (x, y)), ls="", marker=mark, ms=size, mfc="none", mec=colour, mew=size / 4.5,
                    alpha=0.7, transform=transform, gid="single", label="_single")  # fmt: skip
        if not told or censored:  # a mean of some would be too small
            ax.plot([], [], ls="", marker=mark, mfc="none", color=colour, label=view.names[line])
            continue
        x, y = [places[s.settings] for s in told], [s.interval.mean or 0.0 for s in told]
        halves = None if group or crowded else [math.nan if s.interval.half is None else s.interval.half for s in told]
        bars: dict[str, Any] = {"xerr" if down else "yerr": halves}
        drawn = ax.errorbar(
            *((y, x) if down else (x, y)),
            **bars,
            ls="",
            marker=mark,
            color=colour,
            ms=style.mark(0.5 if crowded else 1.0),
            capsize=style.mark(0.5),
            elinewidth=style.line(0.65),
            label=view.names[line],
        )
        for artist in drawn.get_children():
            artist.set_transform(at)
    ax.autoscale_view()
    if not censored:
        _levels(ax, view, summaries, palette[max(lines, 1) :])
    cut = _limit(ax, everything, [] if censored or group or crowded else summaries, down)
    name, axis = style.wrapped(brief(metric), 34 if down else 30), ax.xaxis if down else ax.yaxis
    axis.set_label_text(name)
    if everything and all(float(v).is_integer() for v in everything):
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _places(ax, view, down)
    _say(ax, study, metric, view, summaries, each=each, several=several, crowded=crowded, censored=censored, cut=cut)


def _moved(ax: Axes, points: float, down: bool) -> Any:
    """The place of data, moved along the axis of the settings."""
    from matplotlib.transforms import ScaledTranslation

    assert ax.figure is not None
    x, y = (0.0, points / 72) if down else (points / 72, 0.0)
    return ax.transData + ScaledTranslation(x, y, ax.figure.dpi_scale_trans)


def _levels(ax: Axes, view: View, summaries: Sequence[Summary], palette: Sequence[object]) -> None:
    """Settings without the parameter on the axis: their means across the picture, with their intervals as bands."""
    for i, s in enumerate(s for s in summaries if s.settings in view.level):
        colour, dashes = palette[i], ((0, (6, 2)), (0, (2, 2)), (0, (6, 2, 2, 2)))[i % 3]
        ax.axhline(s.interval.mean or 0.0, color=colour, ls=dashes, lw=style.line(0.75), label=view.level[s.settings])
        if s.interval.low is not None and s.interval.high is not None:
            ax.axhspan(s.interval.low, s.interval.high, color=colour, alpha=0.09, lw=0, zorder=0)


def _limit(ax: Axes, values: Sequence[float], summaries: Sequence[Summary], down: bool) -> bool:
    """Limit the axis of values to where they lie; returns whether intervals reach beyond it."""
    if not values:
        return False
    low, high = min(values), max(values)
    limits, scale = (ax.set_xlim, ax.set_xscale) if down else (ax.set_ylim, ax.set_yscale)
    if 0 < high - low <= 1e-6 * abs(high):  # rounding errors are no differences to look at
        limits(high - 0.1 * abs(high), high + 0.1 * abs(high))
        return False
    ends = [(b, b > high) for s in summaries for b in (s.interval.low, s.interval.high) if b is not None]
    log = low > 0 and high / low > 100
    room = 1.5 * (high - low) or abs(high) or 1.0
    bottom, top = (low / (high / low) ** 0.15, high * (high / low) ** 0.35) if log else (low - room, high + room)
    beyond = [up for b, up in ends if not bottom <= b <= top]
    inner = [low, high, *(b for b, _ in ends if bottom <= b <= top)]
    if log:
        scale("log")
        limits(min(inner) / 1.4, max(inner) * 1.4)
        return bool(beyond)
    pad = 0.05 * (max(inner) - min(inner)) or 0.05 * abs(high) or 0.5
    limits(bottom if not all(beyond) else min(inner) - pad, top if any(beyond) else max(inner) + pad)
    return bool(beyond)


def _places(ax: Axes, view: View, down: bool) -> None:
    """Dress the axis on which the settings stand."""
    if down:
        ax.set_yticks(range(len(view.ticks)), [style.shortened(t) for t in view.ticks])
        ax.set_ylim(len(view.ticks) - 0.4, -0.6)
        ax.set_ylabel(view.label)
        return
    ax.set_xlabel(view.label)
    inches = ax.get_window_extent().width / ax.figure.dpi
    if not view.numeric:
        style.show_labels(ax, view.ticks, inches)
        ax.set_xlim(-0.6, len(view.ticks) - 0.4)
        ax.grid(axis="x", visible=False)
        return
    values = sorted(set(view.x.values()))
    style.show_values(ax.xaxis, values, *scale_of(values), inches)


def _say(
    ax: Axes,
    study: Study,
    metric: Metric,
    view: View,
    summaries: Sequence[Summary],
    *,
    each: bool,
    several: bool,
    crowded: bool,
    censored: bool,
    cut: bool,
) -> None:
    kind = metric.column.kind
    within = any(len(set(cell)) == 1 for cell in view.x)
    one = ("pair", "pairs") if kind == "pair" else ("seed", "seeds")
    if kind == "group":
        note(ax, "One value a setting, from all its seeds together; there is no interval.", metric.name)
    elif several:
        method = "jackknife over seeds" if kind == "pair" else "Student t over seeds"
        text = f"Filled marks: means, with 95 % intervals ({method})."
        if crowded:
            text = f"Filled marks: means, without their intervals, since {len(summaries)} would hide each other."
        if each:
            of = f" of seeds of {'one setting' if within else 'two settings'}" if kind == "pair" else ""
            text += f" Hollow marks beside them: single {one[1]}{of}."
        else:
            text += f" Single {one[1]} are too many to draw."
        note(ax, text, metric.name)
        if any(s.interval.n == 1 for s in summaries):
            note(ax, f"A hollow mark alone: one {one[0]}, so no mean and no interval.")
    else:
        note(ax, f"Hollow marks: one {one[0]} each; so there are no intervals, and luck is not told from difference.",
             metric.name)  # fmt: skip
    if several and crowded:
        note(ax, "Exploratory.")
    elif several and kind != "group":
        note(ax, "Exploratory: intervals are for each setting alone, not for differences.")
    if any(s.interval.n > 1 and s.interval.min == s.interval.max for s in summaries) and not crowded:
        note(ax, "A mean whose values are all equal has no interval, or one of no width, which is no certainty.")
    if any(s.settings in view.level for s in summaries):
        note(ax, f"Level lines: settings without {view.label}, with their intervals as bands.")
    if view.left_out:
        some = f"{len(study.settings) - view.left_out} of {len(study.settings)} settings are drawn"
        note(ax, f"{some}: those that have {view.label}." if view.label else f"{some}, the best by their mean.")
    if censored:
        note(ax, "Where values are censored (above the range looked at) no means are drawn.", metric.name)
    if cut:
        note(ax, "Intervals that reach beyond a panel are cut off at its edge: so few seeds hardly bound them.")
    if missing := left_out(study, metric):
        note(ax, missing, metric.name)
