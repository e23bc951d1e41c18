"""Every trial: the rows of its table, and what the page's script needs to show any of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ..records import COMMITTED, DIVERGED, DONE
from ..study import Metric, Study, TaskRecord
from . import marked, words
from .links import Links
from .results import Cell, Head, Row, Table
from .thinned import Thinned, thinned

MAX_ROWS = 200
"""Rows that are in the page as HTML; the script makes those beyond from the data when somebody wants them."""

MAX_TRIALS = 5000
MAX_METRICS = 12


def trial_section(study: Study, links: Links) -> dict[str, Any]:
    """The table, the data behind it, and what of both is left out."""
    trials = _by_trial(study)
    metrics = [m for c in study.columns_of("train", "probe") for m in study.metrics_of(c)]
    told = [m for m in metrics if m.name != DIVERGED and _is_measured(study, m)]
    shown = [m for m in study.headline("train", "probe") if m in told][:MAX_METRICS]
    kept = dict(list(trials.items())[:MAX_TRIALS])
    rows = [_row(study, trial, tasks, shown, links) for trial, tasks in list(kept.items())[:MAX_ROWS]]
    curves = thinned(study)
    heads = [Head("seed", "label of the seed"), *[Head(m.name, m.words, m.column.name, m.path) for m in shown]]
    heads += [
        Head("training", "how the training ended", text=True),
        Head("artifact", "the beginning of the training's key", text=True),
    ]
    table = Table("", "setting", heads, rows)
    unmeasured = [m.path for m in metrics if m.name != DIVERGED and m not in told]
    if unmeasured:
        table.notes.append(Markup("Measured by no trial, so without a column: {}.").format(words.listed(unmeasured)))
    return {
        "table": table,
        "data": _data(study, kept, told, shown, curves, links),
        "total": len(trials),
        "shown": len(rows),
        "in_data": len(kept),
        "curves": curves,
        "hidden": [m.path for m in told if m not in shown],
    }


def _by_trial(study: Study) -> dict[tuple[int, str], list[TaskRecord]]:
    """The tasks on each trial, the training first."""
    found: dict[tuple[int, str], list[TaskRecord]] = {}
    for column in study.columns_of("train", "probe"):
        for task in study.of_column(column.name):
            found.setdefault(task.trials[0], []).append(task)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], study.replicates.index(item[0][1]))))


def _is_measured(study: Study, metric: Metric) -> bool:
    return any(study.results(t.key).get(metric.name) is not None for t in study.of_column(metric.column.name))


def _row(study: Study, trial: tuple[int, str], tasks: list[TaskRecord], metrics: list[Metric], links: Links) -> Row:
    setting, seed = trial
    by_column = {t.column: t for t in tasks}
    cells = [Cell(seed)]
    for m in metrics:
        task = by_column.get(m.column.name)
        cells.append(Cell(*_value(study, m, task)))
    training = tasks[0]
    status = study.statuses[training.key]
    cells.append(Cell(status if status == DONE else Markup('<span class="bad">{}</span>').format(status)))
    cells.append(Cell(links.artifact(training.key)))
    return Row(study.settings[setting].label, cells, marked.origin(of="trial", setting=setting, seed=seed))


def _value(study: Study, metric: Metric, task: TaskRecord | None) -> tuple[Markup, Markup]:
    where = marked.origin(metric=metric.path)
    if task is None:
        return Markup("–"), where
    status = study.statuses[task.key]
    if status != DONE:
        return Markup('<span class="bad">{}</span>').format(status), where
    return marked.number(study.results(task.key).get(metric.name)), where


def _data(
    study: Study,
    trials: Mapping[tuple[int, str], list[TaskRecord]],
    metrics: list[Metric],
    shown: list[Metric],
    curves: Thinned,
    links: Links,
) -> dict[str, Any]:
    """What report.js reads: settings, metrics, and of every trial its values, tasks and curves."""
    columns = [c.name for c in study.columns_of("train", "probe")]
    place = {name: i for i, name in enumerate(columns)}
    rows: list[dict[str, Any]] = []
    for (setting, seed), tasks in trials.items():
        by_column = {t.column: t for t in tasks}
        values = []
        for m in metrics:
            task = by_column.get(m.column.name)
            ended = task is not None and study.statuses[task.key] == DONE
            values.append(_plain(study.results(task.key).get(m.name)) if task is not None and ended else None)
        rows.append(
            {
                "s": setting,
                "r": seed,
                "v": values,
                "t": [_task(study, t, place[t.column], links) for t in tasks],
                "c": [line for t in tasks for line in curves.lines.get(t.key, ())],
            }
        )
    return {
        "settings": [s.label for s in study.settings],
        "columns": columns,
        "tasks": [study.columns[name].task for name in columns],
        "stores": links.stores,
        "metrics": [[m.path, m.words, m in shown, place[m.column.name]] for m in metrics],
        "whole": [i for i in range(len(metrics)) if all(isinstance(r["v"][i], (int, type(None))) for r in rows)],
        "curves": curves.curves,
        "xs": curves.xs,
        "trials": rows,
    }


def _task(study: Study, task: TaskRecord, column: int, links: Links) -> list[Any]:
    """[column, key, how it ended, why, store (see `Links.stores`), or -1 if it left no artifact]."""
    store = links.store(task.key) if task.state in COMMITTED else -1
    return [column, task.key, study.statuses[task.key], study.reason(task.key), store]


def _plain(value: Any) -> Any:
    """A value for JSON: what is not finite as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value
