"""Make the report of a run again, from the store alone.

examples:
  python -m orchestrator report sam_rho
  python -m orchestrator report sam_rho --store s3://bucket/prefix --to sam_rho
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..runs import find_run, load
from ..store import Store
from .common import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="name or file of the sweep (default: the only one in the store)")
    parser.add_argument("--run", help="a run by name (default: the newest)")
    parser.add_argument("--to", metavar="FOLDER", help="copy the report, its pictures and tables to a local folder")


def run(options: argparse.Namespace) -> int:
    from ..report import write_report
    from ..report.terminal import terminal_table

    store = open_store(options.store)
    path = find_run(store, options.sweep, options.run)
    study = load(store, path)
    study.write_tables(store, path)
    write_report(study, store, path)
    console = Console(highlight=False)
    console.print(terminal_table(study, console.width))
    report = store.shown(f"{path}/report.html") if options.to is None else copy(store, path, Path(options.to))
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    return 0


def copy(store: Store, path: str, folder: Path) -> Path:
    """Copy what people read of a run to a local folder; returns the report.

    Raises:
        UserError: the folder cannot be written to.
    """
    read = re.compile(r"report\.html|\w+\.parquet"), re.compile(r"[\w.-]+\.png")
    try:
        for below, wanted in zip(("", "plots/"), read, strict=True):
            for name in store.names(f"{path}/{below}".rstrip("/")):
                if wanted.fullmatch(name) and (data := store.read(f"{path}/{below}{name}")) is not None:
                    (folder / below).mkdir(parents=True, exist_ok=True)
                    (folder / below / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"The report cannot be copied to {str(folder)!r}: {error.strerror}.") from None
    return folder / "report.html"
