"""What a sweep declares beforehand of its comparisons: primary metric, baseline, contrasts, margin.

Only what is declared gets verdicts, since whoever chooses what to compare after seeing the numbers finds differences
where there are none. Nothing here enters a key: it changes what is said of the trainings, not what they are.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import InvalidValue, nearest
from tasks.spec import Spec
from tasks.task import Task

if TYPE_CHECKING:
    from .sweep import Setting, Sweep

__all__ = ["NAMES", "Declared", "check_fields", "primary_task", "resolve", "unique_labels"]

NAMES = ("primary", "primary_mode", "baseline", "contrasts", "margin", "smallest_effect")
"""The fields of a Sweep that this is about."""

MOST = 5000
"""Contrasts in a family. With more, Holm's correction leaves nothing to find, and a record becomes large."""


@dataclass(frozen=True)
class Declared:
    """What was declared, with settings by index.

    Attributes:
        primary: the metric's path in tables ("Train.val_accuracy").
        mode: whether "max" or "min" of it is better.
        baseline: index of a setting, or None.
        contrasts: the family: two settings each; differences are first − second.
        margin: differences of the primary metric within it count as none; None if nothing was declared.
        smallest_effect: the smallest difference that matters, for power; the margin where it is not stated.
        notes: what of the declaration does not hold here, and why.
        confirms: the run whose choice this study confirms on fresh seeds; empty for any other.
    """

    primary: str
    mode: str
    baseline: int | None = None
    contrasts: tuple[tuple[int, int], ...] = ()
    margin: float | None = None
    smallest_effect: float | None = None
    notes: tuple[str, ...] = ()
    confirms: str = ""


def check_fields(sweep: Sweep) -> None:
    """Raise InvalidValue where one of the fields cannot be meant, whatever the settings are."""
    for name in ("primary", "primary_mode"):
        value = getattr(sweep, name)
        if value is not None and not isinstance(value, str):
            raise InvalidValue(f"Sweep: {name} must be a string, not {value!r}.")
    if sweep.primary_mode not in (None, "max", "min"):
        raise InvalidValue(f"Sweep: primary_mode must be 'max' or 'min', not {sweep.primary_mode!r}.")
    for name in ("margin", "smallest_effect"):
        value = getattr(sweep, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise InvalidValue(
                f"Sweep: {name} must be a number above 0, in units of the primary metric, not {value!r}."
            )
    if sweep.baseline is not None:
        _check_name(sweep.baseline, "baseline")
    contrasts = sweep.contrasts
    if contrasts is None or contrasts == "all":
        return
    if isinstance(contrasts, (str, Mapping)) or not isinstance(contrasts, Sequence):
        raise InvalidValue(f"Sweep: contrasts must be 'all' or a list of pairs of settings, not {contrasts!r}.")
    for pair in contrasts:
        if isinstance(pair, (str, Mapping)) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidValue(f"Sweep: contrasts holds {pair!r}, which is not a pair of settings.")
        for name in pair:
            _check_name(name, "contrasts")
    if not contrasts:
        raise InvalidValue("Sweep: contrasts is an empty list: leave it out, or name pairs of settings.")


def _check_name(value: Any, field: str) -> None:
    by_values = isinstance(value, Mapping) and value and all(isinstance(k, str) for k in value)
    if not (isinstance(value, str) or by_values):
        raise InvalidValue(
            f"Sweep: {field} must name a setting by its values, such as {{'rho': 0.0}}, or by its label, not {value!r}."
        )


def resolve(sweep: Sweep, settings: Sequence[Setting]) -> Declared:
    """The declaration with its settings found.

    Raises:
        InvalidValue: it names a metric or settings that there are not.
    """
    task, name = primary_task(sweep)
    if name == sweep.metric and task is sweep.train:
        mode = sweep.primary_mode or sweep.mode
        if mode != sweep.mode:
            raise InvalidValue(
                f"Sweep: primary_mode is {mode!r}, but mode says that the {sweep.mode} of {sweep.metric} is better: "
                "leave primary_mode out."
            )
    elif sweep.primary_mode is None:
        raise InvalidValue(
            f"Sweep: primary is {sweep.primary!r} and not the metric {sweep.metric!r}: say whether more or less of it "
            "is better, with primary_mode='max' or primary_mode='min'."
        )
    else:
        mode = sweep.primary_mode
    if sweep.search is not None and (sweep.baseline is not None or sweep.contrasts is not None):
        what = "baseline" if sweep.baseline is not None else "contrasts"
        raise InvalidValue(
            f"Sweep: {type(sweep.search).__name__} proposes the settings, so {what} cannot name any beforehand: leave "
            "it out, and compare the best on fresh seeds with the verb confirm."
        )
    labels = unique_labels(settings)
    notes: list[str] = []
    baseline = None
    if sweep.baseline is not None:
        try:
            baseline = find_setting(sweep.baseline, settings, labels, "baseline")
        except InvalidValue:
            if "baseline" not in sweep.inherited:
                raise
            notes.append(f"the smoke size has no setting for the baseline {_told(sweep.baseline)}")
    contrasts = _contrasts(sweep, settings, labels, baseline, notes)
    effect = sweep.margin if sweep.smallest_effect is None else sweep.smallest_effect
    column = type(task).__name__
    if sweep.search is not None:
        notes.append(
            f"{type(sweep.search).__name__} chose the settings by their results, so none could be named beforehand"
        )
    return Declared(f"{column}.{name}", mode, baseline, contrasts, sweep.margin, effect, tuple(notes), sweep.confirms)


def _contrasts(
    sweep: Sweep, settings: Sequence[Setting], labels: Sequence[str], baseline: int | None, notes: list[str]
) -> tuple[tuple[int, int], ...]:
    if sweep.contrasts is None:
        return () if baseline is None else tuple((s.index, baseline) for s in settings if s.index != baseline)
    if sweep.contrasts == "all":
        found = [(b, a) for a, b in itertools.combinations(range(len(settings)), 2)]
    else:
        found, lacking = [], 0
        for pair in sweep.contrasts:
            try:
                a, b = (find_setting(name, settings, labels, "contrasts") for name in pair)
            except InvalidValue:
                if "contrasts" not in sweep.inherited:
                    raise
                lacking += 1
                continue
            if a == b:
                raise InvalidValue(f"Sweep: contrasts compares {labels[a]} with itself.")
            if (a, b) in found or (b, a) in found:
                raise InvalidValue(f"Sweep: contrasts holds {labels[a]} against {labels[b]} twice.")
            found.append((a, b))
        if lacking:
            notes.append(f"the smoke size lacks settings of {lacking} of the {len(sweep.contrasts)} contrasts")
    if len(found) > MOST:
        raise InvalidValue(
            f"Sweep: contrasts are {len(found)} comparisons, more than {MOST}: name a baseline, or the pairs "
            "that matter."
        )
    return tuple(found)


def primary_task(sweep: Sweep) -> tuple[Task, str]:
    """The training or probe that measures the primary metric, and the metric's name.

    Raises:
        InvalidValue: there is none.
    """
    path = sweep.primary or sweep.metric
    if "." not in path:
        _check_metric(sweep.train, path, sweep)
        return sweep.train, path
    owner, name = path.rsplit(".", 1)
    candidates = [sweep.train, *sweep.probes]
    found = [t for t in candidates if owner == _shown(t)] or [t for t in candidates if owner == type(t).__name__]
    if not found:
        names = [type(t).__name__ for t in candidates]
        pairs = [type(t).__name__ for t in (*sweep.pairs, *sweep.groups)]
        if owner in pairs:
            raise InvalidValue(
                f"Sweep: primary is {path!r}, but {owner} is not about one trial: the primary metric must be a result "
                "of the training or of a probe."
            )
        raise InvalidValue(
            f"Sweep: primary is {path!r}, but the sweep has no {owner!r}{nearest(owner, names)}; it has "
            f"{', '.join(dict.fromkeys(names))}."
        )
    if len({repr(t) for t in found}) > 1:
        choices = ", ".join(f"{_shown(t)}.{name}" for t in found)
        raise InvalidValue(f"Sweep: primary is {path!r}, which {len(found)} probes measure: name one of {choices}.")
    _check_metric(found[0], name, sweep)
    return found[0], name


def _check_metric(task: Task, name: str, sweep: Sweep) -> None:
    metrics = type(task).metrics
    if metrics and name not in metrics:
        others = [f"{type(t).__name__}.{m}" for t in sweep.probes for m in type(t).metrics]
        hint = nearest(name, [*metrics, *others]) or f"; it has {', '.join(metrics)}"
        raise InvalidValue(f"Sweep: primary is {sweep.primary!r}, but {type(task).__name__} has no {name!r}{hint}.")


def find_setting(name: str | Mapping[str, Any], settings: Sequence[Setting], labels: Sequence[str], field: str) -> int:
    """Index of the one setting with these values, or with this label.

    Raises:
        InvalidValue: there is none, or several.
    """
    if isinstance(name, str):
        if name not in labels:
            raise InvalidValue(f"Sweep: {field} names {name!r}, which is no setting{_choices(name, labels)}.")
        return labels.index(name)
    left = list(settings)
    paths = list(dict.fromkeys(p for s in settings for p in (*s.told, *s.config)))
    for key, value in name.items():
        matching = [p for p in paths if p == key or p.endswith(f".{key}")]
        if not matching:
            ends = list(dict.fromkeys(p.rsplit(".", 1)[-1] for p in paths))
            hint = nearest(key, [*ends, *paths]) or (f"; it varies {', '.join(ends)}" if ends else "")
            raise InvalidValue(f"Sweep: {field} names {key!r}, which the sweep does not vary{hint}.")
        if len(matching) > 1:
            raise InvalidValue(f"Sweep: {field} names {key!r}, which may be {' or '.join(matching)}: give the path.")
        left = [s for s in left if _has(s, matching[0], value)]
    if not left:
        raise InvalidValue(f"Sweep: {field} {_told(name)} is no setting{_choices(_told(name), labels)}.")
    if len(left) > 1:
        them = [labels[s.index] for s in left]
        raise InvalidValue(
            f"Sweep: {field} {_told(name)} is {len(left)} settings ({_listed(them)}): give more values, or a label."
        )
    return left[0].index


def _has(setting: Setting, path: str, value: Any) -> bool:
    """Whether the setting has this value; None stands for a parameter that it has not."""
    for values in (setting.told, setting.config):
        if path in values and _same(value, values[path]):
            return True
    return value is None and path not in setting.told and path not in setting.config


def _same(stated: Any, actual: Any) -> bool:
    if isinstance(stated, bool) or isinstance(actual, bool):
        return stated is actual
    if isinstance(actual, (Spec, tuple, list)) and isinstance(stated, str):
        return stated == _shown(actual)
    return bool(stated == actual)


def _choices(name: str, labels: Sequence[str]) -> str:
    return nearest(name, labels) or f"; they are {_listed(labels)}"


def _listed(labels: Sequence[str], most: int = 6) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return "; ".join(labels[:most]) + more


def _told(name: str | Mapping[str, Any]) -> str:
    """What names a setting, as its label would."""
    return name if isinstance(name, str) else ", ".join(f"{key}={_shown(value)}" for key, value in name.items())


def _shown(value: Any) -> str:
    from .sweep import show

    return show(value)


def unique_labels(settings: Sequence[Setting]) -> list[str]:
    """What the settings are called in tables: where two have one label, with their number."""
    labels = [s.label for s in settings]
    counts = Counter(labels)
    return [n if counts[n] == 1 else f"{n} (#{s.index})" for n, s in zip(labels, settings, strict=True)]
