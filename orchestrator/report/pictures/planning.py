"""What the number of seeds allows: power, how firm the winner is, and where the variance comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ...errors import InvalidValue, nearest
from ...study import Study
from .. import style, words
from ..views import name_of
from .canvas import Picture, brief, caption, note, own_axes, own_legend, panels, rendered
from .canvas import legend as under

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...inference import VarianceFinding


def planning_pictures(study: Study) -> Iterator[Picture]:
    """Those of the three that the findings have numbers for."""
    found = study.findings
    if found.power is not None:
        both = found.power.equivalence is not None
        fig, axes = panels(1, 2 if both else 1, height=2.6)
        power(study, ax=axes[0], legend=False)
        if both:
            power(study, question="equivalence", ax=axes[1], legend=False)
            axes[1].set_ylabel("")
        under(fig, *axes[0].get_legend_handles_labels(), 3)
        title = "How many seeds it takes"
        yield Picture("power", title, caption(fig), "findings", "", *rendered(fig, title))
    if found.fewer_seeds is not None:
        fig, (ax,) = panels(1, 1, height=2.4)
        fewer_seeds(study, ax=ax)
        title = "Would fewer seeds have named another winner?"
        yield Picture("fewer-seeds", title, caption(fig), "findings", "", *rendered(fig, title))
    if found.variance:
        fig, (ax,) = panels(1, 1, height=1.4 + 0.34 * min(len(found.variance), MOST_SETTINGS))
        variance_components(study, ax=ax)
        title = "Where the variance between seeds comes from"
        yield Picture("variance", title, caption(fig), "findings", "", *rendered(fig, title))


MOST_SETTINGS = 20


def power(
    study: Study,
    *,
    question: Literal["difference", "equivalence"] = "difference",
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """The chance to find the smallest effect that matters, by number of seeds, at both ends of what the sd may be.

    Args:
        question: "difference", or "equivalence": the chance to show that there is none beyond the margin.

    Raises:
        InvalidValue: the sweep states no such effect or margin, or too few seeds ran.
    """
    if question not in ("difference", "equivalence"):
        hint = nearest(str(question), ("difference", "equivalence"))
        raise InvalidValue(f"power: question must be 'difference' or 'equivalence', not {question!r}{hint}.")
    found = study.findings.power
    if found is None:
        raise InvalidValue(f"power: {study.findings.omitted.get('power', 'there are no numbers for it')}")
    result = found.power if question == "difference" else found.equivalence
    if result is None:
        raise InvalidValue("power: the sweep declares no margin, so there is nothing to be equivalent within.")
    ax = own_axes(ax)
    sizes = list(result.sizes)
    low, estimate, high = ([100 * p for p in curve.power] for curve in (result.low, result.estimate, result.high))
    colour = style.colours(1)[0]
    ax.fill_between(sizes, low, high, color=colour, alpha=0.13, lw=0)
    for curve, values, dash, width, name in (
        (result.low, low, "--", 0.7, "sd at the low end"),
        (result.estimate, estimate, "-", 1.1, "sd as estimated"),
        (result.high, high, ":", 0.9, "sd at the high end"),
    ):
        label = f"{name} ({words.number(curve.sd, 2)})"
        ax.plot(sizes, values, color=colour, ls=dash, lw=style.line(width), label=label, gid=name)
    ax.axhline(80, color=style.ink(), lw=style.line(0.4), alpha=0.6)
    ax.axvline(result.n, color=style.ink(), lw=style.line(0.6), ls="-.", alpha=0.7)
    ax.annotate(f"n = {result.n}", (result.n, 1), (3, -2), xycoords=("data", "axes fraction"), va="top",
                textcoords="offset points", fontsize="small")  # fmt: skip
    ax.set_xscale("log")
    ticks = [t for t in (2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if sizes[0] <= t <= sizes[-1]]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(sizes[0], sizes[-1])
    ax.set_ylim(0, 102)
    ax.set_xlabel("seeds of each setting" if result.design == "unpaired" else "seeds")
    ax.set_ylabel("chance (%)")
    effect = (
        f"to find a difference of {result.effect:g}"
        if question == "difference"
        else f"to show a difference within ± {result.effect:g}"
    )
    primary = study.findings.primary
    of = f" in {brief(primary)}" if primary is not None else ""
    ax.set_title(style.wrapped(f"{effect}{of}", 44), loc="left", fontsize="medium")
    family = f", the worst case of Holm over {words.count(result.family, 'contrast')}" if result.family > 1 else ""
    note(
        ax,
        f"Power for an effect stated beforehand, never for the observed one, at α = {words.number(result.alpha, 2)}"
        f"{family}. The sd is estimated ({result.degrees} degrees of freedom): the outer lines are the ends of "
        "its 95 % interval, and the truth may lie anywhere between them. Level line: 80 %.",
    )
    own_legend(ax, legend, loc="lower right")
    return ax


def fewer_seeds(study: Study, *, ax: Axes | None = None) -> Axes:
    """How often a part of the seeds would have named another setting the best.

    Raises:
        InvalidValue: there are too few seeds to tell.
    """
    found = study.findings.fewer_seeds
    if found is None:
        raise InvalidValue(f"fewer_seeds: {study.findings.omitted.get('fewer_seeds', 'there are too few seeds')}")
    result = found.result
    ax = own_axes(ax)
    ax.plot(result.sizes, [100 * s for s in result.shares], marker="o", color=style.colours(1)[0], gid="share")
    ax.set_ylim(0, max(10.0, 110 * max(result.shares)))
    ax.set_xlabel("seeds")
    ax.set_ylabel(style.wrapped("another winner (% of the parts)", 34))
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    winners = words.listed([name_of(study, found.settings[w]) for w in result.winners])
    drawn = [n for n, exact in zip(result.subsets, result.exact, strict=True) if not exact]
    how = f"{max(drawn)} drawn at random where there are more" if drawn else "all of them"
    note(
        ax,
        f"Parts of the {result.n} seeds, without replacement ({how}): the share in which {winners} would not have had "
        "the best mean. The parts come from the seeds that named the winner, so the curve must end at 0: it says how "
        "stable the choice is, not how likely it is to be right. Exploratory.",
    )
    if result.left_out:
        out = words.listed([name_of(study, found.settings[i]) for i in result.left_out])
        note(ax, f"Left out: {out}, which lost a seed.")
    return ax


def variance_components(study: Study, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """The share of the variance that each stream of randomness explains by itself, with its exact interval.

    Raises:
        InvalidValue: the seeds are not crossed, or too few.
    """
    found = list(study.findings.variance)
    if not found:
        raise InvalidValue(
            f"variance_components: {study.findings.omitted.get('variance', 'the seeds are not crossed')}"
        )
    shown = found[:MOST_SETTINGS]
    ax = own_axes(ax, 1.6 + 0.34 * len(shown))
    palette = style.colours(2)
    for i, stream in enumerate(shown[0].streams):
        parts = [(f.result.a, f.result.b)[i] for f in shown]
        rows = [row + (i - 0.5) * 0.3 for row in range(len(shown))]
        shares = [100 * p.share for p in parts]
        below = [max(100 * (p.share - p.share_low), 0.0) for p in parts]
        above = [max(100 * (p.share_high - p.share), 0.0) for p in parts]
        ax.errorbar(shares, rows, xerr=[below, above], ls="", marker=style.marker(i), color=palette[i],
                    ms=style.mark(1.2), capsize=style.mark(0.5), elinewidth=style.line(0.7), label=stream)  # fmt: skip
    ax.set_yticks(range(len(shown)), [style.shortened(name_of(study, f.setting)) for f in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(-2, 102)
    ax.set_xlabel("share of the variance when the other stream is held (%)")
    ax.grid(axis="y", visible=False)
    note(ax, _variance_words(shown[0]))
    if len(shown) < len(found):
        note(ax, f"The first {len(shown)} of {len(found)} settings are drawn.")
    own_legend(ax, legend, loc="best")
    return ax


def _variance_words(found: VarianceFinding) -> str:
    a, b = found.streams
    result = found.result
    return (
        f"{found.metric.path} over {result.a.seeds} seeds of {a} × {result.b.seeds} of {b}: variance of a stream over "
        f"itself plus what neither stream explains, with exact {result.level:.0%} F intervals. Exploratory: values are "
        "taken to be normal."
    )
