"""Shows a run while it goes on: a screen on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .screen import screen
from .slots import in_words
from .standing import Standing
from .standing_words import summary
from .text import one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

FIRST_SECONDS, LINE_SECONDS = 10.0, 60.0
"""After how long the first line comes where there is no terminal, and each after it."""

QUIET_SECONDS = 600.0
"""After how long a line comes although nothing has changed."""

NEWS_A_MINUTE = 5
"""How many lines of news of a kind are told in a minute; the rest is counted."""

_NEWS = {
    "failed": "failed: {label}: {error}",
    "lost": "lost: {label}: {why}",
    "damaged": "damaged: {label}: {why}",
    "enlarged": "out of memory: {label}: it runs again with {slot}",
    "left_out": "{why}",
    "store_away": "waiting for the store: {why}",
    "store_back": "the store answers again",
    "halted": "ending the run: {why}",
}
"""What is worth a line of its own, by event."""


class Progress:
    """Listens to the events of a run and shows where it stands, as a context.

    A terminal has the screen at its bottom, which goes away at the end, and the news above it. Elsewhere there are
    no escape codes: the news, and a line a minute as long as something happens.

    Args:
        title: what the run is of.
        store: what to add to a command so that it is about the same store.
    """

    def __init__(self, console: Console, *, title: str = "", store: str = "") -> None:
        self.standing = Standing()
        self._console = console
        self._title = title
        self._store = store
        self._lock = threading.Lock()  # events come from one thread, the screen is drawn by another
        self._live: Any = None
        self._note = ""
        self._shown, self._shown_at = 0, time.monotonic()  # how many events the last line told of, and when
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._minute = 0.0
        self._told: Counter[str] = Counter()  # lines of news in this minute, by event

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
            self._live.__enter__()
        else:
            self._thread = threading.Thread(target=self._tell_on, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._end.set()
        if self._live is not None:
            self._live.__exit__(*error)
        if self._thread is not None:
            self._thread.join()
        self._next_minute(0.0)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take in an event that has happened just now (a listener of `events.Events`)."""
        self.catch_up([event])
        name = event["event"]
        if name == "run_started" and self._live is None:
            self._say(self._beginning())
        elif name in _NEWS and not (name == "failed" and self._live is not None):  # the screen has those that failed
            self._next_minute(60.0)
            self._told[name] += 1
            if self._told[name] <= NEWS_A_MINUTE:
                about = {"label": "", "why": "", "error": "", **event, "slot": in_words(event.get("slot") or {})}
                self._say(_NEWS[name].format(**about))

    def catch_up(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events without telling the news."""
        with self._lock:
            for event in events:
                self.standing.feed(event)

    def note(self, text: str) -> None:
        """Show a sentence with the screen until another comes, or "" (elsewhere it is told once)."""
        if text and text != self._note and self._live is None:
            self._say(text)
        self._note = text

    def tell(self) -> None:
        """Where there is no terminal: a line on where the run stands, unless nothing has happened since the last."""
        with self._lock:
            happened = sum(self.standing.counts.values())
        now = time.monotonic()
        if self._live is None and (happened != self._shown or now - self._shown_at >= QUIET_SECONDS):
            self._shown, self._shown_at = happened, now
            self._say(self.summary())

    def summary(self) -> str:
        """Where the run stands, in one line."""
        with self._lock:
            return summary(self.standing, time.time())

    def _beginning(self) -> str:
        standing = self.standing
        more = f", and what {standing.search} proposes," if standing.search else ""
        return f"{standing.total.left} tasks to run{more} on {standing.slots} slots"

    def _next_minute(self, seconds: float) -> None:
        """Once a minute is over, tell of how much news was passed over in it."""
        now = time.monotonic()
        if now - self._minute >= seconds:
            self._minute = now
            for name, number in self._told.items():
                if number > NEWS_A_MINUTE:
                    self._say(f"… and {number - NEWS_A_MINUTE} more {name.replace('_', ' ')}")
            self._told.clear()

    def _say(self, text: str) -> None:
        self._console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)

    def _tell_on(self) -> None:
        pause = FIRST_SECONDS
        while not self._end.wait(pause):
            pause = LINE_SECONDS
            self.tell()

    def _render(self) -> RenderableType:
        with self._lock:
            size = self._console.size
            return screen(
                self.standing,
                time.time(),
                size.width,
                size.height - 1,
                title=self._title,
                store=self._store,
                note=self._note,
            )
