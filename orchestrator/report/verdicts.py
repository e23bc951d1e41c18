"""The table of comparisons: two settings a row, those of the declared family with their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..study import Study
from . import marked
from .results import Cell, Head, Row, Table
from .views import name_of

if TYPE_CHECKING:
    from ..inference import Compared


def comparison_table(study: Study, compared: Sequence[Compared], of: str) -> Table:
    """A row for each two settings; those of the family with their verdicts."""
    declared = of == "verdict"
    several = len({c.metric.path for c in compared}) > 1
    heads = [Head("metric", "what is compared", text=True)] if several else []
    heads += (
        [Head("verdict", "of the first setting, in the sense of the primary metric", text=True)] if declared else []
    )
    heads += [
        Head("n", "runs that are compared: pairs, or runs of the first and of the second setting"),
        Head(
            "difference",
            "mean of the first less mean of the second, with the "
            + ("simultaneous interval of the whole family" if declared else "interval of this comparison alone"),
        ),
        Head("p (Holm)", "of the test that decides, and of equivalence within the margin; corrected for the family")
        if declared
        else Head("p", "t test, uncorrected"),
        Head("exact p", "of the sign-flip or permutation test, uncorrected, and the smallest that it can give"),
        Head(
            "effect size",
            "the difference in units of a spread: Hedges' g of the settings' pooled sd; of pairs d_z of the "
            "differences' sd, and d_av of the settings' own sd, which compares with g",
        ),
        Head("P(better)", "probability that a run of the first setting is better than one of the second"),
    ]
    rows = []
    for c in compared:
        name = f"{name_of(study, c.a)} − {name_of(study, c.b)}"
        cells = [Cell(c.metric.path)] if several else []
        cells += [Cell(_verdict(c))] if declared else []
        cells += [Cell(x) for x in (_n(c), _difference(c), _p(c), _exact(c), _effect(c), _improvement(c))]
        where = marked.origin(of=of, setting=f"{c.a} {c.b}", metric=c.metric.path)
        rows.append(Row(name, cells, where, says=marked.sentence(of, c.sentence) if declared else Markup("")))
    return Table("", "contrast", heads, rows)


def _verdict(c: Compared) -> Markup:
    if c.verdict is None:
        return Markup("exploratory")
    return Markup('<span class="verdict {}">{}</span>').format(c.verdict.decision.replace(" ", "-"), c.verdict.decision)


def _n(c: Compared) -> Markup:
    x = c.comparison
    if x.design == "paired":
        text = Markup("{} pairs").format(marked.number(x.n_a, "n_a"))
    else:
        text = Markup("{} + {}").format(marked.number(x.n_a, "n_a"), marked.number(x.n_b, "n_b"))
    gone = [
        Markup("{} {}").format(marked.number(n, f"diverged_{side}"), f"diverged ({which})")
        for side, which, n in (("a", "first", x.diverged_a), ("b", "second", x.diverged_b))
        if n
    ]
    gone += [Markup("{} {}").format(marked.number(n, "left_out", reason=why), why) for why, n in c.left_out.items()]
    return text + (Markup('<span class="missing">{}</span>').format(Markup(", ").join(gone)) if gone else Markup(""))


def _difference(c: Compared) -> Markup:
    source = c.verdict or c.comparison
    if c.comparison.difference is None:
        return Markup("–")
    text = marked.number(c.comparison.difference, "difference", digits=3)
    if source.low is None or source.high is None:
        return text + Markup(' <span class="n" title="{}">no interval</span>').format(c.comparison.note)
    ends = []
    for side, value in (("low", source.low), ("high", source.high)):
        end = marked.number(value, side, digits=3)
        is_open = c.verdict is not None and c.verdict.open_at_zero and value == 0
        ends.append(Markup("{} {}").format("above" if side == "low" else "below", end) if is_open else end)
    return text + Markup(' <span class="bounds">[{}, {}]</span>').format(*ends)


def _p(c: Compared) -> Markup:
    if c.verdict is None:
        return marked.p_value(c.comparison.p, "p")
    text = marked.p_value(c.verdict.p_holm, "p_holm")
    if c.verdict.p_equivalence is not None:
        text += Markup('<br><span class="n">equivalence {}</span>').format(
            marked.p_value(c.verdict.p_equivalence, "p_equivalence")
        )
    return text


def _exact(c: Compared) -> Markup:
    least = marked.p_value(c.comparison.smallest_p, "smallest_p")
    return Markup('{} <span class="n">≥ {}</span>').format(marked.p_value(c.comparison.p_exact, "p_exact"), least)


def _effect(c: Compared) -> Markup:
    """Hedges' g; of pairs d_z, and d_av, which can be compared with g."""
    told = [(c.comparison.effect, "effect"), (c.comparison.effect_av, "effect_av")]
    lines = [
        Markup('<span title="{}">{}</span> {} <span class="bounds">[{}, {}]</span>').format(
            effect.name,
            effect.name.partition(" (")[0],
            marked.number(effect.value, stat, digits=3),
            marked.number(effect.low, f"{stat}_low", digits=3),
            marked.number(effect.high, f"{stat}_high", digits=3),
        )
        for effect, stat in told
        if effect is not None
    ]
    return Markup("<br>").join(lines) or Markup("–")


def _improvement(c: Compared) -> Markup:
    x = c.improvement
    if x is None or x.share is None:
        return Markup("–")
    text = marked.number(x.share, "improvement", digits=2)
    if x.low is None or x.high is None:
        return text
    return text + Markup(' <span class="bounds">[{}, {}]</span>').format(
        marked.number(x.low, "improvement_low", digits=2), marked.number(x.high, "improvement_high", digits=2)
    )
