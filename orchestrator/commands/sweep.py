"""Plan a sweep, run what is not stored, and report.

examples:
  python -m orchestrator sweep sweeps/sam_rho.py --smoke
  python -m orchestrator sweep sweeps/sam_rho.py --set train.epochs=2 --set 'train.optimizer.rho=[0.0,0.05]' --seeds 3
  python -m orchestrator sweep sweeps/sam_rho.py --address auto --store s3://bucket/prefix
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rich.console import Console

from ..__main__ import EXIT_FAILED, EXIT_INTERRUPTED
from ..decisions import Decisions
from ..graph import Graph, State, summary
from ..plan import Plan, make_plan
from ..store import Store, without_passwords
from ..study import Outcome, Study
from ..sweep import Sweep, load_sweep
from . import plan as plan_command


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """What `sweep` and `plan` have in common: the file and its overrides."""
    parser.add_argument("file", metavar="FILE", help="the sweep file, such as sweeps/sam_rho.py")
    parser.add_argument("--smoke", action="store_true", help="the small size that the file declares: minutes, no GPU")
    parser.add_argument(
        "--set",
        dest="sets",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="override a field; a [list] of values for a field of the training is a grid",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sweep_arguments(parser)
    parser.add_argument("--address", help="of a Ray cluster; 'auto' finds the one this machine belongs to")
    parser.add_argument("--dry-run", action="store_true", help="plan only, run nothing")


def load(options: argparse.Namespace) -> tuple[Sweep, Store, Decisions, Plan]:
    """The sweep as asked for, its store, and its plan."""
    sweep = load_sweep(options.file, smoke=options.smoke, sets=options.sets, seeds=options.seeds)
    store = Store(options.store)
    decisions = Decisions(sweep, store)
    return sweep, store, decisions, make_plan(sweep, store, decisions.configs[: sweep.samples])


def run(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    sweep, store, decisions, plan = load(options)
    if options.dry_run:
        plan_command.print_plan(plan, store, console)
        return 0
    store.check_writable()
    graph = Graph()
    plan.add_to(graph, plan.nodes.values(), store, stopped=decisions.stopped_keys)
    undecided = sweep.search is not None and plan.proposals < sweep.samples
    if graph.finished and not undecided:
        outcome = outcome_of(graph, {}, command=command_line())
        return conclude(Study.from_plan(plan, store, outcome), store, None, summary(graph.counts), console)

    from ..progress import Progress
    from ..run import execute_plan, preflight

    preflight(plan)
    path = f"runs/{sweep.name}/{new_run_name()}"
    with Progress(plan, console) as progress:
        done = execute_plan(
            plan,
            store,
            path,
            address=options.address,
            decisions=decisions,
            listeners=(progress,),
            on_start=progress.watch,
        )
    outcome = outcome_of(
        done.graph,
        done.errors,
        started=done.started,
        seconds=done.seconds,
        startup=done.startup,
        slots=done.slots,
        command=command_line(),
        interrupted=done.interrupted,
    )
    study = Study.from_plan(plan, store, outcome)
    if done.interrupted:
        study.save(store, path)
        kept = done.graph.counts[State.DONE] + done.graph.counts[State.STORED]
        console.print(
            f"Interrupted: {kept} of {len(plan.nodes)} tasks are in the store; run the same command again to go on."
        )
        return EXIT_INTERRUPTED
    return conclude(study, store, path, summary(done.graph.counts), console)


def outcome_of(graph: Graph, errors: Mapping[str, str], **about: Any) -> Outcome:
    """What became of the tasks, in the study's terms."""
    vertices = graph.vertices
    return Outcome(
        states={k: v.state.value for k, v in vertices.items()},
        errors=errors,
        because={k: v.because for k, v in vertices.items() if v.because},
        **about,
    )


def conclude(study: Study, store: Store, path: str | None, last_line: str, console: Console) -> int:
    """Write what a run leaves (unless an equal report is there), print table, failures and last line."""
    from ..report import terminal_table, write_report

    latest = f"runs/{study.sweep}/{store.latest_run(study.sweep)}"
    if path is None and study.is_saved(store, latest):
        report = f"{latest}/report.html"
    else:
        path = path or f"runs/{study.sweep}/{new_run_name()}"
        study.save(store, path)
        study.write_tables(store, path)
        write_report(study, store, path)
        report = f"{path}/report.html"
        store.write(f"runs/{study.sweep}/latest", path.rpartition("/")[2].encode())
    console.print(terminal_table(study, console.width))
    failed = [t for t in study.tasks.values() if t.state == State.FAILED.value]
    for task in failed[:10]:
        waiting = sum(t.because == task.key for t in study.tasks.values())
        need = "1 task that needs it was" if waiting == 1 else f"{waiting} tasks that need it were"
        blocked = f" ({need} skipped)" if waiting else ""
        console.print(
            f"failed: {task.label}: {task.error}{blocked}; logs {task.key[:12]}", markup=False, soft_wrap=True
        )
    if len(failed) > 10:
        console.print(f"… and {len(failed) - 10} more failed")
    console.print(f"report: {store.shown(report)}", markup=False, soft_wrap=True)
    console.print(last_line, markup=False)
    return EXIT_FAILED if failed else 0


def new_run_name() -> str:
    """A run's name: when it began, to the microsecond, in UTC; names sort by time."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%f")


def command_line() -> str:
    """This command as one would type it again, without passwords."""
    return without_passwords(shlex.join(["python", "-m", "orchestrator", *sys.argv[1:]]))
