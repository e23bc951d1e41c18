"""Numbers, durations and counts as people read them."""

from __future__ import annotations

import math
from typing import Any

from ..stats import Interval
from ..study import Summary

MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = 4) -> str:
    """A scalar with a few significant digits: 0.9062, 1.3 × 10⁻⁵, −12, yes, –."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: f"{MINUS}∞"}.get(value, "nan")
    if value == 0 or (isinstance(value, int) and abs(value) < 10**7):
        return f"{value:d}".replace("-", MINUS) if isinstance(value, int) else "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 6:
        return f"{value:.{max(digits - 1 - exponent, 0)}f}".replace("-", MINUS)
    return f"{_plain(value / 10.0**exponent, digits - 2)} × {ten_to(exponent)}"


def with_sign(value: float | None, digits: int = 3) -> str:
    """A difference: +0.0120, −3.1, 0."""
    if value is None or value == 0:
        return number(value)
    return ("+" if value > 0 else "") + number(float(value), digits)


def bound(value: float | None, side: str, open_at_zero: bool, digits: int = 2) -> str:
    """An end of an interval: −0.031, +0.02; above 0, below 0 where 0 is its end but not in it.

    Args:
        side: "low" or "high".
    """
    if value == 0 and open_at_zero:
        return "above 0" if side == "low" else "below 0"
    return with_sign(value, digits)


def with_half_width(mean: float, half: float | None) -> str:
    """A mean with half the width of its interval, to two digits of the latter: 0.9060 ± 0.0090."""
    if half is None or not math.isfinite(half):
        return number(mean)
    first, second, power = parts(mean, half)
    body = f"{first} ± {second}"
    return body if not power else f"({body}) × {ten_to(power)}"


def parts(mean: float, half: float) -> tuple[str, str, int]:
    """What `with_half_width` writes: the mean, half the width, and the power of ten that both are multiplied by."""
    if half == 0:
        return number(mean), "0", 0
    exponent = math.floor(math.log10(max(abs(mean), half)))
    if mean and math.floor(math.log10(abs(mean))) - math.floor(math.log10(half)) > 5:
        return number(mean, 5), number(half, 2), 0  # not nine places of the mean
    scale = 0 if -4 <= exponent < 6 else exponent
    last = math.floor(math.log10(half)) - scale  # the place of the half-width's first digit
    decimals = min(max(1 - last, 0), 9)
    return _plain(mean / 10.0**scale, decimals), _plain(half / 10.0**scale, decimals), scale


def ten_to(power: int) -> str:
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


def summary(s: Summary) -> str:
    """A summary in a cell: mean ± half width, the mean alone where there is no interval, or a median."""
    if s.censored:
        return "above range" if s.median is None else f"median {number(s.median)}"
    return interval(s.interval)


def interval(i: Interval) -> str:
    """An interval in a cell: mean ± half width, or the mean alone where there is no interval.

    Equal values have an interval of no width, which would look like certainty: that they are equal is said instead.
    """
    if i.mean is None:
        return "–"
    return f"{number(i.mean)}, {ALL_EQUAL}" if all_equal(i) else with_half_width(i.mean, i.half)


ALL_EQUAL = "all equal"


def all_equal(i: Interval) -> bool:
    """Whether the values, two or more, are the same but for rounding."""
    if i.n < 2 or i.min is None or i.max is None:
        return False
    return i.max - i.min <= 1e-12 * max(abs(i.min), abs(i.max))


def _plain(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.replace("-", MINUS) if float(text) != 0 else text.lstrip("-")


def duration(seconds: float) -> str:
    """Seconds in words: 0.4 s, 75 s, 12 min, 3 h 20 min."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def count(n: int, noun: str, plural: str = "") -> str:
    """1 seed, 3 seeds."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def listed(items: list[str], last: str = "and") -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
