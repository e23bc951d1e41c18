"""What can go wrong through no fault of the code: every message is one sentence for the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """A mistake in what was asked, or something missing around it (a file, a permission, a device).

    The message is one clear sentence that names the thing, its value and the remedy. It is shown to
    the user without a traceback. Takes a single string, so that it survives being pickled between
    processes.
    """


class InvalidValue(UserError, ValueError):
    """A field of a task, model, optimizer, … holds a value that it cannot have."""


class DataError(UserError):
    """A dataset is missing, cannot be downloaded, or its files are damaged."""


def nearest(name: str, valid: Iterable[str], tell: Mapping[str, str] | None = None) -> str:
    """`" (did you mean 'k'?)"` for the valid name that is closest to `name`, in whatever case, or `""`.

    Args:
        tell: what to call a valid name.
    """
    by_case = {v.lower(): v for v in reversed(list(valid))}
    close = difflib.get_close_matches(name.lower(), list(by_case), n=1, cutoff=0.5)
    if not close:
        return ""
    found = by_case[close[0]]
    return f" (did you mean {found if tell is None else tell[found]!r}?)"
