"""The settings, what each of their parameters was, and the artifacts of their seeds."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ..study import DONE, Study, TaskRecord
from . import marked, words
from .links import Links
from .results import Cell, Head, Row, Table

MAX_SETTINGS = 300


def settings_section(study: Study, links: Links) -> Table:
    """One row a setting: the parameters that vary, and a link to the training of every seed."""
    paths = list(dict.fromkeys(p for s in study.settings for p in s.config))
    names = {p: name for s in study.settings for p, name in s.names.items()}
    several = [p for p in paths if len({repr(s.config.get(p)) for s in study.settings}) > 1]
    trained: dict[int, list[TaskRecord]] = {}
    for column in study.columns_of("train"):
        for task in study.of_column(column.name):
            trained.setdefault(task.trials[0][0], []).append(task)
    rows = []
    for s in study.settings[:MAX_SETTINGS]:
        cells = [Cell(_shown(s.config.get(p))) for p in several]
        seeds = Markup(" ").join(_seed(study, task, links) for task in trained.get(s.index, ()))
        rows.append(Row(s.label, [*cells, Cell(seeds)], marked.origin(setting=s.index)))
    texts = {p for p in several if any(isinstance(s.config.get(p), str) for s in study.settings)}
    heads = [Head(names.get(p, p), p, text=p in texts) for p in several]
    table = Table("", "setting", [*heads, Head("seeds", "each leads to its training's artifact", text=True)], rows)
    if same := [f"{names.get(p, p)} = {_shown(study.settings[0].config[p])}" for p in paths if p not in several]:
        table.notes.append(Markup("The same in all settings: {}.").format(", ".join(same)))
    if gone := len(study.settings) - len(rows):
        rest = marked.number(gone, "rows_not_shown", of="count")
        table.notes.append(Markup("{} more settings are in trials.parquet.").format(rest))
    return table


def _seed(study: Study, task: TaskRecord, links: Links) -> Markup:
    link = links.artifact(task.key, task.trials[0][1])
    status = study.statuses[task.key]
    return link if status == DONE else Markup('<span class="bad">{} ({})</span>').format(link, status)


def _shown(value: Any) -> str:
    """A parameter as it was set, unrounded."""
    return repr(value) if isinstance(value, float) else words.number(value)
