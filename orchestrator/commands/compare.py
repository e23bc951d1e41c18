"""What tells one run from another: settings, seeds, fields, code, data, versions, machines, results.

Runs are named SWEEP, SWEEP/RUN or FILE.py, those of another store after STORE#. Results are compared setting by
setting; nothing of that was declared beforehand, so it is exploratory.

examples:
  python -m orchestrator compare sam_rho/2026-11-22 sam_rho
  python -m orchestrator compare sam_rho s3://bucket/prefix#sam_rho
  python -m orchestrator compare sam_rho sam_groups --metric Lanczos.lambda_max --json
"""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Sequence

from ..compare import Remade, ResultPair, RunComparison, Shared, compare_runs
from ..differences import Difference, in_words
from ..report import words
from ..text import plain, say
from .common import RUN_HELP, Opened, counted, open_run

INDENT = 11
LISTED = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="RUN", help=RUN_HELP)
    parser.add_argument("b", metavar="RUN", help="another")
    parser.add_argument(
        "--metric",
        metavar="PATH",
        action="append",
        default=[],
        help="whose results to compare, such as Lanczos.lambda_max (default: the metric of the first)",
    )
    parser.add_argument("--json", action="store_true", help="one object with all of it")


def run(options: argparse.Namespace) -> int:
    a, b = open_run(options.a, options), open_run(options.b, options)
    found = compare_runs(a.study, b.study, options.metric)
    if options.json:
        about = {
            side: {"store": str(o.store), "run": o.path, "remarks": o.study.remarks} for side, o in (("a", a), ("b", b))
        }
        say(json.dumps({**about, **found.as_data()}, indent=1))
        return 0
    for side, opened in (("A", a), ("B", b)):
        say(f"{side}  {_about(opened)}")
        for remark in opened.study.remarks:
            _row("", remark)
    say("")
    if a.path == b.path and str(a.store) == str(b.store):
        say("Nothing differs: they are one and the same run.")
    elif not found.differs:
        say(f"Nothing differs: {_tasks_in_both(found.tasks)}.")
    else:
        _print(found)
    return 0


def _about(opened: Opened) -> str:
    study = opened.study
    settings, seeds = counted(len(study.settings), "setting"), counted(len(study.replicates), "seed")
    return (
        f"{opened.path.removeprefix('runs/')} in {opened.store} ({settings} × {seeds}, "
        f"{counted(len(study.tasks), 'task')})"
    )


def _print(found: RunComparison) -> None:
    _row("settings", _shared(found.settings))
    _row("seeds", _shared(found.seeds))
    _row("training", _fields(found.training) or "the same fields")
    probes = [p for p in (_fields(found.probes), _shared(found.measured) if found.measured else "") if p]
    _row("probes", "; ".join(probes) or "the same")
    _row("code", _code(found))
    _row("data", _names(found.data) or "the same")
    _row("versions", _fields(found.versions) or "the same")
    _row("machines", _fields(found.machines) or "the same")
    _row("tasks", f"{_tasks_in_both(found.tasks)}")
    for task in found.tasks:
        if task.different:
            _row("", _apart(task))
    _print_results(found.results)


def _row(name: str, text: str) -> None:
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    lines = textwrap.wrap(plain(text), width - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    for line, title in zip(lines, [name, *[""] * len(lines)], strict=False):
        say(f"{title:{INDENT}}{line}".rstrip())


def _shared(shared: Shared) -> str:
    both = f"{_listed(shared.both)} in both" if shared.both else "none in both"
    if not shared:
        return f"the same: {_listed(shared.both)}" if shared.both else "none"
    return "; ".join([both, *_only(shared)])


def _only(shared: Shared) -> list[str]:
    sides = (("A", shared.only_a), ("B", shared.only_b))
    return [f"only in {side}: {_listed(names)}" for side, names in sides if names]


def _listed(names: Sequence[str]) -> str:
    if len(names) > LISTED:
        return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more"
    separator = "; " if any("," in n for n in names) else ", "
    return separator.join(names)


def _fields(differences: Sequence[Difference]) -> str:
    told = [
        f"{d.name.removeprefix('train.')}: {in_words(d.values[0])} → {in_words(d.values[1])}"
        for d in differences[:LISTED]
    ]
    more = [f"and {len(differences) - LISTED} more (--json)"] if len(differences) > LISTED else []
    return "; ".join([*told, *more])


def _names(differences: Sequence[Difference]) -> str:
    return f"differs: {_listed([d.name for d in differences])}" if differences else ""


def _code(found: RunComparison) -> str:
    parts = [_names(found.code)] if found.code else []
    parts += _only(found.modules)
    if not parts:
        parts = [f"the same ({counted(len(found.modules.both), 'module')})"]
    return "; ".join([*parts, *([_fields(found.commits)] if found.commits else [])])


def _tasks_in_both(tasks: Sequence[Remade]) -> str:
    same, identical, different = (sum(getattr(t, n) for t in tasks) for n in ("same", "identical", "different"))
    total = same + identical + different
    if not total:
        return "none in both"
    parts = [f"{same} are the same artifacts"] if same else []
    parts += [f"{identical} were made in each, with identical results"] if identical else []
    parts += [f"{different} were made in each, with other results"] if different else []
    return f"{counted(total, 'task')} in both, of which {', '.join(parts)}"


def _apart(task: Remade) -> str:
    sizes = sorted(task.largest.items(), key=lambda item: -item[1] if item[1] < float("inf") else 0)
    told = [f"{name} by up to {words.number(size, 2)}" if size < float("inf") else name for name, size in sizes[:6]]
    more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
    total = task.same + task.identical + task.different
    return f"{task.column}: {task.different} of {total} differ: {', '.join(told)}{more}"


def _print_results(results: Sequence[ResultPair]) -> None:
    if not results:
        return
    say("")
    for metric in dict.fromkeys(r.metric for r in results):
        say(f"{metric}: mean ± half of its 95 % t interval over seeds [n], and B − A with its 95 % interval")
        rows = [r for r in results if r.metric == metric]
        cells = [("", "A", "B", "B − A")]
        cells += [(plain(r.setting), _interval(r, "a"), _interval(r, "b"), _difference(r)) for r in rows]
        widths = [max(len(row[k]) for row in cells) for k in range(3)]
        for row in cells:
            padded = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]]
            say(f"  {'  '.join(padded)}".rstrip())
    say("Exploratory: nothing of this was declared beforehand, and no interval is corrected for the others.")


def _interval(result: ResultPair, side: str) -> str:
    interval = result.a if side == "a" else result.b
    return f"{words.interval(interval)} [{interval.n}]"


def _difference(result: ResultPair) -> str:
    c = result.comparison
    if c is None or c.difference is None:
        return result.note or "–"
    how = f"paired by {counted(c.used, 'seed')}" if c.design == "paired" else f"unpaired, n = {c.n_b} and {c.n_a}"
    if c.low is not None and c.high is not None:
        how = f"{words.with_sign(c.low)} to {words.with_sign(c.high)}; {how}"
    return f"{words.with_sign(c.difference)} ({how}){f'; {result.note}' if result.note else ''}"
