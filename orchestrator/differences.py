"""What tells runs apart: fields of their tasks, code, data, versions, machines; read from manifests alone.

Each is a table of facts, "Train.batch_size" or "tasks.train" to the values it has in a study, and two studies differ
where a fact that both have has other values. That a study varies a parameter is no difference from another: the
values of settings are compared with those of settings.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .provenance import class_name, flat, part
from .records import COMMITTED, Column, TaskRecord
from .study import Study

__all__ = ["Difference", "Made", "Point", "differences", "in_words", "only_in"]

Values = frozenset[str]
"""Values as JSON, so that they can be compared and ordered."""


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same in all studies that have it.

    Attributes:
        name: "Train.batch_size", "tasks.train", "torch".
        values: in each study, in their order; empty where it has none.
    """

    name: str
    values: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Point:
    """A setting's training, without its seeds.

    Attributes:
        identity: equal for trainings that are the same task but for their seeds: class, fields, data, code.
        fields: the training's fields by path ("train.optimizer.rho"), those of its dataset too.
        code: digest by module.
        inputs: keys of the data.
    """

    identity: str
    fields: Mapping[str, Any]
    code: Mapping[str, str]
    inputs: tuple[str, ...]


class Made:
    """How the artifacts of a study were made.

    Args:
        name: what the study is called among others.
    """

    def __init__(self, study: Study, name: str) -> None:
        self.study = study
        self.name = name

    @cached_property
    def _manifests(self) -> list[tuple[TaskRecord, Mapping[str, Any]]]:
        done = [t for t in self.study.tasks.values() if t.state in COMMITTED]
        return list(zip(done, self.study.manifests(), strict=True))

    @cached_property
    def points(self) -> dict[int, Point]:
        """By index of the setting; of a setting without any artifact of a training none."""
        found: dict[int, Point] = {}
        for task, manifest in self._manifests:
            if task.kind == "train" and task.trials[0][0] not in found:
                spec, code = part(manifest, "spec"), part(manifest, "code")
                inputs = tuple(map(str, manifest.get("inputs", ())))
                identity = json.dumps([manifest.get("class"), spec, code, inputs], sort_keys=True)
                fields = {"train": class_name(spec), **flat(_without_class(spec), "train.")}
                found[task.trials[0][0]] = Point(identity, fields, code, inputs)
        return found

    @cached_property
    def seeds(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """The seed of every stream by label of the replicate; as manifests say where the record does not."""
        found = {label: tuple(sorted(seeds.items())) for label, seeds in self.study.seeds.items()}
        for task, manifest in self._manifests if not found else ():
            if task.kind == "train":
                found.setdefault(task.trials[0][1], tuple(sorted(part(manifest, "seeds").items())))
        return {label: found.get(label, ((f"seed {label}", 0),)) for label in self.study.replicates}

    @property
    def declared(self) -> list[str]:
        """The paths whose values make the study's settings."""
        return list(dict.fromkeys(p for s in self.study.settings for p in s.config))

    def values_at(self, setting: int, paths: Sequence[str]) -> dict[str, Any]:
        """The setting's values at paths that some study varies: as it calls them, else as its training has them."""
        config = self.study.settings[setting].config
        fields = self.points[setting].fields if setting in self.points else {}
        return {p: config[p] if p in config else as_told(fields[p]) for p in paths if p in config or p in fields}

    # Facts, each with the values it has in this study

    def fixed(self, varied: Sequence[str]) -> dict[tuple[str, str], Values]:
        """The training's fields but those varied; what lies below these for each of their values."""
        found: dict[tuple[str, str], set[str]] = {}
        for index, point in self.points.items():
            told = self.values_at(index, varied)
            for path, value in point.fields.items():
                if path not in varied:
                    above = {p: _number(told.get(p)) for p in varied if path.startswith(f"{p}.")}
                    found.setdefault((path, _json(above) if above else ""), set()).add(_json(value))
        return _frozen(found)

    @cached_property
    def probes(self) -> dict[str, Values]:
        """The fields of probes, "Lanczos.k"."""
        found: dict[str, set[str]] = {}
        for task, manifest in self._manifests:
            if task.kind in ("probe", "pair", "group"):
                for path, value in flat(_without_class(part(manifest, "spec")), f"{task.name}.").items():
                    found.setdefault(path, set()).add(_json(value))
        return _frozen(found)

    @cached_property
    def code(self) -> dict[str, Values]:
        """Digests by module."""
        return self._facts(lambda task, m: part(m, "code").items())

    @cached_property
    def classes(self) -> frozenset[str]:
        """Of the tasks that left an artifact."""
        return frozenset(str(m.get("class")) for _, m in self._manifests)

    def code_of(self, classes: Collection[str]) -> dict[str, Values]:
        """Digests by module, of tasks of these classes."""
        return self._facts(lambda task, m: part(m, "code").items() if str(m.get("class")) in classes else ())

    @cached_property
    def data(self) -> dict[str, Values]:
        """Of datasets, by their fields: hashes of files."""

        def of(task: TaskRecord, m: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
            if task.kind == "data":
                fields = ", ".join(f"{k}={as_told(v)}" for k, v in flat(_without_class(part(m, "spec"))).items())
                files = {n: str(about.get("sha256", ""))[:12] for n, about in sorted(part(m, "files").items())}
                yield f"{task.name}({fields})", files

        return self._facts(of)

    @cached_property
    def versions(self) -> dict[str, Values]:
        """Of libraries."""
        return self._facts(lambda task, m: part(m, "versions").items())

    @cached_property
    def places(self) -> dict[str, Values]:
        """Hosts, devices, operating systems, threads."""
        names = {"host": "host", "device": "device", "platform": "platform", "threads": "threads"}
        return self._facts(lambda task, m: [(words, m[n]) for n, words in names.items() if m.get(n) is not None])

    @cached_property
    def commits(self) -> dict[str, Values]:
        """Commits of git, "+" where there were changes besides."""

        def of(task: TaskRecord, m: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
            git = part(m, "git")
            if git.get("commit"):
                yield "git commit", str(git["commit"])[:12] + ("+" if git.get("dirty") else "")

        return self._facts(of)

    def _facts(self, of: Any) -> dict[str, Values]:
        found: dict[str, set[str]] = {}
        for task, manifest in self._manifests:
            for name, value in of(task, manifest):
                found.setdefault(str(name), set()).add(_json(value))
        return _frozen(found)

    def variant(self, column: Column) -> str:
        """Equal for columns of the same measurement: kind and class, and of probes their fields."""
        manifest = next((m for t, m in self._manifests if t.column == column.name), None)
        if manifest is None:
            return _json([column.kind, column.task, "no artifact", column.name])
        spec = {} if column.kind in ("train", "data") else part(manifest, "spec")
        return _json([column.kind, manifest.get("class"), spec])

    def fields_of(self, column: Column) -> dict[str, Any]:
        """The fields of the column's tasks, by path below them."""
        manifest = next((m for t, m in self._manifests if t.column == column.name), {})
        return flat(_without_class(part(manifest, "spec")))


def differences(facts: Sequence[Mapping[Any, Values]]) -> list[Difference]:
    """The facts that two or more studies have with different values, in the order of their names."""
    found = []
    for name in dict.fromkeys(n for f in facts for n in f):
        held = [f[name] for f in facts if name in f]
        if len(set(held)) > 1:
            values = tuple(tuple(json.loads(v) for v in sorted(f.get(name, ()))) for f in facts)
            found.append(Difference(name if isinstance(name, str) else name[0], values))
    return sorted(found, key=lambda d: d.name)


def only_in(facts: Sequence[Mapping[Any, Values]], which: int) -> list[Any]:
    """The names of facts that one study has and none of the others."""
    others = {n for i, f in enumerate(facts) if i != which for n in f}
    return [n for n in facts[which] if n not in others]


def in_words(values: Sequence[Any], most: int = 4) -> str:
    """The values a fact has in a study: "128", "3 and 5"."""
    words = [str(as_told(v)) for v in values]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return " and ".join(words[:most]) + more if len(words) <= 2 else ", ".join(words[:most]) + more


def as_told(value: Any) -> Any:
    """A canonical value as labels and tables have it."""
    if isinstance(value, dict) and set(value) == {"float"} and value["float"] in ("inf", "-inf", "nan"):
        return float(value["float"])
    if isinstance(value, list):
        inner = ", ".join(str(as_told(v)) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})" if value else "none"
    return json.dumps(value) if isinstance(value, dict) else value


def _without_class(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in spec.items() if k != "class"}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _frozen(found: Mapping[Any, set[str]]) -> dict[Any, Values]:
    return {name: frozenset(values) for name, values in found.items()}
