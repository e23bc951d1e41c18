"""Numbers as HTML, each with where it comes from.

Every computed number on the page stands in an element of its own:

    <td data-of="summary" data-metric="Train.val_accuracy" data-setting="2">
      <span data-stat="mean" data-value="0.9659722222222221">0.966</span> ± <span data-stat="half" …>

`data-value` is the repr of the number before it was rounded; what it is, the attributes `data-of`, `data-stat`,
`data-metric`, … say, each on the element itself or on the nearest one around it that has it. The top of report.html
lists them.
"""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from .. import stats
from ..stats import Interval
from ..study import Summary
from . import words


def origin(**attributes: Any) -> Markup:
    """Attributes for a tag: `origin(of="trial", setting=3)` is ` data-of="trial" data-setting="3"`; no None."""
    found = Markup("")
    for name, value in attributes.items():
        if value is not None:
            found += Markup(' data-{}="{}"').format(name.replace("_", "-"), value)
    return found


def number(value: Any, stat: str = "value", *, text: str = "", form: str = "", digits: int = 4, **where: Any) -> Markup:
    """A number as people read it, in a span with its unrounded value.

    Args:
        stat: which statistic it is.
        text: how it reads, where that is not as `words.number` has it; `form` then says how ("duration", "bytes", …).
        where: further attributes, as for `origin`.
    """
    shown = text or words.number(value, digits)
    if value is None or isinstance(value, str):
        return Markup("{}").format(shown)
    attributes = origin(**where, stat=stat, value=repr(value), form=form or None)
    return Markup("<span{}>{}</span>").format(attributes, shown)


def count(n: int, noun: str, stat: str = "", plural: str = "", of: str = "count") -> Markup:
    """ "5 seeds", the number marked as a count of `stat`."""
    word = noun if n == 1 else plural or noun + "s"
    return Markup("{} {}").format(number(n, stat or noun, of=of), word)


def sentence(finding: str, text: str) -> Markup:
    """A sentence that `orchestrator.inference` has written, numbers and all; its source is the finding as a whole."""
    return Markup("<span{}>{}</span>").format(origin(of="finding", finding=finding, stat="sentence"), text)


def duration(seconds: float, stat: str, **where: Any) -> Markup:
    return number(seconds, stat, text=words.duration(seconds), form="duration", **where)


def p_value(p: float | None, stat: str) -> Markup:
    """A p value: 0.0313, < 0.001 (see `stats.p_value`)."""
    return Markup("–") if p is None else number(p, stat, text=stats.p_value(p), form="p")


def with_half_width(mean: float, half: float | None) -> Markup:
    """A mean and half the width of its interval (see `words.with_half_width`)."""
    if half is None or not math.isfinite(half):
        return number(mean, "mean")
    first, second, power = words.parts(mean, half)
    exponent = power or None
    body = Markup("{} ± {}").format(
        number(mean, "mean", text=first, exponent=exponent), number(half, "half", text=second, exponent=exponent)
    )
    return Markup("({}) × {}").format(body, words.ten_to(power)) if power else body


def interval(i: Interval) -> Markup:
    """See `words.interval`."""
    if i.mean is None:
        return Markup("–")
    if words.all_equal(i):
        return Markup('{}, <span class="equal">{}</span>').format(number(i.mean, "mean"), words.ALL_EQUAL)
    return with_half_width(i.mean, i.half)


def summary(s: Summary) -> Markup:
    """A summary in a cell (see `words.summary`), with the number of values in it, and what is not in it."""
    if not s.censored:
        text = interval(s.interval)
    elif s.median is None:
        text = Markup("above range")
    else:
        text = Markup("median {}").format(number(s.median, "median"))
    n = s.interval.n + s.censored
    text += Markup(' <span class="n">[{}]</span>').format(number(n, "n" if not s.censored else "n_with_censored"))
    if s.missing:
        gone = Markup(", ").join(
            Markup("{} {}").format(number(many, "missing", reason=why), why) for why, many in s.missing.items()
        )
        text += Markup('<span class="missing">{}</span>').format(gone)
    return text
