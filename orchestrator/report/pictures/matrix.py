"""The headline metrics of a pair probe as matrices over trials or settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ...errors import InvalidValue, nearest
from ...study import Column, Metric, Study
from .. import style, words
from ..views import chosen_settings, name_of
from .canvas import Picture, brief, caption, left_out, note, own_axes, panels, rendered, shape, slug
from .names import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TRIALS = 30
MOST_SETTINGS = 40

Trial = tuple[int, str]


def matrix_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """The headline metrics of a pair probe as matrices: trial by trial, or setting by setting."""
    metrics = [m for m in study.headline("pair") if m.column is column and study.values(m)][:4]
    trials = trials_of(study, column)
    across = any(len(set(study.cell(t))) > 1 for t in study.of_column(column.name) if t.trials)
    if not metrics or len(trials) < 3 or (len(trials) > MOST_TRIALS and not across):
        return  # one pair, or a diagonal: the table says it
    rows, columns_ = shape(len(metrics), 2)
    fig, axes = panels(rows, columns_, height=2.9 if columns_ == 2 else 4.4, layout="constrained")
    for ax, metric in zip(axes, metrics, strict=False):
        matrix(study, metric, ax=ax)
    for ax in axes[len(metrics) :]:
        ax.remove()
    title = f"{column.name} between trials"
    text = caption(axes[: len(metrics)])
    yield Picture(f"{slug(column.name)}-matrix", title, text, "pair", column.name, *rendered(fig, title))


def matrix(
    study: Study, metric: str | Metric, *, by: Literal["trial", "setting"] | None = None, ax: Axes | None = None
) -> Axes:
    """A metric of pairs of trials as a matrix: trial by trial, grouped by setting, or means setting by setting.

    Args:
        metric: "Interpolation.barrier", …
        by: left out, trial by trial where there are at most 30.

    Raises:
        InvalidValue: there is no such metric, or nothing has measured it.
    """
    found = find_metric(study, metric, ("pair",))
    if by not in ("trial", "setting", None):
        raise InvalidValue(
            f"matrix: by must be 'trial' or 'setting', not {by!r}{nearest(str(by), ('trial', 'setting'))}."
        )
    trials = trials_of(study, found.column)
    settings = sorted({s for s, _ in trials})
    if not study.values(found):
        raise InvalidValue(f"matrix: no task has a value of {found.path}.")
    by = by or ("trial" if len(trials) <= MOST_TRIALS else "setting")
    ax = own_axes(ax)
    if by == "trial":
        _draw(ax, _trial_matrix(study, found, trials), found)
        _trial_labels(ax, study, trials)
        what = "Each cell is one pair of trials"
        note(ax, what + (", grouped by setting; the numbers on the axes are seeds." if len(settings) > 1 else
                         ", named by seed."))  # fmt: skip
    else:
        shown = chosen_settings(study, MOST_SETTINGS, settings)
        _draw(ax, _setting_matrix(study, found, shown), found)
        labels = [name_of(study, s) for s in shown]
        few = len(labels) <= 12
        style.show_labels(ax, labels, ax.get_window_extent().width / ax.figure.dpi, size="small" if few else "xx-small")
        ax.set_yticks(range(len(labels)), [style.broken(t) if few else style.broken(t).replace("\n", " ")
                      for t in labels], fontsize="small" if few else "xx-small")  # fmt: skip
        note(ax, "Each cell is the mean over the pairs of trials of two settings.")
        if len(shown) < len(settings):
            note(ax, f"{len(shown)} of {len(settings)} settings are drawn.")
    note(ax, "Hatched grey: no such pair, or no value. The matrix is symmetric: a pair is measured once.")
    note(ax, "Exploratory.", found.name)
    if missing := left_out(study, found):
        note(ax, missing, found.name)
    return ax


def trials_of(study: Study, column: Column) -> list[Trial]:
    """The trials that a pair probe is about, by setting and seed, in the order of declaration."""
    place = {label: i for i, label in enumerate(study.replicates)}
    trials = {t for task in study.of_column(column.name) for t in task.trials}
    return sorted(trials, key=lambda t: (t[0], place[t[1]]))


def _trial_matrix(study: Study, metric: Metric, trials: Sequence[Trial]) -> Any:
    import numpy as np

    place = {t: i for i, t in enumerate(trials)}
    matrix = np.full((len(trials), len(trials)), np.nan)
    values = study.values(metric)
    for task in study.of_column(metric.column.name):
        if task.key in values:
            a, b = (place[t] for t in task.trials)
            matrix[a, b] = matrix[b, a] = values[task.key]
    return matrix


def _setting_matrix(study: Study, metric: Metric, settings: Sequence[int]) -> Any:
    import numpy as np

    place = {s: i for i, s in enumerate(settings)}
    matrix = np.full((len(settings), len(settings)), np.nan)
    for summary in study.summaries(metric):
        if summary.interval.mean is not None and set(summary.settings) <= set(place):
            a, b = (place[s] for s in summary.settings)
            matrix[a, b] = matrix[b, a] = summary.interval.mean
    return matrix


def _draw(ax: Axes, matrix: Any, metric: Metric) -> None:
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    n = len(matrix)
    ax.grid(visible=False)
    ax.add_patch(Rectangle((-0.5, -0.5), n, n, fc="#F2F2F2", ec="#CFCFCF", hatch="////", lw=0, zorder=-1))
    cmap = colormaps["cividis"]
    finite = matrix[np.isfinite(matrix)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap=cmap, vmin=low, vmax=high, aspect="equal")
    if n <= 6:
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                light = (value - low) / (high - low) > 0.55
                ax.text(j, i, words.number(float(value), 3 if n <= 4 else 2), ha="center", va="center",
                        fontsize="x-small", color="black" if light else "white")  # fmt: skip
    assert ax.figure is not None
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03)
    bar.set_label(style.wrapped(brief(metric), 36))
    bar.outline.set_visible(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)


def _trial_labels(ax: Axes, study: Study, trials: Sequence[Trial]) -> None:
    seeds = [r for _, r in trials]
    size = "x-small" if len(trials) <= 16 else "xx-small"
    settings = list(dict.fromkeys(s for s, _ in trials))
    ax.set_xticks(range(len(trials)), seeds, fontsize=size)
    ax.set_yticks(range(len(trials)), seeds, fontsize=size)
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
                    ha="right", va="top", rotation=35, rotation_mode="anchor", fontsize="small")  # fmt: skip
        ax.annotate(label, (0, middle), (-20, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="right", va="center", fontsize="small")  # fmt: skip
