"""How an artifact came to be: parameters, inputs, results, code, versions, files.

examples:
  python -m orchestrator show 3f2a9c
  python -m orchestrator show 3f2a9c --json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..store import MANIFEST, Store
from .common import find_artifact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="the key, or its beginning")
    parser.add_argument("--json", action="store_true", help="the manifest as it is stored")


def run(options: argparse.Namespace) -> int:
    store = Store(options.store)
    name, key = find_artifact(store, options.key)
    manifest = store.manifest(name, key)
    if options.json:
        print((store.read(f"artifacts/{name}/{key}/{MANIFEST}") or b"").decode())
        return 0
    print(f"{manifest.get('label', name)}\n{name} {key}\n{store.shown(f'artifacts/{name}/{key}')}")
    when = datetime.fromtimestamp(manifest.get("started", 0)).strftime("%Y-%m-%d %H:%M:%S")
    _section("status", {k: manifest.get(k) for k in ("status", "attempt", "run")} | {"started": when})
    _section("parameters", _flat(manifest.get("fields", {})))
    _section("seeds", manifest.get("seeds", {}))
    _section("results", manifest.get("results", {}))
    _section("inputs", {k[:12]: _label(store, k) for k in manifest.get("inputs", [])})
    cost = {"seconds": round(manifest.get("seconds", 0), 3), "slot": manifest.get("slot")}
    cost |= {k: manifest.get(k) for k in ("peak_memory_bytes", "device", "host", "platform")}
    _section("cost", cost)
    _section("versions", manifest.get("versions", {}))
    _section("code", {**manifest.get("git", {}), **manifest.get("code", {})})
    _section("files", {n: f"{f['size']} bytes, sha256 {f['sha256'][:16]}…" for n, f in manifest["files"].items()})
    return 0


def _section(title: str, rows: Mapping[str, Any]) -> None:
    if rows:
        print(f"\n{title}")
        width = max(len(k) for k in rows)
        for name, value in rows.items():
            print(f"  {name:{width}}  {value}")


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and "class" in value:
            flat[prefix + name] = value["class"].rpartition(":")[2]
            flat |= _flat({k: v for k, v in value.items() if k != "class"}, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _label(store: Store, key: str) -> str:
    found = store.find(key)
    return str(store.manifest(*found[0]).get("label", found[0][0])) if found else "not in the store"
