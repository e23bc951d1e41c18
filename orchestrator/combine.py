"""Several runs taken together as one study, whatever stores they lie in.

Settings are the same where their trainings are the same tasks but for the seeds (class, fields, data and code): then
their seeds are put together. An artifact that several runs have counts once. All else is kept apart and named by its
run, and what the runs differ in is said in `Study.remarks`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from .differences import Made, differences, in_words
from .errors import InvalidValue
from .records import COMMITTED, FORMAT, Column, TaskRecord
from .store import Store
from .study import Study

__all__ = ["CombinedStudy", "combine", "names_of"]

STUDY = "study"
"""The parameter that tells settings of different runs apart where no swept parameter does."""

LISTED = 8
"""How many differences a remark lists."""


class CombinedStudy(Study):
    """Runs taken together; each artifact is read from the store of a run that has it."""

    def __init__(self, studies: Sequence[Study], record: Mapping[str, Any], stores: Mapping[str, Store]) -> None:
        super().__init__(studies[0].store, record)
        self._stores = dict(stores)

    def store_of(self, key: str) -> Store:
        return self._stores.get(key, self.store)


def combine(studies: Sequence[Study], names: Sequence[str] = (), *, command: str = "") -> Study:
    """One study of all that these hold.

    Args:
        names: what to call them (see `names_of`); by default their sweeps' names.
        command: what was typed to take them together.

    Raises:
        InvalidValue: no study is given.
    """
    if not studies:
        raise InvalidValue("There is no run to take together with another: name at least one.")
    if len(studies) == 1:
        return studies[0]
    return _Combination(studies, names or names_of([s.sweep for s in studies])).study(command)


def names_of(sweeps: Sequence[str], runs: Sequence[str] = (), stores: Sequence[str] = ()) -> list[str]:
    """As short names as tell runs apart: the sweep's; that of the run, as far as need be; that of the store."""
    numbers = [f"#{i + 1}" for i in range(len(sweeps))]
    parts = [list(sweeps), *([_cut(runs)] if runs else []), *([_last(stores)] if stores else []), numbers]
    names = [""] * len(sweeps)
    for part in parts:
        counts = Counter(names)
        if len(set(part)) > 1:  # what all share tells nothing
            names = [n if n and counts[n] == 1 else f"{n} {p}".strip() for n, p in zip(names, part, strict=True)]
    return names if all(names) else list(sweeps)


def _cut(runs: Sequence[str]) -> list[str]:
    """The beginnings of runs' names, to the day, the minute or the second, that tell apart what is not the same."""
    for length in (10, 16, 19):
        if len({r[:length] for r in runs}) == len(set(runs)):
            return [r[:length] for r in runs]
    return list(runs)


def _last(stores: Sequence[str]) -> list[str]:
    """The last parts of stores' addresses, if these tell them apart."""
    ends = [s.rstrip("/").rpartition("/")[2] for s in stores]
    return ends if len(set(ends)) == len(set(stores)) else list(stores)


class _Combination:
    def __init__(self, studies: Sequence[Study], names: Sequence[str]) -> None:
        self.studies = list(studies)
        self.names = list(names)
        self.made = [Made(s, n) for s, n in zip(studies, names, strict=True)]
        self.varied = list(dict.fromkeys(p for m in self.made for p in m.declared))
        self.kinds = self._kinds()
        self.place, self.members = self._merged_settings()
        self.labels, self.seeds = self._merged_seeds()

    def study(self, command: str) -> Study:
        columns, column_of = self._columns()
        tasks, stores = self._tasks(column_of)
        first = self.studies[0]
        record = {
            "format": FORMAT,
            "sweep": " + ".join(dict.fromkeys(s.sweep for s in self.studies)),
            "question": self._question(),
            "metric": first.metric,
            "mode": first.mode,
            "settings": self._settings(),
            "replicates": list(self.seeds),
            "columns": [_plain(asdict(c)) for c in columns],
            "tasks": [_plain(asdict(t)) for t in tasks],
            "run": {
                "started": max(float(s.run.get("started") or 0) for s in self.studies),
                "seconds": 0.0,
                "startup": 0.0,
                "slots": 0,
                "interrupted": any(s.run.get("interrupted") for s in self.studies),
                "command": "",
                "commands": list(dict.fromkeys(c for s in self.studies if (c := str(s.run.get("command") or "")))),
                "report": command,
                "left_out": [],
            },
        }
        if all(s.seeds for s in self.studies):
            record["seeds"] = [dict(seeds) for seeds in self.seeds.values()]
        record["declared"], shared = self._declared(column_of)
        record["remarks"] = self._remarks(tasks, shared)
        return CombinedStudy(self.studies, record, stores)

    def _question(self) -> str:
        questions = list(dict.fromkeys(s.question.partition("\n\n")[0] for s in self.studies if s.question))
        if len(questions) == 1:
            return self.studies[0].question
        return " · ".join(questions)

    # Settings

    def _kinds(self) -> list[str]:
        """By study, the name of those that differ in nothing but swept parameters and seeds."""
        facts: list[dict[Any, frozenset[str]]] = []
        for made in self.made:
            own: dict[Any, frozenset[str]] = dict(made.fixed(self.varied))
            code: dict[Any, set[str]] = {}
            for point in made.points.values():
                data = json.dumps({p: v for p, v in point.fields.items() if p.startswith("train.dataset")}, default=str)
                code.setdefault(("data", data), set()).add(json.dumps(point.inputs))
                for module, digest in point.code.items():
                    code.setdefault(("code", module), set()).add(digest)
            facts.append(own | {name: frozenset(values) for name, values in code.items()})
        groups: list[list[int]] = []
        for i, own in enumerate(facts):
            alike = (g for g in groups if all(_agree(own, facts[j]) for j in g))
            group = next(alike, None)
            if group is None:
                groups.append([i])
            else:
                group.append(i)
        by_study = {i: ", ".join(dict.fromkeys(self.names[j] for j in g)) for g in groups for i in g}
        return [by_study[i] for i in range(len(facts))]

    def _merged_settings(self) -> tuple[dict[tuple[int, int], int], list[list[tuple[int, int]]]]:
        """The index of every setting in the whole, by (study, index there); and which these are."""
        known: dict[Any, int] = {}
        place: dict[tuple[int, int], int] = {}
        members: list[list[tuple[int, int]]] = []
        for i, made in enumerate(self.made):
            keys: dict[int, list[str]] = {}
            for task in made.study.tasks.values():
                if task.kind == "train":
                    keys.setdefault(task.trials[0][0], []).append(task.key)
            for setting in made.study.settings:
                point = made.points.get(setting.index)
                # A training without an artifact may still be known by its key.
                ids = [point.identity] if point else []
                ids += keys.get(setting.index, [])
                index = next((known[name] for name in ids if name in known), None)
                if index is None:
                    index = len(members)
                    members.append([])
                known |= dict.fromkeys(ids, index)
                place[i, setting.index] = index
                members[index].append((i, setting.index))
        return place, members

    def _settings(self) -> list[dict[str, Any]]:
        from .sweep import short_name, show

        told = [self._told(group) for group in self.members]
        paths = list(dict.fromkeys(p for values in told for p in values))
        spread = [p for p in paths if len({json.dumps(v.get(p), default=str) for v in told}) > 1]
        found = []
        for index, (group, values) in enumerate(zip(self.members, told, strict=True)):
            study, own = group[0]
            setting = self.studies[study].settings[own]
            names = {p: STUDY if p == STUDY else short_name(p, dict.fromkeys(paths)) for p in values}
            more = [
                f"{names[p]}={show(values[p])}" for p in spread if p in values and p not in (*setting.config, STUDY)
            ]
            known = [setting.label] if setting.label != "default" else []
            label = ", ".join([*known, *more]) or setting.label
            if STUDY in spread and STUDY in values:
                label = f"{values[STUDY]}: {label}"
            found.append({"index": index, "label": label, "config": values, "names": names})
        counts = Counter(s["label"] for s in found)
        for s in found:
            if counts[s["label"]] > 1:
                s["label"] = f"{s['label']} (#{s['index']})"
        return found

    def _told(self, group: Sequence[tuple[int, int]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for study, index in group:
            values = {**self.made[study].values_at(index, self.varied), **values}
        if len(set(self.kinds)) > 1:
            values[STUDY] = ", ".join(dict.fromkeys(self.kinds[study] for study, _ in group))
        return values

    # Seeds

    def _merged_seeds(self) -> tuple[dict[tuple[int, str], str], dict[str, Mapping[str, int]]]:
        """Labels in the whole by (study, label there), and the seeds of every label."""
        label_of: dict[tuple[tuple[str, int], ...], str] = {}
        place: dict[tuple[int, str], str] = {}
        for i, made in enumerate(self.made):
            for label, seeds in made.seeds.items():
                if seeds not in label_of:
                    taken = label in label_of.values()
                    label_of[seeds] = ",".join(f"{s}={v}" for s, v in seeds) if taken else label
                place[i, label] = label_of[seeds]
        seeds_of: dict[str, Mapping[str, int]] = {label: dict(seeds) for seeds, label in label_of.items()}
        if all(label.isdecimal() for label in seeds_of):
            seeds_of = dict(sorted(seeds_of.items(), key=lambda item: int(item[0])))
        return place, seeds_of

    # Columns and tasks

    def _columns(self) -> tuple[list[Column], dict[tuple[int, str], str]]:
        """The columns of the whole, and their names by (study, name there).

        Columns of one measurement are one, unless two different artifacts would be about the same trials.
        """
        whole: list[tuple[str, list[tuple[int, Column]], dict[Any, str]]] = []
        for i, made in enumerate(self.made):
            for column in made.study.columns.values():
                variant = made.variant(column)
                about = {self._about(i, t): t.key for t in made.study.of_column(column.name) if t.trials}
                for same, members, filled in whole:
                    if same == variant and all(filled.get(a, key) == key for a, key in about.items()):
                        members.append((i, column))
                        filled.update(about)
                        break
                else:
                    whole.append((variant, [(i, column)], about))
        names = self._column_names([members for _, members, _ in whole])
        columns: list[Column] = []
        place: dict[tuple[int, str], str] = {}
        for name, (_, members, _) in zip(names, whole, strict=True):
            first = members[0][1]
            metrics = {k: v for _, c in reversed(members) for k, v in c.metrics.items()}
            columns.append(replace(first, name=name, metrics=metrics))
            place |= {(i, c.name): name for i, c in members}
        return columns, place

    def _about(self, study: int, task: TaskRecord) -> Any:
        """The trials of a task in the whole; of one about all seeds of a setting that setting."""
        trials = self._trials(study, task)
        return trials[0][0] if task.kind == "group" else tuple(sorted(trials))

    def _trials(self, study: int, task: TaskRecord) -> tuple[tuple[int, str], ...]:
        return tuple((self.place[study, s], self.labels[study, r]) for s, r in task.trials)

    def _column_names(self, columns: Sequence[Sequence[tuple[int, Column]]]) -> list[str]:
        """Their own names; where two have the same, with the fields that tell them apart, or with their study's."""
        names = [members[0][1].name for members in columns]
        for name in [n for n, count in Counter(names).items() if count > 1]:
            alike = [k for k, n in enumerate(names) if n == name]
            fields = [self.made[i].fields_of(c) for i, c in (columns[k][0] for k in alike)]
            apart = [p for p in dict.fromkeys(p for f in fields for p in f) if len({str(f.get(p)) for f in fields}) > 1]
            told = [", ".join(f"{p}={in_words([f[p]])}" for p in apart if p in f) for f in fields]
            if len(apart) > 3 or len(set(told)) < len(told):
                told = [self.names[columns[k][0][0]] for k in alike]
            for k, words in zip(alike, told, strict=True):
                task = columns[k][0][1].task
                names[k] = f"{task}({words})" if words else task
        return names_of(names)

    def _tasks(self, column_of: Mapping[tuple[int, str], str]) -> tuple[list[TaskRecord], dict[str, Store]]:
        found: dict[str, TaskRecord] = {}
        stores: dict[str, Store] = {}
        for i, study in enumerate(self.studies):
            for task in study.tasks.values():
                mine = replace(task, column=column_of[i, task.column], trials=self._trials(i, task))
                known = found.get(task.key)
                if known is None or _rank(mine) < _rank(known):
                    found[task.key] = mine if known is None else replace(mine, column=known.column)
                if task.state in COMMITTED:
                    stores.setdefault(task.key, study.store_of(task.key))
        order = {"data": 0, "train": 1}
        tasks = sorted(found.values(), key=lambda t: order.get(t.kind, 2))  # inputs first, else as they stood
        # Nothing ran for this: a timeline of several runs, with nights between them, would show nothing.
        tasks = [replace(t, state="stored") if t.state == "done" else t for t in tasks]
        made_since = {t.key for t in tasks if t.state in COMMITTED}
        return [
            replace(t, state="not run", because=None) if t.state == "skipped" and t.because in made_since
            and not self._diverged(str(t.because)) else t
            for t in tasks
        ], stores  # fmt: skip

    def _diverged(self, key: str) -> bool:
        holder = next(s for s in self.studies if key in s.tasks and s.tasks[key].state in COMMITTED)
        return holder.status(key) == "diverged"

    # What was declared, and what is to be said

    def _declared(self, column_of: Mapping[tuple[int, str], str]) -> tuple[dict[str, Any], bool]:
        """What is declared for the whole, and whether that is a family which all studies declared alike."""
        told = [self._in_the_whole(i, column_of) for i in range(len(self.studies))]
        first = told[0]
        if first["contrasts"] and all(d == first for d in told):
            return first, True
        note = "no comparison was declared for these runs taken together"
        if any(d["contrasts"] for d in told):
            note += ", and the verdicts on what each of them declared are in its own report"
        effect = (
            first["smallest_effect"] if all(d["smallest_effect"] == first["smallest_effect"] for d in told) else None
        )
        nothing = {"baseline": None, "contrasts": [], "margin": None, "smallest_effect": effect, "notes": [note]}
        return {**first, **nothing}, False

    def _in_the_whole(self, study: int, column_of: Mapping[tuple[int, str], str]) -> dict[str, Any]:
        declared = self.studies[study].declared
        place = {s: self.place[study, s] for s in range(len(self.studies[study].settings))}
        column, _, metric = declared.primary.rpartition(".")
        return _plain(
            {
                **asdict(declared),
                "primary": f"{column_of.get((study, column), column)}.{metric}",
                "baseline": None if declared.baseline is None else place[declared.baseline],
                "contrasts": [[place[a], place[b]] for a, b in declared.contrasts],
            }
        )

    def _remarks(self, tasks: Sequence[TaskRecord], declared: bool) -> list[str]:
        sizes = [
            f"{m.name} ({len(m.study.settings)} settings × {len(m.study.replicates)} seeds, {len(m.study.tasks)} tasks)"
            for m in self.made
        ]
        shared = sum(len(s.tasks) for s in self.studies) - len(tasks)
        more_than_one = "task is in more than one and counts" if shared == 1 else "tasks are in more than one and count"
        once = f" {shared} {more_than_one} once." if shared else ""
        remarks = [f"{len(sizes)} runs taken together: {'; '.join(sizes)}.{once}"]
        several = [g for g in self.members if len(g) > 1]
        seeds = self._seeds_by_setting()
        more = [g for g in several if len({frozenset(seeds.get(part, ())) for part in g}) > 1]
        if several:
            are = "setting is" if len(several) == 1 else "settings are"
            grown = "; their seeds are put together here" if more else ""
            remarks.append(f"{len(several)} of {len(self.members)} {are} in more than one run{grown}.")
        remarks += [f"{m.name}: {remark}" for m in self.made for remark in m.study.remarks]
        metrics = [f"{m.study.declared.primary} ({m.study.declared.mode})" for m in self.made]
        if len(set(metrics)) > 1:
            words = "; ".join(f"{m.name} {metric}" for m, metric in zip(self.made, metrics, strict=True))
            remarks.append(f"The runs have different primary metrics ({words}): here {metrics[0]} counts.")
        for what, facts in (
            ("fields of the training", [m.fixed(self.varied) for m in self.made]),
            ("fields of probes", [m.probes for m in self.made]),
            ("code", [m.code for m in self.made]),
            ("data", [m.data for m in self.made]),
            ("versions", [m.versions for m in self.made]),
            ("machines", [m.places for m in self.made]),
        ):
            found = differences(facts)
            if found:
                listed = "; ".join(self._told_apart(what, d.name, d.values) for d in found[:LISTED])
                rest = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
                remarks.append(f"The runs differ in {what}: {listed}{rest}.")
        if len(set(self.kinds)) > 1:
            remarks.append(
                "Settings of runs that differ in more than swept parameters and seeds are kept apart and named by "
                "their run. A difference between such settings may come from anything named here."
            )
        remarks.append(
            "Comparisons that all the runs declare stand here with the seeds of all of them together."
            if declared
            else "Settings of different runs are paired by the seeds that both have, where that is two or more, and no "
            "comparison of them was declared beforehand."
        )
        return remarks

    def _told_apart(self, what: str, name: str, values: Sequence[Sequence[Any]]) -> str:
        if what in ("code", "data"):
            return name
        words = ", ".join(f"{in_words(v)} ({self.names[i]})" for i, v in enumerate(values) if v)
        return f"{name} {words}"

    def _seeds_by_setting(self) -> dict[tuple[int, int], set[str]]:
        found: dict[tuple[int, int], set[str]] = {}
        for i, study in enumerate(self.studies):
            for task in study.tasks.values():
                if task.kind == "train":
                    setting, label = task.trials[0]
                    found.setdefault((i, setting), set()).add(self.labels[i, label])
        return found


def _agree(a: Mapping[Any, frozenset[str]], b: Mapping[Any, frozenset[str]]) -> bool:
    return all(values == b[name] for name, values in a.items() if name in b)


def _rank(task: TaskRecord) -> int:
    """The state that tells most comes first."""
    order = ("done", "stored", "failed", "stopped", "skipped")
    return order.index(task.state) if task.state in order else len(order)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
