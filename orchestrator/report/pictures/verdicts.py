"""What the declared family says: every contrast with its simultaneous interval, and the seeds behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue
from ...study import Study
from .. import style, words
from ..views import name_of, pair_name
from .canvas import (
    MAX_PANELS,
    Picture,
    brief,
    caption,
    legend,
    note,
    own_axes,
    own_legend,
    panels,
    rendered,
    shape,
)
from .names import find_metric, find_setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...inference import Compared

MOST_CONTRASTS = 40

LOOKS = {
    "better": ("#0072B2", "^", "full"),
    "worse": ("#D55E00", "v", "full"),
    "equivalent": ("#009E73", "s", "full"),
    "no decision": ("#555555", "o", "none"),
    "cannot decide": ("#999999", "x", "full"),
}
"""Colour, mark and filling of what is decided: a mark of its own each, so that greyscale will do."""


def verdict_pictures(study: Study) -> Iterator[Picture]:
    """The family, if there is one, and the pairs of seeds behind its first contrasts."""
    family = study.findings.family
    if all(c.comparison.difference is None for c in family):  # no family, or every run of it diverged or failed
        return
    primary = family[0].metric
    fig, (ax,) = panels(1, 1, height=1.15 + ROW * min(len(family), MOST_CONTRASTS), wide=True)
    verdicts(study, ax=ax, legend=False)
    legend(fig, *ax.get_legend_handles_labels(), 4)
    title = f"Verdicts on {brief(primary)}"
    yield Picture("verdicts", title, caption(fig), "answer", "", *rendered(fig, title))
    paired = [c for c in family if c.seeds and c.comparison.used]
    if not paired:
        return
    shown = paired[:MAX_PANELS]
    rows, columns_ = shape(len(shown), 3)
    fig, axes = panels(rows, columns_, height=2.1, share="y")
    for ax, compared in zip(axes, shown, strict=False):
        seeds(study, primary, compared.b, compared.a, ax=ax)
    for ax in axes[len(shown) :]:
        ax.remove()
    for i, ax in enumerate(axes[: len(shown)]):
        if i % columns_:
            ax.set_ylabel("")
    if len(shown) < len(paired):
        note(axes[0], f"The first {len(shown)} of {len(paired)} contrasts of the family are drawn.")
    title = f"Seed by seed: {brief(primary)}"
    yield Picture("seeds", title, caption(axes[: len(shown)]), "answer", "", *rendered(fig, title))


ROW = 0.24
"""Inches of a contrast."""


def verdicts(study: Study, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """The declared family: each contrast's difference with its simultaneous interval, against zero and the margin.

    Raises:
        InvalidValue: the sweep declared no comparison, or none has values.
    """
    found = study.findings
    if not found.family:
        raise InvalidValue(f"verdicts: {found.omitted.get('family', 'the sweep declares no comparison')}")
    family = _most_telling(found.family)
    primary, declared = family[0].metric, found.declared
    ax = own_axes(ax, 1.4 + ROW * len(family))
    sign = 1 if declared.mode == "max" else -1
    margin = declared.margin
    if margin is not None:
        ax.axvspan(-margin, margin, color=style.ink(), alpha=0.08, lw=0, zorder=0, label=f"margin ± {margin:g}")
    ax.axvline(0, color=style.ink(), lw=style.line(0.5), zorder=1, gid="zero")
    told: set[str] = set()
    for row, compared in enumerate(family):
        verdict = compared.verdict
        assert verdict is not None
        colour, mark, fill = LOOKS[verdict.decision]
        difference = compared.comparison.difference
        if difference is None:
            continue
        if verdict.low is not None and verdict.high is not None:
            ax.plot([verdict.low, verdict.high], [row, row], color=colour, lw=style.line(0.8), solid_capstyle="butt",
                    marker="|", ms=style.mark(), gid="interval")  # fmt: skip
        ax.plot([difference], [row], ls="", marker=mark, color=colour, mfc="white" if fill == "none" else colour,
                ms=style.mark(1.3), label=verdict.decision if verdict.decision not in told else None,
                zorder=3, gid="difference")  # fmt: skip
        told.add(verdict.decision)
    ax.set_yticks(
        range(len(family)), [style.shortened(pair_name(study, c.a, c.b, "−")) for c in family], fontsize="small"
    )
    ax.set_ylim(len(family) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    for row, compared in enumerate(family):
        ax.annotate(_beside(compared), (1, row), (4, 0), xycoords=("axes fraction", "data"),
                    textcoords="offset points", va="center", fontsize="small", annotation_clip=False)  # fmt: skip
    better = "right: the first is better" if sign > 0 else "left: the first is better"
    ax.set_xlabel(f"difference in {brief(primary)} ({better})")
    _limit(ax, family, margin)
    _say(ax, study, family, found.level)
    own_legend(ax, legend, loc="best")
    return ax


def _most_telling(family: Sequence[Compared]) -> list[Compared]:
    """At most as many contrasts as one can read: those that were decided first, then the smallest p."""
    if len(family) <= MOST_CONTRASTS:
        return list(family)

    def place(i: int) -> tuple[bool, float, int]:
        verdict = family[i].verdict
        assert verdict is not None
        return verdict.decision in ("no decision", "cannot decide"), verdict.p_holm, i

    return [family[i] for i in sorted(sorted(range(len(family)), key=place)[:MOST_CONTRASTS])]


def _beside(compared: Compared) -> str:
    """Decision, corrected p and n, to the right of a row."""
    verdict, comparison = compared.verdict, compared.comparison
    assert verdict is not None
    n = f"n = {comparison.n_a}" if comparison.n_a == comparison.n_b else f"n = {comparison.n_a}, {comparison.n_b}"
    return f"{verdict.decision}, {n}" if verdict.p is None else f"{verdict.decision}, {_p(verdict.p)}, {n}"


def _p(p: float) -> str:
    from ...stats import p_value

    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _limit(ax: Axes, family: Sequence[Compared], margin: float | None) -> None:
    """Keep differences in view where a few seeds give intervals many times as wide."""
    differences = [c.comparison.difference for c in family if c.comparison.difference is not None]
    ends = [v for c in family if c.verdict for v in (c.verdict.low, c.verdict.high) if v is not None]
    if not differences:
        return
    reach = max([abs(d) for d in differences] + ([margin] if margin else []))
    halves = sorted(
        (c.verdict.high - c.verdict.low) / 2
        for c in family
        if c.verdict and c.verdict.low is not None and c.verdict.high is not None
    )
    limit = 1.1 * max(reach, 3 * reach, halves[len(halves) // 2] if halves else 0.0)
    far = max((abs(e) for e in ends), default=0.0)
    edge = min(1.06 * max(far, reach), limit) or 1.0
    low = min([0.0, *differences, *ends] + ([-margin] if margin else []))
    high = max([0.0, *differences, *ends] + ([margin] if margin else []))
    pad = 0.05 * (min(high, edge) - max(low, -edge))
    ax.set_xlim(max(low - pad, -edge), min(high + pad, edge))
    if far > edge:
        note(ax, "Intervals that reach beyond the picture are cut off at its edge.")


def _say(ax: Axes, study: Study, family: Sequence[Compared], level: float) -> None:
    everything = study.findings.family
    designs = {c.comparison.design for c in everything}
    how = {"paired": "paired by seed", "unpaired": "unpaired (Welch)"}
    text = (
        f"The declared family of {words.count(len(everything), 'contrast')} on {everything[0].metric.path}, first − "
        f"second, {words.listed([how[d] for d in sorted(designs)])}. Bars: simultaneous {level:.0%} intervals, in "
        "agreement with Holm's correction over the family; p: of the test that decided, corrected for the family. "
        "'No decision' is no sign that there is no difference."
    )
    if study.declared.margin is not None:
        text += " Grey band: differences that were declared not to matter."
        if any(c.verdict is not None and c.verdict.decision == "equivalent" for c in everything):
            text += (
                f" 'Equivalent' is decided by two one-sided tests, each at {1 - level:.0%}, and the bars have half of "
                "that at each end: they may reach beyond the band."
            )
    note(ax, text)
    if len(family) < len(everything):
        note(ax, f"{len(family)} of {len(everything)} contrasts are drawn, those with the smallest p.")
    bare = sum(c.verdict is not None and c.verdict.low is None for c in family)
    if bare:
        note(ax, f"{words.count(bare, 'contrast')} without a bar: the t method does not hold there (see the verdicts).")
    lost = sum(c.comparison.diverged_a + c.comparison.diverged_b > 0 for c in family)
    if lost:
        note(ax, f"In {words.count(lost, 'contrast')} trials diverged: differences are given survival, the exact test "
                 "counts divergence as the worst result.")  # fmt: skip
    left = sum(sum(c.left_out.values()) for c in family)
    if left:
        note(ax, f"Left out: {words.count(left, 'value')} of trials that gave none, over all contrasts.")


def seeds(study: Study, metric: str | Any, baseline: int | str, setting: int | str, *, ax: Axes | None = None) -> Axes:
    """The same seeds under two settings: a line for each, and both means.

    Args:
        baseline, setting: left and right, by label or index.

    Raises:
        InvalidValue: there is no such metric or setting, or no seed has both values.
    """
    found = find_metric(study, metric, ("train", "probe"))
    left, right = find_setting(study, baseline), find_setting(study, setting)
    if left == right:
        raise InvalidValue(f"seeds: {study.settings[left].label} cannot be compared with itself.")
    values = study.values(found)
    by_trial = {t.trials[0]: values[t.key] for t in study.of_column(found.column.name) if t.key in values}
    both = [(by_trial[left, r], by_trial[right, r]) for r in study.replicates
            if (left, r) in by_trial and (right, r) in by_trial]  # fmt: skip
    if not both:
        raise InvalidValue(f"seeds: no seed has {found.path} under both settings.")
    ax = own_axes(ax)
    up, down, *_ = style.colours(2)
    primary = study.findings.primary
    same = primary is not None and primary.path == found.path
    better = -1 if same and study.declared.mode == "min" else 1
    for a, b in both[:200]:
        gain = (b - a) * better
        ax.plot([0, 1], [a, b], color=up if gain > 0 else down, ls="-" if gain > 0 else "--", lw=style.line(0.5),
                marker="o", ms=style.mark(0.6), mfc="none", alpha=0.8, gid="seed")  # fmt: skip
    means = [math.fsum(v) / len(both) for v in zip(*both, strict=True)]
    ax.plot([-0.14, 1.14], means, ls="", marker="D", ms=style.mark(1.1), color=style.ink(), gid="mean")
    ax.set_xlim(-0.35, 1.35)
    ax.set_xticks([0, 1], [style.broken(name_of(study, s), 18) for s in (left, right)], fontsize="small")
    ax.grid(axis="x", visible=False)
    ax.set_ylabel(style.wrapped(brief(found), 30))
    word = "to the better" if same else "upwards"
    won = sum((b - a) * better > 0 for a, b in both)
    pair = pair_name(study, left, right)
    note(ax, f"A line joins the values of one seed under both settings: solid {word}, dashed otherwise. Diamonds: "
             "means of the seeds drawn.")  # fmt: skip
    ax.set_title(f"{won} of {len(both)} {word}", loc="left", fontsize="small")
    lost = len(study.replicates) - len(both)
    if lost:
        note(ax, f"{pair}: {words.count(lost, 'seed')} without both values.")
    return ax
