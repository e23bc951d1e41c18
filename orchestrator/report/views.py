"""Along which axis a study's settings are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from ..errors import InvalidValue, nearest
from ..study import Study
from .style import MAX_SERIES

T = TypeVar("T")


MOST_LEVEL = 3
"""Settings without the parameter of a numeric axis that are drawn as level lines beside it."""

MOST_PLACES = 60
"""Categories that one picture holds."""


@dataclass(frozen=True)
class View:
    """An axis for settings.

    Attributes:
        label: of the axis.
        x: by cell (see `Study.cell`), its place on the axis: a setting s is (s,), and (s, s) for pairs.
        numeric: the places are the parameter's values; else positions of `ticks`.
        ticks: names of the places of a category axis.
        series: by cell, the index in `names` of the line it belongs to.
        names: of the lines: one unnamed line, or the values of a second parameter.
        joined: neighbours on a line differ in nothing but the parameter on the axis.
        level: by cell, the name of a setting that lacks the parameter on the axis: a line across the picture.
        left_out: how many settings it has no place for.
    """

    label: str
    x: dict[tuple[int, ...], float]
    numeric: bool
    ticks: tuple[str, ...]
    series: dict[tuple[int, ...], int]
    names: tuple[str, ...]
    joined: bool
    level: dict[tuple[int, ...], str] = field(default_factory=dict)
    left_out: int = 0


def views(study: Study) -> list[View]:
    """One axis that shows all settings; or for a random search, one for each parameter."""
    settings = study.settings
    paths = _varied(study)
    if len(paths) <= 1:
        return [_view(study, paths[0] if paths else None, [])]
    sizes = {p: len(_values(study, p)) for p in paths}
    numeric = [p for p in paths if _is_numeric(_values(study, p))]
    full = math.prod(sizes.values()) == len(settings)
    if full:
        x = max(numeric or paths, key=lambda p: sizes[p])
        others = [p for p in paths if p != x]
        if math.prod(sizes[p] for p in others) <= MAX_SERIES:
            return [_view(study, x, others)]
    # A grid of objects, each with grids of its own, is no product, but may be lines along a parameter that some have.
    partial = [p for p in paths if _is_numeric([v for v in _values(study, p) if v is not None])]
    if not full and partial:
        x = max(partial, key=lambda p: sizes[p])
        view = _view(study, x, [p for p in paths if p != x])
        lines = len(view.names) + len(set(view.level.values()))
        if not view.left_out and lines <= min(MAX_SERIES, len(settings) // 2):
            return [view]
    crossed = [p for p in paths if sizes[p] <= MAX_SERIES and _is_crossed(study, p)]
    if len(numeric) < len(paths) or crossed:
        crossed.sort(key=lambda p: -sizes[p])
        view = _by_category(study, crossed[:1])
        if len(view.ticks) <= MOST_PLACES:
            return [view]
    if partial:
        return [_view(study, p, None) for p in partial[:4]]
    return [_by_category(study, crossed[:1], of=_ranked(study)[:MOST_PLACES])]


def view_against(study: Study, parameter: str) -> View:
    """The axis of a parameter, by its path or short name; or of the settings, with "setting".

    Raises:
        InvalidValue: the study does not vary it.
    """
    paths = _varied(study, alike=True)
    names = {p: name for s in study.settings for p, name in s.names.items()}
    if parameter == "setting":
        return _view(study, None, [])
    found = [p for p in paths if parameter in (p, names[p])]
    if len(found) != 1:
        known = [*dict.fromkeys(names[p] for p in paths), "setting"]
        hint = nearest(parameter, known) or f"; it varies {', '.join(known[:-1]) or 'nothing'}"
        raise InvalidValue(f"The study does not vary {parameter!r}{hint}.")
    others = [p for p in _varied(study) if p != found[0] and not _one_to_one(study, found[0], p)]
    view = _view(study, found[0], others)
    return view if len(view.names) <= MAX_SERIES else _view(study, found[0], None)


def _varied(study: Study, *, alike: bool = False) -> list[str]:
    """Paths of the parameters with several values; of those that vary together the first, unless `alike`."""
    settings = study.settings
    paths = [p for p in dict.fromkeys(p for s in settings for p in s.config) if len(_values(study, p)) > 1]
    return [p for i, p in enumerate(paths) if alike or not any(_one_to_one(study, p, q) for q in paths[:i])]


def _view(study: Study, path: str | None, others: list[str] | None) -> View:
    """`others`: the parameters that make the lines; None if points differ in more than these."""
    settings = [s for s in study.settings if path is None or s.config.get(path) is not None]
    values = list(dict.fromkeys(s.config[path] if path else name_of(study, s.index) for s in settings))
    numeric = path is not None and _is_numeric(values)
    if numeric:
        x = {s.index: float(s.config[str(path)]) for s in settings}
    else:
        x = {s.index: float(values.index(s.config[path] if path else name_of(study, s.index))) for s in settings}
    names: list[str] = []
    series = {}
    for s in settings:
        name = _said(s, others or [])
        if name not in names:
            names.append(name)
        series[s.index] = names.index(name)
    label = next((s.names[path] for s in settings if path in s.names), "") if path else ""
    ticks, joined = tuple(map(_shown, values)), numeric and others is not None
    without = [s for s in study.settings if s not in settings] if numeric else []
    level = {s.index: name_of(study, s.index) for s in without} if len(without) <= MOST_LEVEL else {}
    left_out = len(study.settings) - len(settings) - len(level)
    return View(label, _by_cell(x), numeric, ticks, _by_cell(series), tuple(names), joined, _by_cell(level), left_out)


def _by_category(study: Study, lines: list[str], of: Sequence[int] | None = None) -> View:
    """A category for all settings that are alike but for the parameters `lines`, which make the lines."""
    settings = [s for s in study.settings if of is None or s.index in of]

    def rest(s: Any) -> str:
        told = [p for p in s.config if p not in lines and len(_values(study, p)) > 1]
        return _said(s, told) or s.label

    ticks = list(dict.fromkeys(rest(s) for s in settings))
    names = list(dict.fromkeys(_said(s, lines) for s in settings))
    x = {s.index: float(ticks.index(rest(s))) for s in settings}
    series = {s.index: names.index(_said(s, lines)) for s in settings}
    left_out = len(study.settings) - len(settings)
    return View("", _by_cell(x), False, tuple(ticks), _by_cell(series), tuple(names), False, {}, left_out)


def _ranked(study: Study) -> list[int]:
    """Settings by their mean of the study's metric, the best first, those without one last."""
    metric = study.main_metric
    means = {s.settings[0]: s.interval.mean for s in (study.summaries(metric) if metric else [])}
    sign = -1 if study.mode == "max" else 1

    def place(s: int) -> tuple[bool, float]:
        mean = means.get(s)
        return mean is None, sign * (mean or 0.0)

    return sorted((s.index for s in study.settings), key=place)


def _said(setting: Any, paths: Sequence[str]) -> str:
    """The values of parameters, "SAM, rho=0.05": what is the name of a class speaks for itself."""
    told = [(setting.names[p], setting.config[p]) for p in paths if p in setting.config]
    return ", ".join(v if isinstance(v, str) and v[:1].isupper() else f"{name}={_shown(v)}" for name, v in told)


def _is_crossed(study: Study, path: str) -> bool:
    """Whether every combination of the other parameters comes with every value of this one."""
    found: dict[tuple[Any, ...], set[Any]] = {}
    for s in study.settings:
        others = tuple(sorted((p, str(v)) for p, v in s.config.items() if p != path))
        found.setdefault(others, set()).add(s.config.get(path))
    return len({frozenset(values) for values in found.values()}) == 1


def _by_cell(by_setting: dict[int, T]) -> dict[tuple[int, ...], T]:
    return {cell: value for s, value in by_setting.items() for cell in ((s,), (s, s))}


def _values(study: Study, path: str | None) -> list[Any]:
    return list(dict.fromkeys(s.config.get(str(path)) for s in study.settings))


def _one_to_one(study: Study, a: str, b: str) -> bool:
    """Whether two parameters vary together, each value of one with one of the other.

    Where no value repeats, as in a random search, that says nothing.
    """
    pairs = {(s.config.get(a), s.config.get(b)) for s in study.settings}
    return len(pairs) == len(_values(study, a)) == len(_values(study, b)) < len(study.settings)


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def name_of(study: Study, setting: int) -> str:
    """A setting's name in a picture: its label, without the parameter's name where the value speaks for itself."""
    record = study.settings[setting]
    values = list(record.config.values())
    return values[0] if len(values) == 1 and isinstance(values[0], str) and values[0] else record.label


def pair_name(study: Study, a: int, b: int, sign: str = "×") -> str:
    """What two settings are called: "SAM: rho=0 × rho=0.05", what they have in common said once."""
    if a == b:
        return name_of(study, a)
    one, other = study.settings[a], study.settings[b]
    varied = [p for p in dict.fromkeys([*one.config, *other.config]) if len(_values(study, p)) > 1]
    same = [p for p in varied if p in one.config and p in other.config and one.config[p] == other.config[p]]
    rest = [p for p in varied if p not in same]
    both = _said(one, same)
    sides = (_said(one, rest), _said(other, rest))
    if not both or not all(sides):
        return f"{name_of(study, a)} {sign} {name_of(study, b)}"
    return f"{both}: {sides[0]} {sign} {sides[1]}"


def scale_of(values: Sequence[float]) -> tuple[str, dict[str, float]]:
    """A scale on which the values of a numeric parameter can be told apart, with its options."""
    positive = sorted(v for v in values if v > 0)
    ratio = positive[-1] / positive[0] if positive else 1.0
    if len(positive) == len(values):
        steps = [b / a for a, b in pairwise(dict.fromkeys(positive))]
        doubling = len(steps) > 1 and max(steps) <= 1.1 * min(steps)  # like 16, 32, 64
        return ("log", {}) if ratio >= 20 or (doubling and ratio >= 4) else ("linear", {})
    if min(values) == 0 and ratio >= 20:
        return "symlog", {"linthresh": positive[0], "linscale": 0.5}
    return "linear", {}


def ordered(study: Study, among: Sequence[int]) -> str:
    """The path of the one numeric parameter in which these settings differ, so that their order means something."""
    configs = [study.settings[s].config for s in among]
    varied = [p for p in dict.fromkeys(p for c in configs for p in c) if len({str(c.get(p)) for c in configs}) > 1]
    if len(varied) != 1 or not _is_numeric([c.get(varied[0]) for c in configs]):
        return ""
    return varied[0]


def in_order(study: Study, among: Sequence[int]) -> list[int]:
    """These settings by the value of the one numeric parameter in which they differ, else as they are."""
    path = ordered(study, among)
    return sorted(among, key=lambda s: study.settings[s].config[path]) if path else list(among)


def names_of(study: Study, among: Sequence[int]) -> dict[int, str]:
    """Names of some settings: what they have in common is left out, if that is not all settings."""
    full = {s: name_of(study, s) for s in among}
    if len(among) == len(study.settings) or len(among) < 2:
        return full
    configs = [study.settings[s].config for s in among]
    varied = [p for p in dict.fromkeys(p for c in configs for p in c) if len({str(c.get(p)) for c in configs}) > 1]
    short = {s: _said(study.settings[s], varied) for s in among}
    return short if all(short.values()) and len(set(short.values())) == len(among) else full


def chosen_settings(study: Study, limit: int, among: Sequence[int] | None = None) -> list[int]:
    """At most `limit` settings to draw: those alike in what is not to be compared, the best setting among them.

    Parameters are held at the best setting's value, one after the other, until few enough are left that have it or
    lack the parameter. What is still too many is thinned out evenly, in the order of declaration.
    """
    left = [s.index for s in study.settings if among is None or s.index in among]
    if len(left) <= limit:
        return left
    best = study.best() if study.best() in left else None
    by_index = {s.index: s.config for s in study.settings}
    kept = by_index[left[0] if best is None else best]
    open_paths = dict.fromkeys(p for p in kept if len(_values(study, p)) > 1)
    while len(left) > limit and open_paths:
        alike = {p: [s for s in left if by_index[s].get(p, kept[p]) == kept[p]] for p in open_paths}
        fits = [p for p in alike if 1 < len(alike[p]) <= limit]
        # A number is held rather than a kind, which is what is to be compared.
        path = (
            max(fits, key=lambda p: (len(alike[p]), not isinstance(kept[p], str)))
            if fits
            else min(alike, key=lambda p: len(alike[p]))
        )
        if len(alike[path]) < min(limit, 3):
            break  # it would leave nothing to compare
        left = alike[path]
        del open_paths[path]
    if len(left) <= limit:
        return left
    picked = [left[round(i * (len(left) - 1) / (limit - 1))] for i in range(limit)]
    if best is not None and best not in picked:
        nearest = min(range(1, limit - 1), key=lambda i: abs(picked[i] - best)) if limit > 2 else 0
        picked[nearest] = best
    return sorted(picked)


def held(study: Study, settings: Sequence[int]) -> dict[str, Any]:
    """The parameters, by their short names, that vary in the study but not among these settings."""
    configs = [study.settings[s].config for s in settings]
    names = {p: name for s in settings for p, name in study.settings[s].names.items()}
    return {
        names[p]: configs[0][p]
        for p in names
        if len(_values(study, p)) > 1 and all(p in c and c[p] == configs[0].get(p) for c in configs)
    }
