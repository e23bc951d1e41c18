"""Specifications: types, constraints, coercion, and sentences for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InvalidValue
from tasks.spec import AtLeast, AtMost, Below, MoreThan, NotEmpty, Spec, is_space


@dataclass(frozen=True)
class Part(Spec):
    size: int = 1


@dataclass(frozen=True)
class Whole(Spec):
    count: Annotated[int, AtLeast(1)] = 1
    rate: Annotated[float, MoreThan(0), AtMost(10)] = 0.1
    share: Annotated[float, AtLeast(0), Below(1)] = 0.0
    name: str = "x"
    flag: bool = False
    choice: Literal["a", "b", 3] = "a"
    maybe: Annotated[float | None, MoreThan(0)] = None
    either: int | str = 1
    widths: Annotated[tuple[int, ...], NotEmpty()] = (1,)
    pair: tuple[int, float] = (1, 2.0)
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    options: Mapping[str, float] | None = None
    anything: Any = None

    def validate(self) -> None:
        if self.share > self.rate:
            raise InvalidValue("Whole: share must not exceed rate.")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"count": 0}, "Whole: count must be at least 1, not 0."),
        ({"count": 1.5}, "Whole: count must be an integer, not 1.5."),
        ({"count": True}, "Whole: count must be an integer, not True."),
        ({"count": None}, "Whole: count must be an integer, not None."),
        ({"rate": 0}, "Whole: rate must be more than 0, not 0.0."),
        ({"rate": 11}, "Whole: rate must be at most 10, not 11.0."),
        ({"rate": "fast"}, "Whole: rate must be a number, not 'fast'."),
        ({"rate": float("nan")}, "Whole: rate must be a number, not nan."),
        ({"share": 1.0}, "Whole: share must be below 1, not 1.0."),
        ({"name": 1}, "Whole: name must be a string, not 1."),
        ({"flag": 1}, "Whole: flag must be True or False, not 1."),
        ({"choice": "c"}, "Whole: choice must be one of 'a', 'b', 3, not 'c'."),
        ({"maybe": -1}, "Whole: maybe must be more than 0, not -1.0."),
        ({"maybe": "x"}, "Whole: maybe must be a number, not 'x'."),
        ({"either": 1.5}, "Whole: either must be an integer or a string, not 1.5."),
        ({"widths": ()}, "Whole: widths must be not empty, not ()."),
        ({"widths": 3}, "Whole: widths must be a sequence of an integer each, not 3."),
        ({"widths": "123"}, "Whole: widths must be a sequence of an integer each, not '123'."),
        ({"widths": (1, "x")}, "Whole: widths[1] must be an integer, not 'x'."),
        ({"pair": (1,)}, "Whole: pair must have 2 elements, not 1."),
        ({"pair": (1, "x")}, "Whole: pair[1] must be a number, not 'x'."),
        ({"part": 3}, "Whole: part must be a Part, not 3."),
        ({"part": Part}, None),
        ({"parts": (Part(), 1)}, "Whole: parts[1] must be a Part, not 1."),
        ({"options": {1: 2.0}}, "Whole: options must be a mapping with string keys, not {1: 2.0}."),
        ({"options": {"a": "b"}}, "Whole: options['a'] must be a number, not 'b'."),
        ({"share": 0.5, "rate": 0.1}, "Whole: share must not exceed rate."),
    ],
)
def test_what_is_wrong_is_one_sentence(fields: dict[str, Any], sentence: str | None) -> None:
    with pytest.raises(InvalidValue) as error:
        Whole(**fields)
    assert sentence is None or str(error.value) == sentence
    assert "\n" not in str(error.value)


def test_equal_values_become_equal() -> None:
    whole = Whole(count=2.0, rate=1, widths=[1, 2], pair=[1, 2])  # type: ignore[arg-type]
    assert whole == Whole(count=2, rate=1.0, widths=(1, 2), pair=(1, 2.0))
    assert (type(whole.count), type(whole.rate), type(whole.widths)) == (int, float, tuple)
    assert hash(whole) == hash(replace(whole))


@given(st.floats(allow_nan=False))
def test_a_constrained_number_holds_or_is_refused(value: float) -> None:
    if 0 < value <= 10:
        assert Whole(rate=value).rate == value
    else:
        with pytest.raises(InvalidValue):
            Whole(rate=value)


SPACES = [{"grid_search": [1, 2]}, {"grid_search": []}]


@pytest.mark.parametrize("space", SPACES)
def test_a_grid_may_stand_in_any_field(space: Any) -> None:
    assert is_space(space)
    assert Whole(count=space).count is space
    assert Whole(part=space, share=0.9).part is space  # conditions wait for the values
    assert Whole(part=Part(space), share=0.9).part.size is space
    assert Whole(parts=(Part(), Part(space)), share=0.9).share == 0.9


def test_rays_samplers_are_spaces() -> None:
    tune = pytest.importorskip("ray.tune")
    for space in (
        tune.uniform(0, 1),
        tune.choice([1]),
        tune.loguniform(1e-3, 1),
        tune.randint(0, 3),
        tune.quniform(0, 1, 0.1),
    ):
        assert is_space(space)
        assert Whole(rate=space).rate is space


@pytest.mark.parametrize("value", [1, "grid_search", {}, {"grid_search": [1], "b": 2}, None, Part()])
def test_values_are_no_spaces(value: Any) -> None:
    assert not is_space(value)
