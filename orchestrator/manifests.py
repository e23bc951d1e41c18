"""Manifests as they are written, read and checked: whatever may stand in a store, nothing else gets past here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 2
"""Version of the layout; a store written by a newer version is refused, one of an older version is read."""

FOLDER = re.compile(r"[0-9a-f]{16}")
"""Names of the folders in which the files of artifacts on object stores lie."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Wrong(ValueError):
    """What is wrong with a manifest, in words."""


_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,), "key": (str,), "task": (str,), "files": (dict,), "folder": (str,), "results": (dict,),
    "status": (str,), "label": (str,), "kind": (str,), "class": (str,), "inputs": (list,), "seeds": (dict,),
    "code": (dict,), "spec": (dict, list, str), "started": (int, float), "seconds": (int, float), "attempt": (int,),
    "slot": (dict,), "versions": (dict,), "host": (str,), "worker": (str,), "run": (str,), "device": (str,),
    "git": (dict, type(None)), "source": (dict,), "peak_memory_bytes": (int, type(None)), "threads": (int,),
    "platform": (str,), "processor": (str,),
}  # fmt: skip

_PARTS: dict[str, tuple[type, ...]] = {
    "results": (str, int, float, type(None)), "inputs": (str,), "seeds": (int,), "code": (str,),
}  # fmt: skip
"""What the fields that hold several values hold."""

_DEPTH = 50
"""How deep a manifest may be nested; a task's fields need a tenth of it."""


def checked(manifest: Any, task_name: str, key: str) -> dict[str, Any]:
    """The manifest, if it can be what a commit of this key has written."""
    if not isinstance(manifest, dict):
        raise Wrong("it is no object")
    if not _is_shallow(manifest, _DEPTH):
        raise Wrong("it is nested too deeply")
    for name, value in (("key", key), ("task", task_name)):
        if manifest.get(name) != value:
            raise Wrong(f"its {name} is {str(manifest.get(name))[:80]!r}")
    for name, types in _TYPES.items():
        if name in manifest and (not isinstance(manifest[name], types) or isinstance(manifest[name], bool)):
            raise Wrong(f"its field {name!r} is of the wrong type")
        if isinstance(manifest.get(name), (int, float)) and not abs(manifest[name]) < 2**63:
            raise Wrong(f"its field {name!r} is no sensible number")
    for name, types in _PARTS.items():
        several = manifest.get(name, ())
        if not all(isinstance(v, types) for v in (several.values() if isinstance(several, dict) else several)):
            raise Wrong(f"its field {name!r} holds something of the wrong type")
    for name, value in manifest.get("slot", {}).items():
        labels = list(value.values()) if name == "labels" and isinstance(value, dict) else [value]
        types = (str,) if name in ("labels", "accelerator") else (int, float)
        if not all(isinstance(v, types) for v in labels):
            raise Wrong("its field 'slot' holds something of the wrong type")
    if "files" not in manifest or "format" not in manifest:
        raise Wrong("it lacks fields")
    if "folder" in manifest and not FOLDER.fullmatch(manifest["folder"]):
        raise Wrong("its folder is no folder's name")
    for name, about in manifest["files"].items():
        inside = PurePosixPath(name)
        if (
            inside.is_absolute()
            or ".." in inside.parts
            or inside.as_posix() != name
            or name in (".", MANIFEST)
            or "\0" in name
        ):
            raise Wrong(f"it names a file {name[:80]!r}")
        size, digest = about["size"], about["sha256"]
        if (
            type(size) is not int
            or not 0 <= size < 2**63
            or not isinstance(digest, str)
            or not _SHA256.fullmatch(digest)
        ):
            raise Wrong(f"size or hash of {name[:80]!r} is none")
    return manifest


def _is_shallow(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return True
    return depth > 0 and all(_is_shallow(v, depth - 1) for v in value)


def bytes_of(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(_encoded(manifest), sort_keys=True, indent=1).encode()


def _encoded(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with results that JSON has no number for (nan, inf) as {"float": "nan"}."""
    results = {
        k: {"float": repr(float(v))} if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in manifest.get("results", {}).items()
    }
    return {**manifest, "results": results} if results else dict(manifest)


def decoded(manifest: Any) -> Any:
    """The reverse of `_encoded`."""
    for name, value in manifest.get("results", {}).items():
        if isinstance(value, dict):
            manifest["results"][name] = float(value["float"])
    return manifest
