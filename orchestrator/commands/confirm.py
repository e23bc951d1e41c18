"""Confirm on fresh seeds that the best setting of a sweep's newest run is better than its baseline.

The best of many settings looks better than it is, since it was chosen by the very numbers that praise it. This runs
it and the baseline (the runner-up, where the file declares none) on seeds that no run of the sweep has used, with
that one comparison declared, as the study `<sweep>-confirm`. Only what the primary metric takes is run: trainings,
and the probe that measures it. The same command goes on where it was interrupted, on the same seeds.

examples:
  python -m orchestrator confirm sweeps/sam_rho.py --smoke --dry-run
  python -m orchestrator confirm sweeps/sam_rho.py --smoke
  python -m orchestrator confirm sweeps/sam_rho.py --seeds 20 --address auto
"""

from __future__ import annotations

import argparse

from rich.console import Console

from ..confirmation import confirmation
from ..decisions import Decisions
from ..plan import Plan, make_plan
from ..store import Store
from ..sweep import Sweep
from ..sweep_file import load_sweep
from . import sweep as sweep_command
from .common import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sweep_command.add_sweep_arguments(parser, seeds="how many fresh seeds (default: as many as the run had)")
    sweep_command.add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    sweep_command.check(options)
    sweep, store, decisions, plan, words = load(options)
    for sentence in words:
        console.print(sentence, markup=False, soft_wrap=True)
    return sweep_command.carry_out(sweep, store, decisions, plan, options, console)


def load(options: argparse.Namespace) -> tuple[Sweep, Store, Decisions, Plan, tuple[str, ...]]:
    """The confirmation as a sweep, its store, and its plan; and what is to be said of it beforehand."""
    whole = load_sweep(options.file, smoke=options.smoke, sets=options.sets)
    store = open_store(options.store)
    asked = Decisions(whole, store)
    found = confirmation(make_plan(whole, None, asked.configs[: whole.samples]), store, options.seeds)
    return found.sweep, store, Decisions(found.sweep, store), make_plan(found.sweep, store), found.words
