"""The report's pictures one by one, to draw on Matplotlib axes of your own: in a notebook, for a paper.

    from orchestrator import plots

    fig, (left, right) = pyplot.subplots(1, 2)
    plots.metric(study, "val_accuracy", ax=left)
    plots.curve(study, "Train", "val_loss", ax=right)
    print(plots.caption(fig))

Every function takes a `Study`, draws on `ax` (without one on axes of a new figure of pyplot's) and returns the axes.
Colours, fonts, line widths and mark sizes are those of the Matplotlib style in force; `with plots.style():` is the
report's.
Settings and metrics go by the names they have in tables; a name that there is not is answered with the nearest.
`caption` says in sentences what is drawn, which intervals they are, and what is left out and why.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from .report.pictures.canvas import caption
from .report.pictures.connectivity import connectivity
from .report.pictures.curves import curve
from .report.pictures.groups import group_shares
from .report.pictures.landscape import density, surface
from .report.pictures.matrix import matrix
from .report.pictures.metrics import metric
from .report.pictures.planning import fewer_seeds, power, variance_components
from .report.pictures.run import outcomes, timeline
from .report.pictures.sharpness import scatter
from .report.pictures.verdicts import seeds, verdicts

__all__ = [
    "caption",
    "connectivity",
    "curve",
    "density",
    "fewer_seeds",
    "group_shares",
    "matrix",
    "metric",
    "outcomes",
    "power",
    "scatter",
    "seeds",
    "style",
    "surface",
    "timeline",
    "variance_components",
    "verdicts",
]


def style() -> AbstractContextManager[None]:
    """The report's look, as a context: sizes for print, colours told apart by the colour-blind and in greyscale."""
    from matplotlib import rc_context

    from .report.style import SETTINGS

    return rc_context(SETTINGS)  # type: ignore[arg-type]
