"""How pictures look: colours told apart by the colour-blind, a second cue beside each, print sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

WIDTH = 7.2
"""Inches: the width of a page of text."""

DPI = 160

CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#8C6D1F")
"""Okabe & Ito (2008); its yellow, too pale on white, is replaced by a dark ochre and comes last."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
MAX_SERIES = len(CATEGORIES)

OUTCOMES = {
    "done": ("#0072B2", ""),
    "diverged": ("#E69F00", "//"),
    "failed": ("#D55E00", "xx"),
    "skipped": ("#BBBBBB", ".."),
    "stopped": ("#CC79A7", "\\\\"),
    "not run": ("#FFFFFF", ""),
}
"""Colour and hatching of how a task ended."""

SETTINGS: dict[str, Any] = {
    "axes.prop_cycle": "cycler('color', [" + ", ".join(f"'{colour}'" for colour in CATEGORIES) + "])",
    "font.size": 8.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 9,
    "axes.titley": 1.0,  # a fixed place; else it is looked for in every drawing, among all tick labels
    "axes.labelsize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def colours(n: int, ordered: bool = False) -> list[Any]:
    """n colours: from light to dark for an ordered parameter, else those of the style in force, for categories."""
    from matplotlib import colormaps, rcParams

    if not ordered or n <= 1:
        own = rcParams["axes.prop_cycle"].by_key().get("color", CATEGORIES)
        return [own[i % len(own)] for i in range(n)]
    scale = colormaps["viridis"]
    return [scale(0.82 * (1 - i / (n - 1))) for i in range(n)]


def mark(share: float = 1.0) -> float:
    """The size of a mark, as a share of that of the style in force."""
    from matplotlib import rcParams

    return float(rcParams["lines.markersize"]) * share


def line(share: float = 1.0) -> float:
    """The width of a line, as a share of that of the style in force."""
    from matplotlib import rcParams

    return float(rcParams["lines.linewidth"]) * share


def ink() -> Any:
    """The colour of text in the style in force."""
    from matplotlib import rcParams

    return rcParams["text.color"]


def readable(colour: Any) -> str:
    """Black or white, whichever is read better on the colour (relative luminance as in WCAG 2)."""
    from matplotlib.colors import to_rgb

    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return "black" if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.25 else "white"


def marker(i: int) -> str:
    """The mark of the i-th series: with its colour it occurs once among 64."""
    return MARKERS[(i + i // MAX_SERIES) % len(MARKERS)]


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` characters, where words allow."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_long_words=False)) or text


def broken(label: str, limit: int = 26) -> str:
    """A label in lines, "SGD(lr=0.1)" before its bracket and "a × b" after the sign, each at most `limit` long."""
    lines = label.replace("(", "\n(").replace(" × ", " ×\n").split("\n") if len(label) > 8 else [label]
    return "\n".join(t if len(t) <= limit else t[: limit - 1] + "…" for t in lines)


def shortened(label: str, width: int = 34) -> str:
    """A label in at most two lines."""
    lines = wrapped(label, width).split("\n")
    return "\n".join([lines[0], lines[1] + (" …" if len(lines) > 2 else "")]) if len(lines) > 1 else lines[0]


def show_values(axis: Axis, values: Sequence[float], kind: str, options: dict[str, float], inches: float) -> None:
    """Scale a numeric axis so that the values can be told apart, with ticks at those that have room.

    Args:
        kind, options: the scale, from `views.scale_of`.
        inches: how long the axis is.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

    values = sorted(set(values))
    ax = axis.axes
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)(kind, **options)
    limit = ax.set_xlim if axis is ax.xaxis else ax.set_ylim
    if len(values) == 1:
        limit(values[0] - 1, values[0] + 1)
    place = axis.get_transform().transform
    at = [float(place(v)) for v in values]
    span = (at[-1] - at[0]) or 1.0
    shown = [0]
    for i in range(1, len(values)):
        if (at[i] - at[shown[-1]]) / span * inches > 0.09 * len(f"{values[i]:.4g}") + 0.04:
            shown.append(i)
    if len(values) <= 12:
        axis.set_major_locator(FixedLocator([values[i] for i in shown]))
        axis.set_major_formatter(FixedFormatter([f"{values[i]:.4g}" for i in shown]))
        rest = [v for i, v in enumerate(values) if i not in shown]
        axis.set_minor_locator(FixedLocator(rest) if rest else NullLocator())
        axis.set_minor_formatter(NullFormatter())
    if len(values) > 1:
        ends = axis.get_transform().inverted().transform([at[0] - 0.06 * span, at[-1] + 0.09 * span])
        limit(float(ends[0]), float(ends[1]))


def show_labels(ax: Axes, labels: Sequence[str], inches: float, size: str | None = None) -> None:
    """Put category labels on the x axis, turned if they do not fit side by side."""
    room = inches / max(len(labels), 1) / 0.067  # characters
    shown = [broken(t) for t in labels]
    longest = max((len(line) for t in shown for line in t.split("\n")), default=0)
    ax.set_xticks(range(len(labels)))
    if longest <= room:
        ax.set_xticklabels(shown, fontsize=size)
    else:
        ax.set_xticklabels(shown, rotation=35, ha="right", rotation_mode="anchor", fontsize=size)
