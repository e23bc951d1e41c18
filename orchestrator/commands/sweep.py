"""Plan a sweep, run what is not stored, and report.

examples:
  python -m orchestrator sweep sweeps/sam_rho.py --smoke
  python -m orchestrator sweep sweeps/sam_rho.py --set train.epochs=2 --set 'train.optimizer.rho=[0.0,0.05]' --seeds 3
  python -m orchestrator sweep sweeps/sam_rho.py --address auto --store s3://bucket/prefix
  python -m orchestrator sweep sweeps/sam_rho.py --retry-failed
  python -m orchestrator sweep sweeps/sam_rho.py --log mlflow:http://localhost:5000 --log tensorboard:logs
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..__main__ import EXIT_FAILED, EXIT_INTERRUPTED
from ..decisions import Decisions
from ..errors import DamagedArtifact, InvalidValue, StoreError
from ..events import read_events
from ..graph import Graph, State, summary
from ..plan import Plan, make_plan
from ..records import COMMITTED, RUN_NAME
from ..store import Store
from ..study import Outcome, Study
from ..sweep import Sweep
from ..sweep_file import load_sweep
from ..trackers import Trackers, parse_target
from . import plan as plan_command
from .common import counted, open_store, same_store

if TYPE_CHECKING:
    from ..run import Finished

KEEP_WEIGHTS = ("last", "best", "none")


def add_sweep_arguments(parser: argparse.ArgumentParser, *, seeds: str = "how many seeds") -> None:
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
    parser.add_argument("--seeds", type=int, metavar="N", help=seeds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sweep_arguments(parser)
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """How a sweep is run, whichever it is."""
    parser.add_argument("--address", help="of a Ray cluster; 'auto' finds the one this machine belongs to")
    parser.add_argument("--dry-run", action="store_true", help="plan only, run nothing")
    parser.add_argument("--fail-fast", action="store_true", help="end the run when a task has failed")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="run only what failed in earlier runs of this sweep, and what was waiting for it",
    )
    parser.add_argument(
        "--keep-weights",
        choices=KEEP_WEIGHTS,
        default="last",
        help="which trainings keep the weights they ended with, once nothing is waiting for them: all (last, the "
        "default), those of the best setting (best), or none; what needs them later trains again",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long to wait for a store that ceases to answer (default: %(default).0f)",
    )
    parser.add_argument(
        "--log",
        metavar="TRACKER:WHERE",
        action="append",
        default=[],
        help="also tell of every trial in mlflow:URI, tensorboard:FOLDER, wandb:PROJECT or comet:PROJECT; "
        "may be given several times",
    )


def load(options: argparse.Namespace) -> tuple[Sweep, Store, Decisions, Plan]:
    """The sweep as asked for, its store, and its plan."""
    sweep = load_sweep(options.file, smoke=options.smoke, sets=options.sets, seeds=options.seeds)
    store = open_store(options.store, new=True)
    decisions = Decisions(sweep, store)
    return sweep, store, decisions, make_plan(sweep, store, decisions.configs[: sweep.samples])


def run(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    check(options)
    return carry_out(*load(options), options, console)


def check(options: argparse.Namespace) -> None:
    """Raise InvalidValue where an option cannot be meant."""
    if not 0 <= options.patience < math.inf:
        raise InvalidValue(f"--patience must be a number of seconds of at least 0, not {options.patience:g}.")
    for text in options.log:
        parse_target(text)


def carry_out(
    sweep: Sweep, store: Store, decisions: Decisions, plan: Plan, options: argparse.Namespace, console: Console
) -> int:
    """Run what is not stored, and report; returns the exit code."""
    targets = [parse_target(text) for text in dict.fromkeys(options.log)]
    if options.dry_run:
        plan_command.print_plan(plan, store, options, console)
        return 0
    store.check_writable()
    store.patience = options.patience  # from here on: it has answered, and was able to write
    store.on_wait = lambda sentence: console.print(sentence, markup=False, soft_wrap=True)
    store.clean_up()
    if decisions.damage is not None:
        console.print(decisions.damage, markup=False, soft_wrap=True)
    for sentence in audit(plan, store):
        console.print(sentence, markup=False, soft_wrap=True)
    only = only_failed(plan, store) if options.retry_failed else None
    if only is not None and not only:
        console.print("No task of this sweep has failed and is not stored: there is nothing to retry.")
        return 0
    graph = Graph()
    chosen = [n for n in plan.nodes.values() if only is None or n.key in only or n.key in plan.stored]
    plan.add_to(graph, chosen, store, stopped=decisions.stopped_keys)

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    undecided = sweep.search is not None and plan.proposals < sweep.samples and only is None
    if graph.finished and not undecided:
        outcome = outcome_of(graph, {}, command=command_line())
        study = Study.from_plan(plan, store, outcome)
        drop_weights(study, plan, store, options.keep_weights)
        with Trackers(targets, plan, store, store.latest_run(sweep.name) or "", say) as trackers:
            return conclude(study, store, None, summary(graph.counts), console, trackers)

    from ..progress import Progress
    from ..run import execute_plan, preflight

    preflight(plan, only)
    path = f"runs/{sweep.name}/{new_run_name()}"
    with Trackers(targets, plan, store, path, say) as trackers:
        with Progress(console, title=sweep.name, store=same_store(options)) as progress:
            done = execute_plan(
                plan,
                store,
                path,
                address=options.address,
                decisions=decisions,
                listeners=(progress, trackers),
                reports=bool(targets),
                only=only,
                fail_fast=options.fail_fast,
                keep_weights=options.keep_weights != "none",
                source={"file": os.path.abspath(sweep.file), "command": command_line()},
            )
        return finish(done, plan, store, path, options.keep_weights, console, trackers)


def finish(
    done: Finished, plan: Plan, store: Store, path: str, keep_weights: str, console: Console, trackers: Trackers
) -> int:
    """Write and say what a run has come to."""
    store.clean_up()
    if done.left_out:
        hosts = ", ".join(done.left_out)
        console.print(f"{counted(len(done.left_out), 'node')} took no part: {hosts}", markup=False, soft_wrap=True)
    outcome = outcome_of(
        done.graph,
        done.errors,
        started=done.started,
        seconds=done.seconds,
        startup=done.startup,
        slots=done.slots,
        command=command_line(),
        interrupted=done.interrupted or done.halted is not None,
        left_out=done.left_out,
    )
    kept = done.graph.counts[State.DONE] + done.graph.counts[State.STORED]
    if done.interrupted or done.halted:
        with contextlib.suppress(StoreError):  # it may be the store that ends the run
            study = Study.from_plan(plan, store, outcome)
            study.save(store, path)
            print_failures(study, console)
            trackers.complete(study)
        why = "Interrupted" if done.interrupted else f"Stopped: {done.halted}\nSo far"
        more = f"{kept} of {len(plan.nodes)} tasks are in the store; run the same command again to go on."
        for sentence in (f"{why}: {more}", *trackers.close()):
            console.print(sentence, markup=False, soft_wrap=True)
        return EXIT_INTERRUPTED if done.interrupted else EXIT_FAILED
    study = Study.from_plan(plan, store, outcome)
    drop_weights(study, plan, store, keep_weights)
    return conclude(study, store, path, summary(done.graph.counts), console, trackers)


def audit(plan: Plan, store: Store) -> list[str]:
    """Look at what the store holds of the plan; what is damaged is set aside, to be made again.

    Returns:
        a sentence for each damaged artifact.
    """
    damaged: list[DamagedArtifact] = []
    stored = [(n.name, n.key) for n in plan.nodes.values() if n.key in plan.stored]
    for _ in store.manifests(stored, damaged):
        pass
    for error in damaged:
        store.set_aside(error.task_name, error.key)
        plan.stored.discard(error.key)
    return [f"{e.task_name} {e.key[:12]} is damaged ({e.reason}): set aside, made again." for e in damaged]


def only_failed(plan: Plan, store: Store) -> set[str]:
    """The tasks that failed in earlier runs of the sweep, what is gone of what they need, and what waited for them."""
    failed: set[str] = set()
    for name in store.names(f"runs/{plan.sweep.name}"):
        for event in read_events(store, f"runs/{plan.sweep.name}/{name}"):
            if event["event"] == "failed":
                failed.add(str(event.get("key")))
    chosen = {k for k in failed if k in plan.nodes and k not in plan.stored}
    if chosen:
        # Also what was made from something that is gone: no task is known before its inputs.
        chosen |= {a for k in (*chosen, *plan.stored) for a in plan.ancestors(k) if a not in plan.stored}
        for key in plan.nodes:  # inputs stand before what needs them
            above = plan.ancestors(key)
            if key not in plan.stored and chosen & set(above) and all(a in plan.stored or a in chosen for a in above):
                chosen.add(key)
    return chosen


def drop_weights(study: Study, plan: Plan, store: Store, keep: str) -> None:
    """Delete the weights of the trainings that are not to keep them, unless something still waits for them."""
    best = study.best() if keep == "best" else None
    if keep == "last" or (keep == "best" and best is None):  # of one setting, that one is the best
        return
    settled = {k for k, t in study.tasks.items() if t.state in COMMITTED}
    waiting = {a for k in plan.nodes if k not in settled for a in plan.ancestors(k)}
    for node in plan.nodes.values():
        if node.kind == "train" and node.key in settled and node.key not in waiting:
            if best is None or node.trials[0].setting.index != best:
                store.drop_weights(node.name, node.key)


def outcome_of(graph: Graph, errors: Mapping[str, str], **about: Any) -> Outcome:
    """What became of the tasks, in the study's terms."""
    vertices = graph.vertices
    return Outcome(
        states={k: v.state.value for k, v in vertices.items()},
        errors=errors,
        because={k: v.because for k, v in vertices.items() if v.because},
        **about,
    )


def conclude(
    study: Study, store: Store, path: str | None, last_line: str, console: Console, trackers: Trackers | None = None
) -> int:
    """Write what a run leaves (unless an equal report is there), print table, failures and last line."""
    from ..report import print_verdicts, terminal_table, write_report

    if trackers is not None:
        trackers.complete(study)  # they take it in while the report is made
    latest = f"runs/{study.sweep}/{store.latest_run(study.sweep)}"
    if path is None and study.is_saved(store, latest):
        report = f"{latest}/report.html"
    else:
        path = path or f"runs/{study.sweep}/{new_run_name()}"
        with console.status("making tables and report …"):
            study.save(store, path)
            study.write_tables(store, path)
            write_report(study, store, path)
        report = f"{path}/report.html"
        store.write(f"runs/{study.sweep}/latest", path.rpartition("/")[2].encode())
    for key, reason in study.damaged.items():
        store.set_aside(study.tasks[key].name, key)
        words = f"{study.tasks[key].label} is damaged ({reason}): set aside; the same command makes it again."
        console.print(words, markup=False, soft_wrap=True)
    console.print(terminal_table(study, console.width))
    print_verdicts(study, console)
    failed = print_failures(study, console)
    for sentence in (*(trackers.close() if trackers is not None else ()), f"report: {store.shown(report)}"):
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(last_line, markup=False)
    return EXIT_FAILED if failed or study.damaged else 0


def print_failures(study: Study, console: Console) -> int:
    """Name the failed tasks, why, and how much depended on each.

    Returns:
        how many there are.
    """
    failed = [t for t in study.tasks.values() if t.state == State.FAILED.value]
    for task in failed[:10]:
        waiting = sum(t.because == task.key for t in study.tasks.values())
        need = "1 task that needs it was" if waiting == 1 else f"{waiting} tasks that need it were"
        blocked = f" ({need} skipped)" if waiting else ""
        label = task.column + task.label.removeprefix(task.name)  # tells probes of one class apart
        console.print(f"failed: {label}: {task.error}{blocked}; logs {task.key[:12]}", markup=False, soft_wrap=True)
    if len(failed) > 10:
        console.print(f"… and {len(failed) - 10} more failed")
    return len(failed)


def new_run_name() -> str:
    return datetime.now(timezone.utc).strftime(RUN_NAME)


def command_line() -> str:
    """This command as one would type it again."""
    return shlex.join(["python", "-m", "orchestrator", *sys.argv[1:]])
