"""The table over seeds that a run ends with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..study import Metric, SettingRecord, Study, Summary
from . import words

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["folded", "terminal_table"]

MAX_ROWS = 40


def terminal_table(study: Study, width: int = 80) -> Table:
    """Settings × headline metrics: mean ± half the 95 % interval, and n where it is not that of all seeds.

    Every task shows its first metric, then its second, as far as `width` allows; the caption says how many
    columns are left out.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.markup import escape
    from rich.table import Table

    metrics = study.headline("train", "probe")
    summaries = {m.path: {s.settings[0]: s for s in study.summaries(m)} for m in metrics}
    best = study.best()
    seeds = len(study.replicates)
    rows = study.settings if len(study.settings) <= MAX_ROWS else ranked(study)[:MAX_ROWS]
    labels = [("★ " if s.index == best else "  " if best is not None else "") + folded(s.label) for s in rows]

    room = width - max(cell_len(line) for text in [*labels, "setting"] for line in text.splitlines()) - 2
    chosen: dict[str, list[str]] = {}
    for metric in _by_importance(metrics):
        cells = [_cell(summaries[metric.path].get(s.index), seeds) for s in rows]
        wide = max(cell_len(t) for t in [*cells, metric.column.name, metric.name]) + 3  # padding and rule
        if wide > room and chosen:
            break
        chosen[metric.path] = cells
        room -= wide

    shown = [m for m in metrics if m.path in chosen]
    parts = []
    if seeds > 1:
        few = ", which hardly tell the spread" if seeds == 2 else ""
        parts.append(f"mean ± half of the 95 % t interval over {seeds} seeds{few} (\\[n] where fewer)")
    else:
        parts.append("one seed: no intervals")
    if best is not None and study.main_metric:
        parts.append(f"★ {'highest' if study.mode == 'max' else 'lowest'} mean {escape(study.metric)}")
    if len(metrics) > len(chosen):
        parts.append(f"{len(metrics) - len(chosen)} more columns in the report")
    if len(rows) < len(study.settings):
        parts.append(f"the best {len(rows)} of {len(study.settings)} settings")
    table = Table(box=box.SIMPLE_HEAD, caption="; ".join(parts), caption_justify="left", pad_edge=False, padding=(0, 1))
    table.add_column("setting", no_wrap=True)
    for metric in shown:
        table.add_column(escape(f"{metric.column.name}\n{metric.name}"), justify="right", no_wrap=True)
    for i, label in enumerate(labels):
        bold = "bold" if rows[i].index == best else None
        table.add_row(*(escape(text) for text in (label, *(chosen[m.path][i] for m in shown))), style=bold)
    return table


def _by_importance(metrics: list[Metric]) -> list[Metric]:
    """The first metric of every task, then the second of every task, and so on."""
    places: dict[str, int] = {}
    order: list[tuple[int, int, Metric]] = []
    for metric in metrics:
        place = places[metric.column.name] = places.get(metric.column.name, -1) + 1
        order.append((place, len(order), metric))
    return [metric for _, _, metric in sorted(order, key=lambda item: item[:2])]


def _cell(summary: Summary | None, seeds: int) -> str:
    if summary is None:
        return "–"
    n = summary.interval.n + summary.censored
    return words.summary(summary) + (f" [{n}]" if n != seeds else "")


def ranked(study: Study) -> list[SettingRecord]:
    """The settings from the best mean of the study's metric to the worst; those without one last."""
    means: dict[int, float] = {}
    if study.main_metric:
        for s in study.summaries(study.main_metric):
            if s.interval.mean is not None:
                means[s.settings[0]] = s.interval.mean
    sign = -1 if study.mode == "max" else 1
    return sorted(study.settings, key=lambda s: (s.index not in means, sign * means.get(s.index, 0.0), s.index))


def folded(label: str, limit: int = 38) -> str:
    """The whole label, since its end may be all that tells it from another, in lines of at most `limit` characters."""
    if len(label) <= limit:
        return label
    lines = re.findall(rf".{{1,{limit - 5}}}(?:[ (]|$)|.{{1,{limit - 4}}}", label)
    return "\n    ".join(line.rstrip() for line in lines)
