"""A study in a notebook: its tables as DataFrames, its curves, its artifacts, by the values of its settings."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import tables
from .artifact import StoredArtifact
from .errors import InvalidValue, StoreError, nearest
from .records import COMMITTED, DONE, Column, SettingRecord, TaskRecord
from .store import Store
from .study import Study

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OpenStudy", "open_study"]


def open_study(uri: str, sweep: str | Sequence[str] | None = None, run: str | None = None) -> OpenStudy:
    """See `orchestrator.open`."""
    from .combine import combine, names_of

    if sweep is None or isinstance(sweep, str):
        study, _, _ = _load(uri, sweep, run)
        return OpenStudy.of(study)
    if run is not None:
        raise InvalidValue(f"run={run!r} is about one of several sweeps: write SWEEP/{run} for that one.")
    found = [_load(uri, text, None) for text in sweep]
    names = names_of([s.sweep for s, _, _ in found], [path for _, path, _ in found], [str(st) for _, _, st in found])
    return OpenStudy.of(combine([s for s, _, _ in found], names))


def _load(uri: str, sweep: str | None, run: str | None) -> tuple[Study, str, Store]:
    """The study of a run, the run's name, its store."""
    from .runs import RunName, find_run, load, run_name

    name = run_name(sweep) if sweep else RunName(None)
    store = Store(name.store or uri)
    store.check_format()
    if store.local is not None and not store.local.is_dir():
        raise StoreError(f"There is no store at {name.store or uri!r}: no such folder ({store.local}).")
    path = find_run(store, name.sweep, run or name.run)
    return load(store, path), path.rpartition("/")[2], store


class OpenStudy(Study):
    """A study with its tables as DataFrames and its artifacts at hand.

    Everything that a report says can be had here, and whatever takes a `Study` takes this
    (`orchestrator.plots`). Nothing is read before it is asked for; what was read is kept.
    """

    @classmethod
    def of(cls, study: Study) -> OpenStudy:
        """The same study, opened; of runs taken together, each artifact still comes from its own store."""
        opened = cls.__new__(cls)
        opened.__dict__.update(study.__dict__)
        opened._read_from = study
        return opened

    _read_from: Study

    def store_of(self, key: str) -> Store:
        return self._read_from.store_of(key)

    # Tables

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: setting, config.*, seed, <Task>.<metric>, status, key, notes."""
        return tables.trials(self).to_pandas()

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a setting and metric: n, mean, sd, bounds of the interval, what is missing and why."""
        return tables.summary(self).to_pandas()

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row a pair of trials; empty where the study has no pair probes."""
        return tables.pairs(self).to_pandas()

    @cached_property
    def pair_summary(self) -> pd.DataFrame:
        """One row two settings and metric of a pair probe, with the jackknife interval over seeds."""
        return tables.pair_summary(self).to_pandas()

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row a setting, with what was measured on all its seeds together."""
        return tables.groups(self).to_pandas()

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row a comparison that was declared beforehand, with its verdict; empty where none was."""
        return tables.verdicts(self).to_pandas()

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One row a comparison that nobody declared: exploratory, with p-values that are not corrected."""
        return tables.comparisons(self).to_pandas()

    def curves(self, column: str, file: str | None = None) -> pd.DataFrame:
        """What a training or probe recorded along an axis, one row a point: epochs of a history, steps along a slice.

        Columns: setting, config.*, seed (of pairs both sides), status, key; the abscissa; of several curves in one
        array which one, from 0 on ("curve", or what the probe calls them); and every array of the file that has a
        value for each point.

        Args:
            column: "Train", "Lanczos", as tables name it.
            file: which of its files, "random"; None for the first that there is.

        Raises:
            InvalidValue: there is no such column or file.
            DamagedArtifact: a file is not what was committed.
        """
        import pandas as pd

        found = self._column(column)
        axes = {str(c["file"]): c for c in reversed(found.curves)}
        left = [(t, self.manifest(t.key)["files"]) for t in self.of_column(found.name) if t.state in COMMITTED]
        files = [
            f for f in dict.fromkeys(str(c["file"]) for c in found.curves) if any(f"{f}.npz" in n for _, n in left)
        ]
        if not files:
            raise InvalidValue(f"{column} has recorded no curves.")
        name = file or files[0]
        if name not in files:
            raise InvalidValue(f"{column} has no curves {name!r}{nearest(name, files)}; it has {', '.join(files)}.")
        parts = []
        for task, names in left:
            if f"{name}.npz" in names:
                frame = _points(self.artifact(task.key), axes[name])
                about = {**self._about(task), "status": self.statuses[task.key], "key": task.key}
                for place, (label, value) in enumerate(about.items()):
                    frame.insert(place, label, [value] * len(frame))
                parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def _about(self, task: TaskRecord) -> dict[str, Any]:
        """Setting and seed of a task as the tables have them."""
        if task.kind == "pair":
            return {
                f"{what}_{side}": value
                for side, (s, r) in zip("ab", task.trials, strict=True)
                for what, value in (("setting", self.settings[s].label), ("seed", tables.seed_cell(self, r)))
            }
        if not task.trials:
            return {}
        setting, replicate = task.trials[0]
        cells = tables.setting_cells(self, setting)
        return {**cells, "seed": tables.seed_cell(self, replicate)} if task.kind != "group" else cells

    # Selection

    def select(self, **values: Any) -> pd.DataFrame:
        """The rows of `trials` with these values: `study.select(rho=0.05, seed=3)`.

        Args:
            values: of parameters by their short name or path, of "setting" (its label or index), of "seed".

        Raises:
            InvalidValue: the study varies no such parameter, or no setting has the value.
        """
        seed = values.pop("seed", None)
        labels = {s.label for s in self._matching(values)}
        chosen = self.trials["setting"].isin(labels)
        if seed is not None:
            chosen &= self.trials["seed"].astype(str) == self._replicate(seed)
        return self.trials[chosen]

    def artifact(self, what: str, /, *, seed: Any = None, **values: Any) -> StoredArtifact:
        """One artifact, by its key or the beginning of it, or by column, setting and seed.

        `study.artifact("782c35b8")`, `study.artifact("Lanczos", rho=0.05, seed=3)`,
        `study.artifact("Interpolation", setting=("rho=0", "rho=0.1"), seed=(0, 0))`.

        Args:
            what: a key, or "Train", "Lanczos", as tables name it.
            seed: of a pair both, in the order of the table `pairs`.
            values: as for `select`; of a pair of one setting its values, of two `setting=(a, b)`.

        Raises:
            InvalidValue: there is none, or several.
            StoreError: the task left no artifact; the sentence says why.
        """
        if what in self.columns:
            task = self._task(what, seed, values)
        else:
            alike = [t for key, t in self.tasks.items() if key.startswith(what)] if what else []
            if len(alike) != 1:
                many = f"is the beginning of {len(alike)} keys: give more of it" if alike else "is neither a key nor"
                names = "" if alike else f" a column of this study{nearest(what, self.columns) or self._names()}"
                raise InvalidValue(f"{what!r} {many}{names}.")
            if seed is not None or values:
                raise InvalidValue(f"{what!r} is a key, which names an artifact alone: leave out setting and seed.")
            task = alike[0]
        if task.state not in COMMITTED:
            raise StoreError(f"{task.label} left no artifact: {self.reason(task.key)}.")
        known = {t.key: t.name for t in self.tasks.values()}
        return StoredArtifact(self.store_of(task.key), task, self.manifest(task.key), known)

    def _task(self, column: str, seed: Any, values: Mapping[str, Any]) -> TaskRecord:
        tasks = self.of_column(column)
        kind = self.columns[column].kind
        if kind == "pair":
            sides = values.get("setting")
            if isinstance(sides, (tuple, list)) and len(sides) == 2:
                ends = [self._matching({**values, "setting": side}) for side in sides]
            else:
                ends = [self._matching(values)] * 2
            a, b = ({s.index for s in end} for end in ends)
            tasks = [t for t in tasks if t.trials[0][0] in a and t.trials[1][0] in b]
            if seed is not None:
                both = list(seed) if isinstance(seed, (tuple, list)) else [seed, seed]
                wanted = [self._replicate(s) for s in both]
                tasks = [t for t in tasks if [r for _, r in t.trials] == wanted]
        else:
            if values:
                chosen = {s.index for s in self._matching(values)}
                tasks = [t for t in tasks if any(s in chosen for s, _ in t.trials)]
            if seed is not None:
                wanted_seed = self._replicate(seed)
                tasks = [t for t in tasks if any(r == wanted_seed for _, r in t.trials)]
        if len(tasks) != 1:
            asked = {**values, **({} if seed is None else {"seed": seed})}
            words = ", ".join(f"{k}={v!r}" for k, v in asked.items())
            many = f"{len(tasks)} artifacts of {column}" if tasks else f"no artifact of {column}"
            more = f" (such as {tasks[0].label} and {tasks[1].label}): say more of setting and seed" if tasks else ""
            raise InvalidValue(f"There {'are' if tasks else 'is'} {many} with {words or 'nothing asked for'}{more}.")
        return tasks[0]

    def _matching(self, values: Mapping[str, Any]) -> list[SettingRecord]:
        """The settings with these values of parameters, by short name, path, "setting" or "study"."""
        left = self.settings
        for name, value in values.items():
            if name == "setting":
                kept = [s for s in left if value == s.label or value == s.index]
                known: Iterable[Any] = [s.label for s in left]
            else:
                path = self._parameter(name)
                kept = [s for s in left if path in s.config and _equal(s.config[path], value)]
                known = dict.fromkeys(s.config[path] for s in left if path in s.config)
            if not kept:
                choices = [str(k) for k in known]
                hint = nearest(str(value), choices) if isinstance(value, str) else ""
                raise InvalidValue(f"No setting has {name}={value!r}{hint}; there is {', '.join(choices[:12])}.")
            left = kept
        return list(left)

    def _parameter(self, name: str) -> str:
        """The path of a parameter that one may name by its path or its short name."""
        paths = dict.fromkeys(p for s in self.settings for p in s.config)
        short = {p: n for s in self.settings for p, n in s.names.items()}
        found = [p for p in paths if name in (p, short.get(p)) or p.endswith(f".{name}")]
        exact = [p for p in found if name in (p, short.get(p))]
        if len(exact or found) != 1:
            names = ["setting", "seed", *short.values()]
            if found:
                raise InvalidValue(f"{name!r} may be {' or '.join(found)}: give the path, as in **{{{found[0]!r}: …}}.")
            raise InvalidValue(
                f"This study varies no {name!r}{nearest(name, names)}; it knows {', '.join(dict.fromkeys(names))}."
            )
        return (exact or found)[0]

    def _replicate(self, seed: Any) -> str:
        if str(seed) not in self.replicates:
            raise InvalidValue(
                f"The study has no seed {seed!r}{nearest(str(seed), self.replicates)}; it has "
                f"{', '.join(self.replicates[:12])}{', …' if len(self.replicates) > 12 else ''}."
            )
        return str(seed)

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise InvalidValue(f"This study has no {name!r}{nearest(name, self.columns) or self._names()}.")
        return self.columns[name]

    def _names(self) -> str:
        return f"; it has {', '.join(self.columns)}"

    # In a notebook

    def __repr__(self) -> str:
        return f"<study {self.sweep}: {self._size()}>"

    def _size(self) -> str:
        counts = self.counts()
        rest = "".join(f", {n} {status}" for status, n in counts.items() if status != DONE)
        return (
            f"{len(self.settings)} settings × {len(self.replicates)} seeds, {len(self.tasks)} tasks: "
            f"{counts.get(DONE, 0)} done{rest}"
        )

    def _repr_html_(self) -> str:
        question, _, _ = self.question.partition("\n\n")
        top = "".join(f"<p>{html.escape(text)}</p>" for text in (*self.remarks, self.findings.answer))
        told = self.verdicts[["setting_a", "setting_b", "difference", "together_low", "together_high", "p_holm",
                              "decision"]]  # fmt: skip
        table = told.to_html(index=False, float_format="{:.4g}".format, na_rep="–") if len(told) else ""
        return (
            f"<h4>{html.escape(question or self.sweep)}</h4>"
            f"<p><code>{html.escape(self.sweep)}</code>: {html.escape(self._size())}</p>{top}{table}"
        )


def _equal(stored: Any, asked: Any) -> bool:
    if isinstance(stored, bool) or isinstance(asked, bool):
        return stored is asked
    if isinstance(stored, (int, float)) and isinstance(asked, (int, float)):
        return math.isclose(stored, asked, rel_tol=1e-9)
    return str(stored) == str(asked)


def _points(artifact: StoredArtifact, curve: Mapping[str, Any]) -> pd.DataFrame:
    """The arrays of an npz file that have a value for each abscissa, shape (n,) or (m, n), as m·n rows."""
    import numpy as np
    import pandas as pd

    file = f"{curve['file']}.npz"
    arrays = {name: artifact.array(file, name) for name in artifact.arrays(file)}
    x = arrays.pop(curve["x"], None)
    if x is None or x.ndim != 1:
        raise InvalidValue(f"{file} of {artifact.label} has no abscissa {curve['x']!r}.")
    n = len(x)
    flat = {k: v for k, v in arrays.items() if v.shape == (n,)}
    several = {k: v for k, v in arrays.items() if v.ndim == 2 and v.shape[1] == n}
    m = max((len(v) for v in several.values()), default=1)
    columns: dict[str, Sequence[Any] | np.ndarray] = {curve["x"]: np.tile(x, m)}
    if several:
        columns[str(curve.get("each") or "curve").replace(" ", "_")] = np.repeat(np.arange(m), n)
    columns |= {k: np.tile(v, m) for k, v in flat.items()}
    columns |= {k: v.reshape(-1) for k, v in several.items() if len(v) == m}
    return pd.DataFrame(columns)
