"""Specifications: frozen dataclasses whose fields are checked against their annotations.

A `Spec` is a value that says what to do: a task, a model, an optimizer, a schedule. Its fields are
its parameters and (through its key) its identity. Constraints are part of the annotation::

    @dataclass(frozen=True)
    class Lanczos(Probe):
        k: Annotated[int, AtLeast(1)] = 3

`Lanczos(k=0)` then raises `InvalidValue: Lanczos: k must be at least 1, not 0`.

In a sweep file a field may hold a search space of Ray Tune (`tune.grid_search([...])`,
`tune.uniform(0, 1)`) in place of a value. Such a field is left alone here and checked when the sweep
puts a value in.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from .errors import InvalidValue

__all__ = [
    "AtLeast",
    "AtMost",
    "Below",
    "Constraint",
    "MoreThan",
    "NotEmpty",
    "Spec",
    "field_hints",
    "fields_alone",
    "holds_space",
    "is_space",
    "validate_all",
]


class Constraint:
    """A condition on a value, written into a field's annotation with `typing.Annotated`."""

    def holds(self, value: Any) -> bool:
        raise NotImplementedError  # every constraint below defines it

    def says(self) -> str:
        """The condition in words, to follow 'must be'."""
        raise NotImplementedError


@dataclass(frozen=True)
class AtLeast(Constraint):
    """value ≥ bound."""

    bound: float

    def holds(self, value: Any) -> bool:
        return bool(value >= self.bound)

    def says(self) -> str:
        return f"at least {self.bound}"


@dataclass(frozen=True)
class MoreThan(Constraint):
    """value > bound."""

    bound: float

    def holds(self, value: Any) -> bool:
        return bool(value > self.bound)

    def says(self) -> str:
        return f"more than {self.bound}"


@dataclass(frozen=True)
class AtMost(Constraint):
    """value ≤ bound."""

    bound: float

    def holds(self, value: Any) -> bool:
        return bool(value <= self.bound)

    def says(self) -> str:
        return f"at most {self.bound}"


@dataclass(frozen=True)
class Below(Constraint):
    """value < bound."""

    bound: float

    def holds(self, value: Any) -> bool:
        return bool(value < self.bound)

    def says(self) -> str:
        return f"below {self.bound}"


@dataclass(frozen=True)
class NotEmpty(Constraint):
    """A sequence with at least one element."""

    def holds(self, value: Any) -> bool:
        return len(value) > 0

    def says(self) -> str:
        return "not empty"


def is_space(value: Any) -> bool:
    """Whether `value` is one of Ray Tune's search spaces (told without importing Ray)."""
    if isinstance(value, Mapping):
        return set(value) == {"grid_search"}
    return any(c.__module__.startswith("ray.tune.search") for c in type(value).__mro__)


def holds_space(value: Any) -> bool:
    """Whether `value` is a search space, or a Spec or sequence that one stands in."""
    if isinstance(value, Spec):
        return any(holds_space(getattr(value, f.name)) for f in dataclasses.fields(value))
    return any(map(holds_space, value)) if isinstance(value, (tuple, list)) else is_space(value)


def validate_all(value: Any) -> None:
    """Make up for what Specs that came to be within `fields_alone` have not checked.

    Raises:
        InvalidValue: fields of `value`, or of a Spec in it, do not go together.
    """
    if isinstance(value, Spec):
        for f in dataclasses.fields(value):
            validate_all(getattr(value, f.name))
        if not holds_space(value):
            value.validate()
    elif is_space(value):
        validate_all(value["grid_search"] if isinstance(value, Mapping) else getattr(value, "categories", ()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            validate_all(part)


_validating = ContextVar("_validating", default=True)


@contextmanager
def fields_alone() -> Iterator[None]:
    """Within it Specs check each field, but not whether their fields go together (`Spec.validate`)."""
    token = _validating.set(False)
    try:
        yield
    finally:
        _validating.reset(token)


@dataclass(frozen=True)
class Spec:
    """Base of everything a sweep file is made of. Subclasses are frozen dataclasses.

    Field values may be None, bool, int, float, str, other Specs, and tuples or mappings with string
    keys of these; lists become tuples, ints given for floats become floats, so that equal settings
    have equal keys.

    Raises:
        InvalidValue: a field has the wrong type, or breaks a constraint of its annotation.
    """

    def __post_init__(self) -> None:
        for name, hint in field_hints(type(self)).items():
            value = getattr(self, name)
            if is_space(value):
                continue
            checked = _check(hint, value, f"{type(self).__name__}: {name}")
            if checked is not value:
                object.__setattr__(self, name, checked)
        if _validating.get() and not holds_space(self):
            self.validate()

    def validate(self) -> None:
        """Check conditions that involve several fields; raise `InvalidValue` if one fails.

        Called when there is no search space in any field, nor in what stands there.
        """


def field_hints(cls: type) -> dict[str, Any]:
    """The annotations of the fields, resolved.

    Kept on the class itself: a class that is pickled by value takes them along to processes in which
    its module, where the annotations get their meaning, does not exist.
    """
    known: dict[str, Any] | None = cls.__dict__.get("_field_hints")
    if known is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        known = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
        type.__setattr__(cls, "_field_hints", known)
    return known


def _check(hint: Any, value: Any, where: str) -> Any:
    """`value`, brought to the type `hint`; or InvalidValue whose sentence starts with `where`."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = _check(typing.get_args(hint)[0], value, where)
        for constraint in hint.__metadata__:
            if isinstance(constraint, Constraint) and value is not None:
                if not constraint.holds(value):
                    raise InvalidValue(f"{where} must be {constraint.says()}, not {value!r}.")
        return value
    if origin in (Union, types.UnionType):
        failures = []
        for option in typing.get_args(hint):
            try:
                return _check(option, value, where)
            except InvalidValue as error:
                failures.append((option, error))
        # With a single option beside None, its own sentence is the clearer one.
        real = [error for option, error in failures if option is not type(None)]
        if len(real) == 1:
            raise real[0]
        raise InvalidValue(f"{where} must be {_name(hint)}, not {value!r}.")
    if origin is Literal:
        options = typing.get_args(hint)
        if value in options and type(value) in {type(o) for o in options}:
            return value
        listed = ", ".join(repr(o) for o in options)
        raise InvalidValue(f"{where} must be one of {listed}, not {value!r}.")
    if origin in (tuple, list) or hint in (tuple, list):
        if isinstance(value, (str, bytes)) or not isinstance(value, (tuple, list, range)):
            raise InvalidValue(f"{where} must be {_name(hint)}, not {value!r}.")
        args = typing.get_args(hint)
        if any(is_space(v) for v in value):
            raise InvalidValue(f"{where} holds a search space: make one of whole sequences, grid_search([(…), (…)]).")
        if not args:
            return tuple(value)
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            if len(value) != len(args):
                raise InvalidValue(f"{where} must have {len(args)} elements, not {len(value)}.")
            return tuple(_check(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
        return tuple(_check(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise InvalidValue(f"{where} must be a mapping with string keys, not {value!r}.")
        item = typing.get_args(hint)[1]
        return {k: _check(item, v, f"{where}[{k!r}]") for k, v in value.items()}
    if hint is None or hint is type(None):
        if value is None:
            return None
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isnan(value):
                raise InvalidValue(f"{where} must be a number, not nan.")
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise InvalidValue(f"{where} must be {_name(hint)}, not {value!r}.")


def _name(hint: Any) -> str:
    """A type in words."""
    plain = {int: "an integer", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
    if hint in plain:
        return plain[hint]
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _name(typing.get_args(hint)[0])
    if origin is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if origin in (Union, types.UnionType):
        return " or ".join(_name(a) for a in typing.get_args(hint))
    if origin in (tuple, list) or hint in (tuple, list):
        args = [a for a in typing.get_args(hint) if a is not Ellipsis]
        return "a sequence" + (f" of {_name(args[0])} each" if args else "")
    if isinstance(hint, type):
        article = "an" if hint.__name__[0] in "AEIOU" else "a"
        return f"{article} {hint.__name__}"
    return str(hint)
