"""Where the numbers come from: code, data, machines, time; and how to get them again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..study import Study
from . import marked
from .links import Links


@dataclass(frozen=True)
class Machine:
    """What ran on a host with one kind of device."""

    host: str
    processor: str
    device: str
    platform: str
    tasks: int
    cpu_seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class Command:
    """A command, and what it does."""

    command: str
    words: str


def facts(study: Study, links: Links) -> list[tuple[str, list[Markup | str]]]:
    """(name, values) of each fact."""
    manifests = study.manifests()
    run = study.run
    found: list[tuple[str, list[Markup | str]]] = []

    def add(name: str, values: Iterable[Markup | str]) -> None:
        kept = [v for v in dict.fromkeys(values) if v]
        if kept:
            found.append((name, kept))

    add("Commands", _counted((_command(m) for m in manifests), "artifact"))
    add("Code (git)", _counted((_commit(m.get("git")) for m in manifests), "artifact"))
    versions: dict[str, dict[str, None]] = {}
    for m in manifests:
        for name, version in (m.get("versions") or {}).items():
            versions.setdefault(name, {})[str(version)] = None
    add("Versions", [", ".join(f"{name} {' and '.join(told)}" for name, told in versions.items())])
    add("Data", [_dataset(m, links) for m in manifests if m.get("kind") == "data"])
    add("Time", _time(study))
    if run.get("seconds"):
        add("This run", _this_run(study))
    elif study.tasks and all(t.state == "stored" for t in study.tasks.values()):
        add("This run", ["all tasks were stored before"])
    peak = max((m.get("peak_memory_bytes") or 0 for m in manifests), default=0)
    if peak:
        mib = marked.number(peak, "peak_memory_bytes", of="cost", text=f"{peak / 2**20:.0f}", form="MiB")
        add("Memory", [Markup("{} MiB at most in a process").format(mib)])
    return found


def machines(study: Study) -> list[Machine]:
    """Hosts and devices, with the time that tasks took there, whenever they ran."""
    found: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for m in study.manifests():
        about = (str(m.get(name) or "") for name in ("host", "processor", "device", "platform"))
        found.setdefault(tuple(about), []).append(m)  # type: ignore[arg-type]
    return [Machine(*about, len(own), *_seconds(own)) for about, own in found.items()]


def _seconds(manifests: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Seconds of tasks, each times the CPUs, and the GPUs, of its slot."""
    cpu = gpu = 0.0
    for m in manifests:
        seconds, slot = float(m.get("seconds", 0.0)), m.get("slot") or {}
        cpu += seconds * float(slot.get("cpu", 1.0))
        gpu += seconds * float(slot.get("gpu", 0.0))
    return cpu, gpu


def hours(seconds: float, stat: str) -> Markup:
    """Hours with two digits, marked with the seconds they are of."""
    value = seconds / 3600
    text = f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.1f}"
    return marked.number(seconds, stat, text=text, form="hours")


def _time(study: Study) -> list[Markup]:
    manifests = study.manifests()
    total = sum(float(m.get("seconds", 0.0)) for m in manifests)
    cpu, gpu = _seconds(manifests)
    sums = Markup("{} CPU-hours and {} GPU-hours").format(hours(cpu, "cpu_seconds"), hours(gpu, "gpu_seconds"))
    return [
        Markup("<span{}>{}: the time of each of {} times the CPUs and GPUs of its slot, whenever it ran</span>").format(
            marked.origin(of="cost"), sums, marked.count(len(manifests), "artifact", "artifacts")
        ),
        Markup("<span{}>{} of tasks in all</span>").format(marked.origin(of="cost"), marked.duration(total, "seconds")),
    ]


def _this_run(study: Study) -> list[Markup | str]:
    run = study.run
    text = Markup("{}").format(marked.duration(run["seconds"], "seconds", of="run"))
    if run.get("slots"):
        text += Markup(" on {}").format(marked.count(run["slots"], "slot", "slots"))
    if run.get("startup"):
        text += Markup(", of it {} start-up").format(marked.duration(run["startup"], "startup", of="run"))
    states = Counter(t.state for t in study.tasks.values())
    text += Markup("; {} tasks ran, {} were stored before").format(
        marked.number(states["done"], "ran", of="count"), marked.number(states["stored"], "stored", of="count")
    )
    return [text, *(f"no task ran on {host}, which was left out" for host in run.get("left_out") or ())]


def _counted(values: Iterable[str], noun: str) -> list[Markup | str]:
    """Each value once; where there are several, of how many."""
    counts = Counter(v for v in values if v)
    if len(counts) == 1:
        return list(counts)
    return [Markup("{} ({})").format(v, marked.count(n, noun, "artifacts_alike")) for v, n in counts.most_common(8)]


def _command(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("source") or {}).get("command") or "")


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git or not git.get("commit"):
        return ""
    return str(git["commit"])[:12] + (" with uncommitted changes" if git.get("dirty") else "")


def _dataset(manifest: Mapping[str, Any], links: Links) -> Markup:
    """A dataset's name, the hash of its content if it has one, and of its files."""
    files = manifest.get("files") or {}
    hashes = ", ".join(f"{name} {str(about.get('sha256', ''))[:12]}" for name, about in sorted(files.items()))
    content = (manifest.get("results") or {}).get("sha256")
    told = Markup("SHA-256 of the content <code>{}</code>; ").format(content) if isinstance(content, str) else ""
    name = manifest.get("label") or manifest.get("task")
    return Markup("{} {}: {}of its files {}").format(name, links.artifact(str(manifest["key"])), told, hashes)


def commands(study: Study) -> list[Command]:
    """What to type to run it again, to verify it, and to compute one artifact anew."""
    several = study.run.get("commands")
    if several:  # runs taken together
        again = "Runs one of them again. What is stored is not computed again."
        page = str(study.run.get("report") or "")
        return [
            *(Command(str(c), again) for c in several),
            *([Command(page, "Makes this page from the stores.")] if page else []),
        ]
    command = str(study.run.get("command") or "")
    found = []
    if command:
        found.append(
            Command(command, "Runs it again. What is stored is not computed again; with another --store everything is.")
        )
    store = _store_option(command)
    found.append(
        Command(f"python -m orchestrator verify{store}", "Reads every file of the store and compares it with its hash.")
    )
    best = study.best()
    training = [t for c in study.columns_of("train") for t in study.of_column(c.name) if t.state in ("stored", "done")]
    one = next((t for t in training if best is None or study.cell(t)[0] == best), None)
    if one:
        found.append(
            Command(
                f"python -m orchestrator rerun {one.key[:12]}{store}",
                f"Computes one artifact again ({one.label}) and compares results and files with those stored.",
            )
        )
    winner = study.findings.winner
    if winner and winner.command:
        found.append(
            Command(winner.command, "Compares the best setting with the baseline on seeds it was not chosen by.")
        )
    found.append(
        Command(f"python -m orchestrator report {shlex.quote(study.sweep)}{store}", "Makes this page from the store.")
    )
    return found


def _store_option(command: str) -> str:
    """The --store of a command line, to go with another command."""
    try:
        typed = shlex.split(command)
    except ValueError:
        return ""
    for i, part in enumerate(typed):
        if part == "--store" and i + 1 < len(typed):
            return f" --store {shlex.quote(typed[i + 1])}"
        if part.startswith("--store="):
            return f" {shlex.quote(part)}"
    return ""


def size_and_date(study: Study) -> list[Markup | str]:
    """The size of the study and how it went, for the top of the page."""
    import time

    trials = sum(len(study.of_column(c.name)) for c in study.columns_of("train"))
    counts = study.counts()
    settings = marked.count(len(study.settings), "setting", "settings")
    seeds = marked.count(len(study.replicates), "seed", "seeds")
    done = marked.number(counts.get("done", 0), "tasks_done", of="count")
    started = study.run.get("started") or max(
        (m.get("started", 0.0) + m.get("seconds", 0.0) for m in study.manifests()), default=0.0
    )
    every = trials == len(study.settings) * len(study.replicates)  # else some settings have other seeds than others
    return [
        Markup("{} × {} = {}" if every else "{}, {}, {}").format(
            settings, seeds, marked.count(trials, "trial", "trials")
        ),
        Markup("{}: {} ended well").format(marked.count(len(study.tasks), "task", "tasks"), done),
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
    ]
