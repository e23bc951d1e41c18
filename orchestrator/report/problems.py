"""What went wrong, and what else a reader must know before the numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from ..study import DONE, Study
from . import marked, words
from .links import Links

MAX_FAILURES = 100

_ORDER = ("diverged", "failed", "stopped", "skipped", "not run")


@dataclass(frozen=True)
class Failure:
    """A task that gave no result, why, and what was skipped for its sake."""

    label: str
    status: str
    reason: str
    skipped: Markup
    artifact: Markup
    key: str


@dataclass(frozen=True)
class Failures:
    """The first of them; how many there are; what the run did not come to."""

    rows: list[Failure]
    total: int
    not_run: Markup


def notices(study: Study) -> list[Markup]:
    """Sentences for the top of the page; none if there is nothing to warn of."""
    found = []
    parts = []
    for status in _ORDER:
        by_column = Counter(t.column for t in study.tasks.values() if study.statuses[t.key] == status)
        if by_column:
            tasks = [Markup("{} {}").format(_number(n, status, column), column) for column, n in by_column.items()]
            parts.append(Markup("{}: {}").format(status, Markup(", ").join(tasks)))
    if parts:
        found.append(
            Markup('Not all ended well. {}. <a href="#failures">Which, and why.</a>').format(Markup("; ").join(parts))
        )
    if study.run.get("interrupted"):
        found.append(Markup("The run was interrupted before all was done; the same command goes on."))
    manifests = study.manifests()
    commits = {(m.get("git") or {}).get("commit") for m in manifests} - {None}
    if len(commits) > 1:
        many = marked.number(len(commits), "commits", of="count")
        found.append(
            Markup(
                'The artifacts were made at {} commits of the code: see <a href="#provenance">provenance</a>.'
            ).format(many)
        )
    if any((m.get("git") or {}).get("dirty") for m in manifests):
        found.append(
            Markup(
                'Some artifacts were made from code with uncommitted changes: see <a href="#provenance">provenance</a>.'
            )
        )
    if study.damaged:
        many = marked.count(len(study.damaged), "artifact", "damaged")
        found.append(Markup("Files of {} could not be used: {}.").format(many, words.listed(_labels(study))))
    return found


def _number(n: int, status: str, column: str) -> Markup:
    return marked.number(n, "tasks", of="count", status=status, column=column)


def _labels(study: Study) -> list[str]:
    told = [f"{study.tasks[key].label} ({reason})" for key, reason in study.damaged.items()]
    return told[:5] + ([f"{len(told) - 5} more"] if len(told) > 5 else [])


def failures(study: Study, links: Links) -> Failures:
    """Tasks that diverged, failed or were stopped."""
    victims: dict[str, Counter[str]] = {}
    not_run = Counter[str]()
    for task in study.tasks.values():
        status = study.statuses[task.key]
        if status == "skipped" and task.because in study.tasks and task.because != task.key:
            victims.setdefault(str(task.because), Counter())[task.column] += 1
        elif status in ("skipped", "not run"):
            not_run[task.column] += 1
    bad = [t for t in study.tasks.values() if study.statuses[t.key] in ("diverged", "failed", "stopped")]
    rows = []
    for task in sorted(bad, key=lambda t: _ORDER.index(study.statuses[t.key]))[:MAX_FAILURES]:
        skipped = [_skipped(n, column, task.key) for column, n in victims.get(task.key, Counter()).items()]
        rows.append(
            Failure(
                task.label,
                study.statuses[task.key],
                study.reason(task.key),
                Markup(", ").join(skipped) or Markup("–"),
                links.artifact(task.key),
                task.key,
            )
        )
    told = [Markup("{} {}").format(_number(n, "not run", column), column) for column, n in not_run.items()]
    return Failures(rows, len(bad), Markup(", ").join(told))


def _skipped(n: int, column: str, key: str) -> Markup:
    return Markup("{} {}").format(marked.number(n, "skipped", of="count", column=column, because=key), column)


def all_ended_well(study: Study) -> bool:
    return all(status == DONE for status in study.statuses.values())
