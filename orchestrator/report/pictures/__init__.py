"""Which pictures a study makes, each with the sentences that say what it shows."""

from __future__ import annotations

from collections.abc import Iterator

from ...study import Study
from .. import style
from .canvas import Picture
from .connectivity import connectivity_pictures
from .curves import curve_pictures
from .groups import group_pictures
from .landscape import landscape_pictures
from .matrix import matrix_pictures
from .metrics import metric_pictures
from .planning import planning_pictures
from .run import run_pictures
from .sharpness import sharpness_pictures
from .verdicts import verdict_pictures

__all__ = ["Picture", "pictures"]


def pictures(study: Study) -> list[Picture]:
    """Every picture of the study, in the order of the report."""
    from matplotlib import rc_context

    with rc_context(style.SETTINGS):  # type: ignore[arg-type]
        return list(_pictures(study))


def _pictures(study: Study) -> Iterator[Picture]:
    yield from verdict_pictures(study)
    yield from planning_pictures(study)
    for column in study.columns_of("train", "probe", "pair", "group"):
        yield from metric_pictures(study, column)
        for i, curve in enumerate(column.curves):
            make = landscape_pictures if curve["kind"] in ("density", "surface") else curve_pictures
            yield from make(study, column, curve, i)
        if column.kind == "train":
            yield from group_pictures(study, column)
        if column.kind == "pair":
            yield from matrix_pictures(study, column)
            yield from connectivity_pictures(study, column)
    yield from sharpness_pictures(study)
    yield from run_pictures(study)
