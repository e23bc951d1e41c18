"""How an artifact came to be: parameters, inputs up to the dataset, code, versions, attempts, cost, files.

examples:
  python -m orchestrator show 3f2a9c
  python -m orchestrator show 3f2a9c --json
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..events import read_events
from ..manifests import MANIFEST
from ..provenance import Lineage, flat, lineage, part
from ..slots import in_words
from ..store import is_run
from ..text import say
from .common import catalogue, find_artifact, open_store, same_store, size_in_words, time_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="the key, or its beginning")
    parser.add_argument("--json", action="store_true", help="the manifest as it is stored")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    known = catalogue(store)
    name, key = find_artifact(store, options.key, known)
    if options.json:
        store.manifest(name, key)  # a sentence if it is damaged
        say((store.read(f"artifacts/{name}/{key}/{MANIFEST}") or b"").decode())
        return 0
    origin = lineage(store, name, key, known)
    manifest = origin.manifest or {}
    say(f"{origin.label}\n{name} {key}\n{store.shown(f'artifacts/{name}/{key}')}")
    events = list(read_events(store, manifest["run"])) if is_run(manifest.get("run")) else []
    _section("made", _made(manifest, events))
    _rows("attempts", [_told(e) for e in events if e.get("key") == key])
    _section("parameters", flat(part(manifest, "fields")))
    _section(
        "seeds of the streams of randomness" if part(manifest, "seeds") else "seeds, those of its inputs", origin.seeds
    )
    _section("results", part(manifest, "results"))
    if origin.inputs:
        say("\nmade from")
        for line in _tree(origin, "  ", set()):
            say(line)
    _section("code", {**_git(manifest), **part(manifest, "code")})
    _section("machine", _machine(manifest))
    _section("versions", part(manifest, "versions"))
    gone = dict.fromkeys(store.dropped_files(name, key), "  deleted to save space")
    _section("files", {n: _file(f) + gone.get(n, "") for n, f in manifest["files"].items()})
    say(f"\nto compute it again, alone, and compare\n  python -m orchestrator rerun {key[:12]}{same_store(options)}")
    return 0


def _made(manifest: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """When, by what, at what cost."""
    source = part(manifest, "source")
    command = source.get("command") or next((e.get("command") for e in events if e["event"] == "run_started"), None)
    rows = {
        "status": manifest.get("status"),
        "began": time_in_words(manifest.get("started")),
        "seconds": _rounded(manifest.get("seconds")),
        "attempt": manifest.get("attempt"),
        "peak memory": _size(manifest.get("peak_memory_bytes")),
        "slot": in_words(part(manifest, "slot")),
        "run": manifest.get("run"),
        "sweep file": source.get("file"),
        "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
    }
    return {k: v for k, v in rows.items() if v not in (None, "")}


def _told(event: Mapping[str, Any]) -> tuple[str, str]:
    """An event of the task in words."""
    known = ("time", "event", "key", "label", "bundle", "seconds", "status")
    more = ", ".join(f"{k} {v}" for k, v in event.items() if k not in known and v not in (None, ""))
    words = {"submitted": "handed out", "lost": "its worker was lost"}.get(event["event"], event["event"])
    return time_in_words(event.get("time")), f"{words}: {more}" if more else words


def _tree(origin: Lineage, indent: str, seen: set[str]) -> Iterator[str]:
    """The inputs and theirs, each explained once; a dataset with the hashes of its files."""
    for needed in origin.inputs:
        again = needed.key in seen
        seen.add(needed.key)
        if needed.manifest is None:
            yield f"{indent}{needed.key[:12]}  not in the store"
            continue
        yield f"{indent}{needed.key[:12]}  {needed.label}" + ("  (as above)" if again and needed.inputs else "")
        if again:
            continue
        if needed.manifest.get("kind") == "data":
            fields = flat(part(needed.manifest, "fields"))
            if fields:
                yield f"{indent}  " + ", ".join(f"{k}={v}" for k, v in fields.items())
            files = needed.manifest["files"]
            width = max((len(n) for n in files), default=0)
            for name, about in files.items():
                yield f"{indent}  {name:{width}}  {_file(about)}"
        yield from _tree(needed, indent + "  ", seen)


def _git(manifest: Mapping[str, Any]) -> dict[str, Any]:
    git = part(manifest, "git")
    if not git.get("commit"):
        return {}
    return {"git commit": f"{git['commit']}{', with changes that were not committed' if git.get('dirty') else ''}"}


def _machine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    rows = {k: manifest.get(k) for k in ("host", "worker", "device", "threads", "processor", "platform")}
    return {k: v for k, v in rows.items() if v is not None}


def _section(title: str, rows: Mapping[str, Any]) -> None:
    _rows(title, list(rows.items()))


def _rows(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    if rows:
        say(f"\n{title}")
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            say(f"  {name:{width}}  {value}")


def _file(about: Mapping[str, Any]) -> str:
    return f"{about['size']:>9} bytes  sha256 {about['sha256']}"


def _rounded(seconds: Any) -> Any:
    return round(seconds, 3) if isinstance(seconds, float) else seconds


def _size(size: Any) -> str | None:
    return size_in_words(size) if isinstance(size, (int, float)) else None
