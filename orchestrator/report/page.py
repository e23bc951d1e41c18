"""The report: one self-contained page of HTML, and the pictures beside it."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..store import Store
from ..study import DONE, Metric, Study, Summary
from . import words
from .pictures import Picture, pictures
from .terminal import ranked
from .views import name_of

__all__ = ["write_report"]

MAX_SETTINGS = 100
MAX_TRIALS = 200
MAX_FAILURES = 100
MAX_PAIR_CELLS = 60
WIDE = 9  # columns: a wider headline table is split by task


def write_report(study: Study, store: Store, run_path: str) -> str:
    """Write report.html and plots/*.{png,svg} into the run's folder; returns the path of the page in the store."""
    drawn = pictures(study)
    for picture in drawn:
        store.write(f"{run_path}/plots/{picture.name}.png", picture.png)
        store.write(f"{run_path}/plots/{picture.name}.svg", picture.svg)
    page = f"{run_path}/report.html"
    store.write(page, render(study, drawn).encode())
    return page


def render(study: Study, drawn: Sequence[Picture]) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    question, _, rest = study.question.partition("\n\n")
    return template.render(
        study=study,
        question=question or f"The sweep {study.sweep}",
        background=[p.strip() for p in rest.split("\n\n") if p.strip()],
        facts=_facts(study),
        headline=_headline(study),
        reading=_reading(study),
        sections=_sections(study, drawn),
        run_pictures=[_picture(p) for p in drawn if p.kind == "run"],
        failures=_failures(study),
        trials=_trials(study),
        provenance=_provenance(study),
        files=[f"{name}.parquet" for name in _table_names(study)],
    )


def _table_names(study: Study) -> list[str]:
    names = ["trials", "summary"]
    if study.columns_of("pair"):
        names += ["pairs", "pair_summary"]
    return names + (["groups"] if study.columns_of("group") else [])


def _facts(study: Study) -> list[str]:
    """The size of the study and how it went, in a line."""
    trials = sum(len(study.of_column(c.name)) for c in study.columns_of("train"))
    counts = study.counts()
    bad = [f"{n} {status}" for status, n in counts.items() if status != DONE]
    seeds = words.count(len(study.replicates), "seed")
    return [
        f"{words.count(len(study.settings), 'setting')} × {seeds} = {words.count(trials, 'trial')}",
        f"{words.count(len(study.tasks), 'task')}: {counts.get(DONE, 0)} ended well"
        + (f", {', '.join(bad)}" if bad else ""),
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(study.run.get("started") or _newest(study))),
    ]


def _newest(study: Study) -> float:
    return max((m.get("started", 0.0) + m.get("seconds", 0.0) for m in study.manifests()), default=0.0)


# Tables


def _headline(study: Study) -> list[dict[str, Any]]:
    """The headline table, or one for each task if it were too wide."""
    metrics = study.headline("train", "probe")
    if not metrics:
        return []
    groups: list[tuple[str, list[Metric]]] = [("", metrics)]
    if len(metrics) > WIDE:
        by_column: dict[str, list[Metric]] = {}
        for m in metrics:
            by_column.setdefault(m.column.name, []).append(m)
        groups = list(by_column.items())
    best = study.best()
    shown = ranked(study)[:MAX_SETTINGS] if len(study.settings) > MAX_SETTINGS else study.settings
    tables = []
    for title, chosen in groups:
        cells = {m.path: {s.settings[0]: s for s in study.summaries(m)} for m in chosen}
        rows = [
            {
                "label": s.label,
                "best": s.index == best and study.main_metric in chosen,
                "cells": [
                    {
                        **_cell(cells[m.path].get(s.index)),
                        "main": s.index == best and m.name == study.metric and m.column.kind == "train",
                    }
                    for m in chosen
                ],
            }
            for s in shown
        ]
        heads = [{"task": m.column.name, "name": m.name, "words": m.words} for m in chosen]
        tables.append({"title": title, "heads": heads, "rows": rows, "more": len(study.settings) - len(shown)})
    return tables


def _cell(summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {"text": "–", "n": "", "missing": ""}
    n = summary.interval.n + summary.censored
    return {"text": words.summary(summary), "n": str(n), "missing": summary.missing_words}


def _reading(study: Study) -> list[str]:
    """What the numbers of the headline table are, and what they are not."""
    seeds = len(study.replicates)
    if seeds == 1:
        text = ["One seed: the numbers are single measurements, and nothing here separates a setting from luck."]
    else:
        text = [
            "Mean ± half of the 95 % Student t interval over seeds; in brackets the number of seeds in it. "
            "The interval says how well the mean of this setting is known, if values are roughly normal over seeds."
        ]
    if seeds in (2, 3):
        text.append(f"With {seeds} seeds the intervals are wide because the spread itself is hardly known.")
    missing = Counter[str]()
    main = study.main_metric
    for summary in study.summaries(main) if main else []:
        missing.update(summary.missing)
    if missing:
        gone = ", ".join(f"{n} {reason}" for reason, n in missing.items())
        text.append(f"Means are over the trials that ended well; not in them: {gone}.")
    if any(s.censored for m in study.headline("train", "probe") for s in study.summaries(m)):
        text.append(
            "Censored: the value lies above the range that was looked at. Then a mean would be too small, and the "
            "median stands in its place, with the censored values above all others."
        )
    best = study.best()
    if best is not None and main is not None:
        text.append(
            f"★ marks the {'highest' if study.mode == 'max' else 'lowest'} mean of {main.words} "
            f"among {len(study.settings)} settings; one that lost a seed is not in question, since the mean of the "
            "others would flatter it. That is exploratory: no test was made, and the best of several means is biased "
            "in its favour. Confirm it on fresh seeds."
        )
    return text


def _pair_table(study: Study, column: str) -> dict[str, Any] | None:
    metrics = [m for m in study.headline("pair") if m.column.name == column]
    if not metrics:
        return None
    by_metric = [{s.settings: s for s in study.summaries(m)} for m in metrics]
    cells = sorted({c for found in by_metric for c in found}, key=lambda c: (len(set(c)) > 1, c))
    rows = []
    for cell in cells[:MAX_PAIR_CELLS]:
        a, b = name_of(study, cell[0]), name_of(study, cell[-1])
        found = [f.get(cell) for f in by_metric]
        seeds = max((s.interval.units for s in found if s), default=0)
        rows.append(
            {"label": a if cell[0] == cell[-1] else f"{a} × {b}", "seeds": seeds, "cells": list(map(_cell, found))}
        )
    return {
        "title": column,
        "heads": [{"task": column, "name": m.name, "words": m.words} for m in metrics],
        "rows": rows,
        "more": len(cells) - len(rows),
        "note": "Mean over pairs of trials ± half of the 95 % interval, by a jackknife over seeds, because pairs "
        "share seeds; in brackets the number of pairs. Without ±: too few seeds for an interval.",
    }


def _group_table(study: Study, column: str) -> dict[str, Any] | None:
    metrics = [m for m in study.headline("group") if m.column.name == column]
    if not metrics:
        return None
    tasks = {study.cell(t)[0]: t for t in study.of_column(column)}
    rows = []
    for setting, task in list(tasks.items())[:MAX_SETTINGS]:
        results = study.results(task.key) if study.statuses[task.key] == DONE else {}
        cells = [
            {"text": words.number(results.get(m.name)), "n": "", "missing": "" if results else study.statuses[task.key]}
            for m in metrics
        ]
        rows.append({"label": study.settings[setting].label, "seeds": len(task.trials), "cells": cells})
    return {
        "title": column,
        "heads": [{"task": column, "name": m.name, "words": m.words} for m in metrics],
        "rows": rows,
        "more": len(tasks) - len(rows),
        "note": "One value from all seeds of a setting together; it has no interval over seeds.",
    }


def _trials(study: Study) -> dict[str, Any]:
    """One row a trial, with the headline metrics."""
    metrics = study.headline("train", "probe")[:12]
    by_trial: dict[tuple[int, str], dict[str, str]] = {}
    for column in study.columns_of("train", "probe"):
        for task in study.of_column(column.name):
            by_trial.setdefault(task.trials[0], {})[column.name] = task.key
    rows = []
    training = {c.name for c in study.columns_of("train")}
    for (setting, seed), keys in list(by_trial.items())[:MAX_TRIALS]:
        key = next((k for name, k in keys.items() if name in training), "")
        cells = []
        for m in metrics:
            probe = keys.get(m.column.name)
            status = study.statuses[probe] if probe else ""
            ended = probe is not None and status == DONE
            text = words.number(study.results(probe).get(m.name)) if ended and probe else status or "–"
            cells.append({"text": text, "bad": not ended})
        rows.append(
            {
                "setting": study.settings[setting].label,
                "seed": seed,
                "cells": cells,
                "status": study.statuses.get(key, ""),
                "key": key,
            }
        )
    heads = [{"task": m.column.name, "name": m.name, "words": m.words} for m in metrics]
    return {"heads": heads, "rows": rows, "more": len(by_trial) - len(rows)}


def _failures(study: Study) -> dict[str, Any]:
    """Tasks that diverged, failed or were stopped, why, and what was skipped for their sake."""
    victims: dict[str, Counter[str]] = {}
    orphans = Counter[str]()
    for task in study.tasks.values():
        status = study.statuses[task.key]
        if status == "skipped" and task.because in study.tasks and task.because != task.key:
            victims.setdefault(str(task.because), Counter())[task.column] += 1
        elif status in ("skipped", "not run"):
            orphans[task.column] += 1
    rows = []
    for task in study.tasks.values():
        status = study.statuses[task.key]
        if status in ("diverged", "failed", "stopped"):
            skipped = [f"{n} {name}" for name, n in victims.get(task.key, Counter()).items()]
            rows.append(
                {
                    "label": task.label,
                    "status": status,
                    "reason": study.reason(task.key),
                    "skipped": ", ".join(skipped) or "–",
                    "key": task.key,
                }
            )
    return {
        "rows": rows[:MAX_FAILURES],
        "more": max(len(rows) - MAX_FAILURES, 0),
        "orphans": ", ".join(f"{n} {name}" for name, n in orphans.items()),
    }


# Sections of pictures


_TITLES = {
    "train": ("Training", ""),
    "probe": ("Probes of single trials", ""),
    "pair": ("Pairs of trials", ""),
    "group": ("All seeds of a setting together", ""),
}


def _sections(study: Study, drawn: Sequence[Picture]) -> list[dict[str, Any]]:
    sections = []
    for kind, (title, _) in _TITLES.items():
        parts = []
        for column in study.columns_of(kind):
            table = None
            if kind == "pair":
                table = _pair_table(study, column.name)
            elif kind == "group":
                table = _group_table(study, column.name)
            own = [_picture(p) for p in drawn if p.column == column.name and p.kind == kind]
            if own or table:
                parts.append({"name": column.name, "pictures": own, "table": table})
        if parts:
            sections.append({"id": kind, "title": title, "parts": parts})
    return sections


def _picture(picture: Picture) -> dict[str, str]:
    return {
        "title": picture.title,
        "caption": picture.caption,
        "file": f"plots/{picture.name}.png",
        "source": "data:image/png;base64," + base64.b64encode(picture.png).decode(),
    }


# Where the numbers come from


def _provenance(study: Study) -> list[tuple[str, list[str]]]:
    manifests = study.manifests()
    run = study.run
    facts: list[tuple[str, list[str]]] = []

    def add(name: str, values: Sequence[str]) -> None:
        kept = [v for v in dict.fromkeys(values) if v]
        if kept:
            facts.append((name, kept))

    add("Code (git)", [_commit(m.get("git")) for m in manifests])
    versions: dict[str, dict[str, None]] = {}
    for m in manifests:
        for name, version in (m.get("versions") or {}).items():
            versions.setdefault(name, {})[str(version)] = None
    add("Versions", [f"{name} {' and '.join(found)}" for name, found in versions.items()])
    devices = Counter(str(m.get("device", "")) for m in manifests)
    add("Devices", [f"{device} ({words.count(n, 'task')})" for device, n in devices.items() if device])
    hosts = list(dict.fromkeys(str(m.get("host", "")) for m in manifests))
    add("Hosts", hosts[:8] + ([f"and {len(hosts) - 8} more"] if len(hosts) > 8 else []))
    add("Data", [_dataset(study, m) for m in manifests if m.get("kind") == "data"])
    total = sum(float(m.get("seconds", 0.0)) for m in manifests)
    add(
        "Time of all tasks", [f"{words.duration(total)}, whenever they ran ({words.count(len(manifests), 'artifact')})"]
    )
    if run.get("seconds"):
        slots = f" on {words.count(run['slots'], 'slot')}" if run.get("slots") else ""
        startup = f", of it {words.duration(run['startup'])} start-up" if run.get("startup") else ""
        stored = sum(t.state == "stored" for t in study.tasks.values())
        ran = sum(t.state == "done" for t in study.tasks.values())
        left_out = [f"no task ran on {host}, which was left out" for host in run.get("left_out") or ()]
        add(
            "This run",
            [
                f"{words.duration(run['seconds'])}{slots}{startup}; {ran} tasks ran, {stored} were stored before",
                *left_out,
            ],
        )
    elif study.tasks and all(t.state == "stored" for t in study.tasks.values()):
        add("This run", ["all tasks were stored before"])
    peak = max((m.get("peak_memory_bytes") or 0 for m in manifests), default=0)
    if peak:
        add("Largest memory of a task", [f"{peak / 2**20:.0f} MiB"])
    return facts


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git or not git.get("commit"):
        return ""
    return str(git["commit"])[:12] + (" with uncommitted changes" if git.get("dirty") else "")


def _dataset(study: Study, manifest: Mapping[str, Any]) -> str:
    files = manifest.get("files") or {}
    hashes = ", ".join(f"{name} {str(info.get('sha256', ''))[:12]}" for name, info in sorted(files.items()))
    name = manifest.get("label") or manifest.get("task")
    return f"{name} (key {str(manifest.get('key'))[:12]}; SHA-256 of files: {hashes})"
