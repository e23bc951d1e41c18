"""Scalar results against the swept parameter: means, intervals and single seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...study import Column, Metric, Study
from .. import style, words
from ..views import View, name_of, scale_of, views
from .canvas import MAX_CELLS, MAX_PANELS, Picture, brief, left_out, legend, panels, rendered, shape, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def metric_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """Headline metrics of a column against the swept parameter: means, intervals, and single seeds."""
    metrics = [m for m in study.headline(column.kind) if m.column is column][:MAX_PANELS]
    without = [m for m in metrics if not study.values(m)]
    metrics = [m for m in metrics if m not in without and not _constant(study, m)]
    within = {s.settings for m in metrics for s in study.summaries(m) if len(set(s.settings)) == 1}
    found = views(study) if within else [_across(study, metrics)]
    for number, view in enumerate(found):
        if not view.x:
            return
        if not metrics or (column.kind == "pair" and all(len(study.values(m)) < 2 for m in metrics)):
            return
        wide = not view.numeric and max(map(len, view.ticks)) > 8
        rows, columns_ = shape(len(metrics), 2 if wide else 3)
        fig, axes = panels(rows, columns_, height=2.25 if view.numeric else 2.5)
        widths = style.WIDTH / columns_ - 0.7
        cut = False
        for ax, metric in zip(axes, metrics, strict=False):
            cut |= _draw_metric(ax, study, metric, view, widths)
        for ax in axes[len(metrics) :]:
            ax.remove()
        if len(view.names) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            legend(fig, handles, labels, 4)
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
        caption += left_out(study, metrics)
        if without:
            caption += f" No panel for {words.listed([m.name for m in without])}: no task has a value."
            caption += left_out(study, without)
        name = f"{slug(column.name)}-metrics" + (f"-{number + 1}" if number else "")
        yield Picture(name, title, caption, column.kind, column.name, *rendered(fig, title))


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
    if 0 < high - low <= 1e-6 * abs(high):  # rounding errors are no differences to look at
        ax.set_ylim(high - 0.1 * abs(high), high + 0.1 * abs(high))
        cut = False
    elif cut:
        ax.set_ylim(low - room, high + room)
    ax.set_ylabel(style.wrapped(brief(metric), 30))
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
