"""Delete what none of the given sweep files needs, to make space.

A file counts at full size and at its smoke size, and with --set and --seeds as given here; an adaptive sweep with
all that was proposed so far; what `confirm` ran for it counts too. What was made with code or parameters that have
changed since is not needed. Records and reports of runs are kept. Shows what would go and asks; nothing is touched
that a run which is going on needs, nor what was committed within the last hour.

examples:
  python -m orchestrator gc sweeps/sam_rho.py --dry-run
  python -m orchestrator gc sweeps/*.py
  python -m orchestrator gc sweeps/sam_rho.py --seeds 10 --older-than 24 --yes
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ..errors import UserError
from ..garbage import (
    LEFTOVER,
    SET_ASIDE,
    SIGN,
    SNAPSHOT,
    Garbage,
    Item,
    confirmed,
    delete,
    find_garbage,
    keys_of,
    sizes_of,
)
from ..text import one_line
from .common import catalogue, counted, open_store, size_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="*", help="the sweep files whose artifacts are to stay")
    parser.add_argument(
        "--set", dest="sets", metavar="PATH=VALUE", action="append", default=[], help="as for sweep, for all files"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="as for sweep, for all files")
    parser.add_argument(
        "--older-than", type=float, default=1.0, metavar="HOURS", help="leave alone what is younger (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would go, delete nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    if not options.files:
        raise UserError("gc deletes what no sweep file needs: name those whose artifacts are to stay.")
    if not (options.older_than >= 0 and math.isfinite(options.older_than)):
        raise UserError(f"--older-than must be a number of hours of at least 0, not {options.older_than}.")
    store = open_store(options.store)
    console = Console(highlight=False)
    known = catalogue(store)  # first: what is committed from now on is not looked at
    needed: set[str] = set()
    for file in options.files:
        told = []
        for sweep in sizes_of(file, options.sets, options.seeds):
            keys, damage = keys_of(sweep, store)
            if damage:
                console.print(damage, markup=False, soft_wrap=True)
            size = "at smoke size" if sweep.name.endswith("-smoke") else "at full size"
            told.append(f"{len(keys & known.keys())} of {counted(len(keys), 'task')} stored {size}")
            needed |= keys | confirmed(sweep, store)
        console.print(f"{file} needs: {', '.join(told)}", markup=False, soft_wrap=True)
    garbage = find_garbage(store, known, needed, options.older_than * 3600)
    _print(garbage, options.older_than, console)
    if not garbage.items:
        console.print("There is nothing to delete.")
        return 0
    if options.dry_run:
        return 0
    if not options.yes and not _agreed():
        console.print("Nothing was deleted.")
        return 0
    gone: list[Item] = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("deleting", total=len(garbage.items))

        def done(item: Item) -> None:
            gone.append(item)
            progress.advance(bar)

        kept = delete(store, garbage.items, done)
    store.clean_up()
    if kept:
        console.print(f"kept for a run that has begun meanwhile: {counted(kept, 'thing')}")
    console.print(f"deleted: {_summary(gone)}")
    return 0


def _agreed() -> bool:
    try:
        return input("Delete these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # not a terminal
        print()
        return False


def _print(garbage: Garbage, hours: float, console: Console) -> None:
    """What can go, by kind, and what is left alone."""
    if garbage.items:
        table = Table(title="not needed", title_justify="left")
        table.add_column("what")
        table.add_column("number", justify="right")
        table.add_column("size", justify="right")
        others = (SNAPSHOT, SET_ASIDE, LEFTOVER, SIGN)
        kinds = dict.fromkeys(item.kind for item in garbage.items)
        for kind in [*sorted(k for k in kinds if k not in others), *(k for k in others if k in kinds)]:
            chosen = [item for item in garbage.items if item.kind == kind]
            table.add_row(escape(one_line(kind)), str(len(chosen)), size_in_words(sum(item.size for item in chosen)))
        table.add_section()
        table.add_row("all", str(len(garbage.items)), size_in_words(sum(item.size for item in garbage.items)))
        console.print(table)
    if garbage.young:
        console.print(f"{counted(garbage.young, 'artifact')} younger than {hours:g} h left alone (--older-than)")
    for path in garbage.live:
        console.print(f"{path} is going on: all that it needs is left alone", markup=False, soft_wrap=True)
    if garbage.damaged:
        console.print(
            f"{counted(garbage.damaged, 'artifact')} with a damaged manifest left alone: see `orchestrator verify`"
        )


def _summary(items: Sequence[Item]) -> str:
    others = (SNAPSHOT, SET_ASIDE, LEFTOVER, SIGN)
    artifacts = sum(item.kind not in others for item in items)
    rest = len(items) - artifacts
    more = f" and {counted(rest, 'other thing')}" if rest else ""
    return f"{counted(artifacts, 'artifact')}{more}, {size_in_words(sum(item.size for item in items))}"
