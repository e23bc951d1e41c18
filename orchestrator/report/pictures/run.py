"""How the run went: what became of the tasks, and when each ran on which worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...study import DONE, Study, TaskRecord
from .. import style, words
from .canvas import Picture, legend, panels, rendered


def outcome_picture(study: Study) -> Picture | None:
    """How many tasks of each kind ended how; None if all ended well."""
    counts = {
        name: [study.statuses[t.key] for t in study.of_column(name)] for name in study.columns if study.of_column(name)
    }
    if all(s == DONE for statuses in counts.values() for s in statuses):
        return None
    fig, (ax,) = panels(1, 1, height=0.9 + 0.28 * len(counts))
    names = list(counts)
    left = [0] * len(names)
    for status, (colour, hatch) in style.OUTCOMES.items():
        widths = [counts[name].count(status) for name in names]
        if not any(widths):
            continue
        ax.barh(range(len(names)), widths, left=left, color=colour, hatch=hatch, ec="#333333", lw=0.5, label=status,
                height=0.7)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    longest = max(map(len, counts.values()))
    for i, name in enumerate(names):
        wrong = [f"{counts[name].count(s)} {s}" for s in style.OUTCOMES if s != DONE and s in counts[name]]
        ax.text(left[i] + 0.01 * longest, i, ", ".join(wrong), ha="left", va="center", fontsize=7)
    ax.set_xlim(0, 1.3 * longest)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("tasks")
    ax.grid(axis="y", visible=False)
    legend(fig, *ax.get_legend_handles_labels(), 6)
    caption = (
        "Tasks of each kind by how they ended. Diverged: the loss became non-finite, which is a result. "
        "Skipped: something the task depends on failed, diverged or was stopped."
    )
    title = "What became of the tasks"
    return Picture("outcomes", title, caption, "run", "", *rendered(fig, title))


def timeline_picture(study: Study) -> Picture | None:
    """When each task of this run ran on which worker; None if none ran."""
    ran = [(t, study.manifest(t.key)) for t in study.tasks.values() if t.state == "done"]
    ran = [(t, m) for t, m in ran if isinstance(m.get("started"), (int, float)) and "seconds" in m]
    if not ran:
        return None
    zero = study.run.get("started") or min(m["started"] for _, m in ran)
    zero = min(zero, min(m["started"] for _, m in ran))
    workers = sorted({(str(m.get("host", "")), str(m.get("worker", ""))) for _, m in ran})
    many_hosts = len({h for h, _ in workers}) > 1
    total = _total_by_column(ran)
    names = sorted(total, key=lambda c: -total[c])
    kept = names if len(names) <= style.MAX_SERIES else names[: style.MAX_SERIES - 1]
    rest = [n for n in names if n not in kept]
    end = max(max(m["started"] + m["seconds"] for _, m in ran) - zero, float(study.run.get("seconds") or 0.0))
    unit, size = ("s", 1.0) if end < 300 else ("min", 60.0) if end < 3 * 3600 else ("h", 3600.0)
    drawn = workers[:64]
    fig, (ax,) = panels(1, 1, height=min(1.5 + 0.32 * len(drawn), 7.5))
    names = [*kept, *(["others"] if rest else [])]
    inches = style.WIDTH * 0.72 / (end / size)
    for i, name in enumerate(names):
        colour = style.CATEGORIES[i] if name != "others" else "#999999"
        for row, worker in enumerate(drawn):
            bars = [
                ((m["started"] - zero) / size, m["seconds"] / size)
                for t, m in ran
                if (str(m.get("host", "")), str(m.get("worker", ""))) == worker
                and (t.column == name or (name == "others" and t.column in rest))
            ]
            wide = bool(bars) and sum(w for _, w in bars) / len(bars) * inches > 0.05
            ax.broken_barh(bars, (row - 0.38, 0.76), fc=colour, ec="white" if wide else colour, lw=0.4)
            for start, width in bars:
                if width * inches > 0.075 * len(name) and len(ran) <= 500:
                    ax.text(start + width / 2, row, name, ha="center", va="center", fontsize=6, color="white")
        ax.bar(0, 0, color=colour, label=f"{name} ({words.duration(_sum(total, name, rest))})")
    startup = float(study.run.get("startup") or 0.0)
    if startup:
        ax.axvspan(0, startup / size, fc="#EEEEEE", ec="none", zorder=0)
        ax.text(startup / size / 2, -0.52, "start-up", ha="center", va="bottom", fontsize=7, color="#555555")
    ax.set_xlim(0, end / size * 1.01)
    ax.set_ylim(len(drawn) - 0.4, -0.75)
    ax.set_yticks(range(len(drawn)), [f"{h} {i + 1}" if many_hosts else str(i + 1) for i, (h, _) in enumerate(drawn)])
    ax.set_ylabel("worker")
    ax.set_xlabel(f"time since the start of the run ({unit})")
    ax.grid(axis="y", visible=False)
    legend(fig, *ax.get_legend_handles_labels(), 4)
    busy = sum(m["seconds"] for _, m in ran)
    caption = (
        f"Every task that this run carried out ({len(ran)}), by worker and kind; in brackets the time they took in all."
    )
    slots, seconds = study.run.get("slots") or 0, float(study.run.get("seconds") or 0.0) - startup
    if slots and seconds > 0:
        share = min(busy / (slots * seconds), 1.0)
        after = " after start-up" if startup else ""
        caption += f" Tasks filled {share:.0%} of {words.count(slots, 'slot')} × {words.duration(seconds)}{after}."
    if len(drawn) < len(workers):
        caption += f" {len(drawn)} of {len(workers)} workers are drawn."
    stored = sum(t.state == "stored" for t in study.tasks.values())
    if stored:
        caption += f" {stored} tasks were stored before and did not run."
    if any(s == "failed" for s in study.statuses.values()):
        caption += " Failed tasks leave no times and are not drawn."
    return Picture("timeline", "Tasks on workers", caption, "run", "", *rendered(fig, "Tasks on workers"))


def _total_by_column(ran: Sequence[tuple[TaskRecord, Any]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for task, manifest in ran:
        total[task.column] = total.get(task.column, 0.0) + manifest["seconds"]
    return total


def _sum(total: dict[str, float], name: str, rest: Sequence[str]) -> float:
    return sum(total[n] for n in rest) if name == "others" and rest else total[name]
