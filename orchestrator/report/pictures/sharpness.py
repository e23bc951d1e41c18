"""Sharpness against generalisation, trial by trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import InvalidValue
from ...study import Metric, Study
from .. import style, words
from ..views import in_order, name_of, ordered, views
from .canvas import Picture, brief, caption, legend, note, own_axes, own_legend, panels, rendered, slug
from .names import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...stats import Concordance

MOST_POINTS = 2000


def sharpness_pictures(study: Study) -> Iterator[Picture]:
    """Every measure of sharpness that the findings know against the generalisation gap."""
    for found in study.findings.sharpness:
        fig, (ax,) = panels(1, 1, height=3.4)
        scatter(study, found.sharpness, found.generalisation, ax=ax, legend=False)
        handles, labels = ax.get_legend_handles_labels()
        if len(labels) > 1:
            legend(fig, handles, labels, 4)
        title = f"{_capital(brief(found.generalisation))} against {brief(found.sharpness)}"
        name = f"{slug(found.sharpness.column.name)}-{slug(found.sharpness.name)}-against-generalisation"
        column = found.sharpness.column
        yield Picture(name, title, caption(fig), column.kind, column.name, *rendered(fig, title))


def scatter(
    study: Study,
    x: str | Metric,
    y: str | Metric = "generalisation_gap",
    *,
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """One result of every trial against another: small marks are trials, large ones the means of settings.

    Args:
        x, y: metrics of the training or of probes: "Lanczos.lambda_max", "generalisation_gap".

    Raises:
        InvalidValue: there is no such metric, or no trial has both values.
    """
    one, other = (find_metric(study, m, ("train", "probe")) for m in (x, y))
    across, up = (
        {t.trials[0]: values.get(t.key) for t in study.of_column(m.column.name)}
        for m, values in ((one, study.values(one)), (other, study.values(other)))
    )
    points = {t: (a, b) for t, a in across.items() if a is not None and (b := up.get(t)) is not None}
    if not points:
        raise InvalidValue(f"scatter: no trial has values of both {one.path} and {other.path}.")
    ax = own_axes(ax)
    settings = sorted({s for s, _ in points})
    lines, names = _lines(study, settings)
    palette = style.colours(len(names), bool(ordered(study, settings)) and len(names) == len(settings))
    few = len(settings) <= 60
    told: set[int] = set()
    for line in range(len(names)):
        own = [s for s in settings if lines[s] == line]
        trials = [points[t] for t in points if t[0] in own]
        if len(points) <= MOST_POINTS:
            ax.plot(*zip(*trials, strict=True), ls="", marker=style.marker(line), ms=style.mark(0.65 if few else 0.4),
                    mfc="none", mec=palette[line], mew=style.mark(0.14), alpha=0.75 if few else 0.5, gid="trial",
                    label="_trial", rasterized=len(points) > 500)  # fmt: skip
        for s in own:
            of = [v for t, v in points.items() if t[0] == s]
            mean = [sum(v) / len(of) for v in zip(*of, strict=True)]
            ax.plot(*([m] for m in mean), ls="", marker=style.marker(line), ms=style.mark(1.7 if few else 0.9),
                    color=palette[line], mec="white", mew=style.mark(0.12), zorder=3, gid="mean",
                    label=names[line] if line not in told else None)  # fmt: skip
            told.add(line)
    for values, scale in zip(zip(*points.values(), strict=True), (ax.set_xscale, ax.set_yscale), strict=True):
        if min(values) > 0 and max(values) / min(values) > 30:
            scale("log")
    ax.set_xlabel(brief(one))
    ax.set_ylabel(style.wrapped(brief(other), 40))
    _say(ax, study, one, other, len(points), len(across))
    own_legend(ax, legend)
    return ax


def _lines(study: Study, settings: list[int]) -> tuple[dict[int, int], list[str]]:
    """The colour of each setting, and what the colours stand for: settings, or what makes the lines of their axis."""
    if len(settings) <= style.MAX_SERIES:
        order = in_order(study, settings)
        return {s: i for i, s in enumerate(order)}, [name_of(study, s) for s in order]
    view = views(study)[0]
    return {s: view.series.get((s,), 0) for s in settings}, list(view.names)


def _say(ax: Axes, study: Study, x: Metric, y: Metric, points: int, trials: int) -> None:
    note(ax, "Small marks: single trials; large marks: means of settings.")
    found = next(
        (f for f in study.findings.sharpness if (f.sharpness.path, f.generalisation.path) == (x.path, y.path)), None
    )
    if found is not None:
        result = found.result
        note(
            ax,
            f"Kendall's τ over the means of {words.count(result.settings, 'setting')}: {_tau(result.between)}; within "
            f"settings, pooled over them: {_tau(result.within)}; over all {result.trials} trials, which mixes both and "
            f"has no sound p: {_tau(result.pooled)}. Exploratory: association, not cause.",
        )
    else:
        note(ax, "Exploratory: association, not cause.")
    if points < trials:
        note(ax, f"Left out: {trials - points} of {trials} trials without both values.")


def _tau(found: Concordance) -> str:
    if found.tau is None:
        return f"none ({found.note})" if found.note else "none"
    text = words.number(found.tau, 2)
    if found.low is not None and found.high is not None:
        text += f" (interval {words.number(found.low, 2)} to {words.number(found.high, 2)})"
    return f"{text}, p = {words.number(found.p, 2)}" if found.p is not None else text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
