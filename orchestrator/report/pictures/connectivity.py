"""Which trained networks are connected: trials as nodes, low barriers as edges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue
from ...study import Column, Metric, Study
from .. import style, words
from ..views import chosen_settings, held, in_order, names_of, ordered
from .canvas import Picture, brief, caption, left_out, legend, note, own_axes, panels, rendered, slug
from .matrix import Trial, trials_of
from .names import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SETTINGS = 12
MOST_SEEDS = 8
BARRIER = "barrier"
"""What the name of a result holds that says how far one must climb between two networks."""

ERROR = 0.02
"""Two networks are connected where the error rises by at most 2 % on the way (Frankle et al. 2020, section 2)."""

OF_LARGEST = 0.1
"""Of a loss, for which no such threshold is in use: at most a tenth of the largest barrier measured."""


def connectivity_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """The graph of the pair probe's first barrier, that of an error if there is one."""
    known = [m for m in study.metrics_of(column) if BARRIER in m.name and study.is_numeric(m) and study.values(m)]
    barriers = sorted(
        (m for m in known if not m.name.startswith("straight")),
        key=lambda m: ("error" not in m.name, m.name not in column.headline),
    )
    if not barriers or len(trials_of(study, column)) < 4:
        return
    fig, (ax,) = panels(1, 1, height=4.6, layout="constrained")
    connectivity(study, barriers[0], ax=ax)
    handles, labels = ax.get_legend_handles_labels()
    legend(fig, handles, labels, 4)
    title = f"{column.name}: which networks are connected"
    name = f"{slug(column.name)}-connectivity"
    yield Picture(name, title, caption(ax), column.kind, column.name, *rendered(fig, title))


def connectivity(study: Study, metric: str | Metric, *, threshold: float | None = None, ax: Axes | None = None) -> Axes:
    """A graph: trials as nodes, grouped by setting; an edge where the barrier is at or below the threshold.

    Args:
        metric: of a pair probe: "Interpolation.test_error_barrier", …
        threshold: left out, 0.02 for an error; for anything else a tenth of the largest value measured.

    Raises:
        InvalidValue: there is no such metric, or nothing has measured it.
    """
    found = find_metric(study, metric, ("pair",))
    values = study.values(found)
    if not values:
        raise InvalidValue(f"connectivity: no task has a value of {found.path}.")
    if threshold is not None and not math.isfinite(threshold):
        raise InvalidValue(f"connectivity: threshold must be a finite number, not {threshold!r}.")
    measured = {t.trials: values[t.key] for t in study.of_column(found.column.name) if t.key in values}
    rule = ""
    if threshold is None and "error" in found.name:
        threshold, rule = ERROR, "a rise of the error by 2 % (Frankle et al. 2020)"
    elif threshold is None:
        threshold = OF_LARGEST * max(measured.values())
        rule = "a tenth of the largest value measured; no threshold is in general use"
    nodes = _nodes(study, found.column)
    ax = own_axes(ax)
    _draw(ax, study, found, nodes, measured, threshold)
    _say(ax, study, found, nodes, measured, threshold, rule)
    return ax


def _nodes(study: Study, column: Column) -> dict[Trial, tuple[float, float]]:
    """Where each trial is drawn: settings on a circle, the seeds of each on a small one.

    Of many settings those that compare best, of many seeds the first.
    """
    trials = trials_of(study, column)
    settings = in_order(study, chosen_settings(study, MOST_SETTINGS, sorted({s for s, _ in trials})))
    places: dict[Trial, tuple[float, float]] = {}
    n = len(settings)
    for i, setting in enumerate(settings):
        angle = math.pi / 2 - 2 * math.pi * i / n
        x, y = (math.cos(angle), math.sin(angle)) if n > 1 else (0.0, 0.0)
        own = [t for t in trials if t[0] == setting][:MOST_SEEDS]
        radius = 0.62 * math.sin(math.pi / n) if n > 2 else 0.5 if n == 2 else 1.0
        for j, trial in enumerate(own):
            # The first seed looks outwards in every group, so that equal seeds have equal places.
            turn = angle - 2 * math.pi * j / len(own)
            at = radius if len(own) > 1 else 0.0
            places[trial] = (x + at * math.cos(turn), y + at * math.sin(turn))
    return places


def _draw(
    ax: Axes,
    study: Study,
    metric: Metric,
    nodes: dict[Trial, tuple[float, float]],
    measured: dict[tuple[Trial, ...], float],
    threshold: float,
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    drawn = {(a, b): v for (a, b), v in measured.items() if a in nodes and b in nodes}
    faint = [pair for pair, v in drawn.items() if v > threshold]
    near = sorted((pair for pair, v in drawn.items() if v <= threshold), key=lambda pair: -drawn[pair])
    ax.add_collection(
        LineCollection(_lines(nodes, faint), colors="#BBBBBB", linewidths=style.line(0.25), alpha=0.5, zorder=1,
                       linestyles=":", gid="above", rasterized=len(faint) > 300)
    )  # fmt: skip
    low = min([drawn[pair] for pair in near], default=0.0)
    norm = Normalize(min(low, 0.0), threshold if threshold > low else low + 1.0)
    cmap = colormaps["viridis"].resampled(256)
    rel = [float(norm(drawn[pair])) for pair in near]
    edges = LineCollection(_lines(nodes, near), colors=[cmap(0.05 + 0.8 * r) for r in rel], zorder=2, gid="edge",
                           linewidths=[style.line(1.5 - 1.1 * r) for r in rel])  # fmt: skip
    ax.add_collection(edges)
    settings = list(dict.fromkeys(s for s, _ in nodes))
    palette, names = style.colours(len(settings), bool(ordered(study, settings))), names_of(study, settings)
    size = style.mark(2.6 if len(nodes) <= 30 else 1.7)
    for i, setting in enumerate(settings):
        own = [t for t in nodes if t[0] == setting]
        x, y = zip(*(nodes[t] for t in own), strict=True)
        ax.plot(
            x, y, ls="", marker=style.marker(i), ms=size, color=palette[i], mec="white", mew=0.8, zorder=3, gid="node"
        )
        label = style.shortened(names[setting]).replace("\n", " ")
        ax.plot([], [], ls="", marker=style.marker(i), ms=style.mark(1.3), color=palette[i], label=label)
        if len(nodes) <= 60:
            for t in own:
                ax.text(*nodes[t], t[1], ha="center", va="center", fontsize="x-small" if len(t[1]) < 3 else "xx-small",
                        color=style.readable(palette[i]), zorder=4, clip_on=True)  # fmt: skip
    ax.set_aspect("equal")
    ax.margins(0.06)
    ax.autoscale_view()
    ax.axis("off")
    if near:
        from matplotlib.colors import ListedColormap

        shades = ListedColormap([cmap(0.05 + 0.8 * i / 255) for i in range(256)])
        assert ax.figure is not None
        bar = ax.figure.colorbar(ScalarMappable(norm, shades), ax=ax, shrink=0.6, pad=0.02)
        bar.set_label(style.wrapped(brief(metric), 36))


def _lines(nodes: dict[Trial, tuple[float, float]], pairs: Sequence[tuple[Trial, ...]]) -> list[Any]:
    return [[nodes[a], nodes[b]] for a, b in pairs]


def _say(
    ax: Axes,
    study: Study,
    metric: Metric,
    nodes: dict[Trial, tuple[float, float]],
    measured: dict[tuple[Trial, ...], float],
    threshold: float,
    rule: str,
) -> None:
    near = sum(v <= threshold for v in measured.values())
    within = [v for (a, b), v in measured.items() if a[0] == b[0]]
    across = [v for (a, b), v in measured.items() if a[0] != b[0]]
    parts = [
        f"{sum(v <= threshold for v in some)} of {len(some)} {what}"
        for some, what in ((within, "within a setting"), (across, "across settings"))
        if some
    ]
    why = f" ({rule})" if rule else ""
    note(
        ax,
        f"Nodes: trials, by setting, with their seeds. An edge: {metric.path} of the two is at or below "
        f"{words.number(threshold, 3)}{why}; thicker and darker for lower values. So it is for {near} of the "
        f"{len(measured)} pairs measured: {words.listed(parts)}. Dotted: measured, and above. Between other nodes "
        "nothing was measured. Exploratory.",
    )
    trials = trials_of(study, metric.column)
    if len(nodes) < len(trials):
        settings = {s for s, _ in nodes}
        text = f"{len(nodes)} of {len(trials)} trials are drawn: {words.count(len(settings), 'setting')}"
        if (same := held(study, sorted(settings))) and len(settings) < len(study.settings):
            text += ", with " + words.listed([f"{name}={value}" for name, value in same.items()]) + ","
        note(ax, f"{text} and at most the first {MOST_SEEDS} seeds of each.")
    if missing := left_out(study, metric):
        note(ax, missing, metric.name)
