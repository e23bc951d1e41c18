"""Tables of a study: a row a trial, a pair or a setting, and summaries over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, nearest
from .records import DONE, Metric, Summary, TaskRecord
from .store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from .inference import Compared
    from .study import Study

__all__ = [
    "all_tables",
    "comparisons",
    "export",
    "groups",
    "names",
    "pair_summary",
    "pairs",
    "summary",
    "trials",
    "verdicts",
    "write_tables",
]


def trials(study: Study) -> pa.Table:
    """One row a trial: setting, config.*, seed, <Task>.<metric>, status, key, notes.

    The metrics are those of the training and of the probes on one trial. A diverged trial keeps its
    row; `status` says so, and `notes` says which probes gave nothing and why.
    """
    probes: dict[tuple[int, str], list[TaskRecord]] = {}
    for column in study.columns_of("probe"):
        for task in study.of_column(column.name):
            probes.setdefault(task.trials[0], []).append(task)
    rows = []
    for column in study.columns_of("train"):
        for task in study.of_column(column.name):
            setting, seed = task.trials[0]
            on_it = probes.get(task.trials[0], [])
            row = {**setting_cells(study, setting), "seed": seed_cell(study, seed), **_cells(study, [task, *on_it])}
            row |= {"status": study.statuses[task.key], "key": task.key, "notes": _notes(study, [task, *on_it])}
            rows.append(row)
    first = ["setting", *_config_columns(study), "seed"]
    return _table(rows, [*first, *_metric_columns(study, "train", "probe"), "status", "key", "notes"])


def pairs(study: Study) -> pa.Table:
    """One row a pair of trials: setting_a, seed_a, setting_b, seed_b, <Task>.<metric>, status, notes."""
    return _joint_table(study, ("pair",), ["setting_a", "seed_a", "setting_b", "seed_b"])


def groups(study: Study) -> pa.Table:
    """One row a setting: setting, config.*, seeds, <Task>.<metric>, status, notes."""
    return _joint_table(study, ("group",), ["setting", *_config_columns(study), "seeds"])


def _joint_table(study: Study, kinds: tuple[str, ...], first: list[str]) -> pa.Table:
    by_trials: dict[tuple[tuple[int, str], ...], list[TaskRecord]] = {}
    columns = study.columns_of(*kinds)
    for column in columns:
        for task in study.of_column(column.name):
            by_trials.setdefault(task.trials, []).append(task)
    rows = []
    for about, tasks in by_trials.items():
        if kinds == ("pair",):
            row: dict[str, Any] = {}
            for side, (setting, seed) in zip("ab", about, strict=True):
                row |= {f"setting_{side}": study.settings[setting].label, f"seed_{side}": seed_cell(study, seed)}
        else:
            row = {**setting_cells(study, about[0][0]), "seeds": len(about)}
        row |= _cells(study, tasks)
        row |= {f"{t.column}.key": t.key for t in tasks}
        ended = {study.statuses[t.key] for t in tasks}
        row["status"] = DONE if ended == {DONE} else ", ".join(sorted(ended - {DONE}))
        row["notes"] = _notes(study, tasks)
        rows.append(row)
    keys = [f"{c.name}.key" for c in columns]
    return _table(rows, [*first, *_metric_columns(study, *kinds), "status", *keys, "notes"])


def summary(study: Study) -> pa.Table:
    """One row a setting and metric: n, mean, sd, bounds of the 95 % interval, min, max, what is missing.

    Means are over the tasks that ended well ("given survival"); `n_missing` and `missing` say how many
    are not in them and why. Beside them, where there are seeds enough: bounds of the mean by the studentised bootstrap
    (headlines, from 5), of the median and the inter-quartile mean (from 8); the seeds of the smallest and the largest
    value, and of the best and the worst where the sweep says which that is; how many trainings of the setting diverged,
    with the bounds of their share.
    """
    rows = []
    headlines = {m.path for m in study.headline("train", "probe")}
    room = MOST_BOOTSTRAPS
    for metric in _all_metrics(study, "train", "probe"):
        for s in study.summaries(metric):
            told = metric.path in headlines and room > 0
            room -= told
            setting = study.settings[s.settings[0]].label
            rows.append({"setting": setting, **_summary_cells(s), **_beside(study, s, bootstrap=told)})
    return _table(rows, ["setting", *_SUMMARY_CELLS, *_BESIDE])


def pair_summary(study: Study) -> pa.Table:
    """One row two settings and metric of a pair probe: the same, the interval by jackknife over seeds."""
    rows = []
    for metric in _all_metrics(study, "pair"):
        for s in study.summaries(metric):
            a, b = (study.settings[i].label for i in s.settings)
            rows.append({"setting_a": a, "setting_b": b, **_summary_cells(s)})
    return _table(rows, ["setting_a", "setting_b", *_SUMMARY_CELLS])


def names(study: Study) -> list[str]:
    """Which tables the study has: trials, summary, and those of pairs, groups, verdicts and comparisons if any."""
    found = ["trials", "summary"]
    found += ["pairs", "pair_summary"] if study.columns_of("pair") else []
    found += ["groups"] if study.columns_of("group") else []
    found += ["verdicts"] if study.findings.family else []
    return [*found, *(["comparisons"] if study.findings.exploratory else [])]


def all_tables(study: Study) -> dict[str, pa.Table]:
    """All tables by name (see `names`)."""
    make = {
        "trials": trials, "summary": summary, "pairs": pairs, "pair_summary": pair_summary, "groups": groups,
        "verdicts": verdicts, "comparisons": comparisons,
    }  # fmt: skip
    return {name: make[name](study) for name in names(study)}


def write_tables(study: Study, store: Store, run_path: str) -> list[str]:
    """Write the tables as parquet into the run's folder; returns their paths in the store."""
    import io

    import pyarrow.parquet as pq

    paths = []
    for name, table in all_tables(study).items():
        sink = io.BytesIO()
        pq.write_table(table, sink)
        paths.append(f"{run_path}/{name}.parquet")
        store.write(paths[-1], sink.getvalue())
    return paths


FORMATS = ("csv", "parquet", "latex")


def export(study: Study, folder: str | Path, format: str = "csv") -> list[Path]:
    """Write the tables into a local folder as "csv" or "parquet", or those of a paper as "latex"; returns the files.

    Raises:
        UserError: the format is unknown, or the folder cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"Tables are exported as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {format!r}"
                        f"{nearest(format, FORMATS)}.")  # fmt: skip
    target = Path(folder)
    files = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        if format == "latex":
            from .latex import latex_tables

            for name, text in latex_tables(study).items():
                files.append(target / f"{name}.tex")
                files[-1].write_text(text, encoding="utf-8")
            return files
        for name, table in all_tables(study).items():
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


def _all_metrics(study: Study, *kinds: str) -> list[Metric]:
    found = [m for c in study.columns_of(*kinds) for m in study.metrics_of(c)]
    return [m for m in found if study.is_numeric(m)]


def _metric_columns(study: Study, *kinds: str) -> list[str]:
    return [m.path for c in study.columns_of(*kinds) for m in study.metrics_of(c) if study.is_told(m)]


def _config_columns(study: Study) -> list[str]:
    return list(dict.fromkeys(f"config.{path}" for s in study.settings for path in s.config))


def setting_cells(study: Study, index: int) -> dict[str, Any]:
    """Label and parameters of a setting, by column."""
    setting = study.settings[index]
    return {"setting": setting.label, **{f"config.{path}": v for path, v in setting.config.items()}}


def seed_cell(study: Study, label: str) -> int | str:
    """A seed as the tables have it: a number where all are."""
    return int(label) if all(r.isdecimal() for r in study.replicates) else label


def _cells(study: Study, tasks: Iterable[TaskRecord]) -> dict[str, Any]:
    return {f"{t.column}.{name}": v for t in tasks for name, v in study.results(t.key).items()}


def _notes(study: Study, tasks: Iterable[TaskRecord]) -> str:
    not_done = [t for t in tasks if study.statuses[t.key] != DONE]
    return "; ".join(f"{t.column} {study.statuses[t.key]}: {study.reason(t.key)}" for t in not_done)


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


MOST_BOOTSTRAPS = 2000
"""Summaries with a bootstrap, at most: each takes a millisecond."""

_BESIDE = (
    "bootstrap_low", "bootstrap_high", "median_low", "median_high", "iqm", "iqm_low", "iqm_high",
    "min_seed", "max_seed", "best_seed", "worst_seed", "diverged", "trainings", "diverged_low", "diverged_high",
)  # fmt: skip


def _beside(study: Study, s: Summary, *, bootstrap: bool) -> dict[str, Any]:
    boot, median, iqm = s.bootstrap if bootstrap else None, s.median_interval, s.interquartile_mean
    ends = [None if seed is None else seed_cell(study, seed) for seed in map(s.extreme_seed, (False, True))]
    mode = study.mode_of(s.metric)
    best = [None, None] if mode is None else ends[::-1] if mode == "max" else ends
    share = study.diverged[s.settings[0]]
    cells = (
        boot and boot.low, boot and boot.high, median and median.low, median and median.high,
        iqm and iqm.value, iqm and iqm.low, iqm and iqm.high, *ends, *best, share.k, share.n, share.low, share.high,
    )  # fmt: skip
    return dict(zip(_BESIDE, cells, strict=True))


_COMPARED = (
    "setting_a", "setting_b", "metric", "design", "n_a", "n_b", "diverged_a", "diverged_b", "mean_a", "mean_b",
    "difference", "sd", "low", "high", "p", "p_exact", "smallest_p", "exact_test",
    "effect", "effect_low", "effect_high", "effect_name",
    "improvement", "improvement_low", "improvement_high", "seeds", "left_out", "note", "sentence",
)  # fmt: skip
_VERDICT = (
    "decision", "decided_by", "p_holm", "p_exact_holm", "together_low", "together_high", "margin", "p_equivalence",
    "within_margin",
)  # fmt: skip


def verdicts(study: Study) -> pa.Table:
    """One row a contrast of the declared family: what was decided, and the figures behind it.

    `low` and `high` are of the contrast's own interval, `together_low` and `together_high` of the simultaneous one that
    agrees with the decision.
    """
    rows = []
    for c in study.findings.family:
        v = c.verdict
        if v is not None:
            cells = (
                v.decision, v.test, v.p_holm, v.p_exact_holm, v.low, v.high, study.declared.margin, v.p_equivalence,
                v.within_margin,
            )  # fmt: skip
            rows.append({**_compared_cells(study, c), **dict(zip(_VERDICT, cells, strict=True))})
    return _table(rows, [*_COMPARED[:3], *_VERDICT, *_COMPARED[3:]])


def comparisons(study: Study) -> pa.Table:
    """One row a comparison that was not declared: exploratory, without any correction."""
    return _table([_compared_cells(study, c) for c in study.findings.exploratory], _COMPARED)


def _compared_cells(study: Study, found: Compared) -> dict[str, Any]:
    a, b = (study.settings[i].label for i in (found.a, found.b))
    c, effect, better = found.comparison, found.comparison.effect, found.improvement
    left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(found.left_out.items()))
    cells = (
        a, b, found.metric.path, c.design, c.n_a, c.n_b, c.diverged_a, c.diverged_b, c.mean_a, c.mean_b, c.difference,
        c.sd, c.low, c.high, c.p, c.p_exact, c.smallest_p, c.exact_test,
        effect and effect.value, effect and effect.low, effect and effect.high, effect.name if effect else None,
        better and better.share, better and better.low, better and better.high,
        ", ".join(found.seeds), left_out, c.note, found.sentence,
    )  # fmt: skip
    return dict(zip(_COMPARED, cells, strict=True))


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


_TEXTS = {
    "setting", "setting_a", "setting_b", "status", "key", "notes", "metric", "method", "note", "missing", "design",
    "exact_test", "effect_name", "seeds", "left_out", "sentence", "decision", "decided_by",
}  # fmt: skip
