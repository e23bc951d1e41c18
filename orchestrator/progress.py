"""The live view of a run: bars by kind of task on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from .graph import Graph

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from .plan import Plan

LINE_SECONDS = 60.0
FAILURES_SHOWN = 3

_NEWS = {
    "lost": "lost: {label}: {why}",
    "damaged": "damaged: {label}: {why}",
    "enlarged": "out of memory: {label}: it runs again with {slot}",
    "left_out": "{why}",
    "store_away": "waiting for the store: {why}",
    "store_back": "the store answers again",
    "halted": "ending the run: {why}",
}
"""What is worth a line on any terminal, by event."""

_ENDS = {"committed", "failed", "lost", "stopped", "found", "elsewhere", "enlarged", "damaged", "returned"}
"""After these events a task is no longer at work."""


class Progress:
    """Listens to the events of a run and shows where it stands.

    Args:
        plan: the tasks; it may grow.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._graph: Graph | None = None
        self._live: Any = None
        self._started = time.monotonic()
        self._line_due = self._started + LINE_SECONDS / 6
        self._running: dict[str, str] = {}
        self._failures: deque[str] = deque(maxlen=FAILURES_SHOWN)
        self._slots = 1

    def watch(self, graph: Graph, slots: int) -> None:
        """Take the counts from this graph."""
        self._graph, self._slots = graph, slots

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def __call__(self, event: dict[str, Any]) -> None:
        """Take in an event (a listener of `events.Events`)."""
        kind, key = event["event"], event.get("key", "")
        if kind == "submitted":
            self._running[key] = event["label"]
        elif kind in (
            "committed",
            "failed",
            "lost",
            "stopped",
            "found",
            "elsewhere",
            "enlarged",
            "damaged",
            "returned",
        ):
            self._running.pop(key, None)
        if kind == "failed":
            text = f"failed: {event['label']}: {event['error']}"
            self._failures.append(text)
            if self._live is None:
                self._say(text)
        elif kind in _NEWS:
            self._say(_NEWS[kind].format(**{"label": "", "why": "", "slot": "", **event}))
        elif kind == "run_started" and self._live is None:
            todo = event["tasks"] - event["stored"]
            search = self._plan.sweep.search
            more = f", and what {type(search).__name__} proposes," if search is not None else ""
            self._console.print(f"{todo} tasks to run{more} on {event['slots']} slots", highlight=False)
        if self._live is None and time.monotonic() > self._line_due:
            self._line_due = time.monotonic() + LINE_SECONDS
            self._console.print(self.line(), highlight=False, markup=False)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line(self) -> str:
        """Where the run stands, in one line."""
        if self._graph is None:
            return "starting"
        counts = self._graph.counts
        done = sum(n for s, n in counts.items() if s.final)
        return f"{_duration(time.monotonic() - self._started)}  {done}/{sum(counts.values())} tasks{self._eta()}"

    def _eta(self) -> str:
        assert self._graph is not None
        left = self._graph.unfinished()
        return "" if left is None else f", about {_duration(left / self._slots)} left"

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._graph is None:
            return Text("starting Ray …", style="dim")
        totals: Counter[str] = Counter()
        done: Counter[str] = Counter()
        for key, vertex in list(self._graph.vertices.items()):
            name = self._plan.nodes[key].name
            totals[name] += 1
            done[name] += vertex.state.final
        table = Table.grid(padding=(0, 2))
        for name, total in totals.items():
            table.add_row(name, ProgressBar(total, done[name], width=30), f"{done[name]}/{total}")
        running = [Text(f"  {label}", style="dim", no_wrap=True, overflow="ellipsis") for label in self._working()]
        failures = [Text(f"  {text}", style="red", no_wrap=True, overflow="ellipsis") for text in self._failures]
        return Group(Text(self.line(), style="bold"), table, *running, *failures)

    def _working(self) -> list[str]:
        """Labels of some tasks handed to workers (a bundle's first is the one at work)."""
        return list(self._running.values())[:4]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
