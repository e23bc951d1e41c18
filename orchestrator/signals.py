"""Ctrl-C and SIGTERM: a first asks a run to end, a second ends it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED = "Interrupted."

GRACE = 20.0
"""Seconds that running tasks have to save themselves when a run is to end early."""


class StopSignals:
    """Ctrl-C and SIGTERM: the first asks the run to end, the second, or GRACE seconds, interrupt it.

    As long as there is nobody to ask, the first interrupts too.
    """

    def __init__(self) -> None:
        self._ask: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # not in the main thread (a notebook's, a test's)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def ask(self, ask: Callable[[], None]) -> Iterator[None]:
        """Within, the first signal calls `ask`."""
        self._ask = ask
        try:
            yield
        finally:
            self._ask = None

    def _heard(self, number: int, frame: Any) -> None:
        ask, self._ask = self._ask, None
        if ask is None:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        ask()
