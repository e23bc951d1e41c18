"""Compute one artifact again, alone and in this process, and say whether the bytes agree.

The task is built from its manifest, takes its inputs from the store, and leaves its files in a temporary
folder: the artifact in the store is not touched. A class that a sweep file defines is found by loading that
file, if it lies below the working folder or is named with --file. Exits with 0 if all results and files are
identical, 1 if not.

examples:
  python -m orchestrator rerun 3f2a9c
  python -m orchestrator rerun 3f2a9c --file moved/sam_rho.py
  python -m orchestrator rerun 3f2a9c --to recomputed
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..__main__ import EXIT_FAILED
from ..errors import StoreError, UserError
from ..nearby import nearest_file
from ..provenance import Lineage, Rebuilder, lineage, part
from ..store import Store
from ..text import say
from .common import catalogue, counted, find_artifact, open_store, same_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="the key, or its beginning")
    parser.add_argument("--file", metavar="FILE", help="the sweep file, if it is no longer where it was")
    parser.add_argument("--to", metavar="FOLDER", help="keep the files computed here in this folder")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    if options.file is not None and not Path(options.file).is_file():
        raise UserError(f"There is no sweep file {options.file!r}{nearest_file(options.file, '*.py')}.")
    known = catalogue(store)
    origin = lineage(store, *find_artifact(store, options.key, known), known)
    assert origin.manifest is not None
    _check_inputs(store, origin, same_store(options))
    kept = _new_folder(options.to) if options.to else None
    folder = kept or _temporary_folder()
    say(f"{origin.label}\n{origin.task} {origin.key}", flush=True)
    try:
        with _as_in_a_worker(origin.manifest):
            results = _compute(origin, store, folder, options.file)
        if results is None:
            return EXIT_FAILED
        return _compare(origin.manifest, results, folder, store)
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_inputs(store: Store, origin: Lineage, same: str) -> None:
    for needed in origin.ancestors():
        if needed.manifest is not None and (dropped := store.dropped_files(needed.task, needed.key)):
            raise StoreError(
                f"{origin.label} cannot be computed again, since {', '.join(sorted(dropped))} of {needed.label} "
                f"({needed.key[:12]}) was deleted to save space: run its sweep again with --keep-weights last."
            )
        if needed.manifest is None:
            raise StoreError(
                f"{origin.label} cannot be computed again, since the store no longer holds the artifact {needed.key} "
                f"that it was made from: run its sweep again (see `orchestrator show {origin.key[:12]}{same}`)."
            )


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="orchestrator-rerun-"))
    except OSError as error:
        raise UserError(f"A temporary folder cannot be made: {error.strerror}; set TMPDIR.") from None


def _new_folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"The folder {name!r} is not empty: name a new one.")
    except OSError as error:
        raise UserError(f"The folder {name!r} cannot be made: {error.strerror}.") from None
    return folder.absolute()


@contextlib.contextmanager
def _as_in_a_worker(manifest: Mapping[str, Any]) -> Iterator[None]:
    """The surroundings that the task had: as many threads, which libraries read when they are imported."""
    threads = manifest.get("threads", part(manifest, "slot").get("cpu"))
    threads = max(int(threads), 1) if isinstance(threads, (int, float)) else 1
    before, here = os.environ.get("OMP_NUM_THREADS"), os.getcwd()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        os.chdir(here)


def _compute(origin: Lineage, store: Store, folder: Path, file: str | None) -> dict[str, Any] | None:
    """The results of the task, its files left in the folder; None if it failed, which is then told."""
    from rich.console import Console

    from tasks.task import Context, drain, inherited_seeds

    from ..keys import Fingerprints
    from ..process import Input, captured, device_name, forget, input_artifact, machine, sentence, threads

    manifest = origin.manifest or {}
    rebuilder = Rebuilder(store, file)

    def needed(one: Lineage) -> Input:
        return Input(one.key, rebuilder.task(one), part(one.manifest, "seeds"), tuple(needed(i) for i in one.inputs))

    task = rebuilder.task(origin)
    wanted = [needed(i) for i in origin.inputs]
    fingerprints = Fingerprints()
    code = fingerprints.of(task)
    device = "cuda" if part(manifest, "slot").get("gpu") else "cpu"
    if fingerprints.imports("torch"):
        import torch  # before `forget`, which sets what it finds

        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"{origin.label} was computed on a GPU ({manifest.get('device')}), and here is none: go to such a "
                "machine to compare bytes."
            )
    seeds = part(manifest, "seeds")
    forget(task, seeds, origin.key)
    for line in [
        *_changes_of_code(part(manifest, "code"), code),
        *_changes_of_place(manifest, {**machine(), "threads": threads()}, device),
    ]:
        say(f"note: {line}", flush=True)
    log = io.StringIO()
    console = Console(file=sys.stderr, highlight=False)
    clock = time.perf_counter()
    status = console.status("computing") if console.is_terminal else contextlib.nullcontext()
    with status as shown, contextlib.ExitStack() as hold:
        try:
            inputs = tuple(input_artifact(i, store, hold) for i in wanted)
            with captured(log):
                context = Context(
                    folder,
                    seeds=seeds or inherited_seeds(inputs),
                    device=device,
                    log=lambda message: print(message, file=log),
                )
                results = drain(
                    task.run(context, *inputs),
                    lambda report: shown.update(_progress(report)) if shown is not None else None,
                )
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            say(log.getvalue() + traceback.format_exc().rstrip())
            say(f"failed: {sentence(error)}")
            return None
    was = manifest.get("seconds")
    took = f"{time.perf_counter() - clock:.2f} s" + (f" (was {was:.2f} s)" if isinstance(was, float) else "")
    say(f"computed again in {took} on {device_name(device)}, {counted(threads(), 'thread')}")
    return results


def _progress(report: Mapping[str, Any]) -> str:
    shown = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in report.items()]
    return "computing: " + ", ".join(shown[:4])


def _changes_of_code(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changed = sorted(m for m in set(before) | set(now) if before.get(m) != now.get(m))
    return [f"the code has changed since: {', '.join(changed)}"] if changed else []


def _changes_of_place(manifest: Mapping[str, Any], here: Mapping[str, Any], device: str) -> list[str]:
    """What may alter the last bits, in words."""
    from ..process import device_name

    found = []
    for name in ("host", "platform", "threads"):
        if name in manifest and manifest[name] != here[name]:
            found.append(f"{name}: it was {manifest[name]}, here it is {here[name]}")
    if manifest.get("device") not in (None, device_name(device)):
        found.append(f"device: it was {manifest['device']}, here it is {device_name(device)}")
    before, now = part(manifest, "versions"), here["versions"]
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            found.append(f"{name}: it was {before.get(name, 'absent')}, here it is {now.get(name, 'absent')}")
    return found


def _compare(manifest: Mapping[str, Any], results: Mapping[str, Any], folder: Path, store: Store) -> int:
    """Print result by result and file by file what agrees; the exit code."""
    rows: list[tuple[str, str]] = []
    before = part(manifest, "results")
    for name in [*before, *(n for n in results if n not in before)]:
        if name not in before or name not in results:
            rows.append((name, "new" if name in results else f"missing; it was {before[name]!r}"))
        elif _same(before[name], results[name]):
            rows.append((name, "identical"))
        else:
            rows.append((name, f"differs: {results[name]!r}, was {before[name]!r}"))
    stored = manifest["files"]
    made = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    for name in [*stored, *(n for n in made if n not in stored)]:
        if name not in stored or name not in made:
            rows.append((name, "new" if name in made else "missing"))
        elif _sha256(made[name]) == stored[name]["sha256"]:
            rows.append((name, "identical"))
        else:
            size, was = made[name].stat().st_size, stored[name]["size"]
            rows.append((name, f"differs: {size} bytes, was {was}" if size != was else f"differs ({size} bytes)"))
    width = max((len(name) for name, _ in rows), default=0)
    for name, words in rows:
        say(f"  {name:{width}}  {words}")
    for words in store.verify(manifest["task"], manifest["key"]):
        say(f"note: the artifact in the store is damaged: {words}")
    wrong = [name for name, words in rows if words != "identical"]
    if wrong:
        say(f"different: {', '.join(wrong)}")
        return EXIT_FAILED
    say(f"identical: {counted(len(before), 'result')} and {counted(len(stored), 'file')}")
    return 0


def _same(a: Any, b: Any) -> bool:
    """Equal to the bit, as far as JSON tells numbers apart; nan equals nan."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and bool(a == b)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
