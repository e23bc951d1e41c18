"""Grids whose options are whole objects: `grid_search([SGD(lr=0.1), SAM(rho=grid_search([0.05, 0.1]))])`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.spec import Spec, is_space

from .errors import InvalidValue
from .spec_parts import parts, with_parts

__all__ = ["expanded", "in_words"]


def expanded(path: str, space: Any) -> Any:
    """The search space with grids inside its options multiplied out: one option for each of their points.

    Raises:
        InvalidValue: an option holds a search space that is no grid.
    """
    if not isinstance(space, Mapping):
        for option in getattr(space, "categories", ()):
            if inner_spaces(option):
                raise InvalidValue(f"Sweep: an option of {path} holds a search space: only a grid may hold another.")
        return space
    options: list[Any] = []
    for option in space["grid_search"]:
        options += [o for o in _points(path, option) if o not in options]
    return {"grid_search": options}


def _points(path: str, option: Any) -> list[Any]:
    spaces = inner_spaces(option)
    if not spaces:
        return [option]
    for name, space in spaces.items():
        if not isinstance(space, Mapping):
            raise InvalidValue(f"Sweep: {name} of an option of {path} must be a grid, as {path} is one itself.")
    grids = [expanded(f"{path}.{name}", space)["grid_search"] for name, space in spaces.items()]
    points = [dict(zip(spaces, values, strict=True)) for values in itertools.product(*grids)]
    return [with_parts(option, point) for point in points]


def inner_spaces(option: Any) -> dict[str, Any]:
    """The parts of an option that hold a grid, or an object with one in it (as a grid of that object), by name."""
    found: dict[str, Any] = {}
    for name, value in parts(option).items():
        if is_space(value):
            found[name] = value
        elif inner_spaces(value):
            found[name] = {"grid_search": [value]}
    return found


def in_words(config: Mapping[str, Any], spaces: Mapping[str, Any]) -> dict[str, Any]:
    """What a setting's values are to be called: an option that is an object by its class, and by the fields that vary.

    Of `{"train.optimizer": SAM(lr=0.1, rho=0.05)}`, where the options are SGD(lr=0.1) and SAM(lr=0.1) with two
    values of rho, it makes `{"train.optimizer": "SAM", "train.optimizer.rho": 0.05}`; of a sequence of objects their
    classes, where that tells it from the other options.
    """
    told: dict[str, Any] = {}
    for path, value in config.items():
        space = spaces.get(path)
        options = space["grid_search"] if isinstance(space, Mapping) else getattr(space, "categories", ())
        if isinstance(value, Spec):
            told |= _told(path, value, list(options))
        elif _kinds(value) is not None and [_kinds(o) for o in options].count(_kinds(value)) == 1:
            told[path] = _kinds(value)
        else:
            told[path] = value
    return told


def _kinds(value: Any) -> str | None:
    """The classes of a sequence of objects: "Mixup + L1", or "none"; None for anything else."""
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, Spec) for v in value):
        return None
    return " + ".join(type(v).__name__ for v in value) or "none"


def _told(path: str, value: Spec, options: Sequence[Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if len({type(o) for o in options}) != 1:
        told[path] = type(value).__name__
    alike = [o for o in options if type(o) is type(value)]
    for field in dataclasses.fields(value):
        mine, others = getattr(value, field.name), [getattr(o, field.name) for o in alike]
        unsaid = mine is None and field.default is None
        if not unsaid and any(o != mine for o in others):
            name = f"{path}.{field.name}"
            told |= _told(name, mine, others) if isinstance(mine, Spec) else {name: mine}
    return told or {path: type(value).__name__}
