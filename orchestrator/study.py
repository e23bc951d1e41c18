"""What a run found: its record, and tables made of the artifacts.

`study.json` in a run's folder holds everything that tables and reports need besides the artifacts
themselves, so they can be made from the store alone: without the sweep file, the classes of its tasks,
torch or Ray.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StoreError, UserError, nearest
from .stats import Interval, mean_interval, pair_interval
from .store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from .plan import Node, Plan
    from .sweep import Setting

__all__ = ["Column", "Metric", "Outcome", "SettingRecord", "Study", "Summary", "TaskRecord"]

FILE = "study.json"
FORMAT = 1

DONE = "done"
DIVERGED = "diverged"
CENSORED = "censored"
"""A result of this name that is True says that a value the task left out lies above the range it looked at."""

COMMITTED = ("stored", "done")


@dataclass(frozen=True)
class Outcome:
    """What became of a run's tasks; given by whoever ran it.

    Attributes:
        states: by key, the value of `graph.State` ("stored", "done", "failed", "skipped"; "waiting",
            "ready" or "running" if the run was interrupted), or "stopped" for a training that a scheduler
            ended early. A key that is missing counts as not run.
        errors: by key, why it failed, in one line.
        because: by key, for skipped tasks, the key of the task that is the reason.
        started: when the run started, in unix seconds.
        seconds: how long it took.
        startup: how much of that passed before the first task could start.
        command: the command line that carries out the run again, as one would type it.
        slots: how many tasks could run at once.
        interrupted: the run was ended before all was done.
    """

    states: Mapping[str, str]
    errors: Mapping[str, str] = field(default_factory=dict)
    because: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0
    startup: float = 0.0
    command: str = ""
    slots: int = 0
    interrupted: bool = False


@dataclass(frozen=True)
class SettingRecord:
    """A point of the parameter space.

    Attributes:
        index: position in the order of declaration.
        label: its name in tables, unique in the study.
        config: value by path; numbers, strings and booleans as they are, anything else as shown to people.
        names: the short name of each path.
    """

    index: int
    label: str
    config: Mapping[str, Any]
    names: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A probe (or the training) as a group of columns: one a metric.

    Attributes:
        name: what stands before the dot in "Lanczos.lambda_max"; tells probes of one class apart.
        task: class name.
        kind: "data", "train", "probe", "pair" or "group".
        metrics: what each scalar result means, in words.
        headline: the results that belong in the summary; empty means all numeric ones.
        curves: `tasks.task.Curve`s as plain data.
    """

    name: str
    task: str
    kind: str
    metrics: Mapping[str, str]
    headline: tuple[str, ...]
    curves: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TaskRecord:
    """A task of the run.

    Attributes:
        key, name, kind, label: as in the plan.
        column: name of its `Column`.
        trials: (index of the setting, label of the replicate) of each trial it is about.
        state: see `Outcome.states`; "not run" if it has none there.
        error: why it failed.
        because: key of the task for whose sake it was skipped.
    """

    key: str
    name: str
    kind: str
    label: str
    column: str
    trials: tuple[tuple[int, str], ...]
    state: str
    error: str | None = None
    because: str | None = None


@dataclass(frozen=True)
class Metric:
    """A scalar result of the study.

    Attributes:
        column: the task's column.
        name: the result's name.
    """

    column: Column
    name: str

    @property
    def path(self) -> str:
        """Its name in tables: "Lanczos.lambda_max"."""
        return f"{self.column.name}.{self.name}"

    @property
    def words(self) -> str:
        """What it means, for axes and captions."""
        return self.column.metrics.get(self.name) or self.name.replace("_", " ")


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds (or the pairs) of a setting.

    Attributes:
        settings: index of the setting; two for pairs.
        interval: of the values of tasks that ended well. Without a mean if values are censored: that
            of the others would be too small.
        missing: how many tasks gave no value, by reason ("diverged", "failed", "censored", …).
        median: of the values, censored ones above all others; None if there is none, or if it is censored.
        censored: how many values are only known to lie above the range that was looked at.
    """

    settings: tuple[int, ...]
    metric: Metric
    interval: Interval
    missing: Mapping[str, int]
    median: float | None = None
    censored: int = 0

    @property
    def n_missing(self) -> int:
        return sum(self.missing.values())

    @property
    def missing_words(self) -> str:
        return ", ".join(f"{n} {reason}" for reason, n in self.missing.items())


class Study:
    """A run's settings, seeds and tasks, with its artifacts behind them.

    Attributes:
        store: where the artifacts are.
        sweep, question, metric, mode: as declared.
        settings: in order of declaration.
        replicates: labels of the seeds.
        columns: by name.
        tasks: by key, in the plan's order.
        run: started, seconds, startup, command, slots, interrupted.
    """

    def __init__(self, store: Store, record: Mapping[str, Any]) -> None:
        self.store = store
        self._record = dict(record)
        self.sweep: str = record["sweep"]
        self.question: str = record["question"]
        self.metric: str = record["metric"]
        self.mode: str = record["mode"]
        self.settings = [SettingRecord(**s) for s in record["settings"]]
        self.replicates: list[str] = list(record["replicates"])
        self.columns = {
            c["name"]: Column(**{**c, "headline": tuple(c["headline"]), "curves": tuple(c["curves"])})
            for c in record["columns"]
        }
        self.tasks = {
            t["key"]: TaskRecord(**{**t, "trials": tuple((s, r) for s, r in t["trials"])}) for t in record["tasks"]
        }
        self.run: dict[str, Any] = dict(record["run"])
        self._manifests: dict[str, dict[str, Any]] = {}

    @classmethod
    def from_plan(cls, plan: Plan, store: Store, outcome: Outcome) -> Study:
        """The study of a plan that was carried out (or was stored already)."""
        sweep = plan.sweep
        names = _column_names(plan)
        columns: dict[str, dict[str, Any]] = {}
        tasks = []
        for node in plan.nodes.values():
            column = names[_variant(node)]
            if column not in columns:
                columns[column] = _column(node, column)
            tasks.append(
                {
                    "key": node.key,
                    "name": node.name,
                    "kind": node.kind,
                    "label": node.label,
                    "column": column,
                    "trials": [[t.setting.index, t.replicate.label] for t in node.trials],
                    "state": outcome.states.get(node.key, "not run"),
                    "error": outcome.errors.get(node.key),
                    "because": outcome.because.get(node.key),
                }
            )
        record = {
            "format": FORMAT,
            "sweep": sweep.name,
            "question": sweep.question,
            "metric": sweep.metric,
            "mode": sweep.mode,
            "settings": _settings(plan.settings),
            "replicates": [r.label for r in sweep.replicates],
            "columns": list(columns.values()),
            "tasks": tasks,
            "run": {k: v for k, v in asdict(outcome).items() if k not in ("states", "errors", "because")},
        }
        return cls(store, json.loads(json.dumps(record)))

    def save(self, store: Store, run_path: str) -> None:
        """Write study.json into the run's folder ("runs/<sweep>/<run>")."""
        store.write(f"{run_path}/{FILE}", json.dumps({**self._record, "digest": self.digest()}).encode())

    @classmethod
    def load(cls, store: Store, run_path: str) -> Study:
        """The study that a run left.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        data = store.read(f"{run_path}/{FILE}")
        if data is None:
            raise StoreError(f"The store {store} holds no {run_path}/{FILE}: that run did not reach its end.")
        try:
            record = json.loads(data)
            version = record["format"]
            if version <= FORMAT:
                return cls(store, record)
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{run_path}/{FILE} in {store} is damaged: run the sweep again.") from None
        raise StoreError(f"{run_path}/{FILE} in {store} was written by a newer version: upgrade the orchestrator.")

    def digest(self) -> str:
        """Equal for two studies whose reports say the same: same tasks, outcome, words and report code.

        Whether a task was stored before or ran in this run makes no difference, nor does when it ran.
        """
        record = {k: v for k, v in self._record.items() if k not in ("run", "digest")}
        record["tasks"] = [
            {**t, "state": DONE if t["state"] in COMMITTED else t["state"]} for t in self._record["tasks"]
        ]
        text = json.dumps([record, _code_version()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def is_saved(self, store: Store, run_path: str) -> bool:
        """Whether the run's folder holds a report that says what this study's would."""
        data = store.read(f"{run_path}/{FILE}")
        try:
            saved = json.loads(data)["digest"] if data else None
        except (ValueError, KeyError, TypeError):
            return False
        return saved == self.digest() and "report.html" in store.names(run_path)

    # What happened

    def manifest(self, key: str) -> dict[str, Any]:
        """The manifest of a committed task."""
        self._read_manifests([self.tasks[key]])
        return self._manifests[key]

    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of all committed tasks, in the plan's order."""
        done = [t for t in self.tasks.values() if t.state in COMMITTED]
        self._read_manifests(done)
        return [self._manifests[t.key] for t in done]

    def _read_manifests(self, tasks: Iterable[TaskRecord]) -> None:
        new = [t for t in tasks if t.key not in self._manifests]
        for task, manifest in zip(new, self.store.manifests((t.name, t.key) for t in new), strict=True):
            self._manifests[task.key] = manifest

    def folder(self, key: str) -> Path:
        """A local folder with the files of a committed task."""
        return self.store.fetch(self.tasks[key].name, key)

    def status(self, key: str) -> str:
        """How a task ended: "done", "diverged", "failed", "skipped", "stopped" or "not run"."""
        task = self.tasks[key]
        if task.state in COMMITTED:
            manifest = self.manifest(key)
            diverged = manifest.get("results", {}).get("diverged") is True
            return DIVERGED if diverged else str(manifest.get("status", DONE))
        if task.state == "skipped" and task.because in (None, task.key):
            # A training is itself the reason where a scheduler stopped it; or where the run was cut short.
            return "stopped" if task.kind == "train" and not self.run.get("interrupted") else "not run"
        return task.state if task.state in ("failed", "skipped", "stopped") else "not run"

    @cached_property
    def statuses(self) -> dict[str, str]:
        """`status` of every task, by key."""
        self.manifests()
        return {key: self.status(key) for key in self.tasks}

    def reason(self, key: str) -> str:
        """Why a task gave no result, in words; empty for one that did."""
        task, status = self.tasks[key], self.statuses[key]
        if status == DONE:
            return ""
        if status == DIVERGED:
            return "the loss became non-finite"
        if status == "failed":
            return task.error or "it failed"
        if status == "stopped":
            return "the scheduler ended it early"
        cause = self.tasks.get(task.because or "")
        if status == "skipped" and cause is not None and cause.key != key:
            how = {"failed": "failed", DIVERGED: "diverged", "stopped": "was stopped early"}
            return f"{cause.label} {how.get(self.statuses[cause.key], 'has no result')}"
        return "the run ended before it"

    def results(self, key: str) -> dict[str, Any]:
        """The scalar results of a task, however it ended; empty if it left none."""
        return dict(self.manifest(key).get("results", {})) if self.tasks[key].state in COMMITTED else {}

    def of_column(self, column: str) -> list[TaskRecord]:
        """The tasks of a column, in the plan's order."""
        return self._by_column.get(column, [])

    @cached_property
    def _by_column(self) -> dict[str, list[TaskRecord]]:
        found: dict[str, list[TaskRecord]] = {name: [] for name in self.columns}
        for task in self.tasks.values():
            found[task.column].append(task)
        return found

    def columns_of(self, *kinds: str) -> list[Column]:
        """The columns of these kinds that hold tasks about trials."""
        return [c for c in self.columns.values() if c.kind in kinds and any(t.trials for t in self.of_column(c.name))]

    def metrics_of(self, column: Column) -> list[Metric]:
        """Every metric of a column: those declared, then others found in its artifacts."""
        names = dict.fromkeys(column.metrics)
        for task in self.of_column(column.name):
            names |= dict.fromkeys(self.results(task.key))
        return [Metric(column, n) for n in names]

    def headline(self, *kinds: str) -> list[Metric]:
        """The metrics for summaries, that of the study first; numeric ones only."""
        found = []
        for column in self.columns_of(*(kinds or ("train", "probe"))):
            own = {m.name: m for m in self.metrics_of(column)}
            names = [n for n in column.headline if n in own] or list(own)
            if column.kind == "train" and self.metric in own:
                names = [self.metric, *[n for n in names if n != self.metric]]
            found += [own[n] for n in names if self._numeric(own[n])]
        return found

    def _numeric(self, metric: Metric) -> bool:
        """Whether a metric is a number; one that no task has a value of counts if a headline or censored."""
        if metric.name == DIVERGED:
            return False
        results = [self.results(t.key) for t in self.of_column(metric.column.name)]
        values = [v for r in results if (v := r.get(metric.name)) is not None]
        if values:
            return any(_is_number(v) for v in values)
        return metric.name in metric.column.headline or any(
            r.get(CENSORED) is True and metric.name in r for r in results
        )

    def values(self, metric: Metric) -> dict[str, float]:
        """The metric's value by task key, of the tasks that ended well and have a finite one."""
        found = {}
        for task in self.of_column(metric.column.name):
            if self.statuses[task.key] == DONE:
                value = self.results(task.key).get(metric.name)
                if isinstance(value, (bool, int, float)) and math.isfinite(value):
                    found[task.key] = float(value)
        return found

    # Summaries

    def summaries(self, metric: Metric) -> list[Summary]:
        """The metric over the seeds of each setting; for a pair probe over the pairs of each two settings."""
        values = self.values(metric)
        cells: dict[tuple[int, ...], list[TaskRecord]] = {}
        for task in self.of_column(metric.column.name):
            if task.trials:
                cells.setdefault(self.cell(task), []).append(task)
        found = []
        for cell, tasks in sorted(cells.items()):
            with_value = [t for t in tasks if t.key in values]
            numbers = [values[t.key] for t in with_value]
            if metric.column.kind == "pair":
                seeds = [(t.trials[0][1], t.trials[1][1]) for t in with_value]
                interval = pair_interval(numbers, seeds)
            else:
                interval = mean_interval(numbers)
            reasons = Counter(self._missing(t, metric) for t in tasks if t.key not in values)
            censored = reasons.get(CENSORED, 0)
            if censored and interval.n:
                note = "some values are censored, so a mean would be too small: see the median"
                interval = replace(interval, mean=None, sd=None, low=None, high=None, note=note)
            middle = _median([*numbers, *[math.inf] * censored])
            found.append(Summary(cell, metric, interval, dict(sorted(reasons.items())), middle, censored))
        return found

    def cell(self, task: TaskRecord) -> tuple[int, ...]:
        """The setting that a task is about; for a pair probe the two settings."""
        settings = tuple(sorted(s for s, _ in task.trials))
        return settings if task.kind == "pair" else settings[:1]

    def _missing(self, task: TaskRecord, metric: Metric) -> str:
        status = self.statuses[task.key]
        if status == "skipped":
            cause = self.tasks.get(task.because or "")
            how = {DIVERGED: "diverged", "failed": "failed", "stopped": "stopped early"}
            upstream = how.get(self.statuses[cause.key], "") if cause is not None and cause.key != task.key else ""
            return f"skipped ({cause.name} {upstream})" if cause is not None and upstream else "skipped"
        if status != DONE:
            return status
        results = self.results(task.key)
        value = results.get(metric.name)
        if value is None and results.get(CENSORED) is True:
            return CENSORED
        return "not finite" if isinstance(value, float) and not math.isfinite(value) else "without a value"

    def best(self) -> int | None:
        """Index of the setting with the best mean of the study's metric, if there are several settings."""
        metric = self.main_metric
        means = {}
        for summary in self.summaries(metric) if metric else []:
            if summary.interval.mean is not None:
                means[summary.settings[0]] = summary.interval.mean
        if len(means) < 2:
            return None
        return (max if self.mode == "max" else min)(means, key=lambda s: means[s])

    @property
    def main_metric(self) -> Metric | None:
        """The training's result that the sweep names as its metric, if it has been measured."""
        return next((m for m in self.headline("train") if m.name == self.metric), None)

    # Tables

    def trials(self) -> pa.Table:
        """One row a trial: setting, config.*, seed, <Task>.<metric>, status, key, notes.

        The metrics are those of the training and of the probes on one trial. A diverged trial keeps its
        row; `status` says so, and `notes` says which probes gave nothing and why.
        """
        probes: dict[tuple[int, str], list[TaskRecord]] = {}
        for column in self.columns_of("probe"):
            for task in self.of_column(column.name):
                probes.setdefault(task.trials[0], []).append(task)
        rows = []
        for column in self.columns_of("train"):
            for task in self.of_column(column.name):
                setting, seed = task.trials[0]
                on_it = probes.get(task.trials[0], [])
                row = {**self._setting_cells(setting), "seed": self._seed(seed), **self._cells([task, *on_it])}
                row |= {"status": self.statuses[task.key], "key": task.key, "notes": self._notes([task, *on_it])}
                rows.append(row)
        first = ["setting", *self._config_columns(), "seed"]
        return _table(rows, [*first, *self._metric_columns("train", "probe"), "status", "key", "notes"])

    def pairs(self) -> pa.Table:
        """One row a pair of trials: setting_a, seed_a, setting_b, seed_b, <Task>.<metric>, status, notes."""
        return self._joint_table(("pair",), ["setting_a", "seed_a", "setting_b", "seed_b"])

    def groups(self) -> pa.Table:
        """One row a setting: setting, config.*, seeds, <Task>.<metric>, status, notes."""
        return self._joint_table(("group",), ["setting", *self._config_columns(), "seeds"])

    def _joint_table(self, kinds: tuple[str, ...], first: list[str]) -> pa.Table:
        by_trials: dict[tuple[tuple[int, str], ...], list[TaskRecord]] = {}
        columns = self.columns_of(*kinds)
        for column in columns:
            for task in self.of_column(column.name):
                by_trials.setdefault(task.trials, []).append(task)
        rows = []
        for trials, tasks in by_trials.items():
            if kinds == ("pair",):
                row: dict[str, Any] = {}
                for side, (setting, seed) in zip("ab", trials, strict=True):
                    row |= {f"setting_{side}": self.settings[setting].label, f"seed_{side}": self._seed(seed)}
            else:
                row = {**self._setting_cells(trials[0][0]), "seeds": len(trials)}
            row |= self._cells(tasks)
            row |= {f"{t.column}.key": t.key for t in tasks}
            ended = {self.statuses[t.key] for t in tasks}
            row["status"] = DONE if ended == {DONE} else ", ".join(sorted(ended - {DONE}))
            row["notes"] = self._notes(tasks)
            rows.append(row)
        keys = [f"{c.name}.key" for c in columns]
        return _table(rows, [*first, *self._metric_columns(*kinds), "status", *keys, "notes"])

    def summary(self) -> pa.Table:
        """One row a setting and metric: n, mean, sd, bounds of the 95 % interval, min, max, what is missing.

        Means are over the tasks that ended well ("given survival"); `n_missing` and `missing` say how many
        are not in them and why.
        """
        rows = []
        for metric in self._all_metrics("train", "probe"):
            for summary in self.summaries(metric):
                rows.append({"setting": self.settings[summary.settings[0]].label, **_summary_cells(summary)})
        return _table(rows, ["setting", *_SUMMARY_CELLS])

    def pair_summary(self) -> pa.Table:
        """One row two settings and metric of a pair probe: the same, the interval by jackknife over seeds."""
        rows = []
        for metric in self._all_metrics("pair"):
            for summary in self.summaries(metric):
                a, b = (self.settings[s].label for s in summary.settings)
                rows.append({"setting_a": a, "setting_b": b, **_summary_cells(summary)})
        return _table(rows, ["setting_a", "setting_b", *_SUMMARY_CELLS])

    def tables(self) -> dict[str, pa.Table]:
        """All tables by name: trials, summary, and pairs, pair_summary and groups where there are any."""
        tables = {"trials": self.trials(), "summary": self.summary()}
        if self.columns_of("pair"):
            tables |= {"pairs": self.pairs(), "pair_summary": self.pair_summary()}
        if self.columns_of("group"):
            tables["groups"] = self.groups()
        return tables

    def write_tables(self, store: Store, run_path: str) -> list[str]:
        """Write the tables as parquet into the run's folder; returns their paths in the store."""
        import io

        import pyarrow.parquet as pq

        paths = []
        for name, table in self.tables().items():
            sink = io.BytesIO()
            pq.write_table(table, sink)
            paths.append(f"{run_path}/{name}.parquet")
            store.write(paths[-1], sink.getvalue())
        return paths

    def export(self, folder: str | Path, format: str = "csv") -> list[Path]:
        """Write the tables into a local folder as "csv" or "parquet"; returns the files.

        Raises:
            UserError: the format is unknown, or the folder cannot be written.
        """
        if format not in ("csv", "parquet"):
            raise UserError(
                f"Tables are exported as csv or parquet, not {format!r}{nearest(format, ['csv', 'parquet'])}."
            )
        target = Path(folder)
        files = []
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, table in self.tables().items():
                files.append(target / f"{name}.{format}")
                if format == "csv":
                    from pyarrow.csv import write_csv

                    write_csv(table, files[-1])
                else:
                    import pyarrow.parquet as pq

                    pq.write_table(table, files[-1])
        except OSError as error:
            raise UserError(f"The tables cannot be written to {str(folder)!r}: {error.strerror or error}.") from None
        return files

    def _all_metrics(self, *kinds: str) -> list[Metric]:
        found = [m for c in self.columns_of(*kinds) for m in self.metrics_of(c)]
        return [m for m in found if self._numeric(m)]

    def _metric_columns(self, *kinds: str) -> list[str]:
        return [m.path for c in self.columns_of(*kinds) for m in self.metrics_of(c)]

    def _config_columns(self) -> list[str]:
        return list(dict.fromkeys(f"config.{path}" for s in self.settings for path in s.config))

    def _setting_cells(self, index: int) -> dict[str, Any]:
        setting = self.settings[index]
        return {"setting": setting.label, **{f"config.{path}": v for path, v in setting.config.items()}}

    def _seed(self, label: str) -> int | str:
        return int(label) if all(r.isdecimal() for r in self.replicates) else label

    def _cells(self, tasks: Iterable[TaskRecord]) -> dict[str, Any]:
        return {f"{t.column}.{name}": v for t in tasks for name, v in self.results(t.key).items()}

    def _notes(self, tasks: Iterable[TaskRecord]) -> str:
        not_done = [t for t in tasks if self.statuses[t.key] != DONE]
        return "; ".join(f"{t.column} {self.statuses[t.key]}: {self.reason(t.key)}" for t in not_done)

    # Words

    def counts(self) -> dict[str, int]:
        """How many tasks ended how: "done", "diverged", "failed", "skipped", "stopped", "not run"."""
        return dict(Counter(self.statuses.values()))


_SUMMARY_CELLS = (
    "metric", "n", "n_seeds", "mean", "sd", "low", "high", "median", "min", "max", "method", "note", "n_missing",
    "missing",
)  # fmt: skip


def _summary_cells(summary: Summary) -> dict[str, Any]:
    i = summary.interval
    cells = (
        summary.metric.path, i.n, i.units, i.mean, i.sd, i.low, i.high, summary.median, i.min, i.max, i.method, i.note,
        summary.n_missing, summary.missing_words,
    )  # fmt: skip
    return dict(zip(_SUMMARY_CELLS, cells, strict=True))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Rows as a table with these columns, each of the one type that holds all its values."""
    import pyarrow as pa

    data = {}
    for name in dict.fromkeys(columns):
        values = [row.get(name) for row in rows]
        kinds = {type(v) for v in values if v is not None}
        if not kinds:
            data[name] = pa.array(values, pa.string() if name in _TEXTS else pa.float64())
        elif kinds == {bool}:
            data[name] = pa.array(values, pa.bool_())
        elif kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
            data[name] = pa.array(values, pa.int64())
        elif kinds <= {int, float}:
            data[name] = pa.array([None if v is None else float(v) for v in values], pa.float64())
        else:
            data[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.table(data)


_TEXTS = {"setting", "setting_a", "setting_b", "status", "key", "notes", "metric", "method", "note", "missing"}


def _median(values: Sequence[float]) -> float | None:
    """The median; None if there is no value, or if it lies among infinite ones."""
    if not values:
        return None
    ranked = sorted(values)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return middle if math.isfinite(middle) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _settings(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    from .sweep import short_name, show

    labels = Counter(s.label for s in settings)
    found = []
    for s in settings:
        config = {p: v if v is None or isinstance(v, (bool, int, float, str)) else show(v) for p, v in s.config.items()}
        names = {path: short_name(path, s.config) for path in s.config}
        label = s.label if labels[s.label] == 1 else f"{s.label} (#{s.index})"
        found.append({"index": s.index, "label": label, "config": config, "names": names})
    return found


def _variant(node: Node) -> tuple[str, str, str]:
    """What distinguishes a column: class and parameters; of trainings and data the class alone."""
    from .keys import class_path
    from .sweep import show

    task = node.task
    return (node.kind, class_path(type(task)), "" if node.kind in ("train", "data") else show(task))


def _column_names(plan: Plan) -> dict[tuple[str, str, str], str]:
    """The name of each variant: the class alone if that is enough, else with the fields that are not defaults."""
    classes: dict[tuple[str, str, str], str] = {}
    for node in plan.nodes.values():
        classes.setdefault(_variant(node), node.name)
    by_name: dict[str, list[tuple[str, str, str]]] = {}
    for variant, name in classes.items():
        by_name.setdefault(name, []).append(variant)
    names: dict[tuple[str, str, str], str] = {}
    for name, variants in by_name.items():
        for variant in variants:
            chosen = name if len(variants) == 1 else variant[2] or name
            taken = set(names.values())
            number = 2
            unique = chosen
            while unique in taken:
                unique = f"{chosen}#{number}"
                number += 1
            names[variant] = unique
    return names


def _column(node: Node, name: str) -> dict[str, Any]:
    task = type(node.task)
    return {
        "name": name,
        "task": node.name,
        "kind": node.kind,
        "metrics": dict(task.metrics),
        "headline": list(task.headline),
        "curves": [asdict(c) for c in task.curves],
    }


def _code_version() -> str:
    """Hash of the code that makes tables and reports of a study."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([here / "study.py", here / "stats.py", *(here / "report").glob("*.*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
