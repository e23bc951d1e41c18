"""Curves that tasks declare: a line for every setting over its seeds, or a panel for a setting or two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue
from ...study import DONE, Column, Study
from .. import style, words
from ..views import chosen_settings, held, in_order, name_of, names_of, ordered, pair_name
from .canvas import (
    MAX_PANELS,
    Picture,
    caption,
    legend,
    note,
    note_missing,
    own_axes,
    panels,
    rendered,
    said,
    shape,
    slug,
    spread,
    titled,
)
from .lines import Arrays, dash_keys, draw_line, load
from .names import find_column, find_curve, find_setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = tuple[int, ...]

MOST_WITHIN, MOST_ACROSS = 12, 6
"""Panels of pairs of trials of one setting, and of two: the matrix shows them all."""


def curve_pictures(study: Study, column: Column, curve: Any, index: int) -> Iterator[Picture]:
    """A curve that a task declares, for every setting over its seeds; none if no task has its arrays."""
    title = titled(study, column, curve)
    name = f"{slug(column.name)}-{index + 1}-{slug(curve['file'])}"
    if column.kind in ("pair", "group"):
        cells = _cells(study, column)
        within = [c for c in cells if len(set(c)) == 1]
        across = [c for c in cells if len(set(c)) > 1]
        for number, some in enumerate(s for s in (within, across) if s):
            # Apart, since barriers of the two kinds may differ so much that a common axis shows one of them flat.
            fig = _small_multiples(study, column, curve, some)
            if fig is not None:
                of = " of two settings" if some is across else ""
                told = f"{title}{of}"
                text = caption(fig)
                own = f"{name}-{number + 1}" if number else name
                yield Picture(own, told, text, column.kind, column.name, *rendered(fig, told))
        return
    fig = _by_setting(study, column, curve)
    if fig is not None:
        yield Picture(name, title, caption(fig), column.kind, column.name, *rendered(fig, title))


def curve(
    study: Study,
    column: str | Column,
    y: str | None = None,
    *,
    settings: Sequence[int | str] | None = None,
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """A curve that a training or a probe declares: means over seeds with 95 % bands, or single lines and their mean.

    Where a task leaves one curve (a loss by epoch), every setting has a line. Where it leaves several (along each
    eigenvector), or is about two trials, the axes hold one setting, or one combination of two.

    Args:
        column: "Train", "Perturbation", "Interpolation", …
        y: what is drawn: the name of an array, of a file, or a title; left out, the first curve.
        settings: which, by label or index; of pairs of trials the two settings, or one for pairs of its seeds.

    Raises:
        InvalidValue: there is no such task, curve or setting, or it left no such arrays.
    """
    found = find_column(study, column)
    _, declared, name = find_curve(found, y)
    names = next(group for group in _panel_groups(declared) if name in group)
    asked = None if settings is None else [find_setting(study, s) for s in settings]
    cells = _cells(study, found)
    if declared["kind"] in ("density", "surface"):
        raise InvalidValue(f"{found.name}: {name} is drawn by plots.{declared['kind']}.")
    if found.kind in ("pair", "group"):
        wanted = tuple(sorted(asked if asked is not None and len(asked) > 1 else 2 * asked if asked else ()))
        wanted = wanted if found.kind == "pair" else wanted[:1]
        cells = [c for c in cells if c == wanted] if asked else cells[:1]
    else:
        chosen = chosen_settings(study, style.MAX_SERIES, asked)
        cells = [c for c in cells if c[0] in chosen]
    data = load(study, found, declared, cells)
    if not data:
        raise InvalidValue(f"{found.name} left no {name} for {'these settings' if asked else 'any setting'}.")
    ax = own_axes(ax)
    many = max(d.y[n].shape[0] for d in data for n in names) > 1
    if many or found.kind in ("pair", "group"):
        cell = min({d.cell for d in data}, key=lambda c: (c[0] != study.best() if asked is None else 0, c))
        if asked is not None and len({d.cell for d in data}) > 1:
            raise InvalidValue(f"{found.name} left several curves a trial: name one setting, not {len(asked)}.")
        _draw_cell(ax, study, found, declared, names, [d for d in data if d.cell == cell])
        if len(study.settings) > 1:
            ax.set_title(pair_name(study, cell[0], cell[-1]), loc="left", fontsize="medium")
    else:
        _draw_lines(ax, study, found, declared, names, data)
    _dress(ax, declared)
    if legend:
        handles, labels = ax.get_legend_handles_labels()
        if len(names) > 1 and not (many and not declared.get("each")) and found.kind in ("train", "probe"):
            keys = dash_keys(declared, names)
            handles, labels = handles + [k[0] for k in keys], labels + [k[1] for k in keys]
        if len(labels) > 1:
            ax.legend(handles, labels, fontsize="small")
    return ax


def _cells(study: Study, column: Column) -> list[Cell]:
    """The settings, or combinations of two, that a task of the column ended well for: within settings first."""
    done = {study.cell(t) for t in study.of_column(column.name) if t.trials and study.statuses[t.key] == DONE}
    return sorted(done, key=lambda c: (len(set(c)) > 1, c))


def _by_setting(study: Study, column: Column, curve: Any) -> Figure | None:
    candidates = [c[0] for c in _cells(study, column)]
    data: list[Arrays] = []
    while candidates and not data:  # not every setting need have left such arrays
        chosen = chosen_settings(study, style.MAX_SERIES, candidates)
        data = load(study, column, curve, [(s,) for s in chosen])
        candidates = [s for s in candidates if s not in chosen]
    if not data:
        return None
    shown = [s for s in chosen if any(d.cell[0] == s for d in data)]
    groups = _panel_groups(curve)
    many = max(y.shape[0] for d in data for y in d.y.values()) > 1
    each = many and bool(curve.get("each"))
    if many:
        shown = shown[: MAX_PANELS - 1] if len(groups) > 1 else shown[:MAX_PANELS]
        data = [d for d in data if d.cell[0] in shown]
        columns_ = min(len(shown), 3) if len(groups) == 1 else len(shown)
        rows = math.ceil(len(shown) / columns_) if len(groups) == 1 else len(groups)
        fig, axes = panels(rows, columns_, height=2.2, share="both")
        spots = [(g, s) for g in groups for s in shown]
        for ax, (names, setting) in zip(axes, spots, strict=False):
            _draw_cell(ax, study, column, curve, names, [d for d in data if d.cell[0] == setting])
            if len(study.settings) > 1:
                ax.set_title(style.wrapped(name_of(study, setting), int(84 / columns_)), loc="left", fontsize="medium")
        used = len(spots)
    else:
        rows, columns_ = shape(len(groups), 3)
        fig, axes = panels(
            rows, columns_, height=3.0 if len(groups) == 1 else 2.5, share="both" if len(groups) > 1 else ""
        )
        for ax, names in zip(axes, groups, strict=False):
            _draw_lines(ax, study, column, curve, names, data)
            if len(groups) > 1:
                ax.set_title(said(names[0]), loc="left", fontsize="medium")
        used = len(groups)
    for ax in axes[used:]:
        ax.remove()
    _dress_panels(fig, axes[:used], curve, columns_)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(groups[0]) > 1 and (each or not many):
        keys = dash_keys(curve, groups[0])
        handles, labels = handles + [k[0] for k in keys], labels + [k[1] for k in keys]
    if len(labels) > 1:
        lines = len(labels) if each else len(labels) // len(groups[0])
        legend(fig, handles, labels, lines if many and 2 <= lines <= 5 else 4)
    return fig


def _small_multiples(study: Study, column: Column, curve: Any, cells: Sequence[Cell]) -> Figure | None:
    """A panel for every setting or every two; its lines are single pairs of trials and their mean."""
    shown = spread(cells, MOST_WITHIN if len(set(cells[0])) == 1 else MOST_ACROSS)
    data = load(study, column, curve, shown)
    shown = [c for c in shown if any(d.cell == c for d in data)]
    if not shown:
        return None
    rows, columns_ = shape(len(shown), 1 if len(shown) == 1 else 4 if len(shown) > 6 else 3)
    height = 3.0 if len(shown) == 1 else 2.3 if rows == 1 else 1.75
    fig, axes = panels(rows, columns_, height=height, share="both")
    for ax, cell in zip(axes, shown, strict=False):
        _draw_cell(ax, study, column, curve, list(curve["y"]), [d for d in data if d.cell == cell])
        if len(study.settings) > 1:
            name = pair_name(study, cell[0], cell[-1])
            ax.set_title(style.wrapped(name, int(70 / columns_)), loc="left", fontsize="small")
    for ax in axes[len(shown) :]:
        ax.remove()
    _dress_panels(fig, axes[: len(shown)], curve, columns_)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        legend(fig, handles, labels, 4)
    if len(shown) < len(cells):
        what = "combinations of two settings" if len(set(shown[0])) > 1 else "settings"
        note(axes[0], f"{len(shown)} of {len(cells)} {what} are drawn, evenly spaced in their order.")
    return fig


def _draw_lines(
    ax: Axes, study: Study, column: Column, curve: Any, names: Sequence[str], data: Sequence[Arrays]
) -> None:
    """A line for every setting, of tasks that leave one curve each."""
    settings = list(dict.fromkeys(d.cell[0] for d in data))
    rank, names_ = {s: i for i, s in enumerate(in_order(study, settings))}, names_of(study, settings)
    palette = style.colours(len(settings), bool(ordered(study, settings)))
    bands = False
    for setting in settings:
        here = [d for d in data if d.cell[0] == setting]
        i = rank[setting]
        for name in names:
            width = 0.5 / len(settings)
            bands |= draw_line(
                ax, here, name, 0, curve, palette[i], names_[setting] if name == names[0] else None,
                style.marker(i), column, dodge=(i - (len(settings) - 1) / 2) * min(width, 0.16),
                thin=len(settings) <= 3,
            )  # fmt: skip
    _say(ax, study, column, curve, data, bands=bands)
    if len(settings) < len(study.settings):
        text = f"{len(settings)} of {len(study.settings)} settings are drawn"
        if same := held(study, settings):
            text += ", with " + words.listed([f"{name}={value}" for name, value in same.items()])
        note(ax, text + (", the best by mean among them." if study.best() in settings else "."))
    note_missing(ax, study, column)


def _draw_cell(
    ax: Axes, study: Study, column: Column, curve: Any, names: Sequence[str], data: Sequence[Arrays]
) -> None:
    """The curves of one setting, or of one combination of two: a colour for each curve, or for each quantity."""
    pairs = column.kind in ("pair", "group")
    each, bands = curve.get("each"), False
    for i, name in enumerate(names):
        lines = max(d.y[name].shape[0] for d in data)
        for m in range(lines):
            if pairs:
                at, label = i + m, said(name) if m == 0 else None
            else:
                at, label = m, _counted(curve, name, m) if name == names[0] or not each else None
            palette = style.colours(8)
            bands |= draw_line(ax, data, name, m, curve, palette[at % 8], label, style.marker(at), column, thin=pairs)
    if not pairs:
        _say(ax, study, column, curve, data, bands=bands)
        if max(d.y[n].shape[0] for d in data for n in names) > 1 and not each:
            note(
                ax, "Numbers in the legend count the curves of one quantity in the order in which the task saved them."
            )
        if len(study.settings) > MAX_PANELS:
            note(ax, f"Not all of the {len(study.settings)} settings are drawn.")
    else:
        unit = "pair of trials" if column.kind == "pair" else "setting"
        note(ax, f"Thin lines: one {unit} each; thick lines: their mean." if len(data) > 1 else f"One {unit}.")
        if len(set(data[0].cell)) > 1:
            note(ax, "A × B: the first network is of A, the second of B.")
        elif column.kind == "pair":
            note(ax, "Pairs of seeds of the same setting.")
    note_missing(ax, study, column)


def _counted(curve: Any, name: str, m: int) -> str | None:
    """The name of curve m of a quantity, for the legend; None where there are too many to name."""
    word = curve.get("each")
    return f"{word or said(name)} {m + 1}" if m < (8 if word else 4) else None


def _say(ax: Axes, study: Study, column: Column, curve: Any, data: Sequence[Arrays], *, bands: bool) -> None:
    per = [sum(d.cell == cell for d in data) for cell in {d.cell for d in data}]
    seeds = words.count(len(study.replicates), "seed")
    if curve["kind"] == "points":
        note(ax, f"Filled marks: means over the seeds of a setting (up to {seeds}); hollow marks: single seeds.")
    elif max(per) == 1:
        note(ax, "One line a setting: one seed.")
    elif bands:
        note(ax, f"Lines: means over the seeds of a setting (up to {seeds}); bands: pointwise 95 % t intervals.")
    else:
        note(ax, f"Thick lines: means over the seeds of a setting (up to {seeds}); thin lines: single seeds.")


def _panel_groups(curve: Any) -> list[list[str]]:
    """Which quantities share a panel: one solid line, with the dashed ones that belong to it."""
    solid = [y for y in curve["y"] if y not in curve["dashed"]]
    dashed = [y for y in curve["y"] if y in curve["dashed"]]
    if len(solid) <= 1:
        return [solid + dashed]
    if len(solid) == len(dashed):
        return [[s, d] for s, d in zip(solid, dashed, strict=True)]
    return [[s] for s in solid] + ([dashed] if dashed else [])


def _dress(ax: Axes, curve: Any, *, few: bool = False) -> None:
    """Scales and labels.

    Args:
        few: there is room for few ticks.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

    if curve["log_y"]:
        ax.set_yscale("log")
    if curve["kind"] == "points":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    elif few:
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
    ax.set_xlabel(curve["xlabel"])
    ax.set_ylabel(curve["ylabel"])


def _dress_panels(fig: Figure, axes: Sequence[Axes], curve: Any, columns_: int) -> None:
    """The same for several panels, which have common labels."""
    from matplotlib.ticker import MaxNLocator

    for i, ax in enumerate(axes):
        _dress(ax, curve, few=columns_ > 2)
        if len(axes) == 1:
            return
        if len(axes) > 3 and not curve["log_y"]:
            ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.set_ylabel("")
        ax.set_xlabel("")
        if i % columns_:
            ax.tick_params(labelleft=False)
        if i + columns_ >= len(axes):
            ax.tick_params(labelbottom=True)
        if i // columns_ == (len(axes) - 1) // columns_:  # the last row; a legend is below it, so no common label
            ax.set_xlabel(style.wrapped(curve["xlabel"], int(84 / columns_)))
    fig.supylabel(curve["ylabel"], fontsize=style.SETTINGS["axes.labelsize"])


def _abscissae(ax: Axes) -> list[float]:
    """The places of the first line drawn."""
    import numpy as np

    return [float(v) for line in ax.get_lines()[:1] for v in np.asarray(line.get_xdata(), dtype=float)]
