"""The tables of a run as CSV or parquet files, or as LaTeX for a paper; of several runs together, too.

LaTeX is booktabs tables of the headline metrics, mean ± half of the interval, and of the verdicts, with captions that
say what the intervals are, over how many seeds, and what they leave out.

examples:
  python -m orchestrator export sam_rho --to tables
  python -m orchestrator export sam_rho --to tables --format parquet
  python -m orchestrator export sam_rho --to paper --format latex
"""

from __future__ import annotations

import argparse

from .common import RUN_HELP, open_runs, together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="*", help=f"{RUN_HELP}; default: the only sweep in the store")
    parser.add_argument("--run", help="a run by name, or its beginning (default: the newest)")
    parser.add_argument("--to", metavar="FOLDER", default="export", help="local folder (default: ./export)")
    parser.add_argument("--format", default="csv", help="csv, parquet or latex (default: csv)")


def run(options: argparse.Namespace) -> int:
    for file in together(open_runs(options)).export(options.to, options.format):
        print(file)
    return 0
