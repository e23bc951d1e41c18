"""The YAML of cluster files: what cannot be read in words for people, and the values that were forgotten."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .errors import InvalidValue, nearest
from .nearby import nearest_file

KINDS = ("RayJob", "RayCluster")
_OTHER_FILES = {
    "a shell script": r"#!.*sh\b|(set -e|export \w+=|if \[|for \w+ in .*; *do|echo |cd |apt-get |pip )",
    "a Python file": r"#!.*python|(import \w[\w.]*( as \w+)?$|from [\w.]+ import |def \w+\(|class \w+.*:$|\w+ = \w+\()",
    "a TOML file": r"\[\[?[\w.\"-]+\]\]?\s*$|[\w-]+ = [\"'\[{\dtf]",
}
"""What else a file may be, by a line that such files have."""
_SUFFIXES = {".sh": "a shell script", ".bash": "a shell script", ".py": "a Python file", ".toml": "a TOML file"}
_MAY_BE_EMPTY = {"annotations", "labels", "emptyDir", "resources", "metadata"}
"""Keys of Kubernetes's objects below which nothing may stand."""


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file, at least one.

    Raises:
        InvalidValue: there is no such file, it is no YAML, names a key twice, or is no cluster file at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = nearest_file(path, "*.yaml", "*.yml") if isinstance(error, FileNotFoundError) else ""
        raise InvalidValue(f"The cluster file {str(path)!r} cannot be read: {error.strerror}{hint}.") from None
    except UnicodeDecodeError:
        raise InvalidValue(f"The cluster file {str(path)!r} is not text in UTF-8.") from None
    try:
        found = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.YAMLError as error:
        other = _other_file(path, text)
        raise InvalidValue(
            f"{path} is {other}, no cluster file." if other else f"{path}, {_plainly(error, text)}."
        ) from None
    if not found or not all(isinstance(document, dict) for document in found):
        is_other = _other_file(path, text)
        raise InvalidValue(
            f"{path} is {is_other + ', ' if is_other else ''}no cluster file: "
            f"it must hold a mapping with `provider`, or RayCluster objects."
        )
    if "provider" not in found[0] and ray_cluster(found) is None:
        raise InvalidValue(f"{path} is no cluster file: {_kinds_found(found)}.")
    return found


class _Loader(yaml.SafeLoader):
    """YAML as Ray reads it, except that a key named twice is an error, where the first would silently be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} stands there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def ray_cluster(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The first RayCluster of a manifest, that of a RayJob included: {"metadata": …, "spec": …}."""
    for document in documents:
        spec = document.get("spec")
        if document.get("kind") == "RayJob" and isinstance(spec, dict):
            spec = spec.get("rayClusterSpec")
        if document.get("kind") in KINDS and isinstance(spec, dict) and "headGroupSpec" in spec:
            return {"metadata": document.get("metadata") or {}, "spec": spec}
    return None


def _kinds_found(documents: Sequence[Mapping[str, Any]]) -> str:
    """Why there is no cluster in a file: the kinds of Kubernetes's objects that it holds instead."""
    for document in documents:
        kind, spec = document.get("kind"), document.get("spec")
        if kind == "RayJob" and isinstance(spec, Mapping) and {"headGroupSpec", "workerGroupSpecs"} & set(spec):
            return (
                "its RayJob has the spec of a RayCluster: put that below spec.rayClusterSpec, or write kind: RayCluster"
            )
        if kind == "RayCluster" and isinstance(spec, Mapping) and "rayClusterSpec" in spec:
            return "its RayCluster has the spec of a RayJob: write kind: RayJob"
        if kind in KINDS:
            place = "spec.rayClusterSpec.headGroupSpec" if kind == "RayJob" else "spec.headGroupSpec"
            return f"its {kind} has no {place}, which describes the head's pod"
    kinds = [str(document["kind"]) for document in documents if document.get("kind")]
    if kinds:
        close = next((n for kind in kinds if (n := nearest(kind, KINDS))), "")
        return f"it holds a {', a '.join(kinds)}, where a RayJob or RayCluster is wanted{close}"
    meant_so = difflib.get_close_matches("provider", map(str, documents[0]), n=1, cutoff=0.8)
    meant = f"; {meant_so[0]!r} may be meant for `provider`" if meant_so else ""
    return f"it has neither `provider` nor a RayCluster with a head group{meant}"


def _other_file(path: Path, text: str) -> str | None:
    """What a file is that is no YAML mapping; None where that is not plain."""
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    lines = [line for line in text.splitlines() if line.strip() and (line.startswith("#!") or not line.startswith("#"))]
    for line in lines[:1]:  # the first that says something
        for name, pattern in _OTHER_FILES.items():
            if re.match(pattern, line):
                return name
    return None


def _plainly(error: yaml.YAMLError, text: str) -> str:
    """What the parser says in words for one who writes YAML twice a year, with the line."""
    what = str(getattr(error, "problem", None) or str(error).splitlines()[0])
    mark, opened = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    context = str(getattr(error, "context", None) or "")
    if "stands there twice" in what:
        return f"line {mark.line + 1}: {what}" if mark else what
    quote = _long_quote(text, mark.line) if mark else None
    if quote is not None:
        return f"line {quote + 1}: a quote is opened there and not closed"
    if "quoted scalar" in context:
        mark, what = opened, "a quote is opened there and not closed" if "unexpected end" in what else what
    elif "simple key" in context:
        mark, what = opened, "that is neither `key: value` nor an item `- value` of a list, perhaps for want of a colon"
    elif "flow sequence" in context or "flow mapping" in context:
        sign = "[ … ]" if "sequence" in context else "{ … }"
        mark, what = opened or mark, f"{sign} is not closed, or a comma is missing in it"
    elif "mapping values are not allowed" in what:
        what = "a colon where none can be; mend the indentation, or put quotes around a text that holds ': '"
    elif "expected <block end>" in what:
        quoted = "'<scalar>'" in what
        what = "text follows a closed quote" if quoted else "the indentation does not fit that of the lines above"
    elif "sequence entries are not allowed" in what:
        what = "an item `- …` where no list can begin: write the list as [a, b], or each item in a line of its own"
    elif "could not find expected ':'" in what:
        what = "a colon is missing after a key"
    elif "'\\t'" in what:
        what = "a tab, where YAML takes only spaces"
    elif "cannot start any token" in what:
        what = f"a value begins with {what.split('character ')[1].split(' that')[0]}: put quotes around it"
    elif "undefined alias" in what:
        name = what.split("alias ")[1].strip("'\"")
        what = f"*{name} is used, but no value above is marked &{name}"
    elif "unacceptable character" in str(error) or "special characters" in str(error):
        what = "a sign that no text file has"
    return f"line {mark.line + 1} (or just before it): {what}" if mark else f"is no valid YAML: {what}"


def _long_quote(text: str, line: int) -> int | None:
    """Where the quote was opened that ends in a line only because another one begins there."""
    found = None
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.ScalarToken) and token.style in ("'", '"'):
                start, end = token.start_mark.line, token.end_mark.line
                if start < end == line:
                    found = start
    except yaml.YAMLError:
        pass
    return found


def forgotten(text: str) -> Iterator[tuple[str, int, bool]]:
    """(place, line, whether other places take it) of each key after which the value was forgotten.

    What stands in a place by an alias is named once, where it was to be written.
    """
    places: dict[int, list[str]] = {}
    nodes: dict[int, yaml.Node] = {}
    whole = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    for node in whole:
        kubernetes = isinstance(node, yaml.MappingNode) and any(key.value == "kind" for key, _ in node.value)
        for path, inside in _walk(node, "", _MAY_BE_EMPTY if kubernetes else ()):
            places.setdefault(id(inside), []).append(path)
            nodes[id(inside)] = inside
    for key, node in nodes.items():
        if node.tag == "tag:yaml.org,2002:null" and node.value == "":
            yield places[key][0], node.start_mark.line + 1, len(set(places[key])) > 1


def _walk(node: yaml.Node, path: str, may_be_empty: Collection[str]) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or (str(key.value) in may_be_empty and not value.value):
                continue
            yield from _walk(value, f"{path}.{key.value}" if path else str(key.value), may_be_empty)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _walk(item, f"{path}[{i}]", may_be_empty)
    else:
        yield path, node
