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
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.errors import nearest

from ..cluster_file import PRICE, ClusterFile, read_cluster_file
from ..decisions import Decisions
from ..durations import Durations, Estimate, Group, known_durations
from ..errors import ClusterError, InvalidValue, UserError
from ..forecast import Forecast, forecast, past_times
from ..pilot import Pilot, amounts, pilot_of
from ..plan import Plan, why
from ..slots import NodeKind
from ..store import Store
from ..text import one_line
from .common import counted, same_store


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
    durations = known_durations(plan, store, stated)
    expected = expectation(plan, store, decisions, durations, cluster)
    if options.json:
        print(json.dumps(as_json(plan, store, durations, expected, cluster, options.why)))
        return 0
    console = Console(highlight=False)
    print_counts(plan, console)
    print_expectation(plan, store, durations, expected, cluster, options, console)
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
    plan: Plan, store: Store, decisions: Decisions, durations: Durations, cluster: ClusterFile | None
) -> Forecast | None:
    """What the run would take on the cluster, or on this machine; None if that cannot be said.

    Raises:
        ClusterError: no node of the cluster has a slot that is asked for.
    """
    if all(key in plan.stored for key in plan.nodes) or durations.unknown():
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
    durations: Durations,
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
        "unknown_durations": durations.unknown(),
        "durations": {name: kind_as_json(name, durations) for name in durations.known()},
        "sizes": [group_as_json(group, plan) for group in durations.groups.values() if group.to_run],
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


def kind_as_json(name: str, durations: Durations) -> dict[str, Any]:
    """What is known of the durations of a kind of task."""
    estimates = [group.estimate for group in durations.groups_of(name) if group.estimate is not None]
    return {
        "mean": durations.mean(name),
        "measured": sum(e.measured for e in estimates),
        "devices": sorted({device for e in estimates for device in e.devices}),
    }


def group_as_json(group: Group, plan: Plan) -> dict[str, Any]:
    """What is known of tasks of equal work; None where nothing is."""
    estimate = group.estimate
    told: dict[str, Any] = {"task": group.name, "example": plan.nodes[group.example].label, "to_run": group.to_run}
    told |= {"amount": group.work.amount, "amount_of": group.amount_name or None}
    if estimate is None:
        return {**told, "mean": None, "how": None, "measured": 0, "at": [], "devices": []}
    return {
        **told,
        "mean": estimate.mean,
        "how": estimate.how,
        "measured": estimate.measured,
        "at": list(estimate.at),
        "devices": list(estimate.devices),
    }


def expected_work(plan: Plan, durations: Durations) -> dict[str, float]:
    """Task-seconds and GPU-hours still to spend.

    Empty if no duration of some kind of task is known: then nothing honest can be said.
    """
    seconds = gpu_seconds = 0.0
    for group in durations.groups.values():
        if group.to_run and group.estimate is None:
            return {}
        if group.to_run and group.estimate is not None:
            seconds += group.to_run * group.estimate.mean
            gpu = plan.slot(plan.nodes[group.example]).get("gpu", 0.0)
            gpu_seconds += group.to_run * group.estimate.mean * gpu
    return {"seconds": seconds, "gpu_hours": gpu_seconds / 3600}


def print_plan(plan: Plan, store: Store, options: argparse.Namespace, console: Console) -> None:
    """The counts by kind of task, and how long they may take."""
    durations = known_durations(plan, store, {})
    print_counts(plan, console)
    print_expectation(plan, store, durations, None, None, options, console)


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
    store: Store,
    durations: Durations,
    expected: Forecast | None,
    cluster: ClusterFile | None,
    options: argparse.Namespace,
    console: Console,
) -> None:
    """How long the tasks take, and the run; where that is not known, why not."""
    todo = {n.name: None for n in plan.nodes.values() if n.key not in plan.stored}

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if not todo:
        return
    unknown = durations.unknown()
    if unknown:
        say(
            f"Expected work: unknown, since no earlier run of this sweep tells how long {_listed(unknown)} "
            f"{'takes' if len(unknown) == 1 else 'take'} at this size: "
            f"{remedy(unknown, pilot_of(plan, store, durations), options)}."
        )
        return
    work = expected_work(plan, durations)
    gpu = f", {work['gpu_hours']:.2g} GPU-hours" if work["gpu_hours"] else ""
    say(f"Expected work: {_time(work['seconds'])} of tasks{gpu}.")
    say("Durations:")
    for name in todo:
        say(f"  {_told(name, durations)}")
    if (doubt := _counted_too_often(plan, durations)) is not None:
        say(doubt)
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


def remedy(unknown: list[str], pilot: Pilot | None, options: argparse.Namespace) -> str:
    """How to get at durations that are not known: by a pilot, or by stating them."""
    state = f"state {'it' if len(unknown) == 1 else 'them'} (plan … --seconds {','.join(f'{n}=…' for n in unknown)})"
    if pilot is None:
        return state
    words = ["sweep", shlex.quote(options.file), *(["--smoke"] if options.smoke else [])]
    words += [f"--set {shlex.quote(s)}" for s in options.sets if s.partition("=")[0].strip() not in pilot.overrides]
    words += [f"--seeds {pilot.seeds}", *(f"--set {path}={value}" for path, value in pilot.overrides.items())]
    lacking = f", which leaves {_listed(list(pilot.lacking))} unknown" if pilot.lacking else ""
    command = f"{' '.join(words)}{same_store(options)}"
    return f"run a pilot ({command}: {counted(pilot.tasks, 'task')}{lacking}), or {state}"


def _told(name: str, durations: Durations) -> str:
    """A kind of task with its duration, and whence it is known."""
    groups = durations.groups_of(name)
    found = [(group, group.estimate) for group in groups if group.estimate is not None]
    mean = f"{name} {_time(durations.mean(name))}"
    if found[0][1].how == "stated":
        return f"{mean} as stated"
    means = [_time(seconds) for seconds in sorted(estimate.mean for _, estimate in found)]
    if means[0] != means[-1]:
        mean += f" on average, {means[0]} to {means[-1]} in {len(found)} sizes"
    told = [(group, estimate) for group, estimate in found if estimate.how != "others"]
    guessed = sum(group.to_run or group.tasks for group, estimate in found if estimate.how == "others")
    words = [_whence(told)] if told else []
    if guessed:
        words.append(f"{counted(guessed, 'task')} of sizes not measured, reckoned as the nearest")
    return f"{mean} ({'; '.join(words)})"


def _whence(told: list[tuple[Group, Estimate]]) -> str:
    """What measurements say of one or several groups of a kind."""
    group, estimate = told[0]
    number = sum(e.measured for _, e in told)
    at = sorted({amount for _, e in told for amount in e.at})
    factors = sorted({e.factor for _, e in told})
    hows = {e.how for _, e in told}
    words = [f"{number} measured"]
    if hows != {"measured"}:
        place = f"at {group.amount_name}={_listed([_number(a) for a in at[:4]])}{', …' if len(at) > 4 else ''}"
        if len(told) > 1:
            words = [f"{number} measured {place}"]
        elif number == 1:
            words = [f"measured {_time(estimate.before)} {place}"]
        else:
            words = [f"{number} measured", f"{_time(estimate.before)} {place}"]
        if hows == {"scaled"}:
            span = " to ".join(dict.fromkeys((_number(factors[0]), _number(factors[-1]))))
            words.append(f"times {span}")
        elif hows == {"line"} and len(told) == 1:
            words.append(f"{_time(estimate.fixed)} and {_time(estimate.each)} each")
        else:
            words.append("in part scaled" if "scaled" in hows else "by straight lines")
    words.append(f"on {', '.join(sorted({device for _, e in told for device in e.devices}))}")
    if any(e.early for _, e in told):
        words.append("diverged" if all(e.early for _, e in told) else "some diverged")
    if any(e.elsewhere and e.how == "measured" for _, e in told):
        words.append("with trainings of other length")
    simple = hows == {"measured"} and len(words) == 2
    return " ".join(words) if simple else ", ".join(words)


def _counted_too_often(plan: Plan, durations: Durations) -> str | None:
    """What is wrong with scaling one amount far, and what would tell more."""
    name, paths = type(plan.sweep.train).__name__, amounts(plan)
    if name not in durations.known() or not paths:
        return None
    scaled = [g.estimate for g in durations.groups_of(name) if g.estimate is not None and g.estimate.how == "scaled"]
    if not scaled:
        return None
    most, longest = max(e.factor for e in scaled), max(amount for e in scaled for amount in e.at)
    if most <= 3:
        return None
    return (
        f"What {name} does once (start, last evaluation) is counted up to {_number(most)} times here, so it takes "
        f"less: a second pilot with {paths[0]}={_number(3 * longest)} would tell how much."
    )


def _number(value: float) -> str:
    return f"{round(value, 1):g}"


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
