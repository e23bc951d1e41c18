"""The headline metrics of a pair probe as matrices over trials or settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...study import Column, Metric, Study
from .. import style, words
from ..views import name_of
from .canvas import Picture, brief, left_out, panels, rendered, shape, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MATRIX_TRIALS = 24


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
    rows, columns_ = shape(len(metrics), 2)
    fig, axes = panels(rows, columns_, height=2.9 if columns_ == 2 else 4.4, layout="constrained")
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
    caption += left_out(study, metrics)
    title = f"{column.name} between trials"
    yield Picture(f"{slug(column.name)}-matrix", title, caption, "pair", column.name, *rendered(fig, title))


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
                ax.text(j, i, words.number(float(value), 3 if n <= 4 else 2), ha="center", va="center", fontsize=6.5,
                        color="black" if light else "white")  # fmt: skip
    bar = fig.colorbar(image, ax=ax, shrink=0.8, pad=0.03)
    bar.set_label(style.wrapped(brief(metric), 36))
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
