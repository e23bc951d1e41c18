"""What several verbs share: opening the store, finding an artifact by the beginning of its key, words."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..__main__ import default_store
from ..combine import combine, names_of
from ..errors import StoreError, UserError, nearest
from ..nearby import nearest_store
from ..runs import RunName, find_run, load, run_name
from ..store import Store
from ..study import Study


def open_store(uri: str, *, new: bool = False) -> Store:
    """The store at a URI.

    Args:
        new: it may be one that is to be made; else none is meant where there is another of nearly that name.

    Raises:
        StoreError: it cannot be opened, or a newer version wrote it.
    """
    if not new and (hint := nearest_store(uri)):
        raise StoreError(f"There is no store {uri!r}{hint}.")
    store = Store(uri)
    store.check_format()
    return store


@dataclass(frozen=True)
class Opened:
    """A run that was named on the command line.

    Attributes:
        study: what it left, or has so far.
        store, path: where it lies.
    """

    study: Study
    store: Store
    path: str

    @property
    def run(self) -> str:
        return self.path.rpartition("/")[2]


RUN_HELP = "SWEEP, SWEEP/RUN or FILE.py, after STORE# if it is in another store (s3://bucket/prefix#sam_rho)"


def open_run(text: str | None, options: argparse.Namespace, run: str | None = None) -> Opened:
    """The run that is meant by what somebody typed (see `runs.run_name`); None for the only sweep of the store.

    Raises:
        StoreError: there is no such run; the sentence names the nearest.
    """
    name = run_name(text) if text else RunName(None)
    if run and name.run:
        raise UserError(f"{text!r} names a run already: leave out --run {run}.")
    store = open_store(name.store or options.store)
    path = find_run(store, name.sweep, run or name.run)
    return Opened(load(store, path), store, path)


def open_runs(options: argparse.Namespace) -> list[Opened]:
    """All the runs that `options.sweep` names; one in the only sweep of the store where it names none."""
    if len(options.sweep) > 1 and options.run:
        raise UserError(f"--run {options.run} is about one of several sweeps: write SWEEP/{options.run} for that one.")
    return [open_run(text, options, options.run) for text in options.sweep or [None]]


def together(opened: Sequence[Opened]) -> Study:
    """The runs as one study, named as shortly as tells them apart; one run as it is."""
    names = names_of([o.study.sweep for o in opened], [o.run for o in opened], [str(o.store) for o in opened])
    command = shlex.join(["python", "-m", "orchestrator", *sys.argv[1:]])
    return combine([o.study for o in opened], names, command=command)


def same_store(options: argparse.Namespace) -> str:
    """What to add to a command so that it is about the same store."""
    return "" if options.store == default_store() else f" --store {shlex.quote(options.store)}"


def catalogue(store: Store) -> dict[str, str]:
    """Name of the task class by key, for every committed artifact."""
    names = store.task_names()
    if store.local is not None:
        listed = [store.committed([name]) for name in names]
    else:
        with ThreadPoolExecutor(16) as pool:
            listed = list(pool.map(lambda name: store.committed([name]), names))
    return {key: name for name, keys in zip(names, listed, strict=True) for key in keys}


def find_artifact(store: Store, prefix: str, known: Mapping[str, str] | None = None) -> tuple[str, str]:
    """(task name, key) of the one artifact whose key begins so.

    Args:
        known: the store's `catalogue`, if it was listed already.

    Raises:
        StoreError: none does, or several do.
    """
    listed = catalogue(store) if known is None else known
    found = sorted((name, key) for key, name in listed.items() if key.startswith(prefix))
    if not found:
        raise no_such_key(store, prefix, listed, "artifact whose key")
    if len(found) > 1:
        keys = ", ".join(f"{name} {key[:12]}" for name, key in found[:4])
        raise StoreError(f"{prefix!r} is the beginning of {len(found)} keys ({keys}, …): give more of it.")
    return found[0]


def no_such_key(store: Store, prefix: str, known: Mapping[str, str], what: str) -> StoreError:
    """The error for the beginning of a key that none has, with the nearest that one has.

    Args:
        known: name of the task class by key.
        what: what there is none of ("artifact whose key").
    """
    told = f"The store {store} holds no {what} begins with {prefix!r}"
    names = sorted(set(known.values()))
    if prefix in names:
        return StoreError(f"{told}, which is a kind of task: `orchestrator ls {prefix}` lists the keys.")
    if re.fullmatch("[0-9a-f]{4,}", prefix.lower()):
        # Few keys are alike in their first three digits, or in those after them.
        alike = {key[: len(prefix)] for key in known if prefix[:3] == key[:3] or prefix[3:6] == key[3:6]}
        hint = nearest(prefix, alike)
    else:
        hint = nearest(prefix, names)
    return StoreError(f"{told}{hint}: see `orchestrator ls`.")


def size_in_words(size: float) -> str:
    """Bytes as people read them: "812 kB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def time_in_words(seconds: Any) -> str:
    """A Unix time as local date and time; "?" for what is none."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return "?"


def counted(number: int, noun: str) -> str:
    """ "1 artifact", "2 artifacts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
