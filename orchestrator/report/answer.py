"""The top of the page: what the declared family says, or that nothing was declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..study import Study
from . import marked
from .findings import Finding, findings_section
from .results import Table
from .verdicts import comparison_table

if TYPE_CHECKING:
    from ..inference import Findings

MAX_EXPLORATORY = 150


@dataclass(frozen=True)
class Answer:
    """The top of the page.

    Attributes:
        sentence: what the declared family says, or how to declare one.
        declared: (name, words) of what was declared beforehand: primary metric, baseline, margin, design, …
        verdicts: the family; None where nothing was declared.
        notes: what does not hold of the declaration, and what is left out.
        exploratory: comparisons that were not declared.
        findings: everything else.
    """

    sentence: Markup
    declared: Sequence[tuple[str, Markup]]
    verdicts: Table | None
    notes: Sequence[str]
    exploratory: Table | None
    findings: Sequence[Finding]


def answer(study: Study) -> Answer:
    found = study.findings
    family = comparison_table(study, found.family, "verdict") if found.family else None
    explored = (
        comparison_table(study, found.exploratory[:MAX_EXPLORATORY], "exploratory") if found.exploratory else None
    )
    if explored and (gone := len(found.exploratory) - MAX_EXPLORATORY) > 0:
        explored.notes.append(
            Markup("{} more comparisons are not shown: orchestrator.open(…).findings has them.").format(
                marked.number(gone, "rows_not_shown", of="count")
            )
        )
    return Answer(
        marked.sentence("answer", found.answer),
        _declared(study, found),
        family,
        [*found.declared.notes, *found.notes],
        explored,
        findings_section(study, found),
    )


def _nothing(study: Study) -> Findings:
    return Findings(study.declared, study.main_metric, "Nothing was declared.")


def _declared(study: Study, found: Findings) -> list[tuple[str, Markup]]:
    declared = found.declared
    better = "higher is better" if declared.mode == "max" else "lower is better"
    primary = found.primary.words if found.primary else "measured by nothing here"
    facts = [("Primary metric", Markup("{} (<code>{}</code>; {})").format(primary, declared.primary, better))]
    if declared.confirms:
        facts.append(("Confirms", Markup("what the run {} chose, on fresh seeds").format(declared.confirms)))
    if declared.baseline is not None:
        facts.append(("Baseline", Markup("{}").format(study.settings[declared.baseline].label)))
    if found.family:
        many = marked.count(len(found.family), "contrast", "contrasts", of="declared")
        facts.append(("Family", Markup("{}, corrected by Holm").format(many)))
        designs = sorted({c.comparison.design for c in found.family})
        said = {"paired": "paired by seed, since settings share their streams", "unpaired": "unpaired (Welch)"}
        facts.append(("Design", Markup("; ").join(said[d] for d in designs)))
    if declared.margin is not None:
        margin = _declared_number(declared.margin, "margin", declared.primary)
        facts.append(("Margin", Markup("differences within ± {} count as none").format(margin)))
    elif found.family:
        facts.append(("Margin", Markup("none declared, so equivalence cannot be shown")))
    if declared.smallest_effect is not None and declared.smallest_effect != declared.margin:
        effect = _declared_number(declared.smallest_effect, "smallest_effect", declared.primary)
        facts.append(("Smallest effect of interest", effect))
    if found.family:
        level = marked.number(found.level, "level", text=f"{100 * found.level:g} %", form="percent", of="declared")
        facts.append(("Level", Markup("{} for the family as a whole").format(level)))
    return facts


def _declared_number(value: float, stat: str, metric: str) -> Markup:
    """As it was written in the sweep file."""
    return marked.number(value, stat, text=f"{value:g}", of="declared", metric=metric)
