"""Make the report of a run again, from the store alone.

examples:
  python -m orchestrator report sam_rho
  python -m orchestrator report sweeps/sam_rho.py --store s3://bucket/prefix
"""

from __future__ import annotations

import argparse

from rich.console import Console

from ..study import Study
from .common import find_run, open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="name or file of the sweep (default: the only one in the store)")
    parser.add_argument("--run", help="a run by name (default: the newest)")


def run(options: argparse.Namespace) -> int:
    from ..report import write_report
    from ..report.terminal import terminal_table

    store = open_store(options.store)
    path = find_run(store, options.sweep, options.run)
    study = Study.load(store, path)
    study.write_tables(store, path)
    write_report(study, store, path)
    console = Console(highlight=False)
    console.print(terminal_table(study, console.width))
    console.print(f"report: {store.shown(f'{path}/report.html')}", markup=False, soft_wrap=True)
    return 0
