"""The tables of a run as CSV or parquet files.

examples:
  python -m orchestrator export sam_rho --to tables
  python -m orchestrator export sam_rho --to tables --format parquet
"""

from __future__ import annotations

import argparse

from ..runs import find_run, load
from .common import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="name or file of the sweep (default: the only one in the store)")
    parser.add_argument("--run", help="a run by name (default: the newest)")
    parser.add_argument("--to", metavar="FOLDER", default="export", help="local folder (default: ./export)")
    parser.add_argument("--format", default="csv", help="csv or parquet (default: csv)")


def run(options: argparse.Namespace) -> int:
    store = open_store(options.store)
    study = load(store, find_run(store, options.sweep, options.run))
    for file in study.export(options.to, options.format):
        print(file)
    return 0
