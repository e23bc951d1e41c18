"""Text from a store, made safe to show: whoever can write to the store can have written it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, the cursor, the screen
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]?"
)
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_RETURN = re.compile(r"\r+\n?")


def plain(text: str) -> str:
    """The text without what would steer a terminal, or could not be written to one: lines, tabs and letters."""
    if text.isprintable():
        return text
    text = _SEQUENCE.sub("", text)
    return _STEERING.sub("", _RETURN.sub("\n", text)).encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """The text, plain and in one line."""
    return text if text.isprintable() else " ".join(plain(text).split("\n"))


def plain_data(value: Any) -> Any:
    """Data as JSON gives it, with all its texts plain."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return [plain_data(v) for v in value]
    if isinstance(value, dict):
        return {plain(k): plain_data(v) for k, v in value.items()}
    return value


def say(text: object = "", *, flush: bool = False) -> None:
    """Print something that may hold words from the store."""
    print(plain(str(text)), flush=flush)


def listed_kinds(names: Iterable[str]) -> str:
    """ "Fit, Look"; of more than three the first and how many others."""
    first, *rest = names
    return f"{first} and {len(rest)} other kinds" if len(rest) > 2 else ", ".join([first, *rest])
