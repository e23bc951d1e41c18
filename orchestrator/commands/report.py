"""Make the report of a run again, from the store alone; or one report of several runs together.

Of several runs, settings whose trainings are the same but for the seeds are one, with the seeds of all; what the runs
differ in is said at the top of the report. Runs are named SWEEP, SWEEP/RUN or FILE.py, those of another store after
STORE#.

examples:
  python -m orchestrator report sam_rho
  python -m orchestrator report sam_rho --store s3://bucket/prefix --to sam_rho
  python -m orchestrator report sam_rho sam_groups --to both
  python -m orchestrator report sweeps/sam_rho.py s3://bucket/prefix#sam_rho/2026-11-22
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..store import Store
from .common import RUN_HELP, Opened, open_runs, together

TOGETHER = "runs/several/together"
"""Where the report of several runs is put together, in a folder of its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="*", help=f"{RUN_HELP}; default: the only sweep in the store")
    parser.add_argument("--run", help="a run by name, or its beginning (default: the newest)")
    parser.add_argument(
        "--to",
        metavar="FOLDER",
        help="copy the report, its pictures and tables to a local folder (of several runs by default "
        "./report-SWEEP-SWEEP)",
    )


def run(options: argparse.Namespace) -> int:
    opened = open_runs(options)
    console = Console(highlight=False)
    if len(opened) == 1:
        return _of_one(opened[0], options.to, console)
    return _of_several(opened, options.to, console)


def _of_one(opened: Opened, to: str | None, console: Console) -> int:
    from ..report import print_verdicts, terminal_table, write_report

    study, store, path = opened.study, opened.store, opened.path
    study.write_tables(store, path)
    write_report(study, store, path)
    for remark in study.remarks:
        console.print(remark, markup=False, soft_wrap=True)
    console.print(terminal_table(study, console.width))
    print_verdicts(study, console)
    report = store.shown(f"{path}/report.html") if to is None else copy(store, path, Path(to))
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    return 0


def _of_several(opened: Sequence[Opened], to: str | None, console: Console) -> int:
    from ..report import print_verdicts, terminal_table, write_report

    study = together(opened)
    folder = Path(to or "-".join(["report", *dict.fromkeys(o.study.sweep for o in opened)]))
    with tempfile.TemporaryDirectory(prefix="orchestrator-report-") as scratch:
        made = Store(scratch)
        study.write_tables(made, TOGETHER)
        write_report(study, made, TOGETHER)
        report = copy(made, TOGETHER, folder)
    for remark in study.remarks:
        console.print(remark, markup=False, soft_wrap=True)
    console.print(terminal_table(study, console.width))
    print_verdicts(study, console)
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    return 0


def copy(store: Store, path: str, folder: Path) -> Path:
    """Copy what people read of a run to a local folder; returns the report.

    Where another report was copied to that folder before, the pictures that it linked to and this one has not are
    deleted.

    Raises:
        UserError: the folder cannot be written to.
    """
    read = re.compile(r"report\.html|\w+\.parquet"), re.compile(r"[\w.-]+\.(png|svg)")
    try:
        page = folder / "report.html"
        stale = set(re.findall(r'href="plots/([\w.-]+\.(?:png|svg))"', page.read_text())) if page.is_file() else set()
        for below, wanted in zip(("", "plots/"), read, strict=True):
            for name in store.names(f"{path}/{below}".rstrip("/")):
                if wanted.fullmatch(name) and (data := store.read(f"{path}/{below}{name}")) is not None:
                    (folder / below).mkdir(parents=True, exist_ok=True)
                    (folder / below / name).write_bytes(data)
                    stale.discard(name)
        for name in stale:
            (folder / "plots" / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The report cannot be copied to {str(folder)!r}: {error.strerror}.") from None
    return folder / "report.html"
