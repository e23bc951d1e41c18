"""What tells one run from another: settings, seeds, fields, code, data, versions, machines, and results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .differences import Difference, Made, differences, only_in
from .errors import InvalidValue, nearest
from .inference.family import compare as compare_values
from .inference.values import Values, values_of
from .records import COMMITTED, Metric, TaskRecord
from .stats import Comparison, Interval
from .stats.comparisons import Mode
from .study import Study

__all__ = ["Remade", "ResultPair", "RunComparison", "Shared", "compare_runs"]


@dataclass(frozen=True)
class Shared:
    """What two runs have both, and what only one of them has.

    Attributes:
        both, only_a, only_b: names.
    """

    both: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether the runs differ here."""
        return bool(self.only_a or self.only_b)


@dataclass(frozen=True)
class Remade:
    """The tasks of a column that both runs have: the same but perhaps for code and data, on the same trials.

    Attributes:
        column: as the first run names it.
        same: how many are one and the same artifact.
        identical: how many were made in each, with identical results.
        different: how many were made in each, with other results.
        largest: of those, by result the largest difference; inf where one has no number.
    """

    column: str
    same: int = 0
    identical: int = 0
    different: int = 0
    largest: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultPair:
    """A setting that both runs have, on one metric.

    Attributes:
        setting: as the first run names it.
        a, b: over the seeds of each.
        comparison: b − a, exploratory; None where there is none to make.
        note: why there is none, or what it leaves out.
    """

    setting: str
    metric: str
    a: Interval
    b: Interval
    comparison: Comparison | None
    note: str


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side; `a` came first on the command line.

    Attributes:
        settings: by the values of what either varies.
        seeds: by the seeds of all streams.
        training, probes: fields that differ, of what both have.
        measured: names of probes.
        code: modules whose code differs; `modules` those that only one uses.
        commits, data, versions, machines: what differs.
        tasks: those that both have, by column.
        results: settings of both.
    """

    settings: Shared
    seeds: Shared
    training: tuple[Difference, ...]
    probes: tuple[Difference, ...]
    measured: Shared
    code: tuple[Difference, ...]
    modules: Shared
    commits: tuple[Difference, ...]
    data: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    machines: tuple[Difference, ...]
    tasks: tuple[Remade, ...]
    results: tuple[ResultPair, ...]

    @property
    def differs(self) -> list[str]:
        """The parts in which the runs differ."""
        found = {
            "settings": bool(self.settings),
            "seeds": bool(self.seeds),
            "training": bool(self.training),
            "probes": bool(self.probes or self.measured),
            "code": bool(self.code or self.modules),
            "git": bool(self.commits),
            "data": bool(self.data),
            "versions": bool(self.versions),
            "machines": bool(self.machines),
            "results": any(t.different for t in self.tasks),
        }
        return [name for name, differs in found.items() if differs]

    def as_data(self) -> dict[str, Any]:
        """All of it as JSON can hold it; what is not finite as None."""
        return {"differs": self.differs, **_finite(asdict(self))}


def compare_runs(a: Study, b: Study, metrics: Sequence[str] = ()) -> RunComparison:
    """Two runs side by side.

    Args:
        metrics: whose results to compare, by their paths ("Lanczos.lambda_max"); by default that of the first study.

    Raises:
        InvalidValue: a metric is in neither of them.
    """
    made = [Made(a, "A"), Made(b, "B")]
    varied = list(dict.fromkeys(p for m in made for p in m.declared))
    where = [_settings_by_values(m, varied) for m in made]
    labels = [
        {values: m.study.settings[i].label for values, i in own.items()} for m, own in zip(made, where, strict=True)
    ]
    seeds = [{streams: name for name, streams in m.seeds.items()} for m in made]
    measured = [{c.name: frozenset({c.name}) for c in s.columns_of("probe", "pair", "group")} for s in (a, b)]
    return RunComparison(
        settings=_shared(*labels),
        seeds=_shared(*seeds),
        training=tuple(differences([m.fixed(varied) for m in made])),
        probes=tuple(differences([m.probes for m in made])),
        measured=_named(measured),
        code=tuple(differences([m.code for m in made])),
        # A probe that was skipped, or is not in one of them, is no difference of code.
        modules=_named([m.code_of(made[0].classes & made[1].classes) for m in made]),
        commits=tuple(differences([m.commits for m in made])),
        data=tuple(differences([m.data for m in made])),
        versions=tuple(differences([m.versions for m in made])),
        machines=tuple(differences([m.places for m in made])),
        tasks=tuple(_remade(*made)),
        results=tuple(_results(made, where, seeds, metrics)),
    )


def _settings_by_values(made: Made, varied: Sequence[str]) -> dict[str, int]:
    """Index by the values of what either study varies; the first of settings that have the same."""
    found: dict[str, int] = {}
    for setting in made.study.settings:
        values = {p: _number(v) for p, v in made.values_at(setting.index, varied).items()}
        found.setdefault(json.dumps(values, sort_keys=True, default=str), setting.index)
    return found


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _shared(a: Mapping[Any, str], b: Mapping[Any, str]) -> Shared:
    return Shared(
        tuple(name for key, name in a.items() if key in b),
        tuple(name for key, name in a.items() if key not in b),
        tuple(name for key, name in b.items() if key not in a),
    )


def _named(facts: Sequence[Mapping[str, frozenset[str]]]) -> Shared:
    both = tuple(n for n in facts[0] if n in facts[1])
    return Shared(both, tuple(only_in(facts, 0)), tuple(only_in(facts, 1)))


# Tasks of both


def _remade(a: Made, b: Made) -> Iterable[Remade]:
    own, other = _by_trials(a, b), _by_trials(b, a)
    found: dict[str, Remade] = {}
    for what, task in own.items():
        twin = other.get(what)
        if twin is None:
            continue
        was = found.get(task.column, Remade(task.column))
        counts = {"same": was.same, "identical": was.identical, "different": was.different}
        largest = dict(was.largest)
        if task.key == twin.key:
            counts["same"] += 1
        else:
            apart = _apart(a.study.results(task.key), b.study.results(twin.key))
            counts["different" if apart else "identical"] += 1
            for name, size in apart.items():
                largest[name] = max(size, largest.get(name, 0.0))
        found[task.column] = Remade(task.column, **counts, largest=largest)
    return [found[c] for c in a.study.columns if c in found]


def _by_trials(made: Made, other: Made) -> dict[Any, TaskRecord]:
    """The tasks that left an artifact, by what they measure and on which trials; two that are alike not at all.

    A trial is told by its training's fields, as far as trainings of both studies have them, and by its seeds.
    """
    common = {p for point in other.points.values() for p in point.fields}
    points = {
        index: json.dumps({p: v for p, v in point.fields.items() if p in common}, sort_keys=True, default=str)
        for index, point in made.points.items()
    }
    variants = {name: made.variant(column) for name, column in made.study.columns.items()}
    found: dict[Any, list[TaskRecord]] = {}
    for task in made.study.tasks.values():
        if task.state in COMMITTED and task.trials and all(s in points for s, _ in task.trials):
            trials = tuple(sorted((points[s], made.seeds[r]) for s, r in task.trials))
            found.setdefault((variants[task.column], trials), []).append(task)
    return {what: tasks[0] for what, tasks in found.items() if len(tasks) == 1}


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, float]:
    """By result how far two artifacts are apart, where they are; inf if that is no number."""
    found = {}
    for name in dict.fromkeys([*a, *b]):
        x, y = a.get(name), b.get(name)
        if x == y or (isinstance(x, float) and isinstance(y, float) and math.isnan(x) and math.isnan(y)):
            continue
        numbers = [v for v in (x, y) if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
        found[name] = abs(numbers[0] - numbers[1]) if len(numbers) == 2 else math.inf
    return found


# Results of settings


def _results(
    made: Sequence[Made],
    where: Sequence[Mapping[str, int]],
    seeds: Sequence[Mapping[Any, str]],
    metrics: Sequence[str],
) -> Iterable[ResultPair]:
    both = [(where[0][values], where[1][values]) for values in where[0] if values in where[1]]
    for path in metrics or [m.path for m in (made[0].study.main_metric,) if m is not None]:
        chosen = [_metric(m.study, path) for m in made]
        if not any(chosen):
            known = [m.path for s in made for m in s.study.headline("train", "probe")]
            raise InvalidValue(f"Neither run has a metric {path!r}{nearest(path, known)}.")
        if chosen[0] is None or chosen[1] is None:
            continue
        values = [values_of(m.study, metric) for m, metric in zip(made, chosen, strict=True) if metric is not None]
        summaries = [
            {s.settings[0]: s.interval for s in m.study.summaries(metric)}
            for m, metric in zip(made, chosen, strict=True)
            if metric is not None
        ]
        main = chosen[0].column.kind == "train" and chosen[0].name == made[0].study.metric
        mode: Mode | None = ("max" if made[0].study.mode == "max" else "min") if main else None
        for i, j in both:
            if i in summaries[0] and j in summaries[1]:
                comparison, note = _compared(made, chosen[0], chosen[1], values, (i, j), seeds, mode)
                label = made[0].study.settings[i].label
                yield ResultPair(label, path, summaries[0][i], summaries[1][j], comparison, note)


def _metric(study: Study, path: str) -> Metric | None:
    for column in study.columns_of("train", "probe"):
        for metric in study.metrics_of(column):
            if metric.path == path and study.is_numeric(metric):
                return metric
    return None


def _compared(
    made: Sequence[Made],
    first: Metric,
    second: Metric,
    values: Sequence[Values],
    pair: tuple[int, int],
    seeds: Sequence[Mapping[Any, str]],
    mode: Mode | None,
) -> tuple[Comparison | None, str]:
    """The second run's setting against the first's, as two settings of one study would be."""
    keys = [
        {t.key for t in m.study.of_column(metric.column.name) if t.trials and t.trials[0][0] == setting}
        for m, metric, setting in zip(made, (first, second), pair, strict=True)
    ]
    same = len(keys[0] & keys[1])
    if same:
        shared = "1 artifact is" if same == 1 else f"{same} artifacts are"
        return None, "the same artifacts" if keys[0] == keys[1] else f"{shared} in both, so there is no comparison"
    name_of = [{name: _seed_name(streams) for streams, name in own.items()} for own in seeds]
    joint = Values(
        first,
        {(k, name_of[k][r]): v for k in (0, 1) for (s, r), v in values[k].found.items() if s == pair[k]},
        {(k, name_of[k][r]): v for k in (0, 1) for (s, r), v in values[k].lost.items() if s == pair[k]},
        {k: tuple(name_of[k][r] for r in values[k].seeds[pair[k]]) for k in (0, 1)},
    )
    found = compare_values(joint, 1, 0, mode, 0.95)
    out = ", ".join(f"{n} {reason}" for reason, n in found.left_out.items())
    notes = [found.comparison.note, f"left out: {out}" if out else ""]
    return found.comparison, "; ".join(n for n in notes if n)


def _seed_name(streams: Sequence[tuple[str, int]]) -> str:
    return ",".join(f"{s}={v}" for s, v in streams)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
