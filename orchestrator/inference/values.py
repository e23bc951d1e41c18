"""The values of a metric by setting and seed, and why some are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..records import DIVERGED, Metric

if TYPE_CHECKING:
    import numpy as np

    from ..study import Study

__all__ = ["STOPPED", "Values", "metric_of", "values_of"]

STOPPED = "stopped early"


@dataclass(frozen=True)
class Values:
    """A metric of a study's trials.

    Attributes:
        found: by (setting, seed's label), its finite values.
        lost: by the same, why there is none: "diverged" where the training diverged, which counts as the worst of
            results; "stopped early", "failed", "censored", … otherwise.
        seeds: by setting, the labels of the seeds that were planned, in the study's order.
    """

    metric: Metric
    found: dict[tuple[int, str], float]
    lost: dict[tuple[int, str], str]
    seeds: dict[int, tuple[str, ...]]

    def reason(self, setting: int, seed: str) -> str:
        """Why a trial has no value; empty if it has one."""
        return self.lost.get((setting, seed), "") if (setting, seed) not in self.found else ""

    def has(self, reason: str, setting: int) -> bool:
        """Whether a trial of the setting lacks its value for this reason."""
        return any(self.lost.get((setting, seed)) == reason for seed in self.seeds[setting])

    def complete(self, setting: int) -> bool:
        """Whether every seed that was planned has a value."""
        return bool(self.seeds[setting]) and all((setting, seed) in self.found for seed in self.seeds[setting])

    def mean(self, setting: int) -> float:
        """Over the seeds that have a value; there must be one."""
        import numpy as np

        return float(np.mean([self.found[setting, s] for s in self.seeds[setting] if (setting, s) in self.found]))

    def matrix(self, settings: Sequence[int], seeds: Sequence[str]) -> np.ndarray:
        """Shape (settings, seeds), nan where there is no value."""
        import numpy as np

        return np.array([[self.found.get((s, r), np.nan) for r in seeds] for s in settings]).reshape(
            len(settings), len(seeds)
        )


def metric_of(study: Study, path: str) -> Metric | None:
    """The metric of trials with this path in tables; None if nothing has measured it."""
    for column in study.columns_of("train", "probe"):
        if path.startswith(f"{column.name}."):
            for metric in study.metrics_of(column):
                if metric.path == path and study.is_numeric(metric):
                    return metric
    return None


def values_of(study: Study, metric: Metric) -> Values:
    """The metric of every trial, and why a trial has none."""
    finite = study.values(metric)
    found: dict[tuple[int, str], float] = {}
    lost: dict[tuple[int, str], str] = {}
    for task in study.of_column(metric.column.name):
        if task.trials and task.key in finite:
            found[task.trials[0]] = finite[task.key]
        elif task.trials:
            lost[task.trials[0]] = _reason(study, task.key, study.missing(task, metric))
    planned: dict[int, set[str]] = {s.index: set() for s in study.settings}
    for setting, seed in (*found, *lost):
        planned[setting].add(seed)
    seeds = {i: tuple(r for r in study.replicates if r in own) for i, own in planned.items()}
    return Values(metric, found, lost, seeds)


def _reason(study: Study, key: str, words: str) -> str:
    """What the training did, where that is why: then it is the same for the training and its probes."""
    task = study.tasks[key]
    cause = study.tasks.get(task.because or "", task) if study.statuses[key] == "skipped" else task
    if cause.kind == "train":
        ended = {DIVERGED: DIVERGED, "stopped": STOPPED}.get(study.statuses[cause.key])
        if ended is not None:
            return ended
    return words
