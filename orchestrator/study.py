"""What a run found: its record with its artifacts behind it, and summaries over seeds.

`study.json` in a run's folder holds everything that tables and reports need besides the artifacts
themselves, so these can be made from the store alone: without the sweep file, the classes of its tasks,
torch or Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .crossing import Crossing, crossing_of, interval_over, pair_interval_over
from .errors import DamagedArtifact, StoreError
from .records import (
    CENSORED,
    COMMITTED,
    DIVERGED,
    DONE,
    FORMAT,
    Column,
    Metric,
    Outcome,
    SettingRecord,
    Summary,
    TaskRecord,
    checked,
    declared_of,
    record_of,
)
from .stats import Share, share_interval
from .store import Store
from .text import plain_data

if TYPE_CHECKING:
    import pyarrow as pa

    from .inference import Findings
    from .plan import Plan
    from .stats.comparisons import Mode

__all__ = ["DONE", "Column", "Metric", "Outcome", "SettingRecord", "Study", "Summary", "TaskRecord"]

FILE = "study.json"
BEGUN = "plan.json"
"""What study.json is to say but for how the tasks end, in the folder of a run that has not come so far."""


class Study:
    """A run's settings, seeds and tasks, with its artifacts behind them.

    Attributes:
        store: where the artifacts are.
        sweep, question, metric, mode: as declared.
        settings: in order of declaration.
        replicates: labels of the seeds.
        seeds: by label, the seed of every stream of randomness; empty in records of older versions.
        declared: primary metric, baseline, family of contrasts and margin, as declared beforehand.
        columns: by name.
        tasks: by key, in the plan's order.
        run: started, seconds, startup, command, slots, interrupted.
        remarks: sentences that belong at the top of any report of it (of runs taken together: what differs).
        damaged: what is wrong with artifacts whose files could not be used, by key, as far as they were read.
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
        self.seeds: dict[str, Mapping[str, int]] = dict(zip(self.replicates, record.get("seeds", ()), strict=False))
        self.declared = declared_of(record)
        self.columns = {
            c["name"]: Column(**{**c, "headline": tuple(c["headline"]), "curves": tuple(c["curves"])})
            for c in record["columns"]
        }
        self.tasks = {
            t["key"]: TaskRecord(**{**t, "trials": tuple((s, r) for s, r in t["trials"])}) for t in record["tasks"]
        }
        self.run: dict[str, Any] = dict(record["run"])
        self.remarks: list[str] = list(record.get("remarks", ()))
        self.damaged: dict[str, str] = {}
        self._manifests: dict[str, dict[str, Any]] = {}
        self._summaries: dict[str, list[Summary]] = {}

    @classmethod
    def from_plan(cls, plan: Plan, store: Store, outcome: Outcome) -> Study:
        """The study of a plan that was carried out (or was stored already)."""
        return cls(store, record_of(plan, outcome))

    def save(self, store: Store, run_path: str) -> None:
        """Write study.json into the run's folder ("runs/<sweep>/<run>")."""
        store.write(f"{run_path}/{FILE}", json.dumps({**self._record, "digest": self.digest()}).encode())
        store.delete(f"{run_path}/{BEGUN}")

    @classmethod
    def load(cls, store: Store, run_path: str) -> Study:
        """The study that a run left.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        data = store.read(f"{run_path}/{FILE}")
        if data is None:
            raise StoreError(f"The store {store} holds no {run_path}/{FILE}: that run did not reach its end.")
        return cls.read(data, store, f"{run_path}/{FILE}")

    @classmethod
    def read(cls, data: bytes, store: Store, name: str) -> Study:
        """The study of a record, as it lies in the store under this name.

        Raises:
            StoreError: it is none.
        """
        try:
            record = json.loads(data)
            version = record["format"]
            if not isinstance(version, int):
                raise TypeError
            if version > FORMAT:
                raise StoreError(f"{name} in {store} was written by a newer version: upgrade the orchestrator.")
            return cls(store, checked(plain_data(record)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise StoreError(f"{name} in {store} is damaged: run the sweep again.") from None

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
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        return saved == self.digest() and "report.html" in store.names(run_path)

    def store_of(self, key: str) -> Store:
        """The store that holds a task's artifact: `store`, unless runs of several stores are taken together."""
        return self.store

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
        new: dict[Store, list[TaskRecord]] = {}
        for task in tasks:
            if task.key not in self._manifests:
                new.setdefault(self.store_of(task.key), []).append(task)
        for store, own in new.items():
            for task, manifest in zip(own, store.manifests((t.name, t.key) for t in own), strict=True):
                results = {k: _within_reach(v) for k, v in manifest.get("results", {}).items()}
                self._manifests[task.key] = plain_data({**manifest, "results": results})

    @contextlib.contextmanager
    def file(self, key: str, name: str) -> Iterator[Path]:
        """One file of a committed task, in a local folder, as long as the context lasts.

        Raises:
            DamagedArtifact: it is not what was committed, or is gone.
        """
        with contextlib.ExitStack() as hold:
            try:
                path = self.store_of(key).fetch_file(self.tasks[key].name, key, name, hold)
            except DamagedArtifact as error:
                self.damaged[key] = error.reason
                raise
            yield path

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
            found += [own[n] for n in names if self.is_numeric(own[n])]
        return found

    def is_numeric(self, metric: Metric) -> bool:
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

    def is_told(self, metric: Metric) -> bool:
        """Whether a metric says anything: False if all tasks that ended well have left it out, headlines excepted."""
        done = [t.key for t in self.of_column(metric.column.name) if self.statuses[t.key] == DONE]
        return (
            metric.name in metric.column.headline
            or not done
            or any(self.results(key).get(metric.name) is not None for key in done)
            or any(self.results(key).get(CENSORED) is True for key in done)
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
        if metric.path not in self._summaries:
            self._summaries[metric.path] = self._summarise(metric)
        return list(self._summaries[metric.path])

    def _summarise(self, metric: Metric) -> list[Summary]:
        values = self.values(metric)
        cells: dict[tuple[int, ...], list[TaskRecord]] = {}
        for task in self.of_column(metric.column.name):
            if task.trials:
                cells.setdefault(self.cell(task), []).append(task)
        found = []
        for cell, tasks in sorted(cells.items()):
            with_value = [t for t in tasks if t.key in values]
            numbers = [values[t.key] for t in with_value]
            seeds = [t.trials[0][1] for t in with_value]
            if metric.column.kind == "pair":
                pairs = [(t.trials[0][1], t.trials[1][1]) for t in with_value]
                interval = pair_interval_over(numbers, pairs, self.crossing)
            else:
                interval = interval_over(numbers, seeds, self.crossing)
            reasons = Counter(self.missing(t, metric) for t in tasks if t.key not in values)
            censored = reasons.get(CENSORED, 0)
            if censored and interval.n:
                note = "some values are censored, so a mean would be too small: see the median"
                interval = replace(interval, mean=None, sd=None, low=None, high=None, note=note)
            middle = _median([*numbers, *[math.inf] * censored])
            by_seed = dict(zip(seeds, numbers, strict=True)) if metric.column.kind in ("train", "probe") else {}
            missing = dict(sorted(reasons.items()))
            found.append(Summary(cell, metric, interval, missing, middle, censored, by_seed, self._shares))
        return found

    @cached_property
    def diverged(self) -> dict[int, Share]:
        """How many trainings of each setting diverged, of those that ended well or diverged."""
        found = {}
        ended: dict[int, list[str]] = {s.index: [] for s in self.settings}
        for column in self.columns_of("train"):
            for task in self.of_column(column.name):
                ended[task.trials[0][0]].append(self.statuses[task.key])
        for setting, statuses in ended.items():
            counted = [s for s in statuses if s in (DONE, DIVERGED)]
            found[setting] = share_interval(counted.count(DIVERGED), len(counted))
        return found

    @property
    def _shares(self) -> bool:
        return self.crossing is not None and self.crossing.shares

    @cached_property
    def crossing(self) -> Crossing | None:
        """How the seeds share streams of randomness; None of one seed, or where the record does not say."""
        return crossing_of(self.seeds)

    def cell(self, task: TaskRecord) -> tuple[int, ...]:
        """The setting that a task is about; for a pair probe the two settings."""
        settings = tuple(sorted(s for s, _ in task.trials))
        return settings if task.kind == "pair" else settings[:1]

    def missing(self, task: TaskRecord, metric: Metric) -> str:
        """Why a task has no value of the metric, in words."""
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
        """Index of the setting with the best mean of the study's metric, among those that lost no seed.

        None if there are not two such settings.
        """
        metric = self.main_metric
        means = {}
        for summary in self.summaries(metric) if metric else []:
            # The mean of the seeds that are left would flatter a setting that lost some.
            if summary.interval.mean is not None and not summary.n_missing:
                means[summary.settings[0]] = summary.interval.mean
        if len(means) < 2:
            return None
        return (max if self.mode == "max" else min)(means, key=lambda s: means[s])

    @property
    def main_metric(self) -> Metric | None:
        """The training's result that the sweep names as its metric, if it has been measured."""
        return next((m for m in self.headline("train") if m.name == self.metric), None)

    @cached_property
    def findings(self) -> Findings:
        """The family's verdicts and what else the numbers tell (see `orchestrator.inference`)."""
        from .inference import findings

        return findings(self)

    def mode_of(self, metric: Metric) -> Mode | None:
        """Whether more or less of a metric is better; None where the sweep does not say."""
        mode = self.declared.mode if metric.path == self.declared.primary else None
        if mode is None and metric.column.kind == "train" and metric.name == self.metric:
            mode = self.mode
        return None if mode is None else "max" if mode == "max" else "min"

    # Tables (see `orchestrator.tables` for what is in them)

    def tables(self) -> dict[str, pa.Table]:
        """All tables by name: trials, summary, and pairs, pair_summary and groups where there are any."""
        from .tables import all_tables

        return all_tables(self)

    def write_tables(self, store: Store, run_path: str) -> list[str]:
        """Write the tables as parquet into the run's folder; returns their paths in the store."""
        from .tables import write_tables

        return write_tables(self, store, run_path)

    def export(self, folder: str | Path, format: str = "csv") -> list[Path]:
        """Write the tables into a local folder as "csv" or "parquet"; returns the files."""
        from .tables import export

        return export(self, folder, format)

    # Words

    def counts(self) -> dict[str, int]:
        """How many tasks ended how: "done", "diverged", "failed", "skipped", "stopped", "not run"."""
        return dict(Counter(self.statuses.values()))


def _median(values: Sequence[float]) -> float | None:
    """The median; None if there is no value, or if it lies among infinite ones."""
    if not values:
        return None
    ranked = sorted(values)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return middle if math.isfinite(middle) else None


def _within_reach(value: Any) -> Any:
    """A result that tables and pictures can hold: no integer beyond the largest float."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return math.copysign(math.inf, -1 if value < 0 else 1)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def code_files() -> list[Path]:
    """The modules and templates that make tables and reports of a study."""
    here = Path(__file__).parent
    modules = [here / f"{name}.py" for name in ("crossing", "declared", "records", "study", "tables")]
    folders = [p for folder in ("inference", "report", "stats") for p in (here / folder).rglob("*")]
    return sorted([*modules, *(p for p in folders if p.suffix in (".py", ".html", ".css", ".js"))])


def _code_version() -> str:
    digest = hashlib.sha256()
    for path in code_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()
