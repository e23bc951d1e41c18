"""How the run went: what became of the tasks, and when each ran on which worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue
from ...study import DONE, Study, TaskRecord
from .. import style, words
from .canvas import Picture, caption, legend, note, own_axes, own_legend, panels, rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_WORKERS = 64

Ran = list[tuple[TaskRecord, dict[str, Any]]]


def run_pictures(study: Study) -> Iterator[Picture]:
    """Outcomes, if not all ended well; and the timeline, if anything ran."""
    if any(status != DONE for status in study.statuses.values()):
        fig, (ax,) = panels(1, 1, height=0.9 + 0.28 * sum(bool(study.of_column(c)) for c in study.columns))
        outcomes(study, ax=ax, legend=False)
        legend(fig, *ax.get_legend_handles_labels(), 6)
        title = "What became of the tasks"
        yield Picture("outcomes", title, caption(fig), "run", "", *rendered(fig, title))
    if ran := _ran(study):
        fig, (ax,) = panels(1, 1, height=min(1.5 + 0.32 * min(len(_workers(ran)), MOST_WORKERS), 7.5))
        timeline(study, ax=ax, legend=False)
        legend(fig, *ax.get_legend_handles_labels(), 4)
        yield Picture("timeline", "Tasks on workers", caption(fig), "run", "", *rendered(fig, "Tasks on workers"))


def outcomes(study: Study, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """How many tasks of each kind ended how."""
    counts = {
        name: [study.statuses[t.key] for t in study.of_column(name)] for name in study.columns if study.of_column(name)
    }
    ax = own_axes(ax, 1.5 + 0.28 * len(counts))
    names = list(counts)
    left = [0] * len(names)
    for status, (colour, hatch) in style.OUTCOMES.items():
        widths = [counts[name].count(status) for name in names]
        if not any(widths):
            continue
        ax.barh(range(len(names)), widths, left=left, color=colour, hatch=hatch, ec="#333333", lw=0.5, label=status,
                height=0.7)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    longest = max(map(len, counts.values()), default=1)
    for i, name in enumerate(names):
        wrong = [f"{counts[name].count(s)} {s}" for s in style.OUTCOMES if s != DONE and s in counts[name]]
        ax.text(left[i] + 0.01 * longest, i, ", ".join(wrong), ha="left", va="center", fontsize="small")
    ax.set_xlim(0, 1.3 * longest)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("tasks")
    ax.grid(axis="y", visible=False)
    note(ax, "Tasks of each kind by how they ended. Diverged: the loss became non-finite, which is a result. "
             "Skipped: something the task depends on failed, diverged or was stopped.")  # fmt: skip
    own_legend(ax, legend, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def timeline(study: Study, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """When each task of this run ran on which worker.

    Raises:
        InvalidValue: all tasks were stored before.
    """
    ran = _ran(study)
    if not ran:
        raise InvalidValue("timeline: no task ran in this run; all were stored before, or none ended well.")
    first = min(m["started"] for _, m in ran)
    zero = min(study.run.get("started") or first, first)
    workers = _workers(ran)
    drawn = workers[:MOST_WORKERS]
    ax = own_axes(ax, min(2.0 + 0.32 * len(drawn), 8.0))
    many_hosts = len({h for h, _ in workers}) > 1
    total: dict[str, float] = {}
    for task, manifest in ran:
        total[task.column] = total.get(task.column, 0.0) + manifest["seconds"]
    names = sorted(total, key=lambda c: -total[c])
    kept = names if len(names) <= style.MAX_SERIES else names[: style.MAX_SERIES - 1]
    rest = [n for n in names if n not in kept]
    end = max(max(m["started"] + m["seconds"] for _, m in ran) - zero, float(study.run.get("seconds") or 0.0))
    unit, size = ("s", 1.0) if end < 300 else ("min", 60.0) if end < 3 * 3600 else ("h", 3600.0)
    inches = 0.94 * ax.get_window_extent().width / ax.figure.dpi / (end / size)
    palette = style.colours(len(kept))
    bars: dict[tuple[str, int], list[tuple[float, float]]] = {}
    row = {worker: i for i, worker in enumerate(drawn)}
    for task, m in ran:
        name = task.column if task.column in kept else "others"
        if (place := row.get(_worker(m))) is not None:
            bars.setdefault((name, place), []).append(((m["started"] - zero) / size, m["seconds"] / size))
    shown = []
    for i, name in enumerate([*kept, *(["others"] if rest else [])]):
        colour = palette[i] if name != "others" else "#999999"
        for place in range(len(drawn)):
            own = bars.get((name, place), [])
            wide = bool(own) and sum(w for _, w in own) / len(own) * inches > 0.05
            if own:
                ax.broken_barh(own, (place - 0.38, 0.76), fc=colour, ec="white" if wide else colour, lw=0.4,
                               rasterized=len(ran) > 2000)  # fmt: skip
            for start, end_ in _stretches(own):
                if (end_ - start) * inches > 0.075 * len(name) and len(drawn) <= 16:
                    ax.text((start + end_) / 2, place, name, ha="center", va="center", fontsize="x-small",
                            color=style.readable(colour))  # fmt: skip
        shown.append(name)
        seconds = sum(total[n] for n in rest) if name == "others" and rest else total[name]
        ax.bar(0, 0, color=colour, label=f"{name} ({words.duration(seconds)})")
    startup = float(study.run.get("startup") or 0.0)
    if startup:
        begun = min(m["started"] for _, m in ran) - zero
        ax.axvspan(0, startup / size, zorder=0, lw=0, fc="#E2E2E2", label=f"start-up ({words.duration(startup)})")
        if begun > startup:
            waited = words.duration(begun - startup)
            ax.axvspan(startup / size, begun / size, zorder=0, lw=0, fc="#F6F6F6", ec="#CCCCCC", hatch="////",
                       label=f"workers start ({waited})")  # fmt: skip
            note(ax, "Grey: until the first task could start. Hatched: until it did, while workers started and loaded "
                     "their libraries.")  # fmt: skip
        else:
            note(ax, "Grey: until the first task could start.")
    ax.set_xlim(0, end / size * 1.01)
    ax.set_ylim(len(drawn) - 0.4, -0.6)
    ax.set_yticks(range(len(drawn)), [f"{h} {i + 1}" if many_hosts else str(i + 1) for i, (h, _) in enumerate(drawn)],
                  fontsize="small" if len(drawn) <= 24 else "xx-small")  # fmt: skip
    ax.set_ylabel("worker")
    ax.set_xlabel(f"time since the start of the run ({unit})")
    ax.grid(axis="y", visible=False)
    _say(ax, study, ran, workers, drawn, startup)
    own_legend(ax, legend, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)
    return ax


def _say(ax: Axes, study: Study, ran: Ran, workers: Sequence[Any], drawn: Sequence[Any], startup: float) -> None:
    text = (
        f"Every task that this run carried out ({len(ran)}), by worker and kind; in brackets the time they took in all."
    )
    slots, seconds = study.run.get("slots") or 0, float(study.run.get("seconds") or 0.0) - startup
    if slots and seconds > 0:
        share = min(sum(m["seconds"] for _, m in ran) / (slots * seconds), 1.0)
        after = " after start-up" if startup else ""
        text += f" Tasks filled {share:.0%} of {words.count(slots, 'slot')} × {words.duration(seconds)}{after}."
    if len(drawn) < len(workers):
        text += f" {len(drawn)} of {len(workers)} workers are drawn."
    stored = sum(t.state == "stored" for t in study.tasks.values())
    if stored:
        text += f" {stored} tasks were stored before and did not run."
    if any(s == "failed" for s in study.statuses.values()):
        text += " Failed tasks leave no times and are not drawn."
    note(ax, text)


def _ran(study: Study) -> Ran:
    ran = [(t, study.manifest(t.key)) for t in study.tasks.values() if t.state == "done"]
    return [(t, m) for t, m in ran if isinstance(m.get("started"), (int, float)) and "seconds" in m]


def _worker(manifest: dict[str, Any]) -> tuple[str, str]:
    return str(manifest.get("host", "")), str(manifest.get("worker", ""))


def _workers(ran: Ran) -> list[tuple[str, str]]:
    return sorted({_worker(m) for _, m in ran})


def _stretches(bars: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Bars that follow each other at once, joined: (start, end)."""
    joined: list[tuple[float, float]] = []
    for start, width in sorted(bars):
        if joined and start - joined[-1][1] < 0.25 * width + 1e-9:
            joined[-1] = (joined[-1][0], max(joined[-1][1], start + width))
        else:
            joined.append((start, start + width))
    return joined
