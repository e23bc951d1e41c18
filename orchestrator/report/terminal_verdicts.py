"""What a run ends with below its table: the verdicts of the declared family, or how to declare one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..stats import p_value
from ..study import Study
from . import words
from .terminal import folded

if TYPE_CHECKING:
    from rich.console import Console

    from ..inference import Compared, Findings

__all__ = ["print_verdicts"]

MAX_ROWS = 30


def print_verdicts(study: Study, console: Console) -> None:
    """The family's verdicts as a table, then what to be warned of; a sentence where nothing was declared."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    found = study.findings
    if not found.family:
        if len(study.settings) > 1:
            console.print(found.answer, markup=False)
    else:
        ranked = sorted(found.family, key=lambda c: c.verdict is None or c.verdict.decision not in _DECIDED)
        shown = found.family if len(found.family) <= MAX_ROWS else ranked[:MAX_ROWS]
        rows = [_cells(study, found, c) for c in shown]
        fixed = sum(max(len(row[i]) for row in [_HEAD, *rows]) + 3 for i in range(1, len(_HEAD)))
        room = max(console.width - fixed - 2, 16)  # as rich counts padding and rules
        table = Table(
            box=box.SIMPLE_HEAD, caption=escape(_caption(study, found)), caption_justify="left", pad_edge=False
        )
        for i, name in enumerate(_HEAD):
            table.add_column(name, no_wrap=True, justify="right" if i > 1 else "left")
        for c, (label, *cells) in zip(shown, rows, strict=True):
            bold = "bold" if c.verdict is not None and c.verdict.decision in _DECIDED else None
            table.add_row(*map(escape, (folded(label, room), *cells)), style=bold)
        console.print(table)
        if len(shown) < len(found.family):
            console.print(f"… and {len(found.family) - len(shown)} more contrasts in the report")
    for note in found.notes:
        if not note.startswith("Exploratory"):  # of these nothing stands here
            console.print(note, markup=False)
    if found.winner is not None and found.winner.command and len(study.settings) > 2:
        console.print(
            f"the best of several looks better than it is; to confirm it: {found.winner.command}",
            markup=False,
            soft_wrap=True,
        )


_DECIDED = ("better", "worse", "equivalent")
_HEAD = ("setting", "verdict", "difference", "95 % interval", "p")


def _cells(study: Study, found: Findings, c: Compared) -> tuple[str, ...]:
    v = c.verdict
    assert v is not None
    label = study.settings[c.a].label
    if _rival(found) is None:
        label += f" − {study.settings[c.b].label}"
    difference = words.with_sign(c.comparison.difference, 2)
    low, high = words.bound(v.low, "low", v.open_at_zero), words.bound(v.high, "high", v.open_at_zero)
    interval = "–" if v.low is None else f"{low} to {high}"
    return label, v.decision, difference, interval, "–" if v.p is None else p_value(v.p)


def _rival(found: Findings) -> int | None:
    """The one setting that all others are compared with, if there is one."""
    rivals = {c.b for c in found.family}
    return rivals.pop() if len(rivals) == 1 else None


def _caption(study: Study, found: Findings) -> str:
    from ..inference.sentences import measure

    assert found.primary is not None
    rival = _rival(found)
    against = "" if rival is None else f" against {study.settings[rival].label}"
    many = len(found.family)
    seeds = sorted({n for c in found.family for n in (c.comparison.n_a, c.comparison.n_b)})
    counted = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else words.count(seeds[0], "seed")
    design = ", paired by seed" if all(c.comparison.design == "paired" for c in found.family) else ""
    corrected = f"; p and intervals hold for all {many} together (Holm)" if many > 1 else ""
    margin = ""
    if found.declared.margin is not None:
        margin = f"; equivalent: within ±{found.declared.margin:g} by two one-sided tests"
        if any(c.verdict is not None and c.verdict.decision == "equivalent" for c in found.family):
            margin += ", and the p beside it is theirs"
    decided = [v for c in found.family if (v := c.verdict) is not None and v.decision in ("better", "worse")]
    doubted = [v for v in decided if v.test == "t" and v.p_exact_holm > 1 - v.level + 1e-9]
    confirmed = f"{len(decided) - len(doubted)} of {words.count(len(decided), 'decision')}"
    normal = f"; without assuming normal values, the exact test confirms {confirmed}" if doubted else ""
    if doubted and all(v.comparison.smallest_p > 1 - v.level + 1e-9 for v in doubted):  # no values could have done it
        least = min(v.comparison.smallest_p for v in doubted)
        normal += f" (with so few seeds it can confirm none: its p is never below {least:.3g})"
    return f"{measure(found.primary)}{against}; {counted}{design}{corrected}{margin}{normal}"
