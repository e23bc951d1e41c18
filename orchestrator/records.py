"""What a run's record says: settings, columns, tasks and how they ended.

It is written while the sweep's classes are at hand and read without them, so everything here is plain data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .declared import Declared, primary_task, resolve, unique_labels
from .stats import Interval, Location, interquartile_mean_interval, median_interval, studentised_bootstrap
from .stats.robust import ROBUST_FROM, STUDENTISED_FROM
from .store import without_passwords

RUN_NAME = "%Y-%m-%dT%H-%M-%S.%f"
"""How a run is named: when it began, to the microsecond, in UTC; names sort by time."""

if TYPE_CHECKING:
    from tasks.task import Task

    from .plan import Node, Plan
    from .sweep import Setting

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
        left_out: hosts of the nodes on which no task was to run, for what was wrong there.
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
    left_out: tuple[str, ...] = ()


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
        by_seed: the values by the seed's label, where they are of single trials.
        dependent: whether seeds share streams of randomness, so that only `interval` heeds how.
    """

    settings: tuple[int, ...]
    metric: Metric
    interval: Interval
    missing: Mapping[str, int]
    median: float | None = None
    censored: int = 0
    by_seed: Mapping[str, float] = field(default_factory=dict)
    dependent: bool = False

    @cached_property
    def bootstrap(self) -> Interval | None:
        """The mean with its studentised bootstrap interval; None from fewer than 5 seeds, or where there is no mean."""
        if self.dependent or self.interval.mean is None or len(self.by_seed) < STUDENTISED_FROM:
            return None
        return studentised_bootstrap(list(self.by_seed.values()), self.interval.level)

    @cached_property
    def median_interval(self) -> Location | None:
        """The median with its interval, censored values above all others; None from fewer than 8 seeds."""
        values = [*self.by_seed.values(), *[math.inf] * self.censored]
        enough = self.by_seed and len(values) >= ROBUST_FROM and not self.dependent
        return median_interval(values, self.interval.level) if enough else None

    @cached_property
    def interquartile_mean(self) -> Location | None:
        """The mean of the middle half with its interval; None from fewer than 8 seeds, or where values are censored."""
        enough = len(self.by_seed) >= ROBUST_FROM and not self.dependent and not self.censored
        return interquartile_mean_interval(list(self.by_seed.values()), self.interval.level) if enough else None

    def extreme_seed(self, largest: bool) -> str | None:
        """The seed with the largest or the smallest value, the first of several; a censored one is not told."""
        if not self.by_seed or (largest and self.censored):
            return None
        return (max if largest else min)(self.by_seed, key=lambda seed: self.by_seed[seed])

    @property
    def n_missing(self) -> int:
        return sum(self.missing.values())

    @property
    def missing_words(self) -> str:
        return ", ".join(f"{n} {reason}" for reason, n in self.missing.items())


def record_of(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What study.json says of a plan and of what became of it, as plain data.

    A password in the address of a store, in the command or in an error, does not get into it.
    """
    sweep = plan.sweep
    names = column_names(plan)
    columns: dict[str, dict[str, Any]] = {}
    tasks = []
    for node in plan.nodes.values():
        column = names[column_identity(node)]
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
                "error": without_passwords(error) if (error := outcome.errors.get(node.key)) else None,
                "because": outcome.because.get(node.key),
            }
        )
    run = {k: v for k, v in asdict(outcome).items() if k not in ("states", "errors", "because")}
    declared = resolve(sweep, plan.settings)
    task, metric = primary_task(sweep)
    owner = names.get(_variant_of("train" if task is sweep.train else "probe", task), type(task).__name__)
    record = {
        "format": FORMAT,
        "sweep": sweep.name,
        "question": sweep.question,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "settings": _settings(plan.settings),
        "replicates": [r.label for r in sweep.replicates],
        "seeds": [dict(r.seeds) for r in sweep.replicates],
        "declared": asdict(declared) | {"primary": f"{owner}.{metric}"},
        "columns": list(columns.values()),
        "tasks": tasks,
        "run": run | {"command": without_passwords(outcome.command)},
    }
    return dict(json.loads(json.dumps(record)))


def declared_of(record: Mapping[str, Any]) -> Declared:
    """What was declared of comparisons; of a record without, the metric alone."""
    declared = record.get("declared")
    if declared is None:
        train = next((c["name"] for c in record["columns"] if c["kind"] == "train"), "Train")
        return Declared(f"{train}.{record['metric']}", record["mode"])
    contrasts = tuple((a, b) for a, b in declared["contrasts"])
    known = {name: declared[name] for name in ("primary", "mode", "baseline", "margin", "smallest_effect", "confirms")}
    return Declared(**known, contrasts=contrasts, notes=tuple(declared["notes"]))


def checked(record: Any) -> dict[str, Any]:
    """The record, if it can be one that `record_of` made; a store may hold anything.

    Raises:
        ValueError, TypeError, LookupError or AttributeError: it cannot.
    """
    _demand(record, "sweep", "question", "metric", "mode", of=str)
    _demand(record, "settings", "replicates", "columns", "tasks", of=list)
    for index, setting in enumerate(record["settings"]):
        _demand(setting, "label", of=str)
        _demand(setting, "config", "names", of=dict)
        if setting["index"] != index or not set(setting["config"]) <= set(setting["names"]):
            raise ValueError
        _demand(setting["config"], *setting["config"], of=(str, int, float, type(None)))
        _demand(setting["names"], *setting["names"], of=str)
    replicates = set(record["replicates"])
    if not all(isinstance(label, str) for label in replicates):
        raise TypeError
    for column in record["columns"]:
        _demand(column, "name", "task", "kind", of=str)
        _demand(column["metrics"], *column["metrics"], of=str)
        for curve in column["curves"]:
            _demand(curve, "file", "x", "title", "xlabel", "ylabel", "kind", of=str)
            _demand(curve, "log_y", of=bool)
            if not all(isinstance(name, str) for name in (*curve["y"], *curve["dashed"], *column["headline"])):
                raise TypeError
    _check_seeds(record)
    _check_declared(record)
    columns = {column["name"]: column["kind"] for column in record["columns"]}
    keys: set[str] = {task["key"] for task in record["tasks"]}
    for task in record["tasks"]:
        _demand(task, "key", "name", "kind", "label", "column", "state", of=str)
        _demand(task, "error", "because", of=(str, type(None)))
        trials = {"train": 1, "probe": 1, "pair": 2}.get(task["kind"], len(task["trials"]))
        if columns[task["column"]] != task["kind"] or len(task["trials"]) != trials or len(keys) < len(record["tasks"]):
            raise ValueError
        for setting, replicate in task["trials"]:
            if not 0 <= setting < len(record["settings"]) or replicate not in replicates:
                raise ValueError
    _demand(record["run"], "started", "seconds", "startup", "slots", of=(int, float))
    if not all(0 <= record["run"][name] < 2**40 for name in ("started", "seconds", "startup", "slots")):
        raise ValueError
    left_out = record["run"].get("left_out", [])
    remarks = record.get("remarks", [])
    for texts in (left_out, remarks):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError
    return dict(record)


def _check_seeds(record: dict[str, Any]) -> None:
    """The seeds of every replicate by stream, which older records lack."""
    seeds = record.get("seeds")
    if seeds is None:
        return
    if not isinstance(seeds, list) or len(seeds) != len(record["replicates"]):
        raise ValueError
    for by_stream in seeds:
        _demand(by_stream, *by_stream, of=int)


def _check_declared(record: dict[str, Any]) -> None:
    """What was declared of comparisons, which older records lack."""
    declared = record.get("declared")
    if declared is None:
        return
    _demand(declared, "primary", "mode", "confirms", of=str)
    _demand(declared, "contrasts", "notes", of=list)
    _demand(declared, "margin", "smallest_effect", of=(float, int, type(None)))
    if declared["mode"] not in ("max", "min") or not all(isinstance(note, str) for note in declared["notes"]):
        raise ValueError
    sizes = [size for name in ("margin", "smallest_effect") if (size := declared[name]) is not None]
    if not all(0 < size < math.inf for size in sizes):
        raise ValueError
    baseline = [] if declared["baseline"] is None else [declared["baseline"]]
    pairs = [(a, b) for a, b in declared["contrasts"]]
    known = range(len(record["settings"]))
    if not all(type(i) is int and i in known for i in (*baseline, *(i for pair in pairs for i in pair))):
        raise ValueError
    if any(a == b for a, b in pairs) or len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise ValueError


def _demand(value: Any, *names: str, of: type | tuple[type, ...]) -> None:
    if not isinstance(value, dict) or not all(isinstance(value[name], of) for name in names):
        raise TypeError


def _settings(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    from .sweep import short_name

    found = []
    for s, label in zip(settings, unique_labels(settings), strict=True):
        names = {path: short_name(path, s.told) for path in s.told}
        found.append({"index": s.index, "label": label, "config": plain_config(s), "names": names})
    return found


def plain_config(setting: Setting) -> dict[str, Any]:
    """The values that a setting varies, by path; what is no number, string or truth value as shown to people."""
    from .sweep import show

    told = setting.told.items()
    return {p: v if v is None or isinstance(v, (bool, int, float, str)) else show(v) for p, v in told}


def column_identity(node: Node) -> tuple[str, str, str]:
    """What makes a node's column: equal for the tasks of one column."""
    return _variant_of(node.kind, node.task)


def _variant_of(kind: str, task: Task) -> tuple[str, str, str]:
    """What distinguishes a column: class and parameters; of trainings and data the class alone."""
    from .keys import class_path
    from .sweep import show

    return (kind, class_path(type(task)), "" if kind in ("train", "data") else show(task))


def column_names(plan: Plan) -> dict[tuple[str, str, str], str]:
    """The name of each variant: the class alone if that is enough, else with the fields that are not defaults."""
    classes: dict[tuple[str, str, str], str] = {}
    for node in plan.nodes.values():
        classes.setdefault(column_identity(node), node.name)
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
