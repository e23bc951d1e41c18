"""What is wrong with a cluster file, in a sentence; and what files of all kinds have in common."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .cloud_keys import Complaints
from .cluster_file import PRICE
from .cluster_values import MARKET, market_complaint

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a cluster file.

    Attributes:
        place: the node type, key or line.
        sentence: what is wrong, with the remedy; names the place.
    """

    place: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def said(place: str, complaints: Complaints, prefix: str) -> Iterator[Problem]:
    """Complaints as sentences."""
    for inside, what in complaints:
        yield Problem(place, f"{prefix}{'.' if prefix and inside else ''}{inside} {what}.")


def label_problems(name: str, found: Any) -> Iterator[Problem]:
    """Labels that Ray refuses, a price that is none, a kind of market that is none."""
    if not isinstance(found, Mapping):
        return
    for key, value in found.items():
        if key == PRICE:
            continue
        if not _LABEL.fullmatch(str(key).rpartition("/")[2]) or (value != "" and not _LABEL.fullmatch(str(value))):
            yield Problem(
                name,
                f"{name}: the label {key}: {value!r} is not valid: use at most 63 letters, digits, '-', '_' and '.'.",
            )
        elif key == MARKET and (fault := market_complaint(value)):
            yield Problem(name, f"{name}: the label {key} {fault}.")
    if PRICE in found and not re.fullmatch(r"\d+(\.\d+)?", str(found[PRICE])):
        yield Problem(name, f'{name}: the label {PRICE} must be a price such as "1.01", not {found[PRICE]!r}.')


def states(found: Mapping[str, Any], key: str) -> bool:
    """Whether a mapping holds a key, be it misspelt: that it is not known has been said."""
    return bool(found.get(key) or difflib.get_close_matches(key, map(str, found), n=1, cutoff=0.85))


def installed(package: str) -> str | None:
    """The version of a package here; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
