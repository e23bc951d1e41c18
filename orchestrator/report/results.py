"""The tables of results: headline metrics by setting, every other metric below, pairs of trials and groups of seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ..records import DIVERGED, DONE
from ..study import Column, Metric, Study, Summary
from . import marked, words
from .terminal import ranked
from .views import name_of

MAX_SETTINGS = 100
MAX_PAIR_CELLS = 60
WIDE = 9  # columns: a wider headline table is split by task


@dataclass(frozen=True)
class Head:
    """A column's head.

    Attributes:
        name, words: of the metric, and what it means.
        task: the task's name, where it is to stand above the metric's; empty in a table of one task.
        path: of the metric; empty of what is none.
        text: the column holds words, which begin at the left.
    """

    name: str
    words: str
    task: str = ""
    path: str = ""
    text: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and the attributes that say where its numbers come from."""

    text: Markup | str
    origin: Markup = Markup("")
    main: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its name, in words what it says (or nothing), its cells.

    Attributes:
        origin: attributes for all its numbers.
        best: whether it is marked.
    """

    name: str
    cells: Sequence[Cell]
    origin: Markup = Markup("")
    best: bool = False
    says: Markup = Markup("")


@dataclass
class Table:
    """A table for the page.

    Attributes:
        title: the task whose metrics it shows; empty if of several.
        first: head of the first column.
        notes: sentences below it: what the numbers are, what is left out, and why.
        more: the tasks' other metrics, for those who look for them.
        explained: what its columns are is said elsewhere.
        about: names of all metrics that it or its notes are about.
    """

    title: str
    first: str
    heads: list[Head]
    rows: list[Row]
    notes: list[Markup] = field(default_factory=list)
    more: list[Table] = field(default_factory=list)
    explained: bool = False
    about: list[str] = field(default_factory=list)


def headline_tables(study: Study) -> list[Table]:
    """The headline table, or one for each task if it were too wide; below each the task's other metrics."""
    columns = study.columns_of("train", "probe")
    found = {c.name: [m for m in study.headline("train", "probe") if m.column == c] for c in columns}
    with_values = {name: [m for m in metrics if _has_value(study, m)] for name, metrics in found.items()}
    together = [m for metrics in with_values.values() for m in metrics]
    if not together:
        return []
    if len(together) <= WIDE:
        table = _by_setting(study, "", together)
        table.notes += [n for c in columns for n in _unmeasured(study, c, found[c.name])]
        table.more = [t for c in columns if (t := _others(study, c, found[c.name]))]
        return [table]
    tables = []
    for column in columns:
        table = _by_setting(study, column.name, with_values[column.name])
        table.notes += _unmeasured(study, column, found[column.name])
        table.more = [t for t in [_others(study, column, found[column.name])] if t]
        tables.append(table)
    return tables


def _by_setting(study: Study, title: str, metrics: Sequence[Metric]) -> Table:
    best = study.best()
    shown = ranked(study)[:MAX_SETTINGS] if len(study.settings) > MAX_SETTINGS else study.settings
    cells = {m.path: {s.settings[0]: s for s in study.summaries(m)} for m in metrics}
    rows = [
        Row(
            s.label,
            [
                _summary_cell(
                    "summary",
                    m,
                    cells[m.path].get(s.index),
                    main=s.index == best and m.name == study.metric and m.column.kind == "train",
                )
                for m in metrics
            ],
            marked.origin(setting=s.index),
            s.index == best and study.main_metric in metrics,
        )
        for s in shown
    ]
    table = Table(title, "setting", _heads(metrics, task=not title), rows)
    if gone := len(study.settings) - len(shown):
        table.notes.append(
            Markup("The best {}; {} are not shown here: summary.parquet has all.").format(
                marked.count(len(shown), "setting", "settings_shown"),
                marked.count(gone, "more", "settings_not_shown", "more"),
            )
        )
    return table


def _summary_cell(of: str, metric: Metric, summary: Summary | None, main: bool = False) -> Cell:
    text = Markup("–") if summary is None else marked.summary(summary)
    return Cell(text, marked.origin(of=of, metric=metric.path), main)


def _heads(metrics: Sequence[Metric], task: bool = False) -> list[Head]:
    return [Head(m.name, m.words, m.column.name if task else "", m.path) for m in metrics]


def _others(study: Study, column: Column, shown: Sequence[Metric]) -> Table | None:
    """The metrics of a column that are no headlines: a table of those that differ, sentences on the others."""
    done = [t.key for t in study.of_column(column.name) if study.statuses[t.key] == DONE and t.trials]
    if not done:
        return None
    varying: list[Metric] = []
    same: list[Markup] = []
    counted: list[Markup] = []
    for m in study.metrics_of(column):
        if m in shown or m.name == DIVERGED or not _has_value(study, m):
            continue
        values = [study.results(key).get(m.name) for key in done]
        kinds = Counter(words.number(v) for v in values if v is not None)
        if len({repr(v) for v in values}) == 1 and len(done) > 1:
            same.append(Markup("{} {}").format(m.name, marked.number(values[0], "same", of="same", metric=m.path)))
        elif study.is_numeric(m):
            varying.append(m)
        else:
            told = [
                Markup("{} in {}").format(v, marked.number(n, "tasks", value_is=v)) for v, n in kinds.most_common(6)
            ]
            counted.append(
                Markup("<span{}>{}: {}</span>").format(
                    marked.origin(of="tally", metric=m.path), m.name, Markup(", ").join(told)
                )
            )
    if column.kind == "group":
        table = _of_groups(study, column, varying)
    elif column.kind == "pair":
        table = _of_pairs(study, column, varying)
    else:
        table = _by_setting(study, column.name, varying)
    table.title = column.name
    table.about = [m.name for m in study.metrics_of(column) if m not in shown and m.name != DIVERGED]
    if same:
        many = marked.number(len(done), "tasks_done", of="count", column=column.name)
        tasks = Markup("{} {}").format(many, "task" if len(done) == 1 else "tasks")
        table.notes.append(Markup("The same in all {} that ended well: {}.").format(tasks, Markup(", ").join(same)))
    if counted:
        table.notes.append(Markup("Not numbers: {}.").format(Markup("; ").join(counted)))
    table.notes += _unmeasured(study, column, [m for m in study.metrics_of(column) if m not in shown], others=True)
    return table if varying or table.notes else None


def _has_value(study: Study, metric: Metric) -> bool:
    """Whether some task that ended well has measured it, or says that it lies above its range."""
    done = [study.results(t.key) for t in study.of_column(metric.column.name) if study.statuses[t.key] == DONE]
    return any(r.get(metric.name) is not None or (metric.name in r and r.get("censored") is True) for r in done)


def _unmeasured(study: Study, column: Column, metrics: Sequence[Metric], others: bool = False) -> list[Markup]:
    """A sentence on metrics that no task has a value of, which therefore have no column."""
    gone = [m for m in metrics if m.name != DIVERGED and not _has_value(study, m)]
    if not gone:
        return []
    told = [m.name if others or m.words == m.name.replace("_", " ") else f"{m.name} ({m.words})" for m in gone]
    names = words.listed(told)
    return [Markup("No {} task has a value of {}, so there is no column.").format(column.name, names)]


def reading(study: Study) -> list[Markup]:
    """What the numbers of the headline table are, and what they are not."""
    seeds = len(study.replicates)
    tables = [study.summaries(m) for m in study.headline("train", "probe")]
    methods = list(dict.fromkeys(s.interval.method for found in tables for s in found if s.interval.low is not None))
    n = marked.number(seeds, "seeds", of="count")
    if seeds == 1:
        text = [
            Markup("One seed: the numbers are single measurements, and nothing here separates a setting from luck.")
        ]
    else:
        text = [
            Markup(
                "Mean ± half of the 95 % interval ({}); in brackets the number of values in it. The interval says how "
                "well the mean of this setting is known, if values are roughly normal over seeds. “All equal” stands "
                "where all seeds gave the same value: then the interval would have no width, which is no certainty."
            ).format(words.listed(methods or ["of Student's t over seeds"]))
        ]
    if seeds in (2, 3):
        text.append(Markup("With {} seeds the intervals are wide because the spread itself is hardly known.").format(n))
    missing = Counter[str]()
    main = study.main_metric
    for summary in study.summaries(main) if main else []:
        missing.update(summary.missing)
    if missing and main:
        gone = Markup(", ").join(
            Markup("{} {}").format(marked.number(many, "missing", reason=why), why) for why, many in missing.items()
        )
        where = marked.origin(of="metric", metric=main.path)
        told = Markup("<span{}>{}</span>").format(where, gone)
        text.append(Markup("Means are over the trials that ended well; not in them: {}.").format(told))
    if any(s.censored for found in tables for s in found):
        text.append(
            Markup(
                "Censored: the value lies above the range that was looked at. Then a mean would be too small, and the "
                "median stands in its place, with the censored values above all others."
            )
        )
    best = study.best()
    if best is not None and main is not None:
        highest = "highest" if study.mode == "max" else "lowest"
        among = marked.count(len(study.settings), "setting")
        text.append(
            Markup(
                "★ marks the {} mean of {} among {}; one that lost a seed is not in question, since the mean of the "
                "others would flatter it. The mark is exploratory: nothing was tested for it, and the best of several "
                "means is biased in its favour."
            ).format(highest, main.words, among)
        )
    return text


# Pairs and groups


def column_table(study: Study, column: Column) -> Table | None:
    """The table of a pair or group probe, its other metrics below it."""
    shown = [m for m in study.headline(column.kind) if m.column == column]
    measured = [m for m in shown if _has_value(study, m)]
    if not shown:
        return None
    table = _of_pairs(study, column, measured) if column.kind == "pair" else _of_groups(study, column, measured)
    table.notes += _unmeasured(study, column, shown)
    other = _others(study, column, shown)
    table.more = [other] if other else []
    return table


def _of_pairs(study: Study, column: Column, metrics: Sequence[Metric]) -> Table:
    by_metric = [{s.settings: s for s in study.summaries(m)} for m in metrics]
    cells = sorted({c for found in by_metric for c in found}, key=lambda c: (len(set(c)) > 1, c))
    rows = []
    for cell in cells[:MAX_PAIR_CELLS]:
        a, b = name_of(study, cell[0]), name_of(study, cell[-1])
        found = [f.get(cell) for f in by_metric]
        seeds = max((s.interval.units for s in found if s), default=0)
        rows.append(
            Row(
                a if cell[0] == cell[-1] else f"{a} × {b}",
                [
                    Cell(marked.number(seeds, "seeds"), marked.origin(of="pair", metric=metrics[0].path)),
                    *(_summary_cell("pair", m, s) for m, s in zip(metrics, found, strict=True)),
                ],
                marked.origin(setting=" ".join(map(str, cell))),
            )
        )
    heads = [Head("seeds", "how many seeds the pairs are made of"), *_heads(metrics)]
    table = Table(column.name, "settings", heads, rows)
    if rows:
        table.notes.append(
            Markup(
                "Mean over pairs of trials ± half of the 95 % interval, by a jackknife over seeds, because pairs share "
                "seeds; in brackets the number of pairs. Without ±: too few seeds for an interval. Exploratory."
            )
        )
    if gone := len(cells) - len(rows):
        rest = marked.number(gone, "rows_not_shown", of="count")
        table.notes.append(Markup("{} more rows are in pair_summary.parquet.").format(rest))
    return table


def _of_groups(study: Study, column: Column, metrics: Sequence[Metric]) -> Table:
    tasks = {study.cell(t)[0]: t for t in study.of_column(column.name)}
    rows = []
    for setting, task in list(tasks.items())[:MAX_SETTINGS]:
        ended = study.statuses[task.key] == DONE
        results: Mapping[str, Any] = study.results(task.key) if ended else {}
        cells = [Cell(marked.number(len(task.trials), "seeds"), marked.origin(of="group", metric=f"{column.name}."))]
        for m in metrics:
            text = marked.number(results.get(m.name))
            if not ended:
                text = Markup('–<span class="missing">{}</span>').format(study.statuses[task.key])
            cells.append(Cell(text, marked.origin(of="group", metric=m.path)))
        rows.append(Row(study.settings[setting].label, cells, marked.origin(setting=setting)))
    heads = [Head("seeds", "how many seeds there are"), *_heads(metrics)]
    table = Table(column.name, "setting", heads, rows)
    if metrics:
        table.notes.append(Markup("One value from all seeds of a setting together; it has no interval over seeds."))
    if gone := len(tasks) - len(rows):
        rest = marked.number(gone, "rows_not_shown", of="count")
        table.notes.append(Markup("{} more rows are in groups.parquet.").format(rest))
    return table
