"""What a sweep would run, and why.

examples:
  python -m orchestrator plan sweeps/sam_rho.py
  python -m orchestrator plan sweeps/sam_rho.py --why --set probes.Lanczos.k=5
  python -m orchestrator plan sweeps/sam_rho.py --json
  python -m orchestrator plan sweeps/sam_rho.py --graph plan.dot && dot -Tsvg plan.dot > plan.svg
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..plan import Plan, past_seconds, why
from ..store import Store
from ..text import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .sweep import add_sweep_arguments

    add_sweep_arguments(parser)
    parser.add_argument("--why", action="store_true", help="say for every task why it must run")
    parser.add_argument("--json", action="store_true", help="one JSON object: tasks, stored, to_run, by_task, …")
    parser.add_argument("--graph", metavar="FILE", help="write the graph in Graphviz's DOT language")


def run(options: argparse.Namespace) -> int:
    from .sweep import load

    _, store, _, plan = load(options)
    if options.graph:
        write_dot(plan, options.graph)
    if options.json:
        print(json.dumps(as_json(plan, store, options.why)))
        return 0
    console = Console(highlight=False)
    print_plan(plan, store, console)
    if options.why:
        print_why(plan, why(plan, store), console)
    return 0


def as_json(plan: Plan, store: Store, with_reasons: bool) -> dict[str, Any]:
    """The plan as plain data."""
    stored = len([k for k in plan.nodes if k in plan.stored])
    work = expected_work(plan, store)
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
    }
    if with_reasons:
        told["why"] = [
            {"key": key, "task": plan.nodes[key].label, "why": reason} for key, reason in why(plan, store).items()
        ]
    return told


def expected_work(plan: Plan, store: Store) -> dict[str, float]:
    """Task-seconds and GPU-hours still to spend, from what tasks of this sweep took in earlier runs.

    Empty if some kind of task has never run: then nothing honest can be said.
    """
    todo = [n for n in plan.nodes.values() if n.key not in plan.stored]
    mean = past_seconds(plan, store)
    if any(n.name not in mean for n in todo):
        return {}
    gpu_seconds = sum(mean[n.name] * plan.slot(n).get("gpu", 0.0) for n in todo)
    return {"seconds": sum(mean[n.name] for n in todo), "gpu_hours": gpu_seconds / 3600}


def print_plan(plan: Plan, store: Store, console: Console) -> None:
    """The counts by kind of task, and how long they may take."""
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
    if totals["to_run"]:
        work = expected_work(plan, store)
        if work:
            gpu = f", {work['gpu_hours']:.2g} GPU-hours" if work["gpu_hours"] else ""
            console.print(f"Expected work from past durations: {_time(work['seconds'])} of tasks{gpu}.")
        else:
            console.print("Expected work: unknown, since some of these tasks have never run in this sweep.")


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
