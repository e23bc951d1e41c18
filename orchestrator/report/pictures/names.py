"""What a picture is asked to be of: metrics, columns, curves and settings, found by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import InvalidValue, nearest
from ...study import Column, Metric, Study

KINDS = ("train", "probe", "pair", "group")


def find_metric(study: Study, metric: str | Metric, kinds: Sequence[str] = KINDS) -> Metric:
    """The numeric metric of a name: "val_accuracy", "Lanczos.lambda_max".

    A bare name is looked for in the training first, then in probes, pairs and groups.

    Raises:
        InvalidValue: there is none, or several probes have it.
    """
    if isinstance(metric, Metric):
        return metric
    known = [m for column in study.columns_of(*kinds) for m in study.metrics_of(column) if study.is_numeric(m)]
    for kind in KINDS:
        found = [m for m in known if m.column.kind == kind and metric in (m.path, m.name)]
        if len(found) > 1:
            paths = " or ".join(m.path for m in found)
            raise InvalidValue(f"The metric {metric!r} is measured by several tasks: say {paths}.")
        if found:
            return found[0]
    bare = [m for m in known if m.name == metric.rpartition(".")[2]]
    hint = f" (did you mean {bare[0].path!r}?)" if bare else nearest(metric, [*(m.path for m in known), *_names(known)])
    raise InvalidValue(f"The study has no metric {metric!r}{hint}{_listed(m.path for m in known) if not hint else ''}.")


def _names(metrics: Iterable[Metric]) -> list[str]:
    return [m.name for m in metrics]


def find_column(study: Study, name: str | Column, kinds: Sequence[str] = KINDS) -> Column:
    """The training or probe of a name: "Train", "Lanczos", "Lanczos(k=5)".

    Raises:
        InvalidValue: there is none, or several probes of that class.
    """
    if isinstance(name, Column):
        return name
    columns = study.columns_of(*kinds)
    if name in study.columns and study.columns[name] in columns:
        return study.columns[name]
    found = [c for c in columns if c.task == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidValue(f"There are several {name!r}: say {' or '.join(repr(c.name) for c in found)}.")
    known = [c.name for c in columns]
    raise InvalidValue(f"The study has no {name!r} of that kind{nearest(name, known) or _listed(known)}.")


def find_curve(column: Column, y: str | None) -> tuple[int, Mapping[str, Any], str]:
    """A curve of a column with its place there, and the quantity of it: by the name of an array, of a file, or title.

    Raises:
        InvalidValue: there is none.
    """
    curves = list(column.curves)
    if not curves:
        raise InvalidValue(f"{column.name} declares no curves.")
    if y is None:
        return 0, curves[0], str(curves[0]["y"][0])
    for i, curve in enumerate(curves):
        if y in curve["y"]:
            return i, curve, y
    for i, curve in enumerate(curves):
        if y in (curve["file"], curve["title"]):
            return i, curve, str(curve["y"][0])
    known = [name for curve in curves for name in curve["y"]]
    raise InvalidValue(f"{column.name} has no curve {y!r}{nearest(y, known) or _listed(known)}.")


def find_setting(study: Study, setting: int | str) -> int:
    """Index of the setting of a label ("rho=0.05"), of what it is called in pictures, or of an index.

    Raises:
        InvalidValue: there is none.
    """
    from ..views import name_of

    labels = [s.label for s in study.settings]
    if isinstance(setting, str):
        for known in (labels, [name_of(study, s.index) for s in study.settings]):
            if known.count(setting) == 1:
                return known.index(setting)
        raise InvalidValue(f"The study has no setting {setting!r}{nearest(setting, labels) or _listed(labels)}.")
    if not 0 <= setting < len(labels):
        raise InvalidValue(f"The study has {len(labels)} settings, so there is no number {setting}.")
    return setting


def _listed(names: Iterable[str], most: int = 8) -> str:
    known = list(dict.fromkeys(names))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"; it has {', '.join(known[:most])}{more}" if known else ""
