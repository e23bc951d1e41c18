"""What all pictures share: figures, panels, legends, words for axes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...study import DONE, Column, Metric, Study
from .. import style, words
from .layout import arrange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6
MAX_CELLS = 16


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        name: file name without its ending.
        title, caption: words for people; the caption says what is shown and what is left out.
        kind: "answer" (the declared family), "findings" (what the seeds allow), "train", "probe", "pair", "group" or
            "run" (how it went).
        column: of the study; empty for "answer", "findings" and "run".
        png, svg: the image, at `style.DPI`, and as lines and outlines of letters for print.
    """

    name: str
    title: str
    caption: str
    kind: str
    column: str
    png: bytes = field(repr=False)
    svg: bytes = field(repr=False)


class Rendered(NamedTuple):
    """A figure in both formats of a `Picture`."""

    png: bytes
    svg: bytes


def own_axes(ax: Axes | None, height: float | None = None) -> Axes:
    """The axes given, or new ones on a figure of pyplot's, `height` inches high where that is not a matter of style."""
    if ax is not None:
        return ax
    from matplotlib import pyplot, rcParams

    size = (rcParams["figure.figsize"][0], height) if height else None
    _, new = pyplot.subplots(figsize=size, layout="constrained")
    return new


CAPTION = "orchestrator.caption"


def note(ax: Axes, sentence: str, about: str = "") -> None:
    """Add a sentence to the caption of what is drawn on these axes.

    Args:
        sentence: "{of}" in it is where the names go, if panels that share a caption differ in it.
        about: the metric that it is about.
    """
    # An artist that is never drawn: it stays with the axes, and goes when they are cleared.
    ax.text(0, 0, sentence, visible=False, gid=f"{CAPTION}:{about}", transform=ax.transAxes, parse_math=False)


def caption(drawn: Axes | Figure | Sequence[Axes]) -> str:
    """What is drawn and what is left out, in sentences; of several axes each sentence once."""
    from matplotlib.figure import Figure

    axes = drawn.axes if isinstance(drawn, Figure) else drawn if isinstance(drawn, Sequence) else [drawn]
    said: dict[str, list[str]] = {}
    everything: set[str] = set()
    for text in (t for ax in axes for t in ax.texts):
        mark, _, about = str(text.get_gid()).partition(":")
        if mark == CAPTION:
            everything.add(about)
            said.setdefault(text.get_text(), []).append(about)
    parts = []
    for sentence, abouts in sorted(said.items(), key=lambda item: "{of}" in item[0]):
        some = not everything - {""} <= set(abouts)
        parts.append(sentence.replace("{of}", f" of {words.listed(list(dict.fromkeys(abouts)))}" if some else ""))
    return " ".join(parts)


def left_out(study: Study, metric: Metric) -> str:
    """A sentence for `note` on values of the metric that are missing; empty if none is."""
    missing: dict[str, int] = {}
    total = 0
    for summary in study.summaries(metric):
        total += summary.interval.n + summary.n_missing
        for reason, n in summary.missing.items():
            missing[reason] = missing.get(reason, 0) + n
    if not missing:
        return ""
    reasons = ", ".join(f"{n} {reason}" for reason, n in missing.items())
    return f"Left out{{of}}: {sum(missing.values())} of {total} values ({reasons})."


def note_missing(ax: Axes, study: Study, column: Column) -> None:
    """Note how many tasks of a column gave nothing to draw, and how they ended."""
    tasks = study.of_column(column.name)
    missing = [t for t in tasks if study.statuses[t.key] != DONE]
    if missing:
        reasons = sorted({study.statuses[t.key] for t in missing})
        note(ax, f"Not drawn: {len(missing)} of {len(tasks)} tasks ({words.listed(reasons)}).")


def own_legend(ax: Axes, show: bool, **options: Any) -> None:
    """A legend on the axes themselves, if it is wanted and there is anything to tell apart."""
    if show and len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(**{"fontsize": "small", **options})


def titled(study: Study, column: Column, curve: Any) -> str:
    """The curve's title, with the column's name where several columns of a class have it."""
    several = sum(c.task == column.task for c in study.columns.values()) > 1
    return f"{curve['title']} ({column.name})" if several else str(curve["title"])


def brief(metric: Metric) -> str:
    """The metric in words for an axis: without what stands in brackets or after a comma, if it is long."""
    text = metric.words
    if len(text) > 34:
        text = re.sub(r"\s*\([^)]*\)", "", text)
    return re.split(r",(?![^⟨]*⟩)", text)[0] if len(text) > 50 else text


def said(name: str) -> str:
    return name.replace("_", " ")


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def shape(n: int, widest: int) -> tuple[int, int]:
    """Rows and columns for n panels."""
    columns_ = min(n, widest)
    if n == 4 and widest == 3:
        columns_ = 2
    return math.ceil(n / columns_), columns_


def panels(
    rows: int,
    columns_: int,
    *,
    height: float,
    share: Literal["", "y", "both"] = "",
    layout: Literal["constrained"] | None = None,
    wide: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page with panels in rows; `height` of each in inches.

    `wide`: as wide as the page with one column too.
    `layout`: "constrained" for panels with more than axes in them (colour bars); else `arrange` places them.
    """
    from matplotlib.figure import Figure

    width = style.WIDTH if columns_ > 1 or wide else style.WIDTH * 0.8
    fig = Figure(figsize=(width, rows * height + 0.35), dpi=style.DPI, layout=layout)
    axes = fig.subplots(rows, columns_, squeeze=False, sharex=share == "both", sharey=share != "")
    return fig, list(axes.flat)


def legend(fig: Figure, handles: Sequence[Any], labels: Sequence[str], ncols: int) -> None:
    """A legend below the panels, read row by row, in as many columns as fit."""
    widest = 0.5 + 0.064 * max(map(len, labels))  # inches
    n, ncols = len(labels), max(min(len(labels), ncols, int((fig.get_figwidth() - 0.2) / widest)), 1)
    order = [i for column in range(ncols) for i in range(column, n, ncols)]
    fig.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=ncols)


def _check_formulas(fig: Figure) -> None:
    """Text with dollar signs that is no formula (a path, a price) is shown as it is."""
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    for text in fig.findobj(Text):
        if isinstance(text, Text) and text.get_visible() and "$" in text.get_text():
            try:
                MathTextParser("path").parse(text.get_text())
            except ValueError:
                text.set_parse_math(False)


def rendered(fig: Figure, title: str) -> Rendered:
    """The figure with its title as PNG and as SVG, laid out once. The same figure gives the same bytes."""
    import io

    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    width = 84 if fig.get_figwidth() >= style.WIDTH else 66
    fig.suptitle(style.wrapped(title, width), x=0.012, ha="left", fontsize=10, fontweight="bold")
    for axis in (a for ax in fig.axes for a in (ax.xaxis, ax.yaxis) if not a.get_label_text()):
        axis.set_label_coords(0, 0)  # else a place for the empty label is looked for among all tick labels
    _check_formulas(fig)
    canvas = FigureCanvasAgg(fig)
    if fig.get_layout_engine() is None:
        arrange(fig, canvas.get_renderer())
    png, svg = io.BytesIO(), io.BytesIO()
    # `savefig` would draw twice, once for the layout; here what layout is left happens while drawing.
    canvas.print_png(png, metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    fig.set_layout_engine("none")  # the second rendering is the first in another format
    # Text as outlines: it prints alike everywhere, with no font to be found.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": title}):
        FigureCanvasSVG(fig).print_svg(svg, metadata={"Date": None, "Creator": None})
    return Rendered(png.getvalue(), svg.getvalue())
