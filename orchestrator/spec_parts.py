"""The named parts that paths go through: the fields of a Spec, and the Specs in a tuple by their classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tasks.spec import Spec

__all__ = ["parts", "with_parts"]


def parts(value: Any) -> dict[str, Any]:
    """The parts of a value by name, in order; empty for a value without any.

    Of `Train(...)` they are its fields; of `(Mixup(0.2), L1(1e-4))` "Mixup" and "L1". A second Spec of the same
    class is "L1#2".
    """
    if isinstance(value, Spec):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {name: value[place] for name, place in _places(value).items()}


def with_parts(value: Any, changes: Mapping[str, Any]) -> Any:
    """The value with other parts of these names; a Spec is rebuilt, so it checks them."""
    if isinstance(value, Spec):
        return dataclasses.replace(value, **changes)
    items = list(value)
    for name, place in _places(value).items():
        items[place] = changes.get(name, items[place])
    return tuple(items)


def _places(value: Any) -> dict[str, int]:
    """Where in a tuple or list the Specs are, by name."""
    places: dict[str, int] = {}
    for place, item in enumerate(value if isinstance(value, (tuple, list)) else ()):
        if isinstance(item, Spec):
            name, number = type(item).__name__, 1
            while (unique := name if number == 1 else f"{name}#{number}") in places:
                number += 1
            places[unique] = place
    return places
