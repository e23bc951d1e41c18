"""What a sweep would run, and why.

examples:
  python -m orchestrator plan sweeps/sam_rho.py
  python -m orchestrator plan sweeps/sam_rho.py --why --set probes.Lanczos.k=5
  python -m orchestrator plan sweeps/sam_rho.py --json
  python -m orchestrator plan sweeps/sam_rho.py --cluster cluster.yaml
  python -m orchestrator plan sweeps/sam_rho.py --cluster cluster.yaml --seconds Train=900,Lanczos=40
  python -m orchestrator plan sweeps/sam_rho.py --graph plan.dot && dot -Tsvg plan.dot > plan.svg
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.errors import nearest

from ..cluster_file import PRICE, ClusterFile, read_cluster_file
from ..decisions import Decisions
from ..errors import ClusterError, InvalidValue, UserError
from ..forecast import Forecast, Measured, forecast, measured, past_times, unknown_kinds
from ..plan import Plan, why
from ..slots import NodeKind
from ..store import Store
from ..text import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .sweep import add_sweep_arguments

    add_sweep_arguments(parser)
    parser.add_argument("--why", action="store_true", help="say for every task why it must run")
    parser.add_argument("--json", action="store_true", help="one JSON object: tasks, stored, to_run, by_task, …")
    parser.add_argument("--graph", metavar="FILE", help="write the graph in Graphviz's DOT language")
    parser.add_argument(
        "--cluster", metavar="FILE", help="a cluster file (cluster.yaml): say what the run would take there, and cost"
    )
    parser.add_argument(
        "--seconds",
        metavar="TASK=SECONDS,…",
        action="append",
        default=[],
        help="how long tasks take, where no earlier run of this sweep tells",
    )


def run(options: argparse.Namespace) -> int:
    from .sweep import load

    _, store, decisions, plan = load(options)
    stated = stated_seconds(options.seconds, plan)
    cluster = None if options.cluster is None else read_cluster_file(options.cluster)
    if options.graph:
        write_dot(plan, options.graph)
    durations = measured(plan, store, stated)
    expected = expectation(plan, store, decisions, durations, cluster)
    if options.json:
        print(json.dumps(as_json(plan, store, durations, expected, cluster, options.why)))
        return 0
    console = Console(highlight=False)
    print_counts(plan, console)
    print_expectation(plan, durations, expected, cluster, console)
    if options.why:
        print_why(plan, why(plan, store), console)
    return 0


def stated_seconds(words: list[str], plan: Plan) -> dict[str, float]:
    """What --seconds says.

    Raises:
        InvalidValue: it names no task of the sweep, or no number of seconds.
    """
    names = {node.name for node in plan.nodes.values()}
    stated = {}
    for word in (w.strip() for several in words for w in several.split(",")):
        name, _, amount = word.partition("=")
        if name not in names:
            near = nearest(name, sorted(names))
            raise InvalidValue(f"--seconds names {name!r}, which is no task of the sweep{near}.")
        try:
            stated[name] = float(amount)
        except ValueError:
            stated[name] = math.nan
        if not 0 < stated[name] < math.inf:
            raise InvalidValue(f"--seconds {word!r} must be written as {name}=120, a number of seconds above 0.")
    return stated


def expectation(
    plan: Plan, store: Store, decisions: Decisions, durations: Mapping[str, Measured], cluster: ClusterFile | None
) -> Forecast | None:
    """What the run would take on the cluster, or on this machine; None if that cannot be said.

    Raises:
        ClusterError: no node of the cluster has a slot that is asked for.
    """
    if all(key in plan.stored for key in plan.nodes) or unknown_kinds(plan, durations):
        return None
    times = past_times(plan, store)
    if cluster is None:
        try:
            return forecast(plan, store, [this_machine()], durations, times=times, stopped=decisions.stopped_keys)
        except ClusterError:
            return None  # it is to run elsewhere
    return forecast(
        plan,
        store,
        cluster.kinds,
        durations,
        times=dataclasses.replace(times, idle=60 * cluster.idle_minutes),
        at_most=cluster.most_workers,
        stopped=decisions.stopped_keys,
    )


def this_machine() -> NodeKind:
    """What Ray would find here."""
    gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    return NodeKind("this machine", {"CPU": os.cpu_count() or 1, **({"GPU": gpus} if gpus else {})}, 1, 1, head=True)


def as_json(
    plan: Plan,
    store: Store,
    durations: Mapping[str, Measured],
    expected: Forecast | None,
    cluster: ClusterFile | None,
    with_reasons: bool,
) -> dict[str, Any]:
    """The plan as plain data."""
    stored = len([k for k in plan.nodes if k in plan.stored])
    work = expected_work(plan, durations)
    told: dict[str, Any] = {
        "sweep": plan.sweep.name,
        "store": str(store),
        "settings": len(plan.settings),
        "seeds": len(plan.sweep.replicates),
        "tasks": len(plan.nodes),
        "stored": stored,
        "to_run": len(plan.nodes) - stored,
        "by_task": plan.by_task(),
        "expected_seconds": work.get("seconds"),
        "expected_gpu_hours": work.get("gpu_hours"),
        "unknown_durations": unknown_kinds(plan, durations),
        "durations": {
            name: {"mean": found.mean, "measured": len(found.devices and found.seconds), "devices": found.devices}
            for name, found in durations.items()
        },
        "forecast": None,
    }
    if expected is not None:
        told["forecast"] = {
            "cluster": None if cluster is None else str(cluster.path),
            "slots": expected.runs[0].slots,
            "simulated": len(expected.runs),
            "seconds": expected.range_of("seconds"),
            "node_hours": expected.node_hours(),
            "most_nodes": expected.peak_nodes(),
            "gpu_hours": expected.range_of("gpu_hours"),
            "dollars": None if cluster is None else expected.range_of("dollars"),
            "at_least_seconds": expected.range_of("bound"),
        }
    if with_reasons:
        told["why"] = [
            {"key": key, "task": plan.nodes[key].label, "why": reason} for key, reason in why(plan, store).items()
        ]
    return told


def expected_work(plan: Plan, durations: Mapping[str, Measured]) -> dict[str, float]:
    """Task-seconds and GPU-hours still to spend.

    Empty if no duration of some kind of task is known: then nothing honest can be said.
    """
    todo = [n for n in plan.nodes.values() if n.key not in plan.stored]
    if any(n.name not in durations for n in todo):
        return {}
    means = {name: found.mean for name, found in durations.items()}
    gpu_seconds = sum(means[n.name] * plan.slot(n).get("gpu", 0.0) for n in todo)
    return {"seconds": sum(means[n.name] for n in todo), "gpu_hours": gpu_seconds / 3600}


def print_plan(plan: Plan, store: Store, console: Console) -> None:
    """The counts by kind of task, and how long they may take."""
    durations = measured(plan, store, {})
    print_counts(plan, console)
    print_expectation(plan, durations, None, None, console)


def print_counts(plan: Plan, console: Console) -> None:
    """The tasks by kind: all, stored, to run."""
    if not plan.nodes and plan.sweep.search is not None:
        console.print(f"All {plan.sweep.samples} settings are for {type(plan.sweep.search).__name__} to propose.")
        return
    table = Table(title=f"{plan.sweep.name}: {len(plan.settings)} settings × {len(plan.sweep.replicates)} seeds")
    for column in ("task", "all", "stored", "to run"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, counts in plan.by_task().items():
        table.add_row(name, *[str(counts[k]) for k in ("tasks", "stored", "to_run")])
    totals = Counter[str]()
    for counts in plan.by_task().values():
        totals.update(counts)
    table.add_section()
    table.add_row("all", *[str(totals[k]) for k in ("tasks", "stored", "to_run")])
    console.print(table)
    if plan.sweep.search is not None:
        open_settings = plan.sweep.samples - plan.proposals
        console.print(f"{open_settings} further settings are for {type(plan.sweep.search).__name__} to propose.")


def print_expectation(
    plan: Plan,
    durations: Mapping[str, Measured],
    expected: Forecast | None,
    cluster: ClusterFile | None,
    console: Console,
) -> None:
    """How long the tasks take, and the run; where that is not known, why not."""
    todo = {n.name: None for n in plan.nodes.values() if n.key not in plan.stored}

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if not todo:
        return
    unknown = unknown_kinds(plan, durations)
    if unknown:
        example = ",".join(f"{name}=…" for name in unknown)
        say(
            f"Expected work: unknown, since no earlier run of this sweep tells how long {_listed(unknown)} "
            f"{'takes' if len(unknown) == 1 else 'take'} at this size: run some seeds (sweep … --seeds 2), or state it "
            f"(plan … --seconds {example})."
        )
        return
    work = expected_work(plan, durations)
    gpu = f", {work['gpu_hours']:.2g} GPU-hours" if work["gpu_hours"] else ""
    say(f"Expected work: {_time(work['seconds'])} of tasks{gpu}.")
    say(f"Durations: {'; '.join(_told(name, durations[name]) for name in todo)}.")
    if expected is None:
        return
    seconds = expected.range_of("seconds")
    assert seconds is not None
    if cluster is None:
        say(f"Expected on this machine ({expected.runs[0].slots} slots): {_span(seconds, _time)}.")
        return
    gpu_hours, dollars = expected.range_of("gpu_hours"), expected.range_of("dollars")
    say(f"Expected on {cluster.path} ({expected.runs[0].slots} slots): {_span(seconds, _time)}.")
    hours, most = expected.node_hours(), expected.peak_nodes()
    nodes = [f"{name} {hours[name]:.2g} h (at most {most[name]} at a time)" for name in hours]
    if gpu_hours and gpu_hours["mean"]:
        nodes.append(f"GPUs {_span(gpu_hours, lambda h: f'{h:.3g} h')}")
    say(f"Nodes: {', '.join(nodes)}.")
    if dollars is not None:
        say(f"Cost at the prices in the file: {_span(dollars, lambda d: f'${d:.2f}')}, without storage and traffic.")
    else:
        free = [k.name for k in cluster.kinds if k.dollars is None and hours.get(k.name)]
        say(f"Cost: not known, since the file states no price for {_listed(free)} (a label {PRICE!r}).")
    say("Losses of nodes, failing tasks and the time that uploads take are not reckoned with.")


def _told(name: str, found: Measured) -> str:
    if not found.devices:
        return f"{name} {_time(found.mean)} as stated"
    return f"{name} {_time(found.mean)} ({len(found.seconds)} measured on {', '.join(found.devices)})"


def _span(found: Mapping[str, float], say: Callable[[float], str]) -> str:
    low, high = say(found["low"]), say(found["high"])
    return say(found["mean"]) if low == high else f"{say(found['mean'])} ({low} to {high})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def print_why(plan: Plan, reasons: Mapping[str, str], console: Console) -> None:
    """One line for each task that must run; equal reasons of one kind of task are told once."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for key, reason in reasons.items():
        grouped.setdefault((plan.nodes[key].name, reason), []).append(key)
    for (name, reason), keys in grouped.items():
        what = plan.nodes[keys[0]].label if len(keys) == 1 else f"{name} ({len(keys)} tasks)"
        console.print(one_line(f"{what}: {reason}"), markup=False, soft_wrap=True)


def write_dot(plan: Plan, file: str) -> None:
    """The graph in DOT, stored tasks filled."""
    lines = ["digraph plan {", "  rankdir=LR; node [shape=box, fontname=Helvetica];"]
    for node in plan.nodes.values():
        fill = ', style=filled, fillcolor="#d9ead3"' if node.key in plan.stored else ""
        label = json.dumps(node.label.replace(" · ", "\n"), ensure_ascii=False)
        lines.append(f'  "{node.key}" [label={label}{fill}];')
        lines += [f'  "{i}" -> "{node.key}";' for i in node.inputs]
    try:
        Path(file).write_text("\n".join([*lines, "}", ""]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"The graph cannot be written to {file!r}: {error.strerror}.") from None


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
